//! Who may do what: tokens and roles on an open address, and pages of other sites on this machine.

use std::future::pending;

use moorline_core::Name;
use moorline_server::{Server, StartError};
use moorline_store::{NewToken, Role, Store};
use reqwest::Method;
use serde_json::json;

use crate::place::{Place, config, name, send};

/// A server that other machines could reach, and the token of its owner.
async fn open_to_all() -> (Place, String) {
    let mut owner = String::new();
    let home = tempfile::tempdir().unwrap();
    let mut settings = config(home.path());
    settings.listen = ([0, 0, 0, 0], 0).into();
    let store = Store::open(settings.store.clone()).await.unwrap();
    owner.push_str(&made(&store, None, Role::Owner, None).await);
    drop(store);
    let place = Place::on(home, settings).await;
    (place, owner)
}

async fn made(store: &Store, workspace: Option<&str>, role: Role, endpoint: Option<&str>) -> String {
    let named = |text: Option<&str>| -> Option<Name> { text.map(name) };
    let new = NewToken {
        workspace: named(workspace),
        name: role.as_str().to_owned(),
        role,
        endpoint: named(endpoint),
        expires_at: None,
    };
    store.create_token(new).await.unwrap().1.expose().to_owned()
}

async fn status(place: &Place, token: Option<&str>, method: &str, path: &str) -> u16 {
    let mut request = place.request(method.parse().unwrap(), path);
    if ["POST", "PUT", "PATCH"].contains(&method) {
        request = request.json(&json!({}));
    }
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    send(request).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_address_needs_a_token_first() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = config(home.path());
    settings.listen = ([0, 0, 0, 0], 0).into();
    let error = Server::start(settings.clone()).await.unwrap_err();
    assert!(matches!(error, StartError::NoTokens { .. }));
    assert!(error.hint().unwrap().contains("moorline token create"));
    // The one that did not start has left the home to others.
    settings.listen = ([127, 0, 0, 1], 0).into();
    Server::start(settings).await.unwrap().stop(false, pending()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_do_what_the_table_says() {
    let (place, owner) = open_to_all().await;
    let make = async |role: &str| {
        let request = place.request(Method::POST, "/api/v1/tokens").bearer_auth(&owner);
        let made = send(request.json(&json!({"name": role, "role": role}))).await.expect(201);
        made["token"].as_str().unwrap().to_owned()
    };
    let (contributor, reader, scorer) =
        (make("contributor").await, make("reader").await, make("scorer").await);
    assert_eq!(status(&place, Some(&owner), "PUT", "online-endpoints/weather").await, 201);

    // Method, path, and who may: owner, contributor, reader, scorer.
    for (method, path, may) in [
        ("GET", "/api/v1/workspaces", "ocr"),
        ("GET", "models", "ocr"),
        ("GET", "online-endpoints/weather", "ocr"),
        ("GET", "online-endpoints/weather/deployments", "ocr"),
        ("GET", "operations/none", "ocr"),
        ("GET", "operations", "ocr"),
        ("GET", "deployments", "ocr"),
        ("GET", "models/iris/versions/1/signature", "ocr"),
        ("GET", "/api/v1/caller", "ocrs"),
        ("GET", "/metrics", "ocr"),
        ("GET", "secrets", "oc"),
        ("PUT", "secrets/a", "oc"),
        ("PATCH", "online-endpoints/weather", "oc"),
        ("POST", "online-endpoints/weather/keys", "oc"),
        ("POST", "online-endpoints/weather/regenerate-keys", "oc"),
        ("POST", "online-endpoints/weather/token", "oc"),
        ("PUT", "models/iris/versions/1", "oc"),
        ("DELETE", "computes/none", "oc"),
        ("POST", "/api/v1/workspaces", "o"),
        ("DELETE", "/api/v1/workspaces/none", "o"),
        ("GET", "/api/v1/tokens", "o"),
        ("POST", "/api/v1/tokens", "o"),
        ("DELETE", "/api/v1/tokens/none", "o"),
    ] {
        for (letter, token) in [('o', &owner), ('c', &contributor), ('r', &reader), ('s', &scorer)] {
            let status = status(&place, Some(token), method, path).await;
            assert_eq!(status != 403, may.contains(letter), "{letter} {method} {path}: {status}");
            assert_ne!(status, 401, "{letter} {method} {path}");
        }
        assert_eq!(status(&place, None, method, path).await, 401, "{method} {path}");
        assert_eq!(status(&place, Some("mrl_a_b"), method, path).await, 401, "{method} {path}");
        assert_eq!(status(&place, Some("nonsense"), method, path).await, 401, "{method} {path}");
    }
    for path in ["/api/v1", "/api/v1/health", "/api/openapi.json"] {
        assert_eq!(status(&place, None, "GET", path).await, 200, "{path}");
    }
    assert_eq!(status(&place, None, "GET", "/api/v1/nowhere").await, 401);

    // Only who may score gets through to the endpoint.
    for (token, passes) in [(&owner, true), (&contributor, true), (&reader, false), (&scorer, true)] {
        let status = status(&place, Some(token), "POST", "/endpoints/weather/score").await;
        assert_eq!(status != 401, passes, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stays_within_its_scope() {
    let (place, owner) = open_to_all().await;
    let ask = async |body| {
        let request = place.request(Method::POST, "/api/v1/tokens").bearer_auth(&owner).json(&body);
        send(request).await
    };
    let other =
        place.request(Method::POST, "/api/v1/workspaces").bearer_auth(&owner).json(&json!({"name": "other"}));
    send(other).await.expect(201);
    for (workspace, endpoint) in [("default", "weather"), ("other", "climate")] {
        let path = format!("/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}");
        assert_eq!(status(&place, Some(&owner), "PUT", &path).await, 201);
    }
    let made = ask(json!({"name": "team", "role": "owner", "workspace": "other"})).await.expect(201);
    let team = made["token"].as_str().unwrap();
    assert_eq!(status(&place, Some(team), "GET", "/api/v1/workspaces/other/models").await, 200);
    assert_eq!(status(&place, Some(team), "GET", "/api/v1/workspaces/OTHER/models").await, 200);
    assert_eq!(status(&place, Some(team), "GET", "/api/v1/workspaces/%6fther/models").await, 200);
    assert_eq!(status(&place, Some(team), "GET", "models").await, 403);
    assert_eq!(status(&place, Some(team), "GET", "/api/v1/tokens").await, 403);
    assert_eq!(status(&place, Some(team), "POST", "/api/v1/workspaces").await, 403);
    let list = send(place.request(Method::GET, "/api/v1/workspaces").bearer_auth(team)).await.expect(200);
    assert_eq!(crate::place::names(&list), ["other"]);
    assert_eq!(status(&place, Some(team), "POST", "/endpoints/weather/score").await, 401);
    assert_ne!(status(&place, Some(team), "POST", "/endpoints/climate/score").await, 401);

    let made =
        ask(json!({"name": "app", "role": "reader", "endpoint": "weather", "workspace": "default"})).await;
    let app = made.expect(201)["token"].as_str().unwrap().to_owned();
    assert_eq!(status(&place, Some(&app), "GET", "online-endpoints/weather").await, 200);
    assert_eq!(status(&place, Some(&app), "GET", "online-endpoints").await, 403);
    assert_eq!(status(&place, Some(&app), "GET", "models").await, 403);

    ask(json!({"name": "a", "role": "king"})).await.problem(400, "invalid_input");
    ask(json!({"name": "", "role": "reader"})).await.problem(400, "invalid_input");
    ask(json!({"name": "a", "role": "reader", "expires_in_seconds": 0})).await.problem(400, "invalid_input");
    ask(json!({"name": "a", "role": "reader", "workspace": "none"})).await.problem(404, "not_found");

    // A revoked one is not taken any more, at once.
    let id = made_id(&place, &owner, "team").await;
    assert_eq!(status(&place, Some(&owner), "DELETE", &format!("/api/v1/tokens/{id}")).await, 204);
    assert_eq!(status(&place, Some(team), "GET", "/api/v1/workspaces/other/models").await, 401);
    assert_eq!(status(&place, Some(&owner), "DELETE", &format!("/api/v1/tokens/{id}")).await, 404);
}

async fn made_id(place: &Place, owner: &str, name: &str) -> String {
    let list = send(place.request(Method::GET, "/api/v1/tokens").bearer_auth(owner)).await;
    assert!(!list.text.contains("mrl_"), "{}", list.text);
    let list = list.expect(200);
    let found = list["value"].as_array().unwrap().iter().find(|token| token["name"] == name).unwrap();
    found["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_who_they_are() {
    let alone = Place::new().await;
    let me = alone.get("/api/v1/caller").await.expect(200);
    assert_eq!(
        (&me["name"], &me["role"], &me["signed_in"]),
        (&json!("local"), &json!("owner"), &json!(false))
    );
    assert_eq!(me["may"].as_array().unwrap().len(), 7);

    let (place, owner) = open_to_all().await;
    place.get("/api/v1/caller").await.problem(401, "unauthenticated");
    let caller = async |token: &str| {
        send(place.request(Method::GET, "/api/v1/caller").bearer_auth(token)).await.expect(200)
    };
    assert_eq!(caller(&owner).await["role"], "owner");
    let make = place.request(Method::POST, "/api/v1/tokens").bearer_auth(&owner);
    let body = json!({"name": "app", "role": "scorer", "workspace": "default", "endpoint": "weather"});
    let made = send(make.json(&body)).await.expect(201);
    let app = caller(made["token"].as_str().unwrap()).await;
    assert_eq!(app["may"], json!(["score"]));
    assert_eq!((&app["workspace"], &app["endpoint"]), (&json!("default"), &json!("weather")));
    assert_eq!((&app["name"], &app["signed_in"]), (&json!("app"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_are_kept_out() {
    let place = Place::new().await;
    let port = place.address().port();
    let ask = async |headers: &[(&str, &str)]| {
        let mut request = place.request(Method::GET, "models");
        for (header, value) in headers {
            request = request.header(*header, *value);
        }
        send(request).await.status.as_u16()
    };
    let own = format!("127.0.0.1:{port}");
    assert_eq!(ask(&[]).await, 200);
    assert_eq!(ask(&[("host", &format!("localhost:{port}"))]).await, 200);
    assert_eq!(ask(&[("host", &own), ("origin", &format!("http://{own}"))]).await, 200);
    assert_eq!(ask(&[("sec-fetch-site", "same-origin")]).await, 200);
    assert_eq!(ask(&[("sec-fetch-site", "none")]).await, 200);
    for wrong in [
        ("host", "attacker.example"),
        ("host", "attacker.example:7440"),
        ("host", "127.0.0.1.attacker.example"),
        ("host", "10.0.0.1"),
        ("origin", "http://attacker.example"),
        ("origin", "http://localhost:1"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        assert_eq!(ask(&[wrong]).await, 403, "{wrong:?}");
    }
    // A form of another site could send this without being asked first.
    let form = place
        .request(Method::PUT, "online-endpoints/weather")
        .header("content-type", "text/plain")
        .body("{}");
    assert_eq!(send(form).await.status.as_u16(), 415);
    let health = place.request(Method::GET, "/api/v1/health").header("host", "attacker.example");
    assert_eq!(send(health).await.status.as_u16(), 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_may_stand_before_the_server() {
    let place = Place::with(|config| config.public_url = Some("https://ml.example.org/".to_owned())).await;
    let request = place.request(Method::PUT, "online-endpoints/weather").header("host", "ml.example.org");
    let made = send(request.json(&json!({}))).await.expect(201);
    assert_eq!(made["scoring_uri"], "https://ml.example.org/endpoints/weather/score");
}
