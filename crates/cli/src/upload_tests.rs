//! Uploads against a server that forgets, refuses and hangs up.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::HeaderName},
    response::IntoResponse,
    routing::patch,
    serve::Listener,
};
use moorline_core::Digest;
use tokio::net::{TcpListener, TcpStream};

use super::*;

const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");

/// What a server of blobs remembers.
#[derive(Clone, Debug, Default)]
struct Shelf(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    parts: HashMap<String, Vec<u8>>,
    done: Vec<String>,
    /// Offsets at which pieces arrived.
    pieces: Vec<u64>,
    /// Answers that are given instead of taking a piece, last first.
    refusals: Vec<StatusCode>,
    /// The next piece is taken, and refused all the same, as when the answer is lost on its way.
    lose_an_answer: bool,
}

type Answer = (StatusCode, [(HeaderName, String); 1]);

async fn look(State(shelf): State<Shelf>, Path((_, digest)): Path<(String, String)>) -> Answer {
    let content = shelf.0.lock().unwrap();
    let status = if content.done.contains(&digest) { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let offset = content.parts.get(&digest).map_or(0, Vec::len);
    (status, [(UPLOAD_OFFSET, offset.to_string())])
}

async fn append(
    State(shelf): State<Shelf>,
    Path((_, digest)): Path<(String, String)>,
    headers: HeaderMap,
    uri: axum::http::Uri,
    body: Bytes,
) -> impl IntoResponse {
    let size: usize = uri.query().unwrap().strip_prefix("size=").unwrap().parse().unwrap();
    let offset: u64 = headers[UPLOAD_OFFSET].to_str().unwrap().parse().unwrap();
    let mut content = shelf.0.lock().unwrap();
    if let Some(status) = content.refusals.pop() {
        return (status, [(UPLOAD_OFFSET, "0".to_owned())]);
    }
    content.pieces.push(offset);
    let part = content.parts.entry(digest.clone()).or_default();
    if offset != part.len() as u64 {
        return (StatusCode::CONFLICT, [(UPLOAD_OFFSET, part.len().to_string())]);
    }
    part.extend_from_slice(&body);
    let reached = part.len();
    let status = if reached == size {
        assert_eq!(Digest::of(part).to_string(), digest);
        content.done.push(digest);
        StatusCode::CREATED
    } else {
        StatusCode::NO_CONTENT
    };
    let status = if std::mem::take(&mut content.lose_an_answer) { StatusCode::BAD_GATEWAY } else { status };
    (status, [(UPLOAD_OFFSET, reached.to_string())])
}

/// Hangs up on the first connections.
struct Hasty {
    inner: TcpListener,
    hang_up: usize,
}

impl Listener for Hasty {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.inner.accept().await.unwrap();
            if self.hang_up == 0 {
                return (stream, address);
            }
            self.hang_up -= 1;
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

async fn server(shelf: &Shelf, hang_up: usize) -> Client {
    crate::install_crypto();
    let router = Router::new()
        .route("/api/v1/workspaces/{workspace}/blobs/{digest}", patch(append).head(look))
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(shelf.clone());
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = inner.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(Hasty { inner, hang_up }, router).await });
    Client::new(&address.to_string(), "default", None).unwrap()
}

fn sources(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Vec<Source>) {
    let dir = tempfile::tempdir().unwrap();
    let sources = files
        .iter()
        .map(|(name, content)| {
            fs_err::write(dir.path().join(name), content).unwrap();
            Source { from: dir.path().join(name), path: (*name).to_owned() }
        })
        .collect();
    (dir, sources)
}

async fn upload(client: &Client, sources: Vec<Source>) -> anyhow::Result<Vec<FileEntry>> {
    store(client, &Screen::new(true, true), "test", sources).await
}

#[tokio::test]
async fn what_is_missing_is_sent_and_what_is_there_twice_is_sent_once() {
    let shelf = Shelf::default();
    let there = Digest::of(b"there").to_string();
    shelf.0.lock().unwrap().done.push(there);
    let client = server(&shelf, 0).await;
    let (_dir, sources) =
        sources(&[("a", b"twice"), ("b", b"there"), ("c", b"twice"), ("d", b""), ("e", b"once")]);
    let entries = upload(&client, sources).await.unwrap();
    let paths: Vec<&str> = entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["a", "b", "c", "d", "e"]);
    assert_eq!(entries[0].sha256, Digest::of(b"twice"));
    assert_eq!(entries[3].size, 0);
    let content = shelf.0.lock().unwrap();
    assert_eq!(content.done.len(), 4);
    assert_eq!(content.pieces, [0, 0, 0]);
}

#[tokio::test]
async fn an_upload_goes_on_where_an_earlier_one_ended() {
    let shelf = Shelf::default();
    let digest = Digest::of(b"half of it").to_string();
    shelf.0.lock().unwrap().parts.insert(digest.clone(), b"half".to_vec());
    let client = server(&shelf, 0).await;
    let (_dir, sources) = sources(&[("a", b"half of it")]);
    upload(&client, sources).await.unwrap();
    let content = shelf.0.lock().unwrap();
    assert_eq!(content.pieces, [4]);
    assert_eq!(content.done, [digest]);
}

#[tokio::test]
async fn large_files_go_in_pieces_and_a_lost_answer_costs_none() {
    let shelf = Shelf::default();
    shelf.0.lock().unwrap().lose_an_answer = true;
    let client = server(&shelf, 0).await;
    let large: Vec<u8> = (0..PIECE * 2 + 5).map(|i| i as u8).collect();
    let (_dir, sources) = sources(&[("large", &large)]);
    upload(&client, sources).await.unwrap();
    let content = shelf.0.lock().unwrap();
    assert_eq!(content.pieces, [0, PIECE, PIECE * 2]);
    assert_eq!(content.done.len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_up_or_is_busy_is_asked_again() {
    let shelf = Shelf::default();
    shelf.0.lock().unwrap().refusals = vec![StatusCode::SERVICE_UNAVAILABLE, StatusCode::BAD_GATEWAY];
    let client = server(&shelf, 0).await;
    let (_dir, few) = sources(&[("a", b"a")]);
    upload(&client, few).await.unwrap();
    assert_eq!(shelf.0.lock().unwrap().done.len(), 1);

    let client = server(&shelf, 1).await;
    let (_dir, few) = sources(&[("b", b"b")]);
    upload(&client, few).await.unwrap();
    assert_eq!(shelf.0.lock().unwrap().done.len(), 2);
}

#[tokio::test]
async fn a_refusal_that_will_not_pass_is_told_at_once() {
    let shelf = Shelf::default();
    shelf.0.lock().unwrap().refusals = vec![StatusCode::PAYLOAD_TOO_LARGE];
    let client = server(&shelf, 0).await;
    let (_dir, few) = sources(&[("a", b"a")]);
    let error = upload(&client, few).await.unwrap_err();
    assert!(format!("{error:#}").contains("could not upload"), "{error:#}");
    assert_eq!(client::status_of(&error), Some(StatusCode::PAYLOAD_TOO_LARGE));
}
