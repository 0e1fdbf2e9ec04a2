//! What one scoring process is: its bounds, its metrics, its door, and what it serves once that is loaded.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use moorline_core::{BatchSettings, EngineError, LoadedModel, Script, Session, Tensors};
use moorline_observe::Tracing;

use crate::{
    admission::{Admission, BodyBudget},
    codec::{Limits, ModelIdentity},
    collection::Recorder,
    config::ServeConfig,
    image::ImagePreparation,
    metrics::Metrics,
    problem::Problem,
    routes::Cors,
    sessions::Sessions,
    swagger::{Service, SwaggerVersion, document},
};

/// One scoring process, shared by its connections.
#[derive(Debug)]
pub struct App {
    config: ServeConfig,
    metrics: Arc<Metrics>,
    admission: Admission,
    budget: Arc<BodyBudget>,
    tracing: Option<Tracing>,
    recorder: OnceLock<Arc<Recorder>>,
    cors: Option<Cors>,
    served: OnceLock<Served>,
    draining: AtomicBool,
}

/// A loaded release: who it is, what answers for it, and what it says of itself.
#[derive(Debug)]
pub struct Served {
    pub(crate) name: ServedName,
    pub(crate) backend: Backend,
    /// What is done to images, where they are an input.
    pub(crate) images: Option<ImagePreparation>,
    /// Swagger documents by version.
    pub(crate) swagger: BTreeMap<String, String>,
}

/// What answers a scoring request.
#[derive(Debug)]
pub(crate) enum Backend {
    Model(Sessions),
    Script(Arc<dyn Script>),
}

/// Who is served, for metadata and documents.
#[derive(Clone, Debug)]
pub struct ServedName {
    pub name: String,
    /// The model's version.
    pub version: String,
    /// What runs it, as the Open Inference Protocol's `platform` (`onnx_ort`, `python`).
    pub platform: String,
    /// `SERVICE_NAME`, the title of the swagger documents.
    pub service: String,
    /// `SERVICE_VERSION`.
    pub service_version: String,
    /// `SERVICE_PATH_PREFIX`: what stands before `/score` in the documents.
    pub service_path_prefix: String,
}

/// How a model is served.
#[derive(Debug)]
pub struct ModelServing<'a> {
    /// Runs at the same time.
    pub sessions: usize,
    pub batching: Option<&'a BatchSettings>,
    /// What each session runs once before the first request.
    pub warm_up: Option<&'a Tensors>,
    /// What is done to images, where they are an input.
    pub images: Option<ImagePreparation>,
}

impl Served {
    /// How the model is called in the Open Inference Protocol.
    pub(crate) fn identity(&self) -> ModelIdentity<'_> {
        ModelIdentity { name: &self.name.name, version: &self.name.version }
    }
}

impl App {
    pub fn new(config: ServeConfig, tracing: Option<Tracing>) -> Result<Arc<Self>, prometheus::Error> {
        Ok(Arc::new(Self {
            metrics: Arc::new(Metrics::new(&config.endpoint, &config.deployment)?),
            admission: Admission::new(&config),
            budget: BodyBudget::new(config.max_buffered_bytes),
            tracing,
            recorder: OnceLock::new(),
            cors: Cors::new(&config.cors_origins),
            served: OnceLock::new(),
            draining: AtomicBool::new(false),
            config,
        }))
    }

    /// Begins to serve a loaded model. What was served before stays, should there be any.
    pub fn serve_model(
        &self,
        name: ServedName,
        model: &dyn LoadedModel,
        how: ModelServing<'_>,
    ) -> Result<(), EngineError> {
        let ModelServing { sessions, batching, warm_up, images } = how;
        let mut ready = Vec::with_capacity(sessions);
        for _ in 0..sessions {
            ready.push(session(model, warm_up)?);
        }
        let limit = self.config.inline_limit;
        let sessions = Sessions::start(model.signature(), ready, batching, limit, Arc::clone(&self.metrics))?;
        let service = Service {
            name: &name.service,
            version: &name.service_version,
            path_prefix: &name.service_path_prefix,
            takes_images: images.is_some(),
        };
        let swagger = SwaggerVersion::ALL
            .into_iter()
            .map(|version| (version.as_str().to_owned(), document(version, service, sessions.signature())))
            .collect();
        self.serve(Served { name, backend: Backend::Model(sessions), images, swagger });
        Ok(())
    }

    /// Begins to serve a started script.
    pub fn serve_script(&self, name: ServedName, script: Arc<dyn Script>) {
        let swagger = script.info().swagger.clone();
        self.serve(Served { name, backend: Backend::Script(script), images: None, swagger });
    }

    /// Begins to keep what is scored; before anything is served.
    pub fn collect(&self, recorder: Arc<Recorder>) {
        let _ = self.recorder.set(recorder);
    }

    /// What keeps what is scored, if anything is kept.
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.recorder.get()
    }

    fn serve(&self, served: Served) {
        let _ = self.served.set(served);
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes this scorer out of readiness, while it goes on to answer.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Sends the traces that are left. Blocks.
    pub fn shutdown_tracing(&self) {
        if let Some(tracing) = &self.tracing {
            tracing.shutdown();
        }
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) const fn config(&self) -> &ServeConfig {
        &self.config
    }

    pub(crate) const fn admission(&self) -> &Admission {
        &self.admission
    }

    pub(crate) const fn budget(&self) -> &Arc<BodyBudget> {
        &self.budget
    }

    pub(crate) const fn tracing(&self) -> Option<&Tracing> {
        self.tracing.as_ref()
    }

    pub(crate) const fn cors(&self) -> Option<&Cors> {
        self.cors.as_ref()
    }

    pub(crate) const fn limits(&self) -> Limits {
        Limits { max_depth: self.config.max_json_depth }
    }

    /// What is served, or that it is still loading.
    pub(crate) fn served(&self) -> Result<&Served, Problem> {
        self.served.get().ok_or_else(Problem::starting)
    }

    /// Whether a request sent now would be answered.
    pub(crate) fn ready(&self) -> bool {
        !self.draining()
            && self.served.get().is_some_and(|served| match &served.backend {
                Backend::Model(_) => true,
                Backend::Script(script) => script.ready(),
            })
    }
}

/// A new session that has paid for what engines put off until their first run.
fn session(model: &dyn LoadedModel, warm_up: Option<&Tensors>) -> Result<Box<dyn Session>, EngineError> {
    let mut session = model.session()?;
    if let Some(inputs) = warm_up
        && let Err(error) = session.run(inputs.clone())
    {
        // The made-up inputs may be what the model cannot take; that says nothing of real ones.
        tracing::debug!(%error, "the warm-up run failed");
    }
    Ok(session)
}
