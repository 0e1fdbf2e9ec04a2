//! `moorline release`: makes the folder that a scorer serves, and shows what is in one.

use std::{
    collections::BTreeMap,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use moorline_core::{
    BatchSettings, EngineName, EngineSettings, ModelType, Name, Release, ReleaseCode, ReleaseModel,
    RequestSettings,
};

use crate::files;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a release from a model, a scoring script, or both
    #[command(
        after_help = "Examples:\n  moorline release create --name iris --model iris.onnx --output ./iris\n  \
                      moorline release create --name iris --model ./model --code ./src --scoring-script score.py --output ./iris"
    )]
    Create(Box<Create>),
    /// Show a release as JSON, with its digest
    #[command(after_help = "Example:\n  moorline release show ./iris")]
    Show {
        /// The release's folder
        release: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The release's name
    #[arg(short, long)]
    name: Name,
    /// The model: a file or a folder; a folder keeps its own name below the model directory
    #[arg(long, value_name = "PATH", required_unless_present = "code")]
    model: Option<PathBuf>,
    /// The model's name [default: the release's]
    #[arg(long, value_name = "NAME")]
    model_name: Option<Name>,
    /// The model's version
    #[arg(long, default_value = "1", value_name = "VERSION")]
    model_version: String,
    /// The folder of the scoring script and what it imports
    #[arg(long, value_name = "DIR", requires = "scoring_script")]
    code: Option<PathBuf>,
    /// The scoring script, relative to --code
    #[arg(long, value_name = "FILE", requires = "code")]
    scoring_script: Option<String>,
    /// A variable of the scorer and its script; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The engine that runs an ONNX model [default: the fastest that the machine has]
    #[arg(long)]
    engine: Option<Engine>,
    /// Runs at the same time [default: as many as cores]
    #[arg(long, value_name = "N")]
    sessions: Option<NonZeroUsize>,
    /// Threads inside one run [default: 1]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Rows or requests of one batch at most; turns dynamic batching on
    #[arg(long, value_name = "N")]
    max_batch_size: Option<NonZeroUsize>,
    /// How long the first request of a batch waits for others
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, requires = "max_batch_size")]
    max_batch_delay_us: u64,
    /// Sizes at which a batch goes at once, ascending
    #[arg(long, value_name = "N", value_delimiter = ',', requires = "max_batch_size")]
    preferred_batch_sizes: Vec<NonZeroUsize>,
    /// From a request to its answer
    #[arg(long, value_name = "MILLISECONDS")]
    request_timeout_ms: Option<u64>,
    /// Requests scored at one time
    #[arg(long, value_name = "N")]
    max_concurrent_requests: Option<NonZeroUsize>,
    /// How long a request may wait
    #[arg(long, value_name = "MILLISECONDS")]
    max_queue_wait_ms: Option<u64>,
    /// The folder to make; it must not exist
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Engine {
    Ort,
    Tract,
}

pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create(create) => self::create(*create),
        Command::Show { release } => show(&read(&release)?),
    }
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

/// Builds the release in a folder beside its place and moves it there whole: a release is never half there.
fn create(create: Create) -> anyhow::Result<()> {
    if create.output.exists() {
        bail!(
            "`{}` exists; a release is never changed, so choose another folder or remove this one",
            create.output.display()
        );
    }
    let parent =
        create.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs_err::create_dir_all(parent)?;
    let building = tempfile::Builder::new()
        .prefix(".release-")
        .tempdir_in(parent)
        .with_context(|| format!("could not make a folder in `{}`", parent.display()))?;
    let output = create.output.clone();
    let release = build(create, building.path())?;
    // Read back as a scorer will, so that what is refused is refused here.
    Release::parse(&release.to_json())?;
    fs_err::write(building.path().join(Release::FILE), release.to_json())?;
    make_readable(building.path())?;
    fs_err::rename(building.path(), &output)?;
    // The folder has another name now; there is nothing left to remove.
    let _ = building.keep();
    show(&release)
}

fn build(create: Create, folder: &Path) -> anyhow::Result<Release> {
    let model = create.model.as_deref().map(|path| {
        let sources = files::of_model(path)?;
        let files = files::take(&sources, &folder.join(Release::MODEL_DIR))?;
        let model_type = ModelType::by_looking(ModelType::CustomModel, &files);
        let name = create.model_name.clone().unwrap_or_else(|| create.name.clone());
        Ok::<_, anyhow::Error>(ReleaseModel {
            name,
            version: create.model_version.clone(),
            model_type,
            files,
        })
    });
    let code = create.code.as_deref().zip(create.scoring_script.clone()).map(|(path, scoring_script)| {
        let sources = files::of_folder(path, "")?;
        if !sources.iter().any(|source| source.path == scoring_script) {
            bail!("the scoring script `{scoring_script}` is not in `{}`", path.display());
        }
        Ok(ReleaseCode { scoring_script, files: files::take(&sources, &folder.join(Release::CODE_DIR))? })
    });
    Ok(Release {
        format: Release::FORMAT,
        name: create.name,
        model: model.transpose()?,
        code: code.transpose()?,
        environment: None,
        environment_variables: create.env.into_iter().collect::<BTreeMap<_, _>>(),
        request_settings: RequestSettings {
            request_timeout_ms: create.request_timeout_ms,
            max_concurrent_requests_per_instance: create.max_concurrent_requests,
            max_queue_wait_ms: create.max_queue_wait_ms,
        },
        engine: EngineSettings {
            name: create.engine.map(|engine| match engine {
                Engine::Ort => EngineName::Ort,
                Engine::Tract => EngineName::Tract,
            }),
            sessions: create.sessions,
            threads: create.threads,
        },
        batching: create.max_batch_size.map(|max_size| BatchSettings {
            max_size,
            max_delay_us: create.max_batch_delay_us,
            preferred_sizes: create.preferred_batch_sizes,
        }),
        image: None,
        collection: None,
    })
}

/// A temporary folder is its maker's alone; a release is for whoever runs the scorer.
fn make_readable(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs_err::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn read(folder: &Path) -> anyhow::Result<Release> {
    Ok(Release::parse(&fs_err::read_to_string(folder.join(Release::FILE))?)?)
}

fn show(release: &Release) -> anyhow::Result<()> {
    let mut document = serde_json::json!({ "digest": release.digest() });
    if let (Some(document), serde_json::Value::Object(own)) =
        (document.as_object_mut(), serde_json::to_value(release)?)
    {
        document.extend(own);
    }
    writeln!(std::io::stdout(), "{document:#}")?;
    Ok(())
}
