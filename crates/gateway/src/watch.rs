//! What is seen of a request from the side: its span and its line in the access log. Where neither is wanted, nothing is
//! kept of it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Body as _, Frame, SizeHint};
use jiff::Timestamp;
use moorline_observe::{Lines, Span, SpanKind, Tracing};
use serde::{Serialize, Serializer};

use crate::{
    body::{Passage, Received, RequestBody},
    config::Observation,
    deployment::Deployment,
    headers,
    metrics::Metrics,
    route::ReplicaRoute,
};

/// Of what callers make up, a line has no more letters than this.
const LONGEST_PATH: usize = 1024;
const LONGEST_NAME: usize = 255;
const LONGEST_METHOD: usize = 32;
/// What proxies log for a caller that left.
const LEFT: u16 = 499;

/// Where what is seen goes.
#[derive(Debug)]
pub(crate) struct Observer {
    tracing: Option<Tracing>,
    lines: Option<Lines<Line>>,
}

/// One request. It is said what was seen when this is dropped: once the answer has passed, or the caller has left.
#[derive(Debug)]
pub(crate) struct Watch(Option<Box<Seen>>);

#[derive(Debug)]
struct Seen {
    observer: Arc<Observer>,
    span: Option<Span>,
    line: Option<Line>,
    method: &'static str,
    begun: Instant,
    /// For a mirror: nobody gets its answer.
    is_copy: bool,
    status: u16,
    attempts: u32,
    bytes_in: u64,
    passage: Option<Arc<Passage>>,
    bytes_out: u64,
    /// The answer broke off.
    broken: bool,
}

/// One line of the access log.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    /// When the request arrived.
    time: Timestamp,
    #[serde(serialize_with = "header_text")]
    request_id: HeaderValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    endpoint: Box<str>,
    #[serde(serialize_with = "deployment_name", skip_serializing_if = "Option::is_none")]
    deployment: Option<Arc<Deployment>>,
    #[serde(serialize_with = "method_name")]
    method: Method,
    path: Box<str>,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    ms: f64,
    /// How often it was sent to a replica.
    attempts: u32,
    /// Whether the answer broke off.
    #[serde(skip_serializing_if = "is_false")]
    broken: bool,
}

/// One try to send a request to a replica.
#[derive(Debug)]
pub(crate) struct Attempt(Option<Span>);

/// An answer's body, and what is said when it has passed.
struct Watched {
    body: Body,
    /// There is none, whatever the head says of it.
    bodiless: bool,
    watch: Watch,
}

impl Observer {
    pub(crate) fn new(observation: Observation, metrics: &Metrics) -> io::Result<Arc<Self>> {
        let Observation { tracing, access_log } = observation;
        let lost = metrics.access_lines_lost.clone();
        let lines = access_log.map(|sink| Lines::start(sink, Box::new(move |lines| lost.inc_by(lines))));
        Ok(Arc::new(Self { tracing, lines: lines.transpose()? }))
    }

    /// Begins to watch a request that has an id.
    pub(crate) fn begin(self: &Arc<Self>, endpoint: &str, target: &str, request: &Request<Body>) -> Watch {
        if self.tracing.is_none() && self.lines.is_none() {
            return Watch(None);
        }
        let path = cut(target.split('?').next().unwrap_or_default(), LONGEST_PATH);
        let id = request.headers().get(headers::REQUEST_ID).filter(|id| id.len() <= headers::MAX_REQUEST_ID);
        let id = id.cloned().unwrap_or_else(|| HeaderValue::from_static(""));
        let endpoint = cut(endpoint, LONGEST_NAME);
        let method = known_method(request.method());
        let span = self.tracing.as_ref().map(|tracing| {
            let span = tracing.serve(method, request.headers());
            if span.is_recording() {
                span.set("http.request.method", method);
                span.set("url.path", path.to_owned());
                span.set("moorline.endpoint", endpoint.to_owned());
                span.set("moorline.request_id", String::from_utf8_lossy(id.as_bytes()).into_owned());
            }
            span
        });
        let line = self.lines.as_ref().map(|_| Line {
            time: Timestamp::now(),
            request_id: id,
            trace_id: span.as_ref().map(Span::trace_id),
            endpoint: endpoint.into(),
            deployment: None,
            method: request.method().clone(),
            path: path.into(),
            status: LEFT,
            bytes_in: 0,
            bytes_out: 0,
            ms: 0.0,
            attempts: 0,
            broken: false,
        });
        self.watch(method, span, line)
    }

    fn watch(self: &Arc<Self>, method: &'static str, span: Option<Span>, line: Option<Line>) -> Watch {
        Watch(Some(Box::new(Seen {
            observer: Arc::clone(self),
            span,
            line,
            method,
            begun: Instant::now(),
            is_copy: false,
            status: LEFT,
            attempts: 0,
            bytes_in: 0,
            passage: None,
            bytes_out: 0,
            broken: false,
        })))
    }

    pub(crate) fn finish(&self) {
        if let Some(lines) = &self.lines {
            lines.finish();
        }
        if let Some(tracing) = &self.tracing {
            tracing.shutdown();
        }
    }
}

impl Watch {
    fn span(&self) -> Option<&Span> {
        self.0.as_ref().and_then(|seen| seen.span.as_ref())
    }

