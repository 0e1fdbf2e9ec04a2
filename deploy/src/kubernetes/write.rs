//! Writing to a cluster: what differs is applied, in its order, and nothing else is touched.

use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy, ValidationDirective},
    core::DynamicObject,
};
use moorline_core::Backoff;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{
    cluster::REQUEST_TIMEOUT,
    drift,
    error::ClusterError,
    names::{self, APPLIED},
    served::Kind,
    target::Context,
    watch::Sight,
};

/// Writes of one object that met another writer's.
const TRIES: u32 = 4;

/// The writer of the objects of one name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    pub(super) context: &'a Context,
    /// What the label says that they belong to.
    pub(super) name: &'a str,
}

impl Writer<'_> {
    /// Makes the cluster's objects what they should be. Nothing is left of a first try that was refused.
    pub(super) async fn write(&self, wanted: &[Value]) -> Result<(), ClusterError> {
        let changed: Vec<&Value> = wanted.iter().filter(|object| self.differs(object)).collect();
        // The one that is refused most likely, before any other is there.
        let main = changed.iter().find(|object| Kind::of(object) == Some(Kind::Deployment));
        if let Some(main) = main
            && changed.len() > 1
        {
            self.patch(main, true).await?;
        }
        let mut made = Vec::new();
        for object in changed {
            let Some((kind, name)) = identity(object) else { continue };
            let is_new = self.context.cache.object(self.name, kind, &name).is_none();
            match self.patch(object, false).await {
                Ok(()) if is_new => made.push((kind, name)),
                Ok(()) => {}
                Err(error) => {
                    for (kind, name) in made.into_iter().rev() {
                        self.delete(kind, &name).await?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn differs(&self, wanted: &Value) -> bool {
        let Some((kind, name)) = identity(wanted) else { return false };
        let Some(live) = self.context.cache.object(self.name, kind, &name) else { return true };
        if kind == Kind::Secret {
            // What is in it is not known here. One that is immutable is named after it.
            let applied = |object: &Value| object["metadata"]["annotations"][APPLIED].clone();
            return wanted["immutable"] != true && applied(wanted) != applied(&live);
        }
        let difference = drift::first(wanted, &live);
        if let Some(difference) = &difference {
            tracing::debug!(of = self.name, kind = kind.as_str(), difference, "an object differs");
        }
        difference.is_some()
    }

    /// Applies one object as a server-side apply of ours; `dry` only asks whether it would be accepted.
    async fn patch(&self, object: &Value, dry: bool) -> Result<(), ClusterError> {
        let Some((kind, name)) = identity(object) else { return Ok(()) };
        let what = || format!("could not apply {} {name}", kind.as_str());
        let Some(api) = self.api(kind) else { return Ok(()) };
        let parameters = PatchParams {
            dry_run: dry,
            force: true,
            field_manager: Some(names::FIELD_MANAGER.to_owned()),
            field_validation: Some(ValidationDirective::Strict),
        };
        let mut backoff = Backoff::default();
        for attempt in 1.. {
            let patch = Patch::Apply(object);
            let asked = timeout(REQUEST_TIMEOUT, api.patch(&name, &parameters, &patch)).await;
            match asked {
                Err(_) => return Err(ClusterError::late(what())),
                Ok(Ok(written)) => {
                    self.context.count_write();
                    if !dry && let Ok(written) = serde_json::to_value(written) {
                        let sight = Sight::of(kind, &self.context.look.owner, written);
                        sight.and_then(|sight| self.context.cache.take(sight));
                    }
                    return Ok(());
                }
                Ok(Err(kube::Error::Api(status))) if status.code == 409 && attempt < TRIES => {
                    sleep(backoff.next_pause()).await;
                }
                // A webhook with effects of its own has to be asked in earnest.
                Ok(Err(kube::Error::Api(status))) if dry && status.message.contains("dry run") => {
                    return Ok(());
                }
                Ok(Err(error)) => return Err(ClusterError::of(what(), error)),
            }
        }
        Ok(())
    }

    pub(super) async fn delete(&self, kind: Kind, name: &str) -> Result<(), ClusterError> {
        let Some(api) = self.api(kind) else { return Ok(()) };
        // A Deployment is there until its last pod is gone; what has no pods is gone at once.
        let foreground = kind == Kind::Deployment;
        let parameters = DeleteParams {
            propagation_policy: foreground.then_some(PropagationPolicy::Foreground),
            ..DeleteParams::default()
        };
        let what = || format!("could not remove {} {name}", kind.as_str());
        let asked = timeout(REQUEST_TIMEOUT, api.delete(name, &parameters)).await;
        match asked.map_err(|_| ClusterError::late(what()))? {
            Ok(_) => self.context.count_write(),
            Err(error) => {
                let error = ClusterError::of(what(), error);
                if !error.is_absent() {
                    return Err(error);
                }
                self.context.cache.forget(self.name, kind, name);
            }
        }
        if !foreground {
            self.context.cache.forget(self.name, kind, name);
        }
        Ok(())
    }

    fn api(&self, kind: Kind) -> Option<Api<DynamicObject>> {
        let cluster = &self.context.cluster;
        let resource = kind.resource(&cluster.served)?;
        Some(Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &resource))
    }
}

pub(super) fn identity(object: &Value) -> Option<(Kind, String)> {
    Some((Kind::of(object)?, object["metadata"]["name"].as_str()?.to_owned()))
}
