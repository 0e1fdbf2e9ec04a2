//! A hub that is killed again and again while messages pass through it: none is lost, none overtakes another.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS, TlsConfiguration, Transport};

use crate::place::{Pki, Wire, id, key_of, soon, token, user_name};

use rustls::ClientConfig;

const MESSAGES: u64 = 20_000;
const KILLS: u64 = 8;
const IN_FLIGHT: u64 = 100;

struct Process(Child);

impl Process {
    /// Starts a hub and gives it once it listens.
    fn start(config: &Path) -> (Self, SocketAddr) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_moorline-edge"))
            .args(["hub", "--file"])
            .arg(config)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("`{line}`"));
        (Self(child), said["mqtt"].as_str().unwrap().parse().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL: it has no time for anything.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn options(pki: &Pki, name: &str, address: SocketAddr) -> MqttOptions {
    let own = id(name);
    let mut options = MqttOptions::new(name, "localhost", address.port());
    let password = token("localhost", &own, &key_of(&own), Duration::from_hours(1));
    options.set_credentials(user_name("localhost", &own), password);
    options.set_clean_session(false);
    options.set_keep_alive(Duration::from_secs(30));
    options.set_inflight(100);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let tls = TlsConfiguration::Rustls(Arc::new(pki.client_config(None)));
    options.set_transport(Transport::tls_with_config(tls));
    options
}

/// Goes on with the next event, whatever became of the connection.
async fn next(events: &mut EventLoop) -> Option<Event> {
    if let Ok(event) = events.poll().await {
        return Some(event);
    }
    // The hub is being started again: an interval's first tick is at once, the second is not.
    let mut often = tokio::time::interval(Duration::from_millis(5));
    often.tick().await;
    often.tick().await;
    None
}

/// Sends what is not acknowledged, in its order, until the connection breaks or everything is acknowledged.
///
/// Not by rumqttc: what it has in flight when a connection breaks for the second time, it sends behind what is newer.
async fn send(address: SocketAddr, config: &ClientConfig, acknowledged: &mut u64) -> Option<()> {
    let mut wire = Wire::try_dial(address, config).await?;
    let ack = wire.try_login(&id("dev1/a"), |_| {}).await?;
    assert!(ack.session_present || *acknowledged == 0, "the hub has forgotten the session");
    let mut sent = *acknowledged;
    while *acknowledged < MESSAGES {
        while sent < MESSAGES && sent < *acknowledged + IN_FLIGHT {
            let payload = format!("{sent}:{}", "x".repeat((sent % 300) as usize));
            wire.publish("devices/dev1/modules/a/messages/events/", &payload, packet_id(sent)).await;
            sent += 1;
        }
        match wire.hear_answer().await? {
            Packet::PubAck(ack) => {
                assert_eq!(ack.pkid, packet_id(*acknowledged), "acknowledged in order");
                *acknowledged += 1;
            }
            other => panic!("expected PUBACK, not {other:?}"),
        }
    }
    Some(())
}

fn packet_id(number: u64) -> u16 {
    (number % 10_000) as u16 + 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_reordered_while_the_hub_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let pki = Pki::new(folder.path(), &["localhost"]);
    let config_path = folder.path().join("hub.yml");
    let write_config = |port: u16| {
        let key = |name: &str| STANDARD.encode(key_of(&id(name)));
        let files = pki.tls_files();
        let text = format!(
            "name: localhost\nfolder: {}\nmqtt: 127.0.0.1:{port}\ncertificates: {}\nkey: {}\nroutes:\n  \
             across: FROM /messages/modules/a/* INTO BrokeredEndpoint(\"/modules/b/inputs/in\")\nidentities:\n\
             - {{id: dev1/a, primary_key: {}}}\n- {{id: dev1/b, primary_key: {}}}\n",
            folder.path().join("hub").display(),
            files.certificates.display(),
            files.key.display(),
            key("dev1/a"),
            key("dev1/b"),
        );
        fs_err::write(&config_path, text).unwrap();
    };
    write_config(0);
    let (mut process, address) = Process::start(&config_path);
    // The same port after each kill.
    write_config(address.port());

    let (receiver, mut receiver_events) = AsyncClient::new(options(&pki, "dev1/b", address), 200);
    receiver.subscribe("devices/dev1/modules/b/inputs/#", QoS::AtLeastOnce).await.unwrap();
    let received = Arc::new(AtomicU64::new(0));
    let config = pki.client_config(None);
    let sending = tokio::spawn(async move {
        let mut acknowledged = 0;
        let mut often = tokio::time::interval(Duration::from_millis(5));
        while acknowledged < MESSAGES {
            // Ends when the hub does, which is then started again.
            send(address, &config, &mut acknowledged).await;
            often.tick().await;
        }
    });
    let count = Arc::clone(&received);
    let receiving = tokio::spawn(async move {
        // Messages may come twice: whoever is behind the hub tells them apart by their number.
        let mut expected = 0;
        while expected < MESSAGES {
            let Some(Event::Incoming(Packet::Publish(publish))) = next(&mut receiver_events).await else {
                continue;
            };
            let text = std::str::from_utf8(&publish.payload).unwrap();
            let number: u64 = text.split(':').next().unwrap().parse().unwrap();
            assert!(number <= expected, "{number} came when {expected} was due");
            if number == expected {
                expected += 1;
                count.store(expected, Ordering::Relaxed);
            }
        }
        drop(receiver);
    });
    for kill in 1..=KILLS {
        let mut often = tokio::time::interval(Duration::from_millis(2));
        let due = kill * MESSAGES / (KILLS + 1);
        while received.load(Ordering::Relaxed) < due && !receiving.is_finished() {
            often.tick().await;
        }
        drop(process);
        process = Process::start(&config_path).0;
    }
    soon(receiving).await.unwrap();
    soon(sending).await.unwrap();
    drop(process);
}
