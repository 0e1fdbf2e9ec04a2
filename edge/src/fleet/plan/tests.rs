//! Fleets that a deployment reaches, does not reach, and is taken back from.

use serde_json::json;

use super::{super::ReportedModule, *};
use crate::{
    desired::{ModuleKind, ReleaseSettings},
    manifest::{RestartPolicy, Status},
};

fn id(deployment: &str) -> DeploymentId {
    DeploymentId {
        workspace: workspace(),
        endpoint: "iris".parse().unwrap(),
        deployment: deployment.parse().unwrap(),
    }
}

fn workspace() -> Name {
    "main".parse().unwrap()
}

fn module(deployment: &str, version: &str) -> DesiredModule {
    DesiredModule {
        kind: ModuleKind::Release,
        version: Some(version.to_owned()),
        deployment: Some(id(deployment).to_string()),
        status: Status::Running,
        restart_policy: RestartPolicy::Always,
        startup_order: u32::MAX,
        env: BTreeMap::new(),
        settings: ReleaseSettings {
            image: None,
            release: Digest::of(version.as_bytes()),
            size: 1,
            golden: None,
            messaging: None,
        },
    }
}

fn wish(deployment: &str, version: &str, condition: &str) -> Wish {
    let route = DesiredRoute { route: format!("FROM /* INTO {deployment}"), time_to_live_secs: None };
    Wish {
        module_name: "iris".to_owned(),
        module: module(deployment, version),
        routes: BTreeMap::from([("iris/up".to_owned(), route)]),
        condition: condition.parse().unwrap(),
        priority: 0,
        stages: ["1", "30%"].map(|stage| stage.parse().unwrap()).to_vec(),
        max_failure_rate: 0.0,
        paused: false,
        revision: Digest::of(format!("revision {version}").as_bytes()),
        finished: false,
    }
}

/// Ten devices in Lyon, all connected.
fn devices() -> Vec<Device> {
    (0..10)
        .map(|number| Device {
            name: format!("d{number}"),
            connected: true,
            facts: json!({"deviceId": format!("d{number}"), "tags": {"site": "lyon", "number": number}}),
            ..Device::default()
        })
        .collect()
}

fn seen(devices: &[Device]) -> Vec<&Device> {
    devices.iter().collect()
}

/// What is planned, done: documents are told, and every device that has one says what `answer` says.
fn step(
    devices: &mut [Device],
    wishes: &mut BTreeMap<DeploymentId, Wish>,
    answer: impl Fn(&str) -> Option<&'static str>,
) -> (Plan, usize) {
    let plan = plan(&seen(devices), wishes, &workspace(), &BTreeSet::new());
    for id in &plan.finished {
        wishes.get_mut(id).unwrap().finished = true;
    }
    for (name, told) in &plan.documents {
        let device = devices.iter_mut().find(|device| device.name == *name).unwrap();
        device.told = told.clone();
        device.reported.status.code = 200;
        device.reported.modules.retain(|name, _| told.modules.contains_key(name));
        for (module, desired) in &told.modules {
            let Some(status) = answer(name) else { continue };
            let reported = device.reported.modules.entry(module.clone()).or_default();
            reported.desired_version = desired.version.clone();
            if status == "running" {
                reported.version = desired.version.clone();
                reported.runtime_status = status.to_owned();
            } else {
                reported.refused_version = desired.version.clone();
                reported.status_description = status.to_owned();
            }
        }
    }
    let number = plan.documents.len();
    (plan, number)
}

#[test]
fn of_what_a_device_says_the_end_is_told_as_well() {
    let said = shortened(&format!("exited with code 3: {} no model", "log ".repeat(400)));
    assert!(said.starts_with("exited with code 3") && said.ends_with("no model"), "{said}");
    assert!(said.chars().count() <= BEGIN + END + 3);
    assert_eq!(shortened("brief"), "brief");
}

#[expect(clippy::unnecessary_wraps, reason = "other answers are none")]
fn running(_: &str) -> Option<&'static str> {
    Some("running")
}

