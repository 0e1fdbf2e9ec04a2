//! The target against an API server that says what real ones say on bad days: conflicts, watches that break and are too
//! old, objects that are refused half-way.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use moorline_core::{ErrorClass, Phase, Target};
use moorline_testkit::{TestRelease, deployment};
use serde_json::{Value, json};
use tower::service_fn;

use super::{KubernetesConfig, KubernetesTarget, cluster::Cluster, served::Served};

const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request as it came.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    query: String,
}

/// An API server that keeps what is applied, and says something else where it was told to.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    seen: Vec<Seen>,
    objects: Vec<(String, Value)>,
    version: u64,
    /// Status codes for coming writes of objects of a kind: `services`, 409.
    refusals: Vec<(&'static str, VecDeque<u16>)>,
    /// What coming watches of deployments say, before they end.
    watches: VecDeque<Vec<Value>>,
}

impl Recorded {
    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        what(&mut self.0.lock().unwrap())
    }

    fn client(&self) -> Client {
        let own = self.clone();
        let service = service_fn(move |request: Request<Body>| {
            let own = own.clone();
            async move { Ok::<_, Infallible>(own.answer(request).await) }
        });
        Client::new(service, "ml")
    }

    async fn target(&self) -> Arc<KubernetesTarget> {
        let served = Served {
            autoscaling: Some("autoscaling/v2"),
            disruption: Some("policy/v1"),
            ..Served::default()
        };
        let cluster = Cluster { client: self.client(), namespace: "ml".to_owned(), served };
        let config = KubernetesConfig::new("home".to_owned(), super::ClusterAddress::default());
        KubernetesTarget::on(cluster, config, Arc::new(|_| {})).await.unwrap()
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
        let seen = Seen { method: parts.method.clone(), path: path.clone(), query: query.clone() };
        self.with(|inner| inner.seen.push(seen));
        if query.contains("watch=true") {
            return self.watch(&path);
        }
        self.with(|inner| match parts.method {
            Method::GET => inner.list(&path),
            Method::PATCH => inner.patch(&path, &query, &body),
            Method::DELETE => {
                inner.objects.retain(|(own, _)| *own != path);
                said(StatusCode::OK, &json!({"kind": "Status", "status": "Success"}))
            }
            _ => refused(405),
        })
    }

    /// Says what it was told to say and ends; a watch that was told nothing stays open and silent.
    fn watch(&self, path: &str) -> Answer {
        let told =
            if path.ends_with("/deployments") { self.with(|inner| inner.watches.pop_front()) } else { None };
        let Some(events) = told else {
            let silent = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
            return Response::new(StreamBody::new(silent).boxed_unsync());
        };
        let lines = events.iter().map(|event| event.to_string() + "\n").collect::<String>();
        Response::new(Full::from(lines).boxed_unsync())
    }

    fn count(&self, method: &Method, part: &str) -> usize {
        self.with(|inner| {
            inner.seen.iter().filter(|seen| seen.method == *method && seen.path.contains(part)).count()
        })
    }
}

impl Inner {
    fn list(&self, path: &str) -> Answer {
        let prefix = format!("{path}/");
        let mut items: Vec<Value> = self
            .objects
            .iter()
            .filter(|(own, _)| own.starts_with(&prefix))
            .map(|(_, object)| object.clone())
            .collect();
        // As a real one: the list says of what kind its items are.
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.remove("kind");
            item.remove("apiVersion");
        }
        let list = json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": self.version.to_string()}, "items": items});
        said(StatusCode::OK, &list)
    }

    fn patch(&mut self, path: &str, query: &str, body: &[u8]) -> Answer {
        let refusal = self.refusals.iter_mut().find(|(part, _)| path.contains(part));
        if let Some(code) = refusal.and_then(|(_, codes)| codes.pop_front()).filter(|code| *code != 200) {
            return refused(code);
        }
        let mut object: Value = serde_json::from_slice(body).unwrap();
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        object["metadata"]["generation"] = 1.into();
        if !query.contains("dryRun") {
            self.objects.retain(|(own, _)| own != path);
            self.objects.push((path.to_owned(), object.clone()));
        }
        said(StatusCode::OK, &object)
    }
}

fn said(status: StatusCode, body: &Value) -> Answer {
    Response::builder().status(status).body(Full::from(body.to_string()).boxed_unsync()).unwrap()
}

fn refused(code: u16) -> Answer {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "message": format!("it is a bad day ({code})"), "reason": "BadDay",
    });
    said(StatusCode::from_u16(code).unwrap(), &status)
}

fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A release that runs from an image.
fn release(version: u32) -> TestRelease {
    let reference = format!("registry.example.org/double:{version}");
    TestRelease::double(version).with_source(moorline_core::Source::image(reference))
}

async fn eventually(what: &str, mut question: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !question() {
        assert!(Instant::now() < deadline, "{what} never happens");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_deployment_costs_few_writes_and_none_when_nothing_changed() {
    let server = Recorded::default();
    let target = server.target().await;
    let placement = release(1).placement(&deployment("cheap", "blue"), 1);
    target.apply(&placement).await.unwrap();
    let writes = server.count(&Method::PATCH, "");
    assert_eq!(writes, 5, "four objects, and the Deployment's dry run");
    assert_eq!(target.writes(), 5);
    target.apply(&placement).await.unwrap();
    assert_eq!(server.count(&Method::PATCH, ""), writes);
    // As another server finds it.
    let next = server.target().await;
    next.apply(&placement).await.unwrap();
    assert_eq!(server.count(&Method::PATCH, ""), writes);
    assert_eq!(next.observe(&placement.id).await.unwrap().phase, Phase::Progressing);
}

#[tokio::test]
async fn a_conflict_is_tried_again_and_a_refusal_leaves_nothing() {
    let server = Recorded::default();
    let target = server.target().await;
    let placement = release(1).placement(&deployment("refused", "blue"), 1);
    server.with(|inner| inner.refusals = vec![("services/", [409, 409].into())]);
    target.apply(&placement).await.unwrap();
    assert_eq!(server.with(|inner| inner.objects.len()), 4);

    let other = release(1).placement(&deployment("refused", "green"), 1);
    // The dry run succeeds, the Deployment does not.
    server.with(|inner| inner.refusals = vec![("deployments/", [200, 500].into())]);
    let error = target.apply(&other).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unavailable);
    assert!(error.to_string().contains("could not apply Deployment refused-green-"), "{error}");
    assert_eq!(server.with(|inner| inner.objects.len()), 4, "what was made before is gone");
    assert_eq!(target.observe(&other.id).await.unwrap().phase, Phase::Absent);

    // A dry run that is refused makes nothing to begin with.
    let before = server.count(&Method::PATCH, "");
    server.with(|inner| inner.refusals = vec![("deployments/", [422].into())]);
    assert_eq!(target.apply(&other).await.unwrap_err().class, ErrorClass::InvalidInput);
    assert_eq!(server.count(&Method::PATCH, ""), before + 1);
    target.apply(&other).await.unwrap();
    assert_eq!(server.with(|inner| inner.objects.len()), 8);
}

#[tokio::test]
async fn a_watch_that_breaks_or_is_too_old_is_taken_up_again() {
    let server = Recorded::default();
    let placement = release(1).placement(&deployment("watched", "blue"), 1);
    let first = server.target().await;
    first.apply(&placement).await.unwrap();
    first.shutdown();

    let edited = server.with(|inner| {
        let (_, object) = inner.objects.iter().find(|(path, _)| path.contains("/deployments/")).unwrap();
        let mut edited = object.clone();
        edited["spec"]["replicas"] = 7.into();
        edited["metadata"]["resourceVersion"] = "100".into();
        edited
    });
    let bookmark =
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"resourceVersion": "101"}});
    let gone = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired", "message": "too old resource version"});
    server.with(|inner| {
        inner.version = 99;
        inner.watches = [
            // An edit by somebody's hand, and the connection ends.
            vec![event("MODIFIED", &edited), event("BOOKMARK", &bookmark)],
            // Where it is taken up, the version is too old: everything is listed again.
            vec![event("ERROR", &gone)],
        ]
        .into();
    });
    let lists = || {
        server.with(|inner| {
            inner
                .seen
                .iter()
                .filter(|seen| {
                    seen.method == Method::GET
                        && seen.path.ends_with("/deployments")
                        && !seen.query.contains("watch=true")
                })
                .count()
        })
    };
    let before = (server.count(&Method::PATCH, "/deployments/"), lists());
    let target = server.target().await;
    target.apply(&placement).await.unwrap();
    eventually("the edit is undone", || server.count(&Method::PATCH, "/deployments/") > before.0).await;
    eventually("a second list", || lists() >= before.1 + 2).await;
    // From the bookmark on, and not from the edit.
    let resumed = server.with(|inner| {
        inner
            .seen
            .iter()
            .any(|seen| seen.path.ends_with("/deployments") && seen.query.contains("resourceVersion=101"))
    });
    assert!(resumed, "a bookmark was not heeded");
}
