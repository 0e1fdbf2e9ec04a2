//! From a document to what is desired: references become versions, defaults become values, and what cannot work is
//! refused before anything is stored.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use moorline_core::{
    Below, DeploymentId, Desired, Environment, ErrorClass, FileEntry, ModelType, Name, PinnedBitstream,
    Release, ReleaseCode, ReleaseEnvironment, ReleaseModel, Resources, Scheduling, TargetKind,
};
use moorline_spec::{
    AssetRef, CodeConfiguration, CodeSource, Compute, DataCollector, Model, OnlineDeployment, Reference,
    RuntimeSettings, Scope, VersionRef, conda, from_json,
};
use moorline_store::{Asset, AssetKind, RecordKind, Store};

use crate::{
    problem::{ApiError, chain},
    secrets,
    status::EndpointBody,
    targets::Targets,
};

/// The compute that every workspace has.
const LOCAL: &str = "local";
const LONGEST_MOUNT_PATH: usize = 1024;
/// An MLflow model's own description of its environment, of which more than this is not one.
const MAX_CONDA_BYTES: u64 = 1 << 20;

/// A deployment's document with its references pinned, and what follows from it.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) document: OnlineDeployment,
    pub(crate) desired: Desired,
    /// Things that were decided for the user and are worth a line.
    pub(crate) notes: Vec<String>,
}

/// Where a deployment is meant to run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// On this compute, or where the documents say.
    Compute(Option<&'a Name>),
    /// Wherever somebody takes its image.
    Image,
}

/// Resolves a deployment of `endpoint`; a compute that is named in `place` wins over what the documents say.
pub(crate) async fn deployment(
    store: &Store,
    targets: &Targets,
    workspace: &Name,
    endpoint: &Name,
    document: &OnlineDeployment,
    place: Place<'_>,
) -> Result<Resolved, ApiError> {
    let resolver = Resolver { store, workspace };
    let mut document = document.clone();
    let mut notes = Vec::new();
    let runtime = document.runtime();

    let model = resolver.model(&mut document).await?;
    let code = resolver.code(&mut document).await?;
    let (environment, context) = resolver.environment(&mut document, model.as_ref()).await?;
    let place = match place {
        Place::Compute(asked) => resolver.compute(endpoint, runtime.compute.as_ref(), asked).await?,
        Place::Image => of_kind("image", TargetKind::Container),
    };
    runs(model.as_ref(), code.as_ref(), environment.as_ref(), &place, &document)?;
    mounts(&document, environment.as_ref())?;
    images(&runtime, model.as_ref(), code.as_ref())?;

    let mut variables = document.environment_variables.clone();
    for value in variables.values() {
        resolver.secret_exists(value).await?;
    }
    if let Some(workers) = runtime.worker_count {
        variables.entry("WORKER_COUNT".to_owned()).or_insert_with(|| workers.to_string());
    }

    let bitstream = resolver.bitstream(&runtime, &place).await?;
    let below = resolver.below(&place).await?;
    let ground = below.clone().unwrap_or_else(|| place.clone());
    let mut ground =
        sizes_of_cluster(targets, workspace, ground, document.instance_type.as_deref(), &mut notes).await;
    ground.instance_types.extend(place.instance_types);
    let (resources, scheduling) = resources(&document, &ground, &mut notes);
    let release = Release {
        format: Release::FORMAT,
        name: model.as_ref().map_or_else(|| endpoint.clone(), |model| model.name.clone()),
        environment: environment.as_ref().map(|environment| ReleaseEnvironment {
            digest: environment.digest(),
            python: python(environment),
            own_server: environment.inference_config.is_some(),
        }),
        model,
        code,
        environment_variables: variables,
        request_settings: document.request_settings.clone().unwrap_or_default(),
        engine: runtime.engine,
        batching: runtime.batching,
        image: runtime.image,
        collection: document.data_collector.as_ref().and_then(DataCollector::settings),
    };
    // Read back as a scorer will, so that what it would refuse is refused here.
    Release::parse(&release.to_json())
        .map_err(|error| ApiError::invalid(error.to_string()).caused_by(error))?;
    let desired = Desired {
        id: DeploymentId {
            workspace: workspace.clone(),
            endpoint: endpoint.clone(),
            deployment: document.name.clone(),
        },
        compute: place.name.clone(),
        target: place.kind,
        release,
        environment,
        context,
        bitstream,
        below: below.map(|below| Below { compute: below.name, target: below.kind }),
        model_mount_path: document.model_mount_path.clone(),
        scale: document.scale(),
        resources,
        scheduling,
        liveness: document.liveness_probe.unwrap_or_default(),
        readiness: document.readiness_probe.unwrap_or_default(),
        golden: runtime.golden,
    };
    Ok(Resolved { document, desired, notes })
}

