//! `moorline model`: versioned, immutable files.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use moorline_core::{FileEntry, Name};
use moorline_spec::Model;

use super::versions::{self, Archive, List, Show, Update};
use crate::{
    assets,
    document::{self, DocumentFlags, Flags},
    download,
    exit::Explained,
    output::{Columns, Printing},
    session::Session,
};

pub(super) const KIND: &str = "models";
pub(super) const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("Version", "version"),
    ("Type", "type"),
    ("Description", "description"),
    ("Created", "creation_context.created_at"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Register a model: upload its files, once
    #[command(after_help = "Examples:\n  moorline model create -n iris -p iris.onnx\n  \
                      moorline model create -n iris -v 2 -p ./model -t mlflow_model --tags team=a\n  \
                      moorline model create -f model.yml --set version=3")]
    Create(Box<Create>),
    /// Show a version
    #[command(after_help = "Example:\n  moorline model show -n iris -v 1")]
    Show(Show),
    /// List the models, or the versions of one
    #[command(after_help = "Examples:\n  moorline model list\n  moorline model list -n iris -o table")]
    List(List),
    /// Change the description, the tags, the properties or the stage of a version
    #[command(after_help = "Example:\n  moorline model update -n iris -v 1 --set tags.stage=production")]
    Update(Update),
    /// Hide a version, or all of them, from lists
    #[command(after_help = "Example:\n  moorline model archive -n iris -v 1")]
    Archive(Archive),
    /// Show a version, or all of them, in lists again
    #[command(after_help = "Example:\n  moorline model restore -n iris")]
    Restore(Archive),
    /// Download the files of a version, into a folder of the model's name
    #[command(after_help = "Example:\n  moorline model download -n iris -v 1 -p ./downloads")]
    Download(Download),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The model's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The version [default: the next one]
    #[arg(short, long, value_name = "VERSION", value_parser = document::version)]
    version: Option<String>,
    /// The model: a file or a folder; a folder keeps its own name below the model directory
    #[arg(short, long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// custom_model, mlflow_model or triton_model; ONNX is found by looking [default: custom_model]
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    model_type: Option<String>,
    /// What it is, in words
    #[arg(short, long, value_name = "TEXT")]
    description: Option<String>,
    /// Its stage in its life, in your own words
    #[arg(short, long, value_name = "TEXT")]
    stage: Option<String>,
    /// Tags
    #[arg(long, num_args = 1.., value_name = "NAME=VALUE", value_parser = document::pair)]
    tags: Vec<(String, String)>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Download {
    #[command(flatten)]
    show: versions::Show,
    /// The folder to put the model's folder into
    #[arg(short = 'p', long, value_name = "DIR", default_value = ".")]
    download_path: PathBuf,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, *create).await,
        Verb::Show(show) => versions::show(session, KIND, show).await,
        Verb::List(list) => versions::list(session, KIND, list).await,
        Verb::Update(update) => versions::update(session, KIND, update).await,
        Verb::Archive(archive) => versions::archive(session, KIND, archive, "archive").await,
        Verb::Restore(archive) => versions::archive(session, KIND, archive, "restore").await,
        Verb::Download(download) => self::download(session, download).await,
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let flags = Flags::default()
        .with("--name", "name", create.name.as_ref().map(Name::as_str))
        .with("--version", "version", create.version.as_deref())
        .with("--type", "type", create.model_type.as_deref())
        .with("--description", "description", create.description.as_deref())
        .with("--stage", "stage", create.stage.as_deref())
        .with_pairs("--tags", "tags", &create.tags)
        .with_path("--path", "path", create.path.as_deref())?;
    let model: Model = create.document.read(flags, &session.screen)?;
    let Some(name) = model.name.clone() else {
        return Err(Explained::usage("the model has no name").hint("give one with -n").into());
    };
    let client = session.client().await?;
    let model = assets::upload_model(&client, &session.screen, &model).await?;
    let body = serde_json::to_value(&model)?;
    let registered = versions::register(&client, KIND, &name, model.version.as_deref(), &body).await?;
    create.printing.print(registered, COLUMNS)
}

async fn download(session: &Session, download: Download) -> anyhow::Result<()> {
    let client = session.client().await?;
    let (name, version) = download.show.which.resolve(&client, KIND).await?;
    let mut model = client.get(client.at(&[KIND, &name, "versions", &version])).await?;
    let files: Vec<FileEntry> = serde_json::from_value(model["files"].take())?;
    let folder = download.download_path.join(&name);
    download::fetch(&client, &session.screen, &name, &files, &folder).await?;
    session.screen.note(format_args!("`{name}` version {version} is in `{}`", folder.display()));
    Ok(())
}
