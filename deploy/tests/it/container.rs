//! Engines as they are used: a real one builds Dockerfiles, and gets images that were made here.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    collections::{BTreeSet, HashMap},
    env,
    path::Path,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt;
use moorline_core::ErrorClass;
use moorline_deploy::{
    Progress, Step,
    container::{BuildRequest, Engine, EngineHost},
    environment::{EnvironmentConfig, Environments},
    image::{Base, Compression, Image, ImageConfig, ImageRequest, Images},
    registry::{Registries, RegistryConfig},
};
use moorline_testkit::TestRelease;
use tempfile::TempDir;

use crate::place;

/// The Engine of the tests; says that a test is skipped where there is none.
async fn engine() -> Option<Engine> {
    let Some(host) = env::var_os("MOORLINE_TEST_DOCKER") else {
        place::skip("MOORLINE_TEST_DOCKER names no Engine, such as unix:///run/docker.sock");
        return None;
    };
    let host: EngineHost = host.to_str().unwrap().parse().unwrap();
    Some(Engine::connect(&host).await.unwrap())
}

/// A progress, and the lines and transfers that it was told.
fn told() -> (Progress, Arc<Mutex<Vec<String>>>) {
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = Arc::clone(&told);
    let progress = Progress::new(move |step| {
        let text = match step {
            Step::Line(line) => line.to_owned(),
            Step::Transfer { done, total, .. } if done == total => format!("{total} bytes"),
            Step::Transfer { .. } => return,
        };
        kept.lock().unwrap().push(text);
    });
    (progress, told)
}

