//! The rows of devices: an agent's memory, a message's way over a device, what waits on disk, and a change for a whole fleet.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use futures_util::{StreamExt as _, stream};
use moorline_edge::{
    desired::{Desired, DesiredRoute},
    hub::ClientId,
    manifest::Module,
};
use serde_json::json;

use crate::{
    edge_kills::kills,
    edge_place::{
        DEVICE, Mosquitto, Place, Told, Wire, free_port, options, release, tls, token, until, within,
    },
    report::{Bound, Row},
    rows::{Effort, Measure, median, settled_memory},
    stage::Stage,
};

/// The measurements of devices by name, in the order of the table.
pub const EDGE: [(&str, Measure); 5] =
    [("agent", agent), ("hop", hop), ("store", store), ("kills", kills), ("fleet", fleet)];

/// Messages that are under way at one time, where a rate is asked for.
const UNDER_WAY: usize = 64;
/// Round trips of one latency.
const TRIPS: usize = 2000;
/// Of one message that waits.
const PAYLOAD: [u8; 100] = [b'x'; 100];
const DEVICES: usize = 5000;
const NO_MOSQUITTO: &str = "no mosquitto";

fn run<T>(done: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(done)
}

fn agent(stage: &Stage<'_>, _: Effort) -> Result<Vec<Row>> {
    let folder = stage.folder("agent");
    let resident = run(async {
        let place = Place::start(folder, |_| {}).await?;
        let device = place.enrol(None)?;
        let agent = place.agent(stage.workspace, &device, &["--listen", "127.0.0.1:0"]).await?;
        let pid = agent.id();
        tokio::task::spawn_blocking(move || settled_memory(pid)).await?
    })?;
    Ok(vec![Row {
        name: "resident memory of an idle agent with its hub",
        baseline: "–".to_owned(),
        ours: format!("{resident:.1} MiB"),
        value: resident,
        unit: " MiB",
        bound: Bound::AtMost(20.0),
    }])
}

/// A device whose module `m` is scored between the inputs and outputs of two clients.
struct Hop {
    _agent: crate::edge_place::Agent,
    sensor: Wire,
    sink: Wire,
}

const RAW: &str = "devices/dev1/modules/sensor/messages/events/%24.on=raw";
const BARE: &str = "devices/dev1/modules/sensor/messages/events/%24.on=bare";

impl Hop {
    async fn start(stage: &Stage<'_>) -> Result<(Place, Self)> {
        let folder = stage.folder("hop");
        let place = Place::start(folder.clone(), |_| {}).await?;
        let digest = release(stage.workspace, &folder.join("release"))?;
        let device = place.enrol(Some(&folder.join("release")))?;
        let size = fs_err::metadata(folder.join("release/release.json"))?.len();
        let module = json!({
            "type": "release", "status": "running", "restartPolicy": "always",
            "settings": { "release": digest, "size": size, "messaging": { "input": "in", "output": "scores" } },
        });
        let route = |from: &str, to: &str| DesiredRoute {
            route: format!("FROM /messages/modules/{from} INTO BrokeredEndpoint(\"/modules/{to}\")"),
            time_to_live_secs: None,
        };
        // Without an Engine these only have names, which is all that clients need.
        let client = || Module { image: "none".to_owned(), ..Module::default() };
        let desired = Desired {
            serial: 1,
            modules: BTreeMap::from([("m".to_owned(), serde_json::from_value(module)?)]),
            containers: ["sensor", "sink"].map(|name| (name.to_owned(), client())).into(),
            routes: [
                ("in".to_owned(), route("sensor/outputs/raw", "m/inputs/in")),
                ("out".to_owned(), route("m/outputs/scores", "sink/inputs/all")),
                ("bare".to_owned(), route("sensor/outputs/bare", "sink/inputs/all")),
            ]
            .into(),
            ..Desired::default()
        };
        place.wish(&desired, &device).await?;
        let port = free_port()?;
        let agent =
            place.agent(stage.workspace, &device, &["--listen", &format!("127.0.0.1:{port}")]).await?;
        let reported = || {
            let twin = place.hub.twin(&ClientId::module(DEVICE, moorline_edge::hub::AGENT).ok()?).ok()?;
            (twin.reported.properties.get("modules")?["m"]["runtimeStatus"] == "running").then_some(())
        };
        until(reported).await?;
        let gateway = device.join("gateway");
        let tls = tls(&fs_err::read_to_string(gateway.join("authority.pem"))?, None)?;
        let wire = async |name: &str, filter: Option<&str>| {
            let id = ClientId::module(DEVICE, name)?;
            let mut options = options(&id.to_string(), port, Some(tls.clone()));
            let user = format!("localhost/{id}/?api-version=2019-10-01");
            options.set_credentials(user, token(&id, &gateway.join("keys").join(name))?);
            Wire::connect(options, filter).await
        };
        let sink = wire("sink", Some("devices/dev1/modules/sink/inputs/#")).await?;
        let sensor = wire("sensor", None).await?;
        Ok((place, Self { _agent: agent, sensor, sink }))
    }
}

