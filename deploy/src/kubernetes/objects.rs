//! The objects of one deployment, as a platform engineer would have written them: described once, purely, from a placement.
//! What is printed and what is applied cannot differ but for secrets.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{
    Digest, ErrorClass, ModelImage, Placement, Probe, Resources, Scale, Scheduling, Source, TargetError,
    Variable,
};
use serde_json::{Map, Value, json};

use super::{
    names::{self, APPLIED, REVISION},
    served::{IN_FLIGHT, POD_MONITORS, Served},
};
use crate::{checks, routes::Routes};

/// The container that serves: the cluster may put others beside it.
pub(super) const CONTAINER: &str = "scorer";
/// The volume of a model that is an image of its own, and the container that copies it.
const MODEL: &str = "model";
/// Where that container has the volume.
const COPIED: &str = "/model";
const TMP_SIZE: &str = "1Gi";
/// Until a pod has its image, at most, beyond the time that its probes give it.
const PULL_SECONDS: u64 = 600;
/// What a pod's ending may take beyond its requests.
const KILL_AFTER_SECONDS: u64 = 10;
/// For requests whose deadline is shorter, or not known.
const LEAST_DRAIN_MS: u64 = 30_000;
/// So long one with its own server, which cannot be asked, is left alone before it is told to end.
const SLEEP_SECONDS: u64 = 5;
/// The longest name of a variable.
const LONGEST_VARIABLE: usize = 253;
/// Old revisions that `kubectl rollout undo` finds. One is what a failed rollout goes back to.
const REVISIONS_KEPT: u32 = 2;

/// What all objects of a target have in common.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) owner: String,
    pub(super) namespace: String,
    pub(super) image_pull_secrets: Vec<String>,
    /// So long must a pod that ends have had no request: what sends to it hears of its end meanwhile.
    pub(super) settle_ms: u64,
    /// A model that is an image of its own is a volume as it is; else it is copied into one.
    pub(super) image_volumes: bool,
    pub(super) served: Served,
}

/// The ports of a container, with the names that pods know them by.
fn ports(routes: &Routes) -> Vec<(u16, &'static str)> {
    let mut ports = vec![(routes.data_port, "http")];
    for (port, name) in [(routes.ready.0, "admin"), (routes.live.0, "live")] {
        if !ports.iter().any(|(known, _)| *known == port) {
            ports.push((port, name));
        }
    }
    ports
}

/// Refuses what no cluster could run.
pub(super) fn check(placement: &Placement) -> Result<(), TargetError> {
    if let Source::Folder { path, .. } = &placement.source {
        return Err(TargetError::new(
            ErrorClass::Unsupported,
            format!("a cluster runs images, and not the folder `{}`", path.display()),
        ));
    }
    checks::placement(placement)?;
    placement.variables.keys().try_for_each(|name| variable(name))
}

/// The rule of Kubernetes for the names of variables.
pub(super) fn variable(name: &str) -> Result<(), TargetError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.len() <= LONGEST_VARIABLE
        && name.chars().all(sound)
        && !name.starts_with(|c: char| c.is_ascii_digit())
    {
        return Ok(());
    }
    checks::refuse(format!(
        "`{}` cannot be the name of an environment variable in Kubernetes: letters, digits, `-`, `_` and `.`, and no digit first",
        name.escape_debug()
    ))
}

/// Everything that one deployment is, in the order in which it is applied. With `secrets` it is what the cluster is sent
/// and nobody else sees; without, secrets are references.
pub(super) fn objects(look: &Look, placement: &Placement, secrets: bool) -> Vec<Value> {
    let routes = Routes::of(placement.own_server.as_ref());
    let mut all = vec![
        service_account(look, placement),
        network_policy(look, placement, &routes),
        service(look, placement),
    ];
    all.extend(secret(look, placement, secrets));
    if placement.scale.bounds().1 >= 2 || placement.replicas >= 2 {
        all.extend(disruption_budget(look, placement));
    }
    if look.served.pod_monitors && routes.scorer {
        all.push(pod_monitor(look, placement));
    }
    all.push(deployment(look, placement, &routes));
    if scaled_by_cluster(&look.served, placement) {
        all.extend(autoscaler(look, placement));
    }
    mark(&mut all);
    all
}

