//! Updates and scaling under load: no request that was sent to a ready replica is lost.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use moorline_core::{DeploymentId, Observation, Phase, Placement, ReplicaState, Target, Variable};
use moorline_deploy::local::LocalTarget;
use moorline_testkit::{TestRelease, deployment, observed};

use crate::{
    http::{infer, post},
    place::{Home, Scripted, config, eventually, scorer, scorers},
};

/// Sends one request after another to replicas that are ready when it is sent.
async fn load(target: Arc<LocalTarget>, id: DeploymentId, stop: Arc<AtomicBool>, sent: Arc<AtomicUsize>) {
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let seen = target.observe(&id).await.expect("observing does not fail");
        let ready: Vec<_> =
            seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready).collect();
        assert!(!ready.is_empty(), "some replica is ready at any time: {seen:#?}");
        turn += 1;
        let replica = ready[turn % ready.len()];
        let address = replica.address.expect("a ready replica has an address");
        infer(address.data).await.unwrap_or_else(|error| panic!("request {turn} was lost: {error}"));
        sent.fetch_add(1, Ordering::Relaxed);
    }
}

async fn reach(target: &LocalTarget, placement: &Placement) -> Observation {
    target.apply(placement).await.expect("it is accepted");
    let revision = placement.revision();
    let reached = |seen: &Observation| {
        seen.phase == Phase::Ready
            && seen.revision == Some(revision)
            && seen.replicas.len() == placement.replicas as usize
    };
    observed(target, &placement.id, "the placement", reached).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_and_scaling_lose_no_request() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let id = deployment("rolled", "blue");
    let releases = [TestRelease::double(1), TestRelease::double(2), TestRelease::double(3)];
    reach(&home.target, &releases[0].placement(&id, 2)).await;
    let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (target, stop, sent) = (Arc::clone(&home.target), Arc::clone(&stop), Arc::clone(&sent));
            tokio::spawn(load(target, id.clone(), stop, sent))
        })
        .collect();
    for (release, replicas) in [(1, 2), (2, 1), (2, 3), (0, 2)] {
        reach(&home.target, &releases[release].placement(&id, replicas)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request was lost");
    }
    assert!(sent.load(Ordering::Relaxed) > 100, "the load was one");
    home.close().await;
}

const SLOW: &str = "import os, time\n\ndef init():\n    pass\n\ndef run(data):\n    open(os.environ['BEGUN'], 'w').close()\n    \
                    time.sleep(float(data))\n    return 'done'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_flight_ends_before_its_replica_whoever_watches() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let Some(scorer) = scorer() else { return };
    let (release, id) = (Scripted::new(SLOW), deployment("drained", "blue"));
    let begun = home.folder.path().join("begun");
    let placement = |replicas| {
        let mut placement = release.placement(&id, replicas);
        placement.variables.insert("BEGUN".to_owned(), Variable::Plain(begun.display().to_string()));
        placement
    };
    let seen = reach(&home.target, &placement(1)).await;
    let address = seen.replicas[0].address.expect("a ready replica has an address");
    let request = tokio::spawn(async move { post(address.data, "/score", "3").await });
    eventually("the request", || begun.exists()).await;
    home.target.apply(&placement(0)).await.unwrap();
    let draining = |seen: &Observation| {
        seen.replicas.first().is_some_and(|replica| replica.state == ReplicaState::Draining)
    };
    observed(&*home.target, &id, "a draining replica", draining).await;
    let marked = |file: &PathBuf| file.file_name().is_some_and(|name| name == "draining");
    eventually("the mark of draining", || home.files().iter().any(|(file, _)| marked(file))).await;

    // Another server goes on with it.
    let Home { target, folder } = home;
    target.shutdown(true).await;
    drop(target);
    let target = LocalTarget::open(config(folder.path(), scorer), Arc::new(|_| {})).await.unwrap();
    observed(&*target, &id, "a draining replica", draining).await;
    let reply = request.await.unwrap().expect("the request is answered");
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains("done"), "{reply}");
    observed(&*target, &id, "no replica", |seen| seen.phase == Phase::Ready && seen.replicas.is_empty())
        .await;
    assert!(scorers(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_lead_groups_of_their_own() {
    let Some(home) = Home::open(|_| {}).await else { return };
    let release = TestRelease::double(1);
    reach(&home.target, &release.placement(&deployment("grouped", "blue"), 1)).await;
    let (pid, _) = scorers(home.folder.path())[0];
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(2)).unwrap();
    assert_eq!(group, pid.to_string(), "what a terminal sends to the server does not reach a replica");
    home.close().await;
}
