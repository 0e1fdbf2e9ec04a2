//! `moorline edge manifest`: a deployment as a module of Azure IoT Edge's own runtime, and a look at manifests that are
//! there already.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::Args;
use moorline_core::Name;
use moorline_edge::{
    hub::Route,
    manifest::{
        AgentSection, HubSection, Manifest, ManifestError, Module, RestartPolicy, RouteSpec, is_module_name,
    },
};
use moorline_spec::OnlineDeployment;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::edge::KIND;
use crate::{
    client::Precondition,
    document::{DocumentFlags, Flags, pair},
    exit::Explained,
    output,
    session::Session,
};

/// Azure's own modules, of the long-lived release.
const AGENT: &str = "mcr.microsoft.com/azureiotedge-agent:1.5";
const HUB: &str = "mcr.microsoft.com/azureiotedge-hub:1.5";
/// Where a scorer serves in its container.
const DATA_PORT: &str = "5001/tcp";
/// Two hours, which is Azure's own.
const TIME_TO_LIVE: u64 = 7200;

#[derive(Debug, Args)]
pub(crate) struct ManifestOf {
    /// The deployment's document
    #[arg(
        short,
        long,
        value_name = "FILE",
        required_unless_present_any = ["check", "apply", "remove"],
        requires = "image"
    )]
    file: Option<PathBuf>,
    /// The deployment's image in a registry that devices reach: `moorline image build -f FILE --push …` makes one
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The module's name [default: that of the endpoint]
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// The port of the device at which it answers
    #[arg(long, value_name = "PORT", default_value_t = 5001)]
    port: u16,
    /// A route of the device's messages; may be repeated [default: everything goes upstream]
    #[arg(long = "route", value_name = "NAME=ROUTE", value_parser = pair)]
    routes: Vec<(String, String)>,
    /// Read a manifest that is there, and tell every mistake in it
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    check: Option<PathBuf>,
    /// Have a device of this workspace run a manifest that is there, in the place of the one before
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "check"], requires = "device")]
    apply: Option<PathBuf>,
    /// Take away what a device runs for a manifest
    #[arg(long, conflicts_with_all = ["file", "check", "apply"], requires = "device")]
    remove: bool,
    /// The device, with --apply and --remove
    #[arg(short, long, value_name = "NAME")]
    device: Option<Name>,
}

pub(crate) async fn run(session: &Session, of: ManifestOf) -> anyhow::Result<()> {
    if let Some(device) = of.device.as_ref().filter(|_| of.apply.is_some() || of.remove) {
        return give(session, device, of.apply.as_deref()).await;
    }
    if let Some(path) = &of.check {
        let text = fs_err::read_to_string(path)?;
        let manifest = Manifest::parse(&text).map_err(|error| told(&path.display().to_string(), error))?;
        let modules = manifest.agent.modules.len();
        return output::write(&format!(
            "{}: schema 1.0 or 1.1, {modules} module(s), {} route(s), no mistakes\n",
            path.display(),
            manifest.hub.routes.len()
        ));
    }
    let document = DocumentFlags::of_file(of.file.clone());
    let deployment: OnlineDeployment = document.read(Flags::default(), &session.screen)?;
    let name = of.module.clone().unwrap_or_else(|| deployment.endpoint_name.to_string());
    if !is_module_name(&name) {
        return Err(Explained::usage(format!(
            "`{name}` cannot be the name of a module: letters, digits, `-` and `_`"
        ))
        .hint("give another with --module")
        .into());
    }
    let manifest = manifest(&name, &deployment, &of)?;
    let json = manifest.to_json();
    // Read back as a device would, so that what it would refuse is refused here.
    Manifest::parse(&json.to_string()).map_err(|error| told("the manifest", error))?;
    output::write(&format!("{json:#}\n"))
}

