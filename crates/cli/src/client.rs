//! The server's REST API as this program calls it: addresses, the token, answers, and refusals turned into words.

use std::{fmt::Write, net::IpAddr, time::Duration};

use anyhow::{Context, bail};
use moorline_core::Secret;
use reqwest::{
    Method, RequestBuilder, Response, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, IF_NONE_MATCH},
};
use serde_json::Value;

use crate::exit::Explained;

/// From a request to the beginning of its answer. Whatever takes longer is an operation or a stream.
const PATIENCE: Duration = Duration::from_mins(2);
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Waits before a connection that could not be made is tried again.
const CONNECT_AGAIN: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(400), Duration::from_millis(1600)];
/// Of an answer that is no JSON, the part that is worth showing.
const SHOWN: usize = 2000;

/// One server, and the workspace in it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: Url,
    workspace: String,
    authorization: Option<HeaderValue>,
}

/// What the server answered to a request that it took.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// Whether a write may meet something that is there already.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Precondition {
    Any,
    /// Only if it does not exist.
    Absent,
}

impl Client {
    pub(crate) fn new(server: &str, workspace: &str, token: Option<&Secret>) -> anyhow::Result<Self> {
        let text = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let server =
            text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        let Some(server) = server else {
            return Err(Explained::usage(format!("`{text}` is not the address of a server"))
                .hint("it looks like http://127.0.0.1:7440; see --server and MOORLINE_SERVER")
                .into());
        };
        let authorization = token
            .map(|token| {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .context("the value of MOORLINE_TOKEN cannot be a token")?;
                value.set_sensitive(true);
                Ok::<_, anyhow::Error>(value)
            })
            .transpose()?;
        let mut http = reqwest::Client::builder();
        if is_here(&server) {
            // A proxy leads to other machines.
            http = http.no_proxy();
        }
        let http = http
            .connect_timeout(CONNECT_PATIENCE)
            .user_agent(concat!("moorline/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("could not set up the HTTP client")?;
        Ok(Self { http, server, workspace: workspace.to_owned(), authorization })
    }

    pub(crate) fn workspace(&self) -> &str {
        &self.workspace
    }

    /// An address of the server itself. Every part is escaped; none can lead elsewhere, because names and versions are
    /// checked where they are given.
    pub(crate) fn root(&self, parts: &[&str]) -> Url {
        let mut url = self.server.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["api", "v1"]).extend(parts);
        }
        url
    }

    /// An address within the workspace.
    pub(crate) fn at(&self, parts: &[&str]) -> Url {
        let mut all = vec!["workspaces", self.workspace.as_str()];
        all.extend(parts);
        self.root(&all)
    }

    /// An address that the server gave, as `operation-location`.
    pub(crate) fn given(&self, location: &str) -> anyhow::Result<Url> {
        self.server
            .join(location)
            .with_context(|| format!("the server gave `{location}`, which is no address"))
    }

    pub(crate) async fn get(&self, url: Url) -> anyhow::Result<Value> {
        Ok(self.call(Method::GET, url, None, Precondition::Any).await?.body)
    }

    /// As [`Self::get`], `None` where there is no such thing.
    pub(crate) async fn find(&self, url: Url) -> anyhow::Result<Option<Value>> {
        match self.get(url).await {
            Err(error) if status_of(&error) == Some(StatusCode::NOT_FOUND) => Ok(None),
            result => result.map(Some),
        }
    }

    /// Every item of a list that comes in pages, or the first `limit` of them.
    pub(crate) async fn list(&self, url: Url, limit: Option<usize>) -> anyhow::Result<Vec<Value>> {
        const PAGE: usize = 500;
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut url = url.clone();
            let page = limit.map_or(PAGE, |limit| (limit - items.len()).min(PAGE));
            url.query_pairs_mut().append_pair("limit", &page.to_string());
            if let Some(after) = &after {
                url.query_pairs_mut().append_pair("after", after);
            }
            let body = self.get(url).await?;
            let (found, next) = page_of(body)?;
            items.extend(found);
            after = next;
            if after.is_none() || limit.is_some_and(|limit| items.len() >= limit) {
                items.truncate(limit.unwrap_or(usize::MAX));
                return Ok(items);
            }
        }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
        precondition: Precondition,
    ) -> anyhow::Result<Reply> {
        let mut request = self.request(method, url).timeout(PATIENCE);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Precondition::Absent = precondition {
            request = request.header(IF_NONE_MATCH, "*");
        }
        let response = self.send(request).await?;
        let headers = response.headers().clone();
        let bytes = response.bytes().await.context("the server's answer broke off")?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).context("the server's answer is not JSON")?
        };
        Ok(Reply { headers, body })
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.http.request(method, url);
        match &self.authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    /// A request to what is not the API: without the token, which is not for others to see.
    pub(crate) fn foreign_request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends, tries again where no connection could be made, and turns refusals into errors.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = self.send_raw(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) }
    }

    /// As [`Self::send`], with whatever the answer is.
    pub(crate) async fn send_raw(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let mut waits = CONNECT_AGAIN.iter();
        loop {
            let Some(this) = request.try_clone() else {
                return request.send().await.map_err(|error| self.unreachable(error));
            };
            let error = match this.send().await {
                Ok(response) => {
                    tracing::info!(url = %response.url(), status = response.status().as_u16(), "answered");
                    return Ok(response);
                }
                Err(error) => error,
            };
            match waits.next() {
                Some(wait) if error.is_connect() => {
                    tracing::debug!(%error, "no connection, trying again");
                    tokio::time::sleep(*wait).await;
                }
                _ => return Err(self.unreachable(error)),
            }
        }
    }

    pub(crate) fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let connect = error.is_connect();
        let timeout = error.is_timeout();
        let error = anyhow::Error::from(error.without_url());
        if connect {
            let explained = Explained::new(format!("could not reach the server at {}", self.server))
                .hint("is it running? `moorline up` runs one; see also --server and MOORLINE_SERVER");
            error.context(explained)
        } else if timeout {
            error.context(format!("the server at {} did not answer in time", self.server))
        } else {
            error.context(format!("the connection to the server at {} failed", self.server))
        }
    }
}