#[test]
fn devices_are_told_in_stages_and_all_in_the_end() {
    let mut devices = devices();
    let mut wishes = BTreeMap::from([(id("blue"), wish("blue", "1", "tags.site = 'lyon'"))]);
    let told: Vec<usize> = (0..4).map(|_| step(&mut devices, &mut wishes, running).1).collect();
    assert_eq!(told, [1, 2, 7, 0]);
    let (plan, _) = step(&mut devices, &mut wishes, running);
    let observation = &plan.observations[&id("blue")];
    assert_eq!((observation.phase, observation.replicas.len()), (Phase::Ready, 10));
    let right = |replica: &Replica| {
        replica.state == ReplicaState::Ready && replica.revision == wishes[&id("blue")].revision
    };
    assert!(observation.replicas.iter().all(right));
    // Whoever comes later is told at once, and whoever has nothing to do with it is left alone.
    let newcomer = |site: &str, name: &str| Device {
        name: name.to_owned(),
        facts: json!({"tags": {"site": site}}),
        ..Device::default()
    };
    devices.extend([newcomer("lyon", "new"), newcomer("oslo", "other")]);
    let (plan, _) = step(&mut devices, &mut wishes, running);
    assert_eq!(plan.documents.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["new"]);
}

#[test]
fn a_stage_waits_for_those_that_are_connected_and_the_first_needs_one() {
    let mut devices = devices();
    for device in &mut devices[..9] {
        device.connected = false;
    }
    let mut wishes = BTreeMap::from([(id("blue"), wish("blue", "1", "true"))]);
    let (plan, _) = step(&mut devices, &mut wishes, |_| None);
    assert_eq!(plan.documents[0].0, "d9");
    let (plan, told) = step(&mut devices, &mut wishes, |_| None);
    let note = &plan.observations[&id("blue")].notes[0];
    assert!(told == 0 && note == "0 of 10 devices answered; waits for `d9`", "{note}");
    devices[9].connected = false;
    let (plan, _) = step(&mut devices, &mut wishes, |_| None);
    let note = &plan.observations[&id("blue")].notes[0];
    assert_eq!(note, "none of the 1 devices that were told is connected");
    // It has come back; the others are told in advance.
    let version = wishes[&id("blue")].module.version.clone();
    let run = ReportedModule {
        version: version.clone(),
        desired_version: version,
        runtime_status: "running".to_owned(),
        ..ReportedModule::default()
    };
    devices[9].reported.modules.insert("iris".to_owned(), run);
    assert_eq!(step(&mut devices, &mut wishes, |_| None).1, 2);
    assert_eq!(step(&mut devices, &mut wishes, |_| None).1, 7);
    let (plan, _) = step(&mut devices, &mut wishes, |_| None);
    assert_eq!(plan.observations[&id("blue")].phase, Phase::Ready);
}

#[test]
fn too_many_failures_end_it_and_the_former_version_comes_back() {
    let mut devices = devices();
    let mut wishes = BTreeMap::from([(id("blue"), wish("blue", "1", "true"))]);
    for _ in 0..5 {
        step(&mut devices, &mut wishes, running);
    }
    wishes.insert(id("blue"), wish("blue", "2", "true"));
    step(&mut devices, &mut wishes, running);
    assert_eq!(
        step(&mut devices, &mut wishes, |name| Some(if name == "d1" { "no" } else { "running" })).1,
        2
    );
    for _ in 0..3 {
        let (plan, told) = step(&mut devices, &mut wishes, running);
        let observation = &plan.observations[&id("blue")];
        assert_eq!((observation.phase, told), (Phase::Failed, 0));
        let failure = observation.failure.clone().unwrap();
        assert!(failure.reason.starts_with("1 of 3 devices failed, 3 of 10 were told"), "{}", failure.reason);
        assert_eq!(failure.log, ["d1: no"]);
    }
    let old = devices.iter().filter(|device| device.told.modules["iris"].version.as_deref() == Some("1"));
    assert_eq!(old.count(), 7);
    // What the reconciler does then.
    wishes.insert(id("blue"), wish("blue", "1", "true"));
    step(&mut devices, &mut wishes, running);
    let (plan, _) = step(&mut devices, &mut wishes, running);
    assert_eq!(plan.observations[&id("blue")].phase, Phase::Ready);
    assert!(devices.iter().all(|device| device.told.modules["iris"].version.as_deref() == Some("1")));
}

