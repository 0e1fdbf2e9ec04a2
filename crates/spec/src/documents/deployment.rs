//! `onlineDeployment`, managed and kubernetes: a release with a scale, under an endpoint.

use std::collections::BTreeMap;

use moorline_core::{Name, Probe, RequestSettings, Resources};
use serde::Serialize;

use super::{DataCollector, Environment, Model, RuntimeSettings, Tags};
use crate::{
    document::Document,
    reference::{AssetRef, CodeSource},
};

/// Seconds for which fewer replicas must have been enough before some are taken away.
const DEFAULT_SCALE_DOWN_DELAY: u32 = 60;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnlineDeployment {
    pub name: Name,
    pub endpoint_name: Name,
    #[serde(rename = "type")]
    pub kind: DeploymentType,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// `moorline.*` among them are read by [`OnlineDeployment::runtime`].
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<AssetRef<Model>>,
    /// Of a custom container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_mount_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_configuration: Option<CodeConfiguration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<AssetRef<Environment>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment_variables: BTreeMap<String, String>,
    /// 1 where it is left out.
    pub instance_count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_settings: Option<ScaleSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_settings: Option<RequestSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_collector: Option<DataCollector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentType {
    #[default]
    Managed,
    Kubernetes,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CodeConfiguration {
    pub code: CodeSource,
    /// Relative to `code`, with `/` between parts.
    pub scoring_script: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ScaleSettings {
    /// `instance_count` replicas.
    Default,
    TargetUtilization {
        /// Seconds; 1.
        polling_interval: u32,
        /// 70.
        target_utilization_percentage: u32,
        /// 1; 0 scales to zero.
        min_instances: u32,
        /// 1.
        max_instances: u32,
    },
}

/// How much of a machine a replica asks for and may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceRequirements {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceSettings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceSettings>,
}

/// Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
}

impl Document for OnlineDeployment {
    const KIND: &'static str = "online deployment";
}

impl OnlineDeployment {
    /// What the `moorline.*` properties say.
    pub fn runtime(&self) -> RuntimeSettings {
        unimplemented!()
    }

    /// What one replica may use: `resources.limits`.
    pub fn limits(&self) -> Resources {
        unimplemented!()
    }

    /// How many replicas, and who decides.
    pub fn scale(&self) -> moorline_core::Scale {
        match self.scale_settings {
            None | Some(ScaleSettings::Default) => {
                moorline_core::Scale::Fixed { instances: self.instance_count }
            }
            Some(ScaleSettings::TargetUtilization {
                polling_interval,
                target_utilization_percentage,
                min_instances,
                max_instances,
            }) => moorline_core::Scale::TargetUtilization {
                min_instances,
                max_instances,
                target_utilization_percentage,
                polling_interval,
                scale_down_delay: self.runtime().scale_down_delay.unwrap_or(DEFAULT_SCALE_DOWN_DELAY),
            },
        }
    }
}
