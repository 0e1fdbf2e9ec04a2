//! The target of a compute of `type: edge`: every enrolled device that meets its condition.
//!
//! How many replicas there are is how many devices there are; a device is reached when it connects, which may be next
//! week. So what is removed is removed from the documents, and each device follows when it reads its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use moorline_core::{
    DeploymentId, Desired, ErrorClass, LogOptions, LogStream, Manifest, Observation, Placement, Scale,
    Source, Target, TargetError, Variable,
};
use serde_json::json;

use super::{Fleet, FleetError, Share, plan::Wish};
use crate::{
    desired::{
        DesiredModule, DesiredRoute, Messaging, ModuleKind, ReleaseImage, ReleaseSettings, Variable as Own,
    },
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

    fn wish(&self, placement: &Placement, image: Option<ReleaseImage>) -> Wish {
        let mut env = BTreeMap::new();
        for (name, variable) in &placement.variables {
            let own = match variable {
                Variable::Plain(value) => Own::Plain { value: value.clone() },
                Variable::Secret { reference, version, .. } => {
                    Own::Secret { secret: reference.clone(), version: *version }
                }
            };
            env.insert(name.clone(), own);
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
                image,
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
        Wish {
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
        }
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
        if desired.environment.as_ref().is_some_and(|environment| environment.inference_config.is_some()) {
            return refused(format!(
                "the environment of deployment `{}` brings a server of its own, and devices run scorers; take `inference_config` out of it",
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
        let wish = self.wish(placement, None);
        let mut document = json!({
            "condition": self.settings.condition_text,
            "priority": wish.priority,
            "modules": { wish.module_name.as_str(): wish.module },
            "routes": wish.routes,
        });
        if let Source::Image { reference, .. } = &placement.source {
            // One that is not made yet has no digest.
            document["modules"][&wish.module_name]["settings"]["image"] = match image(placement) {
                Ok(image) => json!(image),
                Err(_) => json!(reference),
            };
        }
        Ok(Manifest { documents: vec![document] })
    }

    async fn apply(&self, placement: &Placement) -> Result<(), TargetError> {
        let wish = self.wish(placement, image(placement)?);
        self.fleet.place(&placement.id, wish).await.map_err(failed)
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

/// The image of a release that needs more than the scorer: a script, and the environment that it runs in.
fn image(placement: &Placement) -> Result<Option<ReleaseImage>, TargetError> {
    let Source::Image { reference, .. } = &placement.source else { return Ok(None) };
    let digest = reference.rsplit_once('@').map_or(reference.as_str(), |(_, digest)| digest);
    let digest = digest.parse().map_err(|error| {
        TargetError::caused(ErrorClass::Internal, format!("the image `{reference}` has no digest"), error)
    })?;
    let (memory_bytes, cpu_millis) = (placement.resources.memory_bytes, placement.resources.cpu_millis);
    Ok(Some(ReleaseImage { digest, memory_bytes, cpu_millis }))
}

pub(super) fn failed(error: FleetError) -> TargetError {
    TargetError::caused(error.class(), "the devices could not be told", error)
}
