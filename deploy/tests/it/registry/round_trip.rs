//! Pushes and pulls with Debian's registry: everything once, nothing twice, and only to whom it may concern.

use std::{path::Path, process::Command};

use moorline_core::{Digest, ErrorClass};
use moorline_deploy::{
    Progress,
    registry::{HostSettings, Platform, RegistryError, Wanted},
};
use serde_json::json;

use super::fixture::{Images, Registry, bytes, digest, registries, user, watched};
use crate::place::skip;

const MEBI: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_pulled_and_nothing_is_sent_twice() {
    let Some(registry) = Registry::start().await else { return };
    let (own, none) = (Images::new(), Progress::none());
    let image = own.image("amd64", &[bytes(1, 3 * MEBI), bytes(2, 40 * MEBI), bytes(3, 10), bytes(3, 10)]);
    let registries = registries(&[]);
    let (progress, told) = watched();
    let name = registry.reference("team/app:1");

    let pushed = registries.push(&own.layout, &image, &name, &[], &progress).await.unwrap();
    assert_eq!((pushed.blobs_sent, pushed.skipped, pushed.mounted), (4, 0, 0));
    assert!(pushed.bytes_sent > 43 * MEBI as u64);
    let last = format!("Push {} {}/{}", Digest::of(&bytes(2, 40 * MEBI)), 40 * MEBI, 40 * MEBI);
    assert!(told.lock().unwrap().contains(&last), "the end is told");

    let again = registries.push(&own.layout, &image, &name, &[], &none).await.unwrap();
    assert_eq!((again.blobs_sent, again.skipped, again.mounted), (0, 4, 0));
    let beside = registry.reference("team/other:1");
    let mounted =
        registries.push(&own.layout, &image, &beside, &["team/app".to_owned()], &none).await.unwrap();
    assert_eq!((mounted.blobs_sent, mounted.skipped, mounted.mounted), (0, 0, 4));

    let resolved = registries.resolve(&name).await.unwrap();
    assert_eq!((resolved.digest(), resolved.size()), (image.digest(), image.size()));
    let pulled = Images::new();
    let amd64 = Wanted::One(Platform::linux("amd64"));
    let served = registries.pull(&name, &amd64, &pulled.layout, &none).await.unwrap();
    assert_eq!(served, image);
    assert_eq!(
        fs_err::read(pulled.layout.blob_path(&Digest::of(&bytes(2, 40 * MEBI)))).unwrap(),
        bytes(2, 40 * MEBI)
    );
    assert!(pulled.leftovers().is_empty());
    // By its digest and with everything there, nobody is asked.
    registry.kill();
    registries.pull(&name.at(digest(&image)), &amd64, &pulled.layout, &none).await.unwrap();
    let error = registries.resolve(&name).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Unavailable);
    assert!(
        error
            .to_string()
            .starts_with(&format!("registry `{}` could not be reached to say what", registry.host()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_one_platform_is_taken_or_all() {
    let Some(registry) = Registry::start().await else { return };
    let (own, none, registries) = (Images::new(), Progress::none(), registries(&[]));
    let amd64 = own.image("amd64", &[bytes(10, 1000)]);
    let arm64 = own.image("arm64", &[bytes(11, 1000)]);
    let index = own.index(&[("amd64", amd64.clone()), ("arm64", arm64.clone())]);
    let name = registry.reference("multi:1");
    registries.push(&own.layout, &index, &name, &[], &none).await.unwrap();

    let one = Images::new();
    let wanted = Wanted::One("linux/arm64/v8".parse().unwrap());
    assert_eq!(registries.pull(&name, &wanted, &one.layout, &none).await.unwrap(), index);
    assert!(one.layout.has(&digest(&arm64)) && !one.layout.has(&digest(&amd64)));
    let all = Images::new();
    registries.pull(&name, &Wanted::All, &all.layout, &none).await.unwrap();
    assert!(all.layout.has(&digest(&arm64)) && all.layout.has(&digest(&amd64)));

    let s390x = Wanted::One(Platform::linux("s390x"));
    let error = registries.pull(&name, &s390x, &all.layout, &none).await.unwrap_err();
    assert!(
        error.to_string().ends_with("has no image for linux/s390x; it has linux/amd64, linux/arm64"),
        "{error}"
    );
    let by_digest = name.at(digest(&arm64));
    let error = registries.pull(&by_digest, &s390x, &all.layout, &none).await.unwrap_err();
    assert!(error.to_string().ends_with("has no image for linux/s390x; it has linux/arm64"), "{error}");
    let error = registries.resolve(&registry.reference("multi:2")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("registry `{}` has no image `multi:2`", registry.host()));
    assert_eq!(error.class(), ErrorClass::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_rotted_on_the_registrys_disk_is_refused() {
    let Some(registry) = Registry::start().await else { return };
    let (own, none, registries) = (Images::new(), Progress::none(), registries(&[]));
    let layer = bytes(20, 100_000);
    let image = own.image("amd64", std::slice::from_ref(&layer));
    let name = registry.reference("rotten:1");
    registries.push(&own.layout, &image, &name, &[], &none).await.unwrap();
    let blob = Digest::of(&layer);
    let file = registry.data().join(format!(
        "docker/registry/v2/blobs/sha256/{}/{}/data",
        &blob.hex()[..2],
        blob.hex()
    ));
    let mut rotten = layer;
    rotten[50_000] ^= 1;
    fs_err::write(file, rotten).unwrap();

    let pulled = Images::new();
    let error = registries.pull(&name, &Wanted::All, &pulled.layout, &none).await.unwrap_err();
    let said = format!("registry `{}` sent something else as blob {blob}", registry.host());
    assert!(error.to_string().starts_with(&said), "{error}");
    assert!(!pulled.layout.has(&blob) && !pulled.layout.has(&digest(&image)));
    assert!(pulled.leftovers().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_rotted_here_does_not_reach_the_registry() {
    let Some(registry) = Registry::start().await else { return };
    let (own, none, registries) = (Images::new(), Progress::none(), registries(&[]));
    let layer = bytes(25, 100_000);
    let image = own.image("amd64", std::slice::from_ref(&layer));
    let (name, blob) = (registry.reference("rotten:2"), Digest::of(&layer));
    let push = async |content: &[u8]| {
        fs_err::write(own.layout.blob_path(&blob), content).unwrap();
        registries.push(&own.layout, &image, &name, &[], &none).await
    };
    let error = push(&layer[..99_999]).await.unwrap_err().to_string();
    assert_eq!(error, format!("blob {blob} has 99999 bytes where 100000 were announced"));
    let mut rotten = layer.clone();
    rotten[50_000] ^= 1;
    let error = push(&rotten).await.unwrap_err().to_string();
    let said = format!(
        "registry `{}` refused to take blob {blob} into `rotten`: 400 Bad Request: ",
        registry.host()
    );
    assert!(error.starts_with(&said), "{error}");
    assert_eq!(registries.resolve(&name).await.unwrap_err().class(), ErrorClass::NotFound);
    fs_err::remove_file(own.layout.blob_path(&blob)).unwrap();
    let error = registries.push(&own.layout, &image, &name, &[], &none).await.unwrap_err().to_string();
    assert_eq!(error, format!("there is no blob {blob}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tool_reads_what_is_pushed_and_writes_what_is_pulled() {
    let Some(registry) = Registry::start().await else { return };
    if !Command::new("skopeo").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skip("skopeo is not installed");
        return;
    }
    let skopeo = |arguments: &str| {
        let output = Command::new("skopeo").args(arguments.split(' ')).output().expect("skopeo runs");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let (own, none, registries) = (Images::new(), Progress::none(), registries(&[]));
    // Layers that are none are fine as long as nobody unpacks them.
    let image = own.image("amd64", &[bytes(26, 2 * MEBI), bytes(27, 10)]);
    let name = registry.reference("tools:oci");
    registries.push(&own.layout, &image, &name, &[], &none).await.unwrap();
    let raw = skopeo(&format!("inspect --raw --tls-verify=false docker://{name}"));
    assert_eq!(Digest::of(&raw), digest(&image));

    // Docker's own media types, which skopeo turns the image into.
    let of_docker = registry.reference("tools:docker");
    let insecure = "--src-tls-verify=false --dest-tls-verify=false --insecure-policy";
    skopeo(&format!("copy {insecure} --format v2s2 docker://{name} docker://{of_docker}"));
    let pulled = Images::new();
    let wanted = Wanted::One(Platform::linux("amd64"));
    let served = registries.pull(&of_docker, &wanted, &pulled.layout, &none).await.unwrap();
    assert_eq!(served.media_type().as_ref(), "application/vnd.docker.distribution.manifest.v2+json");
    assert!(pulled.layout.has(&Digest::of(&bytes(26, 2 * MEBI))));
    let again = registry.reference("tools:again");
    registries.push(&pulled.layout, &served, &again, &[], &none).await.unwrap();
    assert_eq!(registries.resolve(&again).await.unwrap(), served);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_asked_for_and_never_shown() {
    // Of `open:sesame`, by bcrypt.
    const LINE: &str = "porter:$2b$04$838QuqlSRI8sUt8lzBk16.r0m1GCXi9uZUWt3HGYO1xkJclZBB8OW\n";
    let registry = Registry::start_with(|settings, folder| {
        fs_err::write(folder.join("htpasswd"), LINE).unwrap();
        settings["auth"] = json!({ "htpasswd": { "realm": "test", "path": folder.join("htpasswd") } });
    });
    let Some(registry) = registry.await else { return };
    let (own, none) = (Images::new(), Progress::none());
    let image = own.image("amd64", &[bytes(30, 1000)]);
    let name = registry.reference("locked:1");
    let push = async |password: Option<&str>| {
        let credentials = password.map(|password| user("porter", password));
        let settings = HostSettings { credentials, ..HostSettings::default() };
        let registries = registries(&[(&registry.host(), settings)]);
        assert!(!format!("{registries:?}").contains("sesame"));
        registries.push(&own.layout, &image, &name, &[], &none).await
    };
    for wrong in [None, Some("close:sesame")] {
        let error = push(wrong).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Unauthenticated);
        let text = error.to_string();
        let host = registry.host();
        assert!(text.starts_with(&format!("registry `{host}` refused to say whether it has blob")), "{text}");
        assert!(
            text.ends_with(&format!("; `docker login {host}` or registries.yml gives it credentials")),
            "{text}"
        );
        assert!(!format!("{error:?}").contains("sesame"));
    }
    assert_eq!(push(Some("open:sesame")).await.unwrap().blobs_sent, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_tls_is_trusted_by_its_certificate() {
    if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
        skip("openssl is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let registry = Registry::start_with(|settings, _| {
        settings["http"]["tls"] = json!({ "certificate": folder.path().join("server.pem"), "key": folder.path().join("server.key") });
    });
    let Some(registry) = registry.await else { return };
    let (own, none) = (Images::new(), Progress::none());
    let image = own.image("amd64", &[bytes(40, 1000)]);
    let name = registry.reference("tls:1");
    let ca_file = Some(folder.path().join("ca.pem"));
    let trusting = registries(&[(&registry.host(), HostSettings { ca_file, ..HostSettings::default() })]);
    trusting.push(&own.layout, &image, &name, &[], &none).await.unwrap();
    assert_eq!(trusting.resolve(&name).await.unwrap().digest(), image.digest());
    let pulled = Images::new();
    trusting.pull(&name, &Wanted::All, &pulled.layout, &none).await.unwrap();

    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    let ca_file = Some(other.path().join("ca.pem"));
    let wary = registries(&[(&registry.host(), HostSettings { ca_file, ..HostSettings::default() })]);
    let error = wary.resolve(&name).await.unwrap_err();
    assert!(matches!(error, RegistryError::Untrusted { .. }), "{error:?}");
}

/// An authority, and a certificate of its own for this machine.
fn certificates(folder: &Path) {
    fs_err::write(folder.join("extensions"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
        .expect("a file can be written");
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let openssl = |arguments: &[&str]| {
        let output =
            Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let authority =
        ["req", "-x509", "-subj", "/CN=test authority", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&authority[..], &key].concat());
    let request = ["req", "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr"];
    openssl(&[&request[..], &key].concat());
    let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.pem";
    openssl(&sign.split(' ').collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_is_asked_first_and_the_registry_where_it_does_not_know() {
    let (Some(registry), Some(mirror)) = (Registry::start().await, Registry::start().await) else { return };
    let (own, none) = (Images::new(), Progress::none());
    let direct = registries(&[]);
    let first = own.image("amd64", &[bytes(50, 1000)]);
    let second = own.image("amd64", &[bytes(51, 1000)]);
    direct.push(&own.layout, &first, &mirror.reference("kept/app:1"), &[], &none).await.unwrap();
    direct.push(&own.layout, &second, &registry.reference("app:2"), &[], &none).await.unwrap();

    let settings =
        HostSettings { mirror: Some(format!("{}/kept", mirror.host())), ..HostSettings::default() };
    let mirrored = registries(&[(&registry.host(), settings.clone())]);
    let (progress, told) = watched();
    let pulled = Images::new();
    let pull = async |name: &str| {
        mirrored.pull(&registry.reference(name), &Wanted::All, &pulled.layout, &progress).await
    };
    assert_eq!(pull("app:1").await.unwrap(), first);
    assert!(!told.lock().unwrap().iter().any(|line| line.contains("instead")));
    assert_eq!(pull("app:2").await.unwrap(), second);
    let said = format!(
        "registry `{}` has no image `kept/app:2`; asking `{}` instead",
        mirror.host(),
        registry.host()
    );
    assert!(told.lock().unwrap().contains(&said), "{told:?}");
    mirror.kill();
    let third = own.image("amd64", &[bytes(52, 1000)]);
    direct.push(&own.layout, &third, &registry.reference("app:3"), &[], &none).await.unwrap();
    assert_eq!(pull("app:3").await.unwrap(), third);
    let error = pull("app:4").await.unwrap_err();
    assert_eq!(error.to_string(), format!("registry `{}` has no image `app:4`", registry.host()));

    // A registry that there is not at all, as on a machine without a way out.
    mirror.start_again().await;
    let away = registries(&[("registry.invalid", settings)]);
    let name = "registry.invalid/app:1".parse().unwrap();
    assert_eq!(away.pull(&name, &Wanted::All, &Images::new().layout, &none).await.unwrap(), first);
}
