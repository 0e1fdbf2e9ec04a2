//! The workload API of Azure IoT Edge, on a Unix socket of each module: what a module's client library needs to prove
//! itself without being given a key. Whoever can open the socket is the module; every other name is refused.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path as Segments, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::StatusCode;
use ring::hmac;
use serde::Deserialize;
use serde_json::json;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    authority::{Authority, Issued},
    hub::{ClientId, SharedKey},
};

const MAX_BODY: usize = 64 * 1024;
/// Of certificates that a module asks for.
const LONGEST_LIFETIME: Duration = Duration::from_hours(90 * 24);
const LIFETIME: Duration = Duration::from_hours(30 * 24);

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum WorkloadError {
    #[error("could not listen on the socket `{}`", path.display())]
    Listen { path: PathBuf, source: std::io::Error },
    #[error("`{0}` is a device; only modules have a workload socket")]
    NotAModule(ClientId),
}

/// What one module's socket is for.
#[derive(Clone, Debug)]
pub struct WorkloadConfig {
    pub socket: PathBuf,
    pub module: ClientId,
    /// Changes when a module is deleted and created again.
    pub generation: String,
    /// By which the module proves itself to the hub.
    pub key: SharedKey,
    /// PEM of the authorities that the module is to trust.
    pub trust_bundle: String,
    /// Issues the module's certificates.
    pub authority: Arc<Authority>,
}

impl WorkloadConfig {
    /// The variables that a module of this socket is started with; clients of Azure read them. `hub` is its name,
    /// `gateway` the name or address that it is reached by.
    pub fn environment(&self, hub: &str, gateway: &str) -> Vec<(&'static str, String)> {
        vec![
            ("IOTEDGE_WORKLOADURI", format!("unix://{}", self.socket.display())),
            ("IOTEDGE_IOTHUBHOSTNAME", hub.to_owned()),
            ("IOTEDGE_GATEWAYHOSTNAME", gateway.to_owned()),
            ("IOTEDGE_DEVICEID", self.module.device_name().to_owned()),
            ("IOTEDGE_MODULEID", self.module.module_name().unwrap_or_default().to_owned()),
            ("IOTEDGE_MODULEGENERATIONID", self.generation.clone()),
            ("IOTEDGE_APIVERSION", "2019-01-30".to_owned()),
            ("IOTEDGE_AUTHSCHEME", "sasToken".to_owned()),
        ]
    }
}

/// A socket that is served until this is dropped or closed.
#[derive(Debug)]
pub struct Workload {
    end: CancellationToken,
    tasks: TaskTracker,
    socket: PathBuf,
}

impl Workload {
    pub fn start(config: WorkloadConfig) -> Result<Self, WorkloadError> {
        let path = config.socket.clone();
        if config.module.module_name().is_none() {
            return Err(WorkloadError::NotAModule(config.module));
        }
        let error = |source| WorkloadError::Listen { path: path.clone(), source };
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder).map_err(error)?;
        }
        // Of a run before this one.
        if path.symlink_metadata().is_ok() {
            fs_err::remove_file(&path).map_err(error)?;
        }
        let listener = UnixListener::bind(&path).map_err(error)?;
        // The folder says who may come this far; modules run as users of their own.
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).map_err(error)?;
        let (end, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ended = end.clone();
        tasks.spawn(async move {
            let served =
                axum::serve(listener, router(config)).with_graceful_shutdown(ended.cancelled_owned());
            if let Err(error) = served.await {
                tracing::warn!(%error, "a workload socket ended");
            }
        });
        Ok(Self { end, tasks, socket: path })
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the socket once what was asked is answered.
    pub async fn close(self) {
        self.end.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.end.cancel();
        // It may have gone with its folder.
        let _ = fs_err::remove_file(&self.socket);
    }
}

fn router(config: WorkloadConfig) -> Router {
    Router::new()
        .route("/modules", get(identities))
        .route("/trust-bundle", get(trust_bundle))
        .route("/modules/{module}/genid/{generation}/sign", post(sign))
        .route("/modules/{module}/genid/{generation}/certificate/server", post(server_certificate))
        .route("/modules/{module}/certificate/identity", post(identity_certificate))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(config))
}

