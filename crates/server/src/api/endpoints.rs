//! Endpoints: stable names with keys that split traffic over deployments.

use std::collections::{BTreeMap, HashMap};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, Uri, header, request::Parts};
use moorline_core::Name;
use moorline_spec::{ClusterGateway, OnlineEndpoint, from_json};
use moorline_store::{Record, RecordKind, StoreError};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    AtEndpoint, BASE, InWorkspace, Refusals,
    bodies::{EndpointBody as EndpointDocument, EndpointShown},
    endpoint_keys,
    extract::{Asked, At, Document, Object, Precondition, merge, name_document},
    is_absent,
    list::{List, Part},
    removal, rollouts, stored, to_json,
};
use crate::{
    control::Control,
    problem::ApiError,
    status::{EndpointBody, ProvisioningState, split_record_name},
};

/// How often a change is made anew because somebody else changed the same thing meanwhile.
const ATTEMPTS: usize = 8;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, put, patch, delete))
}

/// An endpoint as the store has it, under the names that it was given first.
pub(super) struct Endpoint {
    pub(super) workspace: Name,
    pub(super) name: Name,
    pub(super) generation: u64,
    pub(super) body: EndpointBody,
    record: Record,
}

impl Endpoint {
    pub(super) async fn load(control: &Control, at: &AtEndpoint) -> Result<Self, ApiError> {
        Self::read(control.store.record(&at.workspace, RecordKind::Endpoint, at.endpoint.as_str()).await?)
    }

    fn read(record: Record) -> Result<Self, ApiError> {
        let name = record.name.parse().map_err(|error| ApiError::internal("a name was stored", error))?;
        let body = stored(&record.name, record.body.clone())?;
        Ok(Self { workspace: record.workspace.clone(), name, generation: record.generation, body, record })
    }

    /// Refuses to change what is on its way out.
    pub(super) fn stays(&self) -> Result<(), ApiError> {
        if self.body.deleting {
            return Err(ApiError::conflict(format!("endpoint `{}` is being deleted", self.name)));
        }
        Ok(())
    }

    fn show(&self, origin: &Origin) -> Value {
        let document = &self.body.document;
        let mut shown = Object::new();
        shown.insert("name".to_owned(), self.name.as_str().into());
        let kind = if document["compute"].is_null() { "Managed" } else { "K8S" };
        shown.insert("kind".to_owned(), kind.into());
        for key in ["tags", "properties", "traffic", "mirror_traffic"] {
            shown.insert(key.to_owned(), json!({}));
        }
        for (key, value) in document.as_object().into_iter().flatten() {
            if key != "name" {
                shown.insert(key.clone(), value.clone());
            }
        }
        let state =
            if self.body.deleting { ProvisioningState::Deleting } else { ProvisioningState::Succeeded };
        let begin = origin.of(&self.workspace, document);
        let uri = |path: &str| format!("{begin}/endpoints/{}/{path}", self.name);
        shown.insert("scoring_uri".to_owned(), uri("score").into());
        shown.insert("openapi_uri".to_owned(), uri("swagger.json").into());
        shown.insert("provisioning_state".to_owned(), json!(state));
        shown.insert("generation".to_owned(), self.generation.into());
        shown.insert(
            "creation_context".to_owned(),
            json!({ "created_at": self.record.created_at, "last_modified_at": self.record.modified_at }),
        );
        if let Some(rollout) = &self.body.rollout {
            shown.insert("rollout".to_owned(), rollout.show());
        }
        Value::Object(shown)
    }

    /// Refuses another traffic while a rollout shifts it.
    fn keeps_traffic(&self, after: &EndpointBody) -> Result<(), ApiError> {
        let given = |body: &EndpointBody| {
            let mut traffic = body.traffic();
            traffic.retain(|_, share| *share > 0);
            traffic
        };
        match self.body.running_rollout() {
            Some(rollout) if given(&self.body) != given(after) => {
                Err(rollouts::in_the_way(self, rollout, "it alone changes the traffic"))
            }
            _ => Ok(()),
        }
    }

    fn answer(&self, status: StatusCode, origin: &Origin) -> Response {
        let etag = [(header::ETAG, etag(self.generation))];
        (status, etag, Json(self.show(origin))).into_response()
    }
}

/// A generation as `If-Match` takes it.
pub(super) fn etag(generation: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{generation}\"")).expect("digits and quotes are a header's value")
}

/// Where an operation is found.
pub(super) fn operation_location(workspace: &Name, operation: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("{BASE}/workspaces/{workspace}/operations/{operation}"))
        .unwrap_or(HeaderValue::from_static(BASE))
}

