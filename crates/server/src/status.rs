//! What the store remembers of endpoints and deployments: the body of a record is what is desired, its status is what
//! came of it.
//!
//! A change is one write of the body, which raises the record's generation; the reconciler writes the status. So a
//! crash between the two loses nothing: a generation above [`DeploymentStatus::settled_generation`] is work to do.

use moorline_core::{Desired, Failure, ModelImage, Name, Source};
use moorline_store::Record;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::rollout::{Rollout, Traffic};

/// Azure ML's `provisioning_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) enum ProvisioningState {
    Creating,
    Updating,
    Deleting,
    Succeeded,
    Failed,
}

/// The body of an endpoint's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EndpointBody {
    /// The document, in Azure ML's field names, with `traffic` and `mirror_traffic` as they are now.
    pub(crate) document: serde_json::Value,
    #[serde(default)]
    pub(crate) deleting: bool,
    /// The operation that asked for this generation.
    #[serde(default)]
    pub(crate) operation: Option<String>,
    /// The newest rollout, under way or ended. What it is at and the traffic of that are one write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rollout: Option<Rollout>,
}

impl EndpointBody {
    /// The rollout that is under way.
    pub(crate) fn running_rollout(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|rollout| rollout.under_way() && !self.deleting)
    }

    /// The traffic as it is now, by deployment.
    pub(crate) fn traffic(&self) -> Traffic {
        let traffic = self.document["traffic"].as_object();
        let share = |(name, percent): (&String, &serde_json::Value)| {
            Some((name.parse().ok()?, u8::try_from(percent.as_u64()?).ok()?))
        };
        traffic.into_iter().flatten().filter_map(share).collect()
    }
}

/// The body of a deployment's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeploymentBody {
    /// The document, in Azure ML's field names, with references pinned to versions.
    pub(crate) document: serde_json::Value,
    pub(crate) desired: Desired,
    /// Take all of the endpoint's traffic once this generation has succeeded.
    #[serde(default)]
    pub(crate) all_traffic: bool,
    #[serde(default)]
    pub(crate) deleting: bool,
    /// The operation that asked for this generation.
    #[serde(default)]
    pub(crate) operation: Option<String>,
}

/// The status of a deployment's record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DeploymentStatus {
    /// The newest generation that succeeded or failed; 0 is none.
    #[serde(default)]
    pub(crate) settled_generation: u64,
    /// Why that generation failed, if it did.
    #[serde(default)]
    pub(crate) failure: Option<Failure>,
    /// What succeeded last, and serves.
    #[serde(default)]
    pub(crate) active: Option<Desired>,
    /// The image of what serves, where it runs as one: a name that moved meanwhile, or a registry that cannot be
    /// reached, changes nothing of what runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<String>,
    /// And of its model, where that is an image of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model_image: Option<ModelImage>,
}

impl DeploymentStatus {
    /// What is true once `active` serves, of what it runs from.
    pub(crate) fn succeeded(generation: u64, active: Desired, source: Source) -> Self {
        let (image, model_image) = match source {
            Source::Image { reference, model } => (Some(reference), model),
            Source::Folder { .. } => (None, None),
        };
        Self { settled_generation: generation, failure: None, active: Some(active), image, model_image }
    }

    /// What serves, where it runs as an image.
    pub(crate) fn image(&self) -> Option<Source> {
        Some(Source::Image { reference: self.image.clone()?, model: self.model_image.clone() })
    }
}

/// A deployment's record, read.
#[derive(Clone, Debug)]
pub(crate) struct DeploymentState {
    pub(crate) generation: u64,
    pub(crate) body: DeploymentBody,
    pub(crate) status: DeploymentStatus,
}

impl DeploymentState {
    pub(crate) fn read(record: &Record) -> Result<Self, serde_json::Error> {
        let status = match &record.status {
            serde_json::Value::Null => DeploymentStatus::default(),
            status => serde_json::from_value(status.clone())?,
        };
        Ok(Self { generation: record.generation, body: serde_json::from_value(record.body.clone())?, status })
    }

    pub(crate) fn settled(&self) -> bool {
        self.status.settled_generation >= self.generation
    }

    pub(crate) fn provisioning_state(&self) -> ProvisioningState {
        if self.body.deleting {
            ProvisioningState::Deleting
        } else if self.settled() {
            if self.status.failure.is_some() {
                ProvisioningState::Failed
            } else {
                ProvisioningState::Succeeded
            }
        } else if self.status.settled_generation == 0 {
            ProvisioningState::Creating
        } else {
            ProvisioningState::Updating
        }
    }
}

/// The name of a deployment's record, and back.
pub(crate) fn deployment_record_name(endpoint: &Name, deployment: &Name) -> String {
    format!("{endpoint}/{deployment}")
}

/// The endpoint and the deployment of a record's name.
pub(crate) fn split_record_name(name: &str) -> Option<(Name, Name)> {
    let (endpoint, deployment) = name.split_once('/')?;
    Some((endpoint.parse().ok()?, deployment.parse().ok()?))
}

/// The keys under which an endpoint's two keys are kept as secrets.
pub(crate) fn key_names(endpoint: &Name) -> [String; 2] {
    [format!("endpoint/{endpoint}/primary"), format!("endpoint/{endpoint}/secondary")]
}
