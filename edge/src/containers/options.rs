//! What an Engine is told to run: a module's `createOptions` with what every module has. What they may say is a list: a
//! document that is signed may still not take over the device unless the device's own settings let it.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Component, Path, PathBuf},
};

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfigLogConfig, NetworkingConfig, RestartPolicy,
    RestartPolicyNameEnum,
};
use moorline_core::Digest;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{NETWORK, Spec};

const LABEL: &str = "io.moorline.edge.";
/// Processes and threads of one container, if it does not say.
const PIDS: i64 = 4096;
/// Of a log file, of which there are two.
const LOG_BYTES: &str = "10000000";
/// Where a module finds the folder of its workload socket.
pub(super) const SOCKET_FOLDER: &str = "/run/moorline-edge";
/// Bytes of createOptions.
const LONGEST: usize = 64 * 1024;

/// What containers may have of the device beyond their own.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Everything: privileged containers, capabilities, the device's own name spaces.
    pub privileged: bool,
    pub host_network: bool,
    pub gpus: bool,
    /// Folders of which, and of what is in them, containers may be given.
    pub mounts: Vec<PathBuf>,
    pub devices: Vec<PathBuf>,
}

/// Why createOptions are not taken.
#[derive(Debug, Error)]
pub enum OptionsError {
    #[error("createOptions: `{0}` is not known")]
    Unknown(String),
    #[error("createOptions: `{option}` is refused here: {why}")]
    Refused { option: &'static str, why: String },
    #[error("createOptions: `{0}` is not taken: the agent does this itself")]
    Ours(&'static str),
    #[error("createOptions take {0} bytes; {LONGEST} is the most")]
    TooLong(usize),
    #[error("createOptions cannot be read")]
    Shape(#[source] serde_json::Error),
}

fn refused(option: &'static str, why: impl Into<String>) -> OptionsError {
    OptionsError::Refused { option, why: why.into() }
}

/// What may be said at the top.
const TOP: [&str; 19] = [
    "Image",
    "Hostname",
    "Domainname",
    "User",
    "ExposedPorts",
    "Tty",
    "OpenStdin",
    "Env",
    "Cmd",
    "Entrypoint",
    "Healthcheck",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "StopTimeout",
    "Shell",
    "HostConfig",
    "NetworkingConfig",
];

/// What may be said of the host, whatever the agent's settings.
const FREE: [&str; 29] = [
    "CpuShares",
    "Memory",
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "NanoCpus",
    "Init",
    "PidsLimit",
    "Ulimits",
    "PortBindings",
    "PublishAllPorts",
    "CapDrop",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "ReadonlyRootfs",
    "Tmpfs",
    "ShmSize",
    "StorageOpt",
    // Ours is said in its place.
    "RestartPolicy",
    "CpuCount",
    "CpuPercent",
];

/// Nothing where the agent lets in what is privileged; else refused.
const PRIVILEGED: [(&str, &str); 9] = [
    ("CapAdd", "capabilities"),
    ("CgroupParent", "a control group of the device's"),
    ("DeviceCgroupRules", "rules for devices"),
    ("OomKillDisable", "living on when memory is short"),
    ("OomScoreAdj", "living on when memory is short"),
    ("Sysctls", "settings of the kernel"),
    ("Cgroup", "a control group of the device's"),
    ("MaskedPaths", "what of the kernel is hidden"),
    ("ReadonlyPaths", "what of the kernel cannot be written"),
];

/// Name spaces that may be the device's own.
const NAME_SPACES: [&str; 5] = ["PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode"];
const ASK: &str = "the agent was not started with --allow-privileged";

/// Refuses what no device takes, whatever its settings.
pub(crate) fn check(options: &Map<String, Value>) -> Result<(), OptionsError> {
    let everything = Allowed { privileged: true, ..Allowed::default() };
    read(options, &everything).map(|_| ())
}

fn read(options: &Map<String, Value>, allowed: &Allowed) -> Result<ContainerCreateBody, OptionsError> {
    let text = Value::Object(options.clone()).to_string();
    if text.len() > LONGEST {
        return Err(OptionsError::TooLong(text.len()));
    }
    if let Some(name) = options.keys().find(|name| !TOP.contains(&name.as_str())) {
        return Err(OptionsError::Unknown(name.chars().take(100).collect()));
    }
    if let Some(host) = options.get("HostConfig").and_then(Value::as_object) {
        // To hide nothing is not to say nothing.
        let says = |name: &str, value: &Value| {
            !is_empty(value) || (!value.is_null() && matches!(name, "MaskedPaths" | "ReadonlyPaths"))
        };
        for (name, value) in host.iter().filter(|(name, value)| says(name, value)) {
            host_option(name, value, allowed)?;
        }
    }
    serde_json::from_str(&text).map_err(OptionsError::Shape)
}

/// As tools write what they do not say.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
        Value::Number(number) => number.as_i64() == Some(0),
        Value::Bool(true) => false,
    }
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().map(|item| item.as_str().unwrap_or_default())
}

fn host_option(name: &str, value: &Value, allowed: &Allowed) -> Result<(), OptionsError> {
    if FREE.contains(&name) {
        return Ok(());
    }
    let text = value.as_str().unwrap_or_default();
    if let Some((option, what)) = PRIVILEGED.iter().find(|(option, _)| *option == name) {
        return if allowed.privileged { Ok(()) } else { Err(refused(option, format!("{what}; {ASK}"))) };
    }
    if let Some(option) = NAME_SPACES.iter().find(|option| **option == name) {
        let own = allowed.privileged || matches!(text, "private" | "none" | "shareable");
        return if own { Ok(()) } else { Err(refused(option, format!("`{text}`; {ASK}"))) };
    }
    match name {
        "Privileged" if !allowed.privileged => Err(refused("Privileged", ASK)),
        "Privileged" => Ok(()),
        "NetworkMode" => match text {
            "host" if !(allowed.host_network || allowed.privileged) => {
                Err(refused("NetworkMode", "the agent was not started with --allow-host-network"))
            }
            other if other.starts_with("container:") => {
                Err(refused("NetworkMode", "a module has a network of its own"))
            }
            _ => Ok(()),
        },
        "Binds" => texts(value).try_for_each(|bind| {
            let source = bind.split(':').next().unwrap_or_default();
            // Without a slash it is the name of a volume.
            if source.contains('/') { mount("Binds", Path::new(source), allowed) } else { Ok(()) }
        }),
        "Mounts" => value.as_array().into_iter().flatten().try_for_each(|one| self::mounts(one, allowed)),
        "Devices" => value.as_array().into_iter().flatten().try_for_each(|device| {
            let path = device["PathOnHost"].as_str().unwrap_or_default();
            let named = allowed.devices.iter().any(|own| own == Path::new(path));
            if named || allowed.privileged {
                Ok(())
            } else {
                Err(refused("Devices", format!("the agent was not started with --allow-device {path}")))
            }
        }),
        "DeviceRequests" | "Runtime" => {
            let option = if name == "Runtime" { "Runtime" } else { "DeviceRequests" };
            let usual = name == "Runtime" && matches!(text, "runc" | "crun");
            let gpu = name == "DeviceRequests" || text == "nvidia";
            if usual || allowed.privileged || (gpu && allowed.gpus) {
                Ok(())
            } else {
                Err(refused(option, "the agent was not started with --allow-gpus"))
            }
        }
        "SecurityOpt" => texts(value).try_for_each(|option| {
            if allowed.privileged || option.starts_with("no-new-privileges") && !option.ends_with("false") {
                Ok(())
            } else {
                Err(refused("SecurityOpt", format!("`{option}`; {ASK}")))
            }
        }),
        "LogConfig" => match value["Type"].as_str().unwrap_or_default() {
            "" | "json-file" | "local" => Ok(()),
            other => Err(refused("LogConfig", format!("logs of the driver `{other}` cannot be asked for"))),
        },
        "AutoRemove" => Err(OptionsError::Ours("AutoRemove")),
        other => {
            Err(OptionsError::Unknown(format!("HostConfig.{}", other.chars().take(100).collect::<String>())))
        }
    }
}

fn mounts(one: &Value, allowed: &Allowed) -> Result<(), OptionsError> {
    if !allowed.privileged && (one.get("BindOptions").is_some_and(|options| !is_empty(options))) {
        return Err(refused("Mounts", format!("BindOptions; {ASK}")));
    }
    // A volume's driver can be told to be any folder of the device.
    if !allowed.privileged && one["VolumeOptions"].get("DriverConfig").is_some_and(|config| !is_empty(config))
    {
        return Err(refused("Mounts", format!("DriverConfig; {ASK}")));
    }
    match one["Type"].as_str().unwrap_or_default() {
        "volume" | "tmpfs" => Ok(()),
        "bind" => mount("Mounts", Path::new(one["Source"].as_str().unwrap_or_default()), allowed),
        other => Err(refused("Mounts", format!("the type `{other}`"))),
    }
}

fn mount(option: &'static str, source: &Path, allowed: &Allowed) -> Result<(), OptionsError> {
    if allowed.privileged {
        return Ok(());
    }
    let plain = source.is_absolute()
        && source.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // A link in a folder that was allowed may lead out of it.
    let real = |path: &Path| fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let within = |folder: &PathBuf| real(source).starts_with(real(folder)) && source.starts_with(folder);
    if plain && allowed.mounts.iter().any(within) {
        Ok(())
    } else {
        let path = source.display();
        Err(refused(option, format!("the agent was not started with --allow-mount for `{path}`")))
    }
}

/// Whose container it is, and which.
pub(super) fn label(name: &str) -> String {
    format!("{LABEL}{name}")
}

/// The whole description of a container, and what it is known by.
pub(crate) fn body(
    spec: &Spec,
    owner: &str,
    allowed: &Allowed,
) -> Result<(ContainerCreateBody, String), OptionsError> {
    let mut body = read(&spec.module.create_options, allowed)?;
    let mut environment: BTreeMap<String, String> = BTreeMap::new();
    for entry in body.env.take().into_iter().flatten() {
        let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
        environment.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in &spec.module.environment {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        environment.insert(name.clone(), text);
    }
    environment.extend(spec.environment.clone());
    body.image = Some(spec.module.image.clone());
    let mut host = body.host_config.take().unwrap_or_default();
    // Who starts it again is this agent, which knows how often and how soon that may be.
    let never = RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None };
    host.restart_policy = Some(never);
    host.pids_limit = host.pids_limit.filter(|limit| *limit != 0).or(Some(PIDS));
    host.init = host.init.or(Some(true));
    if !host.privileged.unwrap_or(false) {
        let options = host.security_opt.get_or_insert_default();
        if !options.iter().any(|option| option.starts_with("no-new-privileges")) {
            options.push("no-new-privileges".to_owned());
        }
    }
    if host.log_config.as_ref().is_none_or(|config| config.typ.as_deref().unwrap_or_default().is_empty()) {
        let bounds = [("max-size", LOG_BYTES), ("max-file", "2")];
        host.log_config = Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(bounds.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
        });
    }
    let chosen = host.network_mode.as_deref().unwrap_or_default();
    if matches!(chosen, "" | "default") && body.networking_config.is_none() {
        host.network_mode = Some(NETWORK.to_owned());
        // Modules find one another by their names.
        let endpoint =
            EndpointSettings { aliases: Some(vec![spec.name.clone()]), ..EndpointSettings::default() };
        body.networking_config =
            Some(NetworkingConfig { endpoints_config: Some([(NETWORK.to_owned(), endpoint)].into()) });
    }
    if let Some(hub) = &spec.hub_name
        && host.network_mode.as_deref() != Some("host")
    {
        host.extra_hosts.get_or_insert_default().push(format!("{hub}:host-gateway"));
    }
    if let Some(folder) = &spec.sockets {
        // The folder, since a socket that is made anew is another file.
        host.binds.get_or_insert_default().push(format!("{}:{SOCKET_FOLDER}", folder.display()));
    }
    body.host_config = Some(host);
    body.env = Some(environment.iter().map(|(name, value)| format!("{name}={value}")).collect());
    let labels = body.labels.get_or_insert_default();
    labels.retain(|name, _| !name.starts_with(LABEL));
    // The same text for the same container: maps have no order.
    let described = serde_json::to_value(&body).map_err(OptionsError::Shape)?;
    let revision = Digest::of(crate::desired::canonical(&described).as_bytes()).hex()[..16].to_owned();
    let own: HashMap<String, String> = [("owner", owner), ("module", &spec.name), ("revision", &revision)]
        .map(|(name, value)| (label(name), value.to_owned()))
        .into();
    body.labels.get_or_insert_default().extend(own);
    Ok((body, revision))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::Module;

