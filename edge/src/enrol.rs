//! How a device gets its certificate: once with a token that somebody typed, later with the certificate that it has.
//!
//! The device makes its key and keeps it; what it sends is a signing request. [`router`] is what a server mounts, the
//! functions below are what a device calls.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::StatusCode;
use rcgen::{KeyPair, SigningKey as _};
use reqwest::Url;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::{
    authority::{self, Authority, AuthorityError},
    desired::TrustedKey,
    hub::ClientId,
};

pub use crate::hub::AGENT;

const ENROL: &str = "/edge/v1/enrol";
const RENEW: &str = "/edge/v1/renew";
const MAX_BODY: usize = 64 * 1024;

/// What a device is told when it enrols, besides its certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The hub's name, as in tokens.
    pub hub: String,
    /// Where it is reached.
    pub hub_host: String,
    pub hub_port: u16,
    /// PEM of the authorities of the hub.
    pub trust: String,
    /// Files of releases are below.
    pub releases: String,
    /// By which desired states are signed.
    pub keys: Vec<TrustedKey>,
}

/// What a device is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Enrolled {
    /// PEM: the device's own first.
    pub certificates: String,
    #[serde(flatten)]
    pub facts: Facts,
}

#[derive(Debug, Serialize, Deserialize)]
struct EnrolRequest {
    device: String,
    token: String,
    /// DER in base64.
    request: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct RenewRequest {
    /// PEM of the certificate that is to be renewed.
    certificate: String,
    request: String,
    /// Of the request, by the old key.
    signature: String,
}

/// Why a device has no certificate, or no newer one.
#[derive(Debug, Error)]
pub enum EnrolError {
    #[error("the server could not be asked")]
    Ask(#[source] reqwest::Error),
    #[error("the server answered {status}: {message}")]
    Refused { status: u16, message: String },
    #[error("the key or its request could not be made")]
    Key(#[source] AuthorityError),
    #[error("the certificate cannot be read")]
    Certificate,
}

/// Whom a server lets in: its store.
#[async_trait]
pub trait Enrolments: std::fmt::Debug + Send + Sync {
    /// Whether the token is the device's; it is used up by that.
    async fn redeem(&self, device: &str, token: &str) -> Result<bool, EnrolmentsError>;
    /// Whether a device that proved itself by its certificate gets another.
    async fn may_renew(&self, device: &str) -> Result<bool, EnrolmentsError>;
}

/// Enrolments could not be looked up.
#[derive(Debug, Error)]
#[error("could not look enrolments up")]
pub struct EnrolmentsError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// What a server needs to answer.
#[derive(Debug)]
pub struct EnrolConfig {
    pub enrolments: Arc<dyn Enrolments>,
    /// The one whose certificates the hub trusts.
    pub authority: Arc<Authority>,
    pub facts: Facts,
    pub lifetime: Duration,
}

/// The routes of a server: [`ENROL`] and [`RENEW`].
pub fn router(config: EnrolConfig) -> Router {
    Router::new()
        .route(ENROL, post(answer_enrol))
        .route(RENEW, post(answer_renew))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Arc::new(config))
}

async fn answer_enrol(State(config): State<Arc<EnrolConfig>>, Json(asked): Json<EnrolRequest>) -> Response {
    let (Ok(id), Ok(request)) = (ClientId::module(&asked.device, AGENT), STANDARD.decode(&asked.request))
    else {
        return problem(StatusCode::BAD_REQUEST, "the device's name or its request cannot be read");
    };
    match config.enrolments.redeem(&asked.device, &asked.token).await {
        Ok(true) => signed(&config, &id, &request),
        Ok(false) => problem(StatusCode::FORBIDDEN, "the token is not this device's, or was used"),
        Err(error) => unavailable(&error),
    }
}

async fn answer_renew(State(config): State<Arc<EnrolConfig>>, Json(asked): Json<RenewRequest>) -> Response {
    let proved = prove(&config.authority, &asked);
    let Some((id, request)) = proved else {
        return problem(
            StatusCode::FORBIDDEN,
            "the certificate is not of this server, or its key did not sign",
        );
    };
    match config.enrolments.may_renew(id.device_name()).await {
        Ok(true) => signed(&config, &id, &request),
        Ok(false) => problem(StatusCode::FORBIDDEN, "the device is not to have another certificate"),
        Err(error) => unavailable(&error),
    }
}

/// Who asks for a renewal, and the signing request. A certificate that has expired is good enough: a device may have been
/// switched off for long, and the server says whether it is still one of its own.
fn prove(authority: &Authority, asked: &RenewRequest) -> Option<(ClientId, Vec<u8>)> {
    let request = STANDARD.decode(&asked.request).ok()?;
    let signature = STANDARD.decode(&asked.signature).ok()?;
    let own = CertificateDer::from_pem_slice(asked.certificate.as_bytes()).ok()?;
    let issuer = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).ok()?;
    let (_, own) = X509Certificate::from_der(&own).ok()?;
    let (_, issuer) = X509Certificate::from_der(&issuer).ok()?;
    own.verify_signature(Some(issuer.public_key())).ok()?;
    let key = own.public_key().subject_public_key.data.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&request, &signature).ok()?;
    let id: ClientId = own.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()?;
    (id.module_name() == Some(AGENT)).then_some((id, request))
}

