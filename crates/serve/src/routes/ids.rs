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
    request: Option<HeaderValue>,
    ms_request: Option<HeaderValue>,
    client: Option<HeaderValue>,
    trace: Option<HeaderValue>,
}

impl RequestIds {
    /// The ids that `headers` carry, with a new one where there is none, and the refusal where one is too long; an id
    /// that is too long is not answered, the others are.
    pub(crate) fn of(headers: &HeaderMap) -> (Self, Option<Problem>) {
        let mut refused = None;
        let mut take = |name: &HeaderName, refusal: &str| match headers.get(name) {
            Some(_) if too_long(headers, name) => {
                refused.get_or_insert_with(|| {
                    Problem::new(ErrorClass::InvalidInput, refusal)
                        .with_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
                });
                None
            }
            Some(value) => Some(value.clone()),
            None => None,
        };
        const MS: &str = "x-ms-request-id and x-ms-client-request-id must not exceed 100 characters";
        let own = take(&REQUEST_ID, "x-request-id must not exceed 100 characters");
        let ms = take(&MS_REQUEST_ID, MS).filter(|value| !value.is_empty());
        let client = take(&CLIENT_REQUEST_ID, MS).filter(|value| !value.is_empty());
        // An empty id is kept as none at all; only a missing one is made.
        let request = match own {
            Some(own) => Some(own).filter(|own| !own.is_empty()),
            None => headers.get(REQUEST_ID).is_none().then(new_id),
        };
        // Either of the other two stands for both.
        let client = client.or_else(|| ms.clone());
        // The request's id stands in for one that is not there, not for one that is refused.
        let stand_in = request
            .clone()
            .filter(|_| !too_long(headers, &MS_REQUEST_ID) && !too_long(headers, &CLIENT_REQUEST_ID));
        let ids = Self {
            ms_request: ms.or_else(|| client.clone()).or(stand_in),
            client,
            trace: headers.get(TRACE_ID).cloned(),
            request,
        };
        (ids, refused)
    }

    /// The id for logs and for the script; bytes that are not text are replaced.
    pub(crate) fn request_id(&self) -> String {
        self.request
            .as_ref()
            .map_or_else(String::new, |id| String::from_utf8_lossy(id.as_bytes()).into_owned())
    }

    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let ids = [
            (REQUEST_ID, self.request),
            (MS_REQUEST_ID, self.ms_request),
            (CLIENT_REQUEST_ID, self.client),
            (TRACE_ID, self.trace),
        ];
        for (name, value) in ids {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

fn too_long(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get(name).is_some_and(|value| value.len() > MAX_LENGTH)
}

fn new_id() -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(Uuid::new_v4().hyphenated().encode_lower(&mut buffer))
        .unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(pairs: &[(&'static str, &str)]) -> (HeaderMap, Option<Problem>) {
        let headers = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let (ids, refused) = RequestIds::of(&headers);
        let mut out = HeaderMap::new();
        ids.write(&mut out);
        (out, refused)
    }

    #[test]
    fn ids_are_echoed_or_made() {
        let (out, _) = answered(&[("x-ms-client-request-id", "c"), ("traceid", "t")]);
        assert_eq!(out["x-request-id"].len(), 36);
        assert_eq!(out["x-ms-request-id"], "c");
        assert_eq!(out["x-ms-client-request-id"], "c");
        assert_eq!(out["traceid"], "t");
        let (out, _) = answered(&[("x-ms-request-id", "m"), ("x-request-id", "")]);
        assert!(!out.contains_key("x-request-id"));
        assert_eq!(out["x-ms-client-request-id"], "m");
        let (out, _) = answered(&[("x-request-id", "r")]);
        assert_eq!(out["x-ms-request-id"], "r");
        assert!(!out.contains_key("x-ms-client-request-id"));
    }

    #[test]
    fn a_hundred_characters_pass_and_one_more_does_not() {
        assert!(answered(&[("x-request-id", &"a".repeat(100))]).1.is_none());
        let (out, refused) = answered(&[("x-request-id", &"a".repeat(101)), ("x-ms-request-id", "m")]);
        assert_eq!(refused.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(!out.contains_key("x-request-id"));
        assert_eq!(out["x-ms-request-id"], "m");
        let (out, refused) = answered(&[("x-ms-client-request-id", &"a".repeat(101))]);
        assert!(refused.is_some() && !out.contains_key("x-ms-request-id"));
    }
}
