//! `onlineEndpoint`, managed and kubernetes: a stable name with keys that splits traffic over deployments.

use std::collections::BTreeMap;

use moorline_core::Name;
use serde::{Serialize, Serializer};

use super::Tags;
use crate::document::Document;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OnlineEndpoint {
    pub name: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub properties: Tags,
    /// `key` where it is left out.
    pub auth_mode: AuthMode,
    /// Percentages by deployment; they sum to 100 or less.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub traffic: BTreeMap<Name, u8>,
    /// One deployment, and 50 at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mirror_traffic: BTreeMap<Name, u8>,
    /// Where its deployments run unless they say otherwise.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_reference")]
    pub compute: Option<Name>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMode {
    #[default]
    Key,
    AmlToken,
    AadToken,
}

fn as_reference<S: Serializer>(name: &Option<Name>, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        Some(name) => serializer.collect_str(&format_args!("azureml:{name}")),
        None => serializer.serialize_none(),
    }
}

impl Document for OnlineEndpoint {
    const KIND: &'static str = "online endpoint";
}
