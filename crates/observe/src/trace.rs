//! Traces: W3C trace context in and out, spans to a collector by OTLP. Where no collector is named there is no [`Tracing`],
//! and nothing is done.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue, Value,
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

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Where spans go and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceConfig {
    /// A gRPC collector, `http://127.0.0.1:4317`.
    pub endpoint: String,
    /// The share of traces begun here that are recorded, 0 to 1; a caller's decision is followed.
    pub ratio: f64,
    pub service_name: String,
}

impl TraceConfig {
    /// The variable that names the collector.
    pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    /// The variable that holds the share.
    pub const RATIO: &str = "OTEL_TRACES_SAMPLER_ARG";

    /// Reads a share.
    pub fn parse_ratio(text: &str) -> Result<f64, String> {
        let ratio: Option<f64> = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.ok_or_else(|| "it is a number from 0 to 1".to_owned())
    }
}

/// Why traces cannot be exported.
#[derive(Debug, Error)]
#[error("could not set up the export of traces to `{endpoint}`")]
pub struct TraceError {
    endpoint: String,
    #[source]
    source: opentelemetry_otlp::ExporterBuildError,
}

/// Makes spans and sends them off the requests' way. Clones are the same.
#[derive(Clone, Debug)]
pub struct Tracing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

/// Some work, and who had it done. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    tracing: Tracing,
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
        self.0.keys().map(HeaderName::as_str).collect()
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
        Ok(Self::to(exporter, config))
    }

    /// The same to another exporter.
    pub fn to(exporter: impl opentelemetry_sdk::trace::SpanExporter + 'static, config: &TraceConfig) -> Self {
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.ratio))))
            .with_resource(Resource::builder().with_service_name(config.service_name.clone()).build())
            .build();
        let tracer = provider.tracer("moorline");
        Self(Arc::new(Inner { provider, tracer, propagator: TraceContextPropagator::new() }))
    }

    /// Sends what is left. Blocks; call it off the runtime's threads.
    pub fn shutdown(&self) {
        if let Err(error) = self.0.provider.shutdown() {
            tracing::warn!(%error, "not all traces were exported");
        }
    }

    /// The span of a request that came with `headers`, under the one that they name.
    pub fn serve(&self, name: impl Into<Cow<'static, str>>, headers: &HeaderMap) -> Span {
        let parent = self.0.propagator.extract_with_context(&Context::new(), &Headers(headers));
        self.span(name.into(), SpanKind::Server, &parent)
    }

    fn span(&self, name: Cow<'static, str>, kind: SpanKind, parent: &Context) -> Span {
        let (started, started_at) = (Instant::now(), SystemTime::now());
        let builder = self.0.tracer.span_builder(name).with_kind(kind).with_start_time(started_at);
        let context = parent.with_span(builder.start_with_context(&self.0.tracer, parent));
        Span { tracing: self.clone(), context, started, started_at }
    }
}

impl Span {
    /// Whether anything of it is kept.
    pub fn is_recording(&self) -> bool {
        self.context.span().is_recording()
    }

    /// A part of this work that begins now; `None` where nothing of it is kept.
    pub fn child(&self, name: &'static str, kind: SpanKind) -> Option<Self> {
        self.is_recording().then(|| self.tracing.span(name.into(), kind, &self.context))
    }

    /// A part of this work that is over, from instants that were taken anyway.
    pub fn past(&self, name: &'static str, start: Instant, end: Instant) {
        if !self.is_recording() {
            return;
        }
        let tracer = &self.tracing.0.tracer;
        let builder = tracer.span_builder(name).with_kind(SpanKind::Internal).with_start_time(self.at(start));
        let mut part = builder.start_with_context(tracer, &self.context);
        part.end_with_timestamp(self.at(end));
    }

    pub fn rename(&self, name: String) {
        self.context.span().update_name(name);
    }

    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        self.context.span().set_attribute(KeyValue::new(name, value));
    }

    /// Records the answer's status; one of 500 and more is an error.
    pub fn answered(&self, status: u16) {
        self.set("http.response.status_code", i64::from(status));
        if status >= 500 {
            self.fail("");
        }
    }

    pub fn fail(&self, why: &'static str) {
        self.context.span().set_status(Status::error(why));
    }

    /// What a callee gets, so that its spans are under this one.
    pub fn traceparent(&self) -> String {
        let span = self.context.span();
        let own = span.span_context();
        format!("00-{}-{}-{:02x}", own.trace_id(), own.span_id(), own.trace_flags().to_u8())
    }

    /// Writes it into the headers of a request; `tracestate` stays as it came.
    pub fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.traceparent()) {
            headers.insert(TRACEPARENT, value);
        }
    }

    /// The trace, as `traceparent` has it.
    pub fn trace_id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }

    /// The wall clock at `instant`, which is at or after the span's start.
    fn at(&self, instant: Instant) -> SystemTime {
        self.started_at + instant.saturating_duration_since(self.started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_from_none_to_all() {
        assert_eq!(TraceConfig::parse_ratio("0.01"), Ok(0.01));
        for wrong in ["", "-0.1", "1.5", "NaN", "half"] {
            assert!(TraceConfig::parse_ratio(wrong).is_err(), "{wrong}");
        }
    }
}
