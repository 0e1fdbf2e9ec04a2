//! `data_collector` of a deployment: which requests and answers are kept, and where.

use std::collections::{BTreeMap, BTreeSet};

use moorline_core::{CollectionSettings, Name};
use serde::Serialize;

use crate::{
    fields::Fields,
    reader::{Finding, Reader},
    scalars,
    yaml::{Content, Node},
};

/// Which requests and answers are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DataCollector {
    pub collections: BTreeMap<String, Collection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_rate: Option<RollingRate>,
    /// 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_logging: Option<RequestLogging>,
}

/// One stream of what is kept: `model_inputs`, `model_outputs`, or a script's own.
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

/// Where a collection goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum CollectionData {
    Reference(String),
    Asset(DataAsset),
}

/// A data asset, as Azure ML describes it.
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

pub use moorline_core::RollingRate;

/// What is kept of a request besides its body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RequestLogging {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capture_headers: Vec<String>,
}

impl DataCollector {
    /// What a scorer keeps: nothing where no collection is enabled.
    pub fn settings(&self) -> Option<CollectionSettings> {
        let enabled = self.collections.iter().filter(|(_, collection)| collection.enabled);
        let collections: BTreeSet<Name> =
            enabled.filter_map(|(name, _)| name.to_ascii_lowercase().parse().ok()).collect();
        let captured = self.request_logging.iter().flat_map(|logging| &logging.capture_headers);
        (!collections.is_empty()).then(|| CollectionSettings {
            collections,
            sampling_rate: self.sampling_rate.unwrap_or(1.0),
            rolling_rate: self.rolling_rate.unwrap_or_default(),
            capture_headers: captured
                .filter(|name| !CollectionSettings::is_credential(name))
                .map(|name| name.to_ascii_lowercase())
                .collect(),
        })
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn as_text<S: serde::Serializer>(enabled: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *enabled { "true" } else { "false" })
}

pub(super) fn read(reader: &mut Reader, node: &Node) -> Option<DataCollector> {
    let mut fields = Fields::open(reader, node, "data collector")?;
    let collections =
        fields.required(reader, "collections", |reader, node| scalars::map(reader, node, collection));
    for name in collections.iter().flat_map(BTreeMap::keys) {
        if name.parse::<Name>().is_err() {
            let said: String = name.chars().take(100).collect();
            let message =
                format!("`{said}` is no name of a collection; use letters, digits, `-`, `_` and `.`");
            reader.report(Finding::error(node.place, message));
        }
    }
    let rates = [("minute", RollingRate::Minute), ("day", RollingRate::Day), ("hour", RollingRate::Hour)];
    let rolling_rate = fields.optional(reader, "rolling_rate", scalars::choice(&rates));
    let sampling_rate = fields.optional(reader, "sampling_rate", scalars::fraction);
    let request_logging = fields.optional(reader, "request_logging", request_logging);
    fields.close(reader);
    Some(DataCollector {
        collections: collections.unwrap_or_default(),
        rolling_rate,
        sampling_rate,
        request_logging,
    })
}

fn collection(reader: &mut Reader, node: &Node) -> Option<Collection> {
    let mut fields = Fields::open(reader, node, "collection")?;
    let enabled = fields.required(reader, "enabled", |reader, node| match &node.content {
        // Azure ML wants the words in quotes; a boolean says the same.
        Content::Bool(enabled, _) => Some(*enabled),
        _ => scalars::choice(&[("true", true), ("false", false)])(reader, node),
    });
    let data = fields.optional(reader, "data", |reader, node| match &node.content {
        Content::Map(_) => data_asset(reader, node).map(CollectionData::Asset),
        _ => scalars::filled(reader, node).map(CollectionData::Reference),
    });
    if data.is_some() {
        let message = "`data` has no effect here: what is collected goes to the workspace's own store";
        reader.report(Finding::warning(node.place, message));
    }
    let client_id = fields.optional(reader, "client_id", scalars::text);
    fields.close(reader);
    Some(Collection { enabled: enabled?, data, client_id })
}

fn data_asset(reader: &mut Reader, node: &Node) -> Option<DataAsset> {
    let mut fields = Fields::open(reader, node, "data asset")?;
    let name = fields.optional(reader, "name", scalars::text);
    let path = fields.optional(reader, "path", scalars::text);
    let version = fields.optional(reader, "version", scalars::text);
    let data_id = fields.optional(reader, "data_id", scalars::text);
    fields.close(reader);
    Some(DataAsset { name, path, version, data_id })
}

fn request_logging(reader: &mut Reader, node: &Node) -> Option<RequestLogging> {
    let mut fields = Fields::open(reader, node, "request logging")?;
    let capture_headers = fields
        .optional(reader, "capture_headers", |reader, node| scalars::list(reader, node, scalars::filled));
    fields.close(reader);
    for name in capture_headers.iter().flatten().filter(|name| CollectionSettings::is_credential(name)) {
        let message = format!("header `{name}` is never captured: it shows who somebody is");
        reader.report(Finding::warning(node.place, message));
    }
    Some(RequestLogging { capture_headers: capture_headers.unwrap_or_default() })
}
