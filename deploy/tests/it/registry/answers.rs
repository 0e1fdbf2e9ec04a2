//! Answers that no sound registry gives, and those of one that has enough: refused, or waited for, within bounds.

use std::sync::atomic::{AtomicUsize, Ordering};

use moorline_core::{Digest, ErrorClass};
use moorline_deploy::{
    Progress,
    registry::{Registries, RegistryConfig, Wanted},
};

use super::{
    fixture::{INDEX, Images, registries},
    scripted::{Answer, Scripted, answer},
};

const INDEX_BODY: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn index() -> Answer {
    answer(200).header("content-type", INDEX).content(INDEX_BODY)
}

/// What a pull of `app:1`, or of `app@digest`, from a registry that always answers this comes to.
async fn pulled(answer: Answer, digest: Option<Digest>) -> Result<Images, (ErrorClass, String)> {
    let registry = Scripted::start(move |_, _| answer.clone()).await;
    let mut name = registry.reference("app:1");
    if let Some(digest) = digest {
        name = name.at(digest);
    }
    let into = Images::new();
    match registries(&[]).pull(&name, &Wanted::All, &into.layout, &Progress::none()).await {
        Ok(_) => Ok(into),
        Err(error) => {
            let blobs = fs_err::read_dir(into.layout.dir().join("blobs/sha256"))
                .expect("blobs can be listed")
                .count();
            assert_eq!(blobs, 0, "nothing is kept");
            Err((error.class(), error.to_string().replace(&registry.host, "HOST")))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_what_was_asked_for_and_what_the_registry_says() {
    let right = Digest::of(INDEX_BODY.as_bytes());
    let wrong = Digest::of(b"other");
    assert!(pulled(index().header("docker-content-digest", right), Some(right)).await.is_ok());
    for (answer, digest) in [(index(), Some(wrong)), (index().header("docker-content-digest", wrong), None)] {
        let (class, text) = pulled(answer, digest).await.unwrap_err();
        assert_eq!(class, ErrorClass::Internal);
        let said = format!(
            "registry `HOST` sent something else as manifest {wrong}: its digest is {right}; nothing of it was kept"
        );
        assert_eq!(text, said);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_bounded_and_of_a_known_kind() {
    let (class, text) = pulled(index().content(vec![b' '; (8 << 20) + 1]), None).await.unwrap_err();
    assert_eq!(class, ErrorClass::TooLarge);
    assert!(text.contains("the registry sent more than 8388608 bytes"), "{text}");
    let schema1 = answer(200)
        .header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
        .content(r#"{"schemaVersion":1,"fsLayers":[]}"#);
    let (class, text) = pulled(schema1, None).await.unwrap_err();
    assert_eq!(class, ErrorClass::Unsupported);
    assert!(
        text.starts_with("`HOST/app:1` is of a kind that is not supported: Docker's manifest of schema 1"),
        "{text}"
    );
    let (_, text) = pulled(answer(200).content("<html>"), None).await.unwrap_err();
    assert!(text.starts_with("`HOST/app:1` is of a kind that is not supported: it is no manifest"), "{text}");
    // An index that names itself cannot be written; one that is served for all its children can.
    let child = format!(r#"{{"mediaType":"{INDEX}","digest":"{}","size":3}}"#, Digest::of(b"child"));
    let nested = answer(200).content(format!(r#"{{"schemaVersion":2,"manifests":[{child}]}}"#));
    assert_eq!(pulled(nested, None).await.unwrap_err().0, ErrorClass::Internal);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_has_enough_is_waited_for_and_not_for_long() {
    for busy in [answer(429).header("retry-after", 1), answer(503), answer(500)] {
        let asked = AtomicUsize::new(0);
        let registry = Scripted::start(move |_, _| match asked.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => busy.clone(),
            _ => index(),
        })
        .await;
        let (name, into) = (registry.reference("app:1"), Images::new());
        registries(&[]).pull(&name, &Wanted::All, &into.layout, &Progress::none()).await.unwrap();
        assert_eq!(registry.asked().len(), 3);
    }
    let registry = Scripted::start(|_, _| answer(429).header("retry-after", 3600)).await;
    let error = registries(&[]).resolve(&registry.reference("app:1")).await.unwrap_err();
    assert_eq!(error.class(), ErrorClass::Overloaded);
    assert!(error.to_string().contains("429 Too Many Requests; try again later"), "{error}");
    assert_eq!(registry.asked().len(), 1, "an hour is not waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_said_in_the_registrys_own_words() {
    let quota = answer(413).content(r#"{"errors":[{"code":"DENIED","message":"quota of team exceeded"}]}"#);
    let (class, text) = pulled(quota, None).await.unwrap_err();
    assert_eq!(class, ErrorClass::TooLarge);
    assert_eq!(
        text,
        "registry `HOST` refused to give the manifest of `app:1`: 413 Payload Too Large: quota of team exceeded"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_stands_before_this_machine() {
    let registry = Scripted::start(|_, _| index()).await;
    // Nobody listens there.
    let environment =
        ["HTTPS_PROXY", "ALL_PROXY"].map(|name| (name.to_owned(), "http://127.0.0.1:1".to_owned()));
    let config = RegistryConfig { environment: environment.into(), ..RegistryConfig::default() };
    Registries::new(config).unwrap().resolve(&registry.reference("app:1")).await.unwrap();
}
