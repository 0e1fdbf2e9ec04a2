//! A device from its enrolment on: the real agent in a process of its own, the real hub, the real scorer. It is killed, its
//! hub goes away, and it is lied to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{Router, extract, http::StatusCode, routing::get};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use moorline_core::Digest;
use moorline_edge::{
    desired::{Desired, DesiredModule, DesiredRoute, Messaging, Signer, Variable},
    enrol::{AGENT, EnrolConfig, Enrolments, EnrolmentsError, Facts},
    hub::{
        ClientId, Hub, HubConfig, HubEvent, Identity, Listed, MethodCall, Proof, Upstream, UpstreamMessage,
    },
    metrics::Snapshot,
    modules::Version,
};
use rumqttc::mqttbytes::v4::ConnectReturnCode;
use serde_json::{Value, json};

use crate::{
    modules::{Place as Releases, scorer},
    place::{PATIENCE, Pki, Wire, id, soon, token, trusting, until},
};

#[derive(Debug, Default)]
pub(crate) struct Tokens {
    good: Mutex<Vec<String>>,
    pub(crate) renews: AtomicBool,
}

#[async_trait]
impl Enrolments for Tokens {
    async fn redeem(&self, _: &str, token: &str) -> Result<bool, EnrolmentsError> {
        let mut tokens = self.good.lock().unwrap();
        let known = tokens.iter().position(|own| own == token);
        Ok(known.map(|at| tokens.remove(at)).is_some())
    }

    async fn may_renew(&self, _: &str) -> Result<bool, EnrolmentsError> {
        Ok(self.renews.load(Ordering::Relaxed))
    }
}

pub(crate) fn agent_id() -> ClientId {
    id(&format!("dev1/{AGENT}"))
}

/// A server: its hub, and what it answers over HTTP.
pub(crate) struct Server {
    pub(crate) hub: Hub,
    pub(crate) identities: Arc<Listed>,
    pub(crate) pki: Pki,
    pub(crate) signer: Signer,
    pub(crate) tokens: Arc<Tokens>,
    blobs: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    http: SocketAddr,
    pub(crate) releases: Releases,
}

impl Server {
    pub(crate) async fn start(lifetime: Duration) -> Option<Self> {
        Self::start_on(Ipv4Addr::LOCALHOST, lifetime).await
    }

    /// One that is reached at this address of the machine.
    pub(crate) async fn start_on(address: Ipv4Addr, lifetime: Duration) -> Option<Self> {
        let releases = Releases::new()?;
        let folder = releases.folder.path();
        let host = if address.is_loopback() { "localhost".to_owned() } else { address.to_string() };
        let pki = Pki::new(folder, &[&host]);
        let identities = Arc::new(Listed::default());
        identities.set(agent_id(), Identity { proof: Proof::Authority, enabled: true });
        let hub = Self::hub_on((address, 0).into(), &pki, folder.join("hub"), &identities).await;
        let signer = Signer::open(&Signer::create().unwrap()).unwrap();
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let http = listener.local_addr().unwrap();
        let blobs = Arc::new(Mutex::new(BTreeMap::<String, Vec<u8>>::new()));
        let tokens = Arc::new(Tokens { good: Mutex::new(vec!["once".to_owned()]), ..Tokens::default() });
        let config = EnrolConfig {
            enrolments: Arc::clone(&tokens) as _,
            authority: pki.authority.clone(),
            facts: Facts {
                hub: "localhost".to_owned(),
                hub_host: host,
                hub_port: hub.mqtt_address().port(),
                trust: pki.authority.certificate().to_owned(),
                releases: format!("http://{http}/blobs"),
                keys: vec![signer.public_key()],
            },
            lifetime,
        };
        let served = Arc::clone(&blobs);
        let blob = async move |extract::Path(digest): extract::Path<String>| {
            served.lock().unwrap().get(&digest).cloned().ok_or(StatusCode::NOT_FOUND)
        };
        let router =
            Router::new().route("/blobs/{digest}", get(blob)).merge(moorline_edge::enrol::router(config));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Some(Self { hub, identities, pki, signer, tokens, blobs, http, releases })
    }

