//! Serving: bind, load in the background, say so, answer until told to stop, drain.

use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use moorline_core::{BatchSettings, ErrorClass, ModelFiles};
use moorline_engines::zero_inputs;
use moorline_observe::{TraceConfig, Tracing};
use moorline_script::ScriptPool;
use moorline_serve::{
    App, CollectConfig, ImagePreparation, ModelServing, Recorder, ScriptCollector, ServeConfig, ServedName,
    Server,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    engines,
    failure::Failure,
    fpga, logging,
    release::{Kind, LoadedRelease},
    script,
    settings::{EngineChoice, Environment, Settings, python},
};

const DEFAULT_CONCURRENT_REQUESTS: NonZeroUsize = NonZeroUsize::new(256).expect("256 is not zero");

pub(crate) fn run(
    settings: Settings,
    release: LoadedRelease,
    environment: Environment,
) -> Result<(), Failure> {
    logging::start(&settings.observation).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("scorer")
        .build()
        .context("could not start the runtime")?;
    runtime.block_on(serve(settings, release, environment))
}

async fn serve(settings: Settings, release: LoadedRelease, environment: Environment) -> Result<(), Failure> {
    let config = serve_config(&settings, &release, &environment);
    let tracing = trace_config(&settings, &config).map(|config| Tracing::new(&config)).transpose()?;
    let app = App::new(config, tracing)?;
    collect(&app, &settings, &release);
    let address = |port| SocketAddr::new(settings.host, port);
    let server = Server::bind(Arc::clone(&app), address(settings.port), address(settings.admin_port)).await?;
    let (address, admin_address) = server.addresses()?;
    tracing::info!(
        %address,
        %admin_address,
        release = %release.release.name,
        digest = %release.release.digest(),
        "listening"
    );
    if let Some(path) = &settings.address_file {
        write_address(path, address, admin_address).context("could not write the address file")?;
    }

    let signals = signals()?;
    let (failed, failure) = tokio::sync::oneshot::channel();
    let loading = tokio::spawn(load(Arc::clone(&app), settings, release, environment, failed));
    let mut result = Ok(());
    server
        .run(
            async {
                tokio::select! {
                    () = at_least(signals.clone(), 1) => {}
                    Ok(failure) = failure => result = Err(failure),
                }
            },
            at_least(signals.clone(), 2),
        )
        .await;
    // A load that is still under way is given up with the process; a pool is ended so that no worker outlives us.
    loading.abort();
    if let Ok(Some(pool)) = loading.await {
        // Dropping the pool kills what does not leave in time for a person in a hurry.
        tokio::select! {
            () = pool.shutdown() => {}
            () = at_least(signals, 2) => {}
        }
    }
    let traced = Arc::clone(&app);
    tokio::task::spawn_blocking(move || traced.shutdown_tracing()).await?;
    tracing::info!("stopped");
    result
}

/// Keeps what is scored, where the release says so. Where nothing can be kept, requests are answered all the same.
fn collect(app: &App, settings: &Settings, release: &LoadedRelease) {
    let Some(collection) = &release.release.collection else { return };
    let name = release.release.name.as_str();
    let endpoint = settings.endpoint.as_deref().unwrap_or(name).to_owned();
    let deployment = settings.deployment.as_deref().unwrap_or(name).to_owned();
    let usual = || std::env::temp_dir().join(format!("moorline-collected-{endpoint}-{deployment}"));
    let config = CollectConfig {
        settings: collection.clone(),
        folder: settings.observation.collect_dir.clone().unwrap_or_else(usual),
        spool_bytes: settings.observation.collect_bytes,
        model_version: release.release.model.as_ref().map_or_else(String::new, |model| model.version.clone()),
        endpoint,
        deployment,
    };
    match Recorder::start(config, app.metrics()) {
        Ok(recorder) => app.collect(recorder),
        Err(error) => tracing::error!(%error, "nothing is collected: its folder cannot be used"),
    }
}

/// Says where it listens to whoever started it. The file is whole or not there: it is written beside and renamed.
fn write_address(path: &Path, data: SocketAddr, admin: SocketAddr) -> io::Result<()> {
    let pid = std::process::id();
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{pid}"));
    let beside = PathBuf::from(beside);
    let text = serde_json::json!({ "data": data, "admin": admin, "pid": pid }).to_string();
    fs_err::write(&beside, text)?;
    fs_err::rename(&beside, path)
}

