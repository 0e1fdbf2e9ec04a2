//! The rows of Kubernetes: how much a thousand deployments cost an API server, beside `kubectl apply`, and what watching
//! them costs us. Their pods are none: it is the control plane that is measured.

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use moorline_core::{
    DeploymentId, Digest, EngineSettings, ModelType, Placement, Probe, Release, ReleaseModel,
    RequestSettings, Resources, Scale, Scheduling, Secret, Source, Target, Variable,
};
use moorline_deploy::kubernetes::{ClusterAddress, KubernetesConfig, KubernetesTarget};
use tokio::{runtime::Runtime, task::JoinSet};
use xtask::shell;

use crate::{
    report::{Bound, Row},
    rows::{Effort, Measure, median},
    stage::Stage,
};

/// The measurements of Kubernetes by name, in the order of the table.
pub const KUBERNETES: [(&str, Measure); 1] = [("thousand", thousand)];

/// Deployments applied at one time, as a reconciler with work for all of them does it.
const AT_ONE_TIME: usize = 8;
/// Those that are applied one after the other.
const ALONE: usize = 50;
/// What the issue calls accepted, in seconds, and the memory of who watches, in MiB.
const ACCEPTED: f64 = 0.3;
const WRITES: f64 = 12.0;
const MEMORY: f64 = 200.0;

/// A namespace that is gone some time after the measurement.
struct Namespace<'a> {
    kubeconfig: &'a Path,
    name: String,
}

impl Namespace<'_> {
    fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(self.kubeconfig).args(["--namespace", &self.name]).args(arguments);
        shell::output(&mut command).map(drop)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // It is named after this process: the next measurement has another one.
        let _ = self.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

fn thousand(stage: &Stage<'_>, effort: Effort) -> Result<Vec<Row>> {
    const NAME: &str = "1,000 deployments";
    let kubeconfig = env::var_os("KUBECONFIG").and_then(|value| env::split_paths(&value).next());
    let Some(kubeconfig) = kubeconfig.filter(|file| file.is_file()) else {
        return Ok(vec![Row::not_measured(NAME, "no cluster: KUBECONFIG names none")]);
    };
    let namespace =
        Namespace { kubeconfig: &kubeconfig, name: format!("moorline-bench-{}", std::process::id()) };
    namespace.kubectl(&["create", "namespace", &namespace.name])?;
    let count = if effort.rounds > 2 { 1000 } else { 200 };
    let runtime = Runtime::new()?;
    let placements: Vec<Arc<Placement>> = (0..count).map(|number| Arc::new(placement(number))).collect();

    let target = runtime.block_on(open(&kubeconfig, &namespace.name))?;
    let begin = Instant::now();
    runtime.block_on(apply_all(&target, &placements, AT_ONE_TIME))?;
    let scratch = begin.elapsed().as_secs_f64();
    let writes = target.writes() as f64 / placements.len() as f64;
    let alone: Vec<Arc<Placement>> =
        (count..count + ALONE).map(|number| Arc::new(placement(number))).collect();
    let mut latencies = runtime.block_on(apply_all(&target, &alone, 1))?;
    latencies.sort_by(f64::total_cmp);
    let slowest = latencies[latencies.len() - 1];

    // The same objects by hand, of other names: all of them at once, and one.
    let file = stage.folder("kubectl").join("all.yml");
    let mut text = String::new();
    for placement in &placements {
        for document in target.render(placement)?.documents {
            // Nobody watches these.
            let other = document
                .to_string()
                .replace("fleet-blue", "hand-blue")
                .replace("moorline.io/", "example.org/");
            text += &["---\n", &other, "\n"].concat();
        }
    }
    fs_err::create_dir_all(stage.folder("kubectl"))?;
    fs_err::write(&file, text)?;
    let file = file.to_string_lossy().into_owned();
    let begin = Instant::now();
    namespace.kubectl(&["apply", "--server-side", "-f", &file])?;
    let by_hand = begin.elapsed().as_secs_f64();

    // As the next server finds it.
    target.shutdown();
    drop(target);
    let next = runtime.block_on(open(&kubeconfig, &namespace.name))?;
    let begin = Instant::now();
    runtime.block_on(apply_all(&next, &placements, AT_ONE_TIME))?;
    let again = begin.elapsed().as_secs_f64();
    let memory = resident_mib()?;
    let row = |name, baseline: String, ours: String, value, unit, bound| Row {
        name,
        baseline,
        ours,
        value,
        unit,
        bound,
    };
    let rows = vec![
        row(
            "reconciled from scratch, against `kubectl apply --server-side -f` of the same objects",
            format!("{by_hand:.1} s"),
            format!("{count} in {scratch:.1} s"),
            scratch / by_hand,
            "",
            Bound::Open,
        ),
        row(
            "writes for each, dry runs among them",
            "–".to_owned(),
            format!("{writes:.1}"),
            writes,
            "",
            Bound::AtMost(WRITES),
        ),
        row(
            "from apply to accepted, the slowest of 50 while all others are watched",
            format!("median {:.0} ms", median(latencies.clone()) * 1e3),
            format!("{:.0} ms", slowest * 1e3),
            slowest,
            "s",
            Bound::AtMost(ACCEPTED),
        ),
        row(
            "writes of the next server, which finds all as it should be",
            "–".to_owned(),
            format!("{} in {again:.1} s", next.writes()),
            next.writes() as f64,
            "",
            Bound::AtMost(0.0),
        ),
        row(
            "resident memory of this process, which watches them",
            "–".to_owned(),
            format!("{memory:.0} MiB"),
            memory,
            "MiB",
            Bound::AtMost(MEMORY),
        ),
    ];
    next.shutdown();
    Ok(rows)
}

