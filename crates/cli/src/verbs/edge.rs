//! `moorline edge`: devices and their modules, what they are to be, and what they say.

use std::borrow::Cow;

use clap::{Args, Subcommand, ValueEnum};
use moorline_core::Name;
use reqwest::{Method, Url};
use serde_json::{Map, Value, json};

use super::{
    edge_device::{self, COLUMNS, DeviceVerb},
    edge_manifest::{self, ManifestOf},
};
use crate::{
    arguments::Yes,
    client::{Client, Precondition},
    confirm,
    exit::Explained,
    output::{Columns, Printing},
    session::Session,
    stream,
};

const TWIN: Columns = Columns(&[("Tags", "tags"), ("Properties", "properties")]);
const ANSWER: Columns = Columns(&[("Status", "status"), ("Payload", "payload")]);
pub(super) const CONNECTION: Columns = Columns(&[("Connection string", "primary_connection_string")]);
pub(super) const KIND: &str = "devices";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Devices: edge machines that connect to the server's hub
    #[command(subcommand, after_help = "Example:\n  moorline edge device create -n line-3 --tag site=lyon")]
    Device(DeviceVerb),
    /// Modules of a device: what connects beside it, under its name and their own
    #[command(subcommand, after_help = "Example:\n  moorline edge module create -d line-3 -n camera")]
    Module(ModuleVerb),
    /// Twins: what a device or module is to be, and what it says that it is
    #[command(subcommand, after_help = "Example:\n  moorline edge twin show -d line-3")]
    Twin(TwinVerb),
    /// Call a method of a device or module, and print its answer
    #[command(after_help = "Examples:\n  moorline edge call -d line-3 reboot\n  \
                      moorline edge call -d line-3 -m camera focus --payload @distance.json")]
    Call(Call),
    /// Leave a message for a device, which gets it when it is connected
    #[command(after_help = "Example:\n  moorline edge send -d line-3 --payload night -p urgent=yes")]
    Send(Send),
    /// Print a deployment as a manifest for Azure IoT Edge's own runtime, check one, or have a device run one
    #[command(
        after_help = "Examples:\n  moorline edge manifest -f blue.yml --image registry.example/iris:1 > manifest.json\n  \
                      moorline edge manifest --check manifest.json\n  \
                      moorline edge manifest --apply manifest.json -d line-3"
    )]
    Manifest(Box<ManifestOf>),
    /// Print what the workspace's devices send, as it comes
    #[command(after_help = "Example:\n  moorline edge monitor")]
    Monitor,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModuleVerb {
    /// Make a module of a device
    #[command(after_help = "Example:\n  moorline edge module create -d line-3 -n camera")]
    Create {
        #[command(flatten)]
        module: OfDevice,
        #[command(flatten)]
        proof: Proof,
        #[command(flatten)]
        printing: Printing,
    },
    /// Delete a module, with its twin and its keys
    #[command(after_help = "Example:\n  moorline edge module delete -d line-3 -n camera -y")]
    Delete {
        #[command(flatten)]
        module: OfDevice,
        #[command(flatten)]
        yes: Yes,
    },
    /// Show the connection strings of a module
    #[command(after_help = "Example:\n  moorline edge module connection-string -d line-3 -n camera -o tsv")]
    ConnectionString {
        #[command(flatten)]
        module: OfDevice,
        #[command(flatten)]
        printing: Printing,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TwinVerb {
    /// Show a twin
    #[command(after_help = "Example:\n  moorline edge twin show -d line-3 -m camera")]
    Show {
        #[command(flatten)]
        client: DeviceOrModule,
        #[command(flatten)]
        printing: Printing,
    },
    /// Change desired properties and tags; what is null goes
    #[command(after_help = "Example:\n  moorline edge twin update -d line-3 --desired @desired.json")]
    Update {
        #[command(flatten)]
        client: DeviceOrModule,
        /// Changes of the desired properties: a JSON object, or @FILE with one
        #[arg(long, value_name = "JSON")]
        desired: Option<String>,
        /// Changes of the tags: a JSON object, or @FILE with one
        #[arg(long, value_name = "JSON")]
        tags: Option<String>,
        #[command(flatten)]
        printing: Printing,
    },
}

#[derive(Debug, Args)]
pub(crate) struct OfDevice {
    /// The device's name
    #[arg(short, long, value_name = "NAME")]
    device: Name,
    /// The module's name
    #[arg(short, long, value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeviceOrModule {
    /// The device's name
    #[arg(short, long, value_name = "NAME")]
    device: Name,
    /// A module of it
    #[arg(short, long, value_name = "NAME")]
    module: Option<String>,
}

/// How it proves itself.
#[derive(Debug, Args)]
pub(crate) struct Proof {
    /// How it proves itself: by a key, by a certificate that is known, or by one that this server issued [default: sas]
    #[arg(long, value_name = "KIND")]
    auth: Option<Auth>,
    /// The sha256 of its certificate in hexadecimal digits, with --auth self-signed
    #[arg(long, value_name = "SHA256", required_if_eq("auth", "self-signed"))]
    primary_thumbprint: Option<String>,
    /// That of its next certificate
    #[arg(long, value_name = "SHA256", requires = "primary_thumbprint")]
    secondary_thumbprint: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Auth {
    Sas,
    SelfSigned,
    CertificateAuthority,
}

impl Proof {
    pub(super) fn wish(&self) -> Option<Value> {
        match (self.auth, &self.primary_thumbprint) {
            (None, None) => None,
            (Some(Auth::Sas), _) => Some(json!({ "type": "sas" })),
            (Some(Auth::CertificateAuthority), _) => Some(json!({ "type": "certificateAuthority" })),
            (Some(Auth::SelfSigned) | None, primary) => {
                let mut wish = json!({ "type": "selfSigned", "primaryThumbprint": primary });
                if let Some(secondary) = &self.secondary_thumbprint {
                    wish["secondaryThumbprint"] = secondary.as_str().into();
                }
                Some(wish)
            }
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    #[command(flatten)]
    client: DeviceOrModule,
    /// The method's name
    #[arg(value_name = "METHOD")]
    method: String,
    /// What it is given: JSON where it can be read as it, else text; or @FILE with it
    #[arg(long, value_name = "JSON", default_value = "null")]
    payload: String,
    /// Seconds for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=300))]
    timeout: u64,
    /// Seconds for the device to connect, if it is not connected
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=300))]
    connect_timeout: u64,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The device's name
    #[arg(short, long, value_name = "NAME")]
    device: Name,
    /// The message: JSON where it can be read as it, else text; or @FILE with it
    #[arg(long, value_name = "JSON")]
    payload: String,
    /// A property of the message; may be repeated
    #[arg(short, long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// By which the device knows one that comes twice
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Seconds for which it waits for the device
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    time_to_live: u64,
}

/// JSON where it can be read as it, else text.
fn any(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The text itself, or that of the file which it names.
fn given(text: &str) -> anyhow::Result<Cow<'_, str>> {
    match text.strip_prefix('@') {
        Some(file) => Ok(Cow::Owned(fs_err::read_to_string(file)?)),
        None => Ok(Cow::Borrowed(text)),
    }
}

fn object(flag: &str, text: &str) -> anyhow::Result<Value> {
    match serde_json::from_str(&given(text)?) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err(Explained::usage(format!("{flag} is JSON, and no object")).into()),
        Err(error) => Err(Explained::usage(format!("{flag} is not JSON: {error}")).into()),
    }
}

pub(super) fn tag(text: &str) -> Result<(String, Value), String> {
    let (name, value) = property(text)?;
    Ok((name, any(&value)))
}

fn property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it is written NAME=VALUE".to_owned()),
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    if let Verb::Manifest(of) = verb {
        return edge_manifest::run(session, *of).await;
    }
    let client = session.client().await?;
    match verb {
        Verb::Manifest(_) => unreachable!("it was printed"),
        Verb::Device(verb) => edge_device::run(session, &client, verb).await,
        Verb::Module(verb) => module(&client, verb).await,
        Verb::Twin(verb) => twin(&client, verb).await,
        Verb::Call(call) => self::call(&client, call).await,
        Verb::Send(send) => self::send(&client, send).await,
        Verb::Monitor => {
            let url = client.at(&["device-messages"]);
            stream::print(client.send(client.request(Method::GET, url)).await?, "the stream of messages")
                .await
        }
    }
}

