//! The one place where an error class becomes an HTTP status of the control plane, and an error becomes a body.
//!
//! A handler answers with an [`ApiError`]; it travels in the response's extensions to the edge, where [`render`] gives
//! it the request's id and writes what the caller must not see to the log.

use std::{error::Error, sync::Arc};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use moorline_core::{ErrorClass, TargetError};
use moorline_spec::{Diagnostic, Diagnostics, Severity};
use moorline_store::StoreError;
use serde::Serialize;
use thiserror::Error;
use utoipa::ToSchema;

/// Why a request of the API is refused, or what failed.
#[derive(Debug, Error)]
#[error("{detail}")]
pub(crate) struct ApiError {
    class: ErrorClass,
    /// For the caller, with the name of the thing.
    detail: String,
    /// What to do next.
    hint: Option<String>,
    diagnostics: Vec<DiagnosticBody>,
    /// Where the protocol asks for another status than the class has.
    status: Option<StatusCode>,
    /// For the log only.
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    pub(crate) fn new(class: ErrorClass, detail: impl Into<String>) -> Self {
        Self { class, detail: detail.into(), hint: None, diagnostics: Vec::new(), status: None, source: None }
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::InvalidInput, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::NotFound, detail)
    }

    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ErrorClass::Conflict, detail)
    }

    /// A defect of ours: `detail` says what was being done, `source` goes to the log.
    pub(crate) fn internal(
        detail: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::new(ErrorClass::Internal, detail).caused_by(source)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn class(&self) -> ErrorClass {
        self.class
    }

    /// What the caller is told, without the hint.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.class {
            ErrorClass::InvalidInput => StatusCode::BAD_REQUEST,
            ErrorClass::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorClass::Forbidden => StatusCode::FORBIDDEN,
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            ErrorClass::Timeout => StatusCode::GATEWAY_TIMEOUT,
            // What proxies log for a caller that left; nobody reads it.
            ErrorClass::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorClass::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Script | ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }

    fn title(&self) -> &'static str {
        match self.class {
            ErrorClass::InvalidInput => "The request cannot work as it is",
            ErrorClass::Unauthenticated => "The caller is not known",
            ErrorClass::Forbidden => "The caller may not do this",
            ErrorClass::NotFound => "There is no such thing",
            ErrorClass::Conflict => "The thing exists already, or has changed",
            ErrorClass::TooLarge => "The request is beyond a bound",
            ErrorClass::Overloaded => "The server has too much to do",
            ErrorClass::Timeout => "The time ran out",
            ErrorClass::Cancelled => "The caller left",
            ErrorClass::Unsupported => "This is not offered",
            ErrorClass::Unavailable => "The server cannot do this now",
            ErrorClass::Script => "The user's code failed",
            ErrorClass::Internal => "The server failed",
        }
    }
}

/// An error as RFC 9457 writes it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:moorline:problem:` and the class.
    #[serde(rename = "type")]
    #[schema(example = "urn:moorline:problem:not_found")]
    pub(crate) kind: String,
    pub(crate) title: String,
    pub(crate) status: u16,
    /// What was wrong, with the name of the thing.
    pub(crate) detail: String,
    /// One of a closed set: `invalid_input`, `unauthenticated`, `forbidden`, `not_found`, `conflict`, `too_large`,
    /// `overloaded`, `timeout`, `cancelled`, `unsupported`, `unavailable`, `script`, `internal`.
    pub(crate) class: String,
    /// The `x-request-id` of this answer; the server's log has it too.
    pub(crate) request_id: String,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
    /// Everything that was found in a document.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub(crate) diagnostics: Vec<DiagnosticBody>,
}

/// One thing that is wrong in a document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct DiagnosticBody {
    /// `error` or `warning`.
    pub(crate) severity: &'static str,
    /// The path of the key, as in `code_configuration.scoring_script`; empty for the whole of the document.
    pub(crate) path: String,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

impl From<&Diagnostic> for DiagnosticBody {
    fn from(diagnostic: &Diagnostic) -> Self {
        Self {
            severity: match diagnostic.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            path: diagnostic.path.clone(),
            message: diagnostic.message.clone(),
            expected: diagnostic.expected.clone(),
            hint: diagnostic.hint.clone(),
        }
    }
}

/// Carries the error to the edge.
#[derive(Clone)]
struct Carried(Arc<ApiError>);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status();
        response.extensions_mut().insert(Carried(Arc::new(self)));
        response
    }
}

/// Writes the body of an answer that carries an error; leaves every other one as it is.
pub(crate) fn render(mut response: Response, request_id: &str) -> Response {
    let Some(Carried(error)) = response.extensions_mut().remove::<Carried>() else { return response };
    let status = response.status();
    if status.is_server_error() {
        tracing::error!(request_id, class = %error.class, error = chain(&*error), "request failed");
    } else if error.source.is_some() {
        tracing::debug!(request_id, class = %error.class, error = chain(&*error), "request refused");
    }
    let problem = Problem {
        kind: format!("urn:moorline:problem:{}", error.class),
        title: error.title().to_owned(),
        status: status.as_u16(),
        detail: error.detail.clone(),
        class: error.class.as_str().to_owned(),
        request_id: request_id.to_owned(),
        hint: error.hint.clone(),
        diagnostics: error.diagnostics.clone(),
    };
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    // The empty body that carried the error had one.
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(error.class, ErrorClass::Overloaded | ErrorClass::Unavailable) {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    *response.body_mut() = Body::from(body);
    response
}

/// An error and its sources on one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error.class() {
            ErrorClass::Internal => Self::internal("the workspace's store failed", error),
            class => Self::new(class, error.to_string()).caused_by(error),
        }
    }
}

impl From<TargetError> for ApiError {
    fn from(error: TargetError) -> Self {
        Self::new(error.class, error.message.clone()).caused_by(error)
    }
}

impl From<Diagnostics> for ApiError {
    fn from(diagnostics: Diagnostics) -> Self {
        let errors = diagnostics.as_slice().iter().filter(|one| one.severity == Severity::Error).count();
        let mut error = Self::invalid(match errors {
            1 => "the document has an error".to_owned(),
            count => format!("the document has {count} errors"),
        });
        error.diagnostics = diagnostics.as_slice().iter().map(DiagnosticBody::from).collect();
        error
    }
}