/// Counts SIGTERM and SIGINT: the first asks for an end, the second for an end at once. They are counted as they come,
/// since two that wait to be received count as one.
fn signals() -> anyhow::Result<watch::Receiver<usize>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (count, signals) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(signals)
}

/// Done once `count` signals have come.
async fn at_least(mut signals: watch::Receiver<usize>, count: usize) {
    // The sender lives as long as the runtime.
    let _ = signals.wait_for(|seen| *seen >= count).await;
}

/// Loads what the release has and begins to serve it; a failure goes to `failed` and ends the process.
async fn load(
    app: Arc<App>,
    settings: Settings,
    release: LoadedRelease,
    environment: Environment,
    failed: tokio::sync::oneshot::Sender<Failure>,
) -> Option<Arc<ScriptPool>> {
    let started = Instant::now();
    match load_release(&app, settings, release, environment).await {
        Ok(pool) => {
            app.metrics().set_model_load(started.elapsed());
            tracing::info!(millis = started.elapsed().as_millis() as u64, "ready");
            pool
        }
        Err(failure) => {
            // Nobody listens once the server is stopping, and then the failure is of no interest.
            let _ = failed.send(failure);
            None
        }
    }
}

/// What is loaded, and by which settings.
struct Loading {
    settings: Settings,
    release: LoadedRelease,
    environment: Environment,
    python: PathBuf,
    batching: Option<BatchSettings>,
}

async fn load_release(
    app: &Arc<App>,
    settings: Settings,
    release: LoadedRelease,
    environment: Environment,
) -> Result<Option<Arc<ScriptPool>>, Failure> {
    let batching = batching(&settings, &release);
    let python = python(settings.script.python.as_deref(), &environment, &release.dir);
    let kind = release.kind()?;
    let loading = Loading { settings, release, environment, python, batching };
    match kind {
        Kind::Onnx(path) => {
            let app = Arc::clone(app);
            tokio::task::spawn_blocking(move || load_onnx(&app, loading, path)).await??;
            Ok(None)
        }
        Kind::Script => start_script(app, loading, None).await.map(Some),
        Kind::Mlflow(model) => start_script(app, loading, Some(model)).await.map(Some),
    }
}

fn load_onnx(app: &App, loading: Loading, path: PathBuf) -> anyhow::Result<()> {
    let Loading { settings, release, environment, python, batching } = loading;
    let options = &settings.engine;
    let own = release.release.engine.name.map(EngineChoice::from);
    let engine =
        engines::choose(options.engine.or(own).unwrap_or(EngineChoice::Auto), &environment, Some(python))?;
    let engine = match &settings.fpga.bitstream {
        Some(bitstream) => {
            let name = &release.release.name;
            fpga::engine(&settings, bitstream, name, engine, &environment, app.metrics())?
        }
        None => engine,
    };
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (sessions, threads) = options.sessions_and_threads(&release.release.engine, cores);
    let model = engine.load(&ModelFiles { path, threads: threads.get() })?;
    if let (Some(_), Some(obstacle)) = (&batching, model.signature().batch_obstacle()) {
        anyhow::bail!(
            "the model cannot be batched: {obstacle}; leave out --max-batch-size, or export the model with a dynamic first dimension"
        );
    }
    tracing::info!(
        engine = engine.name(),
        sessions,
        threads,
        batching = batching.is_some(),
        "model loaded; {} runs at a time with {} thread(s) each: --optimize-for chooses between many answers and early ones",
        sessions,
        threads,
    );
    let declared = release.release.image.as_ref();
    let images = declared.map(|image| ImagePreparation::new(image, model.signature())).transpose()?;
    let warm_up = zero_inputs(model.signature(), 1);
    let name = served_name(&release, &environment, format!("onnx_{}", engine.name()));
    let how = ModelServing {
        sessions: sessions.get(),
        batching: batching.as_ref(),
        warm_up: warm_up.as_ref(),
        images,
    };
    app.serve_model(name, model.as_ref(), how)?;
    Ok(())
}

