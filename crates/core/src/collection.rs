//! Data collection: which requests and answers a scorer keeps, said in its release.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::release::Name;

/// The collections whose records the scorer makes itself; all others come from a scoring script.
pub const REQUEST: &str = "request";
pub const RESPONSE: &str = "response";
pub const MODEL_INPUTS: &str = "model_inputs";
pub const MODEL_OUTPUTS: &str = "model_outputs";

/// Headers that show who somebody is: they are never kept, whoever asks for them.
const CREDENTIALS: [&str; 8] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "api-key",
    "x-api-key",
    "x-auth-token",
    "x-ms-token",
];

/// Azure ML's `data_collector`, for a scorer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CollectionSettings {
    /// Those that are enabled, in lower case.
    pub collections: BTreeSet<Name>,
    /// The share of requests that are kept, 0 to 1.
    #[serde(default = "all")]
    pub sampling_rate: f64,
    /// How often a new file is begun.
    #[serde(default)]
    pub rolling_rate: RollingRate,
    /// Headers of requests that are kept with their bodies, in lower case.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub capture_headers: BTreeSet<String>,
}

const fn all() -> f64 {
    1.0
}

/// How often a new file is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RollingRate {
    Minute,
    #[default]
    Hour,
    Day,
}

impl RollingRate {
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 24 * 3600,
        }
    }
}

impl CollectionSettings {
    /// Each collection has a file of its own at a scorer.
    pub const MOST_COLLECTIONS: usize = 32;
    pub const MOST_HEADERS: usize = 32;

    pub fn has(&self, collection: &str) -> bool {
        self.collections.iter().any(|own| own.as_str() == collection)
    }

    /// Whether a scoring script has records to give.
    pub fn from_script(&self) -> bool {
        self.collections.iter().any(|own| !matches!(own.as_str(), REQUEST | RESPONSE))
    }

    /// Whether a header shows who somebody is.
    pub fn is_credential(header: &str) -> bool {
        CREDENTIALS.iter().any(|own| own.eq_ignore_ascii_case(header))
    }

    /// What is beyond a bound, if something is.
    pub(crate) fn fault(&self) -> Option<String> {
        let lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
        if self.collections.is_empty() || self.collections.len() > Self::MOST_COLLECTIONS {
            return Some(format!("there can be 1 to {} collections", Self::MOST_COLLECTIONS));
        }
        if self.capture_headers.len() > Self::MOST_HEADERS {
            return Some(format!("there can be {} captured headers at most", Self::MOST_HEADERS));
        }
        if !(0.0..=1.0).contains(&self.sampling_rate) {
            return Some("sampling_rate must be 0 to 1".to_owned());
        }
        let names = self.collections.iter().map(Name::as_str);
        names
            .chain(self.capture_headers.iter().map(String::as_str))
            .find(|name| !lower(name))
            .map(|name| format!("`{name}` must be in lower case"))
    }
}
