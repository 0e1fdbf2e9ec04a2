//! What is seen of requests from the side: lines and spans of what was answered, refused, tried again and copied.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use axum::body::Body;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use moorline_gateway::{EndpointRoute, GatewayConfig, Observation};
use moorline_observe::{TraceConfig, Tracing};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::harness::{Front, Server, counting, deployment, endpoint, keys, name, nowhere, post, until};

#[derive(Clone, Debug, Default)]
struct Spans(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Spans {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A front, and what is seen at it.
struct Seen {
    front: Front,
    spans: Spans,
    written: Written,
}

impl Seen {
    async fn new() -> Self {
        let (spans, written) = (Spans::default(), Written::default());
        let config = TraceConfig { endpoint: String::new(), ratio: 1.0, service_name: "tested".to_owned() };
        let observation = Observation {
            tracing: Some(Tracing::to(spans.clone(), &config)),
            access_log: Some(Box::new(written.clone())),
        };
        Self { front: Front::observed(GatewayConfig::default(), observation).await, spans, written }
    }

    /// The lines and the spans of all requests until now, which are the last ones.
    async fn all(&self) -> (Vec<Value>, Vec<SpanData>) {
        let gateway = self.front.gateway.clone();
        tokio::task::spawn_blocking(move || gateway.finish_observation()).await.unwrap();
        let text = String::from_utf8(self.written.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines, self.spans.0.lock().unwrap().clone())
    }
}

fn attributes(span: &SpanData) -> BTreeMap<String, String> {
    span.attributes.iter().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect()
}

#[tokio::test]
async fn a_retry_is_a_span_of_its_own_and_counted_in_the_line() {
    let seen = Seen::new().await;
    let (replica, _) = counting("blue").await;
    let route = deployment("blue", &[nowhere().await, replica.address]);
    seen.front.gateway.set(endpoint(vec![route]));
    // They take turns: one of two is sent to nobody first.
    for _ in 0..2 {
        assert_eq!(seen.front.score().await.text(), "blue");
    }
    let (lines, spans) = seen.all().await;
    let tries: Vec<&Value> = lines.iter().map(|line| &line["attempts"]).collect();
    assert!(tries.contains(&&json!(2)), "{lines:?}");
    let failed = spans
        .iter()
        .find(|span| span.name == "send" && !attributes(span).contains_key("http.response.status_code"));
    let failed = failed.unwrap_or_else(|| panic!("no try that failed: {spans:?}"));
    assert!(format!("{:?}", failed.status).contains("could not be reached"), "{:?}", failed.status);
    let again = spans.iter().find(|span| attributes(span).contains_key("http.request.resend_count")).unwrap();
    assert_eq!(again.parent_span_id, failed.parent_span_id);
    assert_eq!(attributes(again)["moorline.replica"], replica.address.to_string());
    let request = spans.iter().find(|span| span.span_context.span_id() == again.parent_span_id).unwrap();
    assert_eq!(request.name, "POST iris");
    assert_eq!(attributes(request)["http.response.status_code"], "200");
}

#[tokio::test]
async fn what_is_refused_and_who_leaves_has_a_line() {
    let seen = Seen::new().await;
    let (replica, _) = counting("blue").await;
    let route = endpoint(vec![deployment("blue", &[replica.address])]);
    seen.front.gateway.set(EndpointRoute { auth: keys(), ..route.clone() });
    assert_eq!(seen.front.score().await.status, 401);
    let long = format!("/endpoints/{}/{}?secret", "x".repeat(3000), "y".repeat(3000));
    let request = Request::builder().method("BREW").uri(long).header("host", "front");
    assert_eq!(seen.front.ask(request.body(Body::empty()).unwrap()).await.status, 404);
    let silent = Server::start(async |_| std::future::pending::<Response<Body>>().await).await;
    let route =
        EndpointRoute { name: name("silent"), ..endpoint(vec![deployment("green", &[silent.address])]) };
    seen.front.gateway.set(route);
    let front = seen.front.server.address;
    let leaving =
        tokio::spawn(async move { crate::harness::ask(front, post("/endpoints/silent/score", "xyz")).await });
    let busy = r#"moorline_gateway_requests_in_flight{deployment="green",endpoint="silent"} 1"#;
    until("the request is at the gateway", || seen.front.metrics().contains(busy)).await;
    leaving.abort();
    let idle = r#"moorline_gateway_requests_in_flight{deployment="green",endpoint="silent"} 0"#;
    until("the gateway has seen that its caller left", || seen.front.metrics().contains(idle)).await;

    let (lines, spans) = seen.all().await;
    let of = |status: u16| {
        lines.iter().find(|line| line["status"] == status).unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert_eq!(
        (&of(401)["endpoint"], &of(401)["attempts"], of(401).get("deployment")),
        (&json!("iris"), &json!(0), None)
    );
    assert_eq!(of(404)["endpoint"].as_str().unwrap().len(), 255);
    assert_eq!(of(404)["path"].as_str().unwrap().len(), 1024);
    assert_eq!((&of(499)["deployment"], &of(499)["bytes_in"]), (&json!("green"), &json!(3)));
    for line in &lines {
        assert_eq!(line["trace_id"].as_str().unwrap().len(), 32);
        assert_eq!(line["request_id"].as_str().unwrap().len(), 36);
    }
    // Names of spans are few, whatever callers make up.
    let names: Vec<&str> = spans.iter().map(|span| &*span.name).collect();
    assert!(names.iter().all(|name| ["POST", "_OTHER", "POST iris", "send"].contains(name)), "{names:?}");
}

#[tokio::test]
async fn a_long_answer_is_counted_to_its_end_and_one_that_breaks_off_is_said() {
    let seen = Seen::new().await;
    let long = Server::start(async |request: Request<Body>| {
        let read = request.into_body().collect().await.unwrap().to_bytes();
        Response::new(Body::from(vec![7; 3 * read.len()]))
    })
    .await;
    seen.front.gateway.set(endpoint(vec![deployment("blue", &[long.address])]));
    let answer = seen.front.ask(post("/endpoints/iris/score", vec![1; 1 << 20])).await;
    assert_eq!(answer.body.len(), 3 << 20);
    let breaks = Arc::new(Notify::new());
    let told = Arc::clone(&breaks);
    let broken = Server::start(move |_| {
        let told = Arc::clone(&told);
        let end = async move {
            told.notified().await;
            Err(io::Error::other("broken"))
        };
        let parts = stream::iter([Ok("begun")]).chain(stream::once(end));
        async { Response::new(Body::from_stream(parts)) }
    })
    .await;
    let route =
        EndpointRoute { name: name("broken"), ..endpoint(vec![deployment("green", &[broken.address])]) };
    seen.front.gateway.set(route);
    let mut sender = crate::harness::connect(seen.front.server.address).await;
    let mut answer = sender.send_request(post("/endpoints/broken/score", "x")).await.unwrap().into_body();
    assert!(answer.frame().await.unwrap().is_ok());
    breaks.notify_one();
    assert!(answer.collect().await.is_err());
    let (lines, _) = seen.all().await;
    let of = |endpoint: &str| {
        lines.iter().find(|line| line["endpoint"] == endpoint).unwrap_or_else(|| panic!("{lines:?}"))
    };
    assert_eq!((&of("iris")["bytes_in"], &of("iris")["bytes_out"]), (&json!(1 << 20), &json!(3 << 20)));
    assert_eq!((of("iris").get("broken"), &of("broken")["broken"]), (None, &json!(true)));
}