/// Gives a device a manifest, or takes away the one that it has.
async fn give(session: &Session, device: &Name, file: Option<&Path>) -> anyhow::Result<()> {
    let client = session.client().await?;
    let url = client.at(&[KIND, device.as_str(), "manifest"]);
    let Some(path) = file else {
        return client.call(Method::DELETE, url, None, Precondition::Any).await.map(drop);
    };
    let text = fs_err::read_to_string(path)?;
    // With its mistakes told by their places, before anybody is asked.
    Manifest::parse(&text).map_err(|error| told(&path.display().to_string(), error))?;
    let manifest: Value = serde_json::from_str(&text)?;
    let taken = client.call(Method::PUT, url, Some(&manifest), Precondition::Any).await?.body;
    for note in taken["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        session.screen.note(note);
    }
    let modules = taken["modules"].as_array().map_or(0, Vec::len);
    session.screen.note(format_args!("device `{device}` is to run {modules} module(s) of it"));
    Ok(())
}

fn manifest(name: &str, deployment: &OnlineDeployment, of: &ManifestOf) -> anyhow::Result<Manifest> {
    let mut environment: BTreeMap<String, Value> = BTreeMap::new();
    for (variable, value) in &deployment.environment_variables {
        if value.starts_with("secret:") {
            return Err(Explained::new(format!(
                "`{variable}` is a secret, and a manifest is read by everybody who sees it"
            ))
            .hint("give the module its secrets on the device")
            .into());
        }
        environment.insert(variable.clone(), value.as_str().into());
    }
    let routes = if of.routes.is_empty() {
        vec![("upstream".to_owned(), "FROM /messages/* INTO $upstream".to_owned())]
    } else {
        of.routes.clone()
    };
    for (name, route) in &routes {
        route.parse::<Route>().with_context(|| format!("--route {name}"))?;
    }
    let module = Module {
        image: of.image.clone().context("an image is required")?,
        create_options: container(deployment, of.port),
        restart_policy: RestartPolicy::Always,
        environment,
        ..Module::default()
    };
    let hub_ports = json!({ "HostConfig": { "PortBindings": {
        "5671/tcp": [{ "HostPort": "5671" }],
        "8883/tcp": [{ "HostPort": "8883" }],
        "443/tcp": [{ "HostPort": "443" }],
    }}});
    Ok(Manifest {
        agent: AgentSection {
            min_docker_version: Some("v1.25".to_owned()),
            agent: Module { image: AGENT.to_owned(), ..Module::default() },
            hub: Module {
                image: HUB.to_owned(),
                create_options: object(hub_ports),
                restart_policy: RestartPolicy::Always,
                startup_order: 0,
                ..Module::default()
            },
            modules: BTreeMap::from([(name.to_owned(), module)]),
            ..AgentSection::default()
        },
        hub: HubSection {
            routes: routes
                .into_iter()
                .map(|(name, route)| (name, RouteSpec { route, priority: None, time_to_live: None }))
                .collect(),
            time_to_live: TIME_TO_LIVE,
            max_bytes: None,
        },
        twins: BTreeMap::new(),
    })
}

/// A container as our own hosts start it: nobody's, without capabilities, with a file system that it cannot write.
fn container(deployment: &OnlineDeployment, port: u16) -> Map<String, Value> {
    let limits = deployment.limits();
    let mut host = json!({
        "PortBindings": { DATA_PORT: [{ "HostPort": port.to_string() }] },
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": true,
        "Tmpfs": { "/tmp": "rw,nosuid,nodev,size=256m,mode=1777" },
        "LogConfig": { "Type": "json-file", "Config": { "max-size": "10m", "max-file": "2" } },
    });
    if let Some(bytes) = limits.memory_bytes {
        host["Memory"] = bytes.into();
    }
    if let Some(millis) = limits.cpu_millis {
        host["NanoCpus"] = (u64::from(millis) * 1_000_000).into();
    }
    object(json!({ "ExposedPorts": { DATA_PORT: {} }, "HostConfig": host }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// Each mistake on a line of its own.
fn told(what: &str, error: ManifestError) -> anyhow::Error {
    match error {
        ManifestError::Mistakes(mistakes) => {
            let explained = Explained::new(format!("{what} cannot be used"));
            mistakes.iter().fold(explained, |explained, mistake| explained.detail(mistake.to_string())).into()
        }
        other @ ManifestError::Json(_) => {
            anyhow::Error::from(other).context(format!("{what} cannot be used"))
        }
    }
}
