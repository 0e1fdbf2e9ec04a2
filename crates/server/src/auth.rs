//! Who calls, and what they may do: one table of roles and actions, one of routes and actions, one check before any
//! handler runs.
//!
//! On a loopback address everyone is the owner, so that web pages must be kept out: a page of another site can send
//! requests to this machine's addresses, and with a name that it has pointed at them it can even read the answers.
//! On any other address callers show a token.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{RawPathParams, Request, State, rejection::RawPathParamsRejection},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, Uri, header, uri::Authority};
use moorline_core::{Digest, ErrorClass, Name};
use moorline_store::{RecordKind, Role, Store, StoreError, Token};

use crate::{config::ServerConfig, control::Control, problem::ApiError};

/// How long a token that was found good is not looked up again; so long may one that was revoked by another process
/// be taken.
const REMEMBERED: Duration = Duration::from_secs(5);
/// Tokens remembered at most.
const REMEMBERED_TOKENS: usize = 4096;
/// No token is longer.
const TOKEN_BYTES: usize = 512;

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Asks whether the server lives, or for its document.
    Greet,
    /// Asks who it is.
    Itself,
    /// Sees what there is, secrets and keys aside.
    Read,
    /// Registers, deploys, changes and deletes inside a workspace.
    Write,
    /// Sees and changes the keys of endpoints and devices, and has tokens for endpoints made.
    Keys,
    /// Sets, lists and deletes secrets.
    Secrets,
    /// Makes, changes and deletes workspaces.
    Workspaces,
    /// Makes, lists and revokes tokens.
    Tokens,
    /// Sends requests to endpoints.
    Score,
}

impl Action {
    /// Whether `role` may do this.
    pub(crate) const fn allowed_to(self, role: Role) -> bool {
        match self {
            Self::Greet | Self::Itself => true,
            Self::Read => matches!(role, Role::Owner | Role::Contributor | Role::Reader),
            Self::Write | Self::Keys | Self::Secrets => matches!(role, Role::Owner | Role::Contributor),
            Self::Workspaces | Self::Tokens => matches!(role, Role::Owner),
            Self::Score => matches!(role, Role::Owner | Role::Contributor | Role::Scorer),
        }
    }

    /// The least role that may do this, for people.
    pub(crate) const fn needs(self) -> &'static str {
        match self {
            Self::Greet => "no role",
            Self::Itself => "any role",
            Self::Read => "the role reader, contributor or owner",
            Self::Write | Self::Keys | Self::Secrets => "the role contributor or owner",
            Self::Workspaces | Self::Tokens => "the role owner",
            Self::Score => "the role scorer, contributor or owner",
        }
    }
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everyone who is on this machine and not a web page.
    Loopback,
    /// Everyone with a token.
    Tokens,
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Someone on this machine.
    Local,
    Holder(Box<Token>),
}

impl Caller {
    /// For the log.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Local => "local",
            Self::Holder(token) => &token.name,
        }
    }

    /// The workspace that the caller is held to.
    pub(crate) fn workspace(&self) -> Option<&Name> {
        match self {
            Self::Local => None,
            Self::Holder(token) => token.workspace.as_ref(),
        }
    }

    /// Whether this caller may do `action`, in `workspace` and on `endpoint` where the route names them.
    fn may(&self, action: Action, workspace: Option<&str>, endpoint: Option<&str>) -> Result<(), ApiError> {
        let Self::Holder(token) = self else { return Ok(()) };
        if !action.allowed_to(token.role) {
            return Err(ApiError::new(
                ErrorClass::Forbidden,
                format!(
                    "token `{}` has the role {}; this needs {}",
                    token.name,
                    token.role.as_str(),
                    action.needs()
                ),
            ));
        }
        let outside = |scope: &Name, named: Option<&str>| {
            named.is_none_or(|named| !named.eq_ignore_ascii_case(scope.as_str()))
        };
        // What lists or greets shows a scoped caller only its own.
        let server_wide =
            workspace.is_none() && matches!(action, Action::Greet | Action::Itself | Action::Read);
        if let Some(scope) = &token.workspace
            && !server_wide
            && outside(scope, workspace)
        {
            return Err(ApiError::new(
                ErrorClass::Forbidden,
                format!("token `{}` is for workspace `{scope}` only", token.name),
            ));
        }
        if let Some(scope) = &token.endpoint
            && !matches!(action, Action::Greet | Action::Itself)
            && outside(scope, endpoint)
        {
            return Err(ApiError::new(
                ErrorClass::Forbidden,
                format!("token `{}` is for endpoint `{scope}` only", token.name),
            ));
        }
        Ok(())
    }
}

