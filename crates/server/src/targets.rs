//! Which target a deployment means: one exhaustive match, and what each kind of target needs before it can run a
//! release.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use moorline_core::{
    DeploymentId, Desired, Digest, Environment, ErrorClass, InferenceConfig, LogOptions, LogStream, Manifest,
    ModelType, Name, Observation, Placement, ReleaseModel, Source, Target, TargetError, TargetKind, Variable,
};
use moorline_deploy::{
    Progress,
    environment::Environments,
    image::{self, Base, Compression},
    kubernetes::{Change, DeploymentReport, PublishedDeployment, PublishedEndpoint},
    local::LocalTarget,
};
use moorline_edge::fleet::{Fleet, FleetTarget};
use moorline_fpga::target::FpgaTarget;
use moorline_gateway::{Auth, DeploymentRoute, EndpointRoute};
use moorline_spec::{FpgaDevices, InstanceType, KubernetesCluster};
use moorline_store::Store;

use crate::{
    clusters::{Clusters, Namespace},
    edge,
    fpgas::Fpgas,
    hosts::{Host, Hosts},
    images::{Builder, ImageMaker, Made, Order, repository},
    opened::same,
    release::Releases,
    secrets,
};

/// The targets of this server. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    places: Places,
    environments: Environments,
    images: ImageMaker,
}

/// What there is to deploy to.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) store: Store,
    pub(crate) local: Arc<LocalTarget>,
    pub(crate) hosts: Hosts,
    pub(crate) clusters: Clusters,
    pub(crate) fpgas: Fpgas,
    /// Devices at the edge, where this server has a hub.
    pub(crate) fleet: Option<Fleet>,
    /// What replicas are told where their deployment says nothing else.
    pub(crate) variables: Arc<BTreeMap<String, String>>,
}

/// The target of one compute.
enum Place {
    Local(Arc<LocalTarget>),
    Container(Arc<Host>),
    Kubernetes(Arc<Namespace>),
    Fpga(Box<Devices>),
    Edge(Arc<FleetTarget>),
}

/// Devices, and the compute that they are on.
struct Devices {
    target: Arc<FpgaTarget>,
    settings: FpgaDevices,
    below: Place,
}

/// How an image comes to where it runs.
struct Carriage<'a> {
    registry: Option<&'a str>,
    sign_with: Option<&'a str>,
    trusted_keys: &'a [String],
    /// The model is an image of its own.
    model_apart: bool,
    builder: Builder<'a>,
}

impl Place {
    fn target(&self) -> &dyn Target {
        match self {
            Self::Local(target) => &**target,
            Self::Container(host) => &*host.target,
            Self::Kubernetes(namespace) => &*namespace.target,
            Self::Fpga(devices) => &*devices.target,
            Self::Edge(target) => &**target,
        }
    }

    fn shared(&self) -> Arc<dyn Target> {
        match self {
            Self::Local(target) => Arc::clone(target) as _,
            Self::Container(host) => Arc::clone(&host.target) as _,
            Self::Kubernetes(namespace) => Arc::clone(&namespace.target) as _,
            Self::Fpga(devices) => Arc::clone(&devices.target) as _,
            Self::Edge(target) => Arc::clone(target) as _,
        }
    }

    /// What starts the scorers: the place itself, or the one below it.
    fn ground(&self) -> &Self {
        match self {
            Self::Fpga(devices) => devices.below.ground(),
            ground => ground,
        }
    }
}

impl Targets {
    pub(crate) fn new(places: Places, environments: Environments, images: ImageMaker) -> Self {
        Self { places, environments, images }
    }

    pub(crate) fn images(&self) -> &ImageMaker {
        &self.images
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.places.hosts
    }

    async fn of(&self, desired: &Desired) -> Result<Place, TargetError> {
        let (compute, kind) = desired.runs_on();
        let below = self.ground(&desired.id.workspace, &compute, kind).await?;
        if desired.target != TargetKind::Fpga {
            return Ok(below);
        }
        let target = self.places.fpgas.target(desired, below.shared()).await?;
        let settings = self.places.fpgas.settings(desired).await?;
        Ok(Place::Fpga(Box::new(Devices { target, settings, below })))
    }

