//! The one place where the gateway's own refusals get a status, a gRPC code and a body.

use std::fmt::Write as _;

use axum::body::Body;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::places::NoPlace;

/// Why the gateway itself answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// No key or token, or one that is not known here.
    Unauthenticated,
    NoEndpoint {
        endpoint: String,
    },
    NoDeployment {
        deployment: String,
    },
    /// The endpoint has no deployment with traffic.
    NoTraffic,
    BadTarget,
    /// A gRPC call without `moorline-endpoint`.
    EndpointNotNamed,
    RequestIdTooLong,
    BodyTooLarge {
        limit: u64,
    },
    /// The client's body ended before its end.
    BodyIncomplete,
    /// The client's body stopped coming.
    BodyTimeout,
    Timeout {
        millis: u128,
    },
    NoPlace(NoPlace),
    TooManyColdWaiters,
    /// No replica takes requests.
    NoReplica,
    /// None came in time.
    ColdStart,
    /// A replica ended, or broke the protocol, after it may have begun with the request.
    ReplicaLost,
}

/// Whose shape an error's body takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `{"message": …}`.
    Score,
    /// `{"error": …}`.
    Oip,
    /// `{"error_code": …, "message": …}`.
    Mlflow,
    /// Trailers and no body.
    Grpc,
}

impl Dialect {
    /// Of a call over HTTP to this path.
    pub(crate) fn of(path: &str) -> Self {
        if path.starts_with("/v2") {
            Self::Oip
        } else if path.starts_with("/invocations") {
            Self::Mlflow
        } else {
            Self::Score
        }
    }
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

impl Problem {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NoEndpoint { .. } | Self::NoDeployment { .. } | Self::NoTraffic => StatusCode::NOT_FOUND,
            Self::BadTarget | Self::EndpointNotNamed | Self::BodyIncomplete => StatusCode::BAD_REQUEST,
            Self::RequestIdTooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout | Self::Timeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::NoPlace(_) | Self::TooManyColdWaiters => StatusCode::TOO_MANY_REQUESTS,
            Self::NoReplica | Self::ColdStart => StatusCode::SERVICE_UNAVAILABLE,
            Self::ReplicaLost => StatusCode::BAD_GATEWAY,
        }
    }

    /// Whether the deployment that was chosen is to blame, and not who sent the request.
    pub(crate) fn is_the_deployments(&self) -> bool {
        match self {
            Self::Unauthenticated
            | Self::NoEndpoint { .. }
            | Self::NoDeployment { .. }
            | Self::NoTraffic
            | Self::BadTarget
            | Self::EndpointNotNamed
            | Self::RequestIdTooLong
            | Self::BodyTooLarge { .. }
            | Self::BodyIncomplete
            | Self::BodyTimeout => false,
            Self::Timeout { .. }
            | Self::NoPlace(_)
            | Self::TooManyColdWaiters
            | Self::NoReplica
            | Self::ColdStart
            | Self::ReplicaLost => true,
        }
    }

    /// The code of `google.rpc.Code` for the same.
    fn grpc_code(&self) -> u8 {
        match self {
            Self::Unauthenticated => 16,
            Self::NoEndpoint { .. } | Self::NoDeployment { .. } | Self::NoTraffic => 5,
            Self::BadTarget | Self::EndpointNotNamed | Self::RequestIdTooLong => 3,
            Self::BodyIncomplete => 1,
            Self::BodyTooLarge { .. } | Self::NoPlace(_) | Self::TooManyColdWaiters => 8,
            Self::BodyTimeout | Self::Timeout { .. } => 4,
            Self::NoReplica | Self::ColdStart | Self::ReplicaLost => 14,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unauthenticated => {
                "The key or token is missing or not known here. Send `Authorization: Bearer <key or token>`.".to_owned()
            }
            Self::NoEndpoint { endpoint } => format!("There is no endpoint `{endpoint}` here."),
            Self::NoDeployment { deployment } => {
                format!("The endpoint has no deployment `{deployment}`, which `azureml-model-deployment` asks for.")
            }
            Self::NoTraffic => {
                "The endpoint has no deployment with traffic. Give one a share, or name one in `azureml-model-deployment`."
                    .to_owned()
            }
            Self::BadTarget => "The path is not one that a request can have.".to_owned(),
            Self::EndpointNotNamed => "Name the endpoint in the metadata `moorline-endpoint`.".to_owned(),
            Self::RequestIdTooLong => {
                format!("x-request-id must not exceed {} characters", crate::headers::MAX_REQUEST_ID)
            }
            Self::BodyTooLarge { limit } => format!("The body is longer than {limit} bytes."),
            Self::BodyIncomplete => "The body ended before its end.".to_owned(),
            Self::BodyTimeout => "The body stopped coming.".to_owned(),
            Self::Timeout { millis } => format!("Request timeout after {millis} ms"),
            Self::NoPlace(NoPlace::QueueFull) => {
                "Too many requests are waiting. Try again later.".to_owned()
            }
            Self::NoPlace(NoPlace::WaitedTooLong) => {
                "The request waited too long in the queue. Try again later.".to_owned()
            }
            Self::TooManyColdWaiters => {
                "Too many requests wait for the deployment to start. Try again later.".to_owned()
            }
            Self::NoReplica => "No replica of the deployment takes requests. Try again shortly.".to_owned(),
            Self::ColdStart => "The deployment did not start in time. Try again shortly.".to_owned(),
            Self::ReplicaLost => "The replica ended before it had answered.".to_owned(),
        }
    }

    pub(crate) fn response(&self, dialect: Dialect) -> Response<Body> {
        let status = self.status();
        let message = self.message();
        if dialect == Dialect::Grpc {
            return self.grpc_response(&message);
        }
        let body = match dialect {
            Dialect::Oip => json!({ "error": message }),
            Dialect::Mlflow => json!({ "error_code": mlflow_code(status), "message": message }),
            Dialect::Score | Dialect::Grpc => json!({ "message": message }),
        };
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }

    /// An answer of trailers alone.
    fn grpc_response(&self, message: &str) -> Response<Body> {
        // Percent-encoded where a header could not hold it; names that came in may be anything.
        let mut encoded = String::with_capacity(message.len());
        for byte in message.bytes() {
            match byte {
                b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
                _ => {
                    let _ = write!(encoded, "%{byte:02X}");
                }
            }
        }
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(self.grpc_code())));
        if let Ok(message) = HeaderValue::from_str(&encoded) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    }
}

