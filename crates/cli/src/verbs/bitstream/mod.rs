//! `moorline bitstream`: programs for FPGAs, as versioned assets of a workspace and as files on this machine.

mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use moorline_core::Name;
use moorline_spec::Bitstream;

use super::versions::{self, Archive, List, Show, Update};
use crate::{
    assets,
    document::{self, DocumentFlags, Flags},
    output::{Columns, Printing},
    session::Session,
};

pub(super) const KIND: &str = "bitstreams";
pub(super) const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("Version", "version"),
    ("Description", "description"),
    ("Created", "creation_context.created_at"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Register a bitstream: upload its file, once
    #[command(after_help = "Examples:\n  moorline bitstream create -p pocl.fbit\n  \
                      moorline bitstream create -n conv16 -v 2 -p u250.fbit --tags board=u250")]
    Create(Box<Create>),
    /// Show a version
    #[command(after_help = "Example:\n  moorline bitstream show -n conv16 -v 1")]
    Show(Show),
    /// List the bitstreams, or the versions of one
    #[command(
        after_help = "Examples:\n  moorline bitstream list\n  moorline bitstream list -n conv16 -o table"
    )]
    List(List),
    /// Change the description, the tags or the properties of a version
    #[command(after_help = "Example:\n  moorline bitstream update -n conv16 -v 1 --set tags.board=u250")]
    Update(Update),
    /// Hide a version, or all of them, from lists
    #[command(after_help = "Example:\n  moorline bitstream archive -n conv16 -v 1")]
    Archive(Archive),
    /// Show a version, or all of them, in lists again
    #[command(after_help = "Example:\n  moorline bitstream restore -n conv16")]
    Restore(Archive),
    #[command(flatten)]
    File(file::Verb),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The bitstream's name [default: its own id, where no document says another]
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The version [default: the next one]
    #[arg(short, long, value_name = "VERSION", value_parser = document::version)]
    version: Option<String>,
    /// The .fbit file
    #[arg(short, long, value_name = "FILE")]
    path: Option<PathBuf>,
    /// What it is, in words
    #[arg(short, long, value_name = "TEXT")]
    description: Option<String>,
    /// Tags
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE", value_parser = document::pair)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, *create).await,
        Verb::Show(show) => versions::show(session, KIND, show).await,
        Verb::List(list) => versions::list(session, KIND, list).await,
        Verb::Update(update) => versions::update(session, KIND, update).await,
        Verb::Archive(archive) => versions::archive(session, KIND, archive, "archive").await,
        Verb::Restore(archive) => versions::archive(session, KIND, archive, "restore").await,
        Verb::File(verb) => file::run(verb),
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let own = match (&create.name, &create.path) {
        // What is read here proves nothing of who made it; it is a name that people know it by.
        (None, Some(path)) if create.document.file.is_none() => Some(file::read(path)?.manifest().id.clone()),
        _ => None,
    };
    let name = create.name.as_ref().map(Name::as_str).or(own.as_deref());
    let flags = Flags::default()
        .with("--name", "name", name)
        .with("--version", "version", create.version.as_deref())
        .with("--description", "description", create.description.as_deref())
        .with_pairs("--tags", "tags", &create.tags)
        .with_path("--path", "path", create.path.as_deref())?;
    let bitstream: Bitstream = create.document.read(flags, &session.screen)?;
    let client = session.client().await?;
    let bitstream = assets::upload_bitstream(&client, &session.screen, &bitstream).await?;
    let body = serde_json::to_value(&bitstream)?;
    let version = bitstream.version.as_deref();
    let registered = versions::register(&client, KIND, &bitstream.name, version, &body).await?;
    create.printing.print(registered, COLUMNS)
}
