//! Deployments: what is asked for, what becomes of it, and how it is followed. The scorer of these tests ends at once,
//! so that every deployment fails; what succeeds is seen by the end-to-end tests.

use reqwest::Method;
use serde_json::{Value, json};

use crate::place::{Place, names, send};

const BLUE: &str = "online-endpoints/weather/deployments/blue";

async fn with_endpoint() -> Place {
    let place = Place::new().await;
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    place
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_fails_says_why() {
    let place = with_endpoint().await;
    let begun = place.put(BLUE, json!({"model": "azureml:iris@latest", "instance_count": 1})).await;
    let shown = begun.expect(202);
    assert_eq!(shown["name"], "blue");
    assert_eq!(shown["endpoint_name"], "weather");
    assert_eq!(shown["model"], "azureml:iris:1");
    assert_eq!(shown["provisioning_state"], "Creating");
    assert_eq!((&shown["type"], &shown["instance_count"]), (&json!("managed"), &json!(1)));
    assert_eq!(shown["compute_name"], "local");

    let operation = place.ended(&begun).await;
    assert_eq!(operation["state"], "Failed");
    assert_eq!(
        (&operation["kind"], &operation["subject"]),
        (&json!("create_deployment"), &json!("weather/blue"))
    );
    assert!(operation["error"].to_string().contains("no model on this machine"), "{operation}");
    let failed = place.get(BLUE).await.expect(200);
    assert_eq!(failed["provisioning_state"], "Failed");
    assert!(failed["error"]["log"].to_string().contains("no model on this machine"), "{failed}");
    assert_eq!(names(&place.get("online-endpoints/weather/deployments").await.expect(200)), ["blue"]);

    assert_eq!(names(&place.get("deployments").await.expect(200)), ["blue"]);

    assert_eq!(operation["phases"][0]["name"], "resolve", "{operation}");
    let of_blue = place.get("operations?subject=Weather/Blue&limit=1").await.expect(200);
    assert_eq!(of_blue["value"][0]["id"], operation["id"]);
    let of_nothing = place.get("operations?subject=weather/green").await.expect(200);
    assert_eq!(of_nothing["value"], json!([]));

    let log = place.get(&format!("{BLUE}/logs?tail=5")).await;
    assert_eq!(log.status, 200);
    assert!(log.header("content-type").starts_with("text/plain"));
    place.get(&format!("{BLUE}/logs?tail=x")).await.problem(400, "invalid_input");

    let location = begun.header("operation-location").to_owned();
    let events = place.get(&format!("{location}/events")).await;
    assert_eq!(events.header("content-type"), "text/event-stream");
    let data = |name: &str| -> Vec<Value> {
        let after = format!("event: {name}\ndata: ");
        let found = events.text.split("\n\n").filter_map(|event| event.strip_prefix(&after));
        found.map(|data| serde_json::from_str(data).unwrap()).collect()
    };
    assert_eq!(data("done").len(), 1, "{}", events.text);
    assert_eq!(data("done")[0]["state"], "Failed");
    assert!(!data("phase").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_followed_while_it_runs() {
    let place = with_endpoint().await;
    let begun = place.put(BLUE, json!({"model": "azureml:iris:1"})).await;
    let events = place.get(&format!("{}/events", begun.header("operation-location"))).await;
    assert!(events.text.contains("event: done\ndata: "), "{}", events.text);
    let elsewhere = begun.header("operation-location").replace("/default/", "/other/");
    place.post("/api/v1/workspaces", json!({"name": "other"})).await.expect(201);
    place.get(&elsewhere).await.problem(404, "not_found");
    place.get("operations/none").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resolved_is_refused_and_nothing_is_stored() {
    let place = with_endpoint().await;
    for (body, status, class) in [
        (json!({"model": "azureml:unknown:1"}), 404, "not_found"),
        (json!({"model": "azureml:iris:7"}), 404, "not_found"),
        (json!({"model": "iris"}), 400, "invalid_input"),
        (json!({"model": "azureml:iris:1", "instance_cout": 1}), 400, "invalid_input"),
        (json!({"model": "azureml:iris:1", "instance_count": -1}), 400, "invalid_input"),
        (json!({"model": "azureml:iris:1", "endpoint_name": "rain"}), 400, "invalid_input"),
        (json!({"model": "azureml:iris:1", "name": "green"}), 400, "invalid_input"),
        (json!({}), 400, "invalid_input"),
    ] {
        place.put(BLUE, body).await.problem(status, class);
    }
    let on = format!("{BLUE}?compute=nowhere");
    place.put(&on, json!({"model": "azureml:iris:1"})).await.problem(404, "not_found");
    let nowhere = "online-endpoints/rain/deployments/blue";
    place.put(nowhere, json!({"model": "azureml:iris:1"})).await.problem(404, "not_found");
    place.get(nowhere).await.problem(404, "not_found");
    place.put("computes/fleet", json!({"type": "edge", "condition": "true"})).await.expect(201);
    let on = format!("{BLUE}?compute=fleet");
    // This server has no hub.
    place.put(&on, json!({"model": "azureml:iris:1"})).await.problem(503, "unavailable");
    place.put("computes/board", json!({"type": "fpga"})).await.expect(201);
    let on = format!("{BLUE}?compute=board");
    place.put(&on, json!({"model": "azureml:iris:1"})).await.problem(400, "invalid_input");
    place.get(BLUE).await.problem(404, "not_found");
    place.patch(BLUE, json!({"instance_count": 2})).await.problem(404, "not_found");
    place.delete(BLUE).await.problem(404, "not_found");
    place.get(&format!("{BLUE}/logs")).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_and_stores_nothing() {
    let place = with_endpoint().await;
    place.put("secrets/db", json!({"value": "s3cret"})).await.expect(200);
    let body = json!({"model": "azureml:iris@latest", "environment_variables": {"DB": "secret:db"}});
    let answer = place.put(&format!("{BLUE}?dry_run=true"), body).await;
    let shown = answer.expect(200);
    assert!(!shown["documents"].as_array().unwrap().is_empty());
    assert_eq!(shown["deployment"]["model"], "azureml:iris:1");
    assert!(!answer.text.contains("s3cret"));
    place.get(BLUE).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_follow_one_another() {
    let place = with_endpoint().await;
    let body = json!({"model": "azureml:iris:1"});
    let first = place.put(BLUE, body.clone()).await;
    first.expect(202);
    let create = place.request(Method::PUT, BLUE).header("if-none-match", "*").json(&body);
    send(create).await.problem(409, "conflict");
    let second = place.patch(BLUE, json!({"instance_count": 2})).await;
    let shown = second.expect(202);
    assert_eq!((&shown["instance_count"], &shown["generation"]), (&json!(2), &json!(2)));
    let superseded = place.ended(&first).await;
    assert_ne!(superseded["state"], "Succeeded");
    assert_eq!(place.ended(&second).await["kind"], "update_deployment");
    let stale =
        place.request(Method::PATCH, BLUE).header("if-match", "\"1\"").json(&json!({"instance_count": 3}));
    send(stale).await.problem(409, "conflict");
    // What was shown can be changed and sent back.
    let mut edited = place.get(BLUE).await.expect(200);
    edited["instance_count"] = 1.into();
    place.put(BLUE, edited).await.expect(202);
    let deleted = place.delete(BLUE).await;
    assert_eq!(deleted.expect(202)["provisioning_state"], "Deleting");
    assert_eq!(place.ended(&deleted).await["state"], "Succeeded");
    place.get(BLUE).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_leave_one_of_them() {
    let place = with_endpoint().await;
    let puts =
        (1..=8).map(|count| place.put(BLUE, json!({"model": "azureml:iris:1", "instance_count": count})));
    for answer in futures_util::future::join_all(puts).await {
        answer.expect(202);
    }
    let shown = place.get(BLUE).await.expect(200);
    assert_eq!(shown["generation"], 8);
    assert!((1..=8).contains(&shown["instance_count"].as_u64().unwrap()));
}
