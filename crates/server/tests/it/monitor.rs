//! The monitor over the API: what is asked, what is refused, and what changes as it does.

use std::time::Duration;

use serde_json::{Value, json};

use crate::place::{Place, read};

const METRICS: &str = "online-endpoints/weather/metrics";

async fn with_deployment() -> Place {
    let place = Place::new().await;
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let begun =
        place.put("online-endpoints/weather/deployments/blue", json!({"model": "azureml:iris:1"})).await;
    begun.expect(202);
    // The scorer of this place cannot start.
    assert_eq!(place.ended(&begun).await["state"], "Failed");
    place
}

fn known(answer: &Value) -> usize {
    let points = answer["series"][0]["points"].as_array().into_iter().flatten();
    points.filter(|point| !point[1].is_null()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_is_answered_also_by_the_next_server() {
    let mut place = with_deployment().await;
    let asked = format!("{METRICS}?names=replicas_ready");
    let seen = place.until(&asked, |answer| known(&answer.json()) > 0).await.json();
    let series = seen["series"].as_array().unwrap();
    assert_eq!(series.len(), 1);
    assert_eq!(
        (&series[0]["name"], &series[0]["deployment"], &series[0]["unit"]),
        (&json!("replicas_ready"), &json!("blue"), &json!(""))
    );
    let points = series[0]["points"].as_array().unwrap();
    assert!(points.len() <= 243, "{}", points.len());
    let step = seen["step_seconds"].as_u64().unwrap();
    assert_eq!(points[1][0].as_u64().unwrap() - points[0][0].as_u64().unwrap(), step);
    assert!(points.iter().all(|point| point[1].is_null() || point[1] == 0.0), "{points:?}");
    let metrics = place.get("/metrics").await.text;
    let state = r#"moorline_deployment_state{deployment="blue",endpoint="weather",state="Failed",target="local",workspace="default"} 1"#;
    assert!(metrics.contains(state), "{metrics}");
    assert!(metrics.contains("\nmoorline_monitor_scrapes_total{outcome=\"read\"} 0\n"), "{metrics}");

    place.restart().await;
    assert!(known(&place.get(&asked).await.expect(200)) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_is_told_only_what_is_known() {
    let place = with_deployment().await;
    let targets = place.until("/api/v1/prometheus/targets", |answer| answer.status != 503).await;
    // None of the replicas of this place ever listened.
    assert_eq!(targets.expect(200), json!([]));
    place.get("online-endpoints/weather/deployments/blue/replicas/0/metrics").await.problem(404, "not_found");
    place.get("online-endpoints/rain/deployments/blue/replicas/0/metrics").await.problem(404, "not_found");
    let long = "x".repeat(300);
    let long = format!("online-endpoints/weather/deployments/blue/replicas/{long}/metrics");
    place.get(&long).await.problem(400, "invalid_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_in_words() {
    let place = with_deployment().await;
    let all = place.get(METRICS).await.expect(200);
    let mut names: Vec<&str> =
        all["series"].as_array().unwrap().iter().map(|series| series["name"].as_str().unwrap()).collect();
    for name in [
        "request_rate",
        "error_rate",
        "latency_p50",
        "latency_p90",
        "latency_p99",
        "in_flight",
        "replicas_ready",
        "cpu",
        "memory",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    names.dedup();
    assert_eq!(names.len(), all["series"].as_array().unwrap().len());
    for (query, word) in [
        ("from=x", "from"),
        ("from=-5", "from"),
        ("from=200&to=100", "before"),
        ("from=100&to=100", "before"),
        ("step=0", "step"),
        ("names=request_rates", "request_rates"),
        ("deployment=..%2Fblue", "name"),
    ] {
        let problem = place.get(&format!("{METRICS}?{query}")).await.problem(400, "invalid_input");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{query}: {problem}");
    }
    let month = place.get(&format!("{METRICS}?from=0&step=1&names=cpu")).await.expect(200);
    assert!(month["series"][0]["points"].as_array().unwrap().len() <= 1002);
    place.get(&format!("{METRICS}?deployment=green")).await.problem(404, "not_found");
    place.get("online-endpoints/rain/metrics").await.problem(404, "not_found");
    assert_eq!(known(&place.get(&format!("{METRICS}?deployment=BLUE&from=5&to=10")).await.expect(200)), 0);
}

/// The data of events as they come, until one is as it should be.
async fn told(response: &mut reqwest::Response, last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut text = String::new();
    let mut seen = Vec::new();
    let follow = async {
        while let Some(piece) = response.chunk().await.unwrap() {
            text.push_str(std::str::from_utf8(&piece).unwrap());
            while let Some((event, rest)) = text.split_once("\n\n") {
                if let Some(data) = event.strip_prefix("data: ") {
                    seen.push(serde_json::from_str(data).unwrap());
                }
                text = rest.to_owned();
            }
            if seen.last().is_some_and(&last) {
                return;
            }
        }
        panic!("the stream ended after {seen:?}");
    };
    tokio::time::timeout(Duration::from_mins(1), follow).await.unwrap();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_told_to_its_workspace() {
    let place = Place::new().await;
    place.post("/api/v1/workspaces", json!({"name": "other"})).await.expect(201);
    let mut events = place.request(reqwest::Method::GET, "events").send().await.unwrap();
    assert_eq!(events.headers()["content-type"], "text/event-stream");
    place.put("/api/v1/workspaces/other/online-endpoints/elsewhere", json!({})).await.expect(201);
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let blue = "online-endpoints/weather/deployments/blue";
    place.put(blue, json!({"model": "azureml:iris:1"})).await.expect(202);
    let seen = told(&mut events, |event| event["kind"] == "deployment").await;
    let deployment = json!({"kind": "deployment", "name": "blue", "endpoint": "weather", "generation": 1});
    assert_eq!(seen.last(), Some(&deployment));
    for event in [
        json!({"kind": "model", "name": "iris"}),
        json!({"kind": "endpoint", "name": "weather", "generation": 1}),
    ] {
        assert!(seen.contains(&event), "{event} is not in {seen:?}");
    }
    assert!(seen.iter().all(|event| event["name"] != "elsewhere"), "{seen:?}");
    // What is gone has no generation.
    let deleted = place.delete(blue).await;
    deleted.expect(202);
    told(&mut events, |event| *event == json!({"kind": "deployment", "name": "blue", "endpoint": "weather"}))
        .await;
    place.get("/api/v1/workspaces/nowhere/events").await.problem(404, "not_found");
    // A server that stops is not held by those who listen.
    place.stop().await;
    let rest = read(events).await;
    assert!(!rest.text.contains("elsewhere"), "{rest:?}");
}
