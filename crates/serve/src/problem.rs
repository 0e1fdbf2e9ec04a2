//! The one place where an error class becomes an HTTP status or a gRPC code, and an error becomes a body.

use axum::{body::Body, response::Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use moorline_core::{EngineError, ErrorClass, ScriptError};

use crate::codec::CodecError;

/// Why a request is answered with an error. The message is for the caller; internals go to the log.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) class: ErrorClass,
    pub(crate) message: String,
    /// Where the protocol asks for another status than the class has.
    status: Option<StatusCode>,
    /// Seconds for `Retry-After`.
    retry_after: Option<u32>,
}

/// Whose shape the error's body takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"message": …}`.
    Score,
    /// `{"error": …}`.
    Oip,
    /// `{"error_code": …, "message": …}`.
    Mlflow,
}

/// How the user's function fared, as Azure ML's clients read it.
pub(crate) const RUN_FUNCTION_FAILED: HeaderName = HeaderName::from_static("x-ms-run-function-failed");

/// The value of [`RUN_FUNCTION_FAILED`].
pub(crate) fn run_function_failed(failed: bool) -> HeaderValue {
    HeaderValue::from_static(if failed { "True" } else { "False" })
}

impl Problem {
    pub(crate) fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        let retry_after = match class {
            ErrorClass::Overloaded | ErrorClass::Unavailable => Some(1),
            _ => None,
        };
        Self { class, message: message.into(), status: None, retry_after }
    }

    /// The same problem under the status that a protocol prescribes.
    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    pub(crate) fn starting() -> Self {
        Self::new(ErrorClass::Unavailable, "The model is still loading. Try again shortly.")
    }

    pub(crate) fn timeout(limit: std::time::Duration) -> Self {
        Self::new(ErrorClass::Timeout, format!("Request timeout after {} ms", limit.as_millis()))
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status.unwrap_or(match self.class {
            ErrorClass::InvalidInput => StatusCode::BAD_REQUEST,
            ErrorClass::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorClass::Forbidden => StatusCode::FORBIDDEN,
            ErrorClass::NotFound => StatusCode::NOT_FOUND,
            ErrorClass::Conflict => StatusCode::CONFLICT,
            ErrorClass::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            ErrorClass::Timeout => StatusCode::REQUEST_TIMEOUT,
            // What proxies log for a caller that left; nobody reads it.
            ErrorClass::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            ErrorClass::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorClass::Script | ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        })
    }

    /// Whether it was the user's function that failed: it raised, its process died, or it ran out of time.
    fn run_failed(&self) -> bool {
        self.class == ErrorClass::Script
            || (self.class == ErrorClass::Timeout && self.status().is_server_error())
    }

    pub(crate) fn grpc_code(&self) -> tonic::Code {
        match self.class {
            ErrorClass::InvalidInput => tonic::Code::InvalidArgument,
            ErrorClass::Unauthenticated => tonic::Code::Unauthenticated,
            ErrorClass::Forbidden => tonic::Code::PermissionDenied,
            ErrorClass::NotFound => tonic::Code::NotFound,
            ErrorClass::Conflict => tonic::Code::Aborted,
            ErrorClass::TooLarge | ErrorClass::Overloaded => tonic::Code::ResourceExhausted,
            ErrorClass::Timeout => tonic::Code::DeadlineExceeded,
            ErrorClass::Cancelled => tonic::Code::Cancelled,
            ErrorClass::Unsupported => tonic::Code::Unimplemented,
            ErrorClass::Unavailable => tonic::Code::Unavailable,
            ErrorClass::Script | ErrorClass::Internal => tonic::Code::Internal,
        }
    }

    pub(crate) fn response(&self, dialect: Dialect) -> Response {
        let body = match dialect {
            Dialect::Score => serde_json::json!({ "message": self.message }),
            Dialect::Oip => serde_json::json!({ "error": self.message }),
            Dialect::Mlflow => {
                let code = match self.class {
                    ErrorClass::InvalidInput | ErrorClass::TooLarge => "BAD_REQUEST",
                    ErrorClass::NotFound => "RESOURCE_DOES_NOT_EXIST",
                    ErrorClass::Unavailable | ErrorClass::Overloaded => "TEMPORARILY_UNAVAILABLE",
                    _ => "INTERNAL_ERROR",
                };
                serde_json::json!({ "error_code": code, "message": self.message })
            }
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if dialect == Dialect::Score {
            response.headers_mut().insert(RUN_FUNCTION_FAILED, run_function_failed(self.run_failed()));
        }
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::new(error.class(), error.to_string())
    }
}

impl From<CodecError> for Problem {
    fn from(error: CodecError) -> Self {
        Self::new(error.class(), error.to_string())
    }
}

impl From<ScriptError> for Problem {
    fn from(error: ScriptError) -> Self {
        let problem = Self::new(error.class(), error.to_string());
        match error {
            // Azure ML's server answers a scoring timeout with 500, not 408.
            ScriptError::Timeout { .. } => problem.with_status(StatusCode::INTERNAL_SERVER_ERROR),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_says_when_to_come_back() {
        let response = Problem::new(ErrorClass::Overloaded, "full").response(Dialect::Score);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        assert_eq!(Problem::starting().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
