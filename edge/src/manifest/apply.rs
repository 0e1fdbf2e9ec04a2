//! A manifest of Azure's as what our devices are to run.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Manifest, ManifestError, Mistake};
use crate::{
    containers,
    desired::{Desired, DesiredRoute, MOST_MODULES},
};

/// What a manifest comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// Without a serial.
    pub desired: Desired,
    /// Desired properties of modules.
    pub twins: BTreeMap<String, Map<String, Value>>,
    /// What of the manifest means nothing to our devices, for whoever applies it.
    pub notes: Vec<String>,
}

impl Manifest {
    /// What our devices are to run for this manifest; an error where they would run something else than it says.
    pub fn apply(&self) -> Result<Applied, ManifestError> {
        let mut mistakes = Vec::new();
        let modules = &self.agent.modules;
        let mut wrong = |place: String, what: String| mistakes.push(Mistake { place, what });
        if modules.len() > MOST_MODULES {
            wrong(
                "$edgeAgent.modules".to_owned(),
                format!("{} modules; a device has at most {MOST_MODULES}", modules.len()),
            );
        }
        for (name, module) in modules {
            if let Err(error) = containers::check_options(&module.create_options) {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
                wrong(format!("$edgeAgent.modules.{name}"), format!("{error}{}", cause.unwrap_or_default()));
            }
        }
        if !mistakes.is_empty() {
            return Err(ManifestError::Mistakes(mistakes));
        }
        // Of a route that says nothing itself, or 0: that is Azure's word for it.
        let default = u32::try_from(self.hub.time_to_live).unwrap_or(u32::MAX);
        let routes = self.hub.routes.iter().map(|(name, spec)| {
            let own = spec.time_to_live.filter(|seconds| *seconds > 0);
            let time_to_live_secs = Some(own.unwrap_or(default));
            (name.clone(), DesiredRoute { route: spec.route.clone(), time_to_live_secs })
        });
        let desired = Desired {
            containers: modules.clone(),
            registries: self.agent.registries.clone(),
            routes: routes.collect(),
            ..Desired::default()
        };
        Ok(Applied { desired, twins: self.twins.clone(), notes: self.notes() })
    }

    fn notes(&self) -> Vec<String> {
        let agent = &self.agent;
        let mut notes = vec![format!(
            "the system modules `{}` and `{}` are not run: our devices have an agent and a hub of their own",
            agent.agent.image, agent.hub.image
        )];
        if agent.min_docker_version.is_some() || agent.logging_options.is_some() {
            notes.push("minDockerVersion and loggingOptions are not looked at".to_owned());
        }
        if self.hub.max_bytes.is_some() {
            notes.push(
                "storeLimits are not looked at: a device's agent bounds its queues (--queue)".to_owned(),
            );
        }
        let prioritised: Vec<&str> = self
            .hub
            .routes
            .iter()
            .filter(|(_, spec)| spec.priority.is_some())
            .map(|(name, _)| name.as_str())
            .collect();
        if !prioritised.is_empty() {
            notes.push(format!(
                "the priority of {} is not looked at: messages are delivered in the order in which they came",
                prioritised.join(", ")
            ));
        }
        if self.hub.time_to_live == 0 {
            notes.push("timeToLiveSecs is 0: what cannot be delivered at once is dropped".to_owned());
        }
        notes
    }
}