/// Whether the address is one of this machine alone.
fn is_here(server: &Url) -> bool {
    match server.host_str() {
        Some("localhost") => true,
        Some(host) => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        None => false,
    }
}

/// A list is an array, or an object with the items in `value` and where to go on in `next`.
fn page_of(body: Value) -> anyhow::Result<(Vec<Value>, Option<String>)> {
    match body {
        Value::Array(items) => Ok((items, None)),
        Value::Object(mut page) => {
            let next = page.get("next").and_then(Value::as_str).map(ToOwned::to_owned);
            match page.remove("value") {
                Some(Value::Array(items)) => Ok((items, next)),
                _ => bail!("the server's answer is not a list"),
            }
        }
        _ => bail!("the server's answer is not a list"),
    }
}

/// The status with which the server refused, if that is what the error is.
pub(crate) fn status_of(error: &anyhow::Error) -> Option<StatusCode> {
    let explained = error.chain().filter_map(|cause| cause.downcast_ref::<Explained>());
    explained.filter_map(|explained| explained.status).find_map(|status| StatusCode::from_u16(status).ok())
}

/// The error that an answer is.
pub(crate) async fn refusal(response: Response) -> anyhow::Error {
    let status = response.status();
    let json = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("json"));
    let text = response.text().await.unwrap_or_default();
    let problem = if json { serde_json::from_str(&text).ok() } else { None };
    Explained { status: Some(status.as_u16()), ..explained(status, problem.as_ref(), &text) }.into()
}

/// A problem document in words.
fn explained(status: StatusCode, problem: Option<&Value>, text: &str) -> Explained {
    let member = |name: &str| problem.and_then(|problem| problem.get(name)).and_then(Value::as_str);
    let message = match member("detail").or(member("title")) {
        Some(message) => message.to_owned(),
        None if text.trim().is_empty() => format!("the server refused ({status})"),
        None => {
            format!("the server refused ({status}): {}", text.trim().chars().take(SHOWN).collect::<String>())
        }
    };
    let mut explained = Explained::new(message);
    let diagnostics = problem.and_then(|problem| problem.get("diagnostics")).and_then(Value::as_array);
    for diagnostic in diagnostics.into_iter().flatten() {
        let line = diagnostic_line(diagnostic);
        // The detail may say them all already.
        if !explained.message.contains(&line) {
            explained = explained.detail(line);
        }
    }
    if let Some(hint) = member("hint") {
        explained = explained.hint(hint);
    }
    if status == StatusCode::UNAUTHORIZED && member("hint").is_none() {
        explained = explained
            .hint("put a token into MOORLINE_TOKEN; `moorline token create` on the server makes one");
    }
    if status.is_server_error()
        && let Some(id) = member("request_id")
    {
        explained = explained.detail(format!("request id: {id}"));
    }
    explained
}

/// One thing that is wrong with a document, in a line.
fn diagnostic_line(diagnostic: &Value) -> String {
    let text = |name: &str| diagnostic.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(message) = text("message") else {
        return diagnostic.as_str().map_or_else(|| diagnostic.to_string(), ToOwned::to_owned);
    };
    let mut line = String::new();
    if let Some(path) = text("key") {
        // Writing to a string cannot fail.
        let _ = write!(line, "{path}: ");
    }
    line.push_str(message);
    if let Some(expected) = text("expected") {
        let _ = write!(line, "; expected {expected}");
    }
    if let Some(hint) = text("hint") {
        let _ = write!(line, "; {hint}");
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn client() -> Client {
        crate::install_crypto();
        Client::new("127.0.0.1:7440", "default", None).unwrap()
    }

    #[test]
    fn addresses_are_built_from_escaped_parts() {
        let url = client().at(&["models", "a b", "versions", "1/2?x"]);
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:7440/api/v1/workspaces/default/models/a%20b/versions/1%2F2%3Fx"
        );
        assert_eq!(client().root(&["tokens"]).as_str(), "http://127.0.0.1:7440/api/v1/tokens");
    }

    #[test]
    fn what_is_no_address_is_a_mistake_of_the_command_line() {
        for bad in ["", "ftp://host", "http://"] {
            let error = Client::new(bad, "default", None).unwrap_err();
            assert_eq!(error.downcast_ref::<Explained>().unwrap().code, crate::exit::USAGE, "{bad}");
        }
    }

    #[test]
    fn a_problem_becomes_words_a_person_can_use() {
        let problem = json!({
            "title": "Conflict", "detail": "the endpoint `iris` exists", "hint": "choose another name",
            "diagnostics": [{"key": "traffic", "message": "sums to 110", "expected": "at most 100"}],
        });
        let explained = explained(StatusCode::CONFLICT, Some(&problem), "");
        assert_eq!(explained.message, "the endpoint `iris` exists");
        assert_eq!(explained.details, ["traffic: sums to 110; expected at most 100"]);
        assert_eq!(explained.hints, ["choose another name"]);
    }

    #[test]
    fn lists_come_plain_or_in_pages() {
        assert_eq!(page_of(json!([1, 2])).unwrap(), (vec![json!(1), json!(2)], None));
        assert_eq!(
            page_of(json!({"value": [1], "next": "a"})).unwrap(),
            (vec![json!(1)], Some("a".to_owned()))
        );
        assert!(page_of(json!({"name": "x"})).is_err());
    }
}
