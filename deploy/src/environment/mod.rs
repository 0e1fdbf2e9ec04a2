//! Environments: a conda file becomes a Python environment of this machine, or the files of one for an image, once.
//!
//! `uv` makes it from PyPI where every package can be had there, else `micromamba` where it is installed. An environment
//! is named by the digest of its description, made beside and moved into place, and never changed afterwards.

mod build;
mod compile;
mod distributions;
mod layer;
mod packages;
mod python;
mod store;
mod tools;
mod tree;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use moorline_core::{Digest, Environment, ErrorClass};
use moorline_spec::{
    SourceFile,
    conda::{self, CondaFile},
};
use thiserror::Error;
use tokio::{process::Command, time::timeout};

use self::{build::BuildLog, python::Python, store::Folder};
pub use self::{compile::Compilation, layer::LayerTree};
pub(crate) use self::{distributions::Distribution, python::Constraint, tree::distributions_of_tree};

/// Part of every name, so that environments that an earlier build made differently are made again.
const FORMAT: &str = "1";

/// Where environments lie, and what makes them.
#[derive(Clone)]
pub struct EnvironmentConfig {
    /// The folder of its own: `$MOORLINE_HOME/environments`.
    pub dir: PathBuf,
    /// The `uv` to use; looked for in `tools`, beside the running binary, and on the `PATH` where it is `None`.
    pub uv: Option<PathBuf>,
    /// Where tools of this installation lie: `$MOORLINE_HOME/tools`.
    pub tools: PathBuf,
    /// The environment of this process: `PATH`, proxies, and the settings of uv and pip pass on to what is run.
    pub environment: BTreeMap<String, String>,
    /// For one environment to be made.
    pub timeout: Duration,
}

impl EnvironmentConfig {
    pub fn new(dir: PathBuf, tools: PathBuf, environment: BTreeMap<String, String>) -> Self {
        Self { dir, uv: None, tools, environment, timeout: Duration::from_mins(30) }
    }
}

impl fmt::Debug for EnvironmentConfig {
    /// Without the environment, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvironmentConfig").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// An environment that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its interpreter.
    pub python: PathBuf,
}

/// Why an environment could not be made.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct EnvironmentError {
    class: ErrorClass,
    message: String,
    log: Vec<String>,
    without_wheels: Vec<String>,
    #[source]
    source: Option<io::Error>,
}

impl EnvironmentError {
    fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), log: Vec::new(), without_wheels: Vec::new(), source: None }
    }

    fn io(message: &str, source: io::Error) -> Self {
        let class = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorClass::Unavailable,
            _ => ErrorClass::Internal,
        };
        Self { source: Some(source), ..Self::new(class, message) }
    }

    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    /// The last lines that the build printed, oldest first.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// Packages that have to be compiled in the image that they are for, which [`Environments::compilation`] is for.
    pub fn without_wheels(&self) -> &[String] {
        &self.without_wheels
    }

    fn late(after: Duration) -> Self {
        Self::new(ErrorClass::Timeout, format!("the environment was not made within {} s", after.as_secs()))
    }

    fn python_constraint(asked: &str) -> Self {
        Self::new(
            ErrorClass::InvalidInput,
            format!(
                "`python {asked}` is no version that can be chosen; write `python=3.12` or `python>=3.10,<3.13`"
            ),
        )
    }
}

/// The environments of one folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environments(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: EnvironmentConfig,
    folder: Folder,
}

/// What is to be made, and by what.
enum Recipe {
    /// Nothing but the Python asked for: the worker of scoring scripts needs no package.
    Bare { python: String },
    /// Lines for `uv pip install`, and the Python asked for.
    Pip { python: String, lines: Vec<String> },
    /// What only conda has.
    Conda { text: String, micromamba: PathBuf },
}

impl Environments {
    /// Opens the folder, and clears away what a build that was interrupted left there.
    pub fn open(config: EnvironmentConfig) -> Result<Self, EnvironmentError> {
        let folder = Folder::open(&config.dir)
            .map_err(|error| EnvironmentError::io("could not open the folder of environments", error))?;
        Ok(Self(Arc::new(Inner { config, folder })))
    }

    /// Where the interpreter of an environment is, or will be once it is made. Looks at nothing.
    pub fn python(&self, environment: &Environment) -> PathBuf {
        self.0.folder.python(&key(environment))
    }