#[test]
fn some_may_fail_and_a_pause_is_one() {
    let mut devices = devices();
    let limits = Wish { max_failure_rate: 0.5, ..wish("blue", "1", "true") };
    let mut wishes = BTreeMap::from([(id("blue"), limits)]);
    let flaky = |name: &str| Some(if name == "d2" { "no" } else { "running" });
    assert_eq!(step(&mut devices, &mut wishes, flaky).1, 1);
    wishes.get_mut(&id("blue")).unwrap().paused = true;
    let (plan, told) = step(&mut devices, &mut wishes, flaky);
    assert_eq!(told, 0);
    assert_eq!(plan.observations[&id("blue")].notes, ["paused; 1 of 10 devices were told"]);
    wishes.get_mut(&id("blue")).unwrap().paused = false;
    for _ in 0..4 {
        step(&mut devices, &mut wishes, flaky);
    }
    let (plan, _) = step(&mut devices, &mut wishes, flaky);
    let observation = &plan.observations[&id("blue")];
    assert_eq!(observation.phase, Phase::Ready);
    assert_eq!(observation.replicas[2].state, ReplicaState::BackingOff);
}

#[test]
fn priorities_layers_and_what_nobody_owns() {
    let mut devices = devices();
    let own = DesiredModule { deployment: None, ..module("blue", "own") };
    devices[0].told.modules.insert("camera".to_owned(), own.clone());
    let lost = module("gone", "0");
    devices[0].told.modules.insert("old".to_owned(), lost.clone());
    let special = Wish { priority: 5, ..wish("green", "2", "tags.number = 0") };
    let layer = Wish {
        module_name: "other".to_owned(),
        routes: BTreeMap::new(),
        ..wish("layer", "3", "tags.number < 2")
    };
    let mut wishes = BTreeMap::from([
        (id("blue"), wish("blue", "1", "true")),
        (id("green"), special),
        (id("layer"), layer),
    ]);
    // Before it is known that the owner of one is gone.
    let pending = BTreeSet::from([id("gone")]);
    let first = plan(&seen(&devices), &wishes, &workspace(), &pending);
    assert!(first.documents[0].1.modules.contains_key("old"));
    for _ in 0..6 {
        step(&mut devices, &mut wishes, running);
    }
    let versions = |device: &Device| -> Vec<String> {
        let modules = device.told.modules.iter();
        modules.map(|(name, module)| format!("{name}={}", module.version.as_deref().unwrap())).collect()
    };
    assert_eq!(versions(&devices[0]), ["camera=own", "iris=2", "other=3"]);
    assert_eq!(versions(&devices[1]), ["iris=1", "other=3"]);
    assert_eq!(versions(&devices[2]), ["iris=1"]);
    assert_eq!(devices[0].told.routes["iris/up"].route, "FROM /* INTO green");
    // One that is taken away leaves the device to the next.
    wishes.remove(&id("green"));
    wishes.remove(&id("layer"));
    for _ in 0..3 {
        step(&mut devices, &mut wishes, running);
    }
    assert_eq!(versions(&devices[0]), ["camera=own", "iris=1"]);
    assert_eq!(devices[0].told.routes["iris/up"].route, "FROM /* INTO blue");
    wishes.clear();
    step(&mut devices, &mut wishes, running);
    assert_eq!(versions(&devices[0]), ["camera=own"]);
    assert!(devices[1].told == Desired::default());
}

#[test]
fn nobody_to_tell_is_no_failure() {
    let wishes = BTreeMap::from([(id("blue"), wish("blue", "1", "tags.site = 'oslo'"))]);
    let plan = plan(&seen(&devices()), &wishes, &workspace(), &BTreeSet::new());
    let observation = &plan.observations[&id("blue")];
    assert_eq!(observation.phase, Phase::Ready);
    assert_eq!(observation.notes, ["no enrolled device meets the condition"]);
    assert!(plan.documents.is_empty());
}
