//! `moorline workspace`: what holds everything else.

use clap::{Args, Subcommand};
use moorline_core::Name;
use moorline_spec::Workspace;
use reqwest::Method;
use serde_json::Value;

use crate::{
    arguments::{NoWait, Yes},
    client::Precondition,
    confirm,
    document::{self, DocumentFlags, Flags},
    edits::{Edits, merge_patch},
    exit::Explained,
    output::{Columns, Printing},
    session::Session,
};

const COLUMNS: Columns =
    Columns(&[("Name", "name"), ("DisplayName", "display_name"), ("Description", "description")]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a workspace
    #[command(
        after_help = "Examples:\n  moorline workspace create -n team-a --description 'models of team a'\n  \
                      moorline workspace create -f workspace.yml"
    )]
    Create(Create),
    /// Show a workspace
    #[command(after_help = "Example:\n  moorline workspace show -n team-a")]
    Show(Show),
    /// List the workspaces
    #[command(after_help = "Example:\n  moorline workspace list -o table")]
    List {
        #[command(flatten)]
        printing: Printing,
    },
    /// Change the description, the display name or the tags
    #[command(
        after_help = "Example:\n  moorline workspace update -n team-a --set description='models of team a'"
    )]
    Update(Update),
    /// Delete a workspace
    #[command(after_help = "Example:\n  moorline workspace delete -n team-a --all-resources -y")]
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The workspace's name [default: that of --workspace-name]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The name for people
    #[arg(short, long, value_name = "TEXT")]
    display_name: Option<String>,
    /// What it is, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Tags
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE", value_parser = document::pair)]
    tags: Vec<(String, String)>,
    /// Accepted for scripts written for `az`; it is where the server is
    #[arg(short, long, value_name = "PLACE")]
    location: Option<String>,
    /// Accepted for scripts written for `az`; it is there at once
    #[command(flatten)]
    wait: NoWait,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The workspace's name [default: that of --workspace-name]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[command(flatten)]
    which: Show,
    /// The name for people
    #[arg(short, long, value_name = "TEXT")]
    display_name: Option<String>,
    /// What it is, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    edits: Edits,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The workspace's name [default: that of --workspace-name]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// Delete what is in it too
    #[arg(long)]
    all_resources: bool,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    wait: NoWait,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, create).await,
        Verb::Show(show) => {
            let client = session.client().await?;
            let name = show.name.as_ref().unwrap_or(session.workspace());
            let found = client.get(client.root(&["workspaces", name.as_str()])).await?;
            show.printing.print(found, COLUMNS)
        }
        Verb::List { printing } => {
            let client = session.client().await?;
            let found = client.list(client.root(&["workspaces"]), None).await?;
            printing.print(Value::Array(found), COLUMNS)
        }
        Verb::Update(update) => self::update(session, update).await,
        Verb::Delete(delete) => self::delete(session, delete).await,
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let name = create.name.as_ref().or(create.document.file.is_none().then_some(session.workspace()));
    let flags = Flags::default()
        .with("--name", "name", name.map(Name::as_str))
        .with("--display-name", "display_name", create.display_name.as_deref())
        .with("--description", "description", create.description.as_deref())
        .with_pairs("--tags", "tags", &create.tags);
    let workspace: Workspace = create.document.read(flags, &session.screen)?;
    let client = session.client().await?;
    let body = serde_json::to_value(&workspace)?;
    let url = client.root(&["workspaces"]);
    let made = client.call(Method::POST, url, Some(&body), Precondition::Any).await?.body;
    create.printing.print(made, COLUMNS)
}

async fn update(session: &Session, update: Update) -> anyhow::Result<()> {
    let client = session.client().await?;
    let name = update.which.name.as_ref().unwrap_or(session.workspace());
    let url = client.root(&["workspaces", name.as_str()]);
    let before = client.get(url.clone()).await?;
    let mut after = before.clone();
    update.edits.apply(&mut after)?;
    for (key, value) in [("display_name", &update.display_name), ("description", &update.description)] {
        if let Some(value) = value {
            after[key] = value.as_str().into();
        }
    }
    let patch = merge_patch(&before, &after);
    let after = client.call(Method::PATCH, url, Some(&patch), Precondition::Any).await?.body;
    update.which.printing.print(after, COLUMNS)
}

async fn delete(session: &Session, delete: Delete) -> anyhow::Result<()> {
    let name = delete.name.as_ref().unwrap_or(session.workspace());
    let with = if delete.all_resources { " and everything in it" } else { "" };
    confirm::ask(&format!("Delete the workspace `{name}`{with}?"), delete.yes.yes)?;
    let client = session.client().await?;
    let mut url = client.root(&["workspaces", name.as_str()]);
    if delete.all_resources {
        url.query_pairs_mut().append_pair("with_contents", "true");
    }
    match client.call(Method::DELETE, url, None, Precondition::Any).await {
        Err(error)
            if !delete.all_resources
                && crate::client::status_of(&error) == Some(reqwest::StatusCode::CONFLICT) =>
        {
            Err(error.context(
                Explained::new(format!("the workspace `{name}` was not deleted"))
                    .hint("--all-resources deletes what is in it too"),
            ))
        }
        result => result.map(drop),
    }
}
