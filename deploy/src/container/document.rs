//! What an Engine is told to run: described once, purely, from a placement. `render` prints the description and a
//! start submits it, so that they cannot differ but for secrets.

use std::{collections::HashMap, net::IpAddr};

use bollard::models::{
    ContainerCreateBody, DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
    PortBinding, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use moorline_core::{
    DeploymentId, Digest, ErrorClass, MachineDevices, Placement, Source, TargetError, Variable,
};

use super::ContainerConfig;
use crate::{checks, routes::Routes};

/// The program that a scorer image starts, where nothing else is known of it.
const SCORER: &str = "/opt/moorline/bin/moorline-scorer";
/// Processes and threads of one container.
const PIDS: i64 = 4096;
/// Open files of one process: below what machines allow their own programs, so that no Engine has to raise it.
const OPEN_FILES: i64 = 16_384;
const TMP: &str = "rw,nosuid,nodev,size=256m,mode=1777";
/// An emulated device keeps its programs there, and loads them as libraries.
const TMP_OF_DRIVERS: &str = "rw,nosuid,nodev,exec,size=256m,mode=1777";
/// The volume of an Engine in which devices are leased, by all containers on it.
const LEASES: &str = "moorline-devices";
const LABEL: &str = "io.moorline.";

/// Whose container it is, and which: its labels, by which a server that was started anew finds it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) owner: String,
    pub(super) deployment: DeploymentId,
    pub(super) revision: Digest,
    pub(super) replica: String,
    pub(super) routes: Routes,
}

/// The ports that are published.
fn ports(routes: &Routes) -> Vec<u16> {
    let mut ports = vec![routes.data_port, routes.ready.0, routes.live.0];
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// The label that says whose a container or network is.
pub(super) fn owner_label(owner: &str) -> String {
    format!("{LABEL}owner={owner}")
}

impl Identity {
    pub(super) fn labels(&self) -> HashMap<String, String> {
        let Routes { data_port, ready, live, scorer } = &self.routes;
        let mut labels = endpoint_labels(&self.owner, &self.deployment);
        labels.extend(
            [
                ("deployment", self.deployment.deployment.to_string()),
                ("revision", self.revision.to_string()),
                ("replica", self.replica.clone()),
                ("data_port", data_port.to_string()),
                ("ready", format!("{}{}", ready.0, ready.1)),
                ("live", format!("{}{}", live.0, live.1)),
                ("scorer", scorer.to_string()),
            ]
            .map(|(name, value)| (format!("{LABEL}{name}"), value)),
        );
        labels
    }

    /// Of a container that has all of the labels.
    pub(super) fn of(labels: &HashMap<String, String>) -> Option<Self> {
        let label = |name: &str| labels.get(&format!("{LABEL}{name}"));
        let route = |name: &str| {
            let (port, path) = label(name)?.split_once('/')?;
            Some((port.parse().ok()?, format!("/{path}")))
        };
        Some(Self {
            owner: label("owner")?.clone(),
            deployment: DeploymentId {
                workspace: label("workspace")?.parse().ok()?,
                endpoint: label("endpoint")?.parse().ok()?,
                deployment: label("deployment")?.parse().ok()?,
            },
            revision: label("revision")?.parse().ok()?,
            replica: label("replica")?.clone(),
            routes: Routes {
                data_port: label("data_port")?.parse().ok()?,
                ready: route("ready")?,
                live: route("live")?,
                scorer: label("scorer")? == "true",
            },
        })
    }

    /// A name that people can read, unique by the replica in it.
    pub(super) fn container_name(&self) -> String {
        let DeploymentId { endpoint, deployment, .. } = &self.deployment;
        format!("moorline-{}-{}-{}", plain(endpoint.as_str()), plain(deployment.as_str()), self.replica)
    }
}

/// The labels that an endpoint's network has, and each of its containers too.
pub(super) fn endpoint_labels(owner: &str, id: &DeploymentId) -> HashMap<String, String> {
    [
        ("owner", owner.to_owned()),
        ("workspace", id.workspace.to_string()),
        ("endpoint", id.endpoint.to_string()),
    ]
    .map(|(name, value)| (format!("{LABEL}{name}"), value))
    .into()
}

/// The network of an endpoint's containers, and of nobody else's.
pub(super) fn network_name(owner: &str, id: &DeploymentId) -> String {
    let whole = format!("{owner}/{}/{}", id.workspace, id.endpoint);
    format!("moorline-{}-{}", plain(id.endpoint.as_str()), &Digest::of(whole.as_bytes()).hex()[..12])
}

/// What Engines allow in names, and not too much of it.
fn plain(name: &str) -> String {
    let sound = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' };
    name.chars().take(64).map(sound).collect()
}

/// What is known of the image that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageFacts {
    /// The Engine's own name of it.
    pub(super) id: String,
    pub(super) entrypoint: Vec<String>,
}

