//! Environments on this machine: a conda file becomes a Python environment, once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use moorline_core::{Environment, ErrorClass};
use thiserror::Error;

/// Where environments lie, and what makes them.
#[derive(Clone, Debug)]
pub struct EnvironmentConfig {
    /// The folder of its own: `$MOORLINE_HOME/environments`.
    pub dir: PathBuf,
    /// The `uv` to use; looked for beside the running binary, in `tools`, and on the `PATH` where it is `None`.
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
    #[source]
    source: Option<std::io::Error>,
}

impl EnvironmentError {
    pub const fn class(&self) -> ErrorClass {
        self.class
    }

    /// The last lines that the build printed, oldest first.
    pub fn log(&self) -> &[String] {
        &self.log
    }
}

/// The environments of one folder. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Environments;

impl Environments {
    /// Opens the folder, and clears away what a build that was interrupted left there.
    pub fn open(config: EnvironmentConfig) -> Result<Self, EnvironmentError> {
        let _ = config;
        unimplemented!()
    }

    /// Where the interpreter of an environment is, or will be once it is made. Looks at nothing.
    pub fn python(&self, environment: &Environment) -> PathBuf {
        let _ = environment;
        Path::new("").to_owned()
    }

    /// Makes the environment if it is not there. `progress` is told of every line that the build prints. Two calls for
    /// one environment build it once.
    pub async fn ensure(
        &self,
        environment: &Environment,
        progress: impl Fn(&str) + Send + Sync + 'static,
    ) -> Result<Place, EnvironmentError> {
        let _ = (environment, progress);
        unimplemented!()
    }
}
