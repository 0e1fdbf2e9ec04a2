//! What is said about images: signatures are those of openssl, and documents are found beside what they are about.

#![expect(clippy::unwrap_used, reason = "what tests share may fail as they do")]

use std::{
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::{Digest, Secret};
use moorline_deploy::image::{
    Filesystem, Layout,
    attest::{
        Attachment, Contents, PublicKey, SigningKey, VerifyError, attach, check, generate_key, referrers,
        sbom, sign, signature_tag, verify,
    },
};
use moorline_testkit::TestRelease;
use oci_spec::image::{Descriptor, ImageManifest, MediaType};
use serde_json::Value;
use tempfile::TempDir;

use crate::place::skip;

const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

struct Signed {
    folder: TempDir,
    layout: Layout,
    image: Descriptor,
}

impl Signed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(&folder.path().join("images")).unwrap();
        let image = put(&layout, b"{\"schemaVersion\":2,\"manifests\":[]}", MediaType::ImageIndex);
        Self { folder, layout, image }
    }

    fn digest(&self) -> Digest {
        self.image.digest().to_string().parse().unwrap()
    }

    /// The payload and the signature of the first signature.
    fn signature(&self) -> (Vec<u8>, String) {
        let named = self.layout.named(&signature_tag(&self.digest())).unwrap().unwrap();
        let manifest: ImageManifest =
            self.layout.document("manifest", &named.digest().to_string().parse().unwrap()).unwrap();
        let layer = &manifest.layers()[0];
        let payload = self.layout.read(&layer.digest().to_string().parse().unwrap()).unwrap();
        (payload, layer.annotations().as_ref().unwrap()[SIGNATURE].clone())
    }
}

fn put(layout: &Layout, content: &[u8], kind: MediaType) -> Descriptor {
    let (digest, size) = layout.put(content).unwrap();
    Descriptor::new(kind, size, digest.to_string().parse::<oci_spec::image::Digest>().unwrap())
}