async fn identities(State(config): State<Arc<WorkloadConfig>>) -> Response {
    Json(json!({ "identities": [{
        "moduleId": config.module.module_name(),
        "managedBy": "moorline-edge",
        "generationId": config.generation,
        "authType": "sas",
    }] }))
    .into_response()
}

async fn trust_bundle(State(config): State<Arc<WorkloadConfig>>) -> Response {
    Json(json!({ "certificate": config.trust_bundle })).into_response()
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sign {
    key_id: String,
    algo: String,
    data: String,
}

// The body is read as it is: Azure's client does not say that it is JSON.
async fn sign(
    State(config): State<Arc<WorkloadConfig>>,
    Segments((module, generation)): Segments<(String, String)>,
    body: Bytes,
) -> Response {
    if !config.is(&module, Some(&generation)) {
        return refused();
    }
    let Ok(asked) = serde_json::from_slice::<Sign>(&body) else {
        return problem(StatusCode::BAD_REQUEST, "expected `keyId`, `algo` and `data`");
    };
    if asked.key_id != "primary" || !asked.algo.eq_ignore_ascii_case("HMACSHA256") {
        return problem(StatusCode::BAD_REQUEST, "there is the key `primary` and the algorithm `HMACSHA256`");
    }
    let Ok(data) = STANDARD.decode(asked.data) else {
        return problem(StatusCode::BAD_REQUEST, "`data` is not base64");
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &config.key.bytes());
    Json(json!({ "digest": STANDARD.encode(hmac::sign(&key, &data)) })).into_response()
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    common_name: Option<String>,
    expiration: Option<jiff::Timestamp>,
}

async fn server_certificate(
    State(config): State<Arc<WorkloadConfig>>,
    Segments((module, generation)): Segments<(String, String)>,
    body: Bytes,
) -> Response {
    if !config.is(&module, Some(&generation)) {
        return refused();
    }
    let Ok(asked) = serde_json::from_slice::<Certificate>(&body) else {
        return problem(StatusCode::BAD_REQUEST, "expected `commonName` and `expiration`");
    };
    let name = asked.common_name.as_deref().unwrap_or(&module);
    issued(config.authority.issue_server(&[name, &module], lifetime(asked.expiration)))
}

async fn identity_certificate(
    State(config): State<Arc<WorkloadConfig>>,
    Segments(module): Segments<String>,
    body: Bytes,
) -> Response {
    if !config.is(&module, None) {
        return refused();
    }
    let asked = if body.is_empty() { Ok(Certificate::default()) } else { serde_json::from_slice(&body) };
    let Ok(asked) = asked else { return problem(StatusCode::BAD_REQUEST, "expected `expiration`") };
    issued(config.authority.issue_client(&config.module, lifetime(asked.expiration)))
}

fn lifetime(until: Option<jiff::Timestamp>) -> Duration {
    let asked = until.and_then(|until| until.duration_since(jiff::Timestamp::now()).try_into().ok());
    asked.unwrap_or(LIFETIME).min(LONGEST_LIFETIME)
}

fn issued(issued: Result<Issued, crate::authority::AuthorityError>) -> Response {
    match issued {
        Ok(issued) => {
            let expiration = jiff::Timestamp::try_from(issued.expires).map(|time| time.to_string());
            let body = json!({
                "privateKey": { "type": "key", "bytes": issued.key },
                "certificate": issued.certificates,
                "expiration": expiration.unwrap_or_default(),
            });
            (StatusCode::CREATED, Json(body)).into_response()
        }
        Err(crate::authority::AuthorityError::ServerName(_)) => {
            problem(StatusCode::BAD_REQUEST, "`commonName` cannot be the name of a server")
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "could not issue a certificate");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the certificate could not be made")
        }
    }
}

impl WorkloadConfig {
    fn is(&self, module: &str, generation: Option<&str>) -> bool {
        self.module.module_name() == Some(module) && generation.is_none_or(|named| named == self.generation)
    }
}

fn refused() -> Response {
    problem(StatusCode::FORBIDDEN, "this socket is another module's")
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}
