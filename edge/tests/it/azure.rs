//! Four unmodified clients of Azure at once, each proving itself in another way. None ever sees what is another's.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use moorline_edge::{
    hub::{Hub, HubConfig, Identity, Listed, MethodCall, Proof, Properties, SharedKey},
    workload::{Workload, WorkloadConfig},
};
use serde_json::{Value, json};

use crate::{
    place::{PATIENCE, Pki, id, key_of, python, sas_identity, skip, soon},
    sessions::route,
};

/// The client library connects to this port, whatever it is told.
const PORT: u16 = 8883;

/// One client in a process of its own.
struct Client {
    process: Child,
    orders: Option<ChildStdin>,
    lines: mpsc::Receiver<Value>,
    heard: Vec<Value>,
}

impl Client {
    fn start(python: &Path, how: &Value, environment: &[(&'static str, String)]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/azure_client.py");
        let mut process = Command::new(python)
            .arg(script)
            .arg(how.to_string())
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = process.stdin.take();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { process, orders, lines, heard: Vec::new() }
    }

    /// The next thing of this kind that the client says; all that it says is kept.
    fn next(&mut self, event: &str) -> Value {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no `{event}` after {:?}", self.heard));
            self.heard.push(line.clone());
            if line["event"] == event {
                return line;
            }
        }
    }

    /// Waits until the client has said this many things of this kind, whenever.
    fn until(&mut self, event: &str, count: usize) {
        while self.heard.iter().filter(|line| line["event"] == event).count() < count {
            self.next(event);
        }
    }

    fn order(&mut self, order: &Value) {
        writeln!(self.orders.as_mut().unwrap(), "{order}").unwrap();
    }

    /// Ends the client; gives everything that it said.
    fn end(mut self) -> Vec<Value> {
        drop(self.orders.take());
        self.heard.extend(self.lines.iter());
        assert!(self.process.wait().unwrap().success());
        std::mem::take(&mut self.heard)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An address of this process's own: the port is the same for everyone.
fn own_address() -> [u8; 4] {
    let process = std::process::id();
    [127, 1 + (process >> 16 & 0x7f) as u8, (process >> 8) as u8, 1 + (process & 0x7f) as u8]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_real_clients_see_their_own_and_nothing_else() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let address = own_address();
    let host = std::net::Ipv4Addr::from(address).to_string();
    let pki = Pki::new(folder.path(), &[&host]);
    let identities = std::sync::Arc::new(Listed::default());
    let names = ["dev1", "dev1/sas", "dev1/edge", "dev2"];
    for name in &names[..3] {
        identities.set(id(name), sas_identity(&id(name)));
    }
    // By its secondary key.
    let unused = SharedKey::new(&STANDARD.encode([7; 32])).unwrap();
    let own = SharedKey::new(&STANDARD.encode(key_of(&id("dev1/sas")))).unwrap();
    let proof = Proof::Sas { primary: unused, secondary: Some(own) };
    identities.set(id("dev1/sas"), Identity { proof, enabled: true });
    identities.set(id("dev2"), Identity { proof: Proof::Authority, enabled: true });
    let mut config =
        HubConfig::new(folder.path().join("hub"), host.clone(), (address, PORT).into(), pki.tls_files());
    config.https = Some((address, 443).into());
    config.routes = vec![
        route("up", "FROM /messages/* WHERE number = '3' INTO $upstream"),
        route(
            "across",
            "FROM /messages/modules/sas/outputs/out INTO BrokeredEndpoint(\"/modules/edge/inputs/in\")",
        ),
    ];
    let hub = match Hub::start(config, identities.clone(), &prometheus::Registry::new()).await {
        Ok(hub) => hub,
        Err(moorline_edge::hub::HubError::Listen { address, source }) => {
            skip(&format!("could not listen on {address}: {source}"));
            return;
        }
        Err(error) => panic!("{error:?}"),
    };
    for name in names {
        hub.patch_desired(&id(name), &json!({"mine": name}), None).await.unwrap();
    }

    let certificate = pki.authority.issue_client(&id("dev2"), Duration::from_hours(1)).unwrap();
    let (certificate_file, key_file) = (folder.path().join("dev2.pem"), folder.path().join("dev2.key"));
    fs_err::write(&certificate_file, &certificate.certificates).unwrap();
    fs_err::write(&key_file, &certificate.key).unwrap();
    let key = |name: &str| STANDARD.encode(key_of(&id(name)));
    let workload = WorkloadConfig {
        socket: folder.path().join("edge/workload.sock"),
        module: id("dev1/edge"),
        generation: "1".to_owned(),
        key: SharedKey::new(&key("dev1/edge")).unwrap(),
        trust_bundle: pki.authority.certificate().to_owned(),
        authority: pki.authority.clone(),
    };
    let environment = workload.environment(&host, &host);
    let workload = Workload::start(workload).unwrap();
    let trust: PathBuf = pki.trust();
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    let device = json!({"kind": "device_sas", "trust": trust,
        "connection": format!("HostName={host};DeviceId=dev1;SharedAccessKey={}", key("dev1"))});
    clients.insert("dev1", Client::start(&python, &device, &[]));
    let module = json!({"kind": "module_sas", "trust": trust, "connection": format!(
        "HostName={host};DeviceId=dev1;ModuleId=sas;SharedAccessKey={};GatewayHostName={host}", key("dev1/sas"))});
    clients.insert("dev1/sas", Client::start(&python, &module, &[]));
    clients.insert("dev1/edge", Client::start(&python, &json!({"kind": "module_edge"}), &environment));
    let x509 = json!({"kind": "device_x509", "trust": trust, "hub": host, "device": "dev2",
        "certificate": certificate_file, "key": key_file});
    clients.insert("dev2", Client::start(&python, &x509, &[]));

    for (name, client) in &mut clients {
        let twin = client.next("twin");
        assert_eq!(twin["twin"]["desired"], json!({"mine": name, "$version": 2}));
        client.next("ready");
    }
    let kinds = BTreeMap::from([
        ("dev1", "device_sas"),
        ("dev1/sas", "module_sas"),
        ("dev1/edge", "module_edge"),
        ("dev2", "device_x509"),
    ]);
    for (name, kind) in &kinds {
        let reported = hub.twin(&id(name)).unwrap().reported;
        assert_eq!((Value::Object(reported.properties), reported.version), (json!({"kind": kind}), 2));
    }
    // All at once: a change of every twin, a method of every client, a message to every device.
    for name in names {
        hub.patch_desired(&id(name), &json!({"change": name, "mine": null}), None).await.unwrap();
    }
    let calls = names.map(|name| {
        let hub = hub.clone();
        tokio::spawn(async move {
            let call = MethodCall {
                name: "whoami".to_owned(),
                payload: json!({ "for": name }),
                timeout: PATIENCE,
                connect_timeout: Duration::ZERO,
            };
            hub.call(&id(name), call).await
        })
    });
    for device in ["dev1", "dev2"] {
        let properties = Properties::parse("colour=dark%20blue").unwrap();
        hub.send_to_device(&id(device), &properties, Bytes::from(format!("to {device}")), None)
            .await
            .unwrap();
    }
    for (name, call) in names.into_iter().zip(calls) {
        let answer = soon(call).await.unwrap().unwrap();
        assert_eq!(answer.payload, json!({"echo": {"for": name}, "by": kinds[name]}));
    }
    let mut upstream = hub.upstream();
    let mut senders = Vec::new();
    for _ in 0..4 {
        let message = soon(upstream.next()).await.unwrap();
        assert_eq!(message.properties.system("ct"), Some("application/json"));
        upstream.done(message.sequence).unwrap();
        senders.push(message.sender.to_string());
    }
    senders.sort();
    assert_eq!(senders, ["dev1", "dev1/edge", "dev1/sas", "dev2"]);
    tokio::task::spawn_blocking(move || {
        for client in clients.values_mut() {
            client.until("patch", 1);
        }
        for name in ["dev1", "dev2"] {
            clients.get_mut(name).unwrap().until("message", 1);
        }
        // One module calls another's method over HTTPS, by what Azure's library makes of it.
        let caller = clients.get_mut("dev1/edge").unwrap();
        caller.until("message", 5);
        let call = json!({"do": "call", "device": "dev1", "module": "sas",
            "method": {"methodName": "from_module", "payload": {"x": 1}, "responseTimeoutInSeconds": 30, "connectTimeoutInSeconds": 30}});
        caller.order(&call);
        let answer = caller.next("answer");
        assert_eq!(answer["answer"]["status"], 200, "{answer}");
        assert_eq!(answer["answer"]["payload"]["by"], "module_sas");

        // Everything that each of them saw.
        for (name, client) in clients {
            let heard = client.end();
            let of = |event: &str| -> Vec<&Value> { heard.iter().filter(|line| line["event"] == event).collect() };
            assert_eq!(of("patch").len(), 1, "{name}: {heard:?}");
            assert_eq!(of("patch")[0]["patch"], json!({"change": name, "mine": null, "$version": 3}));
            let methods = of("method");
            assert_eq!(methods[0]["payload"], json!({"for": name}));
            assert_eq!(methods.len(), if name == "dev1/sas" { 2 } else { 1 }, "{name}: {heard:?}");
            let messages = of("message");
            match name {
                "dev1/sas" => assert!(messages.is_empty(), "{messages:?}"),
                "dev1/edge" => {
                    // The library hands messages to several threads: their order is lost there.
                    let mut numbers: Vec<String> = messages
                        .iter()
                        .map(|message| {
                            assert_eq!(message["input"], "in");
                            assert!(message["body"].as_str().unwrap().contains("module_sas"));
                            message["properties"]["number"].as_str().unwrap().to_owned()
                        })
                        .collect();
                    numbers.sort();
                    assert_eq!(numbers, ["0", "1", "2", "3", "4"]);
                }
                device => {
                    assert_eq!(messages.len(), 1, "{name}: {heard:?}");
                    assert_eq!(messages[0]["body"], format!("to {device}"));
                    assert_eq!(messages[0]["properties"]["colour"], "dark blue");
                }
            }
        }
    })
    .await
    .unwrap();
    workload.close().await;
    hub.shutdown().await;
}
