//! From documents to modules: checked, written down, fetched, run. A newer document takes the place of one that is being
//! brought about.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use moorline_core::{Backoff, Digest};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::watch;

use super::{
    AgentError,
    gateway::{Gateway, Inside},
    identity::{Identity, replace},
    report::{Status, Unmet},
    runs::Runs,
};
use crate::{
    chain,
    containers::{Spec, registry_of},
    desired::{Desired, DesiredModule},
    images::{Images, ImagesError},
    manifest::Module,
    modules::Version,
    releases::{Releases, ReleasesError},
    secrets::{Secrets, SecretsError},
};

/// Why a version is not on the device.
#[derive(Debug, Error)]
enum VersionError {
    #[error(transparent)]
    Release(#[from] ReleasesError),
    #[error(transparent)]
    Image(#[from] ImagesError),
    #[error(transparent)]
    Secret(#[from] SecretsError),
}

/// A document as it came, with the version of its twin.
pub(super) type Document = Option<(u64, Value)>;

/// By what desired states are brought about.
#[derive(Debug)]
pub(super) struct Bringing {
    pub(super) releases: Arc<Releases>,
    /// Where the device has an Engine.
    pub(super) images: Option<Images>,
    pub(super) secrets: Secrets,
    pub(super) runs: Runs,
    pub(super) gateway: Option<Arc<Gateway>>,
    pub(super) status: Arc<Status>,
}

#[derive(Debug)]
pub(super) struct Reconciler {
    path: PathBuf,
    releases: Arc<Releases>,
    images: Option<Images>,
    secrets: Secrets,
    runs: Runs,
    gateway: Option<Arc<Gateway>>,
    status: Arc<Status>,
    /// The last document that was taken.
    current: Desired,
}

impl Reconciler {
    /// Takes up what the last document said, with what is on the device.
    pub(super) async fn open(folder: &Path, bringing: Bringing) -> Result<Self, AgentError> {
        let Bringing { releases, images, secrets, runs, gateway, status } = bringing;
        let path = folder.join("desired.json");
        let current = Desired::default();
        let mut reconciler = Self { path, releases, images, secrets, runs, gateway, status, current };
        let identity = Identity::open(folder)?;
        let written = fs_err::read(&reconciler.path).ok();
        let written = written.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        if let Some(document) = written {
            let keys = &identity.enrolled.facts.keys;
            match Desired::read(&document, identity.id.device_name(), keys, 0) {
                Ok(desired) => reconciler.current = desired,
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the last document is not taken again"
                    );
                }
            }
        }
        let current = reconciler.current.clone();
        // Sockets first: modules look for them when they start.
        if let Some(gateway) = &reconciler.gateway
            && let Err(error) = gateway.apply(&current, &reconciler.runs.modules).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not serve the modules' messages");
        }
        for name in current.modules.keys() {
            reconciler.runs.modules.resume(name).await?;
        }
        reconciler.status.set(|told| {
            (told.serial, told.code) = (current.serial, if current.serial == 0 { 406 } else { 200 });
            told.desired = Some(current);
        });
        Ok(reconciler)
    }

