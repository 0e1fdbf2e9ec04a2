//! Modules with the real scorer: versions that work, versions that do not, and processes that are killed.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use moorline_core::{
    Digest, EngineName, EngineSettings, FileEntry, ModelType, Name, Release, ReleaseModel, RequestSettings,
};
use moorline_edge::{
    desired::{DesiredModule, Golden, ModuleKind, ReleaseSettings},
    manifest::{RestartPolicy, Status},
    modules::{About, ModuleView, Modules, ModulesConfig, RuntimeStatus, Version},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::place::{PATIENCE, skip, soon, until};

/// The scorer, built beside this test.
pub(crate) fn scorer() -> Option<PathBuf> {
    let own = env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("moorline-scorer");
    if path.exists() {
        return Some(path);
    }
    skip(&format!("{} is missing; build the workspace first", path.display()));
    None
}

pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    config: ModulesConfig,
}

impl Place {
    pub(crate) fn new() -> Option<Self> {
        let scorer = scorer()?;
        let folder = tempfile::tempdir().unwrap();
        let environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name == "PATH")
            .collect();
        let mut config = ModulesConfig::new(scorer, folder.path().join("modules"), environment);
        config.drain_timeout = Duration::from_secs(10);
        let _ = rustls::crypto::ring::default_provider().install_default();
        Some(Self { folder, config })
    }

    fn open(&self) -> Modules {
        let about = About { secrets: self.folder.path().join("secrets"), host: None };
        Modules::open(self.config.clone(), about).unwrap()
    }

    /// A version whose model doubles its input.
    pub(crate) fn version(&self, number: u32, set: impl FnOnce(&mut Vec<u8>, &mut Golden)) -> Version {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/testkit/fixtures/double.onnx");
        let mut model = fs_err::read(fixture).unwrap();
        let mut golden = Golden {
            request: json!({"input_data": [[1.0, 2.0, 3.0]]}),
            answer: json!([[2.0, 4.0, 6.0]]),
            tolerance: 1e-4,
        };
        set(&mut model, &mut golden);
        let name: Name = "double".parse().unwrap();
        let file =
            FileEntry { path: "model.onnx".to_owned(), size: model.len() as u64, sha256: Digest::of(&model) };
        let release = Release {
            format: Release::FORMAT,
            name: name.clone(),
            model: Some(ReleaseModel {
                name,
                version: number.to_string(),
                model_type: ModelType::Onnx,
                files: vec![file],
            }),
            code: None,
            environment: None,
            environment_variables: BTreeMap::new(),
            request_settings: RequestSettings::default(),
            engine: EngineSettings { name: Some(EngineName::Tract), ..EngineSettings::default() },
            batching: None,
            image: None,
            collection: None,
        };
        let folder = self.folder.path().join(release.digest().hex());
        fs_err::create_dir_all(folder.join("model")).unwrap();
        fs_err::write(folder.join("model/model.onnx"), &model).unwrap();
        let json = release.to_json();
        fs_err::write(folder.join(Release::FILE), &json).unwrap();
        let module = DesiredModule {
            kind: ModuleKind::Release,
            version: Some(number.to_string()),
            deployment: None,
            status: Status::Running,
            restart_policy: RestartPolicy::Always,
            startup_order: 0,
            env: BTreeMap::new(),
            settings: ReleaseSettings {
                messaging: None,
                image: None,
                release: release.digest(),
                size: json.len() as u64,
                golden: Some(golden),
            },
        };
        Version { module, folder, environment: BTreeMap::new(), sockets: None, hub_name: None }
    }
}

fn view(modules: &Modules) -> ModuleView {
    modules.views().remove("m").unwrap_or_default()
}

async fn running(modules: &Modules, version: &Version) -> ModuleView {
    seen(modules, |view| view.running.as_ref() == Some(&version.module)).await
}

/// The module's view, once it is as expected.
async fn seen(modules: &Modules, expected: impl Fn(&ModuleView) -> bool) -> ModuleView {
    let mut often = tokio::time::interval(Duration::from_millis(10));
    let begun = std::time::Instant::now();
    loop {
        let view = view(modules);
        if expected(&view) {
            return view;
        }
        assert!(begun.elapsed() < 2 * PATIENCE, "{view:#?}");
        often.tick().await;
    }
}

async fn refused(modules: &Modules, version: &Version) -> ModuleView {
    seen(modules, |view| view.refused.as_ref() == Some(&version.module)).await
}

async fn score(view: &ModuleView) -> Result<Value, reqwest::Error> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let url = format!("http://{}/score", view.address.unwrap());
    let answer = client.post(url).json(&json!({"input_data": [[1.0, 3.0, 5.0]]})).send().await?;
    answer.error_for_status()?.json().await
}