/// The median of how long a message takes to come back, in milliseconds.
async fn latency(
    sensor: &mut Wire,
    sink: &mut Wire,
    topic: &str,
    payload: &[u8],
    trips: usize,
) -> Result<f64> {
    let mut times = Vec::with_capacity(trips);
    for trip in 0..trips + trips / 10 {
        let begun = Instant::now();
        sensor.send(topic, payload)?;
        let (mut come, mut acknowledged) = (false, false);
        while !(come && acknowledged) {
            tokio::select! {
                told = sink.next(), if !come => if matches!(told?, Told::Message) {
                    come = true;
                    // The first ones warm up.
                    if trip >= trips / 10 {
                        times.push(begun.elapsed().as_secs_f64() * 1000.0);
                    }
                },
                told = sensor.next() => acknowledged |= matches!(told?, Told::Acknowledged),
            }
        }
    }
    Ok(median(times))
}

/// Messages that come through in a second.
async fn rate(sensor: &mut Wire, sink: &mut Wire, topic: &str, payload: &[u8], seconds: u64) -> Result<f64> {
    let (mut sent, mut come, mut counted) = (0_usize, 0_usize, 0_usize);
    let begun = Instant::now();
    let (from, end) = (begun + Duration::from_secs(1), begun + Duration::from_secs(seconds + 1));
    while Instant::now() < end {
        while sent - come < UNDER_WAY {
            sensor.send(topic, payload)?;
            sent += 1;
        }
        tokio::select! {
            told = sink.next() => if matches!(told?, Told::Message) {
                come += 1;
                counted += usize::from(Instant::now() >= from);
            },
            told = sensor.next() => { told?; }
        }
    }
    // What is under way belongs to nobody's next measurement.
    within(async {
        while come < sent {
            tokio::select! {
                told = sink.next() => come += usize::from(matches!(told?, Told::Message)),
                told = sensor.next() => { told?; }
            }
        }
        Ok(())
    })
    .await?;
    Ok(counted as f64 / seconds as f64)
}

/// A publisher and a subscriber of mosquitto.
struct Theirs {
    _broker: Mosquitto,
    sensor: Wire,
    sink: Wire,
}

impl Theirs {
    async fn start(stage: &Stage<'_>, name: &str, with_tls: bool) -> Result<Option<Self>> {
        let Some(broker) = Mosquitto::start(&stage.folder(name), with_tls).await? else { return Ok(None) };
        let sink = Wire::connect(broker.options("sink"), Some("scores")).await?;
        let sensor = Wire::connect(broker.options("sensor"), None).await?;
        Ok(Some(Self { _broker: broker, sensor, sink }))
    }
}