async fn module(client: &Client, verb: ModuleVerb) -> anyhow::Result<()> {
    let at = |module: &OfDevice, more: &[&str]| {
        let path = [&[KIND, module.device.as_str(), "modules", &module.name], more].concat();
        client.at(&path)
    };
    match verb {
        ModuleVerb::Create { module, proof, printing } => {
            let mut wish = Map::new();
            wish.extend(proof.wish().map(|value| ("authentication".to_owned(), value)));
            let (url, wish) = (at(&module, &[]), Value::Object(wish));
            printing.print(client.call(Method::PUT, url, Some(&wish), Precondition::Any).await?.body, COLUMNS)
        }
        ModuleVerb::Delete { module, yes } => {
            confirm::ask(&format!("Delete the module `{}` of `{}`?", module.name, module.device), yes.yes)?;
            client.call(Method::DELETE, at(&module, &[]), None, Precondition::Any).await.map(drop)
        }
        ModuleVerb::ConnectionString { module, printing } => {
            let keys = client.call(Method::POST, at(&module, &["keys"]), None, Precondition::Any).await?;
            printing.print(keys.body, CONNECTION)
        }
    }
}

/// A part of a device's resource, of the device itself or of one of its modules.
fn part(client: &Client, of: &DeviceOrModule, part: &str) -> Url {
    let mut url = client.at(&[KIND, of.device.as_str(), part]);
    if let Some(module) = &of.module {
        url.query_pairs_mut().append_pair("module", module);
    }
    url
}

