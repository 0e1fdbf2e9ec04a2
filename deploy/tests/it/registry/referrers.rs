//! What refers to an image, with registries that list it and with those that do not.

use moorline_core::Digest;
use moorline_deploy::{Progress, registry::Wanted};
use oci_spec::image::Descriptor;
use serde_json::json;

use super::{
    fixture::{INDEX, Images, MANIFEST, Registry, bytes, describe, digest, registries},
    scripted::{Scripted, answer},
};

const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn referrer(own: &Images, subject: &Descriptor, kind: &str) -> Descriptor {
    let empty = own.put(EMPTY, b"{}");
    let content = own.put("text/plain", kind.as_bytes());
    own.document(
        MANIFEST,
        json!({ "artifactType": kind, "config": empty, "layers": [content], "subject": subject, "annotations": { "a": kind } }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_registry_keeps_them_under_a_tag() {
    let Some(registry) = Registry::start().await else { return };
    let (own, none, registries) = (Images::new(), Progress::none(), registries(&[]));
    let image = own.image("amd64", &[bytes(100, 1000)]);
    let name = registry.reference("signed:1");
    registries.push(&own.layout, &image, &name, &[], &none).await.unwrap();
    let at = name.at(digest(&image));
    assert!(registries.referrers(&at, None).await.unwrap().is_empty());
    let [sbom, signature] =
        ["application/spdx+json", "application/x.signature"].map(|kind| referrer(&own, &image, kind));
    for artifact in [&sbom, &signature, &sbom] {
        let to = name.at(digest(artifact));
        registries.push(&own.layout, artifact, &to, &[], &none).await.unwrap();
    }
    let found = registries.referrers(&at, None).await.unwrap();
    assert_eq!(found.iter().map(digest).collect::<Vec<_>>(), [digest(&sbom), digest(&signature)]);
    let found = registries.referrers(&at, Some("application/spdx+json")).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].annotations().as_ref().unwrap()["a"], "application/spdx+json");
    let pulled = Images::new();
    registries.pull(&name.at(digest(&found[0])), &Wanted::All, &pulled.layout, &none).await.unwrap();
    assert!(pulled.layout.has(&Digest::of(b"application/spdx+json")));
    let error = registries.referrers(&name, None).await.unwrap_err();
    assert!(error.to_string().contains("names no digest"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_registry_lists_them_page_by_page() {
    let subject = Digest::of(b"subject");
    let page = |kinds: &[&str]| {
        let manifests: Vec<_> = kinds
            .iter()
            .map(|kind| {
                let mut descriptor = describe(MANIFEST, &Digest::of(kind.as_bytes()), 1);
                descriptor.set_artifact_type(Some((*kind).into()));
                descriptor
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        answer(200).header("content-type", INDEX).content(index.to_string())
    };
    let registry = Scripted::start(move |_, asked| match asked.target.split_once('?') {
        Some((_, "page=2")) => page(&["a/x"]),
        _ => page(&["a/x", "a/y"])
            .header("link", format!("</v2/app/referrers/{subject}?page=2>; rel=\"next\"")),
    })
    .await;
    let at = registry.reference("app:1").at(subject);
    // It does not heed the kind.
    assert_eq!(registries(&[]).referrers(&at, Some("a/x")).await.unwrap().len(), 2);
    assert_eq!(registries(&[]).referrers(&at, None).await.unwrap().len(), 3);
    let asked = registry.asked();
    assert!(
        asked[0].is("GET", &format!("/v2/app/referrers/{subject}?artifactType=a%2Fx")),
        "{}",
        asked[0].target
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_subjects_is_left_to_list_them() {
    let own = Images::new();
    let image = own.image("amd64", &[]);
    let subject = digest(&image);
    let artifact = referrer(&own, &image, "a/x");
    let registry = Scripted::start(move |_, asked| match asked.method.as_str() {
        "HEAD" => answer(200),
        _ => answer(201).header("oci-subject", subject),
    })
    .await;
    let to = registry.reference("app:1").at(digest(&artifact));
    registries(&[]).push(&own.layout, &artifact, &to, &[], &Progress::none()).await.unwrap();
    let puts: Vec<String> = registry
        .asked()
        .into_iter()
        .filter(|asked| asked.method == "PUT")
        .map(|asked| asked.target)
        .collect();
    assert_eq!(puts, [format!("/v2/app/manifests/{}", digest(&artifact))]);
}
