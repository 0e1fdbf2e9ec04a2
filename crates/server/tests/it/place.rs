//! A home, a server on it, and a client of that server.

use std::{
    collections::BTreeMap, future::pending, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path,
    time::Duration,
};

use moorline_core::{Digest, Name};
use moorline_server::{Bounds, Observation, Running, Server, ServerConfig, StartError};
use moorline_store::StoreConfig;
use reqwest::{Method, RequestBuilder, Response, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        if self.text.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem of a refusal: its whole shape is checked.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, class: &str) -> Value {
        let problem = self.expect(status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["class"], class, "{problem}");
        assert_eq!(problem["type"], format!("urn:moorline:problem:{class}"));
        assert_eq!(problem["request_id"].as_str().unwrap(), self.headers["x-request-id"].to_str().unwrap());
        assert!(!problem["title"].as_str().unwrap().is_empty());
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no `{name}` in {self:?}")).to_str().unwrap()
    }
}

/// A running server and its home.
pub(crate) struct Place {
    running: Option<Running>,
    client: reqwest::Client,
    home: TempDir,
    base: String,
}

/// The settings of a server on this home, which answers on a port that is free.
pub(crate) fn config(home: &Path) -> ServerConfig {
    let scorer = home.join("scorer");
    if !scorer.exists() {
        fs_err::create_dir_all(home).unwrap();
        fs_err::write(&scorer, "#!/bin/sh\necho 'there is no model on this machine' >&2\nexit 1\n").unwrap();
        fs_err::set_permissions(&scorer, PermissionsExt::from_mode(0o755)).unwrap();
    }
    ServerConfig {
        program: std::env::current_exe().unwrap(),
        home: home.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        store: StoreConfig::in_folder(home),
        scorer,
        static_scorer: None,
        other_scorers: BTreeMap::new(),
        onnxruntime: None,
        uv: None,
        environment: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        default_workspace: name("default"),
        public_url: None,
        owner_token: None,
        leader_election: None,
        hub: None,
        pages: None,
        observation: Observation::default(),
        bounds: Bounds::default(),
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Place {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServerConfig)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut settings = config(home.path());
        change(&mut settings);
        Self::on(home, settings).await
    }

    pub(crate) async fn on(home: TempDir, settings: ServerConfig) -> Self {
        let running = Server::start(settings).await.unwrap();
        let base = format!("http://127.0.0.1:{}", running.address().port());
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { running: Some(running), client, home, base }
    }

    /// Ends the server, and starts another one on the same home.
    pub(crate) async fn restart(&mut self) {
        self.running.take().unwrap().stop(false, pending()).await;
        let running = Server::start(config(self.home.path())).await.unwrap();
        self.base = format!("http://127.0.0.1:{}", running.address().port());
        self.running = Some(running);
    }

    pub(crate) async fn stop(mut self) -> TempDir {
        self.running.take().unwrap().stop(false, pending()).await;
        self.home
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.running.as_ref().unwrap().address()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) async fn second(&self) -> StartError {
        Server::start(config(self.home.path())).await.unwrap_err()
    }

    /// A request to a path of the API; one that begins with `/` is from the server's root, any other in the workspace
    /// `default`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let path = match path.strip_prefix('/') {
            Some(path) => format!("{}/{path}", self.base),
            None => format!("{}/api/v1/workspaces/default/{path}", self.base),
        };
        self.client.request(method, path)
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PUT, path).json(&body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::POST, path).json(&body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        send(self.request(Method::PATCH, path).json(&body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Uploads a blob in one part; its entry in a list of files.
    pub(crate) async fn upload(&self, path: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        let request = self
            .request(Method::PATCH, &format!("blobs/{digest}?size={}", content.len()))
            .header("upload-offset", 0)
            .body(content.to_vec());
        send(request).await.expect(201);
        json!({ "path": path, "size": content.len(), "sha256": digest })
    }

    /// Registers a model of one file.
    pub(crate) async fn model(&self, name: &str) -> Value {
        let file = self.upload("model.onnx", name.as_bytes()).await;
        self.post(&format!("models/{name}/versions"), json!({ "files": [file] })).await.expect(201)
    }

    /// Asks until the answer is as it should be.
    pub(crate) async fn until(&self, path: &str, done: impl Fn(&Answer) -> bool) -> Answer {
        let ask = async {
            loop {
                let answer = self.get(path).await;
                if done(&answer) {
                    return answer;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| panic!("{path} did not become what it should"))
    }

    /// The operation that an answer names, when it has ended.
    pub(crate) async fn ended(&self, answer: &Answer) -> Value {
        let path = answer.header("operation-location").to_owned();
        self.until(&path, |answer| answer.json()["state"] != "Running").await.json()
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Answer {
    read(request.send().await.unwrap()).await
}

pub(crate) async fn read(response: Response) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, text: response.text().await.unwrap() }
}

/// The names of a list.
#[track_caller]
pub(crate) fn names(list: &Value) -> Vec<&str> {
    list["value"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}
