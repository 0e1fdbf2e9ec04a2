//! What models and environments have in common: lists, versions, labels, archiving.

use clap::Args;
use moorline_core::Name;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::{
    client::{Client, Precondition},
    document,
    edits::{Edits, merge_patch},
    exit::Explained,
    output::{Columns, Printing},
    session::Session,
};

/// The columns of a kind of assets.
pub(super) fn columns(kind: &str) -> Columns {
    match kind {
        super::model::KIND => super::model::COLUMNS,
        super::bitstream::KIND => super::bitstream::COLUMNS,
        _ => super::environment::COLUMNS,
    }
}

/// Which version.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// The version
    #[arg(short, long, value_name = "VERSION", value_parser = document::version, conflicts_with = "label")]
    version: Option<String>,
    /// The label of a version; `latest` is the newest
    #[arg(short, long, value_name = "LABEL")]
    label: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// List the versions of this one
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// List at most so many
    #[arg(short = 'r', long, value_name = "N")]
    max_results: Option<usize>,
    /// List archived ones too
    #[arg(long)]
    include_archived: bool,
    /// List archived ones and no others
    #[arg(long, conflicts_with = "include_archived")]
    archived_only: bool,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(super) which: Which,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    edits: Edits,
    #[command(flatten)]
    printing: Printing,
}

/// Every version, where none is named.
#[derive(Debug, Args)]
pub(crate) struct Archive {
    #[command(flatten)]
    which: Which,
}

impl Which {
    /// The version, asked for where a label names it.
    pub(super) async fn resolve(&self, client: &Client, kind: &str) -> anyhow::Result<(String, String)> {
        let version = match (&self.version, self.label.as_deref()) {
            (Some(version), _) => version.clone(),
            (None, None | Some("latest")) => {
                let latest = client.get(client.at(&[kind, self.name.as_str(), "versions", "latest"])).await?;
                latest.get("version").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            (None, Some(label)) => {
                return Err(Explained::usage(format!("there is no label `{label}`"))
                    .hint("the label that every asset has is `latest`")
                    .into());
            }
        };
        Ok((self.name.to_string(), version))
    }
}

pub(super) async fn list(session: &Session, kind: &str, list: List) -> anyhow::Result<()> {
    let client = session.client().await?;
    let mut url = match &list.name {
        Some(name) => client.at(&[kind, name.as_str()]),
        None => client.at(&[kind]),
    };
    if list.include_archived || list.archived_only {
        url.query_pairs_mut().append_pair("include_archived", "true");
    }
    // What is filtered here must be counted after it was.
    let limit = list.max_results.filter(|_| !list.archived_only);
    let mut items = client.list(url, limit).await?;
    if list.archived_only {
        items.retain(|item| item.get("archived") == Some(&Value::Bool(true)));
        items.truncate(list.max_results.unwrap_or(usize::MAX));
    }
    list.printing.print(Value::Array(items), columns(kind))
}

pub(super) async fn show(session: &Session, kind: &str, show: Show) -> anyhow::Result<()> {
    let client = session.client().await?;
    // `az` asks for the version or a label; the newest is what people mean without either.
    let (name, version) = show.which.resolve(&client, kind).await?;
    let found = client.get(version_url(&client, kind, &name, &version)).await?;
    show.printing.print(found, columns(kind))
}

pub(super) async fn update(session: &Session, kind: &str, update: Update) -> anyhow::Result<()> {
    let client = session.client().await?;
    let (name, version) = update.which.resolve(&client, kind).await?;
    let url = version_url(&client, kind, &name, &version);
    let before = client.get(url.clone()).await?;
    let mut after = before.clone();
    update.edits.apply(&mut after)?;
    let patch = merge_patch(&before, &after);
    let after = client.call(Method::PATCH, url, Some(&patch), Precondition::Any).await?.body;
    update.printing.print(after, columns(kind))
}

/// Archives a version or all of them, or restores them.
pub(super) async fn archive(
    session: &Session,
    kind: &str,
    archive: Archive,
    action: &str,
) -> anyhow::Result<()> {
    let client = session.client().await?;
    let name = archive.which.name.as_str();
    let versions = if archive.which.version.is_some() || archive.which.label.is_some() {
        vec![archive.which.resolve(&client, kind).await?.1]
    } else {
        let mut url = client.at(&[kind, name]);
        url.query_pairs_mut().append_pair("include_archived", "true");
        let all = client.list(url, None).await?;
        all.iter().filter_map(|item| item.get("version")?.as_str().map(ToOwned::to_owned)).collect()
    };
    if versions.is_empty() {
        return Err(Explained::new(format!("there is no `{name}`")).into());
    }
    for version in versions {
        let url = client.at(&[kind, name, "versions", &version, action]);
        client.call(Method::POST, url, None, Precondition::Any).await?;
    }
    Ok(())
}

fn version_url(client: &Client, kind: &str, name: &str, version: &str) -> Url {
    client.at(&[kind, name, "versions", version])
}

/// Registers a document under its version, or under the next one where it names none.
pub(super) async fn register(
    client: &Client,
    kind: &str,
    name: &Name,
    version: Option<&str>,
    body: &Value,
) -> anyhow::Result<Value> {
    let (method, url) = match version {
        Some(version) => (Method::PUT, version_url(client, kind, name.as_str(), version)),
        None => (Method::POST, client.at(&[kind, name.as_str(), "versions"])),
    };
    Ok(client.call(method, url, Some(body), Precondition::Any).await?.body)
}