/// What comes before the path of a scoring URI: the host of a cluster's gateway, or the configured URL, or what this
/// request was sent to.
pub(super) struct Origin {
    server: String,
    /// Of computes whose gateway has a host, by workspace and compute in small letters.
    gateways: HashMap<(String, String), String>,
}

impl Origin {
    /// Of this server: `http://host:port`.
    pub(super) fn server(&self) -> &str {
        &self.server
    }

    fn of(&self, workspace: &Name, document: &Value) -> &str {
        // Only the server knows tokens.
        let by_key = document["auth_mode"].as_str().is_none_or(|mode| mode == "key");
        let compute = document["compute"].as_str().filter(|_| by_key).unwrap_or_default();
        let compute = compute.strip_prefix("azureml:").unwrap_or(compute);
        let key = (workspace.as_str().to_ascii_lowercase(), compute.to_ascii_lowercase());
        self.gateways.get(&key).unwrap_or(&self.server)
    }
}

/// The gateways of clusters that have a host.
async fn gateways(control: &Control) -> Result<HashMap<(String, String), String>, ApiError> {
    let computes = control.store.records(RecordKind::Compute, None).await?;
    let with_host = computes.iter().filter_map(|record| {
        let gateway = record.body.get("gateway").filter(|_| record.body["type"] == "kubernetes")?;
        let gateway: ClusterGateway = serde_json::from_value(gateway.clone()).ok()?;
        let key = (record.workspace.as_str().to_ascii_lowercase(), record.name.to_ascii_lowercase());
        Some((key, gateway.origin()?))
    });
    Ok(with_host.collect())
}

impl axum::extract::FromRequestParts<Control> for Origin {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, control: &Control) -> Result<Self, ApiError> {
        let gateways = gateways(control).await?;
        if let Some(url) = &control.config.public_url {
            return Ok(Self { server: url.trim_end_matches('/').to_owned(), gateways });
        }
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = parts.uri.authority().map(http::uri::Authority::as_str).or(host);
        // What does not read as an address is not written into one.
        let host = host.filter(|host| host.parse::<http::uri::Authority>().is_ok());
        let uri = format!("http://{}", host.unwrap_or("localhost"));
        uri.parse::<Uri>().map_err(|_| ApiError::invalid("the header `host` is no address"))?;
        Ok(Self { server: uri, gateways })
    }
}

/// The endpoints of a workspace, by name.
#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints", params(InWorkspace, Part),
    responses((status = 200, body = List<EndpointShown>), Refusals))]
async fn list(
    State(control): State<Control>,
    At(at): At<InWorkspace>,
    Asked(part): Asked<Part>,
    origin: Origin,
) -> Result<Json<List<Value>>, ApiError> {
    let all = control.store.records(RecordKind::Endpoint, Some(&at.workspace)).await?;
    part.of(all, |record| &record.name, |record| Ok(Endpoint::read(record)?.show(&origin))).map(Json)
}

#[utoipa::path(get, path = "/workspaces/{workspace}/online-endpoints/{endpoint}", params(AtEndpoint),
    responses((status = 200, body = EndpointShown, headers(("etag" = String))), Refusals))]
async fn get(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    origin: Origin,
) -> Result<Response, ApiError> {
    Ok(Endpoint::load(&control, &at).await?.answer(StatusCode::OK, &origin))
}

/// Makes an endpoint with two keys, or replaces its document. Traffic that the document does not name stays as it is.
#[utoipa::path(put, path = "/workspaces/{workspace}/online-endpoints/{endpoint}",
    params(AtEndpoint,
        ("if-none-match" = Option<String>, Header, description = "`*`: only if there is none of that name."),
        ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    request_body = EndpointDocument,
    responses((status = 201, description = "Made.", body = EndpointShown, headers(("etag" = String))),
        (status = 200, description = "Changed.", body = EndpointShown, headers(("etag" = String))), Refusals))]
async fn put(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    precondition: Precondition,
    origin: Origin,
    Document(mut document): Document,
) -> Result<Response, ApiError> {
    check_name(&at.endpoint)?;
    name_document(&mut document, "name", at.endpoint.as_str())?;
    if !precondition.create {
        let replace = |current: &Value| {
            let mut document = document.clone();
            for key in ["traffic", "mirror_traffic"] {
                if !document.contains_key(key) && !current[key].is_null() {
                    document.insert(key.to_owned(), current[key].clone());
                }
            }
            Ok(document)
        };
        match change(&control, &at, precondition.generation, replace).await {
            Ok(endpoint) => return Ok(endpoint.answer(StatusCode::OK, &origin)),
            Err(Refused::Absent(error)) if precondition.generation.is_some() => return Err(error),
            Err(Refused::Absent(_)) => {}
            Err(Refused::Other(error)) => return Err(error),
        }
    }
    Ok(create(&control, &at, document).await?.answer(StatusCode::CREATED, &origin))
}

