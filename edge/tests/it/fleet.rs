//! Who gets which file of a release, and which secret, over the hub's HTTPS.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use moorline_core::{
    DeploymentId, Digest, ErrorClass, Name, Observation, Phase, Placement, Probe, Release, Resources, Scale,
    Scheduling, Secret, Source, Target as _, Variable,
};
use moorline_edge::{
    desired::Signer,
    fleet::{Files, Fleet, FleetConfig, FleetSettings, Member, Members, MembersError},
    hub::{AGENT, ClientId, Hub, HubConfig, Identity, Listed, Proof},
    manifest::RestartPolicy,
    supply,
};

use crate::{
    modules::Place,
    place::{Pki, id, soon, until},
};

#[derive(Debug)]
struct Two;

#[async_trait]
impl Members for Two {
    async fn members(&self) -> Result<Vec<Member>, MembersError> {
        let member = |device: &str| Member { workspace: "main".parse().unwrap(), device: device.to_owned() };
        Ok(vec![member("dev1"), member("dev2")])
    }

    async fn secret(&self, workspace: &Name, name: &str) -> Result<Option<Secret>, MembersError> {
        assert_eq!(workspace.as_str(), "main");
        Ok(matches!(name, "key" | "other").then(|| Secret::new(format!("the value of {name}"))))
    }
}

fn agent(device: &str) -> ClientId {
    id(&format!("{device}/{AGENT}"))
}