struct Resolver<'a> {
    store: &'a Store,
    workspace: &'a Name,
}

impl Resolver<'_> {
    async fn model(&self, document: &mut OnlineDeployment) -> Result<Option<ReleaseModel>, ApiError> {
        let Some(model) = &document.model else { return Ok(None) };
        let asset = match model {
            AssetRef::Reference(reference) => self.asset(AssetKind::Model, "model", reference).await?,
            AssetRef::Inline(_) => return Err(uploaded_first("model")),
        };
        let described = described::<Model>(&asset)?;
        document.model =
            Some(AssetRef::Reference(Reference::to_version(asset.name.clone(), asset.version.clone())));
        Ok(Some(ReleaseModel {
            name: asset.name,
            version: asset.version,
            model_type: ModelType::by_looking(described.model_type, &asset.files),
            files: asset.files,
        }))
    }

    async fn code(&self, document: &mut OnlineDeployment) -> Result<Option<ReleaseCode>, ApiError> {
        let Some(CodeConfiguration { code, scoring_script }) = &document.code_configuration else {
            return Ok(None);
        };
        let CodeSource::Reference(reference) = code else {
            return Err(uploaded_first("code_configuration.code"));
        };
        let asset = self.asset(AssetKind::Code, "code", reference).await?;
        if !asset.files.iter().any(|file| file.path == *scoring_script) {
            return Err(ApiError::invalid(format!(
                "the scoring script `{scoring_script}` is not among the {} files of `code_configuration.code`",
                asset.files.len()
            ))
            .hint("`scoring_script` is relative to the folder that `code` names"));
        }
        let scoring_script = scoring_script.clone();
        document.code_configuration = Some(CodeConfiguration {
            code: CodeSource::Reference(Reference::to_version(asset.name, asset.version)),
            scoring_script: scoring_script.clone(),
        });
        Ok(Some(ReleaseCode { scoring_script, files: asset.files }))
    }

    async fn environment(
        &self,
        document: &mut OnlineDeployment,
        model: Option<&ReleaseModel>,
    ) -> Result<(Option<Environment>, Vec<FileEntry>), ApiError> {
        let environment = match &document.environment {
            None => match model.filter(|model| model.model_type == ModelType::MlflowModel) {
                Some(model) if document.code_configuration.is_none() => Some(self.of_mlflow(model).await?),
                _ => None,
            },
            Some(AssetRef::Inline(_)) => return Err(uploaded_first("environment")),
            Some(AssetRef::Reference(reference)) => {
                let asset = self.asset(AssetKind::Environment, "environment", reference).await?;
                let described = described::<moorline_spec::Environment>(&asset)?;
                document.environment =
                    Some(AssetRef::Reference(Reference::to_version(asset.name, asset.version)));
                let environment = described.described();
                let builds = environment.as_ref().is_some_and(|environment| environment.build.is_some());
                return Ok((environment, if builds { asset.files } else { Vec::new() }));
            }
        };
        Ok((environment, Vec::new()))
    }

    /// The environment that an MLflow model was saved with.
    async fn of_mlflow(&self, model: &ReleaseModel) -> Result<Environment, ApiError> {
        let beside = |name: &str| {
            let is = |file: &&FileEntry| file.path == name || file.path.ends_with(&format!("/{name}"));
            model.files.iter().filter(is).min_by_key(|file| file.path.len())
        };
        let Some(file) = beside("conda.yaml").filter(|file| file.size <= MAX_CONDA_BYTES) else {
            return Ok(Environment::default());
        };
        let (_, mut parts) = self.store.blobs().read(&file.sha256).await?;
        let mut text = Vec::new();
        while let Some(part) = parts.try_next().await? {
            text.extend_from_slice(&part);
        }
        let text = String::from_utf8(text).map_err(|error| {
            ApiError::invalid(format!("`{}` of model `{}` is not UTF-8", file.path, model.name))
                .caused_by(error)
        })?;
        Ok(Environment { conda_file: Some(text), ..Environment::default() })
    }

    /// The deployment's own, else the compute's.
    async fn bitstream(
        &self,
        runtime: &RuntimeSettings,
        compute: &Compute,
    ) -> Result<Option<PinnedBitstream>, ApiError> {
        let own = runtime.bitstream.as_ref();
        if compute.kind != TargetKind::Fpga {
            let named = own.map(|_| "moorline.fpga.bitstream");
            return match named.or(runtime.numerics.as_ref().map(|_| "moorline.fpga.numerics")) {
                Some(property) => Err(ApiError::invalid(format!(
                    "the deployment names `{property}`, and compute `{}` is of type {}",
                    compute.name,
                    compute.kind.as_str()
                ))
                .hint("name a compute of `type: fpga` with --compute")),
                None => Ok(None),
            };
        }
        let of_compute = compute.fpga().bitstream.and_then(|text| text.parse::<Reference>().ok());
        let Some(reference) = own.or(of_compute.as_ref()) else {
            return Err(ApiError::invalid(format!("no bitstream is named for compute `{}`", compute.name)).hint(
                "name one as `bitstream` of the compute, or as `moorline.fpga.bitstream` in the deployment's `properties`",
            ));
        };
        let asset = self.asset(AssetKind::Bitstream, "bitstream", reference).await?;
        let [file] = &asset.files[..] else {
            return Err(ApiError::new(
                ErrorClass::Internal,
                format!("bitstream `{reference}` is not one file"),
            ));
        };
        Ok(Some(PinnedBitstream {
            name: asset.name,
            version: asset.version,
            sha256: file.sha256,
            numerics: runtime.numerics.clone(),
        }))
    }

    /// The compute that one of FPGAs stands on.
    async fn below(&self, compute: &Compute) -> Result<Option<Compute>, ApiError> {
        if compute.kind != TargetKind::Fpga {
            return Ok(None);
        }
        let devices = compute.fpga();
        let below = match devices.compute.as_ref().and_then(|name| name.parse::<Name>().ok()) {
            Some(name) if name.as_str() != LOCAL => self.known_compute(&name).await?,
            _ => self.local().await?,
        };
        let kind = below.kind;
        let refused = |what: &str, hint: &str| {
            let (above, name, kind) = (&compute.name, &below.name, kind.as_str());
            let message = format!("compute `{above}` {what}, and stands on compute `{name}` of type {kind}");
            Err(ApiError::invalid(message).hint(hint))
        };
        match kind {
            TargetKind::Local | TargetKind::Container | TargetKind::Kubernetes => {}
            TargetKind::Fpga | TargetKind::Edge => {
                return refused("is of type fpga", "it stands on one of type local, container or kubernetes");
            }
        }
        let nodes = !devices.device_nodes.is_empty() || !devices.device_groups.is_empty();
        if nodes && kind != TargetKind::Container {
            return refused("has `device_nodes`", "containers are given those; leave them out elsewhere");
        }
        if !devices.extended_resources.is_empty() && kind != TargetKind::Kubernetes {
            return refused(
                "has `extended_resources`",
                "pods of a cluster ask for those; leave them out elsewhere",
            );
        }
        if devices.image.is_some() && kind == TargetKind::Local {
            return refused("has an `image`", "the drivers of this machine are used; leave it out");
        }
        Ok(Some(below))
    }

    async fn asset(&self, kind: AssetKind, noun: &str, reference: &Reference) -> Result<Asset, ApiError> {
        match &reference.scope {
            Scope::Workspace => {}
            Scope::Arm { workspace, .. }
                if workspace.as_str().eq_ignore_ascii_case(self.workspace.as_str()) => {}
            Scope::Arm { workspace, .. } => {
                return Err(ApiError::invalid(format!(
                    "{noun} `{reference}` is of workspace `{workspace}`, and this is `{}`",
                    self.workspace
                ))
                .hint(format!("register it here, and refer to it as `azureml:{}:VERSION`", reference.name)));
            }
            Scope::Registry { registry, .. } => {
                return Err(ApiError::new(
                    ErrorClass::Unsupported,
                    format!("{noun} `{reference}` is of the registry `{registry}`, which cannot be reached from here"),
                )
                .hint(format!("register it in this workspace, and refer to it as `azureml:{}:VERSION`", reference.name)));
            }
        }
        let found = match &reference.version {
            VersionRef::Version(version) => {
                self.store.asset(self.workspace, kind, &reference.name, version).await
            }
            VersionRef::Default => self.store.latest_asset(self.workspace, kind, &reference.name).await,
            VersionRef::Label(label) if label == "latest" => {
                self.store.latest_asset(self.workspace, kind, &reference.name).await
            }
            VersionRef::Label(label) => {
                return Err(ApiError::not_found(format!(
                    "{noun} `{reference}`: there is no label `{label}`"
                ))
                .hint("`@latest` is the label that every asset has"));
            }
        };
        found.map_err(|error| match error.class() {
            ErrorClass::NotFound => ApiError::not_found(format!("there is no {noun} `{reference}`"))
                .hint(format!("`moorline {noun} list` shows what is registered"))
                .caused_by(error),
            _ => error.into(),
        })
    }

    async fn secret_exists(&self, value: &str) -> Result<(), ApiError> {
        let Some(reference) = secrets::reference(value) else { return Ok(()) };
        match self.store.secret(self.workspace, &reference).await? {
            Some(_) => Ok(()),
            None => Err(secrets::missing(&reference).into()),
        }
    }

    /// By, in order: what was asked for, the deployment's property, the endpoint's compute, `local`.
    async fn compute(
        &self,
        endpoint: &Name,
        property: Option<&Name>,
        asked: Option<&Name>,
    ) -> Result<Compute, ApiError> {
        let of_endpoint = match asked.or(property) {
            Some(_) => None,
            None => self.compute_of_endpoint(endpoint).await?,
        };
        let name = asked.or(property).or(of_endpoint.as_ref());
        match name.filter(|name| name.as_str() != LOCAL) {
            Some(name) => self.known_compute(name).await,
            None => self.local().await,
        }
    }

    async fn known_compute(&self, name: &Name) -> Result<Compute, ApiError> {
        match self.store.record(self.workspace, RecordKind::Compute, name.as_str()).await {
            Ok(record) => compute(&record.name, &record.body),
            Err(error) if error.class() == ErrorClass::NotFound => Err(ApiError::not_found(format!(
                "there is no compute `{name}`"
            ))
            .hint(
                "`moorline compute create -f compute.yml` registers one, `moorline compute list` shows them",
            )),
            Err(error) => Err(error.into()),
        }
    }

    /// `local` as somebody described it here, or as it is without a word.
    async fn local(&self) -> Result<Compute, ApiError> {
        match self.store.record(self.workspace, RecordKind::Compute, LOCAL).await {
            Ok(record) => compute(&record.name, &record.body),
            Err(error) if error.class() == ErrorClass::NotFound => Ok(of_kind(LOCAL, TargetKind::Local)),
            Err(error) => Err(error.into()),
        }
    }

    async fn compute_of_endpoint(&self, endpoint: &Name) -> Result<Option<Name>, ApiError> {
        let record = self.store.record(self.workspace, RecordKind::Endpoint, endpoint.as_str()).await?;
        let body: EndpointBody = serde_json::from_value(record.body)
            .map_err(|error| ApiError::internal(format!("endpoint `{endpoint}` cannot be read"), error))?;
        let text = body.document["compute"].as_str();
        Ok(text.and_then(|text| text.strip_prefix("azureml:").unwrap_or(text).parse().ok()))
    }
}