async fn open(kubeconfig: &Path, namespace: &str) -> Result<Arc<KubernetesTarget>> {
    let cluster = ClusterAddress {
        kubeconfig: Some(kubeconfig.to_owned()),
        context: None,
        namespace: Some(namespace.to_owned()),
    };
    let config = KubernetesConfig::new("bench".to_owned(), cluster);
    Ok(KubernetesTarget::open(config, &BTreeMap::new(), Arc::new(|_| {})).await?)
}

/// The seconds that each took to be accepted.
async fn apply_all(
    target: &Arc<KubernetesTarget>,
    placements: &[Arc<Placement>],
    at_one_time: usize,
) -> Result<Vec<f64>> {
    let mut latencies = Vec::with_capacity(placements.len());
    let mut under_way: JoinSet<Result<Duration>> = JoinSet::new();
    for placement in placements {
        if under_way.len() >= at_one_time
            && let Some(done) = under_way.join_next().await
        {
            latencies.push(done??.as_secs_f64());
        }
        let (target, placement) = (Arc::clone(target), Arc::clone(placement));
        under_way.spawn(async move {
            let begin = Instant::now();
            target.apply(&placement).await?;
            Ok(begin.elapsed())
        });
    }
    while let Some(done) = under_way.join_next().await {
        latencies.push(done??.as_secs_f64());
    }
    Ok(latencies)
}

/// One that can have several pods and has none, with a secret.
fn placement(number: usize) -> Placement {
    let name = |text: &str| text.parse().unwrap_or_else(|error| panic!("{error}"));
    let secret = Variable::Secret {
        reference: "token".to_owned(),
        version: 1,
        value: Secret::new("correct horse".to_owned()),
    };
    Placement {
        id: DeploymentId {
            workspace: name("default"),
            endpoint: name(&format!("e{number}-fleet")),
            deployment: name("blue"),
        },
        release: Release {
            format: Release::FORMAT,
            name: name("iris"),
            model: Some(ReleaseModel {
                name: name("iris"),
                version: "1".to_owned(),
                model_type: ModelType::Onnx,
                files: Vec::new(),
            }),
            code: None,
            environment: None,
            environment_variables: BTreeMap::new(),
            request_settings: RequestSettings::default(),
            engine: EngineSettings::default(),
            batching: None,
            image: None,
            collection: None,
        },
        source: Source::image(format!("registry.example.org/iris@{}", Digest::of(b"an image"))),
        replicas: 0,
        scale: Scale::TargetUtilization {
            min_instances: 0,
            max_instances: 3,
            target_utilization_percentage: 70,
            polling_interval: 1,
            scale_down_delay: 300,
        },
        resources: Resources { cpu_millis: Some(500), memory_bytes: Some(256 << 20) },
        scheduling: Scheduling::default(),
        liveness: Probe::default(),
        readiness: Probe::default(),
        variables: [("TOKEN".to_owned(), secret)].into(),
        own_server: None,
        machine_devices: None,
        golden: None,
    }
}

fn resident_mib() -> Result<f64> {
    let status = fs_err::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("the kernel says how much")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib / 1024.0)
}
