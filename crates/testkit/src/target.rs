//! The laws of the target seam, on releases of the fixture `double.onnx`.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use moorline_core::{
    DeploymentId, Desired, Digest, EngineSettings, ErrorClass, FileEntry, LogOptions, ModelType, Name,
    Observation, Phase, Placement, Probe, Release, ReleaseModel, Replica, ReplicaState, RequestSettings,
    Resources, Scale, Scheduling, Secret, Source, Target, TargetKind, Variable,
};
use tempfile::TempDir;

use crate::fixture;

/// Beyond it something that is waited for does not come.
const PATIENCE: Duration = Duration::from_mins(3);
const SECRET: &str = "correct horse battery staple";

/// A release in a temporary folder that goes away with it.
#[derive(Debug)]
pub struct TestRelease {
    folder: TempDir,
    pub release: Release,
    /// Where its placements find it; its folder, unless [`TestRelease::with_source`] says another.
    source: Source,
}

impl TestRelease {
    /// The fixture `double.onnx`; releases of other versions have other digests.
    pub fn double(version: u32) -> Self {
        let model = fs_err::read(fixture("double.onnx")).expect("a fixture can be read");
        Self::of(version, &model)
    }

    /// One that no target can start: its model is none.
    pub fn broken(version: u32) -> Self {
        Self::of(version, b"this is no model")
    }