fn openssl(arguments: &[&str], folder: &Path, input: &[u8]) -> Option<Output> {
    let child = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        skip("openssl is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(input).unwrap();
    Some(child.wait_with_output().unwrap())
}

#[test]
fn openssl_and_we_take_each_others_signatures() {
    let signed = Signed::new();
    let folder = signed.folder.path();
    let pair = generate_key();
    let key = SigningKey::parse(&pair.private).unwrap();
    sign(&signed.layout, &signed.image, "registry.example/iris", &key).unwrap();
    let (payload, signature) = signed.signature();
    let critical: Value = serde_json::from_slice(&payload).unwrap();
    assert_eq!(critical["critical"]["image"]["docker-manifest-digest"], signed.digest().to_string());
    assert_eq!(critical["critical"]["identity"]["docker-reference"], "registry.example/iris");

    fs_err::write(folder.join("public.pem"), &pair.public).unwrap();
    fs_err::write(folder.join("signature"), STANDARD.decode(signature).unwrap()).unwrap();
    let arguments = ["dgst", "-sha256", "-verify", "public.pem", "-signature", "signature"];
    let Some(output) = openssl(&arguments, folder, &payload) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    for arguments in [
        &["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "own.pem"][..],
        &["ecparam", "-name", "prime256v1", "-genkey", "-out", "own.pem"][..],
    ] {
        openssl(arguments, folder, b"").unwrap();
        let public = openssl(&["pkey", "-in", "own.pem", "-pubout"], folder, b"").unwrap().stdout;
        let public = PublicKey::parse(&String::from_utf8(public).unwrap()).unwrap();
        let theirs = openssl(&["dgst", "-sha256", "-sign", "own.pem"], folder, &payload).unwrap().stdout;
        let verified =
            check(&signed.digest(), &payload, &STANDARD.encode(theirs), None, std::slice::from_ref(&public));
        assert_eq!(verified.unwrap().by, public.fingerprint());
        let private = Secret::new(fs_err::read_to_string(folder.join("own.pem")).unwrap());
        assert_eq!(SigningKey::parse(&private).unwrap().public(), public);
    }
}

#[test]
fn an_image_is_signed_by_a_trusted_key_or_it_is_said_why_not() {
    let signed = Signed::new();
    let (layout, digest) = (&signed.layout, signed.digest());
    let [one, two] = [generate_key(), generate_key()].map(|pair| SigningKey::parse(&pair.private).unwrap());
    let keys = [one.public()];
    assert!(matches!(verify(layout, &digest, &keys), Err(VerifyError::NotSigned { .. })));

    sign(layout, &signed.image, "registry.example/iris", &two).unwrap();
    assert!(matches!(verify(layout, &digest, &keys), Err(VerifyError::UnknownKey { .. })));

    let first = sign(layout, &signed.image, "registry.example/iris", &one).unwrap();
    assert_eq!(verify(layout, &digest, &keys).unwrap().by, one.public().fingerprint());
    assert_eq!(verify(layout, &digest, &[two.public()]).unwrap().by, two.public().fingerprint());
    let again = sign(layout, &signed.image, "registry.example/iris", &one).unwrap();
    assert_eq!(first, again, "what is signed already is not signed twice");
    assert_eq!(referrers(layout, &digest).unwrap().len(), 1, "all signatures are in one manifest");

    let other = put(layout, b"{\"schemaVersion\":2}", MediaType::ImageManifest);
    let other_digest: Digest = other.digest().to_string().parse().unwrap();
    let (payload, signature) = signed.signature();
    let moved = check(&other_digest, &payload, &signature, None, &[two.public()]);
    let text = moved.unwrap_err().to_string();
    assert!(text.contains(&digest.to_string()) && text.contains(&other_digest.to_string()), "{text}");

    let changed = String::from_utf8(payload).unwrap().replace("iris", "rose");
    let fingerprint = two.public().fingerprint();
    let changed = check(&digest, changed.as_bytes(), &signature, Some(&fingerprint), &[two.public()]);
    assert!(matches!(changed, Err(VerifyError::Mismatch { .. })));
}

#[test]
fn keys_that_cannot_be_used_say_what_to_do() {
    let refusal = |text: &str| SigningKey::parse(&Secret::new(text.to_owned())).unwrap_err().to_string();
    assert!(refusal("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n").contains("openssl genpkey"));
    assert!(refusal("-----BEGIN ENCRYPTED PRIVATE KEY-----\n").contains("openssl pkey"));
    assert!(refusal("hunter2").contains("BEGIN PRIVATE KEY"));
    assert!(!refusal("hunter2").contains("hunter2"));
    assert!(refusal("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").contains("P-256"));
    assert!(PublicKey::parse("x").is_err());
    let pair = generate_key();
    assert_eq!(PublicKey::parse(&pair.public).unwrap().to_pem(), pair.public);
    assert!(!format!("{pair:?}{:?}", SigningKey::parse(&pair.private).unwrap()).contains("PRIVATE"));
}

#[test]
fn documents_are_found_by_what_they_are_about() {
    let signed = Signed::new();
    let (layout, digest) = (&signed.layout, signed.digest());
    let sbom = attach(layout, &signed.image, Attachment::Sbom, b"{}").unwrap();
    let again = attach(layout, &signed.image, Attachment::Sbom, b"{}").unwrap();
    assert_eq!(sbom, again);
    let statement = attach(layout, &signed.image, Attachment::Provenance, b"{\"a\":1}").unwrap();
    assert_eq!(referrers(layout, &digest).unwrap(), [sbom.clone(), statement]);
    assert!(referrers(layout, &Digest::of(b"another")).unwrap().is_empty());
    let manifest: ImageManifest =
        layout.document("manifest", &sbom.digest().to_string().parse().unwrap()).unwrap();
    assert_eq!(manifest.subject().as_ref().unwrap().digest(), signed.image.digest());
    assert_eq!(manifest.artifact_type().as_ref().unwrap().to_string(), "application/spdx+json");
    assert_eq!(manifest.config().media_type().to_string(), "application/vnd.oci.empty.v1+json");
    assert_eq!(layout.read(&manifest.layers()[0].digest().to_string().parse().unwrap()).unwrap(), b"{}");
}

fn base() -> Filesystem {
    let mut layer = tar::Builder::new(Vec::new());
    let mut add = |path: &str, content: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        layer.append_data(&mut header, path, content.as_bytes()).unwrap();
    };
    add("etc/os-release", "ID=debian\n");
    let package = |name: &str, version: &str| {
        format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n")
    };
    add("var/lib/dpkg/status", &(package("libc6", "2.36-9") + &package("libstdc++6", "12.2.0-14")));
    let layer = layer.into_inner().unwrap();
    Filesystem::read([Ok(layer.as_slice())]).unwrap()
}

#[test]
fn an_sbom_names_what_is_in_the_image_and_is_the_same_again() {
    let (release, base, digest) = (TestRelease::double(1), base(), Digest::of(b"image"));
    let environment = tempfile::tempdir().unwrap();
    let info = environment.path().join("lib/python3.11/site-packages/six-1.16.0.dist-info");
    fs_err::create_dir_all(&info).unwrap();
    fs_err::write(
        info.join("METADATA"),
        "Metadata-Version: 2.1\nName: six\nVersion: 1.16.0\nLicense: MIT\n\n",
    )
    .unwrap();
    let contents = Contents {
        name: "registry.example/iris",
        digest: &digest,
        release: &release.release,
        base: Some(&base),
        base_reference: Some(("docker.io/library/python:3.11", &digest)),
        environment: Some(environment.path()),
        scorer: Some("0.1.0"),
        onnxruntime: None,
        version: "0.1.0",
    };
    let text = sbom(&contents).unwrap();
    assert_eq!(text, sbom(&contents).unwrap());
    let document: Value = serde_json::from_slice(&text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for named in
        ["pkg:pypi/six@1.16.0", "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64", "moorline-scorer"]
    {
        assert!(text.contains(named), "{named}: {text}");
    }
    let packages = document["packages"].as_array().unwrap();
    let mut ids: Vec<&str> = packages.iter().map(|package| package["SPDXID"].as_str().unwrap()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "no two packages have one id");
    let relationships = document["relationships"].as_array().unwrap();
    assert_eq!(relationships.len(), count, "every package is part of something, the image of the document");
    for relationship in relationships {
        assert!(ids.contains(&relationship["relatedSpdxElement"].as_str().unwrap()));
    }
    let model = release.release.model.as_ref().unwrap();
    assert!(text.contains(&model.files[0].sha256.hex()), "the model's files are known by their digests");
}
