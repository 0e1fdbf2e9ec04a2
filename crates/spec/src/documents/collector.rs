//! `data_collector` of a deployment: which requests and answers are kept, and where.

use std::collections::BTreeMap;

use serde::Serialize;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataCollector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub collections: BTreeMap<String, Collection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_rate: Option<RollingRate>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_logging: Option<RequestLogging>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Collection {
    /// Written as the text `true` or `false`, as Azure ML has it.
    #[serde(serialize_with = "as_text")]
    pub enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<CollectionData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CollectionData {
    Reference(String),
    Asset(DataAsset),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataAsset {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RollingRate {
    Minute,
    Day,
    Hour,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestLogging {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capture_headers: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn as_text<S: serde::Serializer>(enabled: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *enabled { "true" } else { "false" })
}
