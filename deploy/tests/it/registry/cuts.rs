//! Transfers that are cut: they go on where they were, or begin again, and end with what is right.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use moorline_core::{Digest, ErrorClass};
use moorline_deploy::{
    Progress, Step,
    registry::{RegistryError, Wanted},
};
use serde_json::json;
use tokio::sync::Notify;

use super::{
    fixture::{CONFIG, Images, LAYER, MANIFEST, Registry, bytes, describe, digest, registries},
    scripted::{Answer, Asked, Scripted, answer},
};
use crate::place::eventually;

const MEBI: usize = 1 << 20;

/// Debian's registry gives up an upload that was cut within a part, whose blob then begins again; what came whole is not
/// sent twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_outlives_the_registry() {
    let Some(registry) = Registry::start().await else { return };
    let own = Images::new();
    let image = own.image("amd64", &[bytes(60, 50 * MEBI), bytes(61, 50 * MEBI), bytes(62, 1000)]);
    let (halfway, was) = (Arc::new(Notify::new()), AtomicBool::new(false));
    let progress = Progress::new({
        let halfway = Arc::clone(&halfway);
        move |step| {
            if let Step::Transfer { done, .. } = step
                && done > 20 * MEBI as u64
                && !was.swap(true, Ordering::Relaxed)
            {
                halfway.notify_one();
            }
        }
    });
    let name = registry.reference("durable:1");
    let registries = registries(&[]);
    let power_cut = async {
        halfway.notified().await;
        registry.kill();
        registry.start_again().await;
    };
    let (pushed, ()) = tokio::join!(registries.push(&own.layout, &image, &name, &[], &progress), power_cut);
    assert_eq!(pushed.unwrap().blobs_sent, 4);
    let pulled = Images::new();
    registries.pull(&name, &Wanted::All, &pulled.layout, &Progress::none()).await.unwrap();
    assert!(pulled.layout.has(&Digest::of(&bytes(61, 50 * MEBI))));
}