/// The whole description of one container. With `secrets` it is what the Engine is sent and nobody else sees; without,
/// secrets are references.
pub(super) fn create(
    config: &ContainerConfig,
    publish: IpAddr,
    placement: &Placement,
    identity: &Identity,
    image: &ImageFacts,
    secrets: bool,
) -> ContainerCreateBody {
    let routes = &identity.routes;
    let mut variables: Vec<(&str, String)> = Vec::new();
    if routes.scorer {
        variables.extend([
            ("MOORLINE_ENDPOINT", placement.id.endpoint.to_string()),
            ("MOORLINE_DEPLOYMENT", placement.id.deployment.to_string()),
            ("MOORLINE_LOG_FORMAT", "json".to_owned()),
            ("MOORLINE_DRAIN_TIMEOUT_MS", config.drain_timeout.as_millis().to_string()),
        ]);
    }
    for (name, variable) in &placement.variables {
        let value = match variable {
            Variable::Plain(value) => value.clone(),
            Variable::Secret { value, .. } if secrets => value.expose().to_owned(),
            Variable::Secret { reference, .. } => format!("secret:{reference}"),
        };
        variables.push((name, value));
    }
    let port = |port: &u16| format!("{port}/tcp");
    let binding = PortBinding { host_ip: Some(publish.to_string()), host_port: Some(String::new()) };
    let ports = ports(routes);
    let devices = placement.machine_devices.as_ref();
    let memory = placement.resources.memory_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let limit = |name: &str, most: i64| ResourcesUlimits {
        name: Some(name.to_owned()),
        soft: Some(most),
        hard: Some(most),
    };
    let host_config = HostConfig {
        memory,
        // No swap: what is over its memory is ended, not slowed down.
        memory_swap: memory,
        nano_cpus: placement.resources.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        pids_limit: Some(PIDS),
        ulimits: Some(vec![limit("nofile", OPEN_FILES), limit("core", 0)]),
        init: Some(true),
        network_mode: Some(network_name(&identity.owner, &placement.id)),
        port_bindings: Some(ports.iter().map(|own| (port(own), Some(vec![binding.clone()]))).collect()),
        // Who starts it again is this target, which knows how often and how soon that may be.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        cap_drop: Some(vec!["ALL".to_owned()]),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        // A server of somebody else's may write where it was made to.
        readonly_rootfs: Some(routes.scorer),
        tmpfs: Some(
            [("/tmp".to_owned(), if devices.is_some() { TMP_OF_DRIVERS } else { TMP }.to_owned())].into(),
        ),
        devices: devices.map(|devices| devices.nodes.iter().map(|path| device(path)).collect()),
        group_add: devices.map(|devices| devices.groups.iter().map(u32::to_string).collect()),
        mounts: devices.map(|_| vec![leases()]),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(
                [("max-size", format!("{}", config.log_file_bytes)), ("max-file", "2".to_owned())]
                    .map(|(name, value)| (name.to_owned(), value))
                    .into(),
            ),
        }),
        ..HostConfig::default()
    };
    let healthcheck = routes.scorer.then(|| {
        let entrypoint =
            if image.entrypoint.is_empty() { vec![SCORER.to_owned()] } else { image.entrypoint.clone() };
        let test = std::iter::once("CMD".to_owned()).chain(entrypoint).chain(["probe".to_owned()]);
        let nanoseconds = |seconds: u32| Some(i64::from(seconds.max(1)) * 1_000_000_000);
        HealthConfig {
            test: Some(test.collect()),
            // For people who look with the Engine's own tools; this target asks by itself.
            interval: nanoseconds(placement.readiness.period.max(30)),
            timeout: nanoseconds(placement.readiness.timeout),
            retries: Some(i64::from(placement.readiness.failure_threshold)),
            start_period: nanoseconds(placement.readiness.initial_delay),
            start_interval: None,
        }
    });
    let image_name = match &placement.source {
        _ if !image.id.is_empty() => image.id.clone(),
        Source::Image { reference, .. } => reference.clone(),
        Source::Folder { path, .. } => path.display().to_string(),
    };
    ContainerCreateBody {
        image: Some(image_name),
        env: Some(variables.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        exposed_ports: Some(ports.iter().map(port).collect()),
        labels: Some(identity.labels()),
        healthcheck,
        stop_signal: Some("SIGTERM".to_owned()),
        stop_timeout: Some(config.stop_seconds()),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

/// A device of the machine: at the same path, to read and write, not to make nodes.
fn device(path: &str) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(path.to_owned()),
        path_in_container: Some(path.to_owned()),
        cgroup_permissions: Some("rw".to_owned()),
    }
}

