//! The headers that the gateway reads, writes and keeps to itself.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use uuid::Uuid;

/// Azure ML's name for the deployment that a request asks for and that an answer comes from.
pub(crate) const DEPLOYMENT: HeaderName = HeaderName::from_static("azureml-model-deployment");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The endpoint of a gRPC call.
pub(crate) const ENDPOINT: HeaderName = HeaderName::from_static("moorline-endpoint");
/// On 424: the status that the model's server answered with, and its reason.
pub(crate) const MODEL_STATUS: HeaderName = HeaderName::from_static("ms-azureml-model-error-statuscode");
pub(crate) const MODEL_REASON: HeaderName = HeaderName::from_static("ms-azureml-model-error-reason");
/// On what a scoring script answered, as against what the scorer did in its place.
pub(crate) const RUN_TIME: HeaderName = HeaderName::from_static("x-ms-run-fn-exec-ms");

/// The scorer's own bound.
pub(crate) const MAX_REQUEST_ID: usize = 100;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// What concerns one connection only (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Takes out what is meant for this hop alone, with whatever `connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most requests have none: one look at all names is cheaper than six searches.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A new request id.
pub(crate) fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

/// Whether this is a gRPC call.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_concerns_one_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Hop"),
            ("connection", "keep-alive"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("content-type", "application/json"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["content-type"]);
    }
}
