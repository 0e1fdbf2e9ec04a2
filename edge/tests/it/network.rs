//! A device in a network of its own, whose link is slow, loses packets and is cut; and one that was switched off for weeks
//! and does not know the time.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use moorline_edge::hub::HubEvent;
use serde_json::Value;

use crate::{
    agent::{Agent, Server, agent_id, runs, score},
    modules::scorer,
    place::{skip, soon, until},
};

/// A network name space with one link to this machine's. It goes with the value.
struct Net {
    name: String,
    /// This machine's end of the link.
    link: String,
    address: Ipv4Addr,
}

/// Whether a command of the system did what it was told.
fn does(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

impl Net {
    /// `None` where none can be made, which was said.
    fn make() -> Option<Self> {
        let process = std::process::id();
        let [high, low] = [(process >> 6 & 0xff) as u8, ((process & 0x3f) << 2) as u8];
        let [own, other] = [1, 2].map(|end| Ipv4Addr::new(10, 231, high, low + end));
        let net = Self { name: format!("moorline-{process}"), link: format!("ml{process}"), address: own };
        let (peer, inside) = (format!("mp{process}"), format!("{other}/30"));
        let own = format!("{own}/30");
        let made = does("ip", &["netns", "add", &net.name])
            && does(
                "ip",
                &["link", "add", &net.link, "type", "veth", "peer", "name", &peer, "netns", &net.name],
            )
            && does("ip", &["addr", "add", &own, "dev", &net.link])
            && does("ip", &["link", "set", &net.link, "up"])
            && net.inside(&["ip", "addr", "add", &inside, "dev", &peer])
            && net.inside(&["ip", "link", "set", &peer, "up"])
            && net.inside(&["ip", "link", "set", "lo", "up"]);
        if !made {
            skip("no network name spaces: they want root and iproute2");
            return None;
        }
        Some(net)
    }

    fn inside(&self, command: &[&str]) -> bool {
        does("ip", &[&["netns", "exec", &self.name], command].concat())
    }

    /// A link of 256 kbit/s, with what waits in it; by an old discipline that every kernel has.
    fn slow(&self) -> bool {
        let shape = ["root", "tbf", "rate", "256kbit", "burst", "4kb", "latency", "400ms"];
        does("tc", &[&["qdisc", "add", "dev", &self.link], &shape[..]].concat())
    }

    /// Every seventh packet is lost, both ways.
    fn lossy(&self) -> bool {
        let lose = ["-m", "statistic", "--mode", "random", "--probability", "0.15", "-j", "DROP"];
        let rule = |chain: &str, side: &str| {
            let peer = self.address.to_string();
            let rule = [&["iptables", "-A", chain, side, &peer], &lose[..]].concat();
            self.inside(&rule)
        };
        rule("INPUT", "-s") && rule("OUTPUT", "-d")
    }

    fn cut(&self) {
        assert!(does("ip", &["link", "set", &self.link, "down"]));
    }

    fn mend(&self) {
        assert!(does("ip", &["link", "set", &self.link, "up"]));
    }

    fn run(&self, server: &Server, more: &[&str]) -> Agent {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_moorline-edge"), "run", "--folder"]);
        command.arg(server.folder()).arg("--scorer").arg(scorer().unwrap()).args(more);
        Agent(command.spawn().unwrap())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The link goes with its other end.
        does("ip", &["netns", "del", &self.name]);
        does("ip", &["link", "del", &self.link]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_behind_a_bad_link_gets_what_it_is_to_run() {
    let Some(net) = Net::make() else { return };
    let Some(server) = Server::start_on(net.address, Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    let [first, second, third] = [1, 2, 3].map(|number| server.releases.version(number, |_, _| {}));
    for version in [&first, &second, &third] {
        server.publish(version);
    }
    // From the beginning slow, and losing what it carries.
    if !(net.slow() && net.lossy()) {
        skip("links are not slowed down and lose nothing: `tc` with tbf and `iptables` are wanted");
        return;
    }
    let agent = net.run(&server, &[]);
    server.wish(1, &[("m", &first)]).await;
    server.reported("the first version", |reported| runs(reported, "m", &first)).await;
    server.wish(2, &[("m", &second)]).await;
    server.reported("the second version", |reported| runs(reported, "m", &second)).await;

    // Cut, while something is wished for. What is lost then is asked for again.
    net.cut();
    server.wish(3, &[("m", &third)]).await;
    let mut while_cut = tokio::time::interval(Duration::from_secs(2));
    while_cut.tick().await;
    while_cut.tick().await;
    let twin = server.hub.twin(&agent_id()).unwrap();
    assert!(runs(&Value::Object(twin.reported.properties), "m", &second));
    net.mend();
    server.reported("the third version", |reported| runs(reported, "m", &third)).await;
    // Killed without a link, it comes up with what it has, and is heard of once there is one.
    net.cut();
    drop(agent);
    let agent = net.run(&server, &[]);
    net.mend();
    server.wish(4, &[]).await;
    server.reported("no module", |reported| reported["lastDesiredSerial"] == 4).await;
    drop(agent);
    server.hub.clone().shutdown().await;
}

/// By which a process is told another time.
fn faketime() -> Option<PathBuf> {
    let folders = fs_err::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1")).find(|path| path.exists());
    if found.is_none() {
        skip("no libfaketime (Debian: `apt-get install libfaketime`)");
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_was_off_for_weeks_serves_and_finds_its_hub_again() {
    let Some(library) = faketime() else { return };
    let Some(mut server) = Server::start(Duration::from_hours(240)).await else { return };
    assert!(server.enrol("once"));
    // The hub's own is good for longer than the device is away.
    let issued = server.pki.authority.issue_server(&["localhost"], Duration::from_hours(90 * 24)).unwrap();
    fs_err::write(server.pki.folder.join("hub.key"), &issued.key).unwrap();
    fs_err::write(server.pki.folder.join("hub.pem"), &issued.certificates).unwrap();
    server.hub.reload_certificates().unwrap();
    let version = server.releases.version(1, |_, _| {});
    server.publish(&version);
    let at = |server: &Server, time: &str| {
        let mut command = server.command("run");
        command.arg("--scorer").arg(scorer().unwrap()).args(["--listen", "127.0.0.1:0"]);
        command.env("LD_PRELOAD", &library).env("FAKETIME", time).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Agent(command.spawn().unwrap())
    };
    let agent = server.run_with(&["--listen", "127.0.0.1:0"]);
    server.wish(1, &[("m", &version)]).await;
    let reported = server.reported("the module", |reported| runs(reported, "m", &version)).await;
    drop(agent);
    let path = server.folder().join("identity.json");
    let certificate = || -> Value {
        let identity: Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        identity["certificates"].clone()
    };
    let enrolled = certificate();

    // Switched on with no network and no time: it is 1970.
    let port = server.hub.mqtt_address().port();
    server.hub.clone().shutdown().await;
    let agent = at(&server, "@1970-01-02 00:00:00");
    assert_eq!(score(&reported, "m").await, serde_json::json!([[2.0, 6.0, 10.0]]));
    drop(agent);
    // Five weeks on: what it proves itself by has run out, by its own clock. It serves, renews it and is there.
    server.tokens.renews.store(true, Ordering::Relaxed);
    let folder = server.releases.folder.path().join("hub");
    server.hub = Server::hub(&server.pki, folder, port, &server.identities).await;
    let mut events = server.hub.events();
    let agent = at(&server, "+35d");
    assert_eq!(score(&reported, "m").await, serde_json::json!([[2.0, 6.0, 10.0]]));
    until(|| (certificate() != enrolled).then_some(())).await;
    soon(async { while events.recv().await.unwrap() != HubEvent::Connected(agent_id()) {} }).await;
    server.wish(2, &[]).await;
    server.reported("no module", |reported| reported["lastDesiredSerial"] == 2).await;
    drop(agent);
    server.hub.clone().shutdown().await;
}