fn hop(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    run(async {
        let theirs = Theirs::start(stage, "mosquitto-tls", true).await?;
        let plain = Theirs::start(stage, "mosquitto-plain", false).await?;
        let (Some(mut theirs), Some(mut plain)) = (theirs, plain) else {
            return Ok(vec![Row::not_measured("a message over a device, tiny ONNX", NO_MOSQUITTO)]);
        };
        let (_place, mut hop) = Hop::start(stage).await?;
        let body = json!({"input_data": [[1.0, 2.0, 3.0]]}).to_string();
        let body = body.as_bytes();
        let trips = TRIPS.min(500 * effort.seconds as usize);
        let their_time = latency(&mut theirs.sensor, &mut theirs.sink, "scores", body, trips).await?;
        let ours = latency(&mut hop.sensor, &mut hop.sink, RAW, body, trips).await?;
        let bare = latency(&mut hop.sensor, &mut hop.sink, BARE, body, trips).await?;
        let (mut tls_rates, mut plain_rates) = (Vec::new(), Vec::new());
        let (mut our_rates, mut bare_rates) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let Theirs { sensor, sink, .. } = &mut theirs;
            tls_rates.push(rate(sensor, sink, "scores", body, effort.seconds).await?);
            our_rates.push(rate(&mut hop.sensor, &mut hop.sink, RAW, body, effort.seconds).await?);
            bare_rates.push(rate(&mut hop.sensor, &mut hop.sink, BARE, body, effort.seconds).await?);
            let Theirs { sensor, sink, .. } = &mut plain;
            plain_rates.push(rate(sensor, sink, "scores", body, effort.seconds).await?);
        }
        let (their_rate, plain_rate) = (median(tls_rates), median(plain_rates));
        let row = |name, rate: f64, bound| Row {
            name,
            baseline: format!(
                "mosquitto, publisher to subscriber, over TLS: {their_rate:.0} (without: {plain_rate:.0})"
            ),
            ours: format!("{rate:.0}"),
            value: rate / their_rate,
            unit: "",
            bound,
        };
        let time = |name, value: f64, bound| Row {
            name,
            baseline: format!("mosquitto, publisher to subscriber, over TLS: {their_time:.2} ms"),
            ours: format!("{value:.2} ms"),
            value,
            unit: " ms",
            bound,
        };
        Ok(vec![
            time("input, score, output on a device, tiny ONNX, p50", ours, Bound::AtMost(1.0)),
            time("module to module on a device, nothing scored, p50", bare, Bound::Open),
            row("input, score, output on a device, messages/s", median(our_rates), Bound::AtLeast(0.5)),
            row("module to module on a device, nothing scored, messages/s", median(bare_rates), Bound::Open),
        ])
    })
}

/// Sends this many messages and waits until all are acknowledged; gives the seconds.
async fn fill(sender: &mut Wire, topic: &str, count: usize) -> Result<f64> {
    let begun = Instant::now();
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < count {
        while sent < count && sent - acknowledged < 2048 {
            sender.send(topic, &PAYLOAD)?;
            sent += 1;
        }
        acknowledged += usize::from(matches!(within(sender.next()).await?, Told::Acknowledged));
    }
    Ok(begun.elapsed().as_secs_f64())
}

fn store(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let count = if effort.rounds > 2 { 300_000 } else { 50_000 };
    let name = "messages/s to disk and back, 100 bytes, one client";
    run(async {
        let place = Place::start(stage.folder("store"), |_| {}).await?;
        let (certificate, identity) = place.certificate()?;
        place.identities.set(DEVICE.parse()?, identity);
        let port = place.hub.mqtt_address().port();
        let mut sender =
            Wire::connect(options(DEVICE, port, Some(place.tls(Some(&certificate))?)), None).await?;
        let in_seconds = fill(&mut sender, "devices/dev1/messages/events/", count).await?;
        let begun = Instant::now();
        let mut upstream = place.hub.upstream();
        for _ in 0..count {
            let message = within(async { Ok(upstream.next().await?) }).await?;
            upstream.done(message.sequence)?;
        }
        let out_seconds = begun.elapsed().as_secs_f64();
        drop((sender, upstream));
        place.hub.shutdown().await;

        let theirs = match Mosquitto::start(&stage.folder("mosquitto-store"), true).await? {
            None => NO_MOSQUITTO.to_owned(),
            Some(broker) => {
                drop(Wire::connect(broker.options("reader"), Some("waits")).await?);
                let mut sender = Wire::connect(broker.options("sender"), None).await?;
                let mut seconds = fill(&mut sender, "waits", count).await?;
                let begun = Instant::now();
                let mut reader = Wire::connect(broker.options("reader"), None).await?;
                for _ in 0..count {
                    while !matches!(within(reader.next()).await?, Told::Message) {}
                }
                seconds += begun.elapsed().as_secs_f64();
                format!("mosquitto: {:.0}", count as f64 / seconds)
            }
        };
        let rate = count as f64 / (in_seconds + out_seconds);
        Ok(vec![Row {
            name,
            baseline: theirs,
            ours: format!(
                "{rate:.0} ({:.0} in, {:.0} out)",
                count as f64 / in_seconds,
                count as f64 / out_seconds
            ),
            value: rate,
            unit: "/s",
            bound: Bound::AtLeast(20_000.0),
        }])
    })
}