fn leases() -> Mount {
    Mount {
        target: Some(MachineDevices::LEASES.to_owned()),
        source: Some(LEASES.to_owned()),
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    }
}

/// Refuses what no Engine could run.
pub(super) fn check(placement: &Placement) -> Result<(), TargetError> {
    if let Source::Folder { path, .. } = &placement.source {
        return Err(TargetError::new(
            ErrorClass::Unsupported,
            format!("a container host runs images, and not the folder `{}`", path.display()),
        ));
    }
    checks::placement(placement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let name = |text: &str| text.parse().unwrap();
        Identity {
            owner: "home/default/docker".to_owned(),
            deployment: DeploymentId {
                workspace: name("default"),
                endpoint: name("Iris_1"),
                deployment: name("blue"),
            },
            revision: Digest::of(b"revision"),
            replica: "0a1b".to_owned(),
            routes: Routes::of(None),
        }
    }

    #[test]
    fn a_container_is_known_by_its_labels() {
        let own = identity();
        assert_eq!(Identity::of(&own.labels()), Some(own.clone()));
        assert_eq!(own.container_name(), "moorline-Iris_1-blue-0a1b");
        let mut labels = own.labels();
        labels.remove("io.moorline.revision");
        assert_eq!(Identity::of(&labels), None);
        let route = |port, path: &str| moorline_core::Route { port, path: path.to_owned() };
        let foreign = moorline_core::InferenceConfig {
            liveness_route: route(80, "/"),
            readiness_route: route(80, "/health/ready?deep=1"),
            scoring_route: route(8080, "/v1"),
        };
        let foreign = Identity { routes: Routes::of(Some(&foreign)), ..own };
        assert_eq!(ports(&foreign.routes), [80, 8080]);
        assert_eq!(Identity::of(&foreign.labels()), Some(foreign));
    }

    #[test]
    fn endpoints_of_other_owners_have_other_networks() {
        let id = identity().deployment;
        assert_ne!(network_name("one", &id), network_name("other", &id));
        assert_eq!(network_name("one", &id), network_name("one", &id));
    }
}