fn mlflow_code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "RESOURCE_DOES_NOT_EXIST",
        StatusCode::UNAUTHORIZED => "UNAUTHENTICATED",
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => "TEMPORARILY_UNAVAILABLE",
        StatusCode::BAD_GATEWAY => "INTERNAL_ERROR",
        _ => "BAD_REQUEST",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_pass_say_when_to_come_back() {
        for problem in [Problem::NoReplica, Problem::NoPlace(NoPlace::QueueFull)] {
            assert_eq!(problem.response(Dialect::Score).headers()[header::RETRY_AFTER], "1");
        }
        assert!(!Problem::ReplicaLost.response(Dialect::Score).headers().contains_key(header::RETRY_AFTER));
    }

    #[test]
    fn a_call_over_grpc_is_refused_in_trailers() {
        let response = Problem::NoEndpoint { endpoint: "ä%".to_owned() }.response(Dialect::Grpc);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[GRPC_STATUS], "5");
        assert_eq!(response.headers()[GRPC_MESSAGE], "There is no endpoint `%C3%A4%25` here.");
    }

    #[test]
    fn each_protocol_has_its_shape() {
        assert_eq!(Dialect::of("/v2/models/iris/infer"), Dialect::Oip);
        assert_eq!(Dialect::of("/invocations"), Dialect::Mlflow);
        assert_eq!(Dialect::of("/score"), Dialect::Score);
    }
}
