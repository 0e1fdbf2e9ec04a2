//! The web portal: the pages that `cargo xtask portal` built, as a part of the binary, and how they are sent.
//!
//! Every page is one document, which asks the API for what it shows; so these files hold nothing that anybody may not
//! see, and are sent without asking who wants them. Whatever a model, a log line or a device says is shown by a page that
//! runs no script but its own: [`POLICY`] is the second lock of that, beside the pages that show everything as text.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use moorline_core::Digest;

/// Below this the pages are; what is deeper is told by the page itself.
const PAGES: &str = "/w";
const PAGE: &str = "index.html";
/// Files with their content's hash in their names.
const HASHED: &str = "assets/";

/// What a page may do: scripts and styles from here, requests to here, and nothing in a frame of others.
pub const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Said at `/` where the portal was not built.
const ABSENT: &str = "the portal is not in this build: run `cargo xtask portal` (it needs npm), and build moorline \
                      again; the API is described at /api/openapi.json\n";

/// A file as it was built.
#[derive(Debug)]
struct Embedded {
    path: &'static str,
    plain: &'static [u8],
    /// Compressed with gzip, where that is smaller.
    small: Option<&'static [u8]>,
}

static EMBEDDED: &[Embedded] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// What a browser may ask whether it still has it.
static TAGS: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
    let tag = |file: &Embedded| format!("\"{}\"", &Digest::of(file.plain).hex()[..16]);
    let value = |tag: String| HeaderValue::from_str(&tag).expect("hexadecimal digits are a header's value");
    EMBEDDED.iter().map(|file| value(tag(file))).collect()
});

/// Whether the portal was there when this was built.
pub fn is_built() -> bool {
    find(EMBEDDED, PAGE).is_some()
}

/// The answer to a request that is for the portal; `None` where it is for something else.
pub fn answer(method: &Method, path: &str, headers: &HeaderMap) -> Option<Response<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return None;
    }
    let name = match path {
        "/" => PAGE,
        _ if path == PAGES || path.strip_prefix(PAGES).is_some_and(|rest| rest.starts_with('/')) => PAGE,
        _ => path.strip_prefix('/').filter(|name| name.starts_with(HASHED) || *name == "favicon.svg")?,
    };
    let mut response = match find(EMBEDDED, name) {
        Some(index) => send(&EMBEDDED[index], &TAGS[index], headers),
        None => absent(name),
    };
    if method == Method::HEAD {
        *response.body_mut() = Bytes::new();
    }
    Some(response)
}

fn find(files: &[Embedded], name: &str) -> Option<usize> {
    files.iter().position(|file| file.path == name)
}

fn send(file: &Embedded, tag: &HeaderValue, asked: &HeaderMap) -> Response<Bytes> {
    let kept = if file.path.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    let small = file.small.filter(|_| takes_gzip(asked));
    let body = small.unwrap_or(file.plain);
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::ETAG, tag.clone());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(kept));
    if file.small.is_some() {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    guard(headers);
    let known = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|tags| tags.split(','));
    if known.any(|known| known.trim().trim_start_matches("W/").as_bytes() == tag.as_bytes()) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type(file.path)));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if small.is_some() {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    *response.body_mut() = Bytes::from_static(body);
    response
}

fn absent(name: &str) -> Response<Bytes> {
    let text = if name == PAGE { ABSENT } else { "there is no such file in this build of the portal\n" };
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    guard(headers);
    response
}

fn guard(headers: &mut HeaderMap) {
    const SAME: HeaderValue = HeaderValue::from_static("same-origin");
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), SAME);
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), SAME);
}

fn takes_gzip(asked: &HeaderMap) -> bool {
    let offered = asked.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|all| all.split(','));
    offered.any(|one| {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let refused = weight.trim().strip_prefix("q=").is_some_and(|q| q.trim().parse() == Ok(0.0_f32));
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, end)| end) {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json") => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Embedded =
        Embedded { path: "assets/app-1a2b.js", plain: b"let a = 1;", small: Some(b"\x1f\x8bsmall") };

    fn asked(headers: &[(HeaderName, &'static str)]) -> HeaderMap {
        headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    fn get(path: &str) -> Option<Response<Bytes>> {
        answer(&Method::GET, path, &HeaderMap::new())
    }

    #[test]
    fn what_is_not_the_portals_is_left_to_others() {
        for path in ["/api/v1", "/endpoints/iris/score", "/metrics", "/web", "/assetsx/a", "/index.html", ""]
        {
            assert!(get(path).is_none(), "{path}");
        }
        assert!(answer(&Method::POST, "/", &HeaderMap::new()).is_none());
        for path in ["/", "/w", "/w/default/models/iris", "/assets/none.js"] {
            assert!(get(path).is_some(), "{path}");
        }
        assert_eq!(get("/assets/none.js").unwrap().status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_build_without_the_portal_says_how_to_get_it() {
        let page = get("/").unwrap();
        assert_eq!(page.status() == StatusCode::OK, is_built());
        let said = absent(PAGE);
        let text = std::str::from_utf8(said.body()).unwrap();
        assert!(text.contains("cargo xtask portal") && text.lines().count() == 1, "{text}");
        assert_eq!(page.headers()["content-security-policy"], POLICY);
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn a_file_is_sent_once_and_compressed_to_whoever_takes_it() {
        let tag = HeaderValue::from_static("\"abc\"");
        let plain = send(&FILE, &tag, &HeaderMap::new());
        assert_eq!((plain.status(), &plain.body()[..]), (StatusCode::OK, FILE.plain));
        assert_eq!(plain.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(plain.headers()["cache-control"], "public, max-age=31536000, immutable");
        assert_eq!(plain.headers()["x-content-type-options"], "nosniff");
        for (accepted, compressed) in
            [("gzip, deflate, br", true), ("br;q=1, GZIP;q=0.5", true), ("gzip;q=0", false), ("br", false)]
        {
            let sent = send(&FILE, &tag, &asked(&[(header::ACCEPT_ENCODING, accepted)]));
            assert_eq!(sent.headers().contains_key("content-encoding"), compressed, "{accepted}");
            assert_eq!(&sent.body()[..] == FILE.small.unwrap(), compressed, "{accepted}");
            assert_eq!(sent.headers()["content-length"], sent.body().len().to_string().as_str());
        }
        for (known, same) in [("\"abc\"", true), ("\"x\", W/\"abc\"", true), ("\"x\"", false)] {
            let sent = send(&FILE, &tag, &asked(&[(header::IF_NONE_MATCH, known)]));
            assert_eq!(sent.status() == StatusCode::NOT_MODIFIED, same, "{known}");
            assert_eq!(sent.body().is_empty(), same, "{known}");
        }
        let page = Embedded { path: PAGE, plain: b"<p>", small: None };
        assert_eq!(send(&page, &tag, &HeaderMap::new()).headers()["cache-control"], "no-cache");
    }
}