/// Notes in each what it was when it was applied: a field that is not wanted any more is a difference too.
pub(super) fn mark(objects: &mut [Value]) {
    for object in objects {
        let digest = Digest::of(object.to_string().as_bytes()).hex()[..16].to_owned();
        object["metadata"]["annotations"][APPLIED] = digest.into();
    }
}

/// Whether the cluster decides how many there are: it measures what the rule needs. To zero and back only the gateway
/// can scale, which holds requests meanwhile.
pub(super) fn scaled_by_cluster(served: &Served, placement: &Placement) -> bool {
    let Scale::TargetUtilization { min_instances, .. } = placement.scale else { return false };
    let has_share = placement.resources.cpu_millis.or(placement.scheduling.requests.cpu_millis).is_some();
    let by_requests = served.in_flight_metric && served.autoscaling != Some("autoscaling/v1");
    min_instances >= 1 && served.autoscaling.is_some() && (by_requests || (served.cpu_metrics && has_share))
}

fn head(look: &Look, placement: &Placement, api_version: &str, kind: &str, name: &str) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": look.namespace,
            "labels": names::labels(&look.owner, &placement.id),
            "annotations": names::annotations(&look.owner, &placement.id),
        },
    })
}

fn name_of(look: &Look, placement: &Placement) -> String {
    names::object_name(&look.owner, &placement.id)
}

fn selector(look: &Look, placement: &Placement) -> Value {
    json!({ "matchLabels": names::selector(&look.owner, &placement.id) })
}

fn service_account(look: &Look, placement: &Placement) -> Value {
    let mut object = head(look, placement, "v1", "ServiceAccount", &name_of(look, placement));
    object["automountServiceAccountToken"] = false.into();
    object
}

/// Immutable, and of one revision: pods of another one keep theirs.
fn secret(look: &Look, placement: &Placement, values: bool) -> Option<Value> {
    let mut data = Map::new();
    for (name, variable) in &placement.variables {
        if let Variable::Secret { reference, value, .. } = variable {
            let value = if values { STANDARD.encode(value.expose()) } else { format!("secret:{reference}") };
            data.insert(name.clone(), value.into());
        }
    }
    if data.is_empty() {
        return None;
    }
    let name = names::secret_name(&name_of(look, placement), &placement.revision());
    let mut object = head(look, placement, "v1", "Secret", &name);
    object["type"] = "Opaque".into();
    object["immutable"] = true.into();
    object[if values { "data" } else { "stringData" }] = data.into();
    Some(object)
}

/// Requests and probes come in, from wherever; nothing else does.
fn network_policy(look: &Look, placement: &Placement, routes: &Routes) -> Value {
    let mut object =
        head(look, placement, "networking.k8s.io/v1", "NetworkPolicy", &name_of(look, placement));
    let ports: Vec<Value> =
        ports(routes).iter().map(|(port, _)| json!({ "protocol": "TCP", "port": port })).collect();
    object["spec"] = json!({
        "podSelector": selector(look, placement),
        "policyTypes": ["Ingress"],
        "ingress": [{ "ports": ports }],
    });
    object
}

fn service(look: &Look, placement: &Placement) -> Value {
    let mut object = head(look, placement, "v1", "Service", &name_of(look, placement));
    object["spec"] = json!({
        "type": "ClusterIP",
        "selector": names::selector(&look.owner, &placement.id),
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http" }],
    });
    object
}

/// One of several at a time may be taken away when a node is emptied.
fn disruption_budget(look: &Look, placement: &Placement) -> Option<Value> {
    let version = look.served.disruption?;
    let mut object = head(look, placement, version, "PodDisruptionBudget", &name_of(look, placement));
    object["spec"] = json!({ "maxUnavailable": 1, "selector": selector(look, placement) });
    Some(object)
}

