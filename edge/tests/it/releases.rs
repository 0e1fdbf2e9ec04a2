//! Releases that are fetched from a server that cuts, lies and counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{self, State},
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::StreamExt as _;
use http::{HeaderMap, StatusCode, header};
use moorline_core::{Digest, FileEntry, ModelType, Name, Release, ReleaseModel};
use moorline_edge::releases::{Releases, ReleasesConfig, ReleasesError};

use crate::place::soon;

/// What the server has, and what it does wrong.
#[derive(Default)]
struct Server {
    blobs: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Each answer ends after so many bytes.
    cut: AtomicUsize,
    /// Bytes that were sent of each blob.
    sent: Mutex<BTreeMap<String, usize>>,
    no_ranges: std::sync::atomic::AtomicBool,
}

async fn blob(
    State(server): State<Arc<Server>>,
    extract::Path(digest): extract::Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = server.blobs.lock().unwrap().get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let from =
        headers.get(header::RANGE).filter(|_| !server.no_ranges.load(Ordering::Relaxed)).and_then(|range| {
            range.to_str().ok()?.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        });
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let rest = &bytes[from.unwrap_or(0).min(bytes.len())..];
    let cut = rest.len().min(server.cut.load(Ordering::Relaxed));
    *server.sent.lock().unwrap().entry(digest).or_default() += cut;
    let sent = Bytes::copy_from_slice(&rest[..cut]);
    let broken = cut < rest.len();
    let first = futures_util::stream::once(async move { Ok(sent) });
    let then = futures_util::stream::iter(broken.then_some(())).then(|()| async {
        // So that what came before is on its way.
        tokio::task::yield_now().await;
        Err(std::io::Error::other("cut"))
    });
    (status, Body::from_stream(first.chain(then))).into_response()
}

