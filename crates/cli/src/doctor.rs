//! `moorline doctor`: what is installed on this machine, and what each kind of compute can do with it.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::Args;
use moorline_deploy::container::{Engine, EngineHost};
use serde_json::{Value, json};

use crate::{
    exit::Explained,
    local_server,
    output::{Columns, Printing},
    session::{Session, environment_of_process},
};

const COLUMNS: Columns =
    Columns(&[("Kind", "kind"), ("Name", "name"), ("State", "state"), ("Detail", "detail")]);
/// How long a program may take to say its version.
const PATIENCE: Duration = Duration::from_secs(10);
const ONNX_RUNTIME: &str = "libonnxruntime";
const OPENCL: &str = "libOpenCL.so";
const LIBRARY_FOLDERS: [&str; 8] = [
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/opt/onnxruntime/lib",
    "/opt/homebrew/lib",
];

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The scorer that runs releases [default: moorline-scorer beside this program, or in PATH]
    #[arg(long, env = "MOORLINE_SCORER", value_name = "FILE", hide_env_values = true)]
    scorer: Option<PathBuf>,
    #[command(flatten)]
    printing: Printing,
}

/// One line of the answer.
#[derive(Debug)]
struct Finding {
    kind: &'static str,
    name: String,
    /// `None` is neither good nor bad.
    good: Option<bool>,
    detail: String,
}

impl Finding {
    fn tool(name: &str, found: Option<String>, otherwise: &str) -> Self {
        Self {
            kind: "tool",
            name: name.to_owned(),
            good: Some(found.is_some()),
            detail: found.unwrap_or_else(|| otherwise.to_owned()),
        }
    }

    fn json(&self) -> Value {
        let state = match (self.kind, self.good) {
            ("compute", Some(true)) => "works",
            ("compute", _) => "does not",
            (_, Some(true)) => "found",
            (_, Some(false)) => "missing",
            (_, None) => "-",
        };
        json!({ "kind": self.kind, "name": self.name, "state": state, "detail": self.detail })
    }
}

pub(crate) async fn run(session: &Session, doctor: Doctor) -> anyhow::Result<()> {
    let path = &session.variables.search_path;
    let scorer = doctor.scorer.or_else(|| find_beside("moorline-scorer", path));
    let scorer_version = match &scorer {
        Some(scorer) => version(scorer, &["--version"]).await,
        None => None,
    };
    let mut findings = tools(session, scorer.as_deref(), scorer_version.as_deref()).await;
    let mut computes = computes(&findings, scorer_version.is_some());
    computes.insert(1, container().await);
    findings.extend(computes);
    let works = scorer_version.is_some();
    doctor.printing.print(Value::Array(findings.iter().map(Finding::json).collect()), COLUMNS)?;
    if works {
        return Ok(());
    }
    Err(Explained::new("nothing can be deployed on this machine")
        .hint("moorline-scorer is built and installed beside moorline")
        .into())
}

/// What each kind of compute can do with what was found.
fn computes(tools: &[Finding], scorer: bool) -> Vec<Finding> {
    let missing = |name: &str| tools.iter().any(|tool| tool.name == name && tool.good == Some(false));
    let local = match (scorer, missing("uv"), missing("python")) {
        (false, ..) => "needs moorline-scorer beside this program, in PATH, or named with --scorer",
        (true, false, false) => "ONNX models, MLflow models and scoring scripts",
        (true, _, true) => "ONNX models; scoring scripts need Python 3",
        (true, true, false) => {
            "ONNX models, and scoring scripts without an environment; environments need uv"
        }
    };
    let compute = |name: &str, good: bool, detail: String| Finding {
        kind: "compute",
        name: name.to_owned(),
        good: Some(good),
        detail,
    };
    let mut found = vec![compute("local", scorer, local.to_owned())];
    for (name, needs, then) in [
        ("kubernetes", "kubeconfig", "a namespace of a cluster becomes one by `moorline compute create -f`"),
        (
            "fpga",
            "OpenCL",
            "`moorline device list` shows the devices; a compute names them and a signed bitstream",
        ),
    ] {
        let lacks = missing(needs);
        let detail = if lacks { format!("needs {needs}") } else { then.to_owned() };
        found.push(compute(name, !lacks, detail));
    }
    let hub = "devices connect to the hub of a server: `moorline up --hub ADDRESS --hub-name HOST`";
    found.push(compute("edge", true, hub.to_owned()));
    found
}

/// Whether an Engine answers where Docker's own tools would look for one.
async fn container() -> Finding {
    let described = async {
        let host = EngineHost::discover(&environment_of_process()).map_err(|error| error.to_string())?;
        let host = host.ok_or("needs Docker or Podman: no socket was found, and DOCKER_HOST is not set")?;
        let engine = Engine::connect(&host).await.map_err(|error| error.to_string())?;
        let engine = engine.describe().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(format!("{} {} at {host}, {}", engine.name, engine.version, engine.platform))
    };
    let (good, detail) = match described.await {
        Ok(detail) => (true, detail),
        Err(reason) => (false, reason),
    };
    Finding { kind: "compute", name: "container".to_owned(), good: Some(good), detail }
}