    pub(super) async fn run(
        mut self,
        mut documents: watch::Receiver<Document>,
        identity: watch::Receiver<Identity>,
    ) {
        let mut backoff = Backoff::default();
        let mut renewed = identity.clone();
        loop {
            if renewed.has_changed().unwrap_or(false) {
                let newest = renewed.borrow_and_update().clone();
                match super::https(&newest, Some(&newest.key)) {
                    Ok(client) => self.releases.ask_by(client),
                    Err(error) => {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "goes on with the old certificate"
                        );
                    }
                }
            }
            let done = tokio::select! {
                done = self.bring_about() => done,
                changed = documents.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take(&mut documents, &identity);
                    backoff.forget();
                    continue;
                }
            };
            let pause = if done { Duration::MAX } else { backoff.next_pause() };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = documents.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.take(&mut documents, &identity);
                    backoff.forget();
                }
            }
        }
    }

    /// Takes a document if it is to be trusted.
    fn take(&mut self, documents: &mut watch::Receiver<Document>, identity: &watch::Receiver<Identity>) {
        let Some((version, document)) = documents.borrow_and_update().clone() else { return };
        let identity = identity.borrow().clone();
        let keys = &identity.enrolled.facts.keys;
        let read = if document.get("integrity").is_none() && document.get("modules").is_none() {
            // Nothing was said yet.
            return;
        } else {
            Desired::read(&document, identity.id.device_name(), keys, self.current.serial)
        };
        let taken = read.map_err(|error| (error.code(), chain(&error))).and_then(|desired| {
            let bytes = serde_json::to_vec(&document).unwrap_or_default();
            replace(&self.path, &bytes).map_err(|error| (500, error.to_string()))?;
            Ok(desired)
        });
        match taken {
            Ok(desired) => {
                tracing::info!(serial = desired.serial, "took a desired state");
                self.current = desired.clone();
                self.status.set(|told| {
                    (told.version, told.serial, told.code) = (Some(version), desired.serial, 200);
                    told.description.clear();
                    told.failures.clear();
                    told.desired = Some(desired);
                });
            }
            Err((code, why)) => {
                tracing::warn!(reason = why, "did not take a desired state");
                self.status.set(|told| {
                    (told.version, told.code, told.description) = (Some(version), code, why);
                });
            }
        }
    }

    /// Fetches and sets what is wished for; `false` if something of it is to be tried again.
    async fn bring_about(&mut self) -> bool {
        let mut done = true;
        let gone: Vec<String> = self
            .runs
            .modules
            .views()
            .into_keys()
            .filter(|name| !self.current.modules.contains_key(name))
            .collect();
        for name in gone {
            self.runs.modules.remove(&name).await;
        }
        if let Err(error) = self.runs.modules.remove_strays().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "could not look for containers that a run before this one left");
            done = false;
        }
        if let Some(gateway) = &self.gateway
            && let Err(error) = gateway.apply(&self.current, &self.runs.modules).await
        {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not serve the modules' messages");
            done = false;
        }
        done &= self.remove_containers().await;
        // Of both kinds, by the order that the document gives them.
        let releases = self.current.modules.iter().map(|(name, module)| (module.startup_order, name));
        let containers = self.current.containers.iter().map(|(name, module)| (module.startup_order, name));
        let mut ordered: Vec<(u32, String)> =
            releases.chain(containers).map(|(order, name)| (order, name.clone())).collect();
        ordered.sort();
        for (_, name) in ordered {
            if let Some(module) = self.current.containers.get(&name).cloned() {
                self.set_container(name, module);
                continue;
            }
            let Some(module) = self.current.modules.get(&name).cloned() else { continue };
            match self.version(&name, module).await {
                Ok(version) => {
                    self.status.set(|told| {
                        told.failures.remove(&name);
                    });
                    if let Err(error) = self.runs.modules.set(&name, version).await {
                        tracing::warn!(
                            module = name,
                            error = &error as &dyn std::error::Error,
                            "could not run a module"
                        );
                        done = false;
                    }
                }
                Err(error) => {
                    done = false;
                    let why = chain(&error);
                    let lasting = matches!(error, VersionError::Image(ImagesError::NoEngine));
                    tracing::warn!(module = name, reason = why, "could not fetch a release");
                    // What worked last goes on.
                    if let Err(error) = self.runs.modules.resume(&name).await {
                        tracing::warn!(
                            module = name,
                            error = &error as &dyn std::error::Error,
                            "could not run a module"
                        );
                    }
                    self.status.set(|told| {
                        told.failures.insert(name, Unmet { why, lasting });
                    });
                }
            }
        }
        self.collect().await;
        done
    }

    async fn remove_containers(&self) -> bool {
        let Some(containers) = &self.runs.containers else { return true };
        let names = self.current.containers.keys().map(String::as_str).collect();
        match containers.retain(&names).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "could not look for containers that are not wished for any more"
                );
                // Without an Engine there are none.
                false
            }
        }
    }

    fn set_container(&self, name: String, module: Module) {
        let Some(containers) = &self.runs.containers else {
            let unmet = Unmet { why: ImagesError::NoEngine.to_string(), lasting: true };
            self.status.set(|told| {
                told.failures.insert(name, unmet);
            });
            return;
        };
        let credentials = registry_of(&module.image, &self.current.registries).cloned();
        let Inside { environment, sockets, hub_name } =
            self.gateway.as_ref().map(|gateway| gateway.inside(&name)).unwrap_or_default();
        let spec = Spec { name, module, credentials, environment, sockets, hub_name };
        containers.set(spec);
    }

    /// Fetches what a module needs.
    async fn version(&self, name: &str, module: DesiredModule) -> Result<Version, VersionError> {
        for (secret, version) in module.secrets() {
            self.secrets.ensure(secret, version).await?;
        }
        let folder = match Box::pin(self.fetch(&module)).await {
            Err(
                VersionError::Release(ReleasesError::Quota { .. })
                | VersionError::Image(ImagesError::Fetch(ReleasesError::Quota { .. })),
            ) => {
                // Of releases that nothing needs any more.
                self.collect().await;
                Box::pin(self.fetch(&module)).await?
            }
            fetched => fetched?,
        };
        let mut version =
            Version { module, folder, environment: BTreeMap::new(), sockets: None, hub_name: None };
        if let Some(gateway) = &self.gateway {
            if version.module.settings.image.is_some() {
                let inside = gateway.inside(name);
                version.environment = inside.environment;
                (version.sockets, version.hub_name) = (inside.sockets, inside.hub_name);
            } else {
                version.environment = gateway.environment(name);
            }
        }
        Ok(version)
    }

    async fn fetch(&self, module: &DesiredModule) -> Result<PathBuf, VersionError> {
        let settings = &module.settings;
        match (&settings.image, &self.images) {
            (None, _) => Ok(self.releases.fetch(&settings.release, settings.size).await?),
            (Some(_), None) => Err(ImagesError::NoEngine.into()),
            (Some(image), Some(images)) => {
                images.ensure(&image.digest).await?;
                Ok(PathBuf::new())
            }
        }
    }

    /// Takes away what no module needs.
    async fn collect(&self) {
        let kept = self.runs.modules.kept();
        let modules: Vec<&DesiredModule> =
            kept.iter().map(|version| &version.module).chain(self.current.modules.values()).collect();
        let keep: BTreeSet<Digest> = modules.iter().map(|module| module.needs()).collect();
        match self.releases.collect(&keep) {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "deleted what no module needs"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "could not delete what no module needs");
            }
        }
        if let Err(error) = self.secrets.retain(modules.iter().flat_map(|module| module.secrets())) {
            tracing::warn!(%error, "could not delete secrets that no module needs");
        }
        if let Some(images) = &self.images
            && let Err(error) = images.retain(&keep).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "could not remove images that no module needs");
        }
    }
}
