//! What a device says of itself, as its server reads it: the reported properties of its `$edgeAgent`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::hub::Twin;

/// What a device says of itself. What it does not say is empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reported {
    /// Of its agent.
    pub version: AgentVersion,
    /// Whether it took its last document.
    #[serde(rename = "lastDesiredStatus")]
    pub status: ReportedStatus,
    pub modules: BTreeMap<String, ReportedModule>,
}

/// Which agent it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct AgentVersion {
    pub version: Option<String>,
}

/// What became of a document.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReportedStatus {
    /// 200, 406 where there was none yet, or why it was not taken; 0 where nothing was said.
    pub code: u16,
    pub description: String,
}

/// What a device says of one module.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReportedModule {
    /// Of what runs.
    pub version: Option<String>,
    pub desired_version: Option<String>,
    /// Of what was tried, and given up.
    pub refused_version: Option<String>,
    /// In the words of Azure's agent.
    pub runtime_status: String,
    pub status_description: String,
    pub restart_count: u32,
    /// Where it is reached on the device.
    pub address: Option<String>,
}

impl Reported {
    /// Out of the twin of an agent; nothing, where that cannot be read.
    pub fn of(agent: &Twin) -> Self {
        serde_json::from_value(agent.reported.properties.clone().into()).unwrap_or_else(|error| {
            tracing::debug!(%error, "what a device reports cannot be read");
            Self::default()
        })
    }
}