/// A compute without settings.
fn of_kind(name: &str, kind: TargetKind) -> Compute {
    Compute {
        name: name.parse().expect("it is a name"),
        kind,
        description: None,
        tags: BTreeMap::default(),
        instance_types: BTreeMap::new(),
        settings: serde_json::Map::new(),
    }
}

/// Refuses what no scorer could serve.
fn runs(
    model: Option<&ReleaseModel>,
    code: Option<&ReleaseCode>,
    environment: Option<&Environment>,
    compute: &Compute,
    document: &OnlineDeployment,
) -> Result<(), ApiError> {
    if environment.is_some_and(|environment| environment.inference_config.is_some()) {
        if matches!(compute.kind, TargetKind::Container | TargetKind::Kubernetes) {
            return Ok(());
        }
        return Err(ApiError::new(
            ErrorClass::Unsupported,
            format!(
                "deployment `{}` is a container with a server of its own, and compute `{}` is of type {}",
                document.name,
                compute.name,
                compute.kind.as_str()
            ),
        )
        .hint("register a container host: `moorline compute create -n docker --type container`"));
    }
    if code.is_some() {
        return Ok(());
    }
    match model.map(|model| model.model_type) {
        Some(ModelType::Onnx | ModelType::MlflowModel) => Ok(()),
        Some(ModelType::TritonModel) => Err(ApiError::new(
            ErrorClass::Unsupported,
            format!("deployment `{}` has a triton_model, whose server is not offered here", document.name),
        )
        .hint("an ONNX file of it can be deployed without a scoring script")),
        Some(ModelType::CustomModel) => Err(ApiError::invalid(format!(
            "deployment `{}` has a custom_model with no ONNX file, and no scoring script",
            document.name
        ))
        .hint("add `code_configuration` with `code` and `scoring_script`")),
        None => Err(ApiError::invalid(format!(
            "deployment `{}` has neither `model` nor `code_configuration`; there is nothing to serve",
            document.name
        ))),
    }
}

