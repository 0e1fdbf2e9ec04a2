//! Tokens and passwords: got where the registry says, sent to nobody else, and never shown.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use moorline_core::{ErrorClass, Secret};
use moorline_deploy::{
    Progress,
    registry::{Credentials, HostSettings, Registries, RegistryConfig},
};

use super::{
    fixture::{INDEX, Images, bytes, registries, user},
    scripted::{Answer, Asked, Scripted, answer},
};

const INDEX_BODY: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

fn with(host: &str, credentials: Option<Credentials>) -> Registries {
    registries(&[(host, HostSettings { credentials, ..HostSettings::default() })])
}

/// A registry that wants a token of its own; `token` answers at its realm.
fn guarded(host: &str, asked: &Asked, token: impl Fn(&Asked) -> Answer) -> Answer {
    if asked.target.starts_with("/token") {
        return token(asked);
    }
    if asked.header("authorization") == "Bearer t0ken" {
        return match asked.method.as_str() {
            "GET" => answer(200).header("content-type", INDEX).content(INDEX_BODY),
            "HEAD" if asked.target.contains("/blobs/") => answer(200),
            "HEAD" => answer(405),
            _ => answer(201),
        };
    }
    let realm = format!(r#"Bearer realm="http://{host}/token",service="test",scope="repository:app:pull""#);
    answer(401).header("www-authenticate", realm)
}

fn token() -> Answer {
    // Both names of the same, as Docker Hub sends it.
    answer(200).content(r#"{"token":"t0ken","access_token":"t0ken","expires_in":300}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_got_once_and_serves_until_it_ends() {
    let registry = Scripted::start(|host, asked| guarded(host, asked, |_| token())).await;
    let registries = with(&registry.host, Some(user("porter", "sesame")));
    for _ in 0..3 {
        registries.resolve(&registry.reference("app:1")).await.unwrap();
    }
    let own = Images::new();
    let image = own.image("amd64", &[bytes(90, 10), bytes(91, 10), bytes(92, 10)]);
    registries
        .push(&own.layout, &image, &registry.reference("app:2"), &["base".to_owned()], &Progress::none())
        .await
        .unwrap();
    let asked = registry.asked();
    let tokens: Vec<&Asked> = asked.iter().filter(|asked| asked.target.starts_with("/token")).collect();
    let targets: Vec<&str> = tokens.iter().map(|asked| &*asked.target).collect();
    assert_eq!(
        targets,
        [
            "/token?service=test&scope=repository%3Aapp%3Apull",
            "/token?service=test&scope=repository%3Aapp%3Apull%2Cpush&scope=repository%3Abase%3Apull&scope=repository%3Aapp%3Apull",
        ]
    );
    let basic = format!("Basic {}", BASE64_STANDARD.encode("porter:sesame"));
    assert!(tokens.iter().all(|asked| asked.header("authorization") == basic));
    assert!(
        asked
            .iter()
            .filter(|asked| !asked.target.starts_with("/token"))
            .all(|asked| asked.header("authorization") != basic)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_credentials_a_token_is_asked_for_by_nobody() {
    let registry = Scripted::start(|host, asked| guarded(host, asked, |_| token())).await;
    with(&registry.host, None).resolve(&registry.reference("app:1")).await.unwrap();
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.target.starts_with("/token")).unwrap();
    assert!(!token.headers.contains_key("authorization"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_token_is_exchanged_and_not_sent_as_a_password() {
    let registry = Scripted::start(|host, asked| guarded(host, asked, |_| token())).await;
    let config = tempfile::tempdir().unwrap();
    let auths = serde_json::json!({ "auths": { &registry.host: { "identitytoken": "long&lived" } } });
    fs_err::write(config.path().join("config.json"), auths.to_string()).unwrap();
    let environment = [("DOCKER_CONFIG".to_owned(), config.path().display().to_string())].into();
    let registries = Registries::new(RegistryConfig { environment, ..RegistryConfig::default() }).unwrap();
    registries.resolve(&registry.reference("app:1")).await.unwrap();
    let asked = registry.asked();
    let token = asked.iter().find(|asked| asked.is("POST", "/token")).unwrap();
    assert!(!token.headers.contains_key("authorization"));
    let form = "service=test&grant_type=refresh_token&client_id=moorline&scope=repository%3Aapp%3Apull&refresh_token=long%26lived";
    assert_eq!(token.body, form);
    let known = registries.credentials(&registry.host).await.unwrap().unwrap();
    assert_eq!(known.identity_token().map(Secret::expose), Some("long&lived"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_registry_takes_no_more_is_replaced() {
    let given = AtomicUsize::new(0);
    let asks = AtomicUsize::new(0);
    let registry = Scripted::start(move |host, asked| {
        // The second question finds the first token ended.
        if asked.method == "GET"
            && !asked.target.starts_with("/token")
            && asked.header("authorization") == "Bearer t0ken"
            && asks.fetch_add(1, Ordering::Relaxed) == 1
        {
            return guarded(host, &Asked { headers: http::HeaderMap::new(), ..asked.clone() }, |_| token());
        }
        guarded(host, asked, |_| {
            given.fetch_add(1, Ordering::Relaxed);
            token()
        })
    })
    .await;
    let registries = with(&registry.host, Some(user("porter", "sesame")));
    registries.resolve(&registry.reference("app:1")).await.unwrap();
    registries.resolve(&registry.reference("app:1")).await.unwrap();
    assert_eq!(registry.asked().iter().filter(|asked| asked.target.starts_with("/token")).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_asked_for_where_others_can_listen() {
    let realms = [
        "http://tokens.example.com/",
        "file:///etc/passwd",
        "nonsense",
        "https://me:too@tokens.example.com/",
    ];
    for realm in realms {
        let registry = Scripted::start(move |_, _| {
            answer(401).header("www-authenticate", format!(r#"Bearer realm="{realm}",service="x""#))
        })
        .await;
        let error = with(&registry.host, Some(user("porter", "sesame")))
            .resolve(&registry.reference("app:1"))
            .await
            .unwrap_err();
        let said = format!(
            "registry `{}` gave a wrong answer when asked to give a token: it names `{realm}`",
            registry.host
        );
        assert!(error.to_string().starts_with(&said), "{error}");
        assert_eq!(registry.asked().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registry_says_never_shows_what_it_was_sent() {
    // It shows everything that it was sent, in words and headers.
    let echo = |asked: &Asked| {
        let message =
            serde_json::to_string(&format!("{} {:?}", asked.header("authorization"), asked.body)).unwrap();
        let secret = BASE64_STANDARD.decode(asked.header("authorization").trim_start_matches("Basic "));
        let secret = String::from_utf8(secret.unwrap_or_default()).unwrap_or_default();
        format!(r#"{{"errors":[{{"code":"DENIED","message":{message}}},{{"code":"{secret}"}}]}}"#)
    };
    let host_with_token = Scripted::start(move |host, asked| {
        if asked.target.starts_with("/token") {
            return token();
        }
        if asked.header("authorization").is_empty() {
            return guarded(host, asked, |_| token());
        }
        answer(403).content(echo(asked))
    })
    .await;
    let with_password = Scripted::start(move |_, asked| match asked.header("authorization") {
        "" => answer(401).header("www-authenticate", "Basic realm=x"),
        _ => answer(403).content(echo(asked)),
    })
    .await;
    let with_token_server =
        Scripted::start(move |host, asked| guarded(host, asked, |asked| answer(400).content(echo(asked))))
            .await;
    let own = Images::new();
    let image = own.image("amd64", &[]);
    for registry in [&host_with_token, &with_password, &with_token_server] {
        let registries = with(&registry.host, Some(user("porter", "sesame")));
        let name = registry.reference("app:1");
        let pull = registries.resolve(&name).await.unwrap_err();
        let push = registries.push(&own.layout, &image, &name, &[], &Progress::none()).await.unwrap_err();
        let encoded = BASE64_STANDARD.encode("porter:sesame");
        for shown in [format!("{pull} {pull:?}"), format!("{push} {push:?}"), format!("{registries:?}")] {
            for secret in ["sesame", "t0ken", &encoded] {
                assert!(!shown.contains(secret), "{shown}");
            }
        }
        assert!(matches!(pull.class(), ErrorClass::Forbidden | ErrorClass::InvalidInput), "{pull}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_a_registry_leads_to_does_not_get_what_is_for_it() {
    let elsewhere = Scripted::start(|_, asked| match asked.target.as_str() {
        "/there" => answer(200).header("content-type", INDEX).content(INDEX_BODY),
        _ => answer(404),
    })
    .await;
    let there = Arc::new(format!("http://{}/there", elsewhere.host));
    let registry =
        Scripted::start(move |_, asked| match (asked.header("authorization"), asked.method.as_str()) {
            ("", _) => answer(401).header("www-authenticate", "Basic realm=x"),
            (_, "HEAD") => answer(405),
            _ if asked.target.ends_with("/away") => answer(302).header("location", "http://example.com/"),
            _ if asked.target.ends_with("/round") => {
                answer(307).header("location", "/v2/app/manifests/round")
            }
            _ => answer(307).header("location", &there),
        })
        .await;
    let registries = with(&registry.host, Some(user("porter", "sesame")));
    registries.resolve(&registry.reference("app:1")).await.unwrap();
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].headers.contains_key("authorization"));
    let error = registries.resolve(&registry.reference("app:away")).await.unwrap_err().to_string();
    assert!(error.ends_with("it leads to `example.com`, and not by https"), "{error}");
    let error = registries.resolve(&registry.reference("app:round")).await.unwrap_err().to_string();
    assert!(error.ends_with("it leads on more than 5 times"), "{error}");
}
