//! The target of a compute of `type: edge`: every enrolled device that meets its condition.
//!
//! How many replicas there are is how many devices there are; a device is reached when it connects, which may be next
//! week. So what is removed is removed from the documents, and each device follows when it reads its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use moorline_core::{
    DeploymentId, Desired, Digest, ErrorClass, LogOptions, LogStream, Manifest, ModelType, Observation,
    Placement, Release, Scale, Source, Target, TargetError, Variable,
};
use serde_json::json;

use super::{Fleet, FleetError, Share, plan::Wish};
use crate::{
    desired::{DesiredModule, DesiredRoute, Messaging, ModuleKind, ReleaseSettings, Variable as Own},
    hub::{AGENT, ClientId, DeviceCondition, MethodCall},
    manifest::{RestartPolicy, Status, is_module_name},
};

/// For a device to answer with its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines of a log, where nobody says how many.
const TAIL: usize = 1000;

/// What a compute says.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetSettings {
    pub condition: DeviceCondition,
    /// The condition as it was written.
    pub condition_text: String,
    pub priority: u32,
    /// The module's name on the device; the endpoint's, where it is left out.
    pub module: Option<String>,
    pub restart_policy: RestartPolicy,
    pub stages: Vec<Share>,
    /// From 0 to 1.
    pub max_failure_rate: f64,
    pub paused: bool,
    pub messaging: Option<Messaging>,
    /// Routes of the device's hub, by name.
    pub routes: BTreeMap<String, DesiredRoute>,
}

/// The devices of a compute.
#[derive(Debug)]
pub struct FleetTarget {
    fleet: Fleet,
    settings: FleetSettings,
}

impl FleetTarget {
    pub(super) fn new(fleet: Fleet, settings: FleetSettings) -> Self {
        Self { fleet, settings }
    }

    fn module_name(&self, id: &DeploymentId) -> String {
        self.settings.module.clone().unwrap_or_else(|| id.endpoint.as_str().to_owned())
    }

    fn wish(&self, placement: &Placement) -> Result<Wish, TargetError> {
        let mut env = BTreeMap::new();
        for (name, variable) in &placement.variables {
            match variable {
                Variable::Plain(value) => {
                    env.insert(name.clone(), Own { value: value.clone() });
                }
                Variable::Secret { .. } => return Err(no_secrets(name)),
            }
        }
        let (release, revision) = (&placement.release, placement.revision());
        let model = release.model.as_ref().map_or("0", |model| model.version.as_str());
        let module_name = self.module_name(&placement.id);
        let module = DesiredModule {
            kind: ModuleKind::Release,
            // Exactly this revision: by it a device says what it runs.
            version: Some(format!("{model}+{}", &revision.hex()[..12])),
            deployment: Some(placement.id.to_string()),
            status: Status::Running,
            restart_policy: self.settings.restart_policy,
            startup_order: u32::MAX,
            env,
            settings: ReleaseSettings {
                release: release.digest(),
                size: release.to_json().len() as u64,
                golden: placement.golden.clone(),
                messaging: self.settings.messaging.clone(),
            },
        };
        let mut routes: BTreeMap<String, DesiredRoute> = BTreeMap::new();
        for (name, route) in &self.settings.routes {
            routes.insert(format!("{module_name}/{name}"), route.clone());
        }
        if self.settings.messaging.is_some() && routes.is_empty() {
            let route = format!("FROM /messages/modules/{module_name}/* INTO $upstream");
            routes.insert(format!("{module_name}/upstream"), DesiredRoute { route, time_to_live_secs: None });
        }
        Ok(Wish {
            module_name,
            module,
            routes,
            condition: self.settings.condition.clone(),
            priority: self.settings.priority,
            stages: self.settings.stages.clone(),
            max_failure_rate: self.settings.max_failure_rate,
            paused: self.settings.paused,
            revision,
            finished: false,
        })
    }
}