    fn of(version: u32, model: &[u8]) -> Self {
        let file =
            FileEntry { path: "model.onnx".to_owned(), size: model.len() as u64, sha256: Digest::of(model) };
        let release = Release {
            format: Release::FORMAT,
            name: name("double"),
            model: Some(ReleaseModel {
                name: name("double"),
                version: version.to_string(),
                model_type: ModelType::Onnx,
                files: vec![file],
            }),
            code: None,
            environment: None,
            environment_variables: BTreeMap::new(),
            request_settings: RequestSettings::default(),
            engine: EngineSettings::default(),
            batching: None,
            image: None,
            collection: None,
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let models = folder.path().join(Release::MODEL_DIR);
        fs_err::create_dir_all(&models).expect("a folder can be made");
        fs_err::write(models.join("model.onnx"), model).expect("a model can be written");
        fs_err::write(folder.path().join(Release::FILE), release.to_json())
            .expect("a release can be written");
        let source = Source::Folder { path: folder.path().to_owned(), python: None };
        Self { folder, release, source }
    }

    /// The same, found elsewhere: as the image that was made of it.
    #[must_use]
    pub fn with_source(self, source: Source) -> Self {
        Self { source, ..self }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// So many replicas of it, with probes that do not wait.
    pub fn placement(&self, id: &DeploymentId, replicas: u32) -> Placement {
        Placement {
            id: id.clone(),
            release: self.release.clone(),
            source: self.source.clone(),
            replicas,
            scale: Scale::Fixed { instances: replicas },
            resources: Resources::default(),
            scheduling: Scheduling::default(),
            liveness: probe(),
            readiness: probe(),
            variables: BTreeMap::new(),
            own_server: None,
            machine_devices: None,
            golden: None,
        }
    }
}

/// A name, where it is known to be one.
pub fn name(text: &str) -> Name {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// The id of a deployment in the workspace `default`.
pub fn deployment(endpoint: &str, deployment: &str) -> DeploymentId {
    DeploymentId { workspace: name("default"), endpoint: name(endpoint), deployment: name(deployment) }
}

/// Asked every second, believed at once.
fn probe() -> Probe {
    Probe { initial_delay: 10, period: 1, timeout: 2, success_threshold: 1, failure_threshold: 3 }
}

/// Observes again and again until it is as expected, and gives what was observed then.
pub async fn observed(
    target: &dyn Target,
    id: &DeploymentId,
    what: &str,
    expected: impl Fn(&Observation) -> bool,
) -> Observation {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen =
            target.observe(id).await.unwrap_or_else(|error| panic!("observing does not fail: {error}"));
        if expected(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} is never observed of `{id}`; it is {seen:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Holds the targets that `make` makes to the contract of [`moorline_core::Target`]. `place` brings a release to where they
/// find it, and may give it another source than its folder.
pub async fn target_conformance<F: Future<Output = Arc<dyn Target>>>(
    kind: TargetKind,
    make: impl Fn() -> F,
    place: impl AsyncFn(TestRelease) -> TestRelease,
) {
    let target = make().await;
    let target = &*target;
    an_unknown_name_is_absent(target).await;
    rendering_is_pure_and_tells_no_secret(target, &place).await;
    what_cannot_be_hosted_is_refused_early(target, kind, &place).await;
    applying_twice_is_applying_once(target, &place).await;
    replicas_come_and_go(target, &place).await;
    an_update_replaces_every_replica(target, &place).await;
    what_does_not_start_leaves_the_old_serving(target, &place).await;
    what_is_removed_is_absent(target, &place).await;
}

async fn apply(target: &dyn Target, placement: &Placement) {
    target.apply(placement).await.unwrap_or_else(|error| panic!("a sound placement is accepted: {error}"));
}

async fn ready(target: &dyn Target, placement: &Placement) -> Observation {
    let revision = placement.revision();
    let reached = |seen: &Observation| {
        seen.phase == Phase::Ready
            && seen.revision == Some(revision)
            && seen.replicas.len() == placement.replicas as usize
            && seen.replicas.iter().all(|replica| {
                replica.state == ReplicaState::Ready
                    && replica.revision == revision
                    && replica.address.is_some()
            })
    };
    observed(target, &placement.id, &format!("{} ready replicas", placement.replicas), reached).await
}

fn ids(replicas: &[Replica]) -> Vec<&str> {
    let mut ids: Vec<&str> = replicas.iter().map(|replica| replica.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

async fn an_unknown_name_is_absent(target: &dyn Target) {
    let unknown = deployment("unknown", "blue");
    let seen = target.observe(&unknown).await.expect("an unknown name is not an error");
    assert_eq!(seen, Observation::absent(), "an unknown name is absent");
    target.remove(&unknown).await.expect("an unknown name can be removed");
    let mut logs = target.logs(&unknown, LogOptions::default()).await.expect("an unknown name has no log");
    assert!(logs.next().await.is_none(), "an unknown name has no log");
}

fn with_variables(mut placement: Placement) -> Placement {
    let secret = |version| Variable::Secret {
        reference: "token".to_owned(),
        version,
        value: Secret::new(SECRET.to_owned()),
    };
    placement.variables.insert("COLOUR".to_owned(), Variable::Plain("teal".to_owned()));
    placement.variables.insert("TOKEN".to_owned(), secret(1));
    placement
}

async fn rendering_is_pure_and_tells_no_secret(
    target: &dyn Target,
    place: &impl AsyncFn(TestRelease) -> TestRelease,
) {
    let release = place(TestRelease::double(1)).await;
    let placement = with_variables(release.placement(&deployment("rendered", "blue"), 2));
    let render = |placement: &Placement| {
        target.render(placement).unwrap_or_else(|error| panic!("a sound placement is rendered: {error}"))
    };
    let manifest = render(&placement);
    assert_eq!(manifest, render(&placement), "rendering twice gives the same");
    assert!(!manifest.documents.is_empty(), "there is something to submit");
    let mut text = String::new();
    for document in &manifest.documents {
        write!(text, "{document}").expect("a document is text");
    }
    assert!(!text.contains(SECRET), "a manifest tells no secret");
    assert!(
        text.contains("COLOUR") && text.contains("teal") && text.contains("TOKEN"),
        "variables are shown: {text}"
    );
    let mut other = placement.clone();
    other.replicas = 3;
    assert_ne!(manifest, render(&other), "what differs is seen in the manifest");
}

async fn what_cannot_be_hosted_is_refused_early(
    target: &dyn Target,
    kind: TargetKind,
    place: &impl AsyncFn(TestRelease) -> TestRelease,
) {
    let release = place(TestRelease::double(1)).await;
    let desired = Desired {
        id: deployment("refused", "blue"),
        compute: name("local"),
        target: kind,
        release: release.release.clone(),
        environment: None,
        context: Vec::new(),
        bitstream: None,
        below: None,
        model_mount_path: None,
        scale: Scale::Fixed { instances: 1 },
        resources: Resources::default(),
        scheduling: Scheduling::default(),
        liveness: probe(),
        readiness: probe(),
        golden: None,
    };
    target.admit(&desired).await.unwrap_or_else(|error| panic!("what can be hosted is admitted: {error}"));
    let placement = release.placement(&desired.id, 1);
    let no_memory = Resources { memory_bytes: Some(1), ..Resources::default() };
    let no_threshold = Probe { failure_threshold: 0, ..probe() };
    let refused = [
        (
            "one byte of memory",
            Desired { resources: no_memory, ..desired.clone() },
            Placement { resources: no_memory, ..placement.clone() },
        ),
        (
            "a probe that never fails",
            Desired { liveness: no_threshold, ..desired.clone() },
            Placement { liveness: no_threshold, ..placement.clone() },
        ),
        (
            "a million replicas",
            Desired { scale: Scale::Fixed { instances: 1_000_000 }, ..desired.clone() },
            Placement { replicas: 1_000_000, ..placement.clone() },
        ),
    ];
    for (what, desired, placement) in refused {
        let admission = target.admit(&desired).await.expect_err(what);
        assert!(
            matches!(admission.class, ErrorClass::InvalidInput | ErrorClass::Unsupported),
            "{what} is the caller's mistake: {admission:?}"
        );
        target.render(&placement).expect_err(what);
        target.apply(&placement).await.expect_err(what);
        let seen = target.observe(&placement.id).await.expect("observing does not fail");
        assert_eq!(seen, Observation::absent(), "nothing is left of {what}");
    }
}

async fn applying_twice_is_applying_once(
    target: &dyn Target,
    place: &impl AsyncFn(TestRelease) -> TestRelease,
) {
    let release = place(TestRelease::double(1)).await;
    let placement = release.placement(&deployment("twice", "blue"), 2);
    apply(target, &placement).await;
    apply(target, &placement).await;
    let first = ready(target, &placement).await;
    apply(target, &placement).await;
    let second = ready(target, &placement).await;
    assert_eq!(ids(&first.replicas), ids(&second.replicas), "the same replicas serve on");
    target.remove(&placement.id).await.expect("it can be removed");
}

async fn replicas_come_and_go(target: &dyn Target, place: &impl AsyncFn(TestRelease) -> TestRelease) {
    let release = place(TestRelease::double(1)).await;
    let placement = |replicas| release.placement(&deployment("scaled", "blue"), replicas);
    for replicas in [1, 3, 2, 0, 1] {
        apply(target, &placement(replicas)).await;
        ready(target, &placement(replicas)).await;
    }
    target.remove(&placement(1).id).await.expect("it can be removed");
}

async fn an_update_replaces_every_replica(
    target: &dyn Target,
    place: &impl AsyncFn(TestRelease) -> TestRelease,
) {
    let id = deployment("updated", "blue");
    let (old, new) = (place(TestRelease::double(1)).await, place(TestRelease::double(2)).await);
    apply(target, &old.placement(&id, 2)).await;
    let before = ready(target, &old.placement(&id, 2)).await;
    apply(target, &new.placement(&id, 2)).await;
    let after = ready(target, &new.placement(&id, 2)).await;
    for replica in ids(&after.replicas) {
        assert!(!ids(&before.replicas).contains(&replica), "a replica cannot change its revision");
    }
    let turned = with_variables(new.placement(&id, 2));
    apply(target, &turned).await;
    ready(target, &turned).await;
    target.remove(&id).await.expect("it can be removed");
}

async fn what_does_not_start_leaves_the_old_serving(
    target: &dyn Target,
    place: &impl AsyncFn(TestRelease) -> TestRelease,
) {
    let id = deployment("failed", "blue");
    let (sound, broken) = (place(TestRelease::double(1)).await, place(TestRelease::broken(2)).await);
    apply(target, &sound.placement(&id, 1)).await;
    let before = ready(target, &sound.placement(&id, 1)).await;
    let placement = broken.placement(&id, 1);
    apply(target, &placement).await;
    let failed = |seen: &Observation| seen.phase == Phase::Failed;
    let seen = observed(target, &id, "the failure of a broken revision", failed).await;
    assert_eq!(seen.revision, Some(placement.revision()), "the newest revision is the one that failed");
    let failure = seen.failure.expect("a failure has a reason");
    assert!(failure.reason.contains("model.onnx"), "the reason names the thing: {}", failure.reason);
    let serving = seen.replicas.iter().filter(|replica| replica.state == ReplicaState::Ready);
    let serving: Vec<&str> = serving.map(|replica| replica.id.as_str()).collect();
    assert_eq!(serving, ids(&before.replicas), "the old replicas serve on");
    apply(target, &sound.placement(&id, 1)).await;
    let after = ready(target, &sound.placement(&id, 1)).await;
    assert_eq!(ids(&after.replicas), ids(&before.replicas), "going back starts nothing");
    assert_eq!(after.failure, None, "what failed is not spoken of any more");
    target.remove(&id).await.expect("it can be removed");

    let alone = deployment("failed", "green");
    apply(target, &broken.placement(&alone, 1)).await;
    observed(target, &alone, "the failure of a first revision", failed).await;
    target.remove(&alone).await.expect("what failed can be removed");
}

async fn what_is_removed_is_absent(target: &dyn Target, place: &impl AsyncFn(TestRelease) -> TestRelease) {
    let release = place(TestRelease::double(1)).await;
    let placement = release.placement(&deployment("removed", "blue"), 1);
    apply(target, &placement).await;
    for round in ["while it starts", "again"] {
        target
            .remove(&placement.id)
            .await
            .unwrap_or_else(|error| panic!("it can be removed {round}: {error}"));
        let seen = target.observe(&placement.id).await.expect("observing does not fail");
        assert_eq!(seen, Observation::absent(), "removed {round}");
    }
    apply(target, &placement).await;
    ready(target, &placement).await;
    target.remove(&placement.id).await.expect("what came back can be removed");
}