struct Place {
    server: Arc<Server>,
    config: ReleasesConfig,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn start() -> Self {
        let server = Arc::new(Server { cut: usize::MAX.into(), ..Server::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}/blobs", listener.local_addr().unwrap()).parse().unwrap();
        let router = Router::new().route("/blobs/{digest}", get(blob)).with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let config = ReleasesConfig {
            folder: folder.path().to_owned(),
            base,
            quota: 10_000_000,
            bandwidth: None,
            stall: Duration::from_secs(10),
        };
        Self { server, config, _folder: folder }
    }

    fn open(&self) -> Releases {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Releases::open(self.config.clone(), reqwest::Client::new()).unwrap()
    }

    /// Gives the server a release of these files; gives its digest and size.
    fn release(&self, files: &[(&str, &[u8])]) -> (Digest, u64) {
        let entries = files.iter().map(|(path, bytes)| {
            self.server.blobs.lock().unwrap().insert(Digest::of(bytes).to_string(), bytes.to_vec());
            FileEntry { path: (*path).to_owned(), size: bytes.len() as u64, sha256: Digest::of(bytes) }
        });
        let name: Name = "m".parse().unwrap();
        let model = ReleaseModel {
            name: name.clone(),
            version: "1".to_owned(),
            model_type: ModelType::Onnx,
            files: entries.collect(),
        };
        let release = Release {
            format: Release::FORMAT,
            name,
            model: Some(model),
            code: None,
            environment: None,
            environment_variables: BTreeMap::new(),
            request_settings: moorline_core::RequestSettings::default(),
            engine: moorline_core::EngineSettings::default(),
            batching: None,
            image: None,
            collection: None,
        };
        let json = release.to_json();
        self.server.blobs.lock().unwrap().insert(release.digest().to_string(), json.clone().into_bytes());
        (release.digest(), json.len() as u64)
    }

    fn sent(&self, bytes: &[u8]) -> usize {
        self.server.sent.lock().unwrap().get(&Digest::of(bytes).to_string()).copied().unwrap_or(0)
    }
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs_err::read(folder.join("model").join(name)).unwrap()
}

#[tokio::test]
async fn a_fetch_goes_on_where_it_broke_off_and_only_what_changed_is_fetched() {
    let place = Place::start().await;
    let (weights, first, second) = (vec![7; 200_000], b"first".to_vec(), b"second".to_vec());
    let one = place.release(&[("weights.bin", &weights), ("sub/model.onnx", &first)]);
    let two = place.release(&[("weights.bin", &weights), ("sub/model.onnx", &second)]);
    place.server.cut.store(30_000, Ordering::Relaxed);
    let releases = place.open();
    let folder = soon(releases.fetch(&one.0, one.1)).await.unwrap();
    assert_eq!(read(&folder, "weights.bin"), weights);
    assert_eq!(read(&folder, "sub/model.onnx"), first);
    assert_eq!(place.sent(&weights), weights.len(), "no byte was sent twice");
    assert!(releases.is_sound(&one.0).unwrap());
    let folder = soon(releases.fetch(&two.0, two.1)).await.unwrap();
    assert_eq!(read(&folder, "sub/model.onnx"), second);
    assert_eq!(place.sent(&weights), weights.len());
    // It is there: nothing is asked for, and the server may be gone.
    place.server.blobs.lock().unwrap().clear();
    soon(place.open().fetch(&two.0, two.1)).await.unwrap();

    // What no release needs goes; what two need stays.
    let freed = releases.collect(&BTreeSet::from([two.0])).unwrap();
    assert_eq!(freed, one.1 + first.len() as u64);
    assert!(releases.folder(&one.0).is_none());
    assert!(releases.is_sound(&two.0).unwrap());
    releases.collect(&BTreeSet::new()).unwrap();
    assert_eq!(releases.used().unwrap(), 0);
}

#[tokio::test]
async fn a_server_without_ranges_sends_all_of_it_again() {
    let place = Place::start().await;
    let weights = vec![9; 50_000];
    let (digest, size) = place.release(&[("w", &weights)]);
    let releases = place.open();
    // As a fetch before the power went.
    fs_err::write(place.config.folder.join("partial").join(Digest::of(&weights).hex()), &weights[..10_000])
        .unwrap();
    place.server.no_ranges.store(true, Ordering::Relaxed);
    let folder = soon(releases.fetch(&digest, size)).await.unwrap();
    assert_eq!(read(&folder, "w"), weights);
    assert_eq!(place.sent(&weights), weights.len());
}

#[tokio::test]
async fn what_is_not_what_it_should_be_is_refused() {
    let place = Place::start().await;
    let weights = vec![1; 1000];
    let (digest, size) = place.release(&[("w", &weights)]);
    let name = Digest::of(&weights).to_string();
    let releases = place.open();
    for wrong in [vec![2; 1000], vec![1; 5000]] {
        place.server.blobs.lock().unwrap().insert(name.clone(), wrong);
        let error = soon(releases.fetch(&digest, size)).await.unwrap_err();
        assert!(matches!(error, ReleasesError::Damaged(_)), "{error:?}");
        assert!(releases.folder(&digest).is_none());
    }
    place.server.blobs.lock().unwrap().remove(&name);
    let error = soon(releases.fetch(&digest, size)).await.unwrap_err();
    assert!(matches!(error, ReleasesError::Status { status: 404, .. }), "{error:?}");
    place.server.blobs.lock().unwrap().insert(name, weights.clone());
    let folder = soon(releases.fetch(&digest, size)).await.unwrap();

    // A disk that went bad is noticed, and the release is fetched again.
    let path = folder.join("model/w");
    let mut permissions = fs_err::metadata(&path).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a file of this test's own folder")]
    permissions.set_readonly(false);
    fs_err::set_permissions(&path, permissions).unwrap();
    fs_err::write(&path, vec![3; 1000]).unwrap();
    assert!(!releases.is_sound(&digest).unwrap());
    releases.forget(&digest).unwrap();
    soon(releases.fetch(&digest, size)).await.unwrap();
    assert!(releases.is_sound(&digest).unwrap());
    // No release at all.
    place.server.blobs.lock().unwrap().insert(Digest::of(b"{}").to_string(), b"{}".to_vec());
    let error = soon(releases.fetch(&Digest::of(b"{}"), 2)).await.unwrap_err();
    assert!(matches!(error, ReleasesError::Release(..)), "{error:?}");
}

#[tokio::test]
async fn the_quota_is_kept_before_anything_is_fetched() {
    let mut place = Place::start().await;
    place.config.quota = 20_000;
    let (small, large) = (vec![1; 12_000], vec![2; 12_000]);
    let one = place.release(&[("w", &small)]);
    let two = place.release(&[("w", &large)]);
    let releases = place.open();
    soon(releases.fetch(&one.0, one.1)).await.unwrap();
    let error = soon(releases.fetch(&two.0, two.1)).await.unwrap_err();
    assert!(matches!(error, ReleasesError::Quota { needed: 12_000, .. }), "{error:?}");
    assert_eq!(place.sent(&large), 0);
    releases.collect(&BTreeSet::new()).unwrap();
    soon(releases.fetch(&two.0, two.1)).await.unwrap();
    assert!(releases.used().unwrap() <= 20_000);
}