fn fleet(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    let devices = if effort.rounds > 2 { DEVICES } else { DEVICES / 5 };
    // Both ends of every connection are this process's.
    raise_files(2 * devices as u64 + 1000)?;
    run(async {
        let place = Place::start(stage.folder("fleet"), |config| {
            (config.limits.clients, config.limits.connections) = (devices + 10, devices + 200);
        })
        .await?;
        let (certificate, identity) = place.certificate()?;
        let (tls, port) = (place.tls(Some(&certificate))?, place.hub.mqtt_address().port());
        let names: Vec<String> = (0..devices).map(|number| format!("device-{number}")).collect();
        for name in &names {
            place.identities.set(name.parse()?, identity.clone());
        }
        let connecting = names.iter().map(|name| {
            let options = options(name, port, Some(tls.clone()));
            async move { Wire::connect(options, Some("$iothub/twin/PATCH/properties/desired/#")).await }
        });
        let wires: Vec<Result<Wire>> = stream::iter(connecting).buffer_unordered(32).collect().await;
        let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = Vec::with_capacity(devices);
        for wire in wires {
            let (mut wire, told) = (wire?, told.clone());
            waiting.push(tokio::spawn(async move {
                while let Ok(Told::Message | Told::Acknowledged) = wire.next().await {
                    if told.send(Instant::now()).is_err() {
                        return;
                    }
                }
            }));
        }
        let mut times = Vec::new();
        for round in 0..effort.rounds.min(3) {
            let begun = Instant::now();
            let patch = json!({ "release": format!("sha256:{round}") });
            let changes = names.iter().map(|name| {
                let (hub, patch) = (place.hub.clone(), patch.clone());
                async move { hub.patch_desired(&name.parse()?, &patch, None).await.context("a change") }
            });
            let mut changing = stream::iter(changes).buffer_unordered(256);
            let all = async {
                while let Some(changed) = changing.next().await {
                    changed?;
                }
                Ok::<_, anyhow::Error>(())
            };
            let hearing = async {
                let mut last = begun;
                for _ in 0..devices {
                    last = heard.recv().await.context("a device went away")?;
                }
                Ok::<_, anyhow::Error>(last)
            };
            let (changed, last) = within(async { Ok(tokio::join!(all, hearing)) }).await?;
            changed?;
            times.push(last?.duration_since(begun).as_secs_f64());
        }
        for task in waiting {
            task.abort();
        }
        let seconds = median(times);
        Ok(vec![Row {
            name: if devices == DEVICES {
                "5,000 devices: until a change has reached all"
            } else {
                "1,000 devices: until a change has reached all"
            },
            baseline: "–".to_owned(),
            ours: format!("{seconds:.2} s"),
            value: seconds,
            unit: " s",
            bound: Bound::AtMost(5.0),
        }])
    })
}

fn raise_files(least: u64) -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    if now.current.is_none_or(|current| current >= least) {
        return Ok(());
    }
    if now.maximum.is_some_and(|maximum| maximum < least) {
        bail!("{least} files are needed, and this user may open {:?}", now.maximum);
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(least), maximum: now.maximum })?)
}