/// A client with the certificate of a device's agent, or with none.
fn client(pki: &Pki, device: Option<&str>) -> reqwest::Client {
    let trust = reqwest::Certificate::from_pem(pki.authority.certificate().as_bytes()).unwrap();
    let mut builder = reqwest::Client::builder().tls_certs_only([trust]).no_proxy();
    if let Some(device) = device {
        let issued = pki.authority.issue_client(&agent(device), Duration::from_hours(1)).unwrap();
        let pem = format!("{}\n{}", issued.certificates, issued.key);
        builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
    }
    builder.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_the_files_of_its_own_releases_and_nobody_else_does() {
    let Some(place) = Place::new() else { return };
    let version = place.version(1, |_, _| {});
    let pki = Pki::new(place.folder.path(), &["localhost"]);
    let identities = Arc::new(Listed::default());
    for device in ["dev1", "dev2"] {
        identities.set(agent(device), Identity { proof: Proof::Authority, enabled: true });
    }
    let local = ([127, 0, 0, 1], 0).into();
    let folder = place.folder.path().join("hub");
    let mut config = HubConfig::new(folder, "localhost".to_owned(), local, pki.tls_files());
    config.https = Some(local);
    let hub = Hub::start(config, identities.clone(), &prometheus::Registry::new()).await.unwrap();
    let signer = Signer::open(&Signer::create().unwrap()).unwrap();
    let fleet = Fleet::start(FleetConfig {
        hub: hub.clone(),
        signer,
        members: Arc::new(Two),
        files: Files { releases: place.folder.path().to_owned(), blobs: place.folder.path().join("blobs") },
        on_change: Arc::new(|_| {}),
    });
    hub.serve_also(supply::router(hub.clone(), fleet.clone()));
    let mut settings = FleetSettings {
        condition: "deviceId = 'dev1'".parse().unwrap(),
        condition_text: "deviceId = 'dev1'".to_owned(),
        priority: 0,
        module: Some("double".to_owned()),
        restart_policy: RestartPolicy::Always,
        stages: Vec::new(),
        max_failure_rate: 0.0,
        paused: false,
        messaging: None,
        routes: BTreeMap::new(),
    };
    let target = fleet.target(settings.clone());
    let json = fs_err::read_to_string(version.folder.join(Release::FILE)).unwrap();
    let deployment = DeploymentId {
        workspace: "main".parse().unwrap(),
        endpoint: "double".parse().unwrap(),
        deployment: "blue".parse().unwrap(),
    };
    let placement = Placement {
        id: deployment.clone(),
        release: Release::parse(&json).unwrap(),
        source: Source::Folder { path: version.folder.clone(), python: None },
        replicas: 1,
        scale: Scale::Fixed { instances: 1 },
        resources: Resources::default(),
        scheduling: Scheduling::default(),
        liveness: Probe::default(),
        readiness: Probe::default(),
        variables: BTreeMap::new(),
        own_server: None,
        machine_devices: None,
        golden: None,
    };
    assert_eq!(target.observe(&deployment).await.unwrap(), Observation::absent());
    target.apply(&placement).await.unwrap();
    let told = hub.twin(&agent("dev1")).unwrap().desired.properties;
    assert_eq!(told["modules"]["double"]["deployment"], "main/double/blue");
    assert!(hub.twin(&agent("dev2")).unwrap().desired.properties.is_empty());

    let base = format!("https://localhost:{}{}", hub.https_address().unwrap().port(), supply::PATH);
    let ask = async |client: &reqwest::Client, file: &str, from: Option<u64>| {
        let mut request = client.get(format!("{base}/{file}"));
        if let Some(from) = from {
            request = request.header("range", format!("bytes={from}-"));
        }
        let answer = soon(request.send()).await.unwrap();
        (answer.status().as_u16(), soon(answer.bytes()).await.unwrap())
    };
    let model = fs_err::read(version.folder.join("model/model.onnx")).unwrap();
    let (file, release) = (Digest::of(&model).to_string(), placement.release.digest().to_string());
    let (own, other, nobody) = (client(&pki, Some("dev1")), client(&pki, Some("dev2")), client(&pki, None));
    assert_eq!(ask(&own, &file, None).await, (200, model.clone().into()));
    assert_eq!(ask(&own, &release, None).await, (200, json.into_bytes().into()));
    assert_eq!(ask(&own, &file, Some(7)).await, (206, model[7..].to_vec().into()));
    assert_eq!(ask(&own, &file, Some(model.len() as u64)).await.0, 416);
    assert_eq!(ask(&own, &Digest::of(b"other").to_string(), None).await.0, 404);
    assert_eq!(ask(&own, "..%2F..%2Fetc%2Fpasswd", None).await.0, 404);
    assert_eq!(ask(&other, &file, None).await.0, 404);
    assert_eq!(ask(&nobody, &file, None).await.0, 401);

    // A secret is named in the document, and given to the device whose document names it.
    let value = Secret::new("the value of key".to_owned());
    let key = Variable::Secret { reference: "key".to_owned(), version: 7, value };
    let secret = Placement { variables: BTreeMap::from([("KEY".to_owned(), key)]), ..placement.clone() };
    assert_eq!(ask(&own, "../secrets/key", None).await.0, 404);
    target.apply(&secret).await.unwrap();
    let told = hub.twin(&agent("dev1")).unwrap().desired.properties;
    let variable = serde_json::json!({"secret": "key", "version": 7});
    assert_eq!(told["modules"]["double"]["env"]["KEY"], variable);
    assert!(!serde_json::to_string(&told).unwrap().contains("the value"));
    assert_eq!(ask(&own, "../secrets/key", None).await, (200, "the value of key".into()));
    assert_eq!(ask(&own, "../secrets/other", None).await.0, 404);
    assert_eq!(ask(&other, "../secrets/key", None).await.0, 404);
    assert_eq!(ask(&nobody, "../secrets/key", None).await.0, 401);

    // A device that is not told yet of a newer release gets what it was told of.
    let newer = place.version(2, |_, _| {});
    let text = fs_err::read_to_string(newer.folder.join(Release::FILE)).unwrap();
    let newer = Placement { release: Release::parse(&text).unwrap(), ..placement.clone() };
    settings.paused = true;
    fleet.target(settings.clone()).apply(&newer).await.unwrap();
    assert_eq!(ask(&own, &release, None).await.0, 200);
    assert_eq!(ask(&own, &newer.release.digest().to_string(), None).await.0, 404);
    assert!(fleet.needed().contains(&placement.release.digest()));
    target.apply(&placement).await.unwrap();

    identities.set(agent("dev1"), Identity { proof: Proof::Authority, enabled: false });
    assert_eq!(ask(&own, &file, None).await.0, 401);

    // A document that no twin holds is refused, and the one before stays.
    let long = Variable::Plain("x".repeat(5000));
    let refused = Placement { variables: BTreeMap::from([("X".to_owned(), long)]), ..placement.clone() };
    let error = target.apply(&refused).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::InvalidInput, "{error}");
    let told = hub.twin(&agent("dev1")).unwrap().desired.properties;
    assert!(told["modules"]["double"]["env"].is_null(), "{told:?}");
    target.apply(&placement).await.unwrap();

    // What a person changes in the twin is put right, and what is taken away is gone.
    let agent = agent("dev1");
    let version = hub.twin(&agent).unwrap().desired.version;
    hub.patch_desired(&agent, &serde_json::json!({ "modules": null }), Some(version)).await.unwrap();
    fleet.look();
    let modules = || hub.twin(&agent).unwrap().desired.properties.get("modules").cloned();
    until(|| modules().filter(|modules| modules["double"].is_object())).await;
    assert_eq!(target.observe(&deployment).await.unwrap().phase, Phase::Progressing);
    target.remove(&deployment).await.unwrap();
    assert_eq!(modules(), Some(serde_json::json!({})));
    fleet.shutdown().await;
    hub.shutdown().await;
}