    pub(crate) async fn hub(pki: &Pki, folder: PathBuf, port: u16, identities: &Arc<Listed>) -> Hub {
        Self::hub_on((Ipv4Addr::LOCALHOST, port).into(), pki, folder, identities).await
    }

    async fn hub_on(address: SocketAddr, pki: &Pki, folder: PathBuf, identities: &Arc<Listed>) -> Hub {
        let config = HubConfig::new(folder, "localhost".to_owned(), address, pki.tls_files());
        Hub::start(config, identities.clone(), &prometheus::Registry::new()).await.unwrap()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.releases.folder.path().join("device")
    }

    /// Puts the files of a version where devices fetch them.
    pub(crate) fn publish(&self, version: &Version) {
        for path in [version.folder.join("release.json"), version.folder.join("model/model.onnx")] {
            let bytes = fs_err::read(path).unwrap();
            self.blobs.lock().unwrap().insert(Digest::of(&bytes).to_string(), bytes);
        }
    }

    pub(crate) async fn wish(&self, serial: u64, modules: &[(&str, &Version)]) {
        let modules: BTreeMap<String, DesiredModule> =
            modules.iter().map(|(name, version)| ((*name).to_owned(), version.module.clone())).collect();
        self.set(&self.signer.document("dev1", &Desired { serial, modules, ..Desired::default() })).await;
    }

    pub(crate) async fn set(&self, document: &Value) {
        let version = self.hub.twin(&agent_id()).unwrap().desired.version + 1;
        self.hub.replace_desired(&agent_id(), document, version).await.unwrap();
    }

    /// What the device reported, once it is as expected.
    pub(crate) async fn reported(&self, what: &str, expected: impl Fn(&Value) -> bool) -> Value {
        let mut often = tokio::time::interval(Duration::from_millis(50));
        let begun = std::time::Instant::now();
        loop {
            let reported = Value::Object(self.hub.twin(&agent_id()).unwrap().reported.properties);
            if expected(&reported) {
                return reported;
            }
            assert!(begun.elapsed() < 2 * PATIENCE, "{what}: {reported:#}");
            often.tick().await;
        }
    }

    pub(crate) fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_moorline-edge"));
        command.arg(verb).arg("--folder").arg(self.folder());
        command
    }

    pub(crate) fn enrol(&self, token: &str) -> bool {
        let path = self.releases.folder.path().join("token");
        fs_err::write(&path, token).unwrap();
        let server = format!("http://{}", self.http);
        let mut command = self.command("enrol");
        command.args(["--server", &server, "--device", "dev1", "--insecure-http", "--token-file"]).arg(path);
        command.stderr(Stdio::null()).status().unwrap().success()
    }

    pub(crate) fn run(&self) -> Agent {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, arguments: &[&str]) -> Agent {
        let mut command = self.command("run");
        command.args(arguments);
        Agent(command.arg("--scorer").arg(scorer().unwrap()).spawn().unwrap())
    }
}

pub(crate) struct Agent(pub(crate) Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // SIGKILL: as a loss of power to everything that it has in memory.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn runs(reported: &Value, name: &str, version: &Version) -> bool {
    let module = &reported["modules"][name];
    module["runtimeStatus"] == "running" && module["release"] == json!(version.module.settings.release)
}

