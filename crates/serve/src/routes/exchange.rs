//! One scoring request seen from the side: what is counted, timed and traced about it, whatever its protocol, and how
//! its answer leaves.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use moorline_core::{ErrorClass, Tensors, trace_id};
use moorline_observe::{Span, SpanKind};

use super::{
    compress::{Encoding, compress},
    ids::RequestIds,
};
use crate::{
    app::App,
    collection::Collecting,
    metrics::Protocol,
    problem::{Dialect, Problem, RUN_FUNCTION_FAILED, run_function_failed},
    sessions::{Scored, Sessions},
};

const RUN_EXEC_MS: HeaderName = HeaderName::from_static("x-ms-run-fn-exec-ms");

/// An answer in full, before compression.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Self { status: StatusCode::OK, headers, body: body.into() }
    }

    /// Says how the user's function fared, where that is for us to say.
    pub(crate) fn run(mut self, failed: Option<bool>, run_time: Option<Duration>) -> Self {
        if let Some(failed) = failed {
            self.headers.insert(RUN_FUNCTION_FAILED, run_function_failed(failed));
        }
        if let Some(time) = run_time {
            let text = format!("{:.3}", time.as_secs_f64() * 1000.0);
            self.headers.insert(RUN_EXEC_MS, text.parse().unwrap_or(HeaderValue::from_static("0.000")));
        }
        self
    }
}

/// A request in flight. Dropped without an answer, it counts as cancelled by its caller.
#[derive(Debug)]
pub(crate) struct Exchange {
    app: Arc<App>,
    protocol: Protocol,
    started: Instant,
    request_id: String,
    accept: Encoding,
    span: Option<Span>,
    /// The trace that it belongs to, where somebody said so.
    trace_id: Option<String>,
    collecting: Option<Collecting>,
    answered: bool,
}

impl Exchange {
    pub(crate) fn begin(
        app: &Arc<App>,
        protocol: Protocol,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Self {
        app.metrics().in_flight.inc();
        let request_id = extensions.get::<RequestIds>().map_or_else(String::new, RequestIds::request_id);
        let accept = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
        let span = app.tracing().map(|tracing| tracing.serve(protocol.as_str(), headers));
        if let Some(span) = span.as_ref().filter(|span| span.is_recording()) {
            span.set("moorline.request_id", request_id.clone());
        }
        Self {
            protocol,
            trace_id: match &span {
                Some(span) => Some(span.trace_id()),
                None => traceparent(headers).and_then(trace_id).map(str::to_owned),
            },
            started: Instant::now(),
            accept: accept.map_or(Encoding::Identity, Encoding::accepted),
            span,
            collecting: app.recorder().and_then(|recorder| recorder.sample(&request_id)),
            request_id,
            answered: false,
            app: Arc::clone(app),
        }
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.request_id
    }

    /// Keeps what was asked, where that is collected.
    pub(crate) fn received(&self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &Bytes) {
        if let Some(collecting) = &self.collecting {
            collecting.request(method, uri, headers, body);
        }
    }

    /// When the caller's answer is due, where a deadline is set.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.app.config().request_timeout.map(|timeout| self.started + timeout)
    }

    /// The span of what is done in a worker of the script, which the script may go on from.
    pub(crate) fn script_span(&self) -> Option<Span> {
        self.span.as_ref().and_then(|span| span.child("script", SpanKind::Internal))
    }

    /// What the script passes on: our span, or what the caller sent.
    pub(crate) fn traceparent(&self, script: Option<&Span>, headers: &HeaderMap) -> Option<String> {
        match script.or(self.span.as_ref()) {
            Some(span) => Some(span.traceparent()),
            None => traceparent(headers).map(str::to_owned),
        }
    }

    /// Runs decoded inputs: a place among the running ones, a session, and the answer by the deadline.
    pub(crate) async fn run(&self, sessions: &Sessions, inputs: Tensors) -> Result<Scored, Problem> {
        if let Some(collecting) = &self.collecting {
            collecting.inputs(&inputs);
        }
        let admitted = Instant::now();
        let permit = self.app.admission().admit(self.deadline()).await?;
        let scored = sessions.run(inputs, self.deadline()).await.map_err(|problem| {
            match (problem.class, self.app.config().request_timeout) {
                (ErrorClass::Timeout, Some(limit)) => Problem::timeout(limit),
                _ => problem,
            }
        })?;
        drop(permit);
        if let Some(span) = &self.span {
            span.past("queue", admitted, scored.started);
            span.past("inference", scored.started, scored.started + scored.run_time);
        }
        if let Some(collecting) = &self.collecting {
            collecting.outputs(&scored.outputs);
        }
        Ok(scored)
    }

    /// Sends the answer, or the problem in the protocol's dialect.
    pub(crate) async fn finish(mut self, result: Result<Answer, Problem>, dialect: Dialect) -> Response {
        let response = match result {
            Ok(Answer { status, mut headers, mut body }) => {
                if let Some(collecting) = &self.collecting {
                    collecting.response(status.as_u16(), headers.get(header::CONTENT_TYPE), &body);
                }
                if self.accept != Encoding::Identity
                    && !headers.contains_key(header::CONTENT_ENCODING)
                    && let Some(small) = compress(self.accept, &body).await
                    && let Some(name) = self.accept.header()
                {
                    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(name));
                    headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
                    headers.remove(header::CONTENT_LENGTH);
                    body = small;
                }
                self.app.metrics().response_bytes.inc_by(body.len() as u64);
                let mut response = Response::new(Body::from(body));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                response
            }
            Err(problem) => {
                self.log(&problem);
                if let Some(collecting) = &self.collecting {
                    let message = Bytes::copy_from_slice(problem.message.as_bytes());
                    collecting.response(problem.status().as_u16(), None, &message);
                }
                problem.response(dialect)
            }
        };
        self.close(response.status().as_u16());
        response
    }

    /// Ends an exchange whose answer another codec sends (gRPC), under the equivalent HTTP status.
    pub(crate) fn finish_elsewhere(mut self, problem: Option<&Problem>) {
        if let Some(problem) = problem {
            self.log(problem);
        }
        self.close(problem.map_or(200, |problem| problem.status().as_u16()));
    }

    fn log(&self, problem: &Problem) {
        let Problem { class, message, .. } = problem;
        let (request_id, trace_id) = (&*self.request_id, self.trace_id.as_deref());
        let (protocol, status) = (self.protocol.as_str(), problem.status().as_u16());
        if problem.status().is_server_error() {
            tracing::warn!(
                request_id,
                trace_id,
                protocol,
                status,
                class = class.as_str(),
                reason = message,
                "request failed"
            );
        } else {
            tracing::debug!(
                request_id,
                trace_id,
                protocol,
                status,
                class = class.as_str(),
                reason = message,
                "request refused"
            );
        }
    }

    fn close(&mut self, status: u16) {
        self.answered = true;
        let duration = self.started.elapsed();
        self.app.metrics().record_request(self.protocol, status, duration);
        // A target of its own, so that these lines are chosen by themselves.
        tracing::info!(
            target: "requests",
            request_id = self.request_id,
            trace_id = self.trace_id,
            protocol = self.protocol.as_str(),
            status,
            micros = duration.as_micros() as u64,
            "request answered"
        );
        if let Some(span) = self.span.take() {
            span.answered(status);
        }
    }
}

fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get("traceparent").and_then(|value| value.to_str().ok())
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.answered {
            self.close(Problem::new(ErrorClass::Cancelled, "").status().as_u16());
        }
        self.app.metrics().in_flight.dec();
    }
}
