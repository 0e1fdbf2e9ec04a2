//! What a server is told at its start. It reads no environment variable and no file of settings itself.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use moorline_core::{Name, Secret};
use moorline_store::StoreConfig;

use crate::{edge::HubSettings, leader::LeaderElection, observation::Observation};

/// Answers what is asked for a browser's pages, by method, path and headers; `None` is for others to answer.
pub type Pages = fn(&Method, &str, &HeaderMap) -> Option<Response<Bytes>>;

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `$MOORLINE_HOME`: what the server keeps beside its store lies below it.
    pub home: PathBuf,
    pub listen: SocketAddr,
    pub store: StoreConfig,
    /// The program that this is, which the images of gateways get.
    pub program: PathBuf,
    /// The scorer's binary, which local replicas run.
    pub scorer: PathBuf,
    /// The scorer that needs no library, for images; they get the other one with its libraries where it is left out.
    pub static_scorer: Option<PathBuf>,
    /// Scorers without libraries for other platforms, by names like `linux/arm64`: images whose base has them are for these
    /// too.
    pub other_scorers: BTreeMap<String, PathBuf>,
    /// `libonnxruntime`, which images get whose model it runs.
    pub onnxruntime: Option<PathBuf>,
    /// The `uv` that makes environments; found on the machine where it is left out.
    pub uv: Option<PathBuf>,
    /// The environment of this process; what is run is given a few of its variables.
    pub environment: BTreeMap<String, String>,
    /// Made at the start if there is none of that name; clients use it where they are told no other.
    pub default_workspace: Name,
    /// What comes before `/endpoints/…` in a scoring URI, where the server is behind a proxy: `https://ml.example.org`.
    /// Left out: what the request was sent to.
    pub public_url: Option<String>,
    /// Whoever shows it is an owner, beside the tokens of the store: what a server begins with that was set up by a
    /// program.
    pub owner_token: Option<Secret>,
    /// Where several servers have one store: the lease that the one holds which opens it.
    pub leader_election: Option<LeaderElection>,
    /// The hub for devices; none where it is left out.
    pub hub: Option<HubSettings>,
    /// The portal; none where it is left out. It is given, and not linked, so that a change of the pages compiles no
    /// server.
    pub pages: Option<Pages>,
    pub observation: Observation,
    pub bounds: Bounds,
}

/// The bounds of the server's own work.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub connections: usize,
    /// Of one request's head.
    pub header_bytes: usize,
    pub header_timeout: Duration,
    /// How long an upload or a reader may stand still.
    pub body_timeout: Duration,
    /// From the head of a request to the head of its answer; uploads are bounded by `body_timeout` alone.
    pub request_timeout: Duration,
    /// How long requests in flight have at the end.
    pub drain_timeout: Duration,
    /// Of a JSON body.
    pub json_bytes: usize,
    /// Of a JSON body with a list of files.
    pub file_list_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 4096,
            header_bytes: 64 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_mins(1),
            request_timeout: Duration::from_mins(1),
            drain_timeout: Duration::from_secs(30),
            json_bytes: 1024 * 1024,
            file_list_bytes: 16 * 1024 * 1024,
        }
    }
}
