//! `compute`: a place where deployments run.

use std::collections::BTreeMap;

use moorline_core::{Name, Resources, TargetKind};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Tags;
use crate::document::Document;

/// A place where deployments run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compute {
    pub name: Name,
    #[serde(rename = "type")]
    pub kind: TargetKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// What an `instance_type` means here; one that is not listed means no limit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub instance_types: BTreeMap<String, InstanceType>,
    /// What only this kind of compute knows (`namespace`, `context`, …), read by its target.
    #[serde(flatten)]
    pub settings: Map<String, Value>,
}

/// A size: what one replica may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InstanceType {
    /// A quantity: `2`, `500m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// A quantity: `4Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

impl InstanceType {
    pub fn resources(&self) -> Resources {
        unimplemented!()
    }
}

impl Document for Compute {
    const KIND: &'static str = "compute";
}
