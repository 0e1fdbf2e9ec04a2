//! What handlers take from a request: names of its path, its query, its JSON within bounds, and the generation that the
//! caller has seen. Everything that does not fit is refused here, with the name of what was wrong.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use moorline_core::ErrorClass;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{control::Control, problem::ApiError};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// The parameters of the path.
#[derive(Debug)]
pub(crate) struct At<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for At<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                Err(ApiError::invalid(text.strip_prefix("Invalid URL: ").unwrap_or(&text)))
            }
        }
    }
}

/// The query.
#[derive(Debug)]
pub(crate) struct Asked<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                Err(ApiError::invalid(format!("the query: {text}")))
            }
        }
    }
}

/// A small JSON body of one shape.
#[derive(Debug)]
pub(crate) struct Given<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Control> for Given<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, control: &Control) -> Result<Self, ApiError> {
        let bytes = read(request, control.config.bounds.json_bytes).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(not_json)
    }
}

/// A document without lists of files.
#[derive(Debug)]
pub(crate) struct Document(pub(crate) Object);

impl FromRequest<Control> for Document {
    type Rejection = ApiError;

    async fn from_request(request: Request, control: &Control) -> Result<Self, ApiError> {
        object(read(request, control.config.bounds.json_bytes).await?).map(without_facts).map(Self)
    }
}

/// A document that may have a list of files.
#[derive(Debug)]
pub(crate) struct DocumentWithFiles(pub(crate) Object);

impl FromRequest<Control> for DocumentWithFiles {
    type Rejection = ApiError;

    async fn from_request(request: Request, control: &Control) -> Result<Self, ApiError> {
        object(read(request, control.config.bounds.file_list_bytes).await?).map(Self)
    }
}

/// The whole body. serde_json bounds its depth.
async fn read(request: Request, limit: usize) -> Result<Bytes, ApiError> {
    // A page of another site can send a body without being asked first, but not as JSON.
    if !is_json(request.headers()) {
        return Err(ApiError::invalid("the body must be JSON")
            .hint("send `content-type: application/json`")
            .with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    match Limited::new(request.into_body(), limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(ErrorClass::TooLarge, format!("the body has more than {limit} bytes")))
        }
        Err(error) => {
            Err(ApiError::new(ErrorClass::Cancelled, "the body did not arrive whole").caused_by(error))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

fn object(bytes: Bytes) -> Result<Object, ApiError> {
    match serde_json::from_slice(&bytes).map_err(not_json)? {
        Value::Object(object) => Ok(object),
        _ => Err(ApiError::invalid("the body must be a JSON object")),
    }
}

fn not_json(error: serde_json::Error) -> ApiError {
    ApiError::invalid(format!("the body: {error}"))
}

/// What the caller says of the state that it knows: `If-None-Match: *` and `If-Match: "3"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Precondition {
    /// It must not exist yet.
    pub(crate) create: bool,
    /// It must have this generation still.
    pub(crate) generation: Option<u64>,
}

impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text =
            |name| parts.headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
        let create = match text(header::IF_NONE_MATCH) {
            None => false,
            Some("*") => true,
            Some(_) => return Err(ApiError::invalid("`if-none-match` can only be `*` here")),
        };
        let generation = match text(header::IF_MATCH) {
            None | Some("*") => None,
            Some(tag) => {
                let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
                let generation = number.parse().map_err(|_| {
                    ApiError::invalid("`if-match` must be a generation in quotes, as in the answer's `etag`")
                })?;
                Some(generation)
            }
        };
        Ok(Self { create, generation })
    }
}

/// RFC 7396: `null` takes away, objects are merged, everything else replaces.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Object::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Takes away what an answer has beside the document, so that an answer can be changed and sent back.
pub(crate) fn without_facts(mut document: Object) -> Object {
    const FACTS: [&str; 11] = [
        "compute_name",
        "id",
        "kind",
        "provisioning_state",
        "scoring_uri",
        "openapi_uri",
        "generation",
        "creation_context",
        "replicas",
        "error",
        "rollout",
    ];
    document.retain(|key, _| !FACTS.contains(&key.as_str()));
    document
}

/// Writes the name that the path has into a document; one that says another is refused.
pub(crate) fn name_document(document: &mut Object, key: &str, name: &str) -> Result<(), ApiError> {
    match document.get(key) {
        None | Some(Value::Null) => {
            document.insert(key.to_owned(), name.into());
            Ok(())
        }
        Some(Value::String(given)) if given.eq_ignore_ascii_case(name) => Ok(()),
        Some(given) => Err(ApiError::invalid(format!(
            "`{key}` is {} in the body and `{name}` in the path",
            given.to_string().chars().take(300).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_merge_as_rfc_7396_says() {
        let merged = |target: Value, patch: Value| {
            let mut target = target;
            merge(&mut target, patch);
            target
        };
        assert_eq!(merged(json!({"a": "b"}), json!({"a": "c"})), json!({"a": "c"}));
        assert_eq!(merged(json!({"a": "b", "b": "c"}), json!({"a": null})), json!({"b": "c"}));
        assert_eq!(merged(json!({"a": ["b"]}), json!({"a": "c"})), json!({"a": "c"}));
        assert_eq!(
            merged(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}})),
            json!({"a": {"b": "d"}})
        );
        assert_eq!(merged(json!({}), json!({"a": {"bb": {"ccc": null}}})), json!({"a": {"bb": {}}}));
        assert_eq!(merged(json!({"e": null}), json!({"a": 1})), json!({"e": null, "a": 1}));
        assert_eq!(merged(json!([1]), json!({"a": 1})), json!({"a": 1}));
    }

    #[test]
    fn a_document_has_the_name_of_its_path() {
        let mut document = Object::new();
        name_document(&mut document, "name", "blue").unwrap();
        assert_eq!(document["name"], "blue");
        name_document(&mut document, "name", "Blue").unwrap();
        assert!(name_document(&mut document, "name", "green").unwrap_err().detail().contains("green"));
        document.insert("name".to_owned(), json!(1));
        assert!(name_document(&mut document, "name", "green").is_err());
    }
}