fn signed(config: &EnrolConfig, id: &ClientId, request: &[u8]) -> Response {
    match config.authority.sign(id, request, config.lifetime) {
        Ok(certificates) => Json(Enrolled { certificates, facts: config.facts.clone() }).into_response(),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn unavailable(error: &EnrolmentsError) -> Response {
    tracing::warn!(error = error as &dyn std::error::Error, "could not enrol a device");
    problem(StatusCode::SERVICE_UNAVAILABLE, "try again later")
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "message": message }))).into_response()
}

/// Asks `server` for the first certificate of a device; gives the key with it, in PEM.
pub async fn enrol(
    client: &reqwest::Client,
    server: &Url,
    device: &ClientId,
    token: &str,
) -> Result<(Enrolled, String), EnrolError> {
    let (key, request) = new_request(device)?;
    let asked = EnrolRequest { device: device.device_name().to_owned(), token: token.to_owned(), request };
    let enrolled = ask(client, server, ENROL, &asked).await?;
    Ok((enrolled, key.serialize_pem()))
}

/// Asks `server` for another certificate, with a new key.
pub async fn renew(
    client: &reqwest::Client,
    server: &Url,
    certificates: &str,
    key: &str,
) -> Result<(Enrolled, String), EnrolError> {
    let id = name_of(certificates).ok_or(EnrolError::Certificate)?;
    let old = KeyPair::from_pem(key).map_err(|error| EnrolError::Key(AuthorityError::Own(error)))?;
    let (new, request) = new_request(&id)?;
    let der = STANDARD.decode(&request).unwrap_or_default();
    let signature = old.sign(&der).map_err(|error| EnrolError::Key(AuthorityError::Own(error)))?;
    let asked =
        RenewRequest { certificate: certificates.to_owned(), request, signature: STANDARD.encode(signature) };
    let enrolled = ask(client, server, RENEW, &asked).await?;
    Ok((enrolled, new.serialize_pem()))
}

fn new_request(id: &ClientId) -> Result<(KeyPair, String), EnrolError> {
    let key = KeyPair::generate().map_err(|error| EnrolError::Key(AuthorityError::Make(error)))?;
    let request = authority::request(id, &key).map_err(EnrolError::Key)?;
    Ok((key, STANDARD.encode(request)))
}

async fn ask<T: DeserializeOwned>(
    client: &reqwest::Client,
    server: &Url,
    path: &str,
    asked: &impl Serialize,
) -> Result<T, EnrolError> {
    let url = format!("{}{path}", server.as_str().trim_end_matches('/'));
    let answer = client.post(url).json(asked).send().await.map_err(EnrolError::Ask)?;
    let status = answer.status();
    if status.is_success() {
        return answer.json().await.map_err(EnrolError::Ask);
    }
    #[derive(Deserialize)]
    struct Problem {
        message: String,
    }
    let message = answer.json::<Problem>().await.map(|problem| problem.message).unwrap_or_default();
    Err(EnrolError::Refused { status: status.as_u16(), message })
}

/// Whose a certificate is.
fn name_of(certificates: &str) -> Option<ClientId> {
    let own = CertificateDer::from_pem_slice(certificates.as_bytes()).ok()?;
    let (_, own) = X509Certificate::from_der(&own).ok()?;
    own.subject().iter_common_name().next()?.as_str().ok()?.parse().ok()
}

/// Whether a certificate has lived two thirds of its life at `now`.
pub fn is_due(certificates: &str, now: SystemTime) -> Result<bool, EnrolError> {
    let own = CertificateDer::from_pem_slice(certificates.as_bytes()).map_err(|_| EnrolError::Certificate)?;
    let (_, own) = X509Certificate::from_der(&own).map_err(|_| EnrolError::Certificate)?;
    let (from, to) = (own.validity().not_before.timestamp(), own.validity().not_after.timestamp());
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    Ok(now >= from + (to - from) / 3 * 2)
}