    /// Makes the environment if it is not there. `progress` is told of every line that the build prints. Two calls for
    /// one environment build it once. A call that is cancelled ends what it had begun.
    pub async fn ensure(
        &self,
        environment: &Environment,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Place, EnvironmentError> {
        let key = key(environment);
        let Inner { config, folder } = &*self.0;
        let place = || Place { python: folder.python(&key) };
        if folder.is_whole(&key) {
            return Ok(place());
        }
        let recipe = recipe(config, environment)?;
        let waits = || progress("waiting for the same environment, which is being made already");
        let _lock = folder
            .lock(&key, waits)
            .await
            .map_err(|error| EnvironmentError::io("could not lock the environment", error))?;
        if folder.is_whole(&key) {
            return Ok(place());
        }
        let mut log = BuildLog::create(&folder.log(&key), &progress)
            .map_err(|error| EnvironmentError::io("could not write the log of the build", error))?;
        note_image(environment, &mut log);
        let making = Making { config, folder, key: &key, variables: tools::variables(&config.environment) };
        let made = timeout(config.timeout, making.make(recipe, &mut log)).await;
        let made = made.unwrap_or_else(|_| Err(EnvironmentError::late(config.timeout)));
        match made {
            Ok(()) => Ok(place()),
            Err(error) => Err(EnvironmentError { log: log.tail(), ..error }),
        }
    }
}

/// The name of an environment's folder. Python's version is part of the description, or the machine's default.
fn key(environment: &Environment) -> String {
    let parts =
        [FORMAT, &environment.digest().to_string(), std::env::consts::OS, std::env::consts::ARCH].join("\n");
    Digest::of(parts.as_bytes()).hex()
}

fn recipe(config: &EnvironmentConfig, environment: &Environment) -> Result<Recipe, EnvironmentError> {
    let Some(text) = &environment.conda_file else { return Ok(Recipe::Bare { python: String::new() }) };
    let file = conda_file(text)?;
    let python = file.python.clone().unwrap_or_default();
    let wanted = packages::requirements(&file);
    if wanted.obstacles.is_empty() {
        if Constraint::parse(&python).is_none() {
            return Err(EnvironmentError::python_constraint(&python));
        }
        let lines = wanted.lines;
        return Ok(if lines.is_empty() { Recipe::Bare { python } } else { Recipe::Pip { python, lines } });
    }
    match tools::find(config, "micromamba") {
        Some(micromamba) => Ok(Recipe::Conda { text: text.clone(), micromamba }),
        None => Err(EnvironmentError::new(
            ErrorClass::Unsupported,
            format!(
                "the conda file needs conda itself: {}; move what is on PyPI to its `pip:` list, or install micromamba, which is used where it is found on the PATH",
                wanted.obstacles.join("; ")
            ),
        )),
    }
}

fn conda_file(text: &str) -> Result<CondaFile, EnvironmentError> {
    // What such a file includes is a file of whoever wrote it, and not of this machine.
    let source = SourceFile::new("conda_file/conda.yaml", text.to_owned());
    conda::parse(&source).map_err(|problems| {
        EnvironmentError::new(ErrorClass::InvalidInput, format!("the conda file cannot be used: {problems}"))
    })
}

fn note_image(environment: &Environment, log: &mut BuildLog<'_>) {
    if let Some(image) = &environment.image {
        log.line(&format!(
            "image `{image}` is noted and not used: scorers run as processes here, and what the image brings is not there"
        ));
    }
}

/// One build.
struct Making<'a> {
    config: &'a EnvironmentConfig,
    folder: &'a Folder,
    key: &'a str,
    variables: BTreeMap<String, String>,
}