/// Tokens that were found good of late.
#[derive(Debug, Default)]
struct Remembered(Mutex<HashMap<Digest, (Token, Instant)>>);

impl Remembered {
    fn get(&self, key: &Digest) -> Option<Token> {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, since) = tokens.get(key)?;
        let expired = token.expires_at.is_some_and(|at| at <= jiff::Timestamp::now());
        if expired || since.elapsed() > REMEMBERED {
            tokens.remove(key);
            return None;
        }
        Some(token.clone())
    }

    fn put(&self, key: Digest, token: Token) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= REMEMBERED_TOKENS {
            tokens.retain(|_, (_, since)| since.elapsed() <= REMEMBERED);
            if tokens.len() >= REMEMBERED_TOKENS {
                tokens.clear();
            }
        }
        tokens.insert(key, (token, Instant::now()));
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Knows callers by their tokens.
#[derive(Debug)]
pub(crate) struct Doorkeeper {
    store: Store,
    access: Access,
    /// Names of this server, besides those of the loopback addresses, under which a browser may come.
    public_host: Option<String>,
    /// The token that the server was started with, by its digest.
    given: Option<(Digest, Token)>,
    remembered: Remembered,
}

impl Doorkeeper {
    pub(crate) fn new(store: Store, access: Access, config: &ServerConfig) -> Self {
        let public_url = config.public_url.as_deref();
        let public_host = public_url
            .and_then(|url| url.parse::<Uri>().ok())
            .and_then(|uri| Some(uri.host()?.to_ascii_lowercase()));
        let given =
            config.owner_token.as_ref().map(|token| (Digest::of(token.expose().as_bytes()), given_token()));
        Self { store, access, public_host, given, remembered: Remembered::default() }
    }

    /// Has every token looked up again: one was revoked.
    pub(crate) fn forget(&self) {
        self.remembered.clear();
    }

    /// The caller of a request of the API.
    async fn caller(&self, headers: &HeaderMap, uri: &Uri) -> Result<Caller, ApiError> {
        match self.access {
            Access::Loopback => {
                self.keep_pages_out(headers, uri)?;
                Ok(Caller::Local)
            }
            Access::Tokens => {
                let token = bearer(headers).ok_or_else(|| {
                    ApiError::new(ErrorClass::Unauthenticated, "this server asks for a token").hint(
                        "send `Authorization: Bearer mrl_…`; `moorline token create` on the server makes one",
                    )
                })?;
                let token = self.token(token).await?.ok_or_else(|| {
                    ApiError::new(ErrorClass::Unauthenticated, "this token is not valid, or not any more")
                })?;
                Ok(Caller::Holder(Box::new(token)))
            }
        }
    }

    /// Whether this token lets its holder send requests to `endpoint`: what the gateway asks.
    pub(crate) async fn may_score(&self, token: &str, endpoint: &str) -> Result<bool, StoreError> {
        let Some(token) = self.token(token).await? else { return Ok(false) };
        let workspace = token.workspace.clone();
        let caller = Caller::Holder(Box::new(token));
        let workspace_name = workspace.as_ref().map(Name::as_str);
        if caller.may(Action::Score, workspace_name, Some(endpoint)).is_err() {
            return Ok(false);
        }
        let Some(workspace) = workspace else { return Ok(true) };
        // Names of endpoints are unique on a server: one of this name in the token's workspace is the one.
        match self.store.record(&workspace, RecordKind::Endpoint, endpoint).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn token(&self, text: &str) -> Result<Option<Token>, StoreError> {
        if text.len() > TOKEN_BYTES {
            return Ok(None);
        }
        let key = Digest::of(text.as_bytes());
        if let Some((_, token)) = self.given.as_ref().filter(|(given, _)| *given == key) {
            return Ok(Some(token.clone()));
        }
        if !text.starts_with("mrl_") {
            return Ok(None);
        }
        if let Some(token) = self.remembered.get(&key) {
            return Ok(Some(token));
        }
        let token = self.store.verify_token(text).await?;
        if let Some(token) = &token {
            self.remembered.put(key, token.clone());
        }
        Ok(token)
    }

    /// Refuses what a browser sends for a page of another site, or to a name that is not this machine's.
    fn keep_pages_out(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), ApiError> {
        let refusal = |what: &str| {
            Err(ApiError::new(
                ErrorClass::Forbidden,
                format!("{what}; this server answers callers on this machine"),
            )
            .hint("use http://localhost or http://127.0.0.1 with the server's port"))
        };
        let host = match uri.authority() {
            Some(authority) => Some(authority.clone()),
            None => headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok()),
        };
        let Some(host) = host else { return refusal("the request names no host") };
        if !self.is_own(host.host()) {
            return refusal(&format!("`{}` is not a name of this server", host.host()));
        }
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
            if origin.and_then(|origin| origin.authority().cloned()).as_ref() != Some(&host) {
                return refusal("the request comes from a page of another origin");
            }
        }
        let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
        if matches!(site, Some(b"cross-site" | b"same-site")) {
            return refusal("the request comes from a page of another site");
        }
        Ok(())
    }

    fn is_own(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
            || self.public_host.as_ref() == Some(&host)
    }
}

