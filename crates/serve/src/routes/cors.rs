//! CORS as Azure ML's inference server has it (the rules of flask-cors), so that a page that worked there works here.
//!
//! | request | answer |
//! | --- | --- |
//! | `Origin` is allowed | that origin |
//! | no `Origin` | the first allowed origin |
//! | another `Origin` | nothing |
//! | preflight for a method that is offered | besides, the methods and the headers that were asked for |

use http::{HeaderMap, HeaderValue, Method, Request, header};

/// What a preflight may ask for.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");

/// The origins that browsers may call from.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<HeaderValue>,
    any: bool,
}

/// What is to be said in one answer.
#[derive(Debug)]
pub(crate) struct Allowed {
    origin: HeaderValue,
    preflight: bool,
    headers: Option<HeaderValue>,
    any: bool,
}

impl Cors {
    /// `None` where there is no origin: then nothing is said of CORS.
    pub(crate) fn new(origins: &[String]) -> Option<Self> {
        let any = origins.iter().any(|origin| origin == "*");
        let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
        (!origins.is_empty()).then_some(Self { origins, any })
    }

    /// What `request` is allowed; `None` where its origin is not.
    pub(crate) fn allow<B>(&self, request: &Request<B>) -> Option<Allowed> {
        let origin = match request.headers().get(header::ORIGIN) {
            _ if self.any => HeaderValue::from_static("*"),
            Some(origin) => self.origins.iter().find(|allowed| *allowed == origin)?.clone(),
            None => self.origins.first()?.clone(),
        };
        let asked = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let preflight = request.method() == Method::OPTIONS
            && asked.is_some_and(|asked| {
                matches!(asked.as_bytes().to_ascii_uppercase().as_slice(), b"GET" | b"POST")
            });
        let headers = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        Some(Allowed { origin, preflight, headers: headers.cloned(), any: self.any })
    }
}

impl Allowed {
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        if self.preflight {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            if let Some(asked) = self.headers {
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
            }
        }
        if !self.any {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(origins: &[&str], method: &str, pairs: &[(&str, &str)]) -> Option<HeaderMap> {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        let request = pairs
            .iter()
            .fold(Request::builder().method(method), |request, (name, value)| request.header(*name, *value))
            .body(())
            .unwrap();
        let mut headers = HeaderMap::new();
        Cors::new(&origins)?.allow(&request)?.write(&mut headers);
        Some(headers)
    }

    #[test]
    fn origins_are_told_apart() {
        let both = ["http://a.example", "http://b.example"];
        let origin = |pairs: &[(&str, &str)]| {
            answer(&both, "POST", pairs).map(|headers| headers["access-control-allow-origin"].clone())
        };
        assert_eq!(origin(&[("origin", "http://b.example")]).unwrap(), "http://b.example");
        assert_eq!(origin(&[]).unwrap(), "http://a.example");
        assert_eq!(origin(&[("origin", "http://c.example")]), None);
        assert!(answer(&[], "POST", &[]).is_none());
        assert_eq!(answer(&["*"], "POST", &[]).unwrap()["access-control-allow-origin"], "*");
    }

    #[test]
    fn a_preflight_hears_of_what_is_offered() {
        let ask = |method: &str| {
            let pairs =
                [("access-control-request-method", method), ("access-control-request-headers", "x-a")];
            answer(&["http://a.example"], "OPTIONS", &pairs).unwrap()
        };
        assert_eq!(ask("POST")["access-control-allow-methods"], "GET, POST");
        assert_eq!(ask("POST")["access-control-allow-headers"], "x-a");
        assert!(!ask("PUT").contains_key("access-control-allow-methods"));
    }
}