/// Changes an endpoint by a merge patch: `{"traffic": {"blue": 90, "green": 10}}`.
#[utoipa::path(patch, path = "/workspaces/{workspace}/online-endpoints/{endpoint}",
    params(AtEndpoint, ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    request_body(content((EndpointDocument = "application/json"), (EndpointDocument = "application/merge-patch+json"))),
    responses((status = 200, description = "Changed.", body = EndpointShown, headers(("etag" = String))), Refusals))]
async fn patch(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    precondition: Precondition,
    origin: Origin,
    Document(mut patch): Document,
) -> Result<Response, ApiError> {
    name_document(&mut patch, "name", at.endpoint.as_str())?;
    let merged = |current: &Value| {
        let mut document = current.clone();
        merge(&mut document, Value::Object(patch.clone()));
        match document {
            Value::Object(document) => Ok(document),
            _ => Err(ApiError::invalid("an endpoint is an object")),
        }
    };
    match change(&control, &at, precondition.generation, merged).await {
        Ok(endpoint) => Ok(endpoint.answer(StatusCode::OK, &origin)),
        Err(Refused::Absent(error) | Refused::Other(error)) => Err(error),
    }
}

/// Deletes an endpoint and its deployments.
#[utoipa::path(delete, path = "/workspaces/{workspace}/online-endpoints/{endpoint}",
    params(AtEndpoint, ("if-match" = Option<String>, Header, description = "The `etag` that it must still have.")),
    responses((status = 202, description = "Begun.", body = EndpointShown,
        headers(("operation-location" = String, description = "Where to see when it has ended."))), Refusals))]
async fn delete(
    State(control): State<Control>,
    At(at): At<AtEndpoint>,
    precondition: Precondition,
    origin: Origin,
) -> Result<Response, ApiError> {
    let mut endpoint = Endpoint::load(&control, &at).await?;
    let operation =
        removal::delete_endpoint(&control, &endpoint.workspace, &endpoint.name, precondition.generation)
            .await?;
    endpoint.body.deleting = true;
    let mut response = endpoint.answer(StatusCode::ACCEPTED, &origin);
    response.headers_mut().insert("operation-location", operation_location(&endpoint.workspace, &operation));
    Ok(response)
}

async fn create(control: &Control, at: &AtEndpoint, document: Object) -> Result<Endpoint, ApiError> {
    let document = check(control, at, document, &BTreeMap::new()).await?;
    let body = EndpointBody { document, deleting: false, operation: None, rollout: None };
    let name = at.endpoint.as_str();
    let record =
        control.store.create_record(&at.workspace, RecordKind::Endpoint, name, to_json(&body)?).await?;
    let endpoint = Endpoint::read(record)?;
    if let Err(error) = endpoint_keys::renew(control, &endpoint.workspace, &endpoint.name, &[0, 1]).await {
        // An endpoint without keys is of no use; the name is free again for the next attempt.
        control.store.delete_record(&at.workspace, RecordKind::Endpoint, name).await?;
        return Err(error);
    }
    control.reconciler.sync_endpoint(&endpoint.workspace, &endpoint.name).await;
    Ok(endpoint)
}

/// Why a change was not made.
enum Refused {
    Absent(ApiError),
    Other(ApiError),
}

