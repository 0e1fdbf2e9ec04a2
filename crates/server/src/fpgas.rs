//! FPGAs: the targets of the computes of `type: fpga`, each over that of another compute.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::{
    Desired, Digest, ErrorClass, MachineDevices, Name, PinnedBitstream, Target, TargetError, TargetKind,
};
use moorline_deploy::image::BITSTREAM_PATH;
use moorline_fpga::{
    bitstream::DeviceClass,
    device::DeviceFilter,
    target::{FpgaConfig, FpgaTarget},
};
use moorline_spec::{FpgaDevice, FpgaDevices};
use moorline_store::Store;

use crate::opened;

/// Variables of the server's own that say where OpenCL drivers and their parts are.
const DRIVERS: [&str; 7] = [
    "OCL_ICD_VENDORS",
    "OPENCL_VENDOR_PATH",
    "OPENCL_DYLIB_PATH",
    "POCL_DEVICES",
    "AOCL_BOARD_PACKAGE_ROOT",
    "INTELFPGAOCLSDKROOT",
    "XILINX_XRT",
];

/// The devices that a server deploys to. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Fpgas(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    /// Bitstreams: `$MOORLINE_HOME/fpga`.
    folder: PathBuf,
    /// Where devices are leased: `$MOORLINE_HOME/devices`.
    devices: PathBuf,
    drivers: BTreeMap<String, String>,
    open: Mutex<HashMap<Key, Open>>,
}

/// A compute, and what a deployment that runs on it pins: the bitstream and the contract of its results.
type Key = (Name, Name, Digest, Option<String>);

struct Open {
    settings: FpgaDevices,
    below: Arc<dyn Target>,
    target: Arc<FpgaTarget>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Fpgas {
    pub(crate) fn new(store: Store, home: &Path, environment: &BTreeMap<String, String>) -> Self {
        let (folder, devices) = (home.join("fpga"), home.join("devices"));
        let of_drivers = environment.iter().filter(|(name, _)| DRIVERS.contains(&name.as_str()));
        let drivers = of_drivers.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self(Arc::new(Inner { store, folder, devices, drivers, open: Mutex::default() }))
    }

    /// The target of a deployment, as its compute's settings are now. `below` is that of the compute below.
    pub(crate) async fn target(
        &self,
        desired: &Desired,
        below: Arc<dyn Target>,
    ) -> Result<Arc<FpgaTarget>, TargetError> {
        let (workspace, compute) = (&desired.id.workspace, &desired.compute);
        let settings = self.settings(desired).await?;
        let bitstream = pinned(desired)?;
        let key = (workspace.clone(), compute.clone(), bitstream.sha256, bitstream.numerics.clone());
        let same = |known: &&Open| known.settings == settings && Arc::ptr_eq(&known.below, &below);
        if let Some(known) = self.open().get(&key).filter(same) {
            return Ok(Arc::clone(&known.target));
        }
        let place = desired.runs_on();
        let config = self.config(&settings, compute, desired).await?;
        let target = Arc::new(FpgaTarget::new(Arc::clone(&below), place, config));
        let open = Open { settings, below, target: Arc::clone(&target) };
        self.open().insert(key, open);
        Ok(target)
    }

    /// What the compute of a deployment says now.
    pub(crate) async fn settings(&self, desired: &Desired) -> Result<FpgaDevices, TargetError> {
        Ok(opened::compute(&self.0.store, &desired.id.workspace, &desired.compute).await?.fpga())
    }

    /// The file of a deployment's bitstream, laid out where it is not yet.
    pub(crate) async fn file(&self, desired: &Desired) -> Result<PathBuf, TargetError> {
        let bitstream = &pinned(desired)?.sha256;
        let file = self.0.folder.join("bitstreams").join(format!("{}.fbit", bitstream.hex()));
        if !file.exists() {
            make_folder(&file).await?;
            // Whole or not there, whoever is killed or comes at the same time.
            let beside = file.with_extension(format!("{}.part", uuid::Uuid::new_v4()));
            self.0.store.blobs().write_to(bitstream, &beside).await.map_err(|error| {
                TargetError::caused(error.class(), "could not take the bitstream out of the store", error)
            })?;
            let to = file.clone();
            blocking(move || fs_err::rename(beside, to)).await?;
        }
        Ok(file)
    }

    async fn config(
        &self,
        settings: &FpgaDevices,
        compute: &Name,
        desired: &Desired,
    ) -> Result<FpgaConfig, TargetError> {
        if settings.trusted_keys.is_empty() {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "compute `{compute}` names no `trusted_keys`, and no bitstream runs that none of them has signed"
                ),
            ));
        }
        let mut config = FpgaConfig {
            bitstream: PathBuf::from(BITSTREAM_PATH),
            trusted_keys: settings.trusted_keys.clone(),
            numerics: pinned(desired)?.numerics.clone().or_else(|| settings.numerics.clone()),
            min_agreement: settings.min_agreement,
            device: filter(&settings.device),
            min_coverage: settings.min_coverage.unwrap_or_default(),
            rebuild: settings.rebuild,
            rolling_updates: settings.rolling_updates,
            leases: None,
            machine_devices: None,
            extended_resources: BTreeMap::new(),
            drivers: BTreeMap::new(),
        };
        match desired.runs_on().1 {
            TargetKind::Container => {
                config.leases = Some(MachineDevices::LEASES.into());
                config.machine_devices = Some(MachineDevices {
                    nodes: settings.device_nodes.clone(),
                    groups: settings.device_groups.clone(),
                });
            }
            TargetKind::Kubernetes => config.extended_resources.clone_from(&settings.extended_resources),
            TargetKind::Local | TargetKind::Fpga | TargetKind::Edge => {
                // Where `moorline device list` looks.
                let leases = self.0.devices.clone();
                make_folder(&leases.join("any")).await?;
                config.leases = Some(leases);
                config.bitstream = self.file(desired).await?;
                config.drivers.clone_from(&self.0.drivers);
            }
        }
        Ok(config)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pinned(desired: &Desired) -> Result<&PinnedBitstream, TargetError> {
    desired.bitstream.as_ref().ok_or_else(|| {
        TargetError::new(
            ErrorClass::InvalidInput,
            format!(
                "the deployment names no bitstream, and compute `{}` did not when it was deployed",
                desired.compute
            ),
        )
    })
}

fn filter(device: &FpgaDevice) -> DeviceFilter {
    DeviceFilter {
        platform: device.platform.clone(),
        name: device.name.clone(),
        index: device.index,
        class: device.class.as_deref().map(|class| match class {
            "hardware" => DeviceClass::Hardware,
            _ => DeviceClass::Emulation,
        }),
    }
}

async fn make_folder(of: &Path) -> Result<(), TargetError> {
    let folder = of.parent().unwrap_or(of).to_owned();
    blocking(move || fs_err::create_dir_all(folder)).await
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), TargetError> {
    let what = "could not lay out what a device needs";
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| TargetError::caused(ErrorClass::Internal, what, error))?;
    done.map_err(|error| TargetError::caused(ErrorClass::Internal, what, error))
}
