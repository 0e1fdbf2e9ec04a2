//! Traces: W3C trace context in, spans out by OTLP when an endpoint is configured, nothing at all when none is.

use std::time::{Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{Span as _, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use thiserror::Error;

/// Where spans go and how many.
#[derive(Clone, Debug)]
pub struct TraceConfig {
    /// A gRPC collector, `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// The share of traces begun here that are recorded, 0 to 1; a caller's decision is followed.
    pub ratio: f64,
    pub service_name: String,
}

/// Why traces cannot be exported.
#[derive(Debug, Error)]
#[error("could not set up the export of traces to `{endpoint}`")]
pub struct TraceError {
    endpoint: String,
    #[source]
    source: opentelemetry_otlp::ExporterBuildError,
}

/// Makes spans and sends them off the request's path.
#[derive(Debug)]
pub struct Tracing {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// The span of one request, with the parent that the caller sent.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    context: Context,
    started: Instant,
    started_at: SystemTime,
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

impl Tracing {
    /// Connects lazily: a collector that is away costs spans, never requests. Needs a tokio runtime around it.
    pub fn new(config: &TraceConfig) -> Result<Self, TraceError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&config.endpoint)
            .build()
            .map_err(|source| TraceError { endpoint: config.endpoint.clone(), source })?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.ratio))))
            .with_resource(Resource::builder().with_service_name(config.service_name.clone()).build())
            .build();
        let tracer = provider.tracer("moorline-scorer");
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// Sends what is left. Blocks; call it off the runtime's threads.
    pub fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown() {
            tracing::warn!(%error, "not all traces were exported");
        }
    }

    pub(crate) fn start(&self, name: &'static str, headers: &HeaderMap, request_id: &str) -> RequestSpan {
        let parent = self.propagator.extract_with_context(&Context::new(), &Headers(headers));
        let span = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Server)
            .with_attributes([KeyValue::new("moorline.request_id", request_id.to_owned())])
            .start_with_context(&self.tracer, &parent);
        RequestSpan {
            context: parent.with_span(span),
            started: Instant::now(),
            started_at: SystemTime::now(),
        }
    }

    /// A finished child of `span`, from instants that were taken anyway.
    pub(crate) fn child(&self, span: &RequestSpan, name: &'static str, start: Instant, end: Instant) {
        if !span.context.span().is_recording() {
            return;
        }
        let mut child = self
            .tracer
            .span_builder(name)
            .with_kind(SpanKind::Internal)
            .with_start_time(span.at(start))
            .start_with_context(&self.tracer, &span.context);
        child.end_with_timestamp(span.at(end));
    }
}

impl RequestSpan {
    /// The wall clock at `instant`, which is at or after the span's start.
    fn at(&self, instant: Instant) -> SystemTime {
        self.started_at + instant.saturating_duration_since(self.started)
    }

    /// What a callee gets, so that its spans are children of this one.
    pub(crate) fn traceparent(&self) -> String {
        let span = self.context.span();
        let own = span.span_context();
        format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8())
    }

    pub(crate) fn finish(self, status: u16) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}