    fn spec(options: Value) -> Spec {
        Spec {
            name: "cam".to_owned(),
            module: Module {
                image: "cam:1".to_owned(),
                create_options: options.as_object().unwrap().clone(),
                environment: BTreeMap::from([("A".to_owned(), json!(3)), ("B".to_owned(), json!("b"))]),
                ..Module::default()
            },
            credentials: None,
            environment: BTreeMap::from([("IOTEDGE_MODULEID".to_owned(), "cam".to_owned())]),
            sockets: Some("/var/lib/x/cam".into()),
            hub_name: Some("edge.local".to_owned()),
        }
    }

    #[test]
    fn a_container_is_what_its_options_say_within_bounds() {
        let options = json!({
            "Env": ["A=1", "C=c=c", "IOTEDGE_MODULEID=other"],
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"mine": "1", "io.moorline.edge.owner": "me"},
            "HostConfig": {
                "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
                "Memory": 50_000_000, "Privileged": false, "Binds": ["data:/data"],
                "RestartPolicy": {"Name": "always"},
                "Mounts": [{"Type": "volume", "Source": "v", "Target": "/v"}],
            },
        });
        let (described, revision) = body(&spec(options.clone()), "own", &Allowed::default()).unwrap();
        assert_eq!(described.env.as_deref().unwrap(), ["A=3", "B=b", "C=c=c", "IOTEDGE_MODULEID=cam"]);
        let labels = described.labels.unwrap();
        assert_eq!((labels["mine"].as_str(), labels["io.moorline.edge.owner"].as_str()), ("1", "own"));
        let host = described.host_config.unwrap();
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        assert_eq!(host.binds.unwrap(), ["data:/data", "/var/lib/x/cam:/run/moorline-edge"]);
        assert_eq!(host.extra_hosts.unwrap(), ["edge.local:host-gateway"]);
        assert_eq!((host.memory, host.pids_limit), (Some(50_000_000), Some(PIDS)));
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.network_mode.as_deref(), Some(NETWORK));
        for _ in 0..20 {
            assert_eq!(body(&spec(options.clone()), "own", &Allowed::default()).unwrap().1, revision);
        }
        assert_ne!(body(&spec(json!({})), "own", &Allowed::default()).unwrap().1, revision);
    }

    #[test]
    fn what_would_take_the_device_over_is_refused_unless_the_device_lets_it() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("data");
        fs_err::create_dir(&inside).unwrap();
        fs_err::os::unix::fs::symlink("/etc", inside.join("link")).unwrap();
        let allowed = Allowed {
            mounts: vec![inside.clone()],
            devices: vec!["/dev/video0".into()],
            host_network: true,
            gpus: true,
            ..Allowed::default()
        };
        let read = |host: Value, allowed: &Allowed| {
            read(json!({ "HostConfig": host }).as_object().unwrap(), allowed)
        };
        let everything = Allowed { privileged: true, ..Allowed::default() };
        let inside = inside.display();
        for refused in [
            json!({"Privileged": true}),
            json!({"CapAdd": ["SYS_ADMIN"]}),
            json!({"PidMode": "host"}),
            json!({"IpcMode": "container:other"}),
            json!({"Binds": ["/:/host"]}),
            json!({"Binds": ["/var/run/docker.sock:/s"]}),
            json!({"Binds": [format!("{inside}/../..:/s")]}),
            json!({"Binds": [format!("{inside}/link:/s")]}),
            json!({"Binds": [format!("{inside}x:/s")]}),
            json!({"Binds": ["./relative:/s"]}),
            json!({"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/e"}]}),
            json!({"Mounts": [{"Type": "volume", "Target": "/e", "VolumeOptions": {"DriverConfig": {"Options": {"device": "/"}}}}]}),
            json!({"Devices": [{"PathOnHost": "/dev/mem"}]}),
            json!({"SecurityOpt": ["seccomp=unconfined"]}),
            json!({"SecurityOpt": ["no-new-privileges=false"]}),
            json!({"Sysctls": {"kernel.x": "1"}}),
            json!({"UsernsMode": "host"}),
            json!({"Runtime": "own"}),
            json!({"MaskedPaths": []}),
            json!({"ReadonlyPaths": []}),
        ] {
            let error = read(refused.clone(), &allowed).unwrap_err();
            assert!(matches!(error, OptionsError::Refused { .. }), "{refused}: {error}");
            assert!(read(refused.clone(), &everything).is_ok(), "{refused}");
        }
        for granted in [
            json!({"Binds": [format!("{inside}:/d"), format!("{inside}/new:/d:ro")]}),
            json!({"NetworkMode": "host"}),
            json!({"Devices": [{"PathOnHost": "/dev/video0", "PathInContainer": "/dev/video0", "CgroupPermissions": "rw"}]}),
            json!({"DeviceRequests": [{"Count": -1, "Capabilities": [["gpu"]]}], "Runtime": "nvidia"}),
            json!({"Privileged": false, "CapAdd": [], "PidMode": "", "CapDrop": ["ALL"]}),
        ] {
            assert!(read(granted.clone(), &allowed).is_ok(), "{granted}");
        }
        let none = Allowed::default();
        for host in [json!({"NetworkMode": "host"}), json!({"Runtime": "nvidia"})] {
            assert!(matches!(read(host, &none), Err(OptionsError::Refused { .. })));
        }
        for unknown in [json!({"VolumesFrom": ["x"]}), json!({"Links": ["x"]}), json!({"Nonsense": 1})] {
            assert!(matches!(read(unknown, &everything), Err(OptionsError::Unknown(_))));
        }
        assert!(matches!(read(json!({"AutoRemove": true}), &everything), Err(OptionsError::Ours(_))));
        assert!(matches!(
            read(json!({"NetworkMode": "container:x"}), &everything),
            Err(OptionsError::Refused { .. })
        ));
        assert!(check(json!({"Nonsense": 1}).as_object().unwrap()).is_err());
        assert!(matches!(check(json!({"Cmd": 1}).as_object().unwrap()), Err(OptionsError::Shape(_))));
        let long = json!({"Cmd": ["x".repeat(LONGEST)]});
        assert!(matches!(check(long.as_object().unwrap()), Err(OptionsError::TooLong(_))));
    }
}