/// Refuses a `model_mount_path` that means nothing.
fn mounts(document: &OnlineDeployment, environment: Option<&Environment>) -> Result<(), ApiError> {
    let Some(path) = &document.model_mount_path else { return Ok(()) };
    if environment.is_none_or(|environment| environment.inference_config.is_none()) {
        return Err(ApiError::invalid(format!(
            "deployment `{}` has a `model_mount_path`, which is for a container with a server of its own: an environment with an `image` and an `inference_config`",
            document.name
        ))
        .hint("leave it out; `AZUREML_MODEL_DIR` says where the model is"));
    }
    let mut parts = path.trim_matches('/').split('/');
    let sound = |part: &str| {
        !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control() || c == '\\')
    };
    if path.starts_with('/') && path.len() <= LONGEST_MOUNT_PATH && parts.all(sound) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("`model_mount_path: {path}` is not the path of a folder in a container"))
        .hint("it is absolute and has no `..`, as in `/models`"))
}

/// Refuses to make tensors of images for what takes the request as it comes.
fn images(
    runtime: &RuntimeSettings,
    model: Option<&ReleaseModel>,
    code: Option<&ReleaseCode>,
) -> Result<(), ApiError> {
    let onnx = code.is_none() && model.is_some_and(|model| model.model_type == ModelType::Onnx);
    if runtime.image.is_none() || onnx {
        return Ok(());
    }
    Err(ApiError::invalid("`moorline.image.…` is for ONNX models without a scoring script")
        .hint("a scoring script gets the image as it was sent, and decodes it itself"))
}

