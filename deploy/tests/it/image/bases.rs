//! Images on bases of others: from a registry, of several platforms, and with the Python of a Debian.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{os::unix::fs::PermissionsExt, process::Command};

use moorline_core::{Digest, Environment, ReleaseEnvironment};
use moorline_deploy::{
    Progress,
    image::{Base, Compression, LayerKind},
    registry::Platform,
};
use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::{Place, kinds, sound_archive, tool};
use crate::{
    environments::uv,
    place::skip,
    registry::fixture::{self, Registry},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_a_registry_is_pulled_once_and_noted() {
    let Some(registry) = Registry::start().await else { return };
    let maker = Place::new().await;
    let saved = maker.path("base.tar");
    fs_err::write(&saved, sound_archive()).unwrap();
    let pushed = maker.build(Some(Base::Path(saved))).await.unwrap();
    let name = registry.reference("bases/python:1");
    fixture::registries(&[])
        .push(maker.images.layout(), &pushed.descriptor, &name, &[], &Progress::none())
        .await
        .unwrap();
    let mut place = Place::new().await;
    place.code(b"def run(data): return 1\n");
    let environment = Environment { image: Some(name.to_string()), ..Environment::default() };
    let build = async || place.build_with(None, Some(&environment), Compression::Gzip).await.unwrap();
    let image = build().await;
    assert_eq!(image.diff_ids[..pushed.diff_ids.len()], pushed.diff_ids);
    assert_eq!(image.base, Some(format!("{name}@{}", pushed.digest)));
    assert!(image.layers[..pushed.layers.len()].iter().all(|layer| layer.kind == LayerKind::Base));
    assert_eq!(build().await, image);
}

/// An ELF file for arm64 that asks for nothing, for tests that do not run it.
fn static_program(place: &Place) -> std::path::PathBuf {
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[18] = 183;
    elf[54] = 56;
    let path = place.path("static-scorer");
    fs_err::write(&path, elf).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_several_platforms_makes_an_index_of_those_that_have_scorers() {
    let folder = Place::new().await;
    let foreign = static_program(&folder);
    let place = Place::with(|config| {
        config.other_platforms = [("linux/arm64".to_owned(), foreign)].into();
    })
    .await;
    let source = fixture::Images::new();
    let layer = super::tarred(&[("etc/os-release", b"ID=none\n")]);
    let images: Vec<(&str, Descriptor)> = ["s390x", "arm64", "amd64"]
        .into_iter()
        .map(|architecture| {
            let config = json!({
                "architecture": architecture, "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
            });
            let config = source.put(fixture::CONFIG, config.to_string().as_bytes());
            let layer = source.put(fixture::LAYER, &layer);
            (architecture, source.document(fixture::MANIFEST, json!({"config": config, "layers": [layer]})))
        })
        .collect();
    let index = source.index(&images);
    source.layout.name("base", &index).unwrap();
    let image = place.build(Some(Base::Path(source.layout.dir().to_owned()))).await.unwrap();
    let host = Platform::linux(if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" });
    assert_eq!(image.platforms, [host, Platform::linux("arm64")]);
    assert_ne!(image.manifest, image.digest);
    assert_eq!(kinds(&image), ["base", "engine", "scorer", "model", "release"]);
    let pruned = place.images.prune(&[image.digest].into()).await.unwrap();
    assert_eq!(pruned.images, 0);
    assert_eq!(place.images.image(&image.digest).await.unwrap(), image);
    let archive = place.path("both.tar");
    place.images.oci_archive(&image.digest, "1", &archive).await.unwrap();
    let from = format!("oci-archive:{}:1", archive.display());
    let Some(told) = tool("skopeo", &["inspect", "--override-arch", "arm64", &from]) else { return };
    assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["Architecture"], "arm64");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_gets_its_packages_on_a_debian_that_is_never_run() {
    let Some(base) = std::env::var_os("MOORLINE_TEST_BASE_IMAGE") else {
        skip("MOORLINE_TEST_BASE_IMAGE names no image with a Python");
        return;
    };
    let Some(uv) = uv() else { return };
    let Some(scorer) = crate::place::scorer() else { return };
    let mut place = Place::with_uv(uv, |config| config.scorer = scorer).await;
    place.code(b"def init(): pass\ndef run(data): return 1\n");
    let environment = Environment {
        conda_file: Some("dependencies:\n  - python=3.11\n  - pip:\n    - six==1.16.0\n".to_owned()),
        ..Environment::default()
    };
    place.release.environment = Some(ReleaseEnvironment {
        digest: environment.digest(),
        python: Some("3.11".to_owned()),
        own_server: false,
    });
    let image = place
        .build_with(Some(Base::Path(base.clone().into())), Some(&environment), Compression::Gzip)
        .await
        .unwrap();
    assert_eq!(kinds(&image), ["base", "engine", "scorer", "environment", "model", "code", "release"]);
    let again = place.build_with(Some(Base::Path(base.into())), Some(&environment), Compression::Gzip).await;
    assert_eq!(again.unwrap(), image);
    let Some(root) = super::unpacked(&place, &image).await else { return };
    let python = root.join("opt/moorline/release/environment/bin/python");
    assert!(python.symlink_metadata().unwrap().is_symlink());
    let libraries = root.join("opt/moorline/lib/libc.so.6");
    assert_eq!(libraries.metadata().unwrap().permissions().mode() & 0o777, 0o644);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let run = |arguments: &[&str]| {
        let output = Command::new("env")
            .args(["-i", "/usr/sbin/chroot", root.to_str().unwrap()])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let program = "import six, json; print(six.__version__, json.dumps(six.__file__))";
    let told = run(&["/opt/moorline/release/environment/bin/python", "-c", program]);
    assert!(told.starts_with("1.16.0 \"/opt/moorline/release/environment/lib/python3.11/"), "{told}");
    let mut started: Vec<&str> = image.entrypoint.iter().map(String::as_str).collect();
    started.push("--version");
    assert!(run(&started).contains("moorline-scorer"));
}
