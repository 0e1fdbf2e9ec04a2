//! FPGAs: the targets of the computes of `type: fpga`, over the local one.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use moorline_core::{Desired, Digest, ErrorClass, Name, PinnedBitstream, TargetError, TargetKind};
use moorline_deploy::local::LocalTarget;
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
    local: Arc<LocalTarget>,
    /// Bitstreams and keys: `$MOORLINE_HOME/fpga`.
    folder: PathBuf,
    /// Where devices are leased: `$MOORLINE_HOME/devices`.
    devices: PathBuf,
    drivers: BTreeMap<String, String>,
    open: Mutex<HashMap<Key, Open>>,
}

/// A compute, and the bitstream that a deployment runs on it.
type Key = (Name, Name, Digest);

#[derive(Debug)]
struct Open {
    settings: FpgaDevices,
    target: Arc<FpgaTarget>,
}

impl Fpgas {
    pub(crate) fn new(
        store: Store,
        local: Arc<LocalTarget>,
        home: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Self {
        let (folder, devices) = (home.join("fpga"), home.join("devices"));
        let of_drivers = environment.iter().filter(|(name, _)| DRIVERS.contains(&name.as_str()));
        let drivers = of_drivers.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self(Arc::new(Inner { store, local, folder, devices, drivers, open: Mutex::default() }))
    }

    /// The target of a deployment, as its compute's settings are now.
    pub(crate) async fn target(&self, desired: &Desired) -> Result<Arc<FpgaTarget>, TargetError> {
        let (workspace, compute) = (&desired.id.workspace, &desired.compute);
        let settings = opened::compute(&self.0.store, workspace, compute).await?.fpga();
        let Some(PinnedBitstream { sha256, .. }) = &desired.bitstream else {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "the deployment names no bitstream, and compute `{compute}` did not when it was deployed"
                ),
            ));
        };
        let key = (workspace.clone(), compute.clone(), *sha256);
        if let Some(known) = self.open().get(&key).filter(|known| known.settings == settings) {
            return Ok(Arc::clone(&known.target));
        }
        let config = self.config(&settings, compute, sha256).await?;
        let below = ("local".parse().expect("it is a name"), TargetKind::Local);
        let target = Arc::new(FpgaTarget::new(Arc::clone(&self.0.local) as _, below, config));
        let open = Open { settings, target: Arc::clone(&target) };
        self.open().insert(key, open);
        Ok(target)
    }

    async fn config(
        &self,
        settings: &FpgaDevices,
        compute: &Name,
        bitstream: &Digest,
    ) -> Result<FpgaConfig, TargetError> {
        if settings.trusted_keys.is_empty() {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "compute `{compute}` names no `trusted_keys`, and no bitstream runs that none of them has signed"
                ),
            ));
        }
        let mut trusted_keys = Vec::new();
        for pem in &settings.trusted_keys {
            let file = self.0.folder.join("keys").join(format!("{}.pem", Digest::of(pem.as_bytes()).hex()));
            place(&file, pem.as_bytes().to_vec()).await?;
            trusted_keys.push(file);
        }
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
        // Where `moorline device list` looks.
        let leases = self.0.devices.clone();
        make_folder(&leases.join("any")).await?;
        Ok(FpgaConfig {
            bitstream: file,
            trusted_keys,
            device: filter(&settings.device),
            min_coverage: settings.min_coverage.unwrap_or_default(),
            rebuild: settings.rebuild,
            leases,
            drivers: self.0.drivers.clone(),
        })
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Open>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Writes a file that is not there yet, or was not written to its end.
async fn place(file: &Path, content: Vec<u8>) -> Result<(), TargetError> {
    make_folder(file).await?;
    let file = file.to_owned();
    blocking(move || {
        let whole = fs_err::read(&file).is_ok_and(|there| there == content);
        if whole { Ok(()) } else { fs_err::write(&file, content) }
    })
    .await
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<(), TargetError> {
    let what = "could not lay out what a device needs";
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| TargetError::caused(ErrorClass::Internal, what, error))?;
    done.map_err(|error| TargetError::caused(ErrorClass::Internal, what, error))
}