/// The compute with what its cluster says of an instance type that it does not name itself.
async fn sizes_of_cluster(
    targets: &Targets,
    workspace: &Name,
    mut compute: Compute,
    size: Option<&str>,
    notes: &mut Vec<String>,
) -> Compute {
    let Some(size) = size.filter(|size| !compute.instance_types.contains_key(*size)) else { return compute };
    if compute.kind != TargetKind::Kubernetes {
        return compute;
    }
    match Box::pin(targets.instance_type(workspace, &compute.name, size)).await {
        Ok(Some(found)) => {
            compute.instance_types.insert(size.to_owned(), found);
        }
        Ok(None) => {}
        // It is of use to few clusters, and forbidden on most.
        Err(error) if error.class == ErrorClass::Forbidden => {}
        Err(error) => notes.push(chain(&error)),
    }
    compute
}

/// What the compute means by `instance_type`, and over it what the document's `resources` say.
fn resources(
    document: &OnlineDeployment,
    compute: &Compute,
    notes: &mut Vec<String>,
) -> (Resources, Scheduling) {
    let (limits, wanted) = (document.limits(), document.scheduling());
    let Some(size) = &document.instance_type else { return (limits, wanted) };
    let Some(known) = compute.instance_types.get(size) else {
        if limits.is_empty() {
            notes.push(format!(
                "compute `{}` does not say how large instance_type `{size}` is; no limit is set",
                compute.name
            ));
        }
        return (limits, wanted);
    };
    let mut scheduling = known.scheduling();
    scheduling.devices.extend(wanted.devices);
    if !wanted.requests.is_empty() {
        scheduling.requests = wanted.requests;
    }
    (if limits.is_empty() { known.resources() } else { limits }, scheduling)
}

