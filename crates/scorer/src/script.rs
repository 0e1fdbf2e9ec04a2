//! From settings to a pool of scoring script workers.

use std::{path::PathBuf, sync::Arc, time::Duration};

use moorline_core::BatchSettings;
use moorline_script::{ScriptConfig, ScriptPool, StartError};

use crate::{
    release::LoadedRelease,
    settings::{Environment, Settings},
};

/// For `run`, where neither a setting nor the release says otherwise: an hour, as Azure ML's server has it.
const SCORING_TIMEOUT_MS: u64 = 3_600_000;
/// For a worker to start and to finish `init()`.
const WORKER_TIMEOUT_S: u64 = 300;

/// The longest time that one `run` may take.
pub(crate) fn scoring_timeout(settings: &Settings) -> Duration {
    Duration::from_millis(settings.script.scoring_timeout_ms.unwrap_or(SCORING_TIMEOUT_MS))
}

/// Starts the workers and waits until the first has finished `init()`.
pub(crate) async fn start(
    settings: &Settings,
    release: &LoadedRelease,
    environment: Environment,
    python: PathBuf,
    mlflow_model: Option<PathBuf>,
    batching: Option<BatchSettings>,
) -> Result<Arc<ScriptPool>, StartError> {
    let app_root = release.app_root(&environment);
    let own_script = release.release.code.as_ref().map(|code| code.scoring_script.clone());
    let options = &settings.script;
    let config = ScriptConfig {
        source_dir: environment.path("AZUREML_SOURCE_DIRECTORY"),
        entry_script: environment.get("AZUREML_ENTRY_SCRIPT").map(str::to_owned).or(own_script),
        mlflow_model,
        model_dir: environment
            .path("AZUREML_MODEL_DIR")
            .or_else(|| release.release.model.as_ref().map(|_| release.model_dir())),
        workers: options.worker_count.unwrap_or(std::num::NonZeroUsize::MIN),
        start_timeout: Duration::from_secs(options.worker_timeout.unwrap_or(WORKER_TIMEOUT_S)),
        memory_limit: options.worker_memory_mib.map(|mib| mib.saturating_mul(1024 * 1024)),
        scoring_timeout: scoring_timeout(settings),
        batching,
        env: environment.into_map(),
        ..ScriptConfig::new(python, app_root)
    };
    ScriptPool::start(config).await
}
