//! What a registry wants to see before it answers: a password, or a token that another server gives for it.
//!
//! A token is asked for once and kept while it is valid, for each registry and what is done there. Credentials go to
//! the registry that they are for and to the server that it names for tokens, over TLS unless both are on this machine.
//!
//! Source: the distribution project's "Token Authentication Specification" and "OAuth2 Token Authentication".

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderValue, Method, StatusCode, header};
use moorline_core::Secret;
use reqwest::Url;
use serde::Deserialize;

use super::{
    Credentials, RegistryError,
    challenge::Challenge,
    docker_config,
    endpoint::{Endpoint, Endpoints},
    exchange::{self, Attempts},
};

const LONGEST_ANSWER: usize = 1 << 20;
/// Of the specification, for a server that does not say how long its token is valid.
const USUAL_LIFE: Duration = Duration::from_mins(1);
/// A token that is about to end is not begun with.
const LEAST_LIFE: Duration = Duration::from_secs(5);
const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// More than a server's registries and repositories in use at a time.
const MOST_GRANTS: usize = 1024;

/// What lets a request in.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    /// The value of `Authorization`, which is marked as sensitive.
    pub(super) header: HeaderValue,
    until: Option<Instant>,
    /// Tells it from the one that it replaced.
    number: u64,
}

/// One registry, and what is done there.
type Key = (String, String);
type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// All grants, and the credentials that they are got with.
pub(super) struct Grants {
    environment: BTreeMap<String, String>,
    slots: std::sync::Mutex<HashMap<Key, Slot>>,
    last_number: AtomicU64,
}

/// The environment may hold secrets, and is not shown.
impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grants")
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    /// The same under its other name: some send both.
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Grants {
    pub(super) fn new(environment: BTreeMap<String, String>) -> Self {
        Self { environment, slots: std::sync::Mutex::default(), last_number: AtomicU64::new(0) }
    }

    /// The credentials for a registry: those of the settings, or else Docker's.
    pub(super) async fn credentials(
        &self,
        endpoints: &Endpoints,
        host: &str,
    ) -> Result<Option<Credentials>, RegistryError> {
        match endpoints.settings(host).and_then(|settings| settings.credentials.clone()) {
            Some(credentials) => Ok(Some(credentials)),
            None => docker_config::credentials(host, &self.environment).await,
        }
    }

    /// What let the last request of this kind in, if it still does. Waits for one that is on its way.
    pub(super) async fn get(&self, endpoint: &Endpoint, scope: &str) -> Option<Grant> {
        let slot = self.slot(endpoint, scope);
        let grant = slot.lock().await;
        grant.clone().filter(Grant::lives)
    }

    /// Meets a challenge. `refused` is what did not let the request in: where another request has replaced it meanwhile,
    /// there is nothing left to do. `false`: there are no credentials to meet it with.
    pub(super) async fn renew(
        &self,
        endpoints: &Endpoints,
        endpoint: &Endpoint,
        (scope, challenge): (&str, &Challenge),
        refused: Option<&Grant>,
    ) -> Result<bool, RegistryError> {
        let slot = self.slot(endpoint, scope);
        let mut grant = slot.lock().await;
        let replaced = |grant: &Grant| refused.is_none_or(|refused| grant.number > refused.number);
        if grant.as_ref().is_some_and(replaced) && grant.as_ref().is_some_and(Grant::lives) {
            return Ok(true);
        }
        *grant = None;
        let credentials = self.credentials(endpoints, &endpoint.name).await?;
        let (header, life) = match (challenge, credentials) {
            // An identity token is no password.
            (Challenge::Basic, Some(credentials)) if credentials.identity_token().is_none() => {
                (basic(&credentials), None)
            }
            (Challenge::Basic, _) => return Ok(false),
            (Challenge::Bearer { realm, service, scope: asked }, credentials) => {
                let realm = realm_of(endpoint, realm)?;
                let scopes = scopes(scope, asked.as_deref());
                let request = TokenRequest { realm, service: service.as_deref(), scopes, credentials };
                let (token, life) = request.send(endpoint).await?;
                (sensitive(&format!("Bearer {}", token.expose())), Some(life))
            }
        };
        let header = header.ok_or_else(|| RegistryError::Settings {
            host: endpoint.name.clone(),
            why: "its credentials or its token cannot be sent in a header".to_owned(),
        })?;
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        *grant = Some(Grant { header, until: life.map(|life| Instant::now() + life), number });
        Ok(true)
    }

    fn slot(&self, endpoint: &Endpoint, scope: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (endpoint.name.clone(), scope.to_owned());
        if slots.len() >= MOST_GRANTS && !slots.contains_key(&key) {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(slots.entry(key).or_default())
    }
}

impl Grant {
    fn lives(&self) -> bool {
        self.until.is_none_or(|until| until > Instant::now())
    }
}

/// One question for a token.
struct TokenRequest<'a> {
    realm: Url,
    service: Option<&'a str>,
    scopes: Vec<&'a str>,
    credentials: Option<Credentials>,
}

