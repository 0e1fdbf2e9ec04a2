//! Request ids: taken from the request or made here, checked, and returned on every answer.
//! The rules and the messages are those of Azure ML's inference server.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use moorline_core::ErrorClass;
use uuid::Uuid;

use crate::problem::Problem;

const MAX_LENGTH: usize = 100;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-client-request-id");
const MS_REQUEST_ID: HeaderName = HeaderName::from_static("x-ms-request-id");
const TRACE_ID: HeaderName = HeaderName::from_static("traceid");

/// The ids of one request. It travels with the request as an extension.
#[derive(Clone, Debug)]
pub(crate) struct RequestIds {
    request: HeaderValue,
    ms_request: HeaderValue,
    client: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl RequestIds {
    /// The ids that `headers` carry, with a new one where there is none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let given = |name: &HeaderName| headers.get(name).filter(|value| !value.is_empty());
        let too_long = |value: Option<&HeaderValue>| value.is_some_and(|value| value.len() > MAX_LENGTH);
        if too_long(given(&REQUEST_ID)) {
            return Err(refusal("x-request-id must not exceed 100 characters"));
        }
        if too_long(given(&MS_REQUEST_ID)) || too_long(given(&CLIENT_REQUEST_ID)) {
            return Err(refusal("x-ms-request-id and x-ms-client-request-id must not exceed 100 characters"));
        }
        let request = given(&REQUEST_ID).cloned().unwrap_or_else(new_id);
        let client = given(&CLIENT_REQUEST_ID).cloned();
        Ok(Self {
            ms_request: given(&MS_REQUEST_ID).or(client.as_ref()).unwrap_or(&request).clone(),
            client,
            trace: headers.get(TRACE_ID).cloned(),
            request,
        })
    }

    /// The id for logs and for the script; bytes that are not text are replaced.
    pub(crate) fn request_id(&self) -> String {
        String::from_utf8_lossy(self.request.as_bytes()).into_owned()
    }

    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.request);
        headers.insert(MS_REQUEST_ID, self.ms_request);
        if let Some(client) = self.client {
            headers.insert(CLIENT_REQUEST_ID, client);
        }
        if let Some(trace) = self.trace {
            headers.insert(TRACE_ID, trace);
        }
    }
}

fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn refusal(message: &str) -> Problem {
    Problem::new(ErrorClass::InvalidInput, message).with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn ids_are_echoed_or_made() {
        let mut out = HeaderMap::new();
        RequestIds::of(&headers(&[("x-ms-client-request-id", "c"), ("traceid", "t")]))
            .unwrap()
            .write(&mut out);
        assert_eq!(out["x-request-id"].len(), 36);
        assert_eq!(out["x-ms-request-id"], "c");
        assert_eq!(out["x-ms-client-request-id"], "c");
        assert_eq!(out["traceid"], "t");
    }

    #[test]
    fn a_hundred_characters_pass_and_one_more_does_not() {
        assert!(RequestIds::of(&headers(&[("x-request-id", &"a".repeat(100))])).is_ok());
        let refused = RequestIds::of(&headers(&[("x-request-id", &"a".repeat(101))])).unwrap_err();
        assert_eq!(refused.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
}