    pub(crate) fn chosen(&mut self, deployment: &Arc<Deployment>) {
        let Some(seen) = &mut self.0 else { return };
        if let Some(line) = &mut seen.line {
            line.deployment = Some(Arc::clone(deployment));
        }
        if let Some(span) = seen.span.as_ref().filter(|span| span.is_recording()) {
            let id = &deployment.id;
            span.rename(format!("{} {}", seen.method, id.endpoint));
            span.set("moorline.workspace", id.workspace.to_string());
            span.set("moorline.deployment", id.deployment.to_string());
        }
    }

    /// Writes who has it done into the headers of what goes on. A trace that is not recorded is told too: nobody is to
    /// begin another one.
    pub(crate) fn hand_on(&self, headers: &mut HeaderMap) {
        if let Some(span) = self.span() {
            span.write(headers);
        }
    }

    pub(crate) fn received(&mut self, received: &Received) {
        let Some(seen) = &mut self.0 else { return };
        seen.passage.clone_from(&received.passage);
        if let RequestBody::Whole(body) = &received.body {
            seen.bytes_in = body.len() as u64;
        }
    }

    /// Says that it waited since `since`.
    pub(crate) fn waited(&self, name: &'static str, since: Instant) {
        if let Some(span) = self.span() {
            span.past(name, since, Instant::now());
        }
    }

    /// Begins a try to send it to a replica, whose span is the one that the replica is told.
    pub(crate) fn attempt(&mut self, replica: &ReplicaRoute, headers: &mut HeaderMap) -> Attempt {
        let Some(seen) = &mut self.0 else { return Attempt(None) };
        seen.attempts += 1;
        let span = seen.span.as_ref().and_then(|span| span.child("send", SpanKind::Client));
        if let Some(span) = &span {
            span.set("moorline.replica", replica.id.clone());
            span.set("server.address", replica.address.ip().to_string());
            span.set("server.port", i64::from(replica.address.port()));
            if seen.attempts > 1 {
                span.set("http.request.resend_count", i64::from(seen.attempts - 1));
            }
            span.write(headers);
        }
        Attempt(span)
    }

    /// Watches a copy for a mirror: it has a span beside that of the answer, and no line.
    pub(crate) fn of_copy(&self, mirror: &Deployment) -> Self {
        let Some(seen) = &self.0 else { return Self(None) };
        let span = seen.span.as_ref().and_then(|span| span.child("mirror", SpanKind::Internal));
        let Some(span) = span else { return Self(None) };
        span.set("moorline.deployment", mirror.id.deployment.to_string());
        let mut copy = seen.observer.watch(seen.method, Some(span), None);
        if let Some(copy) = &mut copy.0 {
            copy.is_copy = true;
        }
        copy
    }

    /// The answer, which is watched until it has passed.
    pub(crate) fn pass(mut self, response: Response<Body>) -> Response<Body> {
        let Some(seen) = &mut self.0 else { return response };
        seen.status = response.status().as_u16();
        let bodiless = seen.method == "HEAD"
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        response.map(|body| Body::new(Watched { body, bodiless, watch: self }))
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        match self.span.take() {
            Some(span) if !self.is_copy => {
                span.answered(self.status);
                if self.broken {
                    span.fail("the answer broke off");
                }
            }
            _ => {}
        }
        let (Some(mut line), Some(lines)) = (self.line.take(), &self.observer.lines) else { return };
        line.status = self.status;
        line.bytes_in = self.passage.as_ref().map_or(self.bytes_in, |passage| passage.bytes());
        line.bytes_out = self.bytes_out;
        line.ms = (self.begun.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        line.attempts = self.attempts;
        line.broken = self.broken;
        lines.push(line);
    }
}

impl Attempt {
    pub(crate) fn answered(&self, status: StatusCode) {
        if let Some(span) = &self.0 {
            span.answered(status.as_u16());
        }
    }

    pub(crate) fn failed(&self, why: &'static str) {
        if let Some(span) = &self.0 {
            span.fail(why);
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Ready(Some(frame)), Some(seen)) = (&polled, &mut self.watch.0) {
            match frame {
                Ok(frame) => seen.bytes_out += frame.data_ref().map_or(0, Bytes::len) as u64,
                // A body that has failed says that it is at its end.
                Err(_) => seen.broken = true,
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let whole = self.bodiless || self.body.is_end_stream();
        if let Some(seen) = &mut self.watch.0 {
            seen.broken |= !whole;
        }
    }
}

/// A method by its name, as the conventions for spans have it: whatever callers make up has one name.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

fn cut(text: &str, letters: usize) -> &str {
    text.char_indices().nth(letters).map_or(text, |(end, _)| &text[..end])
}

fn header_text<S: Serializer>(value: &HeaderValue, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(value.as_bytes()))
}

#[expect(clippy::ref_option, reason = "what serde calls")]
fn deployment_name<S: Serializer>(
    deployment: &Option<Arc<Deployment>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    deployment.as_ref().map(|deployment| deployment.id.deployment.as_str()).serialize(serializer)
}

fn method_name<S: Serializer>(method: &Method, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(method.as_str(), LONGEST_METHOD))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_false(value: &bool) -> bool {
    !*value
}
