//! A bridge to a real mosquitto: with a password, over TLS, and gone for a while.

use std::{
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use moorline_edge::desired::{Desired, DesiredRoute, Messaging};
use serde_json::{Value, json};

use crate::{
    agent::{Server, runs, sensor},
    place::{PATIENCE, skip},
};

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("no `{name}` (Debian: `apt-get install mosquitto mosquitto-clients`)"));
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port()
}

/// A process of mosquitto's. It ends with the value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another broker, in a folder of its own, where it keeps what it was told.
struct Broker {
    program: PathBuf,
    publisher: PathBuf,
    subscriber: PathBuf,
    folder: PathBuf,
    port: u16,
    trust: PathBuf,
}

impl Broker {
    fn new(server: &Server) -> Option<Self> {
        let names = ["mosquitto", "mosquitto_passwd", "mosquitto_pub", "mosquitto_sub"];
        let [Some(broker), Some(passwords), Some(publisher), Some(subscriber)] = names.map(program) else {
            return None;
        };
        let folder = server.releases.folder.path().join("broker");
        fs_err::create_dir_all(&folder).unwrap();
        let port = free_port();
        let mut made = Command::new(passwords);
        made.args(["-b", "-c"]).arg(folder.join("passwords")).args(["me", "not-a-secret"]);
        assert!(made.status().unwrap().success());
        let pki = &server.pki.folder;
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {0}/passwords\ncertfile {1}/hub.pem\n\
             keyfile {1}/hub.key\npersistence true\npersistence_location {0}/\nautosave_on_changes true\n\
             autosave_interval 1\nuser root\n",
            folder.display(),
            pki.display()
        );
        fs_err::write(folder.join("mosquitto.conf"), config).unwrap();
        fs_err::write(folder.join("password"), "not-a-secret\n").unwrap();
        Some(Self { program: broker, publisher, subscriber, folder, port, trust: server.pki.trust() })
    }

    fn start(&self) -> Running {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(self.folder.join("mosquitto.conf"));
        let running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let begun = std::time::Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "mosquitto does not listen");
            std::thread::yield_now();
        }
        running
    }

    fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "localhost", "-p", &self.port.to_string(), "-q", "1", "-u", "me"]);
        command.args(["-P", "not-a-secret", "--cafile"]).arg(&self.trust);
        command
    }

    /// Says a message; again until the broker is there.
    fn say(&self, topic: &str, payload: &Value) {
        let begun = std::time::Instant::now();
        loop {
            let mut command = self.client(&self.publisher);
            command.args(["-t", topic, "-m", &payload.to_string()]).stderr(Stdio::null());
            if command.status().unwrap().success() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the broker takes nothing");
        }
    }

    /// What comes on a topic from now on; the broker keeps it where nobody listens.
    fn listen(&self, topic: &str) -> (Running, mpsc::Receiver<Value>) {
        let mut command = self.client(&self.subscriber);
        command.args(["-t", topic, "-i", "listener", "-c"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap_or_default()).is_err() {
                    return;
                }
            }
        });
        (Running(child), heard)
    }
}

fn row(number: f64) -> Value {
    json!({ "input_data": [[number, 1.0, 2.0]] })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn sensors_of_another_broker_are_scored_and_answers_wait_for_it() {
    let Some(server) = Server::start(Duration::from_hours(240)).await else { return };
    let Some(broker) = Broker::new(&server) else { return };
    assert!(server.enrol("once"));
    let mut version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    let plain = version.clone();
    version.module.settings.messaging =
        Some(Messaging { input: "in".to_owned(), output: "scores".to_owned() });
    let route = DesiredRoute {
        route: "FROM /messages/modules/sensor/outputs/raw INTO BrokeredEndpoint(\"/modules/m/inputs/in\")"
            .to_owned(),
        time_to_live_secs: None,
    };
    let desired = Desired {
        serial: 1,
        modules: [("m".to_owned(), version.module.clone()), ("sensor".to_owned(), plain.module.clone())]
            .into(),
        routes: [("in".to_owned(), route)].into(),
        ..Desired::default()
    };
    server.set(&server.signer.document("dev1", &desired)).await;
    let bridge = format!(
        "host: localhost\nport: {}\nca: {}\nuser: me\npassword_file: password\n\
         inputs: [{{topic: 'plant/+/raw', module: m, input: in}}]\n\
         outputs: [{{module: m, output: scores, topic: plant/scores}}]\n",
        broker.port,
        broker.trust.display()
    );
    fs_err::write(broker.folder.join("bridge.yml"), bridge).unwrap();
    let path = broker.folder.join("bridge.yml");
    let listen = format!("127.0.0.1:{}", free_port());
    let running = broker.start();
    let agent = server.run_with(&["--listen", &listen, "--bridge", &path.to_string_lossy()]);
    server
        .reported("both modules", |reported| {
            runs(reported, "m", &version) && runs(reported, "sensor", &plain)
        })
        .await;
    // The broker keeps for the bridge only what comes once that has subscribed: it is said until it is heard.
    let (listening, heard) = broker.listen("plant/scores");
    let broker = tokio::task::spawn_blocking(move || {
        let begun = std::time::Instant::now();
        loop {
            broker.say("plant/a/raw", &row(3.0));
            if let Ok(answer) = heard.recv_timeout(Duration::from_secs(1)) {
                assert_eq!(answer, json!([[6.0, 2.0, 4.0]]));
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "nothing comes back");
        }
        broker
    })
    .await
    .unwrap();
    drop((listening, running));

    // Away: what is said to it waits on the device, in its order, and the agent is killed in the middle of it.
    let address = listen.parse().unwrap();
    let mut wire = sensor(&server, address).await;
    let topic = "devices/dev1/modules/sensor/messages/events/%24.on=raw";
    for number in 100..110 {
        assert!(wire.deliver(topic, &row(f64::from(number)).to_string()).await);
    }
    drop(agent);
    let agent = server.run_with(&["--listen", &listen, "--bridge", &path.to_string_lossy()]);
    let mut wire = sensor(&server, address).await;
    for number in 110..115 {
        assert!(wire.deliver(topic, &row(f64::from(number)).to_string()).await);
    }
    let running = broker.start();
    tokio::task::spawn_blocking(move || {
        let (listening, heard) = broker.listen("plant/scores");
        let mut due = 100;
        while due < 115 {
            let answer = heard.recv_timeout(2 * PATIENCE).expect("all come");
            let first = answer[0][0].as_f64().unwrap_or_default() / 2.0;
            // One that was under way may come again, and so may what was asked before.
            assert!(first <= f64::from(due), "{first} came when {due} was due");
            due = due.max(first as i32 + 1);
        }
        drop(listening);
    })
    .await
    .unwrap();
    drop((agent, running));
    server.hub.clone().shutdown().await;
}
