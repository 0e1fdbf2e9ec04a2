//! `moorline environment`: what a scoring script needs around it, versioned.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use moorline_core::Name;
use moorline_spec::Environment;

use super::versions::{self, Archive, List, Show, Update};
use crate::{
    assets,
    document::{self, DocumentFlags, Flags},
    exit::Explained,
    output::{Columns, Printing},
    session::Session,
};

const KIND: &str = "environments";
pub(super) const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("Version", "version"),
    ("Image", "image"),
    ("Description", "description"),
    ("Created", "creation_context.created_at"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Register an environment
    #[command(after_help = "Examples:\n  moorline environment create -f environment.yml\n  \
                      moorline environment create -n sklearn -v 1 --conda-file conda.yml --image ubuntu:24.04")]
    Create(Box<Create>),
    /// Show a version
    #[command(after_help = "Example:\n  moorline environment show -n sklearn --label latest")]
    Show(Show),
    /// List the environments, or the versions of one
    #[command(after_help = "Example:\n  moorline environment list -n sklearn")]
    List(List),
    /// Change the description or the tags of a version
    #[command(
        after_help = "Example:\n  moorline environment update -n sklearn -v 1 --set description=tested"
    )]
    Update(Update),
    /// Hide a version, or all of them, from lists
    #[command(after_help = "Example:\n  moorline environment archive -n sklearn -v 1")]
    Archive(Archive),
    /// Show a version, or all of them, in lists again
    #[command(after_help = "Example:\n  moorline environment restore -n sklearn -v 1")]
    Restore(Archive),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The environment's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The version [default: the next one]
    #[arg(short, long, value_name = "VERSION", value_parser = document::version)]
    version: Option<String>,
    /// The conda file
    #[arg(short, long, value_name = "FILE")]
    conda_file: Option<PathBuf>,
    /// The base image
    #[arg(short, long, value_name = "IMAGE")]
    image: Option<String>,
    /// The folder of a Dockerfile and what it copies
    #[arg(short, long, value_name = "DIR")]
    build_context: Option<PathBuf>,
    /// The Dockerfile, relative to --build-context [default: Dockerfile]
    #[arg(short, long, value_name = "FILE", requires = "build_context")]
    dockerfile_path: Option<String>,
    /// linux or windows
    #[arg(long, value_name = "OS")]
    os_type: Option<String>,
    /// What it is, in words
    #[arg(long, value_name = "TEXT")]
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
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let flags = Flags::default()
        .with("--name", "name", create.name.as_ref().map(Name::as_str))
        .with("--version", "version", create.version.as_deref())
        .with("--image", "image", create.image.as_deref())
        .with("--os-type", "os_type", create.os_type.as_deref())
        .with("--description", "description", create.description.as_deref())
        .with_pairs("--tags", "tags", &create.tags)
        .with_path("--conda-file", "conda_file", create.conda_file.as_deref())?
        .with_path("--build-context", "build.path", create.build_context.as_deref())?
        .with("--dockerfile-path", "build.dockerfile_path", create.dockerfile_path.as_deref());
    let environment: Environment = create.document.read(flags, &session.screen)?;
    let Some(name) = environment.name.clone() else {
        return Err(Explained::usage("the environment has no name").hint("give one with -n").into());
    };
    let client = session.client().await?;
    let (environment, body) = assets::upload_environment(&client, &session.screen, &environment).await?;
    let registered = versions::register(&client, KIND, &name, environment.version.as_deref(), &body).await?;
    create.printing.print(registered, COLUMNS)
}
