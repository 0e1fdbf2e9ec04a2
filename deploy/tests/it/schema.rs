//! Every object that is generated, against the schema that the cluster itself publishes: no field that it does not know, none
//! of another type, none missing that it needs. The API server would only drop what it does not know.

use std::sync::Arc;

use kube::Client;
use moorline_core::{Resources, Scale, Scheduling, Secret, Target, Toleration, Variable};
use moorline_deploy::kubernetes::KubernetesTarget;
use moorline_testkit::{TestRelease, deployment};
use serde_json::Value;

use crate::{cluster::Cluster, place};

/// Definitions go no deeper.
const DEEPEST: usize = 32;

#[tokio::test]
async fn every_object_is_as_the_clusters_own_schema_has_it() {
    let Some(cluster) = Cluster::given() else { return };
    let namespace = cluster.namespace("schema").await;
    let environment = place::environment();
    let target = KubernetesTarget::open(cluster.config(&namespace), &environment, Arc::new(|_| {}));
    let target = target.await.expect("the cluster answers");
    let schema = schema(&cluster.client().await).await;
    let source = moorline_core::Source::image("registry.example.org/double:1");
    let mut placement =
        TestRelease::double(1).with_source(source).placement(&deployment("checked", "blue"), 2);
    let plain = target.render(&placement).expect("it can be rendered");
    placement.scale = Scale::TargetUtilization {
        min_instances: 1,
        max_instances: 4,
        target_utilization_percentage: 70,
        polling_interval: 10,
        scale_down_delay: 300,
    };
    placement.resources = Resources { cpu_millis: Some(1500), memory_bytes: Some(1 << 30) };
    placement.scheduling = Scheduling {
        requests: Resources { cpu_millis: Some(100), memory_bytes: None },
        devices: [("example.org/fpga".to_owned(), 1)].into(),
        node_selector: [("pool".to_owned(), "fpga".to_owned())].into(),
        tolerations: vec![Toleration { key: Some("fpga".to_owned()), ..Toleration::default() }],
    };
    let secret = Variable::Secret {
        reference: "token".to_owned(),
        version: 1,
        value: Secret::new("correct horse".to_owned()),
    };
    placement.variables.insert("TOKEN".to_owned(), secret);
    let full = target.render(&placement).expect("it can be rendered");
    let mut kinds = Vec::new();
    for object in plain.documents.iter().chain(&full.documents) {
        let kind = object["kind"].as_str().expect("an object has a kind");
        let definition = definition_of(&schema, object).unwrap_or_else(|| panic!("no schema of {kind}"));
        let mut errors = Vec::new();
        check(&schema, definition, object, kind, 0, &mut errors);
        assert!(errors.is_empty(), "{errors:#?}");
        kinds.push(kind);
    }
    for kind in ["Deployment", "Service", "ServiceAccount", "NetworkPolicy", "Secret", "PodDisruptionBudget"]
    {
        assert!(kinds.contains(&kind), "{kind} was not checked: {kinds:?}");
    }
    // A schema that finds nothing wrong would find nothing.
    let mut wrong = full.documents[0].clone();
    wrong["metadata"]["lables"] = "x".into();
    let mut errors = Vec::new();
    check(&schema, definition_of(&schema, &wrong).expect("a schema"), &wrong, "wrong", 0, &mut errors);
    assert_eq!(errors, ["wrong.metadata.lables is not known"]);
    target.shutdown();
    cluster.forget(&namespace).await;
}

async fn schema(client: &Client) -> Value {
    let request = http::Request::get("/openapi/v2").body(Vec::new()).expect("a request");
    client.request::<Value>(request).await.expect("the cluster has a schema")
}

fn definition_of<'a>(schema: &'a Value, object: &Value) -> Option<&'a Value> {
    let api_version = object["apiVersion"].as_str()?;
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let is_it = |definition: &&Value| {
        let kinds = definition["x-kubernetes-group-version-kind"].as_array();
        kinds.into_iter().flatten().any(|kind| {
            kind["group"] == group && kind["version"] == version && kind["kind"] == object["kind"]
        })
    };
    schema["definitions"].as_object()?.values().find(is_it)
}

fn check(
    schema: &Value,
    definition: &Value,
    value: &Value,
    path: &str,
    depth: usize,
    errors: &mut Vec<String>,
) {
    assert!(depth < DEEPEST, "{path} is too deep");
    if let Some(reference) = definition["$ref"].as_str() {
        let name = reference.trim_start_matches("#/definitions/");
        return check(schema, &schema["definitions"][name], value, path, depth + 1, errors);
    }
    let any = definition["format"] == "int-or-string";
    let sound = match definition["type"].as_str() {
        _ if any => value.is_string() || value.is_i64() || value.is_u64(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        _ => value.is_object() || definition["properties"].is_null(),
    };
    if !sound {
        errors.push(format!("{path} is {value}, and not {}", definition["type"]));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(schema, &definition["items"], item, &format!("{path}[{index}]"), depth + 1, errors);
    }
    let Some(fields) = value.as_object() else { return };
    for required in definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(required) {
            errors.push(format!("{path}.{required} is missing"));
        }
    }
    for (name, field) in fields {
        let path = format!("{path}.{name}");
        if let Some(known) = definition["properties"].get(name) {
            check(schema, known, field, &path, depth + 1, errors);
        } else if definition["additionalProperties"].is_object() {
            check(schema, &definition["additionalProperties"], field, &path, depth + 1, errors);
        } else if definition["properties"].is_object() {
            errors.push(format!("{path} is not known"));
        }
    }
}