/// The version of Python that the environment asks for.
fn python(environment: &Environment) -> Option<String> {
    let text = environment.conda_file.clone()?;
    let file = moorline_spec::SourceFile { name: "conda_file".into(), text };
    let version = conda::parse(&file).ok()?.python?;
    // `=3.11` is written as people say it; a bound keeps its meaning.
    Some(version.trim_start_matches('=').to_owned())
}

/// The document that an asset was registered with. What is stored leaves out what the asset itself says.
fn described<T: moorline_spec::Document>(asset: &Asset) -> Result<T, ApiError> {
    let read = from_json::<T>(&named(&asset.body, asset.name.as_str()));
    read.map(|loaded| loaded.document).map_err(|error| {
        ApiError::internal(format!("{} `{}:{}` cannot be read", T::KIND, asset.name, asset.version), error)
    })
}

fn compute(name: &str, body: &serde_json::Value) -> Result<Compute, ApiError> {
    let read = from_json::<Compute>(&named(body, name));
    read.map(|loaded| loaded.document)
        .map_err(|error| ApiError::internal(format!("compute `{name}` cannot be read"), error))
}

fn named(body: &serde_json::Value, name: &str) -> serde_json::Value {
    let mut body = body.clone();
    if let Some(keys) = body.as_object_mut() {
        keys.insert("name".to_owned(), name.into());
    }
    body
}

fn uploaded_first(key: &str) -> ApiError {
    ApiError::invalid(format!(
        "`{key}` is written inline; a request refers to what was uploaded and registered before"
    ))
    .hint("the command line does that: `moorline online-deployment create -f deployment.yml`")
}