fn pod_monitor(look: &Look, placement: &Placement) -> Value {
    let mut object = head(look, placement, POD_MONITORS, "PodMonitor", &name_of(look, placement));
    object["spec"] = json!({
        "selector": selector(look, placement),
        "podMetricsEndpoints": [{ "port": "admin", "path": "/metrics" }],
    });
    object
}

fn autoscaler(look: &Look, placement: &Placement) -> Option<Value> {
    let Scale::TargetUtilization {
        min_instances,
        max_instances,
        target_utilization_percentage,
        scale_down_delay,
        ..
    } = placement.scale
    else {
        return None;
    };
    let version = look.served.autoscaling?;
    let name = name_of(look, placement);
    let mut object = head(look, placement, version, "HorizontalPodAutoscaler", &name);
    let mut spec = json!({
        "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
        "minReplicas": min_instances,
        "maxReplicas": max_instances.max(min_instances),
    });
    if version == "autoscaling/v1" {
        spec["targetCPUUtilizationPercentage"] = target_utilization_percentage.into();
    } else {
        let metric = if look.served.in_flight_metric {
            // What Azure ML means by utilization: requests at one time, of those that a replica takes.
            let settings = &placement.release.request_settings;
            let each = settings.max_concurrent_requests_per_instance.map_or(1, std::num::NonZeroUsize::get);
            let milli = each as u64 * u64::from(target_utilization_percentage) * 10;
            json!({ "type": "Pods", "pods": {
                "metric": { "name": IN_FLIGHT },
                "target": { "type": "AverageValue", "averageValue": quantity(milli) },
            }})
        } else {
            json!({ "type": "Resource", "resource": {
                "name": "cpu",
                "target": { "type": "Utilization", "averageUtilization": target_utilization_percentage },
            }})
        };
        spec["metrics"] = json!([metric]);
        spec["behavior"] =
            json!({ "scaleDown": { "stabilizationWindowSeconds": scale_down_delay.min(3600) } });
    }
    object["spec"] = spec;
    Some(object)
}

fn deployment(look: &Look, placement: &Placement, routes: &Routes) -> Value {
    let mut object = head(look, placement, "apps/v1", "Deployment", &name_of(look, placement));
    object["metadata"]["annotations"][REVISION] = placement.revision().to_string().into();
    let mut spec = json!({
        "selector": selector(look, placement),
        "revisionHistoryLimit": REVISIONS_KEPT,
        "progressDeadlineSeconds": startup_seconds(placement) + PULL_SECONDS,
        // One more is started before one is ended.
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": {
            "metadata": {
                "labels": names::labels(&look.owner, &placement.id),
                "annotations": template_annotations(look, placement, routes),
            },
            "spec": pod(look, placement, routes),
        },
    });
    if !scaled_by_cluster(&look.served, placement) {
        spec["replicas"] = placement.replicas.into();
    }
    object["spec"] = spec;
    object
}

fn template_annotations(look: &Look, placement: &Placement, routes: &Routes) -> Map<String, Value> {
    let mut annotations = names::annotations(&look.owner, &placement.id);
    annotations.insert(REVISION.to_owned(), placement.revision().to_string().into());
    if routes.scorer && !look.served.pod_monitors {
        for (name, value) in [
            ("scrape", "true".to_owned()),
            ("port", routes.ready.0.to_string()),
            ("path", "/metrics".to_owned()),
        ] {
            annotations.insert(format!("prometheus.io/{name}"), value.into());
        }
    }
    annotations
}