async fn twin(client: &Client, verb: TwinVerb) -> anyhow::Result<()> {
    match verb {
        TwinVerb::Show { client: of, printing } => {
            printing.print(client.get(part(client, &of, "twin")).await?, TWIN)
        }
        TwinVerb::Update { client: of, desired, tags, printing } => {
            if desired.is_none() && tags.is_none() {
                return Err(Explained::usage("nothing is changed: give --desired or --tags").into());
            }
            let desired = desired.map(|text| object("--desired", &text)).transpose()?;
            let tags = tags.map(|text| object("--tags", &text)).transpose()?;
            let mut patch = Map::new();
            patch.extend(tags.map(|tags| ("tags".to_owned(), tags)));
            patch.extend(desired.map(|desired| ("properties".to_owned(), json!({ "desired": desired }))));
            let (url, patch) = (part(client, &of, "twin"), Value::Object(patch));
            printing.print(client.call(Method::PATCH, url, Some(&patch), Precondition::Any).await?.body, TWIN)
        }
    }
}

async fn call(client: &Client, call: Call) -> anyhow::Result<()> {
    let body = json!({
        "methodName": call.method,
        "payload": any(&given(&call.payload)?),
        "responseTimeoutInSeconds": call.timeout,
        "connectTimeoutInSeconds": call.connect_timeout,
    });
    let url = part(client, &call.client, "methods");
    call.printing.print(client.call(Method::POST, url, Some(&body), Precondition::Any).await?.body, ANSWER)
}

async fn send(client: &Client, send: Send) -> anyhow::Result<()> {
    let properties: Map<String, Value> =
        send.properties.into_iter().map(|(name, value)| (name, value.into())).collect();
    let body = json!({
        "payload": any(&given(&send.payload)?),
        "properties": properties,
        "message_id": send.message_id,
        "time_to_live": send.time_to_live,
    });
    let url = client.at(&[KIND, send.device.as_str(), "messages"]);
    client.call(Method::POST, url, Some(&body), Precondition::Any).await.map(drop)
}