/// What is known of the token that the server was started with.
fn given_token() -> Token {
    Token {
        id: "given".to_owned(),
        workspace: None,
        name: "the owner token of the server".to_owned(),
        role: Role::Owner,
        endpoint: None,
        created_at: jiff::Timestamp::now(),
        expires_at: None,
    }
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The pattern of the route that a path belongs to. What is not here is answered as if it did not exist, so that a new
/// route is closed until somebody says who may use it.
fn pattern(path: &str) -> Option<&'static str> {
    let fits = |pattern: &str| {
        let (mut parts, mut wanted) = (path.split('/'), pattern.split('/'));
        loop {
            match (parts.next(), wanted.next()) {
                (None, None) => return true,
                (Some(part), Some(wanted)) if part == wanted => {}
                (Some(part), Some(wanted)) if wanted.starts_with('{') && !part.is_empty() => {}
                _ => return false,
            }
        }
    };
    ROUTES.iter().map(|(_, pattern, _)| *pattern).find(|pattern| fits(pattern))
}

/// What a request wants to do, by its method and the pattern of its route.
pub(crate) fn action(method: &Method, pattern: &str) -> Option<Action> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let found = ROUTES.iter().find(|(methods, route, _)| {
        *route == pattern && methods.split(' ').any(|candidate| candidate == method)
    });
    found.map(|(_, _, action)| *action)
}

