//! The OpenAPI document: complete, consistent in itself, and true of what the server takes and gives.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::{Value, json};

use crate::place::{Place, send};

fn document() -> Value {
    serde_json::to_value(moorline_server::document()).unwrap()
}

/// Path, method, operation.
fn operations(document: &Value) -> impl Iterator<Item = (&String, &String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = ["get", "head", "put", "post", "patch", "delete"];
        let item = item.as_object().unwrap();
        item.iter()
            .filter(move |(method, _)| methods.contains(&method.as_str()))
            .map(move |(m, o)| (path, m, o))
    })
}

#[test]
fn the_document_is_consistent() {
    let document = document();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut ids = BTreeSet::new();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "`{id}` is there twice");
        assert!(
            operation["responses"].as_object().unwrap().keys().any(|status| status.starts_with('2')),
            "{id}"
        );
        assert!(operation["description"].as_str().unwrap().contains("Needs "), "{id}");
        // Every parameter of the path is described, and no other.
        let wanted: BTreeSet<&str> =
            path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let described: BTreeSet<&str> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        assert_eq!(wanted, described, "{method} {path}");
        assert!(
            parameters.iter().all(|parameter| parameter["in"] != "path" || parameter["required"] == true)
        );
        let takes = operation.get("requestBody").is_some();
        assert!(!takes || method != "get", "{method} {path}");
    }
    assert!(ids.len() > 50, "{}", ids.len());
    references(&document, &mut |reference| {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    });
}

/// The portal's client is made from a copy of the document, so that it can be built where no server runs.
#[test]
fn the_portals_copy_of_the_document_is_true() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../portal/openapi.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if fs_err::read_to_string(path).is_ok_and(|copy| copy == text) {
        return;
    }
    fs_err::write(path, text).unwrap();
    panic!("portal/openapi.json was not what the server says; it is now: commit it, and try again");
}

fn references(value: &Value, seen: &mut impl FnMut(&str)) {
    match value {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                seen(reference);
            }
            object.values().for_each(|value| references(value, seen));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, seen)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_of_the_document_is_there_and_no_other_method() {
    let place = Place::new().await;
    assert_eq!(place.get("/api/openapi.json").await.expect(200), document());
    let document = document();
    let mut known: BTreeMap<&String, BTreeSet<&str>> = BTreeMap::new();
    for (path, method, _) in operations(&document) {
        known.entry(path).or_default().insert(method);
    }
    for (path, methods) in known {
        let real: String = path
            .split('/')
            .map(|part| match part {
                "{digest}" => format!("sha256:{}", "0".repeat(64)),
                "{workspace}" => "default".to_owned(),
                part if part.starts_with('{') => "nothing".to_owned(),
                part => part.to_owned(),
            })
            .collect::<Vec<_>>()
            .join("/");
        for method in ["get", "put", "post", "patch", "delete"] {
            // It has no end.
            if method == "get" && path.ends_with("/{workspace}/events") {
                continue;
            }
            let mut request =
                place.request(Method::from_bytes(method.to_uppercase().as_bytes()).unwrap(), &real);
            if ["put", "post", "patch"].contains(&method) {
                request = request.json(&json!({}));
            }
            let answer = send(request).await;
            assert_eq!(answer.status == 405, !methods.contains(method), "{method} {path}: {answer:?}");
            if answer.status == 404 {
                assert!(!answer.text.contains("there is nothing at"), "{method} {path}: {answer:?}");
            }
        }
    }
}

/// The keys of each document that the OpenAPI document describes are keys that the reader knows.
#[test]
fn described_documents_are_those_that_are_read() {
    let document = document();
    let keys = |schema: &str| -> Vec<String> {
        let schema = &document["components"]["schemas"][schema]["properties"];
        schema.as_object().unwrap_or_else(|| panic!("{schema}")).keys().cloned().collect()
    };
    fn unknown<T: moorline_spec::Document>(body: Value) -> String {
        match moorline_spec::from_json::<T>(&body) {
            Ok(_) => String::new(),
            Err(found) => found.to_string().lines().filter(|line| line.contains("unknown key")).collect(),
        }
    }
    let with_all = |schema: &str| -> Value {
        keys(schema).into_iter().map(|key| (key, Value::Null)).collect::<serde_json::Map<_, _>>().into()
    };
    assert_eq!(unknown::<moorline_spec::Model>(with_all("ModelBody")), "");
    let mut environment = with_all("EnvironmentBody");
    environment.as_object_mut().unwrap().remove("files");
    assert_eq!(unknown::<moorline_spec::Environment>(environment), "");
    assert_eq!(unknown::<moorline_spec::OnlineEndpoint>(with_all("EndpointBody")), "");
    let mut deployment = with_all("DeploymentBody");
    // `resources` belongs to this type alone.
    deployment["type"] = "kubernetes".into();
    assert_eq!(unknown::<moorline_spec::OnlineDeployment>(deployment), "");
    assert_eq!(unknown::<moorline_spec::Workspace>(with_all("WorkspaceBody")), "");
    assert_eq!(unknown::<moorline_spec::Compute>(with_all("ComputeBody")), "");
}