async fn tools(session: &Session, scorer: Option<&Path>, scorer_version: Option<&str>) -> Vec<Finding> {
    let variables = &session.variables;
    let path = &variables.search_path;
    let found_scorer = scorer.map(|scorer| match scorer_version {
        Some(version) => format!("{} ({version})", scorer.display()),
        None => format!("{} does not run", scorer.display()),
    });
    let mut scorer_finding =
        Finding::tool("moorline-scorer", found_scorer, "neither beside this program nor in PATH");
    scorer_finding.good = Some(scorer_version.is_some());
    let runtime = onnx_runtime(variables.onnx_runtime.as_deref(), scorer);
    let pythons = pythons(path, variables.user_home.as_deref()).await;
    let pythons: Vec<&str> = pythons.values().map(String::as_str).collect();
    let kubeconfig = variables
        .kubeconfig
        .clone()
        .or_else(|| variables.user_home.as_ref().map(|home| home.join(".kube/config")))
        .filter(|path| path.is_file());
    let sqlite = Finding {
        kind: "store",
        name: "SQLite".to_owned(),
        good: Some(true),
        detail: "built in; PostgreSQL with `moorline up --database postgres://…`".to_owned(),
    };
    let server = match (&session.globals.server, session.home().ok()) {
        (Some(server), _) => Finding {
            kind: "server",
            name: "server".to_owned(),
            good: None,
            detail: format!("{server}, as MOORLINE_SERVER or --server says"),
        },
        (None, Some(home)) => {
            let address = local_server::find(&home).await;
            let detail = match address {
                Some(address) => format!("runs at http://{address}, its home is {}", home.display()),
                None => format!("none runs in {}; the first command starts one", home.display()),
            };
            Finding { kind: "server", name: "server".to_owned(), good: None, detail }
        }
        (None, None) => Finding {
            kind: "server",
            name: "server".to_owned(),
            good: None,
            detail: "neither MOORLINE_HOME nor HOME is set".to_owned(),
        },
    };
    vec![
        scorer_finding,
        Finding::tool(
            "ONNX Runtime",
            runtime.map(|path| path.display().to_string()),
            "tract runs ONNX models instead, slower; `pip install onnxruntime` or ORT_DYLIB_PATH changes that",
        ),
        Finding::tool(
            "python",
            (!pythons.is_empty()).then(|| pythons.join(", ")),
            "scoring scripts need Python 3",
        ),
        program("uv", path, "makes the environments of scoring scripts; `pip install uv` installs it").await,
        program("micromamba", path, "only needed for conda packages that PyPI does not have").await,
        program("docker", path, "only needed to look at containers by hand").await,
        program("kubectl", path, "only needed to look at a cluster by hand").await,
        Finding::tool(
            "kubeconfig",
            kubeconfig.map(|path| path.display().to_string()),
            "only needed to deploy to a cluster",
        ),
        Finding::tool(
            "OpenCL",
            library(OPENCL, None).map(|path| path.display().to_string()),
            "only needed for FPGAs",
        ),
        sqlite,
        server,
    ]
}

async fn program(name: &str, path: &[PathBuf], otherwise: &str) -> Finding {
    let found = match find_beside(name, path) {
        Some(found) => {
            let flag: &[&str] = if name == "kubectl" { &["version", "--client"] } else { &["--version"] };
            let said = version(&found, flag).await.unwrap_or_else(|| "does not say its version".to_owned());
            Some(format!("{} ({said})", found.display()))
        }
        None => None,
    };
    Finding::tool(name, found, otherwise)
}

/// A program of this name beside this one, or in PATH.
pub(crate) fn find_beside(name: &str, path: &[PathBuf]) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    own.iter().chain(path).map(|folder| folder.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    fs_err::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// The first line of what a program says of itself.
async fn version(program: &Path, flags: &[&str]) -> Option<String> {
    let said = tokio::process::Command::new(program)
        .args(flags)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let said = tokio::time::timeout(PATIENCE, said).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&said.stdout);
    said.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The versions of Python on this machine: in PATH, and by pyenv.
async fn pythons(path: &[PathBuf], home: Option<&Path>) -> BTreeMap<Vec<u32>, String> {
    let pyenv = home.map(|home| home.join(".pyenv/versions"));
    let pyenv = pyenv.and_then(|versions| fs_err::read_dir(versions).ok()).into_iter().flatten();
    let pyenv = pyenv.filter_map(Result::ok).map(|entry| entry.path().join("bin/python3"));
    let minor = |minor: u32| path.iter().map(move |folder| folder.join(format!("python3.{minor}")));
    let plain = path.iter().map(|folder| folder.join("python3"));
    let mut found = BTreeMap::new();
    for candidate in plain.chain((9..=20).flat_map(minor)).chain(pyenv).filter(|file| is_program(file)) {
        if let Some(said) = version(&candidate, &["--version"]).await
            && let Some(version) = said.strip_prefix("Python ")
        {
            // Ordered by number: 3.9 comes before 3.10.
            let parts = version.split('.').map(|part| part.parse().unwrap_or_default()).collect();
            found.insert(parts, version.to_owned());
        }
    }
    found
}

fn onnx_runtime(given: Option<&Path>, scorer: Option<&Path>) -> Option<PathBuf> {
    match given {
        Some(given) if given.is_file() => Some(given.to_owned()),
        Some(given) => first_in(given, ONNX_RUNTIME),
        None => library(ONNX_RUNTIME, scorer.and_then(Path::parent)),
    }
}

/// The first library whose name begins so: in `beside`, then where packages put libraries.
fn library(name: &str, beside: Option<&Path>) -> Option<PathBuf> {
    beside.into_iter().chain(LIBRARY_FOLDERS.iter().map(Path::new)).find_map(|folder| first_in(folder, name))
}

fn first_in(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs_err::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(|own| own.starts_with(name)))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().next()
}