#[async_trait]
impl Target for FleetTarget {
    async fn admit(&self, desired: &Desired) -> Result<(), TargetError> {
        let refused = |message: String| Err(TargetError::new(ErrorClass::Unsupported, message));
        let name = self.module_name(&desired.id);
        if !is_module_name(&name) {
            return Err(TargetError::new(
                ErrorClass::InvalidInput,
                format!(
                    "`{name}` is no name of a module: letters, digits, `-` and `_`; name one as `module` of compute `{}`",
                    desired.compute
                ),
            ));
        }
        let onnx = desired.release.model.as_ref().is_some_and(|model| model.model_type == ModelType::Onnx);
        if desired.release.code.is_some() || !onnx {
            return refused(format!(
                "deployment `{}` has no ONNX model, or has a scoring script; devices run ONNX models without a script",
                desired.id.deployment
            ));
        }
        if !matches!(desired.scale, Scale::Fixed { .. }) {
            return refused(
                "each device runs its own module, so there is nothing to scale; leave `scale_settings` out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn render(&self, placement: &Placement) -> Result<Manifest, TargetError> {
        let wish = self.wish(placement)?;
        let document = json!({
            "condition": self.settings.condition_text,
            "priority": wish.priority,
            "modules": { wish.module_name.as_str(): wish.module },
            "routes": wish.routes,
        });
        Ok(Manifest { documents: vec![document] })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        let wish = self.wish(placement)?;
        let Source::Folder { path, .. } = &placement.source else {
            return Err(TargetError::new(ErrorClass::Unsupported, "devices take releases, not images"));
        };
        let files = files(&placement.release, path);
        self.fleet.place(&placement.id, wish, files).await.map_err(failed)
    }

    async fn observe(&self, id: &DeploymentId) -> Result<Observation, TargetError> {
        Ok(self.fleet.observation(id))
    }

    async fn logs(&self, id: &DeploymentId, options: LogOptions) -> Result<LogStream, TargetError> {
        if options.follow {
            return Err(TargetError::new(
                ErrorClass::Unsupported,
                "the log of a device is asked for as a whole; leave --follow out",
            ));
        }
        let observation = self.fleet.observation(id);
        let names: BTreeSet<&str> = observation.replicas.iter().map(|replica| replica.id.as_str()).collect();
        let device = match &options.replica {
            Some(asked) => names.get(asked.as_str()).copied(),
            None => self.fleet.connected(&names),
        };
        let Some(device) = device else {
            return Err(TargetError::new(
                ErrorClass::NotFound,
                match options.replica {
                    Some(asked) => format!("device `{asked}` has nothing of this deployment"),
                    None => "no device of this deployment is connected".to_owned(),
                },
            ));
        };
        let agent = ClientId::module(device, AGENT)
            .map_err(|error| TargetError::caused(ErrorClass::Internal, "the device's name", error))?;
        let tail = options.tail.unwrap_or(TAIL);
        let payload = json!({ "id": self.module_name(id) });
        let call = MethodCall {
            name: "getLogs".to_owned(),
            payload,
            timeout: LOG_TIMEOUT,
            connect_timeout: Duration::ZERO,
        };
        let answer = self.fleet.hub().call(&agent, call).await.map_err(|error| {
            TargetError::caused(error.class(), format!("device `{device}` did not answer"), error)
        })?;
        let text = match answer.payload["payload"].as_str() {
            Some(text) if answer.status == 200 => text.to_owned(),
            _ => {
                let message = format!("device `{device}` answered {}: {}", answer.status, answer.payload);
                return Err(TargetError::new(ErrorClass::Unavailable, message));
            }
        };
        let lines: Vec<&str> = text.lines().filter(|line| options.take(line.as_bytes())).collect();
        let text = lines[lines.len().saturating_sub(tail)..].iter().map(|line| format!("{line}\n"));
        let chunk = Bytes::from(text.collect::<String>());
        Ok(Box::pin(stream::iter([Ok(chunk)])))
    }

    async fn remove(&self, id: &DeploymentId) -> Result<(), TargetError> {
        self.fleet.remove(id).await
    }
}

/// The files of a release that lies in a folder.
fn files(release: &Release, folder: &Path) -> BTreeMap<Digest, PathBuf> {
    let model = release.model.iter().flat_map(|model| &model.files);
    let mut files: BTreeMap<Digest, PathBuf> =
        model.map(|file| (file.sha256, folder.join(Release::MODEL_DIR).join(&file.path))).collect();
    files.insert(release.digest(), folder.join(Release::FILE));
    files
}

fn no_secrets(name: &str) -> TargetError {
    TargetError::new(
        ErrorClass::Unsupported,
        format!(
            "the variable `{name}` is a secret, and what devices are told lies in their twins in the clear; set it on the device"
        ),
    )
}

pub(super) fn failed(error: FleetError) -> TargetError {
    TargetError::caused(error.class(), "the devices could not be told", error)
}
