//! The modules of a device, whichever way they run.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    containers::{ContainerView, Containers},
    modules::{GoldenRun, Modules, OrderError},
};

#[derive(Clone, Debug)]
pub(super) struct Runs {
    /// Releases.
    pub(super) modules: Arc<Modules>,
    /// Where the device has an Engine.
    pub(super) containers: Option<Arc<Containers>>,
}

impl Runs {
    pub(super) fn container_views(&self) -> BTreeMap<String, ContainerView> {
        self.containers.as_ref().map(|containers| containers.views()).unwrap_or_default()
    }

    pub(super) fn names(&self) -> Vec<String> {
        let mut names = self.modules.names();
        names.extend(self.container_views().into_keys());
        names.sort();
        names.dedup();
        names
    }

    /// The end of a module's log; `None` if there is no such module.
    pub(super) async fn log(&self, name: &str) -> Option<String> {
        match (self.modules.log(name).await, &self.containers) {
            (None, Some(containers)) => containers.log(name).await,
            (log, _) => log,
        }
    }

    pub(super) async fn restart(&self, name: &str) -> Result<(), OrderError> {
        match (self.modules.restart(name).await, &self.containers) {
            (Err(OrderError::NoModule(_)), Some(containers)) => containers.restart(name).await,
            (done, _) => done,
        }
    }

    pub(super) async fn run_golden(&self, name: &str) -> Result<GoldenRun, OrderError> {
        if self.container_views().contains_key(name) {
            return Err(OrderError::NoGolden(name.to_owned()));
        }
        self.modules.run_golden(name).await
    }

    /// Is done when something of a view has changed since this was last done.
    pub(super) async fn changed(&self) {
        let containers = async {
            match &self.containers {
                Some(containers) => containers.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.modules.changed() => {}
            () = containers => {}
        }
    }
}