/// The module's answer: what the hub was told last may be of an agent before this one, whose module is gone.
pub(crate) async fn score(reported: &Value, name: &str) -> Value {
    let address = reported["modules"][name]["address"].as_str().unwrap();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut often = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        loop {
            often.tick().await;
            let asked = client
                .post(format!("http://{address}/score"))
                .json(&json!({"input_data": [[1.0, 3.0, 5.0]]}));
            if let Ok(answer) = asked.send().await
                && answer.status().is_success()
            {
                return answer.json().await.unwrap();
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_enrols_runs_what_is_signed_and_comes_back_after_every_kill() {
    let Some(mut server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(!server.enrol("guessed"));
    assert!(server.enrol("once"));
    assert!(!server.enrol("once"), "a token is good for one enrolment");
    let (first, second) = (server.releases.version(1, |_, _| {}), server.releases.version(2, |_, _| {}));
    let wrong = server.releases.version(3, |_, golden| golden.answer = json!([[9.0, 9.0, 9.0]]));
    for version in [&first, &second, &wrong] {
        server.publish(version);
    }
    let mut agent = server.run();
    server.wish(1, &[("m", &first)]).await;
    let reported = server.reported("the first version", |reported| runs(reported, "m", &first)).await;
    assert_eq!(score(&reported, "m").await, json!([[2.0, 6.0, 10.0]]));
    assert_eq!(reported["lastDesiredStatus"]["code"], 200);
    assert_eq!(reported["lastDesiredSerial"], 1);

    // Methods reach the agent.
    let call = |name: &str, payload: Value| MethodCall {
        name: name.to_owned(),
        payload,
        timeout: PATIENCE,
        connect_timeout: PATIENCE,
    };
    assert_eq!(server.hub.call(&agent_id(), call("ping", json!(null))).await.unwrap().status, 200);
    let logs = server.hub.call(&agent_id(), call("getLogs", json!({"id": "m"}))).await.unwrap();
    assert!(logs.payload["payload"].as_str().unwrap().contains("listening"), "{:?}", logs.payload);
    assert_eq!(server.hub.call(&agent_id(), call("getLogs", json!({"id": "x"}))).await.unwrap().status, 404);

    // A version that answers wrongly is not taken, and the reason is told.
    server.wish(2, &[("m", &wrong)]).await;
    let reported = server
        .reported("the refused version", |reported| {
            reported["modules"]["m"]["statusDescription"]
                .as_str()
                .is_some_and(|why| why.contains("not the known answer"))
        })
        .await;
    assert!(runs(&reported, "m", &first));

    // Forged, for another device, or old: nothing happens, and it is told.
    let document = |serial, device: &str| {
        let modules = BTreeMap::from([("m".to_owned(), second.module.clone())]);
        server.signer.document(device, &Desired { serial, modules, ..Desired::default() })
    };
    let stranger = Signer::open(&Signer::create().unwrap()).unwrap();
    let forged = stranger.document("dev1", &Desired { serial: 9, ..Desired::default() });
    for (lie, why) in [
        (forged, "not signed by a key"),
        (document(9, "dev2"), "is for the device"),
        (document(1, "dev1"), "serial 1"),
    ] {
        server.set(&lie).await;
        let reported = server
            .reported(why, |reported| {
                reported["lastDesiredStatus"]["description"].as_str().is_some_and(|told| told.contains(why))
            })
            .await;
        assert_eq!(reported["lastDesiredStatus"]["code"], 400);
        assert!(runs(&reported, "m", &first));
    }

    // Killed again and again while versions change: each time it comes back with one that works, and ends with the last.
    for round in 0..6_u64 {
        let version = if round % 2 == 0 { &second } else { &first };
        server.wish(10 + round, &[("m", version)]).await;
        let mut moment = tokio::time::interval(Duration::from_millis(1 + round * 150));
        moment.tick().await;
        moment.tick().await;
        drop(agent);
        agent = server.run();
    }
    let reported = server
        .reported("the last version", |reported| {
            reported["lastDesiredSerial"] == 15 && runs(reported, "m", &first)
        })
        .await;
    assert_eq!(score(&reported, "m").await, json!([[2.0, 6.0, 10.0]]));

    // Without a hub and without a place to fetch from, after a kill: it serves.
    let port = server.hub.mqtt_address().port();
    server.hub.clone().shutdown().await;
    server.blobs.lock().unwrap().clear();
    drop(agent);
    let offline = server.run();
    assert_eq!(score(&reported, "m").await, json!([[2.0, 6.0, 10.0]]));
    // The hub is back: so is the device, without being told.
    let folder = server.releases.folder.path().join("hub");
    server.hub = Server::hub(&server.pki, folder, port, &server.identities).await;
    server.wish(16, &[]).await;
    server
        .reported("no module", |reported| {
            reported["lastDesiredSerial"] == 16 && reported["modules"] == json!({})
        })
        .await;
    drop(offline);
    server.hub.clone().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_and_nothing_waits_for_it() {
    // It begins a day ago: two thirds of its life have passed.
    let Some(server) = Server::start(Duration::from_hours(1)).await else { return };
    assert!(server.enrol("once"));
    let path = server.folder().join("identity.json");
    let certificate = || -> Value {
        let identity: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        identity["certificates"].clone()
    };
    let enrolled = certificate();
    let version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    server.wish(1, &[("m", &version)]).await;
    // The server refuses to renew it: the device serves with what it has.
    let agent = server.run();
    server.reported("the module", |reported| runs(reported, "m", &version)).await;
    assert_eq!(certificate(), enrolled);
    drop(agent);
    server.tokens.renews.store(true, Ordering::Relaxed);
    let mut events = server.hub.events();
    let agent = server.run();
    until(|| (certificate() != enrolled).then_some(())).await;
    // It connects again, by the new one.
    let mut connects = 0;
    while connects < 2 {
        connects += usize::from(soon(events.recv()).await.unwrap() == HubEvent::Connected(agent_id()));
    }
    server.wish(2, &[]).await;
    server.reported("no module", |reported| reported["lastDesiredSerial"] == 2).await;
    drop(agent);
    server.hub.clone().shutdown().await;
}

/// A sensor that is a module of the device, and knows its key from where the agent keeps it.
pub(crate) async fn sensor(server: &Server, address: SocketAddr) -> Wire {
    let gateway = server.folder().join("gateway");
    let sensor = id("dev1/sensor");
    let mut often = tokio::time::interval(Duration::from_millis(50));
    soon(async {
        loop {
            often.tick().await;
            let key = fs_err::read_to_string(gateway.join("keys/sensor")).unwrap_or_default();
            let (Ok(trust), Ok(key)) =
                (fs_err::read_to_string(gateway.join("authority.pem")), STANDARD.decode(key))
            else {
                continue;
            };
            let Some(mut wire) = Wire::try_dial(address, &trusting(&trust)).await else { continue };
            let password = token("localhost", &sensor, &key, Duration::from_hours(1));
            let ack =
                wire.try_login(&sensor, |connect| connect.login.as_mut().unwrap().password = password).await;
            if ack.is_some_and(|ack| ack.code == ConnectReturnCode::Success) {
                return wire;
            }
        }
    })
    .await
}

/// The next message that is not what the device measures.
async fn next(upstream: &mut Upstream) -> UpstreamMessage {
    loop {
        let message = soon(upstream.next()).await.unwrap();
        if Snapshot::of(&message).is_none() {
            return message;
        }
        upstream.done(message.sequence).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_scored_on_the_device_and_wait_there_while_it_is_cut_off() {
    let Some(mut server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let mut version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    let sensor_version = version.clone();
    version.module.settings.messaging =
        Some(Messaging { input: "in".to_owned(), output: "scores".to_owned() });
    // More at one time are answered with 429: those messages wait.
    for (name, value) in [("MOORLINE_MAX_CONCURRENT_REQUESTS", "1"), ("MOORLINE_MAX_QUEUE_LENGTH", "0")] {
        version.module.env.insert(name.to_owned(), Variable::Plain { value: value.to_owned() });
    }
    let route = |route: &str| DesiredRoute { route: route.to_owned(), time_to_live_secs: None };
    let desired = Desired {
        serial: 1,
        modules: BTreeMap::from([
            ("m".to_owned(), version.module.clone()),
            ("sensor".to_owned(), sensor_version.module.clone()),
        ]),
        routes: BTreeMap::from([
            (
                "in".to_owned(),
                route(
                    "FROM /messages/modules/sensor/outputs/raw INTO BrokeredEndpoint(\"/modules/m/inputs/in\")",
                ),
            ),
            ("up".to_owned(), route("FROM /messages/modules/m/outputs/scores INTO $upstream")),
        ]),
        ..Desired::default()
    };
    server.set(&server.signer.document("dev1", &desired)).await;
    // A port that is free now, and stays the agent's over its restarts.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let listen = address.to_string();
    let arguments = ["--listen", listen.as_str()];
    let agent = server.run_with(&arguments);
    let reported = server
        .reported("both modules", |reported| {
            runs(reported, "m", &version) && runs(reported, "sensor", &sensor_version)
        })
        .await;
    assert_eq!(reported["gateway"], listen);

    let topic = "devices/dev1/modules/sensor/messages/events/%24.on=raw&unit=C";
    let mut numbers = 0..;
    let send = async |wire: &mut Wire, number: u64| {
        let body = json!({"input_data": [[number, 1.0, 2.0]]}).to_string();
        assert!(wire.deliver(&format!("{topic}&%24.mid=q{number}"), &body).await);
    };
    let mut wire = sensor(&server, address).await;
    for number in numbers.by_ref().take(20) {
        send(&mut wire, number).await;
    }
    // What cannot be scored is answered too, and keeps nothing behind it.
    assert!(wire.deliver(topic, "nonsense").await);
    let mut upstream = server.hub.upstream();
    for number in 0..20_u64 {
        let message = next(&mut upstream).await;
        assert_eq!(message.sender, id("dev1/m"));
        let answer: Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(answer, json!([[2.0 * number as f64, 2.0, 4.0]]));
        assert_eq!(message.properties.system("cid"), Some(format!("q{number}").as_str()));
        assert_eq!(
            (message.properties.system("on"), message.properties.own("unit")),
            (Some("scores"), Some("C"))
        );
        upstream.done(message.sequence).unwrap();
    }
    let message = next(&mut upstream).await;
    assert_eq!(message.properties.own("moorline-error"), Some("400"));
    upstream.done(message.sequence).unwrap();

    // Cut off, and killed in the middle of it.
    let port = server.hub.mqtt_address().port();
    drop(upstream);
    server.hub.clone().shutdown().await;
    for number in numbers.by_ref().take(40) {
        send(&mut wire, number).await;
    }
    drop(agent);
    let agent = server.run_with(&arguments);
    let mut wire = sensor(&server, address).await;
    for number in numbers.by_ref().take(10) {
        send(&mut wire, number).await;
    }
    let folder = server.releases.folder.path().join("hub");
    server.hub = Server::hub(&server.pki, folder, port, &server.identities).await;
    let mut upstream = server.hub.upstream();
    let mut seen = BTreeSet::new();
    let mut due = 20;
    while due < 70 {
        let message = soon(upstream.next()).await.unwrap();
        upstream.done(message.sequence).unwrap();
        // The last one before may come again: the device may not have heard that it was taken. And the agent's last will.
        if message.properties.own("moorline-error").is_some() || message.sender != id("dev1/m") {
            continue;
        }
        // What comes twice has the same id.
        let first = seen.insert(message.properties.system("mid").unwrap().to_owned());
        let asked: u64 = message.properties.system("cid").unwrap()[1..].parse().unwrap();
        assert!(asked <= due, "{asked} came when {due} was due");
        assert!(first || asked < due);
        due = due.max(asked + 1);
    }
    drop(agent);
    server.hub.clone().shutdown().await;
}