/// An upload that takes at most a few bytes of a part before the connection is cut, once.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_where_the_registry_says_that_it_is() {
    let own = Images::new();
    let layer = bytes(70, 20 * MEBI);
    let image = own.image("amd64", std::slice::from_ref(&layer));
    let taken = AtomicUsize::new(0);
    let cuts = AtomicUsize::new(0);
    let registry = Scripted::start(move |_, asked| {
        let range = |end: usize| format!("0-{}", end.saturating_sub(1));
        match asked.method.as_str() {
            "HEAD" => answer(404),
            "POST" => answer(202).header("location", "/v2/app/blobs/uploads/1?state=a"),
            "PATCH" if asked.body.len() == 16 * MEBI && cuts.fetch_add(1, Ordering::Relaxed) == 0 => {
                // It came, part of it was written, and the answer is lost.
                taken.store(5 * MEBI, Ordering::Relaxed);
                answer(503)
            }
            "PATCH" => {
                assert_eq!(
                    asked.header("content-range").split('-').next(),
                    Some(&*taken.load(Ordering::Relaxed).to_string())
                );
                let end = taken.fetch_add(asked.body.len(), Ordering::Relaxed) + asked.body.len();
                answer(202).header("location", "/v2/app/blobs/uploads/1?state=b").header("range", range(end))
            }
            "GET" => answer(204)
                .header("location", "/v2/app/blobs/uploads/1?state=c")
                .header("range", range(taken.load(Ordering::Relaxed))),
            _ => answer(201),
        }
    })
    .await;
    let name = registry.reference("app:1");
    let pushed = registries(&[]).push(&own.layout, &image, &name, &[], &Progress::none()).await.unwrap();
    assert_eq!(pushed.blobs_sent, 2);
    let asked = registry.asked();
    let parts: Vec<&Asked> = asked.iter().filter(|asked| asked.method == "PATCH").collect();
    let ranges: Vec<&str> = parts.iter().map(|asked| asked.header("content-range")).collect();
    let (five, sixteen, twenty) = (5 * MEBI, 16 * MEBI, 20 * MEBI);
    assert_eq!(ranges, [format!("0-{}", sixteen - 1), format!("{five}-{}", twenty - 1)]);
    assert_eq!(parts[1].body, layer[five..]);
    assert_eq!(parts[1].target, "/v2/app/blobs/uploads/1?state=c");
    let digest = Digest::of(&layer).to_string().replace(':', "%3A");
    assert!(
        asked
            .iter()
            .any(|asked| asked.is("PUT", &format!("/v2/app/blobs/uploads/1?state=b&digest={digest}")))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_no_parts_gets_the_whole() {
    let own = Images::new();
    let layer = bytes(71, 2 * MEBI);
    let image = own.image("amd64", std::slice::from_ref(&layer));
    let registry = Scripted::start(|_, asked| match asked.method.as_str() {
        "HEAD" => answer(404),
        "POST" => answer(202).header("location", "1"),
        "PATCH" => answer(405),
        _ => answer(201),
    })
    .await;
    let name = registry.reference("app:1");
    registries(&[]).push(&own.layout, &image, &name, &[], &Progress::none()).await.unwrap();
    let whole =
        registry.asked().into_iter().find(|asked| asked.method == "PUT" && asked.body.len() == layer.len());
    let whole = whole.expect("it was sent whole");
    assert_eq!(whole.body, layer);
    assert_eq!(whole.header("content-length"), layer.len().to_string());
}

/// A registry of one image, whose layer is given as `give` says.
async fn of_layer(
    layer: Vec<u8>,
    announced: u64,
    give: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
) -> (Scripted, Digest) {
    let own = Images::new();
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
    let blob = Digest::of(&layer);
    let image = json!({
        "config": describe(CONFIG, &Digest::of(config), config.len() as u64),
        "layers": [describe(LAYER, &blob, announced)],
    });
    let image = digest(&own.document(MANIFEST, image));
    let manifest = own.layout.read(&image).expect("it was just written");
    let registry = Scripted::start(move |_, asked| {
        if asked.target.contains("/manifests/") {
            answer(200).header("content-type", MANIFEST).content(manifest.clone())
        } else if asked.target.ends_with(&blob.hex()) {
            give(asked)
        } else {
            answer(200).content(&config[..])
        }
    })
    .await;
    (registry, blob)
}

async fn pull(registry: &Scripted) -> (Images, Result<oci_spec::image::Descriptor, RegistryError>) {
    let pulled = Images::new();
    let name = registry.reference("app:1");
    let result = registries(&[]).pull(&name, &Wanted::All, &pulled.layout, &Progress::none()).await;
    assert!(pulled.leftovers().is_empty());
    (pulled, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_a_cut_with_ranges_or_without() {
    for with_ranges in [true, false] {
        let layer = bytes(80, MEBI);
        let content = layer.clone();
        let cuts = AtomicUsize::new(0);
        let (registry, blob) = of_layer(layer, MEBI as u64, move |asked| {
            let from: Option<usize> = asked
                .header("range")
                .strip_prefix("bytes=")
                .map(|range| range.trim_end_matches('-').parse().unwrap());
            let cut = cuts.fetch_add(1, Ordering::Relaxed);
            let begin = from.filter(|_| with_ranges).unwrap_or(0);
            let answer = match begin {
                0 => answer(200),
                begin => answer(206).header("content-range", format!("bytes {begin}-{}/{MEBI}", MEBI - 1)),
            };
            let answer = answer.header("content-length", MEBI - begin);
            match cut {
                0 => answer.content(content[..300_000].to_vec()).cut(),
                1 => answer.content(content[begin..700_000].to_vec()).cut(),
                _ => answer.content(content[begin..].to_vec()),
            }
        })
        .await;
        let (pulled, result) = pull(&registry).await;
        result.unwrap();
        assert!(pulled.layout.has(&blob));
        let asked = registry.asked();
        let ranges: Vec<&str> = asked
            .iter()
            .filter(|asked| asked.target.ends_with(&blob.hex()))
            .map(|asked| asked.header("range"))
            .collect();
        assert_eq!(ranges.len(), 3, "{ranges:?}");
        assert!(
            ranges[0].is_empty() && ranges[1..].iter().all(|range| range.starts_with("bytes=")),
            "{ranges:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_another_length_is_refused() {
    for announced in [999, 1001] {
        let content = bytes(81, 1000);
        let layer = content.clone();
        let (registry, blob) =
            of_layer(layer, announced, move |_| answer(200).content(content.clone())).await;
        let (pulled, result) = pull(&registry).await;
        let error = result.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Internal);
        let host = &registry.host;
        let said = format!(
            "registry `{host}` sent 1000 bytes of blob {blob}, where {announced} were announced; nothing of it was kept"
        );
        assert_eq!(error.to_string(), said);
        assert!(!pulled.layout.has(&blob));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_about_a_blob_is_refused() {
    let (registry, blob) =
        of_layer(bytes(82, 1000), 1000, move |_| answer(200).content(bytes(83, 1000))).await;
    let (pulled, result) = pull(&registry).await;
    let error = result.unwrap_err().to_string();
    let said = format!("registry `{}` sent something else as blob {blob}: its digest is ", registry.host);
    assert!(error.starts_with(&said), "{error}");
    assert!(!pulled.layout.has(&blob));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_run_of_cuts_ends() {
    let (registry, blob) =
        of_layer(bytes(84, 1000), 1000, |_| answer(200).header("content-length", 1000).cut()).await;
    let (pulled, result) = pull(&registry).await;
    assert_eq!(result.unwrap_err().class(), ErrorClass::Unavailable);
    assert!(!pulled.layout.has(&blob));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_given_up_leaves_nothing() {
    let (registry, blob) = of_layer(bytes(85, MEBI), MEBI as u64, |_| {
        answer(200).header("content-length", MEBI).content(bytes(85, 100_000)).stuck()
    })
    .await;
    let pulled = Images::new();
    let (name, registries) = (registry.reference("app:1"), registries(&[]));
    let begun = Arc::new(Notify::new());
    let progress = Progress::new({
        let begun = Arc::clone(&begun);
        move |step| {
            if let Step::Transfer { done: 1.., total, .. } = step
                && total == MEBI as u64
            {
                begun.notify_one();
            }
        }
    });
    tokio::select! {
        result = registries.pull(&name, &Wanted::All, &pulled.layout, &progress) => panic!("{result:?}"),
        () = begun.notified() => {}
    }
    eventually("the partial file goes away", || pulled.leftovers().is_empty()).await;
    assert!(!pulled.layout.has(&blob));
}