impl TokenRequest<'_> {
    async fn send(&self, endpoint: &Endpoint) -> Result<(Secret, Duration), RegistryError> {
        let action = "give a token";
        let mut attempts = Attempts::new();
        let response = loop {
            let sent = exchange::within(endpoint, action, self.build(endpoint).send()).await;
            let pause = match &sent {
                Ok(response) if exchange::is_passing(response.status()) => exchange::retry_after(response),
                Err(error) if exchange::is_cut(error) => None,
                _ => break sent?,
            };
            if !attempts.pause(pause).await {
                break sent?;
            }
        };
        if response.status() != StatusCode::OK {
            let secrets = self.secrets();
            let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
            return Err(exchange::refused(endpoint, action, response, &secrets).await);
        }
        let wrong = |why: &str| RegistryError::Protocol {
            host: endpoint.name.clone(),
            action: action.to_owned(),
            why: why.to_owned(),
        };
        let body = exchange::body(endpoint, action, response, LONGEST_ANSWER).await?;
        // The parser's own words could show the token.
        let answer: TokenAnswer =
            serde_json::from_slice(&body).map_err(|_| wrong("what its token server sent is no token"))?;
        let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| wrong("its token server sent no token"))?;
        let life = answer.expires_in.map_or(USUAL_LIFE, Duration::from_secs);
        // Some time is lost on the way, and clocks differ.
        Ok((Secret::new(token), life.min(LONGEST_LIFE).mul_f64(0.9).max(LEAST_LIFE)))
    }

    /// What must not be shown, in every form in which it is sent.
    fn secrets(&self) -> Vec<String> {
        let Some(credentials) = &self.credentials else { return Vec::new() };
        let password = credentials.password.expose();
        let form = encode(&[("", password)]);
        let header = basic(credentials);
        let header = header.as_ref().and_then(|header| header.to_str().ok()?.split_once(' '));
        let encoded = header.map(|(_, encoded)| encoded.to_owned());
        let all = [Some(password.to_owned()), Some(form.trim_start_matches('=').to_owned()), encoded];
        all.into_iter().flatten().filter(|secret| !secret.is_empty()).collect()
    }

    fn build(&self, endpoint: &Endpoint) -> reqwest::RequestBuilder {
        let mut parameters: Vec<(&str, &str)> =
            self.service.iter().map(|&service| ("service", service)).collect();
        let identity = self.credentials.as_ref().and_then(Credentials::identity_token);
        if let Some(token) = identity {
            let scope = self.scopes.join(" ");
            parameters.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "moorline"),
                ("scope", scope.as_str()),
                ("refresh_token", token.expose()),
            ]);
            let form = encode(&parameters);
            let builder = endpoint.client.request(Method::POST, self.realm.clone());
            return builder.header(header::CONTENT_TYPE, "application/x-www-form-urlencoded").body(form);
        }
        parameters.extend(self.scopes.iter().map(|&scope| ("scope", scope)));
        let mut url = self.realm.clone();
        url.query_pairs_mut().extend_pairs(parameters);
        let builder = endpoint.client.request(Method::GET, url);
        match self.credentials.as_ref().and_then(basic) {
            Some(header) => builder.header(header::AUTHORIZATION, header),
            None => builder,
        }
    }
}

/// The server of tokens that a registry names. What it is told must not be heard on the way.
fn realm_of(endpoint: &Endpoint, realm: &str) -> Result<Url, RegistryError> {
    let shown: String = realm.chars().take(200).filter(|c| !c.is_control()).collect();
    match Url::parse(realm) {
        Ok(url) if endpoint.may_lead_to(&url) && url.host_str().is_some() && url.username().is_empty() => {
            Ok(url)
        }
        _ => Err(RegistryError::Protocol {
            host: endpoint.name.clone(),
            action: "give a token".to_owned(),
            why: format!("it names `{shown}` as its token server, which is not reached by https"),
        }),
    }
}

/// Our own scope, and what else the registry wants, each once.
fn scopes<'a>(own: &'a str, asked: Option<&'a str>) -> Vec<&'a str> {
    let mut scopes: Vec<&str> = Vec::new();
    for scope in own.split(' ').chain(asked.unwrap_or_default().split(' ')) {
        if !scope.is_empty() && !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

fn encode(parameters: &[(&str, &str)]) -> String {
    // The encoding of forms is that of queries.
    let mut url = Url::parse("https://form.invalid/").expect("a constant address");
    url.query_pairs_mut().extend_pairs(parameters);
    url.query().unwrap_or_default().to_owned()
}

fn basic(credentials: &Credentials) -> Option<HeaderValue> {
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    sensitive(&format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_asked_for_once() {
        assert_eq!(scopes("repository:a:pull", Some("repository:a:pull")), ["repository:a:pull"]);
        assert_eq!(
            scopes("repository:a:pull,push repository:b:pull", Some("registry:x:*")),
            ["repository:a:pull,push", "repository:b:pull", "registry:x:*"]
        );
        assert_eq!(scopes("repository:a:pull", None), ["repository:a:pull"]);
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(encode(&[("a", "b c&d"), ("e", "é=")]), "a=b+c%26d&e=%C3%A9%3D");
    }
}
