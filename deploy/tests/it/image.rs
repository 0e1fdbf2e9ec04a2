//! Images as they are used: built from real files, and looked at with tools that are not ours.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod bases;
mod crash;
mod loaded;

use std::{
    collections::HashSet,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

use moorline_core::{
    Digest, Environment, ErrorClass, FileEntry, InferenceConfig, ModelType, Release, ReleaseCode,
    ReleaseModel, Route,
};
use moorline_deploy::{
    Progress,
    environment::{EnvironmentConfig, Environments},
    image::{Base, Compression, Image, ImageConfig, ImageError, ImageRequest, Images, LayerKind},
    registry::{Registries, RegistryConfig},
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::place;

/// A small program that loads libraries, in the place of a scorer.
const PROGRAM: &str = "/bin/true";

struct Place {
    dir: TempDir,
    images: Images,
    release: Release,
}

impl Place {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(set: impl FnOnce(&mut ImageConfig)) -> Self {
        Self::with_uv(None, set).await
    }

    async fn with_uv(uv: impl Into<Option<PathBuf>>, set: impl FnOnce(&mut ImageConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned();
        let mut environments =
            EnvironmentConfig::new(home.join("environments"), home.join("tools"), place::environment());
        environments.uv = uv.into();
        let mut config = ImageConfig {
            dir: home.join("images"),
            scorer: PROGRAM.into(),
            static_scorer: None,
            onnxruntime: None,
            other_platforms: [].into(),
            registries: Registries::new(RegistryConfig::default()).unwrap(),
            mirrored: Vec::new(),
            environments: Environments::open(environments).unwrap(),
        };
        set(&mut config);
        let images = Images::open(config).await.unwrap();
        let mut place = Self { release: release(), images, dir };
        place.model(b"weights");
        place
    }

    fn files(&self) -> PathBuf {
        self.dir.path().join("release")
    }

    fn write(&self, path: &str, content: &[u8]) -> FileEntry {
        let (folder, name) = path.split_once('/').unwrap();
        let file = self.files().join(path);
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(file, content).unwrap();
        assert!(!folder.is_empty());
        FileEntry { path: name.to_owned(), size: content.len() as u64, sha256: Digest::of(content) }
    }

    fn model(&mut self, content: &[u8]) {
        let files =
            vec![self.write("model/deep/model.onnx", content), self.write("model/notes.txt", b"notes")];
        let model = ReleaseModel {
            name: "iris".parse().unwrap(),
            version: "3".to_owned(),
            model_type: ModelType::Onnx,
            files,
        };
        self.release.model = Some(model);
    }

    fn code(&mut self, content: &[u8]) {
        let files = vec![self.write("code/score.py", content)];
        self.release.code = Some(ReleaseCode { scoring_script: "score.py".to_owned(), files });
    }

    async fn build(&self, base: Option<Base>) -> Result<Image, ImageError> {
        self.build_with(base, None, Compression::Gzip).await
    }

    async fn build_with(
        &self,
        base: Option<Base>,
        environment: Option<&Environment>,
        compression: Compression,
    ) -> Result<Image, ImageError> {
        let files = self.files();
        let request = ImageRequest {
            release: &self.release,
            files: &files,
            environment,
            base,
            compression,
            name: "default/iris",
            bitstream: None,
            model_mount_path: None,
            model_apart: false,
        };
        self.images.build(request, &Progress::none()).await
    }

    fn blobs(&self) -> usize {
        fs_err::read_dir(self.images.layout().dir().join("blobs/sha256")).unwrap().count()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn release() -> Release {
    let text = json!({
        "format": 1, "name": "iris", "environment_variables": {"A": "1"},
        "model": {"name": "iris", "version": "3", "type": "onnx", "files": []}
    });
    Release::parse(&text.to_string()).unwrap()
}

fn kinds(image: &Image) -> Vec<&'static str> {
    image.layers.iter().map(|layer| layer.kind.as_str()).collect()
}

/// Runs a tool that is not ours; `None` where it is missing.
fn tool(name: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(name).args(arguments).output() {
        Ok(output) => {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{name} {arguments:?}: {told}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        Err(error) => {
            place::skip(&format!("{name} cannot be run: {error}"));
            None
        }
    }
}

/// A tar of files, as somebody else would write it.
fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        // Not by `set_path`, which refuses what a test wants to write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// What `docker save` writes, of one layer.
fn docker_archive(layer: &[u8], diff_id: Digest) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z", "docker_version": "20.10",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/server"], "User": "app", "ExposedPorts": {"8080/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "ADD file"}],
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": ["base:1"], "Layers": ["one/layer.tar"]}]);
    tarred(&[
        ("one/layer.tar", layer),
        ("config.json", config.to_string().as_bytes()),
        ("manifest.json", manifest.to_string().as_bytes()),
    ])
}

fn sound_archive() -> Vec<u8> {
    let layer = tarred(&[("bin/server", b"#!/bin/sh\n"), ("etc/os-release", b"ID=none\n")]);
    docker_archive(&layer, Digest::of(&layer))
}

#[tokio::test]
async fn the_same_release_is_the_same_image_anywhere_and_at_any_time() {
    let one = Place::new().await;
    let first = one.build(None).await.unwrap();
    assert_eq!(kinds(&first), ["base", "engine", "scorer", "model", "release"]);
    let other = Place::new().await;
    for file in ["model/deep/model.onnx", "model/notes.txt"] {
        let file = fs_err::File::options().write(true).open(other.files().join(file)).unwrap();
        file.file().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    }
    let second = other.build(None).await.unwrap();
    assert_eq!(first, second);
    let archives = [one.path("a.tar"), other.path("b.tar")];
    one.images.oci_archive(&first.digest, "iris:1", &archives[0]).await.unwrap();
    other.images.oci_archive(&first.digest, "iris:1", &archives[1]).await.unwrap();
    assert_eq!(fs_err::read(&archives[0]).unwrap(), fs_err::read(&archives[1]).unwrap());
    let text = String::from_utf8(one.images.layout().read(&first.config_digest).unwrap()).unwrap();
    assert!(!text.contains(one.dir.path().to_str().unwrap()), "{text}");
    let zstd = one.build_with(None, None, Compression::Zstd).await.unwrap();
    assert_ne!(zstd.digest, first.digest);
    assert_eq!(zstd.diff_ids, first.diff_ids);
}

#[tokio::test]
async fn tools_that_are_not_ours_read_the_layout() {
    let place = Place::new().await;
    let image = place.build(None).await.unwrap();
    let archive = place.path("iris.tar");
    place.images.oci_archive(&image.digest, "1", &archive).await.unwrap();
    let Some(told) = tool("skopeo", &["inspect", &format!("oci-archive:{}:1", archive.display())]) else {
        return;
    };
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["Digest"], image.digest.to_string());
    assert_eq!(told["Labels"]["org.moorline.release"], place.release.digest().to_string());
    let Some(root) = unpacked(&place, &image).await else { return };
    let bundle = root.parent().unwrap();
    let read = |path: &str| fs_err::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("opt/moorline/release/model/deep/model.onnx"), "weights");
    assert_eq!(read("opt/moorline/release/release.json"), place.release.to_json());
    assert!(read("etc/passwd").contains("nonroot:x:65532:"));
    assert!(!root.join("bin/sh").exists());
    let config: Value = serde_json::from_slice(&fs_err::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["user"]["uid"], 65532);
    assert_eq!(config["process"]["cwd"], "/opt/moorline/release");
    if rustix::process::geteuid().is_root() {
        // What the image brings is enough for the program to be started: by its path, and by its own loader.
        let libraries = "LD_LIBRARY_PATH=/opt/moorline/lib";
        let program = "/opt/moorline/bin/moorline-scorer";
        tool("env", &["-i", libraries, "/usr/sbin/chroot", root.to_str().unwrap(), program]);
    }
}

#[tokio::test]
async fn a_real_scorer_starts_on_nothing_else() {
    let Some(scorer) = place::scorer() else { return };
    let fixed = std::env::var_os("MOORLINE_TEST_STATIC_SCORER").map(PathBuf::from);
    let is_static = fixed.is_some();
    let place = Place::with(|config| {
        config.scorer = scorer;
        config.static_scorer = fixed;
    })
    .await;
    let image = place.build(None).await.unwrap();
    assert_eq!(image.entrypoint, ["/opt/moorline/bin/moorline-scorer"]);
    if is_static {
        assert_eq!(kinds(&image), ["base", "scorer", "model", "release"]);
    }
    let Some(root) = unpacked(&place, &image).await else { return };
    if is_static {
        let size: u64 = image.layers.iter().map(|layer| unpacked_size(&place, &layer.digest)).sum();
        assert!(size < 40 << 20, "{size} bytes");
    }
    if rustix::process::geteuid().is_root() {
        let (libraries, root) = ("LD_LIBRARY_PATH=/opt/moorline/lib", root.to_str().unwrap());
        tool("env", &["-i", libraries, "/usr/sbin/chroot", root, &image.entrypoint[0], "--version"]);
    }
}

/// The image's files, as umoci unpacks them.
async fn unpacked(place: &Place, image: &Image) -> Option<PathBuf> {
    let (layout, bundle) = (place.path("unpacked-layout"), place.path("bundle"));
    fs_err::create_dir_all(&layout).unwrap();
    let archive = place.path("unpacked.tar");
    place.images.oci_archive(&image.digest, "1", &archive).await.unwrap();
    tool("tar", &["-xf", archive.to_str().unwrap(), "-C", layout.to_str().unwrap()]);
    let from = format!("{}:1", layout.display());
    tool("umoci", &["unpack", "--rootless", "--image", &from, bundle.to_str().unwrap()])?;
    Some(bundle.join("rootfs"))
}

fn unpacked_size(place: &Place, digest: &Digest) -> u64 {
    let file = fs_err::File::open(place.images.layout().blob_path(digest)).unwrap();
    let mut head = [0; 2];
    fs_err::File::open(file.path()).unwrap().read_exact(&mut head).unwrap();
    if head == [0x1f, 0x8b] {
        std::io::copy(&mut flate2::read::GzDecoder::new(file), &mut std::io::sink()).unwrap()
    } else {
        file.metadata().unwrap().len()
    }
}

#[tokio::test]
async fn a_layer_that_is_known_is_not_made_again() {
    let mut place = Place::new().await;
    let base = place.path("base.tar");
    fs_err::write(&base, sound_archive()).unwrap();
    place.code(b"def run(data): return 1\n");
    let first = place.build(Some(Base::Path(base.clone()))).await.unwrap();
    assert_eq!(kinds(&first), ["base", "engine", "scorer", "model", "code", "release"]);
    let (before, untouched) = (place.blobs(), first.layers[3].digest);
    // The model is not read again: what is known by its digest needs no file.
    fs_err::remove_dir_all(place.files().join("model")).unwrap();
    place.code(b"def run(data): return 2\n");
    let second = place.build(Some(Base::Path(base))).await.unwrap();
    assert_eq!(second.layers[3].digest, untouched);
    assert_ne!(second.layers[4].digest, first.layers[4].digest);
    assert_eq!(place.blobs(), before + 4, "code, release, config and manifest are new");
}

#[tokio::test]
async fn a_model_that_was_changed_by_hand_makes_no_image() {
    let place = Place::new().await;
    fs_err::write(place.files().join("model/deep/model.onnx"), "w3ights").unwrap();
    let error = place.build(None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Conflict);
    assert!(place.images.list().await.unwrap().is_empty());
    fs_err::write(place.files().join("model/deep/model.onnx"), "weights").unwrap();
    place.build(None).await.unwrap();
}

fn own_server() -> Environment {
    let route = || Route { port: 8080, path: "/".to_owned() };
    let routes =
        InferenceConfig { liveness_route: route(), readiness_route: route(), scoring_route: route() };
    Environment { inference_config: Some(routes), ..Environment::default() }
}

#[tokio::test]
async fn a_custom_container_runs_as_it_is() {
    let mut place = Place::new().await;
    let base = place.path("base.tar");
    fs_err::write(&base, sound_archive()).unwrap();
    let environment = own_server();
    let base = || Some(Base::Path(base.clone()));
    let image = place.build_with(base(), Some(&environment), Compression::Gzip).await.unwrap();
    assert_eq!(kinds(&image), ["base", "model"]);
    let config: Value =
        serde_json::from_slice(&place.images.layout().read(&image.config_digest).unwrap()).unwrap();
    assert_eq!(config["config"]["Cmd"], json!(["/bin/server"]));
    assert_eq!(config["config"]["User"], "app");
    assert_eq!(
        config["config"]["Env"],
        json!([
            "PATH=/bin",
            "AML_APP_ROOT=/var/azureml-app",
            "AZUREML_MODEL_DIR=/var/azureml-app/azureml-models/iris/3"
        ])
    );
    let files = place.files();
    let request = ImageRequest {
        release: &place.release,
        files: &files,
        environment: Some(&environment),
        base: base(),
        compression: Compression::Gzip,
        name: "default/iris",
        bitstream: None,
        model_mount_path: Some("/models/"),
        model_apart: false,
    };
    let mounted = place.images.build(request, &Progress::none()).await.unwrap();
    let config = String::from_utf8(place.images.layout().read(&mounted.config_digest).unwrap()).unwrap();
    assert!(config.contains("AZUREML_MODEL_DIR=/models/iris/3"), "{config}");
    let layer = fs_err::read(place.images.layout().blob_path(&mounted.layers[1].digest)).unwrap();
    let mut tar = tar::Archive::new(layer.as_slice());
    let paths = tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string());
    assert!(paths.into_iter().any(|path| path == "models/iris/3/deep/model.onnx"));
    place.release.model = None;
    let bare = place.build_with(base(), Some(&environment), Compression::Gzip).await.unwrap();
    assert_eq!(kinds(&bare), ["base"]);
    let config: Value =
        serde_json::from_slice(&place.images.layout().read(&bare.config_digest).unwrap()).unwrap();
    assert_eq!(config["docker_version"], "20.10", "its own config, untouched");
}

#[tokio::test]
async fn a_base_that_lies_is_refused() {
    let place = Place::new().await;
    let base = place.path("base.tar");
    let refused = async |content: Vec<u8>, why: &str| {
        fs_err::write(&base, content).unwrap();
        let error = place.build(Some(Base::Path(base.clone()))).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert_ne!(error.class(), ErrorClass::NotFound);
    };
    let layer = tarred(&[("bin/server", b"x")]);
    refused(docker_archive(&layer, Digest::of(b"another")), "unpacks to").await;
    refused(tarred(&[("../manifest.json", b"[]")]), "leaves the archive").await;
    refused(tarred(&[("/manifest.json", b"[]")]), "leaves the archive").await;
    refused(tarred(&[("text", b"x")]), "neither an OCI layout nor").await;
    refused(b"no tar at all, but some text that is long enough".to_vec(), "").await;
    // A layout in which one blob is another's.
    fs_err::write(&base, sound_archive()).unwrap();
    let sound = place.build(Some(Base::Path(base.clone()))).await.unwrap();
    let layout = place.path("layout");
    fs_err::create_dir_all(&layout).unwrap();
    let archive = place.path("x.tar");
    place.images.oci_archive(&sound.digest, "1", &archive).await.unwrap();
    tool("tar", &["-xf", archive.to_str().unwrap(), "-C", layout.to_str().unwrap()]);
    let blob = layout.join("blobs/sha256").join(sound.layers[0].digest.hex());
    let mut content = fs_err::read(&blob).unwrap();
    content[20] ^= 1;
    fs_err::write(blob, content).unwrap();
    let other = Place::new().await;
    let error = other.build(Some(Base::Path(layout))).await.unwrap_err();
    assert!(error.to_string().contains("is corrupt"), "{error}");
    assert!(other.images.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_written_for_docker_can_be_built_upon() {
    let place = Place::new().await;
    let image = place.build(None).await.unwrap();
    let none = HashSet::new();
    let mut whole = Vec::new();
    let mut archive = place.images.docker_archive(&image, "iris:1", &none).await.unwrap();
    let size = archive.size();
    archive.read_to_end(&mut whole).unwrap();
    assert_eq!(whole.len() as u64, size);
    let base = place.path("saved.tar.gz");
    let mut gzip =
        flate2::write::GzEncoder::new(fs_err::File::create(&base).unwrap(), flate2::Compression::fast());
    gzip.write_all(&whole).unwrap();
    gzip.finish().unwrap();
    let other = Place::new().await;
    let onto = other.build(Some(Base::Path(base))).await.unwrap();
    assert_eq!(onto.diff_ids[..image.diff_ids.len()], image.diff_ids);
    // An Engine that has the lower layers is sent the others only.
    let has: HashSet<Digest> = image.diff_ids[..3].iter().copied().collect();
    let archive = place.images.docker_archive(&image, "iris:1", &has).await.unwrap();
    assert!(archive.size() < size);
    let names: Vec<String> = tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(names.len(), 2 + image.layers.len() - 3);
    let model = image.layers.iter().find(|layer| layer.kind == LayerKind::Model).unwrap();
    let blob = place.images.layout().blob_path(&model.digest);
    let mut content = fs_err::read(&blob).unwrap();
    content[600] ^= 1;
    fs_err::write(blob, content).unwrap();
    let mut archive = place.images.docker_archive(&image, "iris:1", &none).await.unwrap();
    let error = archive.read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(&format!("{} is corrupt", model.digest)), "{error}");
}

#[tokio::test]
async fn what_is_not_kept_goes_with_all_that_only_it_needed() {
    let mut place = Place::new().await;
    let first = place.build(None).await.unwrap();
    place.model(b"other weights");
    let second = place.build(None).await.unwrap();
    assert_eq!(place.images.list().await.unwrap().len(), 2);
    let draft = place.images.layout().dir().join("blobs/sha256/.new-left");
    fs_err::write(&draft, "half").unwrap();
    let pruned = place.images.prune(&[second.digest].into()).await.unwrap();
    assert_eq!((pruned.images, pruned.blobs), (1, 5), "two layers, two documents, and the draft");
    assert_eq!(place.images.list().await.unwrap(), std::slice::from_ref(&second));
    assert!(place.images.show(&first.digest).await.is_err());
    assert_eq!(place.images.show(&second.digest).await.unwrap().image, second);
    place.model(b"weights");
    assert_eq!(place.build(None).await.unwrap(), first, "it is made again as it was");
}

#[tokio::test]
async fn nothing_is_taken_away_under_a_build() {
    let place = Place::new().await;
    let image = place.build(None).await.unwrap();
    let hold = place.images.layout().hold().unwrap();
    let none = HashSet::new();
    let pruning = place.images.prune(&none);
    tokio::pin!(pruning);
    tokio::select! {
        biased;
        _ = &mut pruning => panic!("it waits"),
        listed = place.images.list() => assert_eq!(listed.unwrap(), [image]),
    }
    drop(hold);
    assert_eq!(pruning.await.unwrap().images, 1);
    assert_eq!(place.blobs(), 0);
}

#[tokio::test]
async fn a_full_disk_leaves_a_layout_that_works() {
    let mount = tempfile::tempdir().unwrap();
    let at = mount.path().to_str().unwrap();
    if !rustix::process::geteuid().is_root()
        || !Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "none", at])
            .status()
            .unwrap()
            .success()
    {
        place::skip("a small disk can only be mounted by root");
        return;
    }
    let unmount = Unmount(mount.path());
    let mut place = Place::with(|config| config.dir = mount.path().join("images")).await;
    let big: Vec<u8> =
        (0..6_000_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    place.model(&big);
    let error = place.build(None).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable, "{error}");
    place.model(b"small");
    let image = place.build(None).await.unwrap();
    assert_eq!(place.images.list().await.unwrap(), [image]);
    drop(place);
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}
