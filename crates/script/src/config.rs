//! What a pool is started with. The environment is an argument: whoever starts the pool has collected it.

use std::{collections::BTreeMap, num::NonZeroUsize, path::PathBuf, time::Duration};

use moorline_core::BatchSettings;

/// The script, its surroundings and the bounds of its workers.
#[derive(Clone, Debug)]
pub struct ScriptConfig {
    /// The interpreter: Python 3.8 or later, with whatever the script imports.
    pub python: PathBuf,
    /// `AML_APP_ROOT`: where the code lies; the workers' current directory and first on `sys.path`.
    pub app_root: PathBuf,
    /// `AZUREML_SOURCE_DIRECTORY`, relative to `app_root`; before it on `sys.path`.
    pub source_dir: Option<PathBuf>,
    /// The scoring script, relative to the source directory. Without one, and without an MLflow model, it is `main`.
    pub entry_script: Option<String>,
    /// An MLflow model's folder, served where there is no entry script.
    pub mlflow_model: Option<PathBuf>,
    /// `AZUREML_MODEL_DIR`.
    pub model_dir: Option<PathBuf>,
    /// Further variables of the workers, over those that they inherit.
    pub env: BTreeMap<String, String>,
    /// How many processes run the script.
    pub workers: NonZeroUsize,
    /// For starting Python, importing the script and `init()` together.
    pub start_timeout: Duration,
    /// The most address space a worker may have, in bytes.
    pub memory_limit: Option<u64>,
    /// The most time a request may take in `run`; a call's own deadline may be earlier.
    pub scoring_timeout: Duration,
    /// Gather requests for `run_batch(list)`.
    pub batching: Option<BatchSettings>,
    /// How many requests may wait for a worker; more are refused.
    pub max_queue: usize,
    /// The longest body that a script may answer with, in bytes.
    pub max_reply_bytes: u32,
}

impl ScriptConfig {
    /// The settings that have no better value than their default: one worker, five minutes to start, an hour to
    /// score, 1024 waiting requests, replies of 1 GiB.
    pub fn new(python: PathBuf, app_root: PathBuf) -> Self {
        Self {
            python,
            app_root,
            source_dir: None,
            entry_script: None,
            mlflow_model: None,
            model_dir: None,
            env: BTreeMap::new(),
            workers: NonZeroUsize::MIN,
            start_timeout: Duration::from_mins(5),
            memory_limit: None,
            scoring_timeout: Duration::from_hours(1),
            batching: None,
            max_queue: 1024,
            max_reply_bytes: 1 << 30,
        }
    }
}
