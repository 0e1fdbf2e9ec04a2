//! The routes of a namespace's gateway, as the secret holds them. Written by the server and read by the gateway, which may be
//! the older one of the two: what is not known is passed over.

use std::collections::BTreeMap;

use moorline_core::{Digest, Name};
use serde::{Deserialize, Serialize};

/// The key in the secret.
pub(super) const ROUTES: &str = "routes.json";

/// One endpoint, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedEndpoint {
    pub workspace: Name,
    pub name: Name,
    /// The digests of its keys. None: nobody may, because only the server knows tokens.
    #[serde(default)]
    pub keys: Option<[Digest; 2]>,
    pub traffic: Vec<(Name, u8)>,
    #[serde(default)]
    pub mirror: Option<(Name, u8)>,
    pub deployments: BTreeMap<Name, PublishedDeployment>,
}

/// One deployment of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedDeployment {
    /// What the label of its pods says, `moorline.io/deployment`.
    pub objects: String,
    /// Where its pods take requests.
    pub port: u16,
    pub request_timeout_ms: u64,
    pub max_concurrent_per_replica: u32,
    pub max_queue_wait_ms: u64,
    #[serde(default)]
    pub can_scale_from_zero: bool,
    /// Where the pods have what is `/score` here, if not there.
    #[serde(default)]
    pub scoring_path: Option<String>,
}

/// All of them, by workspace and name.
pub(super) type Routes = BTreeMap<(Name, Name), PublishedEndpoint>;

pub(super) fn write(routes: &Routes) -> Vec<u8> {
    let all: Vec<&PublishedEndpoint> = routes.values().collect();
    serde_json::to_vec(&all).expect("routes have only string keys")
}

pub(super) fn read(text: &[u8]) -> Result<Routes, serde_json::Error> {
    let all: Vec<PublishedEndpoint> = serde_json::from_slice(text)?;
    Ok(all.into_iter().map(|route| ((route.workspace.clone(), route.name.clone()), route)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_as_they_were_written_and_by_older_gateways_too() {
        let name = |text: &str| text.parse::<Name>().unwrap();
        let route = PublishedEndpoint {
            workspace: name("default"),
            name: name("iris"),
            keys: Some([Digest::of(b"one"), Digest::of(b"two")]),
            traffic: vec![(name("blue"), 90), (name("green"), 10)],
            mirror: Some((name("green"), 5)),
            deployments: BTreeMap::from([(
                name("blue"),
                PublishedDeployment {
                    objects: "iris-blue-0a1b2c3d".to_owned(),
                    port: 5001,
                    request_timeout_ms: 5000,
                    max_concurrent_per_replica: 4,
                    max_queue_wait_ms: 500,
                    can_scale_from_zero: true,
                    scoring_path: Some("/invocations".to_owned()),
                },
            )]),
        };
        let routes = Routes::from([((name("default"), name("iris")), route)]);
        let text = write(&routes);
        assert_eq!(read(&text).unwrap(), routes);
        assert!(!String::from_utf8(text.clone()).unwrap().contains("one"), "a key is in the routes");
        let mut newer: serde_json::Value = serde_json::from_slice(&text).unwrap();
        newer[0]["deployments"]["blue"]["of_tomorrow"] = true.into();
        assert_eq!(read(newer.to_string().as_bytes()).unwrap(), routes);
    }
}