fn kill(view: &ModuleView) {
    let pid = Pid::from_raw(view.process.unwrap() as i32).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

/// The releases of the versions that are kept.
fn kept(modules: &Modules) -> Vec<Digest> {
    modules.kept().iter().map(|version| version.module.settings.release).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_change_under_requests_and_bad_ones_take_none() {
    let Some(place) = Place::new() else { return };
    let modules = place.open();
    let (first, second) = (place.version(1, |_, _| {}), place.version(2, |_, _| {}));
    modules.set("m", first.clone()).await.unwrap();
    let seen = running(&modules, &first).await;
    assert_eq!(score(&seen).await.unwrap(), json!([[2.0, 6.0, 10.0]]));

    // Requests all the while: none fails when the version changes.
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (ends, counts, target) = (Arc::clone(&stop), Arc::clone(&answered), seen.clone());
    let asking = tokio::spawn(async move {
        while !ends.load(Ordering::Relaxed) {
            assert_eq!(score(&target).await.unwrap(), json!([[2.0, 6.0, 10.0]]));
            counts.fetch_add(1, Ordering::Relaxed);
        }
    });
    modules.set("m", second.clone()).await.unwrap();
    let after = running(&modules, &second).await;
    assert_eq!(after.address, seen.address, "the address stays");
    assert_ne!(after.process, seen.process);

    let wrong = place.version(3, |_, golden| golden.answer = json!([[9.0, 9.0, 9.0]]));
    modules.set("m", wrong.clone()).await.unwrap();
    let seen = refused(&modules, &wrong).await;
    assert_eq!((seen.status, seen.running.as_ref()), (RuntimeStatus::Running, Some(&second.module)));
    assert!(
        seen.description.contains("version 3") && seen.description.contains("not the known answer"),
        "{}",
        seen.description
    );
    let broken = place.version(4, |model, _| model.truncate(20));
    modules.set("m", broken.clone()).await.unwrap();
    let seen = refused(&modules, &broken).await;
    // Its own words say why.
    assert!(
        seen.description.contains("exited with code") && seen.description.contains("model.onnx"),
        "{}",
        seen.description
    );
    let before = answered.load(Ordering::Relaxed);
    until(|| (answered.load(Ordering::Relaxed) > before).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    soon(asking).await.unwrap();

    // Both versions that it could go back to are needed, the bad ones are not.
    assert!(kept(&modules).contains(&second.module.settings.release));
    assert!(!kept(&modules).contains(&broken.module.settings.release));
    let mut stopped = second.clone();
    stopped.module.status = Status::Stopped;
    modules.set("m", stopped).await.unwrap();
    let seen = until(|| Some(view(&modules)).filter(|view| view.status == RuntimeStatus::Stopped)).await;
    assert!(score(&seen).await.is_err());
    modules.remove("m").await;
    assert!(modules.views().is_empty() && modules.kept().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_comes_back_and_a_version_that_never_stays_gives_way() {
    let Some(mut place) = Place::new() else { return };
    place.config.proof = Duration::from_millis(500);
    let modules = place.open();
    let first = place.version(1, |_, _| {});
    modules.set("m", first.clone()).await.unwrap();
    let seen = running(&modules, &first).await;
    kill(&seen);
    let again =
        until(|| Some(view(&modules)).filter(|view| view.process.is_some() && view.process != seen.process))
            .await;
    assert_eq!((again.restarts, again.status), (1, RuntimeStatus::Running));
    assert_eq!(score(&again).await.unwrap(), json!([[2.0, 6.0, 10.0]]));
    drop(modules);

    // A version that is killed before it has proved itself, three times.
    place.config.proof = Duration::from_secs(2);
    let modules = place.open();
    modules.resume("m").await.unwrap();
    running(&modules, &first).await;
    let mut proof = tokio::time::interval(place.config.proof + Duration::from_millis(500));
    proof.tick().await;
    proof.tick().await;
    place.config.proof = Duration::from_mins(1);
    let second = place.version(2, |_, _| {});
    modules.set("m", second.clone()).await.unwrap();
    let mut last = None;
    for _ in 0..3 {
        let seen = until(|| {
            let view = view(&modules);
            (view.running.as_ref() == Some(&second.module) && view.process.is_some() && view.process != last)
                .then_some(view)
        })
        .await;
        last = seen.process;
        kill(&seen);
    }
    let seen = running(&modules, &first).await;
    assert_eq!(seen.refused.as_ref(), Some(&second.module));
    assert!(seen.description.contains("was killed by signal 9"), "{}", seen.description);
    assert_eq!(score(&seen).await.unwrap(), json!([[2.0, 6.0, 10.0]]));
    // It is not tried again, also after a restart.
    modules.shutdown().await;
    let modules = place.open();
    modules.set("m", second).await.unwrap();
    running(&modules, &first).await;
    modules.shutdown().await;
}

#[tokio::test]
async fn what_a_killed_agent_left_is_ended() {
    let Some(place) = Place::new() else { return };
    let modules = place.open();
    let first = place.version(1, |_, _| {});
    modules.set("m", first.clone()).await.unwrap();
    let seen = running(&modules, &first).await;
    // As if it had not been told: the next run finds a process that nobody watches.
    let other = place.open();
    until(|| (view(&modules).process != seen.process).then_some(())).await;
    drop(other);
    modules.shutdown().await;
}