async fn start_script(
    app: &App,
    loading: Loading,
    mlflow_model: Option<PathBuf>,
) -> Result<Arc<ScriptPool>, Failure> {
    let Loading { settings, release, mut environment, python, batching } = loading;
    if let Some(recorder) = app.recorder()
        && let Some(collector) =
            ScriptCollector::start(recorder).await.context("could not listen for what scripts collect")?
    {
        environment.fall_back_to(&collector.variables);
    }
    let platform = if mlflow_model.is_some() { "mlflow" } else { "python" };
    let name = served_name(&release, &environment, platform.to_owned());
    let pool = script::start(&settings, &release, environment, python, mlflow_model, batching)
        .await
        .map_err(|error| match error.class() {
            ErrorClass::Script => Failure::script(error),
            _ => Failure::from(error),
        })?;
    app.serve_script(name, Arc::<ScriptPool>::clone(&pool));
    Ok(pool)
}

fn served_name(release: &LoadedRelease, environment: &Environment, platform: String) -> ServedName {
    let text = |name: &str, default: &str| environment.get(name).unwrap_or(default).to_owned();
    let model = release.release.model.as_ref();
    ServedName {
        name: model.map_or(&release.release.name, |model| &model.name).to_string(),
        version: model.map_or_else(|| "1".to_owned(), |model| model.version.clone()),
        platform,
        service: text("SERVICE_NAME", "ML service"),
        service_version: text("SERVICE_VERSION", "1.0"),
        service_path_prefix: text("SERVICE_PATH_PREFIX", ""),
    }
}

/// The flags win over the release; any of them turns batching on.
fn batching(settings: &Settings, release: &LoadedRelease) -> Option<BatchSettings> {
    let options = &settings.engine;
    let own = release.release.batching.as_ref();
    let max_size = options.max_batch_size.or(own.map(|own| own.max_size))?;
    let preferred = if options.preferred_batch_sizes.is_empty() {
        own.map(|own| own.preferred_sizes.clone()).unwrap_or_default()
    } else {
        options.preferred_batch_sizes.clone()
    };
    Some(BatchSettings {
        max_size,
        max_delay_us: options.max_batch_delay_us.or(own.map(|own| own.max_delay_us)).unwrap_or(0),
        preferred_sizes: preferred.into_iter().filter(|size| *size <= max_size).collect(),
    })
}

fn serve_config(settings: &Settings, release: &LoadedRelease, environment: &Environment) -> ServeConfig {
    let bounds = &settings.bounds;
    let requests = &release.release.request_settings;
    let name = release.release.name.as_str();
    let millis = |own: Option<u64>, release: Option<u64>| own.or(release).map(Duration::from_millis);
    ServeConfig {
        endpoint: settings.endpoint.as_deref().unwrap_or(name).to_owned(),
        deployment: settings.deployment.as_deref().unwrap_or(name).to_owned(),
        max_body_bytes: bounds.max_body_bytes,
        max_buffered_bytes: bounds.max_buffered_bytes,
        max_header_bytes: bounds.max_header_bytes,
        max_json_depth: bounds.max_json_depth,
        max_connections: bounds.max_connections,
        max_concurrent_requests: bounds
            .max_concurrent_requests
            .or(requests.max_concurrent_requests_per_instance)
            .unwrap_or(DEFAULT_CONCURRENT_REQUESTS),
        inline_limit: Duration::from_micros(settings.engine.inline_below_us),
        max_queue_length: bounds.max_queue_length,
        max_queue_wait: millis(bounds.max_queue_wait_ms, requests.max_queue_wait_ms),
        request_timeout: millis(bounds.request_timeout_ms, requests.request_timeout_ms),
        scoring_timeout: script::scoring_timeout(settings),
        header_timeout: Duration::from_millis(bounds.header_timeout_ms),
        body_timeout: Duration::from_millis(bounds.body_timeout_ms),
        drain_timeout: Duration::from_millis(bounds.drain_timeout_ms),
        cors_origins: bounds.cors_origins.iter().map(|origin| origin.trim().to_owned()).collect(),
        server_version_header: !environment
            .get("SERVER_VERSION_LOG_RESPONSE_ENABLED")
            .is_some_and(|value| value.eq_ignore_ascii_case("false")),
    }
}

fn trace_config(settings: &Settings, config: &ServeConfig) -> Option<TraceConfig> {
    let endpoint = settings.observation.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty())?;
    let ratio = settings.observation.trace_ratio;
    Some(TraceConfig { endpoint, ratio, service_name: format!("{}/{}", config.endpoint, config.deployment) })
}