/// Methods, pattern, action.
const ROUTES: &[(&str, &str, Action)] = &[
    ("GET", "/api/v1", Action::Greet),
    ("GET", "/api/v1/health", Action::Greet),
    ("GET", "/api/openapi.json", Action::Greet),
    ("GET", "/api/v1/caller", Action::Itself),
    ("GET", "/api/v1/doctor", Action::Read),
    ("GET", "/metrics", Action::Read),
    ("GET", "/api/v1/workspaces", Action::Read),
    ("POST", "/api/v1/workspaces", Action::Workspaces),
    ("GET", "/api/v1/workspaces/{workspace}", Action::Read),
    ("PATCH DELETE", "/api/v1/workspaces/{workspace}", Action::Workspaces),
    ("GET POST", "/api/v1/tokens", Action::Tokens),
    ("DELETE", "/api/v1/tokens/{id}", Action::Tokens),
    ("GET", "/api/v1/workspaces/{workspace}/blobs/{digest}", Action::Read),
    ("PATCH", "/api/v1/workspaces/{workspace}/blobs/{digest}", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/models", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/models/{name}", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/models/{name}/versions", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/models/{name}/versions/{version}", Action::Read),
    ("PUT PATCH", "/api/v1/workspaces/{workspace}/models/{name}/versions/{version}", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/models/{name}/versions/{version}/signature", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/models/{name}/versions/{version}/archive", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/models/{name}/versions/{version}/restore", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/bitstreams", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/bitstreams/{name}", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/bitstreams/{name}/versions", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/bitstreams/{name}/versions/{version}", Action::Read),
    ("PUT PATCH", "/api/v1/workspaces/{workspace}/bitstreams/{name}/versions/{version}", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/bitstreams/{name}/versions/{version}/archive", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/bitstreams/{name}/versions/{version}/restore", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/environments", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/environments/{name}", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/environments/{name}/versions", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/environments/{name}/versions/{version}", Action::Read),
    ("PUT PATCH", "/api/v1/workspaces/{workspace}/environments/{name}/versions/{version}", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/environments/{name}/versions/{version}/archive", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/environments/{name}/versions/{version}/restore", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/codes", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/codes/{name}", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/codes/{name}/versions", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/codes/{name}/versions/{version}", Action::Read),
    ("PUT PATCH", "/api/v1/workspaces/{workspace}/codes/{name}/versions/{version}", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/codes/{name}/versions/{version}/archive", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/codes/{name}/versions/{version}/restore", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/computes", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/computes/{name}", Action::Read),
    ("PUT DELETE", "/api/v1/workspaces/{workspace}/computes/{name}", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/computes/{name}/devices", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/devices", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/devices/{name}", Action::Read),
    ("PUT DELETE", "/api/v1/workspaces/{workspace}/devices/{name}", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/keys", Action::Keys),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/regenerate-keys", Action::Keys),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/enrol-token", Action::Keys),
    ("PUT DELETE", "/api/v1/workspaces/{workspace}/devices/{name}/manifest", Action::Write),
    ("PUT DELETE", "/api/v1/workspaces/{workspace}/devices/{name}/modules/{module}", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/modules/{module}/keys", Action::Keys),
    ("GET", "/api/v1/workspaces/{workspace}/devices/{name}/twin", Action::Read),
    ("PATCH", "/api/v1/workspaces/{workspace}/devices/{name}/twin", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/methods", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/devices/{name}/messages", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/device-messages", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/images", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/images", Action::Write),
    ("POST", "/api/v1/workspaces/{workspace}/images/prune", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/images/{image}", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/images/{image}/archive", Action::Read),
    ("POST", "/api/v1/workspaces/{workspace}/images/{image}/verify", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/images/{image}/packages", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/secrets", Action::Secrets),
    ("PUT DELETE", "/api/v1/workspaces/{workspace}/secrets/{name}", Action::Secrets),
    ("GET", "/api/v1/workspaces/{workspace}/online-endpoints", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", Action::Read),
    ("PUT PATCH DELETE", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}", Action::Write),
    (
        "GET",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/collected",
        Action::Read,
    ),
    (
        "POST",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/collected",
        Action::Write,
    ),
    ("POST", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/keys", Action::Keys),
    ("POST", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/regenerate-keys", Action::Keys),
    ("POST", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/token", Action::Keys),
    ("GET", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", Action::Read),
    ("POST DELETE", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/rollout", Action::Write),
    ("GET", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments", Action::Read),
    (
        "GET",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
        Action::Read,
    ),
    (
        "PUT PATCH DELETE",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}",
        Action::Write,
    ),
    (
        "GET",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/logs",
        Action::Read,
    ),
    ("GET", "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/metrics", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/events", Action::Read),
    ("GET", "/api/v1/prometheus/targets", Action::Read),
    (
        "GET",
        "/api/v1/workspaces/{workspace}/online-endpoints/{endpoint}/deployments/{deployment}/replicas/{replica}/metrics",
        Action::Read,
    ),
    ("GET", "/api/v1/workspaces/{workspace}/deployments", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/operations", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/operations/{id}", Action::Read),
    ("GET", "/api/v1/workspaces/{workspace}/operations/{id}/events", Action::Read),
];

/// The check before every handler of the API. The caller goes on in the request's extensions, and in the answer's.
pub(crate) async fn guard(
    State(control): State<Control>,
    parameters: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let (mut head, body) = request.into_parts();
    let check = async {
        let (method, path) = (&head.method, head.uri.path());
        let pattern = pattern(path);
        let action = pattern.and_then(|pattern| action(method, pattern));
        // Whether the server lives may be asked without a token; what a browser sends is looked at all the same.
        let caller = if action == Some(Action::Greet) && control.doorkeeper.access == Access::Tokens {
            Caller::Local
        } else {
            control.doorkeeper.caller(&head.headers, &head.uri).await?
        };
        let Some(pattern) = pattern else {
            return Err(ApiError::not_found(format!("there is nothing at {path}"))
                .hint("the routes are in /api/openapi.json"));
        };
        let Some(action) = action else {
            return Err(ApiError::invalid(format!("{method} is not offered on {pattern}"))
                .with_status(StatusCode::METHOD_NOT_ALLOWED));
        };
        let named = |key: &str| {
            let parameters = parameters.as_ref().ok()?;
            parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        caller.may(action, named("workspace"), named("endpoint"))?;
        Ok(caller)
    };
    match check.await {
        Ok(caller) => {
            head.extensions.insert(caller.clone());
            let mut response = next.run(Request::from_parts(head, body)).await;
            response.extensions_mut().insert(caller);
            response
        }
        Err(error) => error.into_response(),
    }
}
