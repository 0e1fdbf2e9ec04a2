//! The objects of a namespace's gateway.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{ErrorClass, TargetError};
use serde_json::{Map, Value, json};

use super::{
    super::{
        names,
        objects::{Look, mark},
        served::POD_MONITORS,
    },
    ADMIN_PORT, DATA_PORT,
    routes::ROUTES,
};

/// Requests in flight have so long when a gateway's pod ends: as long as the longest that there is by default, and a
/// little.
const GRACE_SECONDS: u32 = 120;
/// A secret has no more, and a little is left for what is around the routes.
const MOST_BYTES: usize = 1_000_000;

/// What a compute says of its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Of all its objects, of its account and of its role.
    pub name: String,
    pub replicas: u32,
    /// What requests from outside name as their host.
    pub host: Option<String>,
    /// The class of the Ingress; the cluster's default one where it is left out.
    pub ingress_class: Option<String>,
    /// The secret of the namespace with the host's certificate.
    pub tls_secret: Option<String>,
    /// The Gateway of the Gateway API that requests come through, in the place of an Ingress.
    pub parent: Option<GatewayParent>,
    /// Of its container.
    pub variables: BTreeMap<String, String>,
}

/// A Gateway of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayParent {
    pub name: String,
    pub namespace: Option<String>,
    /// The listener.
    pub section: Option<String>,
}

/// Everything that the gateway is, in the order in which it is applied.
pub(in super::super) fn objects(
    look: &Look,
    settings: &GatewaySettings,
    image: &str,
    routes: &[u8],
) -> Result<Vec<Value>, TargetError> {
    if routes.len() > MOST_BYTES {
        return Err(TargetError::new(
            ErrorClass::TooLarge,
            format!(
                "the routes of the gateway `{}` have {} bytes, and a secret has {MOST_BYTES} at most: spread the endpoints over several computes",
                settings.name,
                routes.len()
            ),
        ));
    }
    let head = |api_version: &str, kind: &str| head(look, settings, api_version, kind);
    let mut all = Vec::new();
    let mut secret = head("v1", "Secret");
    secret["type"] = "Opaque".into();
    secret["data"] = json!({ ROUTES: STANDARD.encode(routes) });
    all.push(secret);
    let ports = [DATA_PORT, ADMIN_PORT].map(|port| json!({ "protocol": "TCP", "port": port }));
    let mut policy = head("networking.k8s.io/v1", "NetworkPolicy");
    policy["spec"] = json!({
        "podSelector": selector(look, settings),
        "policyTypes": ["Ingress"],
        "ingress": [{ "ports": ports }],
    });
    all.push(policy);
    let mut service = head("v1", "Service");
    service["spec"] = json!({
        "type": "ClusterIP",
        "selector": names::group_selector(&look.owner, &settings.name),
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }],
    });
    all.push(service);
    if settings.replicas >= 2
        && let Some(version) = look.served.disruption
    {
        let mut budget = head(version, "PodDisruptionBudget");
        budget["spec"] = json!({ "maxUnavailable": 1, "selector": selector(look, settings) });
        all.push(budget);
    }
    if look.served.pod_monitors {
        let mut monitor = head(POD_MONITORS, "PodMonitor");
        monitor["spec"] = json!({
            "selector": selector(look, settings),
            "podMetricsEndpoints": [{ "port": "admin", "path": "/metrics" }],
        });
        all.push(monitor);
    }
    let mut deployment = head("apps/v1", "Deployment");
    deployment["spec"] = json!({
        "replicas": settings.replicas,
        "selector": selector(look, settings),
        "revisionHistoryLimit": 2,
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": {
            "metadata": {
                "labels": names::group_labels(&look.owner, &settings.name),
                "annotations": scraped(look),
            },
            "spec": pod(look, settings, image),
        },
    });
    all.push(deployment);
    all.extend(way_in(look, settings)?);
    mark(&mut all);
    Ok(all)
}

