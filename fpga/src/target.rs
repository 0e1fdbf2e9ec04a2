//! The target `fpga`: what runs on the compute below it, with a bitstream and a device. It changes placements and nothing
//! else; who starts the scorer is the target below.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use moorline_core::{
    DeploymentId, Desired, Digest, ErrorClass, LogOptions, LogStream, MachineDevices, Manifest, ModelType,
    Name, Observation, Placement, Target, TargetError, TargetKind, Variable,
};

use crate::device::DeviceFilter;

/// What a compute says of its devices, and where things are.
#[derive(Clone, Debug, PartialEq)]
pub struct FpgaConfig {
    /// The file of the bitstream, where the scorer finds it.
    pub bitstream: PathBuf,
    /// Public keys (PEM), one of which must have signed it.
    pub trusted_keys: Vec<String>,
    /// The contract of the results, where one is asked for.
    pub numerics: Option<String>,
    /// The least share of answers in which a quantized model agrees with its original.
    pub min_agreement: Option<f64>,
    pub device: DeviceFilter,
    /// The least share of a model's operations that must run on the device, from 0 to 1.
    pub min_coverage: f64,
    /// Whether an emulated device may build the kernels from source.
    pub rebuild: bool,
    /// Whether there is a device to spare, which the next revision takes while the former one serves.
    pub rolling_updates: bool,
    /// Where devices are leased: the same folder for everything on a machine; where there is none, whoever starts the
    /// scorers sees to it that no two have one device.
    pub leases: Option<PathBuf>,
    /// What a container is given of its machine.
    pub machine_devices: Option<MachineDevices>,
    /// What a cluster's pods ask for.
    pub extended_resources: BTreeMap<String, u32>,
    /// Variables that OpenCL's loader and the drivers look at, beside what a deployment says.
    pub drivers: BTreeMap<String, String>,
}

/// Scorers that run models on devices.
pub struct FpgaTarget {
    below: Arc<dyn Target>,
    /// The compute and its kind, which the target below knows.
    place: (Name, TargetKind),
    config: FpgaConfig,
    /// By deployment, the revision of the placement that was applied last, as it came and as it was handed on.
    applied: Mutex<HashMap<DeploymentId, (Digest, Digest)>>,
}

impl fmt::Debug for FpgaTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FpgaTarget")
            .field("place", &self.place)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl FpgaTarget {
    /// `place` is the compute that `below` is the target of, and its kind.
    pub fn new(below: Arc<dyn Target>, place: (Name, TargetKind), config: FpgaConfig) -> Self {
        Self { below, place, config, applied: Mutex::default() }
    }

    fn applied(&self) -> MutexGuard<'_, HashMap<DeploymentId, (Digest, Digest)>> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The placement as the target below gets it: the same, and what a scorer has to be told.
    pub fn with_device(&self, placement: &Placement) -> Placement {
        let config = &self.config;
        let mut told = vec![
            ("BITSTREAM", config.bitstream.display().to_string()),
            ("TRUSTED_KEYS", config.trusted_keys.join(",")),
            ("MIN_COVERAGE", config.min_coverage.to_string()),
            ("REBUILD", config.rebuild.to_string()),
        ];
        told.extend(config.leases.iter().map(|folder| ("LEASES", folder.display().to_string())));
        told.extend(config.numerics.iter().map(|numerics| ("NUMERICS", numerics.clone())));
        told.extend(config.min_agreement.iter().map(|least| ("MIN_AGREEMENT", least.to_string())));
        let filter = pairs(&config.device);
        if !filter.is_empty() {
            told.push(("DEVICE", filter));
        }
        let mut placement = placement.clone();
        placement.machine_devices.clone_from(&config.machine_devices);
        placement.scheduling.devices.extend(config.extended_resources.clone());
        for (name, value) in &config.drivers {
            placement.variables.entry(name.clone()).or_insert_with(|| Variable::Plain(value.clone()));
        }
        for (name, value) in told {
            placement.variables.insert(format!("MOORLINE_FPGA_{name}"), Variable::Plain(value));
        }
        placement
    }
}

/// A filter as the scorer reads it.
fn pairs(filter: &DeviceFilter) -> String {
    let DeviceFilter { platform, name, index, class } = filter;
    let mut pairs = Vec::new();
    pairs.extend(platform.iter().map(|text| format!("platform={text}")));
    pairs.extend(name.iter().map(|text| format!("name={text}")));
    pairs.extend(index.iter().map(|index| format!("index={index}")));
    pairs.extend(class.iter().map(|class| format!("class={}", class.as_str())));
    pairs.join(",")
}

#[async_trait]
impl Target for FpgaTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        if desired.target != TargetKind::Fpga {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                format!("compute `{}` is of type {}, and not fpga", desired.compute, desired.target.as_str()),
            ));
        }
        let onnx = desired.release.model.as_ref().is_some_and(|model| model.model_type == ModelType::Onnx);
        if desired.release.code.is_some() || !onnx {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                format!(
                    "compute `{}` runs ONNX models on devices, and this deployment is a scoring script or a model of another kind: deploy the ONNX file alone, or on another compute",
                    desired.compute
                ),
            ));
        }
        let mut below = desired.clone();
        (below.compute, below.target) = self.place.clone();
        self.below.admit(&below).await
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        self.below.render(&self.with_device(placement))
    }

    /// A device runs one bitstream for one deployment at a time, so another revision takes the place of the former one only
    /// after it has gone, where no device is to spare: until the new one is ready nothing serves.
    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        let own = placement.revision();
        let placement = self.with_device(placement);
        let revision = placement.revision();
        if !self.config.rolling_updates {
            let seen = self.below.observe(&placement.id).await?;
            if seen.replicas.iter().any(|replica| replica.revision != revision) {
                tracing::info!(deployment = %placement.id, "the device is given up by the former revision first");
                self.below.remove(&placement.id).await?;
            }
        }
        self.below.apply(&placement).await?;
        self.applied().insert(placement.id.clone(), (own, revision));
        Ok(())
    }

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError> {
        let mut seen = self.below.observe(id).await?;
        if let Some((own, handed_on)) = self.applied().get(id) {
            let revisions = seen.replicas.iter_mut().map(|replica| &mut replica.revision);
            for revision in revisions.chain(&mut seen.revision).filter(|revision| **revision == *handed_on) {
                *revision = *own;
            }
        }
        Ok(seen)
    }

    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError> {
        self.below.logs(id, options).await
    }

    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.below.remove(id).await?;
        self.applied().remove(id);
        Ok(())
    }
}
