//! Azure ML's own instance types, where its extension left the kind on a cluster: what `instance_type` means to those who
//! come from there.

use std::collections::BTreeMap;

use kube::{
    Api,
    core::{ApiResource, DynamicObject},
};
use moorline_core::Toleration;
use moorline_spec::{InstanceType, Requests, parse_bytes, parse_millis};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    cluster::{Cluster, REQUEST_TIMEOUT},
    error::ClusterError,
};

const GROUP: &str = "amlarc.azureml.com";
const VERSION: &str = "v1alpha1";
const PLURAL: &str = "instancetypes";
const KIND: &str = "InstanceType";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
    resources: Amounts,
}

/// Quantities, as texts or as numbers.
type Written = BTreeMap<String, Value>;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Amounts {
    limits: Written,
    requests: Written,
}

/// The instance type of this name; nothing where the cluster has none, or does not know the kind.
pub(super) async fn instance_type(
    cluster: &Cluster,
    name: &str,
) -> Result<Option<InstanceType>, ClusterError> {
    let what = || format!("could not look for the {KIND} `{name}`");
    let group_version = format!("{GROUP}/{VERSION}");
    let asked = timeout(REQUEST_TIMEOUT, cluster.client.list_api_group_resources(&group_version)).await;
    let known = match asked.map_err(|_| ClusterError::late(what()))? {
        Ok(list) => list.resources.into_iter().find(|resource| resource.name == PLURAL),
        Err(kube::Error::Api(status)) if status.code == 404 => None,
        Err(error) => return Err(ClusterError::of(what(), error)),
    };
    let Some(known) = known else { return Ok(None) };
    let resource = ApiResource {
        group: GROUP.to_owned(),
        version: VERSION.to_owned(),
        api_version: group_version,
        kind: KIND.to_owned(),
        plural: PLURAL.to_owned(),
    };
    let api: Api<DynamicObject> = if known.namespaced {
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource)
    } else {
        Api::all_with(cluster.client.clone(), &resource)
    };
    let found = timeout(REQUEST_TIMEOUT, api.get_opt(name)).await.map_err(|_| ClusterError::late(what()))?;
    let Some(found) = found.map_err(|error| ClusterError::of(what(), error))? else { return Ok(None) };
    read(&found.data["spec"]).map(Some).map_err(|reason| {
        ClusterError::new(
            moorline_core::ErrorClass::InvalidInput,
            format!("the {KIND} `{name}` cannot be used"),
            reason,
        )
    })
}

fn read(spec: &Value) -> Result<InstanceType, String> {
    let spec: Spec = serde_json::from_value(spec.clone()).map_err(|error| error.to_string())?;
    let amount = |amounts: &Written, name: &str| amounts.get(name).map(text);
    let (limits, requests) = (&spec.resources.limits, &spec.resources.requests);
    let sizes = InstanceType {
        cpu: amount(limits, "cpu"),
        memory: amount(limits, "memory"),
        requests: Some(Requests { cpu: amount(requests, "cpu"), memory: amount(requests, "memory") })
            .filter(|requests| requests.cpu.is_some() || requests.memory.is_some()),
        devices: devices(limits)?,
        node_selector: spec.node_selector,
        tolerations: spec.tolerations,
    };
    let requests = sizes.requests.iter();
    let cores = sizes.cpu.iter().chain(requests.clone().filter_map(|requests| requests.cpu.as_ref()));
    for text in cores {
        parse_millis(text).map_err(|error| format!("cpu: {error}"))?;
    }
    for text in sizes.memory.iter().chain(requests.filter_map(|requests| requests.memory.as_ref())) {
        parse_bytes(text).map_err(|error| format!("memory: {error}"))?;
    }
    Ok(sizes)
}

/// What is neither cores nor memory is counted in pieces.
fn devices(limits: &Written) -> Result<BTreeMap<String, u32>, String> {
    let others = limits.iter().filter(|(name, _)| name.contains('/'));
    others
        .map(|(name, amount)| (name, text(amount)))
        .filter(|(_, amount)| amount != "0")
        .map(|(name, amount)| {
            let count = amount.parse().map_err(|_| format!("{name}: `{amount}` is no number of devices"))?;
            Ok((name.clone(), count))
        })
        .collect()
}

fn text(amount: &Value) -> String {
    amount.as_str().map_or_else(|| amount.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::{Client, client::Body};
    use serde_json::json;
    use tower::service_fn;

    use super::{super::served::Served, *};

    /// A cluster that has the kind, or not, and one object of it.
    fn cluster(answers: &'static [(&'static str, &'static str)]) -> Cluster {
        let service = service_fn(move |request: Request<Body>| async move {
            let known = answers.iter().find(|(path, _)| *path == request.uri().path());
            let (status, body) = known.map_or((404, ABSENT), |(_, body)| (200, *body));
            Ok::<_, Infallible>(
                Response::builder().status(status).body(Body::from(body.as_bytes().to_vec())).unwrap(),
            )
        });
        Cluster { client: Client::new(service, "ml"), namespace: "ml".to_owned(), served: Served::default() }
    }

    const ABSENT: &str = r#"{"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "not found"}"#;
    const KINDS: &str = r#"{"kind": "APIResourceList", "groupVersion": "amlarc.azureml.com/v1alpha1", "resources": [
        {"name": "instancetypes", "singularName": "", "namespaced": false, "kind": "InstanceType", "verbs": ["get"]}]}"#;
    const OBJECT: &str = r#"{"apiVersion": "amlarc.azureml.com/v1alpha1", "kind": "InstanceType",
        "metadata": {"name": "tiny"}, "spec": {"resources": {"limits": {"cpu": "500m"}}}}"#;

    #[tokio::test]
    async fn it_is_asked_for_where_the_cluster_has_the_kind() {
        let with = cluster(&[
            ("/apis/amlarc.azureml.com/v1alpha1", KINDS),
            ("/apis/amlarc.azureml.com/v1alpha1/instancetypes/tiny", OBJECT),
        ]);
        let found = instance_type(&with, "tiny").await.unwrap().expect("it is there");
        assert_eq!(found.cpu.as_deref(), Some("500m"));
        assert_eq!(instance_type(&with, "huge").await.unwrap(), None);
        assert_eq!(instance_type(&cluster(&[]), "tiny").await.unwrap(), None);
    }

    #[test]
    fn an_instance_type_of_azure_mls_is_read_as_it_is() {
        let read = read(&json!({
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "resources": {
                "limits": {"cpu": "1", "nvidia.com/gpu": 1, "memory": "2Gi"},
                "requests": {"cpu": "700m", "memory": "1500Mi"},
            },
        }))
        .unwrap();
        assert_eq!((read.cpu.as_deref(), read.memory.as_deref()), (Some("1"), Some("2Gi")));
        assert_eq!(read.requests.as_ref().unwrap().cpu.as_deref(), Some("700m"));
        assert_eq!(read.devices, BTreeMap::from([("nvidia.com/gpu".to_owned(), 1)]));
        assert_eq!(read.node_selector["pool"], "gpu");
        assert_eq!(read.tolerations[0].key.as_deref(), Some("gpu"));
    }

    #[test]
    fn one_that_makes_no_sense_says_what_does_not() {
        for (limits, expected) in [
            (json!({"cpu": "much"}), "cpu"),
            (json!({"memory": "2Qi"}), "memory"),
            (json!({"a/b": "1.5"}), "a/b"),
        ] {
            let said = read(&json!({ "resources": { "limits": limits } })).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
        }
        assert_eq!(read(&json!({})).unwrap(), InstanceType::default());
    }
}