    /// The place of a compute on which scorers are started.
    async fn ground(&self, workspace: &Name, compute: &Name, kind: TargetKind) -> Result<Place, TargetError> {
        match kind {
            TargetKind::Local => Ok(Place::Local(Arc::clone(&self.places.local))),
            TargetKind::Container => Ok(Place::Container(self.places.hosts.host(workspace, compute).await?)),
            TargetKind::Kubernetes => {
                Ok(Place::Kubernetes(self.places.clusters.namespace(workspace, compute).await?))
            }
            TargetKind::Edge => {
                let Places { store, fleet, .. } = &self.places;
                edge::target(store, fleet.as_ref(), workspace, compute).await.map(Place::Edge)
            }
            TargetKind::Fpga => Err(TargetError::new(
                ErrorClass::Unsupported,
                format!("compute `{compute}` is of type fpga, and starts no scorers itself"),
            )),
        }
    }

    /// The variables of a deployment's replicas: its own, and this server's for all that it has none of. Devices at the
    /// edge are told their deployment's alone: what is near this server need not be near them.
    pub(crate) fn variables<'a>(&'a self, desired: &'a Desired) -> BTreeMap<&'a String, &'a String> {
        let shared = Some(&self.places.variables).filter(|_| desired.runs_on().1 != TargetKind::Edge);
        let shared = shared.into_iter().flat_map(|variables| variables.iter());
        shared.chain(&desired.release.environment_variables).collect()
    }

    pub(crate) async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        self.of(desired).await?.target().admit(desired).await
    }

    /// What would be applied, with secrets by reference and the places that its files would have; and what it would change,
    /// where the place can tell. `image` is the one that it would run, where it is made already, and `versions` are those
    /// of its secrets.
    pub(crate) async fn render(
        &self,
        releases: &Releases,
        desired: &Desired,
        image: Option<Source>,
        versions: &BTreeMap<String, u64>,
    ) -> Result<(Manifest, Option<Vec<Change>>), TargetError> {
        let place = self.of(desired).await?;
        let source = match place.ground() {
            Place::Edge(_) if environment_of(desired).is_some() => {
                image.unwrap_or_else(|| unmade(desired, None, false))
            }
            Place::Local(_) | Place::Fpga(_) | Place::Edge(_) => {
                let python =
                    environment_of(desired).map(|environment| self.environments.python(&environment));
                Source::Folder { path: releases.path(&desired.release), python }
            }
            Place::Container(host) => {
                image.unwrap_or_else(|| unmade(desired, host.settings.registry.as_deref(), false))
            }
            Place::Kubernetes(namespace) => {
                let settings = &namespace.settings;
                image.unwrap_or_else(|| {
                    unmade(desired, settings.registry.as_deref(), model_apart(settings, desired))
                })
            }
        };
        let variables = |versions: &BTreeMap<String, u64>| {
            let variable = |(name, value): (&String, &String)| {
                let variable = match secrets::reference(value) {
                    None => Variable::Plain(value.clone()),
                    Some(reference) => Variable::Secret {
                        version: versions.get(&reference).copied().unwrap_or_default(),
                        reference,
                        value: moorline_core::Secret::new(String::new()),
                    },
                };
                (name.clone(), variable)
            };
            self.variables(desired).into_iter().map(variable).collect()
        };
        let placement = Placement {
            id: desired.id.clone(),
            release: desired.release.clone(),
            source,
            replicas: desired.scale.bounds().0.max(1),
            scale: desired.scale,
            resources: desired.resources,
            scheduling: desired.scheduling.clone(),
            liveness: desired.liveness,
            readiness: desired.readiness,
            // What is printed must not be taken for the objects that hold the values: those have other names.
            variables: variables(&BTreeMap::new()),
            own_server: own_server(desired),
            machine_devices: None,
            golden: desired.golden.clone(),
        };
        let changes = match &place {
            Place::Kubernetes(namespace) => {
                let placement = Placement { variables: variables(versions), ..placement.clone() };
                Some(namespace.target.diff(&placement)?)
            }
            Place::Fpga(devices) => match &devices.below {
                Place::Kubernetes(namespace) => {
                    let placement = Placement { variables: variables(versions), ..placement.clone() };
                    Some(namespace.target.diff(&devices.target.with_device(&placement))?)
                }
                Place::Local(_) | Place::Container(_) | Place::Fpga(_) | Place::Edge(_) => None,
            },
            Place::Local(_) | Place::Container(_) | Place::Edge(_) => None,
        };
        Ok((place.target().render(&placement)?, changes))
    }

    /// What the making of the source is called in an operation.
    pub(crate) fn making(desired: &Desired) -> &'static str {
        match desired.runs_on().1 {
            TargetKind::Local if desired.target == TargetKind::Fpga => "bitstream",
            TargetKind::Local => "environment",
            TargetKind::Edge if environment_of(desired).is_none() => "release",
            TargetKind::Edge => "image",
            TargetKind::Fpga | TargetKind::Container | TargetKind::Kubernetes => "image",
        }
    }

    /// Makes what the target reads the release from: its folder and its environment, or its image.
    pub(crate) async fn source(
        &self,
        releases: &Releases,
        desired: &Desired,
        progress: &Progress,
    ) -> Result<Source, TargetError> {
        let place = self.of(desired).await?;
        let devices = match &place {
            Place::Fpga(devices) => Some(&devices.settings),
            Place::Local(_) | Place::Container(_) | Place::Kubernetes(_) | Place::Edge(_) => None,
        };
        match place.ground() {
            // Devices have no environments: what needs one comes with it.
            Place::Edge(_) if environment_of(desired).is_some() => {
                let carriage = Carriage {
                    registry: None,
                    sign_with: None,
                    trusted_keys: &[],
                    model_apart: false,
                    builder: Builder::Usual(&self.places.hosts),
                };
                let made = self.image(desired, devices, &carriage, progress).await?;
                Ok(Source::image(made.reference))
            }
            Place::Local(_) | Place::Fpga(_) | Place::Edge(_) => {
                let python = match environment_of(desired) {
                    Some(environment) => Some(self.python(&environment, progress.clone()).await?),
                    None => None,
                };
                let path = releases.ensure(&desired.release).await.map_err(|error| {
                    TargetError::caused(ErrorClass::Internal, "could not lay the release out", error)
                })?;
                Ok(Source::Folder { path, python })
            }
            Place::Container(host) => {
                let carriage = Carriage {
                    registry: host.settings.registry.as_deref(),
                    sign_with: host.settings.sign_with.as_deref(),
                    trusted_keys: &host.settings.trusted_keys,
                    model_apart: false,
                    builder: Builder::Of(host.target.engine()),
                };
                let made = self.image(desired, devices, &carriage, progress).await?;
                host.target.supply(&made.reference, progress).await?;
                Ok(Source::image(made.reference))
            }
            Place::Kubernetes(namespace) => {
                let settings = &namespace.settings;
                let Some(registry) = settings.registry.as_deref() else {
                    return Err(TargetError::new(
                        ErrorClass::InvalidInput,
                        format!(
                            "compute `{}` has no `registry`, and a cluster runs only images that it can pull: name one that the server can push to and the nodes can pull from",
                            desired.compute
                        ),
                    ));
                };
                let carriage = Carriage {
                    registry: Some(registry),
                    sign_with: settings.sign_with.as_deref(),
                    trusted_keys: &settings.trusted_keys,
                    model_apart: model_apart(settings, desired),
                    builder: Builder::Usual(&self.places.hosts),
                };
                let made = self.image(desired, devices, &carriage, progress).await?;
                Ok(Source::Image { reference: made.reference, model: made.model.map(|(_, model)| model) })
            }
        }
    }

    /// Makes the image, and looks at its signature.
    async fn image(
        &self,
        desired: &Desired,
        devices: Option<&FpgaDevices>,
        carriage: &Carriage<'_>,
        progress: &Progress,
    ) -> Result<Made, TargetError> {
        let name = name_of(desired);
        let (mut base, mut bitstream, mut content) = (None, None, desired.release.digest());
        if let Some(devices) = devices {
            bitstream = Some(self.places.fpgas.file(desired).await?);
            base = base_of_devices(desired, devices)?;
            let pinned = desired.bitstream.as_ref().map(|bitstream| bitstream.sha256.hex());
            content = Digest::of(format!("{} {}", content.hex(), pinned.unwrap_or_default()).as_bytes());
        }
        let push = match carriage.registry {
            None => None,
            Some(registry) => {
                let tag = &content.hex()[..16];
                let reference = format!("{registry}/{name}:{tag}").parse().map_err(|error| {
                    TargetError::caused(
                        ErrorClass::InvalidInput,
                        format!("images cannot be pushed to `{registry}`"),
                        error,
                    )
                })?;
                Some(reference)
            }
        };
        let order = Order {
            desired,
            name,
            base,
            bitstream: bitstream.as_deref(),
            model_apart: carriage.model_apart,
            compression: Compression::default(),
            describe: push.is_some(),
            push,
            sign_with: carriage.sign_with,
        };
        let made = self.images.make(&order, carriage.builder, progress).await?;
        let images = [Some(&made.image), made.model.as_ref().map(|(image, _)| image)];
        for image in images.into_iter().flatten() {
            self.images.check_signature(image, carriage.trusted_keys, progress).await?;
        }
        Ok(made)
    }

    async fn python(
        &self,
        environment: &Environment,
        progress: Progress,
    ) -> Result<std::path::PathBuf, TargetError> {
        let built = self.environments.ensure(environment, move |line: &str| progress.line(line)).await;
        built.map(|place| place.python).map_err(|error| {
            let log = error.log().to_vec();
            TargetError::caused(error.class(), "could not make the environment", error).with_log(log)
        })
    }

    pub(crate) async fn apply(&self, desired: &Desired, placement: &Placement) -> Result<(), TargetError> {
        self.of(desired).await?.target().apply(placement).await
    }

    pub(crate) async fn observe(&self, desired: &Desired) -> Result<Observation, TargetError> {
        self.of(desired).await?.target().observe(&desired.id).await
    }

    /// Tells the gateways of clusters what an endpoint's route is now: those of clusters that it has deployments on get
    /// these, and all others none. `of` says what a deployment is besides.
    pub(crate) fn publish(&self, route: &EndpointRoute, active: &BTreeMap<Name, Desired>) {
        for namespace in self.places.clusters.with_gateways(&route.workspace) {
            let compute = &namespace.compute;
            let own = active.iter().filter(|(_, desired)| {
                let (on, kind) = desired.runs_on();
                kind == TargetKind::Kubernetes && same(&on, compute)
            });
            let deployments: BTreeMap<Name, PublishedDeployment> = own
                .filter_map(|(name, desired)| {
                    let (objects, port) = namespace.target.pods_of(desired);
                    Some((name.clone(), published(route.deployments.get(name)?, objects, port)))
                })
                .collect();
            if deployments.is_empty() {
                namespace.target.withdraw(&route.workspace, &route.name);
                continue;
            }
            let there = |(name, _): &&(Name, u8)| deployments.contains_key(name);
            namespace.target.publish(PublishedEndpoint {
                workspace: route.workspace.clone(),
                name: route.name.clone(),
                keys: match route.auth {
                    Auth::Key { hashes } => Some(hashes),
                    Auth::Token | Auth::Open => None,
                },
                traffic: route.traffic.iter().filter(there).cloned().collect(),
                mirror: route.mirror.iter().find(there).cloned(),
                deployments,
            });
        }
    }

    /// Tells the gateways of clusters that an endpoint is gone.
    pub(crate) fn withdraw(&self, workspace: &Name, endpoint: &Name) {
        for namespace in self.places.clusters.with_gateways(workspace) {
            namespace.target.withdraw(workspace, endpoint);
        }
    }

    /// What gateways of clusters have counted of a deployment.
    pub(crate) fn gateway_report(&self, id: &DeploymentId) -> DeploymentReport {
        // A deployment is on one compute, but for the moment in which it moves.
        let namespaces = self.places.clusters.with_gateways(&id.workspace);
        let reports = namespaces.iter().map(|namespace| namespace.target.gateway_report(id));
        reports.max_by_key(|report| report.requests + report.waiting + report.in_flight).unwrap_or_default()
    }

    pub(crate) async fn logs(
        &self,
        desired: &Desired,
        options: LogOptions,
    ) -> Result<LogStream, TargetError> {
        self.of(desired).await?.target().logs(&desired.id, options).await
    }

    /// What a compute's cluster itself says that an instance type is.
    pub(crate) async fn instance_type(
        &self,
        workspace: &Name,
        compute: &Name,
        name: &str,
    ) -> Result<Option<InstanceType>, TargetError> {
        self.places.clusters.namespace(workspace, compute).await?.target.instance_type(name).await
    }

    /// Removes the deployment from the place where `desired` runs. Where its compute is not known any more, nothing
    /// can be left of it that this server could find.
    pub(crate) async fn remove(&self, desired: &Desired) -> Result<(), TargetError> {
        // What has a device is that of the compute below, whatever its own says by now of bitstreams and keys.
        let (compute, kind) = desired.runs_on();
        match self.ground(&desired.id.workspace, &compute, kind).await {
            Ok(place) => place.target().remove(&desired.id).await,
            Err(error) if matches!(error.class, ErrorClass::NotFound | ErrorClass::Unsupported) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The releases and images that devices are told of: they may be asked for at any time.
    pub(crate) fn needed_by_devices(&self) -> BTreeSet<Digest> {
        self.places.fleet.as_ref().map(Fleet::needed).unwrap_or_default()
    }

    /// Removes what is left anywhere of a deployment that nobody knows.
    pub(crate) async fn remove_everywhere(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.places.local.remove(id).await?;
        self.places.hosts.remove(id).await?;
        if let Some(fleet) = &self.places.fleet {
            fleet.remove(id).await?;
        }
        self.places.clusters.remove(id).await
    }

    /// Tells the targets which deployments there are and where: what runs in any other place is stopped.
    pub(crate) async fn settle(&self, known: &[(DeploymentId, Vec<(TargetKind, Name)>)]) {
        let on = |kind: TargetKind| {
            let on_it = move |(_, places): &&(DeploymentId, Vec<(TargetKind, Name)>)| {
                places.iter().any(|(its, _)| *its == kind)
            };
            known.iter().filter(on_it)
        };
        let local: Vec<DeploymentId> = on(TargetKind::Local).map(|(id, _)| id.clone()).collect();
        let by_compute = |kind| -> Vec<(Name, DeploymentId)> {
            let named =
                |(id, places): &(DeploymentId, Vec<(TargetKind, Name)>)| -> Vec<(Name, DeploymentId)> {
                    places.iter().map(|(_, compute)| (compute.clone(), id.clone())).collect()
                };
            on(kind).flat_map(named).collect()
        };
        if let Some(fleet) = &self.places.fleet {
            fleet.settle(on(TargetKind::Edge).map(|(id, _)| id.clone()).collect());
        }
        let (hosted, clustered) = (by_compute(TargetKind::Container), by_compute(TargetKind::Kubernetes));
        tokio::join!(
            self.places.local.settle(&local),
            self.places.hosts.settle(&hosted),
            self.places.clusters.settle(&clustered)
        );
    }

    /// Ends what runs on this server's machine and its hosts; with `keep` it runs on, and is adopted by the next server.
    /// What runs on clusters runs on in any case.
    pub(crate) async fn shutdown(&self, keep: bool) {
        self.places.clusters.shutdown();
        tokio::join!(self.places.local.shutdown(keep), self.places.hosts.shutdown(keep));
    }
}

fn published(route: &DeploymentRoute, objects: String, port: u16) -> PublishedDeployment {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    PublishedDeployment {
        objects,
        port,
        request_timeout_ms: millis(route.request_timeout),
        max_concurrent_per_replica: route.max_concurrent_per_replica.get(),
        max_queue_wait_ms: millis(route.max_queue_wait),
        can_scale_from_zero: route.can_scale_from_zero,
        scoring_path: route.scoring_path.clone(),
    }
}

/// The base of an image for devices, where the deployment names none: that of the compute, with the device's driver.
fn base_of_devices(desired: &Desired, devices: &FpgaDevices) -> Result<Option<Base>, TargetError> {
    let named = desired.environment.as_ref().is_some_and(|environment| environment.image.is_some());
    let Some(image) = devices.image.as_ref().filter(|_| !named) else { return Ok(None) };
    let reference = image.parse().map_err(|error| {
        let message = format!("`image` of compute `{}` names no image", desired.compute);
        TargetError::caused(ErrorClass::InvalidInput, message, error)
    })?;
    Ok(Some(Base::Registry(reference)))
}

/// Whether a cluster is given the model as an image of its own.
fn model_apart(settings: &KubernetesCluster, desired: &Desired) -> bool {
    let (Some(volume), Some(model)) = (&settings.model_volume, &desired.release.model) else { return false };
    volume.takes(model.files.iter().map(|file| file.size).sum())
}

/// The image of a deployment that is not made yet: its digest is not known.
fn unmade(desired: &Desired, registry: Option<&str>, model_apart: bool) -> Source {
    let registry = registry.unwrap_or(Source::UNPUSHED);
    let reference = format!("{registry}/{}@sha256:…", name_of(desired));
    let model = desired.release.model.as_ref().filter(|_| model_apart).map(|model| {
        let own_server = own_server(desired).is_some();
        image::model_of(model, own_server, desired.model_mount_path.as_deref(), reference.clone())
    });
    Source::Image { reference, model }
}

/// The repository of a deployment's images.
fn name_of(desired: &Desired) -> String {
    repository(&desired.id.workspace, desired.id.endpoint.as_str())
}

/// The routes of an image that brings its own server.
pub(crate) fn own_server(desired: &Desired) -> Option<InferenceConfig> {
    desired.environment.as_ref().and_then(|environment| environment.inference_config.clone())
}

/// The environment that a release's Python runs in; `None` where it has none.
fn environment_of(desired: &Desired) -> Option<Cow<'_, Environment>> {
    let mlflow = |model: &ReleaseModel| model.model_type == ModelType::MlflowModel;
    let needed = desired.release.code.is_some() || desired.release.model.as_ref().is_some_and(mlflow);
    needed.then(|| match &desired.environment {
        Some(environment) => Cow::Borrowed(environment),
        None => Cow::Owned(Environment::default()),
    })
}