impl Making<'_> {
    async fn make(&self, recipe: Recipe, log: &mut BuildLog<'_>) -> Result<(), EnvironmentError> {
        match recipe {
            Recipe::Bare { python } => self.bare(&python, log).await,
            Recipe::Pip { python, lines } => self.pip(&python, &lines, log).await,
            Recipe::Conda { text, micromamba } => self.conda(&text, &micromamba, log).await,
        }
    }

    async fn bare(&self, python: &str, log: &mut BuildLog<'_>) -> Result<(), EnvironmentError> {
        let python = self.choose(python, self.uv()?.as_deref()).await?;
        log.line(&format!("Python {} at {}", python.version, python.path.display()));
        let workshop = Workshop(self.folder.workshop(self.key));
        let mut command = Command::new(&python.path);
        command.args(["-I", "-m", "venv", "--without-pip"]).arg(&workshop.0);
        self.run(command, "could not make a virtual environment", log).await?;
        self.finish(&workshop.0, &python)
    }

    async fn pip(
        &self,
        python: &str,
        lines: &[String],
        log: &mut BuildLog<'_>,
    ) -> Result<(), EnvironmentError> {
        let uv = self.uv()?.ok_or_else(|| self.no_uv())?;
        let python = self.choose(python, Some(&uv)).await?;
        log.line(&format!("Python {} at {}", python.version, python.path.display()));
        let workshop = Workshop(self.folder.workshop(self.key));
        let mut command = Command::new(&uv);
        // Relocatable, since it is moved into place.
        command
            .args(["venv", "--relocatable", "--no-project", "--python"])
            .arg(&python.path)
            .arg(&workshop.0);
        self.run(command, "could not make a virtual environment", log).await?;
        let requirements = workshop.0.join("moorline-requirements.txt");
        fs_err::write(&requirements, lines.join("\n") + "\n")
            .map_err(|error| EnvironmentError::io("could not write the requirements", error))?;
        let interpreter = workshop.0.join("bin/python");
        let mut command = Command::new(&uv);
        command
            .args(["pip", "install", "--requirements"])
            .arg(&requirements)
            .arg("--python")
            .arg(&interpreter);
        self.run(command, "could not install the packages of the environment", log).await?;
        let mut command = Command::new(&uv);
        command.args(["pip", "freeze", "--python"]).arg(&interpreter);
        self.freeze(command, &workshop.0).await?;
        self.finish(&workshop.0, &python)
    }

    fn uv(&self) -> Result<Option<PathBuf>, EnvironmentError> {
        match &self.config.uv {
            Some(uv) if tools::is_program(uv) => Ok(Some(uv.clone())),
            Some(uv) => {
                let message = format!("`{}`, which is configured as uv, is no program", uv.display());
                Err(EnvironmentError::new(ErrorClass::Unavailable, message))
            }
            None => Ok(tools::find(self.config, "uv")),
        }
    }

    fn no_uv(&self) -> EnvironmentError {
        EnvironmentError::new(
            ErrorClass::Unavailable,
            format!(
                "environments with packages are made by uv, which was not found on the PATH or in `{}`; `pip install uv` is enough",
                self.config.tools.display()
            ),
        )
    }

    /// What micromamba makes knows its own path, so it is made in its place, and the mark says whether it is whole.
    async fn conda(
        &self,
        text: &str,
        micromamba: &Path,
        log: &mut BuildLog<'_>,
    ) -> Result<(), EnvironmentError> {
        let failed = |error| EnvironmentError::io("could not make room for the environment", error);
        self.folder.clear(self.key).map_err(failed)?;
        let place = self.folder.place(self.key);
        let workshop = Workshop(self.folder.workshop(self.key));
        fs_err::create_dir_all(&workshop.0).map_err(failed)?;
        let file = workshop.0.join("conda.yaml");
        fs_err::write(&file, text).map_err(failed)?;
        let mut command = Command::new(micromamba);
        command.args(["create", "--yes", "--no-rc", "--root-prefix"]).arg(self.config.tools.join("mamba"));
        command.arg("--prefix").arg(&place).arg("--file").arg(&file);
        let made = self.run(command, "micromamba could not make the environment", log).await;
        let made = match made {
            Ok(()) if !self.folder.python(self.key).exists() => Err(EnvironmentError::new(
                ErrorClass::InvalidInput,
                "the conda file asks for no Python; add `python` to its dependencies",
            )),
            Ok(()) => Folder::mark(&place, "{\"made_by\":\"micromamba\"}").map_err(failed),
            Err(error) => Err(error),
        };
        if made.is_err()
            && let Err(error) = self.folder.clear(self.key)
        {
            tracing::debug!(%error, "half an environment stays until the next start");
        }
        made
    }

    async fn choose(&self, asked: &str, uv: Option<&Path>) -> Result<Python, EnvironmentError> {
        let found = python::find(&self.variables, uv).await;
        let chosen = Constraint::parse(asked).and_then(|constraint| constraint.choose(&found).cloned());
        chosen.ok_or_else(|| {
            let asked = if asked.is_empty() { "3.8 or later" } else { asked };
            let list: Vec<String> =
                found.iter().map(|python| format!("{} ({})", python.version, python.path.display())).collect();
            let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
            EnvironmentError::new(
                ErrorClass::Unavailable,
                format!("the environment asks for Python {asked}, which was not found on this machine; found: {list}"),
            )
        })
    }

    async fn run(
        &self,
        command: Command,
        failure: &str,
        log: &mut BuildLog<'_>,
    ) -> Result<(), EnvironmentError> {
        let program = command.as_std().get_program().to_owned();
        let status = build::run(command, &self.variables, log).await.map_err(|error| {
            EnvironmentError::io(&format!("could not run `{}`", program.display()), error)
        })?;
        if status.success() {
            return Ok(());
        }
        let log_file = self.folder.log(self.key);
        Err(EnvironmentError::new(
            ErrorClass::InvalidInput,
            format!("{failure} ({status}); all that was printed is in {}", log_file.display()),
        ))
    }

    /// Writes down which versions were chosen.
    async fn freeze(&self, mut command: Command, built: &Path) -> Result<(), EnvironmentError> {
        let failed = |error| EnvironmentError::io("could not write down the versions of the packages", error);
        let output = command.env_clear().envs(&self.variables).kill_on_drop(true).output().await;
        fs_err::write(built.join("moorline-lock.txt"), output.map_err(failed)?.stdout).map_err(failed)
    }

    fn finish(&self, built: &Path, python: &Python) -> Result<(), EnvironmentError> {
        let made_of = serde_json::json!({ "python": python.version.to_string(), "base": python.path });
        Folder::mark(built, &made_of.to_string())
            .and_then(|()| self.folder.put(built, self.key))
            .map_err(|error| EnvironmentError::io("could not put the environment into its place", error))
    }
}

/// A folder that is gone when it is not needed any more.
#[derive(Debug)]
struct Workshop(PathBuf);

impl Drop for Workshop {
    fn drop(&mut self) {
        // Moved into place, or never made.
        if self.0.exists()
            && let Err(error) = fs_err::remove_dir_all(&self.0)
        {
            tracing::debug!(%error, "half an environment stays until the next start");
        }
    }
}
