//! Endpoints: made with keys, changed with care, and gone with what is below them.

use reqwest::Method;
use serde_json::json;

use crate::place::{Place, names, send};

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_is_made_with_what_clients_ask_for() {
    let place = Place::new().await;
    let answer =
        place.put("online-endpoints/weather", json!({"description": "rain?", "tags": {"a": "b"}})).await;
    let made = answer.expect(201);
    let base = format!("http://{}", place.address());
    assert_eq!(made["name"], "weather");
    assert_eq!(made["auth_mode"], "key");
    assert_eq!(made["kind"], "Managed");
    assert_eq!(made["provisioning_state"], "Succeeded");
    assert_eq!(made["scoring_uri"], format!("{base}/endpoints/weather/score"));
    assert_eq!(made["openapi_uri"], format!("{base}/endpoints/weather/swagger.json"));
    assert_eq!((&made["traffic"], &made["mirror_traffic"]), (&json!({}), &json!({})));
    assert_eq!(answer.header("etag"), "\"1\"");
    assert_eq!(names(&place.get("online-endpoints").await.expect(200)), ["weather"]);
    assert_eq!(place.get("online-endpoints/WEATHER").await.expect(200), made);

    // What was shown can be changed and sent back.
    let mut edited = made.clone();
    edited["description"] = "snow?".into();
    let changed = place.put("online-endpoints/weather", edited).await.expect(200);
    assert_eq!((&changed["description"], &changed["generation"]), (&json!("snow?"), &json!(2)));
    // The same once more is no change.
    assert_eq!(place.put("online-endpoints/weather", changed.clone()).await.expect(200)["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_make_the_same_endpoint_one_wins() {
    let place = Place::new().await;
    place.post("/api/v1/workspaces", json!({"name": "other"})).await.expect(201);
    let create =
        |path: &str| send(place.request(Method::PUT, path).header("if-none-match", "*").json(&json!({})));
    let (mine, again, theirs) = tokio::join!(
        create("online-endpoints/weather"),
        create("online-endpoints/weather"),
        create("/api/v1/workspaces/other/online-endpoints/Weather"),
    );
    let mut statuses = [&mine, &again, &theirs].map(|answer| answer.status.as_u16());
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409, 409]);
    for answer in [&mine, &again, &theirs].into_iter().filter(|answer| answer.status == 409) {
        assert!(
            answer.problem(409, "conflict")["detail"].as_str().unwrap().to_lowercase().contains("weather")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_are_refused_in_words() {
    let place = Place::new().await;
    let long = "a".repeat(300);
    for (path, word) in [
        ("ab", "3 to 32"),
        ("1abc", "begins with a letter"),
        ("abc-", "end with"),
        ("a_b_c", "3 to 32"),
        ("..%2Fetc", "name"),
        ("w%C3%A9ather", "name"),
        ("weather%20now", "name"),
        (long.as_str(), "name"),
    ] {
        let problem =
            place.put(&format!("online-endpoints/{path}"), json!({})).await.problem(400, "invalid_input");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{path}: {problem}");
    }
    let other =
        place.put("online-endpoints/weather", json!({"name": "rain"})).await.problem(400, "invalid_input");
    assert!(other["detail"].as_str().unwrap().contains("rain"), "{other}");
    let unknown = place.put("online-endpoints/weather", json!({"auth_mod": "key"})).await;
    let unknown = unknown.problem(400, "invalid_input");
    assert_eq!(unknown["diagnostics"][0]["path"], "auth_mod");
    assert!(unknown["diagnostics"][0].to_string().contains("auth_mode"), "{unknown}");
    // Nothing was half-made.
    place.get("online-endpoints/weather").await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_can_depend_on_what_was_seen() {
    let place = Place::new().await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let change = |tag: &str, value: &str| {
        let request = place.request(Method::PATCH, "online-endpoints/weather").header("if-match", tag);
        send(request.json(&json!({"description": value})))
    };
    assert_eq!(change("\"1\"", "one").await.header("etag"), "\"2\"");
    change("\"1\"", "two").await.problem(409, "conflict");
    change("one", "two").await.problem(400, "invalid_input");
    change("*", "three").await.expect(200);
    assert_eq!(place.get("online-endpoints/weather").await.expect(200)["description"], "three");
    let absent =
        place.request(Method::PUT, "online-endpoints/rain").header("if-match", "\"1\"").json(&json!({}));
    send(absent).await.problem(404, "not_found");
    place.patch("online-endpoints/rain", json!({})).await.problem(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_two_and_can_be_made_anew() {
    let place = Place::new().await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let answer = place.post("online-endpoints/weather/keys", json!({})).await;
    let keys = answer.expect(200);
    assert_eq!(answer.header("cache-control"), "no-store");
    let (primary, secondary) = (keys["primaryKey"].as_str().unwrap(), keys["secondaryKey"].as_str().unwrap());
    assert_eq!((primary.len(), secondary.len()), (32, 32));
    assert_ne!(primary, secondary);
    let path = "online-endpoints/weather/regenerate-keys";
    let anew = place.post(path, json!({"keyType": "Secondary"})).await.expect(200);
    assert_eq!(anew["primaryKey"], primary);
    assert_ne!(anew["secondaryKey"], secondary);
    place.post(path, json!({"keyType": "Third"})).await.problem(400, "invalid_input");

    // The gateway knows them: with a key there is nobody to answer, without one nobody is asked.
    let score = async |key: Option<&str>| {
        let mut request = place.request(Method::POST, "/endpoints/weather/score").json(&json!({}));
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        send(request).await.status.as_u16()
    };
    assert_eq!(score(None).await, 401);
    assert_eq!(score(Some(secondary)).await, 401);
    assert_ne!(score(Some(primary)).await, 401);
    assert_ne!(score(anew["secondaryKey"].as_str()).await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_good_for_their_endpoint() {
    let place = Place::new().await;
    for endpoint in ["weather", "climate"] {
        place
            .put(&format!("online-endpoints/{endpoint}"), json!({"auth_mode": "aml_token"}))
            .await
            .expect(201);
    }
    place.post("online-endpoints/weather/keys", json!({})).await.problem(409, "conflict");
    let token = place.post("online-endpoints/weather/token", json!({})).await.expect(200);
    assert_eq!(token["tokenType"], "Bearer");
    let (expiry, refresh) =
        (token["expiryTimeUtc"].as_i64().unwrap(), token["refreshAfterTimeUtc"].as_i64().unwrap());
    assert!(refresh < expiry);
    let score = async |endpoint: &str| {
        let request = place.request(Method::POST, &format!("/endpoints/{endpoint}/score")).json(&json!({}));
        send(request.bearer_auth(token["accessToken"].as_str().unwrap())).await.status.as_u16()
    };
    assert_ne!(score("weather").await, 401);
    assert_eq!(score("climate").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_is_held_against_the_deployments() {
    let place = Place::new().await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    let change = async |body| place.patch("online-endpoints/weather", body).await;
    let unknown = change(json!({"traffic": {"blue": 100}})).await.problem(400, "invalid_input");
    assert!(unknown["detail"].as_str().unwrap().contains("blue"), "{unknown}");
    place.put("online-endpoints/rain", json!({"traffic": {"blue": 100}})).await.problem(400, "invalid_input");
    place.model("iris").await;
    for deployment in ["blue", "green"] {
        let path = format!("online-endpoints/weather/deployments/{deployment}");
        place.put(&path, json!({"model": "azureml:iris@latest"})).await.expect(202);
    }
    let shown = change(json!({"traffic": {"blue": 90, "GREEN": 10}})).await.expect(200);
    assert_eq!(shown["traffic"], json!({"blue": 90, "green": 10}));
    change(json!({"traffic": {"blue": 95}})).await.problem(400, "invalid_input");
    change(json!({"traffic": {"blue": 101}})).await.problem(400, "invalid_input");
    change(json!({"traffic": {"blue": -1}})).await.problem(400, "invalid_input");
    change(json!({"mirror_traffic": {"green": 51}})).await.problem(400, "invalid_input");
    change(json!({"mirror_traffic": {"green": 10}})).await.expect(200);
    change(json!({"mirror_traffic": {"green": 0}})).await.expect(200);
    // A document that does not speak of traffic leaves it as it is.
    let replaced = place.put("online-endpoints/weather", json!({"description": "x"})).await.expect(200);
    assert_eq!(replaced["traffic"], json!({"blue": 90, "green": 10}));
    let held = place.delete("online-endpoints/weather/deployments/green").await.problem(409, "conflict");
    assert!(held["hint"].as_str().unwrap().contains("green=0"), "{held}");
    change(json!({"traffic": {"green": 0}})).await.expect(200);
    let deleted = place.delete("online-endpoints/weather/deployments/green").await;
    deleted.expect(202);
    assert_eq!(place.ended(&deleted).await["state"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_goes_with_its_deployments() {
    let place = Place::new().await;
    place.model("iris").await;
    place.put("online-endpoints/weather", json!({})).await.expect(201);
    place
        .put("online-endpoints/weather/deployments/blue", json!({"model": "azureml:iris:1"}))
        .await
        .expect(202);
    let deleted = place.delete("online-endpoints/weather").await;
    assert_eq!(deleted.expect(202)["provisioning_state"], "Deleting");
    let operation = place.ended(&deleted).await;
    assert_eq!((&operation["state"], &operation["kind"]), (&json!("Succeeded"), &json!("delete_endpoint")));
    place.get("online-endpoints/weather").await.problem(404, "not_found");
    place.get("online-endpoints/weather/deployments/blue").await.problem(404, "not_found");
    place.delete("online-endpoints/weather").await.problem(404, "not_found");
    let score = place.request(Method::POST, "/endpoints/weather/score").json(&json!({}));
    assert_eq!(send(score).await.status.as_u16(), 404);
    place.put("online-endpoints/weather", json!({})).await.expect(201);
}
