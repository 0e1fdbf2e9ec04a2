//! A server that is killed leaves its replicas running, and the next one finds every one of them.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use moorline_core::{
    DeploymentId, ErrorClass, Phase, Placement, Probe, Release, ReplicaState, Resources, Scale, Scheduling,
    Source, Target,
};
use moorline_deploy::local::LocalTarget;
use moorline_testkit::{TestRelease, deployment, observed};

use crate::{
    http::infer,
    place::{Home, config, eventually, scorer, scorers},
};

const HOME: &str = "MOORLINE_TEST_HOME";
const RELEASE: &str = "MOORLINE_TEST_RELEASE";

/// What both servers apply.
fn placement(release: &Path, replicas: u32) -> Placement {
    let text = fs_err::read_to_string(release.join(Release::FILE)).expect("the release can be read");
    Placement {
        id: id(),
        release: Release::parse(&text).expect("the release is valid"),
        source: Source::Folder { path: release.to_owned(), python: None },
        replicas,
        scale: Scale::Fixed { instances: replicas },
        resources: Resources::default(),
        scheduling: Scheduling::default(),
        liveness: Probe::default(),
        readiness: Probe::default(),
        variables: [].into(),
        own_server: None,
        machine_devices: None,
        golden: None,
    }
}

fn id() -> DeploymentId {
    deployment("adopted", "blue")
}

/// The other server: it applies three replicas and stays until it is killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "other tests run it as a process of its own"]
async fn server() {
    let (Some(home), Some(release)) = (env::var_os(HOME), env::var_os(RELEASE)) else { return };
    let Some(scorer) = scorer() else { return };
    let target =
        LocalTarget::open(config(Path::new(&home), scorer), Arc::new(|_| {})).await.expect("it opens");
    target.apply(&placement(Path::new(&release), 3)).await.expect("it is accepted");
    std::future::pending::<()>().await;
}

fn start_server(home: &Path, release: &Path) -> Child {
    let own: PathBuf = env::current_exe().expect("the test knows its own path");
    Command::new(own)
        .args(["--ignored", "--exact", "adoption::server"])
        .envs([(HOME, home.as_os_str()), (RELEASE, release.as_os_str()), ("CI", OsStr::new("true"))])
        .stdout(Stdio::null())
        .spawn()
        .expect("the test can run itself")
}

fn kill(mut server: Child) {
    server.kill().expect("a server can be killed");
    server.wait().expect("a killed server ends");
}

fn pids(home: &Path) -> BTreeSet<u32> {
    scorers(home).into_iter().map(|(pid, _)| pid).collect()
}

async fn open(home: &Path, scorer: PathBuf) -> Arc<LocalTarget> {
    LocalTarget::open(config(home, scorer), Arc::new(|_| {})).await.expect("nobody holds the home")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_is_adopted_and_serves_on() {
    let Some(scorer) = scorer() else { return };
    let (folder, release) = (tempfile::tempdir().unwrap(), TestRelease::double(1));
    let home = folder.path();
    let server = start_server(home, release.path());
    eventually("the start of three scorers", || {
        let bound = fs_err::read_dir(home.join("deployments/default/adopted/blue/replicas"));
        bound.is_ok_and(|folders| {
            folders.flatten().filter(|one| one.path().join("address.json").exists()).count() == 3
        })
    })
    .await;
    let before = pids(home);
    assert_eq!(before.len(), 3);
    kill(server);
    assert_eq!(pids(home), before, "a replica outlives its server");

    let target = open(home, scorer.clone()).await;
    let three = |seen: &moorline_core::Observation| {
        seen.phase == Phase::Ready
            && seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).count() == 3
    };
    let seen = observed(&*target, &id(), "three adopted replicas", three).await;
    let address = seen.replicas[0].address.expect("a ready replica has an address");
    infer(address.data).await.expect("an adopted replica answers");
    target.apply(&placement(release.path(), 3)).await.unwrap();
    observed(&*target, &id(), "three adopted replicas", three).await;
    assert_eq!(pids(home), before, "none was started twice, none was stopped");

    // An adopted replica that ends is started again, since its deployment was applied.
    let victim = *before.first().unwrap();
    let victim_process = rustix::process::Pid::from_raw(victim as i32).unwrap();
    rustix::process::kill_process(victim_process, rustix::process::Signal::KILL).unwrap();
    eventually("the end of a killed replica", || !pids(home).contains(&victim)).await;
    let again = |seen: &moorline_core::Observation| {
        three(seen) && seen.replicas.iter().any(|replica| replica.restarts == 1)
    };
    observed(&*target, &id(), "three replicas again", again).await;
    assert_eq!(pids(home).intersection(&before).count(), 2);

    target.shutdown(true).await;
    drop(target);
    let kept = pids(home);
    assert_eq!(kept.len(), 3, "a server that leaves its replicas leaves them running");
    let target = open(home, scorer).await;
    assert_eq!(target.observe(&id()).await.unwrap().replicas.len(), 3);
    target.settle(&[]).await;
    assert_eq!(target.observe(&id()).await.unwrap().phase, Phase::Absent);
    assert_eq!(pids(home), BTreeSet::new(), "what no deployment asks for is stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_killed_at_any_instant_leave_neither_orphans_nor_doubles() {
    let Some(scorer) = scorer() else { return };
    let (folder, release) = (tempfile::tempdir().unwrap(), TestRelease::double(1));
    let home = folder.path();
    for round in 0..20_u64 {
        let server = start_server(home, release.path());
        // Not a wait for something: the instants at which servers are killed.
        tokio::time::sleep(Duration::from_millis(round * 9)).await;
        kill(server);
    }
    let target = open(home, scorer).await;
    target.apply(&placement(release.path(), 3)).await.unwrap();
    let ready = |seen: &moorline_core::Observation| seen.phase == Phase::Ready && seen.replicas.len() == 3;
    observed(&*target, &id(), "three replicas", ready).await;
    assert_eq!(pids(home).len(), 3, "every scorer of this home is one that is observed");
    target.remove(&id()).await.unwrap();
    assert_eq!(pids(home), BTreeSet::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_has_one_owner() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let Some(scorer) = scorer() else { return };
    let second = LocalTarget::open(config(home.folder.path(), scorer), Arc::new(|_| {})).await;
    assert_eq!(second.expect_err("the home is in use").class, ErrorClass::Conflict);
    home.close().await;
}