impl<E: Into<ApiError>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Replaces the document by what `next` makes of it.
async fn change(
    control: &Control,
    at: &AtEndpoint,
    generation: Option<u64>,
    next: impl Fn(&Value) -> Result<Object, ApiError>,
) -> Result<Endpoint, Refused> {
    let mut attempts = 1..=ATTEMPTS;
    loop {
        let found = control.store.record(&at.workspace, RecordKind::Endpoint, at.endpoint.as_str()).await;
        let endpoint = match found {
            Ok(record) => Endpoint::read(record)?,
            Err(error) if is_absent(&error) => return Err(Refused::Absent(error.into())),
            Err(error) => return Err(error.into()),
        };
        endpoint.stays()?;
        let mut document = next(&endpoint.body.document)?;
        document.insert("name".to_owned(), endpoint.name.as_str().into());
        let below = control.store.deployments_of(&endpoint.workspace, &endpoint.name).await?;
        let deployments = below.iter().filter_map(|record| {
            let (_, name) = split_record_name(&record.name)?;
            Some((name.as_str().to_ascii_lowercase(), name))
        });
        let document = check(control, at, document, &deployments.collect()).await?;
        let body = EndpointBody { document, ..endpoint.body.clone() };
        endpoint.keeps_traffic(&body)?;
        if body == endpoint.body && generation.is_none_or(|generation| generation == endpoint.generation) {
            endpoint_keys::complete(control, &endpoint.workspace, &endpoint.name).await?;
            return Ok(endpoint);
        }
        let expected = generation.or(Some(endpoint.generation));
        let updated = control
            .store
            .update_record(
                &at.workspace,
                RecordKind::Endpoint,
                at.endpoint.as_str(),
                expected,
                to_json(&body)?,
            )
            .await;
        match updated {
            Ok(record) => {
                endpoint_keys::complete(control, &endpoint.workspace, &endpoint.name).await?;
                control.reconciler.sync_endpoint(&endpoint.workspace, &endpoint.name).await;
                return Ok(Endpoint::read(record)?);
            }
            Err(StoreError::Stale { .. }) if generation.is_none() && attempts.next().is_some() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads a document and holds it against the workspace. `deployments` are the endpoint's, by their names in lower case.
async fn check(
    control: &Control,
    at: &AtEndpoint,
    document: Object,
    deployments: &BTreeMap<String, Name>,
) -> Result<Value, ApiError> {
    let mut endpoint = from_json::<OnlineEndpoint>(&Value::Object(document))?.document;
    for (key, shares) in
        [("traffic", &mut endpoint.traffic), ("mirror_traffic", &mut endpoint.mirror_traffic)]
    {
        let mut known = BTreeMap::new();
        for (name, share) in std::mem::take(shares) {
            match deployments.get(&name.as_str().to_ascii_lowercase()) {
                Some(name) => {
                    known.insert(name.clone(), share);
                }
                // Nothing for nobody is what is left of a deployment that was deleted.
                None if share == 0 => {}
                None => {
                    return Err(ApiError::invalid(format!(
                        "`{key}` names `{name}`, and endpoint `{}` has no such deployment",
                        at.endpoint
                    ))
                    .hint("create the deployment first, then give it traffic"));
                }
            }
        }
        *shares = known;
    }
    check_shares(&endpoint)?;
    if let Some(compute) = &endpoint.compute
        && !compute.as_str().eq_ignore_ascii_case("local")
    {
        control.store.record(&at.workspace, RecordKind::Compute, compute.as_str()).await?;
    }
    to_json(&endpoint)
}

/// Percentages over all that is known; a document alone may name only some of the deployments.
fn check_shares(endpoint: &OnlineEndpoint) -> Result<(), ApiError> {
    let sum: u32 = endpoint.traffic.values().map(|share| u32::from(*share)).sum();
    if sum > 100 {
        let shares: Vec<_> = endpoint.traffic.iter().map(|(name, share)| format!("{name}={share}")).collect();
        return Err(ApiError::invalid(format!(
            "traffic is {sum} % in all ({}); at most 100",
            shares.join(" ")
        ))
        .hint("give 0 to those that shall have none"));
    }
    let mirrors: Vec<_> = endpoint.mirror_traffic.iter().filter(|(_, share)| **share > 0).collect();
    match mirrors[..] {
        [] => Ok(()),
        [(_, share)] if *share <= 50 => Ok(()),
        [(name, share)] => {
            Err(ApiError::invalid(format!("mirror_traffic of `{name}` is {share} %; at most 50")))
        }
        _ => Err(ApiError::invalid("mirror_traffic can go to one deployment alone")
            .hint("give 0 to the one that shall have none any more")),
    }
}

/// Azure ML's rule, which makes the name good for a part of a URL and of a host.
fn check_name(name: &Name) -> Result<(), ApiError> {
    let text = name.as_str();
    let ends = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !text.ends_with('-');
    if (3..=32).contains(&text.len()) && ends && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "`{name}` is not a name of an endpoint; it has 3 to 32 letters, digits and `-`, begins with a letter and \
         does not end with `-`"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_endpoints_follow_azure_ml() {
        let check = |text: &str| check_name(&text.parse().unwrap()).is_ok();
        for good in ["abc", "A-1", "a".repeat(32).as_str()] {
            assert!(check(good), "{good}");
        }
        for bad in ["ab", "1abc", "abc-", "a_b", "a.b", "a".repeat(33).as_str()] {
            assert!(!check(bad), "{bad}");
        }
    }
}