/// How requests from outside come to the service: by the Gateway API where a Gateway is named, by an Ingress where a host
/// is, else by nothing of ours.
fn way_in(look: &Look, settings: &GatewaySettings) -> Result<Option<Value>, TargetError> {
    if let Some(parent) = &settings.parent {
        let Some(version) = look.served.http_routes else {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                "the compute's gateway names a `parent`, and the cluster has no HTTPRoute: install the Gateway API, or name a `host` for an Ingress in its place",
            ));
        };
        let mut reference = json!({ "name": parent.name });
        for (key, value) in [("namespace", &parent.namespace), ("sectionName", &parent.section)] {
            if let Some(value) = value {
                reference[key] = value.as_str().into();
            }
        }
        let mut route = head(look, settings, version, "HTTPRoute");
        route["spec"] = json!({
            "parentRefs": [reference],
            "rules": [{
                "matches": [{ "path": { "type": "PathPrefix", "value": "/endpoints" } }],
                "backendRefs": [{ "name": settings.name, "port": 80 }],
            }],
        });
        if let Some(host) = &settings.host {
            route["spec"]["hostnames"] = json!([host]);
        }
        return Ok(Some(route));
    }
    let Some(host) = &settings.host else { return Ok(None) };
    let mut ingress = head(look, settings, "networking.k8s.io/v1", "Ingress");
    ingress["spec"] = json!({ "rules": [{ "host": host, "http": { "paths": [{
        "path": "/endpoints",
        "pathType": "Prefix",
        "backend": { "service": { "name": settings.name, "port": { "name": "http" } } },
    }]}}]});
    if let Some(class) = &settings.ingress_class {
        ingress["spec"]["ingressClassName"] = class.as_str().into();
    }
    if let Some(secret) = &settings.tls_secret {
        ingress["spec"]["tls"] = json!([{ "hosts": [host], "secretName": secret }]);
    }
    Ok(Some(ingress))
}

fn head(look: &Look, settings: &GatewaySettings, api_version: &str, kind: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": settings.name,
            "namespace": look.namespace,
            "labels": names::group_labels(&look.owner, &settings.name),
            "annotations": { "moorline.io/owner-name": look.owner },
        },
    })
}

fn selector(look: &Look, settings: &GatewaySettings) -> Value {
    json!({ "matchLabels": names::group_selector(&look.owner, &settings.name) })
}

fn scraped(look: &Look) -> Map<String, Value> {
    if look.served.pod_monitors {
        return Map::new();
    }
    let pairs =
        [("scrape", "true".to_owned()), ("port", ADMIN_PORT.to_string()), ("path", "/metrics".to_owned())];
    pairs.into_iter().map(|(name, value)| (format!("prometheus.io/{name}"), value.into())).collect()
}

fn pod(look: &Look, settings: &GatewaySettings, image: &str) -> Value {
    let probe = |path: &str, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": ADMIN_PORT },
            "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": failures,
        })
    };
    let mut pod = json!({
        // It watches pods and its own secret, and nothing else.
        "serviceAccountName": settings.name,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [{
            "name": "gateway",
            "image": image,
            "imagePullPolicy": "IfNotPresent",
            "args": ["gateway", "--namespace", look.namespace, "--name", settings.name],
            "ports": [
                { "name": "http", "containerPort": DATA_PORT, "protocol": "TCP" },
                { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
            ],
            "startupProbe": probe("/ready", 60),
            "readinessProbe": probe("/ready", 1),
            "livenessProbe": probe("/live", 10),
            "resources": {
                "requests": { "cpu": "100m", "memory": "128Mi" },
                "limits": { "memory": "1Gi" },
            },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
            },
        }],
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector(look, settings),
        }],
    });
    if !settings.variables.is_empty() {
        let variable = |(name, value): (&String, &String)| {
            // A dollar sign would begin a reference to another variable.
            json!({ "name": name, "value": value.replace('$', "$$") })
        };
        pod["containers"][0]["env"] = settings.variables.iter().map(variable).collect();
    }
    if !look.image_pull_secrets.is_empty() {
        let secrets = look.image_pull_secrets.iter().map(|name| json!({ "name": name }));
        pod["imagePullSecrets"] = secrets.collect();
    }
    pod
}