fn request<'a>(context: &'a Path, tag: &'a str) -> BuildRequest<'a> {
    let labels = HashMap::from([("io.moorline.test".to_owned(), "build".to_owned())]);
    BuildRequest { context, dockerfile: "Dockerfile", tag, labels }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_says_what_it_is() {
    let Some(engine) = engine().await else { return };
    engine.ping().await.unwrap();
    let description = engine.describe().await.unwrap();
    assert!(["Docker", "Podman"].contains(&description.name.as_str()), "{description:?}");
    for part in [&description.version, &description.api, &description.storage, &description.cgroup] {
        assert!(!part.is_empty() && !part.contains("unknown"), "{description:?}");
    }
    assert!(description.platform.starts_with("linux/"), "{description:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_engine_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("engine.sock");
    let missing = Engine::connect(&EngineHost::Unix(path.clone())).await.unwrap_err();
    assert_eq!(missing.class(), ErrorClass::Unavailable);
    assert!(missing.to_string().contains("there is no such socket"), "{missing}");

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let left_over = Engine::connect(&EngineHost::Unix(path)).await.unwrap_err();
    assert!(left_over.to_string().contains("the socket is left over"), "{left_over}");

    let plain: EngineHost = "tcp://192.0.2.1:2375".parse().unwrap();
    let refused = Engine::connect(&plain).await.unwrap_err();
    assert_eq!(refused.class(), ErrorClass::InvalidInput);
    assert!(refused.to_string().contains("in the clear"), "{refused}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let other = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"SSH-2.0-other\r\n").await.unwrap();
    });
    let host = format!("tcp://{address}").parse().unwrap();
    let error = Engine::connect(&host).await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    other.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dockerfile_is_built_and_its_image_exported() {
    let Some(engine) = engine().await else { return };
    let context = tempfile::tempdir().unwrap();
    fs_err::write(context.path().join("Dockerfile"), "FROM scratch\nCOPY data /data\n").unwrap();
    fs_err::write(context.path().join("data"), "moored").unwrap();
    let (progress, told) = told();
    let id = engine.build(request(context.path(), "moorline.invalid/test/built:1"), &progress).await.unwrap();
    assert!(told.lock().unwrap().iter().any(|line| line.contains("COPY data /data")), "{told:?}");
    let mut archive = Vec::new();
    let mut chunks = std::pin::pin!(engine.export(&id));
    while let Some(chunk) = chunks.next().await {
        archive.extend_from_slice(&chunk.unwrap());
    }
    let names: BTreeSet<String> = tar::Archive::new(archive.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    assert!(names.contains("manifest.json"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_says_why() {
    let Some(engine) = engine().await else { return };
    let context = tempfile::tempdir().unwrap();
    let dockerfile = context.path().join("Dockerfile");
    fs_err::write(&dockerfile, "FROM scratch\nCOPY Dockerfile /a\nCOPY missing /b\n").unwrap();
    let (progress, _) = told();
    let tag = "moorline.invalid/test/failed:1";
    let error = engine.build(request(context.path(), tag), &progress).await.unwrap_err();
    assert!(error.to_string().contains("`Dockerfile` could not be built"), "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    assert!(error.log().iter().any(|line| line.contains("COPY missing /b")), "{:?}", error.log());
}

/// Images of the fixture's releases, with a small program in the place of the scorer: none of them is run.
struct Store {
    images: Images,
    registries: Registries,
    _dir: TempDir,
}

impl Store {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        let registries = Registries::new(RegistryConfig::default()).unwrap();
        let environments =
            EnvironmentConfig::new(home.join("environments"), home.join("tools"), place::environment());
        let config = ImageConfig {
            dir: home.join("images"),
            scorer: "/bin/true".into(),
            static_scorer: None,
            onnxruntime: None,
            other_platforms: [].into(),
            registries: registries.clone(),
            mirrored: Vec::new(),
            environments: Environments::open(environments).unwrap(),
        };
        Self { images: Images::open(config).await.unwrap(), registries, _dir: dir }
    }

    async fn build(&self, version: u32) -> Image {
        let release = TestRelease::double(version);
        let request = ImageRequest {
            release: &release.release,
            files: release.path(),
            environment: None,
            base: Some(Base::Scorer),
            compression: Compression::Gzip,
            name: "test/supplied",
            bitstream: None,
            model_mount_path: None,
            model_apart: false,
        };
        self.images.build(request, &Progress::none()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_never_pushed_is_loaded_and_its_layers_only_once() {
    let Some(engine) = engine().await else { return };
    let store = Store::new().await;
    let mut sent = Vec::new();
    // The versions differ in the last layers alone; a number of this run makes sure that the Engine has none of them.
    for version in [std::process::id() * 2, std::process::id() * 2 + 1] {
        let image = store.build(version).await;
        let (progress, told) = told();
        let supply = || engine.supply(&image.reference, &store.images, &store.registries, &progress);
        let id = supply().await.unwrap();
        let loaded: Vec<String> = told.lock().unwrap().drain(..).collect();
        // Podman cannot do without the layers that it has, and is sent all of them after a first try.
        let last = loaded.last().unwrap().trim_end_matches(" bytes");
        sent.push(last.parse::<u64>().unwrap());
        assert_eq!(supply().await.unwrap(), id, "it is there");
        assert!(told.lock().unwrap().is_empty(), "nothing is sent again: {told:?}");
    }
    // A layer that both have is sent with neither or with the first: the second is never the greater by much.
    assert!(sent[1] <= sent[0], "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_supplied_is_named() {
    let Some(engine) = engine().await else { return };
    let store = Store::new().await;
    let gone = format!("moorline.invalid/test/gone@sha256:{}", "0".repeat(64));
    // Nothing listens there.
    let nowhere = format!("127.0.0.1:9/test/gone@sha256:{}", "0".repeat(64));
    for (reference, class) in [(gone, ErrorClass::NotFound), (nowhere, ErrorClass::Unavailable)] {
        let supplied = engine.supply(&reference, &store.images, &store.registries, &Progress::none()).await;
        let error = supplied.unwrap_err();
        assert!(error.to_string().contains(&reference), "{error}");
        assert_eq!(error.class(), class, "{error}");
    }
}
