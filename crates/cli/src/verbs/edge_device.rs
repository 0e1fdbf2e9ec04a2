//! `moorline edge device`: devices, how they prove themselves, and what their agents run.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand, ValueEnum};
use moorline_core::Name;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::edge::{CONNECTION, KIND, Proof, tag};
use crate::{
    arguments::Yes,
    client::{Client, Precondition},
    confirm,
    exit::Explained,
    live,
    output::{self, Columns, Printing},
    screen::Screen,
    session::Session,
};

/// The module that runs the others.
const AGENT: &str = "$edgeAgent";
/// How often a live view is drawn.
const LOOK: Duration = Duration::from_secs(2);
pub(super) const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("Connected", "connected"),
    ("Disabled", "disabled"),
    ("Authentication", "authentication.type"),
    ("Last seen", "last_disconnect"),
]);
/// Of `device show`: what its agent is told and says.
const MODULES: Columns = Columns(&[
    ("Module", "module"),
    ("Deployment", "deployment"),
    ("Desired", "desired_version"),
    ("Runs", "version"),
    ("Status", "status"),
    ("Description", "description"),
]);
const ENROLMENT: Columns = Columns(&[("Server", "server"), ("Token", "token"), ("Expires", "expires")]);
const LIVE: Columns = Columns(&[
    ("Name", "name"),
    ("Connected", "connected"),
    ("Modules", "told"),
    ("Running as desired", "running"),
    ("Not", "not"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceVerb {
    /// Make a device
    #[command(
        after_help = "Examples:\n  moorline edge device create -n line-3 --tag site=lyon --tag gpu=true\n  \
                      moorline edge device create -n line-4 --auth certificate-authority"
    )]
    Create(Create),
    /// Show a device
    #[command(after_help = "Example:\n  moorline edge device show -n line-3")]
    Show {
        #[command(flatten)]
        device: Named,
        #[command(flatten)]
        printing: Printing,
    },
    /// List the devices
    #[command(after_help = "Examples:\n  moorline edge device list --query \"[?connected].name\" -o tsv\n  \
                      moorline edge device list --watch")]
    List {
        /// Show it again every two seconds, until Ctrl-C
        #[arg(long)]
        watch: bool,
        #[command(flatten)]
        printing: Printing,
    },
    /// Change a device
    #[command(
        after_help = "Examples:\n  moorline edge device update -n line-3 --tag site=nice --tag gpu=null\n  \
                      moorline edge device update -n line-3 --disabled true"
    )]
    Update(Update),
    /// Delete a device, its modules, its twin and what waits for it
    #[command(after_help = "Example:\n  moorline edge device delete -n line-3 -y")]
    Delete {
        #[command(flatten)]
        device: Named,
        #[command(flatten)]
        yes: Yes,
    },
    /// Show the connection strings of a device, for whoever installs it
    #[command(after_help = "Example:\n  moorline edge device connection-string -n line-3 -o tsv")]
    ConnectionString {
        #[command(flatten)]
        device: Named,
        #[command(flatten)]
        printing: Printing,
    },
    /// Make a token by which a device enrols, once: `moorline-edge enrol` on the device takes it
    #[command(after_help = "Example:\n  moorline edge device enrol-token -n line-3 --folder line-3")]
    EnrolToken {
        #[command(flatten)]
        device: Named,
        /// Write what the device needs into this folder: `token`, and `authority.pem`
        #[arg(long, value_name = "FOLDER")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        printing: Printing,
    },
    /// Show what the modules of a device are to be, and what they are
    #[command(after_help = "Example:\n  moorline edge device modules -n line-3 -o table")]
    Modules {
        #[command(flatten)]
        device: Named,
        #[command(flatten)]
        printing: Printing,
    },
    /// Print the end of the log of a module that the agent of a device runs
    #[command(after_help = "Example:\n  moorline edge device logs -n line-3 -m detector")]
    Logs {
        #[command(flatten)]
        device: Named,
        /// The module's name
        #[arg(short, long, value_name = "NAME")]
        module: String,
    },
    /// Make one of the two keys of a device anew
    #[command(after_help = "Example:\n  moorline edge device regenerate-key -n line-3 --key primary")]
    RegenerateKey {
        #[command(flatten)]
        device: Named,
        /// Which of the two
        #[arg(long, value_name = "KEY")]
        key: Key,
        #[command(flatten)]
        printing: Printing,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The device's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    device: Named,
    #[command(flatten)]
    proof: Proof,
    /// A tag; values are JSON where they can be read as it, else text. May be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    tags: Vec<(String, Value)>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    device: Named,
    #[command(flatten)]
    proof: Proof,
    /// Whether it may not connect
    #[arg(long, value_name = "BOOL")]
    disabled: Option<bool>,
    /// Set a tag, or take it away with `null`; may be repeated
    #[arg(long = "tag", value_name = "NAME=VALUE", value_parser = tag)]
    tags: Vec<(String, Value)>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Key {
    Primary,
    Secondary,
}

pub(crate) async fn run(session: &Session, client: &Client, verb: DeviceVerb) -> anyhow::Result<()> {
    let at = |device: &Named| client.at(&[KIND, device.name.as_str()]);
    match verb {
        DeviceVerb::Create(create) => {
            let wish = wish(create.proof.wish(), None, create.tags);
            let made =
                client.call(Method::PUT, at(&create.device), Some(&wish), Precondition::Absent).await?;
            create.printing.print(made.body, COLUMNS)
        }
        DeviceVerb::Show { device, printing } => printing.print(client.get(at(&device)).await?, COLUMNS),
        DeviceVerb::List { watch, printing } => {
            let ask = async || client.list(client.at(&[KIND]), None).await;
            if watch {
                let table =
                    async || Ok(output::table(&Value::Array(ask().await?.iter().map(told).collect()), LIVE));
                return live::show(session, "devices", LOOK, table).await;
            }
            let found = ask().await?;
            printing.print(Value::Array(found), COLUMNS)
        }
        DeviceVerb::Update(update) => {
            let url = at(&update.device);
            // A name that is mistyped must not make a device.
            client.get(url.clone()).await?;
            let wish = wish(update.proof.wish(), update.disabled, update.tags);
            let made = client.call(Method::PUT, url, Some(&wish), Precondition::Any).await?;
            update.printing.print(made.body, COLUMNS)
        }
        DeviceVerb::Delete { device, yes } => {
            confirm::ask(&format!("Delete the device `{}` and what waits for it?", device.name), yes.yes)?;
            client.call(Method::DELETE, at(&device), None, Precondition::Any).await.map(drop)
        }
        DeviceVerb::ConnectionString { device, printing } => {
            let url = client.at(&[KIND, device.name.as_str(), "keys"]);
            let keys = client.call(Method::POST, url, None, Precondition::Any).await?;
            printing.print(keys.body, CONNECTION)
        }
        DeviceVerb::EnrolToken { device, folder, printing } => {
            let url = client.at(&[KIND, device.name.as_str(), "enrol-token"]);
            let made = client.call(Method::POST, url, None, Precondition::Any).await?.body;
            match folder {
                None => printing.print(made, ENROLMENT),
                Some(folder) => keep_enrolment(&session.screen, &folder, device.name.as_str(), &made),
            }
        }
        DeviceVerb::Modules { device, printing } => {
            let shown = client.get(at(&device)).await?;
            let modules = shown["agent"]["modules"].as_object().cloned().unwrap_or_default();
            let row = |(name, mut module): (String, Value)| {
                module["module"] = name.into();
                module
            };
            printing.print(Value::Array(modules.into_iter().map(row).collect()), MODULES)
        }
        DeviceVerb::Logs { device, module } => {
            let mut url = client.at(&[KIND, device.name.as_str(), "methods"]);
            let body = json!({
                "methodName": "getLogs", "payload": { "id": module }, "responseTimeoutInSeconds": 30,
            });
            url.query_pairs_mut().append_pair("module", AGENT);
            let answer = client.call(Method::POST, url, Some(&body), Precondition::Any).await?.body;
            match answer["payload"]["payload"].as_str() {
                Some(log) if answer["status"] == 200 => output::write(log),
                _ => {
                    let why = answer["payload"]["message"].as_str().unwrap_or("the device has no log of it");
                    Err(Explained::usage(format!("device `{}`: {why}", device.name)).into())
                }
            }
        }
        DeviceVerb::RegenerateKey { device, key, printing } => {
            let url = client.at(&[KIND, device.name.as_str(), "regenerate-keys"]);
            let which = match key {
                Key::Primary => "primary",
                Key::Secondary => "secondary",
            };
            let body = json!({ "key": which });
            let keys = client.call(Method::POST, url, Some(&body), Precondition::Any).await?;
            printing.print(keys.body, CONNECTION)
        }
    }
}

/// Writes what `moorline-edge enrol` takes, and says how to call it.
fn keep_enrolment(screen: &Screen, folder: &Path, device: &str, made: &Value) -> anyhow::Result<()> {
    use fs_err::os::unix::fs::OpenOptionsExt as _;
    let text = |key: &str| made[key].as_str().unwrap_or_default().to_owned();
    fs_err::create_dir_all(folder)?;
    let mut options = fs_err::OpenOptions::new();
    let mut token = options.write(true).create(true).truncate(true).mode(0o600).open(folder.join("token"))?;
    token.write_all(text("token").as_bytes())?;
    fs_err::write(folder.join("authority.pem"), text("trusted_certificates"))?;
    screen.note(format_args!(
        "copy `{}` to the device, and there, within a day:\n  moorline-edge enrol --server {} --device {device} --token-file token --authority authority.pem",
        folder.display(),
        text("server"),
    ));
    Ok(())
}

fn wish(authentication: Option<Value>, disabled: Option<bool>, tags: Vec<(String, Value)>) -> Value {
    let mut wish = Map::new();
    wish.extend(authentication.map(|value| ("authentication".to_owned(), value)));
    wish.extend(disabled.map(|value| ("disabled".to_owned(), value.into())));
    if !tags.is_empty() {
        wish.insert("tags".to_owned(), Value::Object(tags.into_iter().collect()));
    }
    Value::Object(wish)
}

/// A device as a live view has it: how many of its modules are as they are desired, and which are not.
fn told(device: &Value) -> Value {
    let modules = device["agent"]["modules"].as_object();
    let as_desired =
        |module: &&Value| module["status"] == "running" && module["version"] == module["desired_version"];
    let all = || modules.into_iter().flatten();
    let not: Vec<String> = all()
        .filter(|(_, module)| !as_desired(module))
        .map(|(name, module)| format!("{name}: {}", module["status"].as_str().unwrap_or("unknown")))
        .collect();
    json!({
        "name": device["name"],
        "connected": device["agent"]["connected"].as_bool().or(device["connected"].as_bool()),
        "told": all().count(),
        "running": all().filter(|(_, module)| as_desired(module)).count(),
        "not": not.join(", "),
    })
}
