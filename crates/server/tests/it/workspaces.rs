//! Workspaces, computes, secrets: what is made, seen, changed and deleted.

use reqwest::Method;
use serde_json::json;

use crate::place::{Place, names, send};

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_lives() {
    let place = Place::new().await;
    assert_eq!(names(&place.get("/api/v1/workspaces").await.expect(200)), ["default"]);
    let made =
        place.post("/api/v1/workspaces", json!({"name": "Team-A", "description": "ours"})).await.expect(201);
    assert_eq!((&made["name"], &made["description"]), (&json!("Team-A"), &json!("ours")));
    place.post("/api/v1/workspaces", json!({"name": "team-a"})).await.problem(409, "conflict");
    let changed = place
        .patch("/api/v1/workspaces/team-a", json!({"description": null, "tags": {"a": "b"}}))
        .await
        .expect(200);
    assert!(changed.get("description").is_none());
    assert_eq!(changed["tags"], json!({"a": "b"}));
    assert_eq!(place.get("/api/v1/workspaces/TEAM-A").await.expect(200)["name"], "Team-A");
    place.patch("/api/v1/workspaces/team-a", json!({"name": "other"})).await.problem(400, "invalid_input");
    place.delete("/api/v1/workspaces/team-a").await.expect(204);
    place.get("/api/v1/workspaces/team-a").await.problem(404, "not_found");
    place.delete("/api/v1/workspaces/team-a").await.problem(404, "not_found");
    place.delete("/api/v1/workspaces/default").await.problem(409, "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_do_not_see_each_other_and_go_with_their_contents() {
    let place = Place::new().await;
    place.post("/api/v1/workspaces", json!({"name": "other"})).await.expect(201);
    place.put("secrets/db", json!({"value": "s3cret"})).await.expect(200);
    place.model("iris").await;
    place.put("/api/v1/workspaces/other/online-endpoints/other-endpoint", json!({})).await.expect(201);
    for list in ["models", "secrets", "online-endpoints"] {
        let mine = place.get(list).await.expect(200);
        let theirs = place.get(&format!("/api/v1/workspaces/other/{list}")).await.expect(200);
        assert!(names(&mine) != names(&theirs), "{list}");
    }
    place.get("/api/v1/workspaces/nowhere/models").await.problem(404, "not_found");
    let refusal = place.delete("/api/v1/workspaces/other").await.problem(409, "conflict");
    assert!(refusal["hint"].as_str().unwrap().contains("with_contents"), "{refusal}");
    place.delete("/api/v1/workspaces/other?with_contents=true").await.expect(204);
    place.get("/api/v1/workspaces/other").await.problem(404, "not_found");
    // The name is free for an endpoint of another workspace.
    place.put("online-endpoints/other-endpoint", json!({})).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn computes_are_made_and_local_is_always_there() {
    let place = Place::new().await;
    assert_eq!(names(&place.get("computes").await.expect(200)), ["local"]);
    assert_eq!(place.get("computes/local").await.expect(200)["type"], "local");
    let cluster = json!({"type": "kubernetes", "namespace": "ml"});
    let made = place.put("computes/cluster", cluster.clone()).await.expect(201);
    assert_eq!((&made["type"], &made["namespace"]), (&json!("kubernetes"), &json!("ml")));
    place.put("computes/cluster", cluster.clone()).await.expect(200);
    let create = place.request(Method::PUT, "computes/cluster").header("if-none-match", "*").json(&cluster);
    send(create).await.problem(409, "conflict");
    assert_eq!(names(&place.get("computes").await.expect(200)), ["cluster", "local"]);
    assert_eq!(names(&place.get("computes?limit=1").await.expect(200)), ["cluster"]);
    assert_eq!(names(&place.get("computes?after=cluster").await.expect(200)), ["local"]);
    place.put("computes/local", cluster).await.problem(409, "conflict");
    place.delete("computes/local").await.problem(409, "conflict");
    place.put("online-endpoints/weather", json!({"compute": "azureml:cluster"})).await.expect(201);
    let used = place.delete("computes/cluster").await.problem(409, "conflict");
    assert!(used["detail"].as_str().unwrap().contains("weather"), "{used}");
    place.put("online-endpoints/rain", json!({"compute": "azureml:nowhere"})).await.problem(404, "not_found");
    place.put("computes/odd", json!({"type": "mainframe"})).await.problem(400, "invalid_input");
    place.put("computes/spare", json!({"type": "local"})).await.expect(201);
    place.delete("computes/spare").await.expect(204);
    place.delete("computes/spare").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_set_and_never_given_out() {
    let place = Place::new().await;
    let first = place.put("secrets/db", json!({"value": "s3cret"})).await.expect(200);
    let second = place.put("secrets/db", json!({"value": "other"})).await.expect(200);
    assert!(first["version"].as_u64().unwrap() < second["version"].as_u64().unwrap());
    let list = place.get("secrets").await;
    assert_eq!(names(&list.json()), ["db"]);
    assert!(!list.text.contains("other"));
    place.get("secrets/db").await.problem(405, "invalid_input");
    for wrong in [json!({}), json!({"value": 1}), json!({"value": "a", "more": "b"}), json!([])] {
        let refusal = place.put("secrets/db", wrong).await.problem(400, "invalid_input");
        assert!(!refusal.to_string().contains("s3cret"));
    }
    // The keys of endpoints lie among the secrets, where nobody sees them.
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    assert_eq!(names(&place.get("secrets").await.json()), ["db"]);
    place
        .put("secrets/endpoint%2Fweather%2Fprimary", json!({"value": "a"}))
        .await
        .problem(400, "invalid_input");
    place.delete("secrets/endpoint%2Fweather%2Fprimary").await.problem(400, "invalid_input");
    place.delete("secrets/db").await.expect(204);
    place.delete("secrets/db").await.problem(404, "not_found");
}
