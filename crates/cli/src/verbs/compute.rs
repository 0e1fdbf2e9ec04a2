//! `moorline compute`: places where deployments run.

use clap::{Args, Subcommand};
use moorline_core::Name;
use moorline_spec::{Compute, Document};
use reqwest::Method;
use serde_json::Value;

use crate::{
    arguments::{NoWait, Yes},
    client::Precondition,
    confirm,
    document::{DocumentFlags, Flags},
    edits::Edits,
    output::{Columns, Printing},
    session::Session,
};

const COLUMNS: Columns = Columns(&[("Name", "name"), ("Type", "type"), ("Description", "description")]);
const KIND: &str = "computes";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Register a compute
    #[command(
        visible_alias = "attach",
        after_help = "Examples:\n  moorline compute create -n this-machine -t local\n  \
                      moorline compute create -f cluster.yml"
    )]
    Create(Box<Create>),
    /// Show a compute
    #[command(after_help = "Example:\n  moorline compute show -n this-machine")]
    Show {
        /// The compute's name
        #[arg(short, long, value_name = "NAME")]
        name: Name,
        #[command(flatten)]
        printing: Printing,
    },
    /// List the computes
    #[command(after_help = "Example:\n  moorline compute list")]
    List {
        /// Only of this type
        #[arg(short = 't', long = "type", value_name = "TYPE")]
        kind: Option<String>,
        #[command(flatten)]
        printing: Printing,
    },
    /// Change a compute
    #[command(after_help = "Example:\n  moorline compute update -n cluster --set namespace=scoring")]
    Update(Update),
    /// Delete a compute; what runs on it must be deleted first
    #[command(visible_alias = "detach", after_help = "Example:\n  moorline compute delete -n cluster -y")]
    Delete {
        /// The compute's name
        #[arg(short, long, value_name = "NAME")]
        name: Name,
        #[command(flatten)]
        yes: Yes,
        #[command(flatten)]
        wait: NoWait,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The compute's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// local, container, kubernetes, fpga or edge
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// What it is, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The namespace, of a cluster
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Accepted for scripts written for `az`; a cluster is found by its context
    #[arg(long, value_name = "ID")]
    resource_id: Option<String>,
    #[command(flatten)]
    wait: NoWait,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The compute's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    edits: Edits,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, *create).await,
        Verb::Show { name, printing } => {
            let client = session.client().await?;
            printing.print(client.get(client.at(&[KIND, name.as_str()])).await?, COLUMNS)
        }
        Verb::List { kind, printing } => {
            let client = session.client().await?;
            let mut found = client.list(client.at(&[KIND]), None).await?;
            if let Some(kind) = kind {
                found.retain(|item| item["type"].as_str().is_some_and(|own| own.eq_ignore_ascii_case(&kind)));
            }
            printing.print(Value::Array(found), COLUMNS)
        }
        Verb::Update(update) => {
            let client = session.client().await?;
            let url = client.at(&[KIND, update.name.as_str()]);
            let mut compute = client.get(url.clone()).await?;
            update.edits.apply(&mut compute)?;
            let made = client.call(Method::PUT, url, Some(&compute), Precondition::Any).await?.body;
            update.printing.print(made, COLUMNS)
        }
        Verb::Delete { name, yes, .. } => {
            confirm::ask(&format!("Delete the {} `{name}`?", Compute::KIND), yes.yes)?;
            let client = session.client().await?;
            let url = client.at(&[KIND, name.as_str()]);
            client.call(Method::DELETE, url, None, Precondition::Any).await.map(drop)
        }
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let flags = Flags::default()
        .with("--name", "name", create.name.as_ref().map(Name::as_str))
        .with("--type", "type", create.kind.as_deref())
        .with("--description", "description", create.description.as_deref())
        .with("--namespace", "namespace", create.namespace.as_deref());
    let compute: Compute = create.document.read(flags, &session.screen)?;
    let client = session.client().await?;
    let body = serde_json::to_value(&compute)?;
    let url = client.at(&[KIND, compute.name.as_str()]);
    let made = client.call(Method::PUT, url, Some(&body), Precondition::Any).await?.body;
    create.printing.print(made, COLUMNS)
}