fn pod(look: &Look, placement: &Placement, routes: &Routes) -> Value {
    let drain_ms = drain_ms(placement);
    let mut container = json!({
        "name": CONTAINER,
        "image": image_of(placement),
        "imagePullPolicy": "IfNotPresent",
        "ports": ports(routes).iter().map(|(port, name)| json!({
            "name": name, "containerPort": port, "protocol": "TCP",
        })).collect::<Vec<_>>(),
        "env": variables(look, placement, routes, drain_ms),
        "startupProbe": {
            "httpGet": http_get(&routes.ready),
            // A pod that is ready sooner is used sooner.
            "periodSeconds": 1,
            "timeoutSeconds": placement.readiness.timeout,
            "failureThreshold": startup_seconds(placement).max(1),
        },
        "readinessProbe": probe(&placement.readiness, &routes.ready, placement.readiness.success_threshold),
        // Kubernetes allows no other threshold there.
        "livenessProbe": probe(&placement.liveness, &routes.live, 1),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            // A server of somebody else's may write where it was made to.
            "readOnlyRootFilesystem": routes.scorer,
        },
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    let resources = resources(&placement.resources, &placement.scheduling);
    if !resources.is_empty() {
        container["resources"] = resources.into();
    }
    if routes.scorer {
        // It answers when no request has been there for a while.
        let path = format!("/drain?settle_ms={}&limit_ms={drain_ms}", look.settle_ms);
        container["lifecycle"] = json!({ "preStop": { "httpGet": http_get(&(routes.ready.0, path)) } });
    } else if look.served.lifecycle_sleep {
        container["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": SLEEP_SECONDS } } });
    }
    let mut pod = json!({
        "serviceAccountName": name_of(look, placement),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": drain_ms.div_ceil(1000) + look.settle_ms.div_ceil(1000) + KILL_AFTER_SECONDS,
        "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container],
        "volumes": [{ "name": "tmp", "emptyDir": { "sizeLimit": TMP_SIZE } }],
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": selector(look, placement),
        }],
    });
    if let Source::Image { model: Some(model), .. } = &placement.source {
        add_model(&mut pod, look, placement, model);
    }
    let Scheduling { node_selector, tolerations, .. } = &placement.scheduling;
    if !node_selector.is_empty() {
        pod["nodeSelector"] = json!(node_selector);
    }
    if !tolerations.is_empty() {
        pod["tolerations"] = json!(tolerations);
    }
    if !look.image_pull_secrets.is_empty() {
        let secrets = look.image_pull_secrets.iter().map(|name| json!({ "name": name }));
        pod["imagePullSecrets"] = secrets.collect();
    }
    pod
}

/// A model that is an image of its own becomes a volume: the image itself, or what a container that runs before the
/// others copies out of it.
fn add_model(pod: &mut Value, look: &Look, placement: &Placement, model: &ModelImage) {
    let ModelImage { reference, place, bytes } = model;
    let mut mount = json!({ "name": MODEL, "mountPath": place, "readOnly": true });
    let mut volume = json!({ "name": MODEL });
    if look.image_volumes {
        mount["subPath"] = ModelImage::FOLDER.into();
        volume["image"] = json!({ "reference": reference, "pullPolicy": "IfNotPresent" });
    } else {
        volume["emptyDir"] = json!({});
        // What runs later may use this much anyway, so that a pod needs no more for it.
        let mut resources = Value::Object(resources(
            &placement.resources,
            &Scheduling { devices: BTreeMap::new(), ..placement.scheduling.clone() },
        ));
        // A node has to have room for it.
        resources["requests"]["ephemeral-storage"] = memory(*bytes).into();
        pod["initContainers"] = json!([{
            "name": MODEL,
            "image": reference,
            "imagePullPolicy": "IfNotPresent",
            "args": ["copy", format!("/{}", ModelImage::FOLDER), COPIED],
            "resources": resources,
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "capabilities": { "drop": ["ALL"] },
                "readOnlyRootFilesystem": true,
            },
            "volumeMounts": [{ "name": MODEL, "mountPath": COPIED }],
        }]);
    }
    let add = |list: &mut Value, one: Value| list.as_array_mut().expect("it was made as a list").push(one);
    add(&mut pod["containers"][0]["volumeMounts"], mount);
    add(&mut pod["volumes"], volume);
}

/// For requests in flight when a pod is told to end: as long as any of them may take.
fn drain_ms(placement: &Placement) -> u64 {
    placement.release.request_settings.request_timeout_ms.unwrap_or_default().max(LEAST_DRAIN_MS)
}

/// So long a container may take to be ready for the first time.
pub(super) fn startup_seconds(placement: &Placement) -> u64 {
    let Probe { initial_delay, period, failure_threshold, .. } = placement.readiness;
    u64::from(initial_delay) + u64::from(period) * u64::from(failure_threshold)
}

fn variables(look: &Look, placement: &Placement, routes: &Routes, drain_ms: u64) -> Vec<Value> {
    let plain = |name: &str, value: String| json!({ "name": name, "value": value });
    let mut variables = Vec::new();
    if routes.scorer {
        variables.extend([
            plain("MOORLINE_ENDPOINT", placement.id.endpoint.to_string()),
            plain("MOORLINE_DEPLOYMENT", placement.id.deployment.to_string()),
            plain("MOORLINE_LOG_FORMAT", "json".to_owned()),
            plain("MOORLINE_DRAIN_TIMEOUT_MS", drain_ms.to_string()),
        ]);
    }
    let secret = names::secret_name(&name_of(look, placement), &placement.revision());
    for (name, variable) in &placement.variables {
        variables.push(match variable {
            // A dollar sign would begin a reference to another variable.
            Variable::Plain(value) => plain(name, value.replace('$', "$$")),
            Variable::Secret { .. } => {
                json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": secret, "key": name } } })
            }
        });
    }
    variables
}

fn http_get((port, path): &(u16, String)) -> Value {
    json!({ "path": path, "port": port })
}

fn probe(probe: &Probe, route: &(u16, String), success_threshold: u32) -> Value {
    json!({
        "httpGet": http_get(route),
        "periodSeconds": probe.period,
        "timeoutSeconds": probe.timeout,
        "successThreshold": success_threshold,
        "failureThreshold": probe.failure_threshold,
    })
}

fn resources(limits: &Resources, scheduling: &Scheduling) -> Map<String, Value> {
    let amounts = |resources: &Resources| {
        let mut amounts = Map::new();
        if let Some(millis) = resources.cpu_millis {
            amounts.insert("cpu".to_owned(), quantity(millis.into()).into());
        }
        if let Some(bytes) = resources.memory_bytes {
            amounts.insert("memory".to_owned(), memory(bytes).into());
        }
        amounts
    };
    let mut most = amounts(limits);
    for (device, count) in &scheduling.devices {
        most.insert(device.clone(), count.to_string().into());
    }
    let least = amounts(&scheduling.requests);
    let parts = [("limits", most), ("requests", least)];
    parts
        .into_iter()
        .filter(|(_, part)| !part.is_empty())
        .map(|(name, part)| (name.to_owned(), part.into()))
        .collect()
}

/// Thousandths, as Kubernetes itself would write them: what is written otherwise reads as changed.
fn quantity(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// Bytes, as Kubernetes itself would write them.
fn memory(bytes: u64) -> String {
    let kibibytes = bytes.div_ceil(1024);
    let units = [(1 << 20, "Gi"), (1 << 10, "Mi")];
    match units.iter().find(|(size, _)| kibibytes.is_multiple_of(*size)) {
        Some((size, unit)) => format!("{}{unit}", kibibytes / size),
        None => format!("{kibibytes}Ki"),
    }
}

/// The image that a placement runs.
pub(super) fn image_of(placement: &Placement) -> &str {
    match &placement.source {
        Source::Image { reference, .. } => reference,
        Source::Folder { .. } => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_kubernetes_writes_them() {
        assert_eq!([quantity(500), quantity(2000), quantity(1250)], ["500m", "2", "1250m"]);
        let sizes = [1 << 30, 512 << 20, (1 << 20) + 1, 1_500_000_000, 3 << 40];
        assert_eq!(sizes.map(memory), ["1Gi", "512Mi", "1025Ki", "1464844Ki", "3072Gi"]);
    }

    #[test]
    fn names_of_variables_are_those_that_kubernetes_takes() {
        for sound in ["A", "a.b-c_D9", "_x"] {
            assert!(variable(sound).is_ok(), "{sound}");
        }
        for unsound in ["9A", "A B", "é"] {
            assert!(variable(unsound).is_err(), "{unsound}");
        }
    }
}
