//! `cargo xtask tools`: what tests, demo and benches need and Cargo does not bring. Everything lands below the target
//! folder, except `wrk`, PostgreSQL and PoCL, which come from the distribution.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    Workspace, containers, helm, prometheus,
    python::{self, Requirements},
    shell,
};

/// The version that `deny.toml` is written for.
const DENY_VERSION: &str = "0.20.2";

/// Of `cargo xtask tools`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Which ones; all when none is named.
    tools: Vec<Tool>,
}

/// One thing that can be installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Tool {
    /// Python environment: Azure ML's inference server, the oracle of differential tests.
    Oracle,
    /// Python environment: model makers, protocol clients, real models.
    Tools,
    /// Python environment: what an MLflow model needs.
    Mlflow,
    /// Python environment: Azure ML's loader of documents, which ours is compared with.
    AzureMl,
    /// Python environment: an S3-compatible server, for the blob store.
    S3,
    /// Python environment: Azure's client of devices and modules, which the hub is tested with.
    Edge,
    /// mosquitto and its command-line clients, for the hub and for bridges.
    Mosquitto,
    /// Network name spaces and another clock, for devices that are cut off, or do not know the time.
    Networks,
    /// A PostgreSQL server, for the metadata database.
    Postgres,
    /// OpenCL on the CPU, in place of an FPGA.
    Pocl,
    /// Python environment: Intel's emulator for FPGAs, which is proprietary and may be missing.
    IntelEmulator,
    /// `libonnxruntime`, taken from the wheel in `tools` and put beside the binaries.
    OnnxRuntime,
    /// A Docker Engine, a registry, and the tools that images are checked with.
    Containers,
    /// A Debian with Python as a base image, made from the distribution's packages.
    BaseImage,
    /// Helm, which renders the chart.
    Helm,
    /// Prometheus and promtool, for alert rules and what Prometheus finds.
    Prometheus,
    /// A browser, for the tests of the portal.
    Chromium,
    /// The load generator of the benches.
    Wrk,
    /// cargo-deny, compiled once.
    Deny,
}

impl Tool {
    pub const FOR_TESTS: [Self; 17] = [
        Self::Oracle,
        Self::Tools,
        Self::Mlflow,
        Self::AzureMl,
        Self::S3,
        Self::Edge,
        Self::Mosquitto,
        Self::Networks,
        Self::Postgres,
        Self::Pocl,
        Self::IntelEmulator,
        Self::OnnxRuntime,
        Self::Containers,
        Self::BaseImage,
        Self::Helm,
        Self::Prometheus,
        Self::Chromium,
    ];
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    let tools = if arguments.tools.is_empty() { Tool::value_variants() } else { &arguments.tools };
    install(workspace, tools)
}

/// Installs what is not there yet. [`Tool::OnnxRuntime`] needs [`Tool::Tools`] before it.
pub fn install(workspace: &Workspace, tools: &[Tool]) -> Result<()> {
    for tool in tools {
        match tool {
            Tool::Oracle => python::install(workspace, "oracle", &[Requirements::all("oracle.txt")])?,
            Tool::Tools => python::install(
                workspace,
                "tools",
                &[Requirements::all("tools.txt"), Requirements::alone("models.txt")],
            )?,
            Tool::Mlflow => python::install(workspace, "mlflow", &[Requirements::all("mlflow.txt")])?,
            Tool::AzureMl => python::install(workspace, "azure-ml", &[Requirements::all("azure-ml.txt")])?,
            Tool::S3 => python::install(workspace, "s3", &[Requirements::all("s3.txt")])?,
            Tool::Edge => python::install(workspace, "edge", &[Requirements::all("edge.txt")])?,
            Tool::Mosquitto => mosquitto()?,
            Tool::Networks => networks()?,
            Tool::Postgres => postgres()?,
            Tool::Pocl => pocl()?,
            Tool::IntelEmulator => intel_emulator(workspace),
            Tool::OnnxRuntime => onnx_runtime(workspace)?,
            Tool::Containers => containers::install()?,
            Tool::BaseImage => containers::base_image(workspace)?,
            Tool::Helm => helm::install(workspace)?,
            Tool::Prometheus => prometheus::install(workspace)?,
            Tool::Chromium => chromium()?,
            Tool::Wrk => wrk()?,
            Tool::Deny => install_deny(workspace)?,
        }
    }
    Ok(())
}

/// The ONNX Runtime library that [`Tool::OnnxRuntime`] puts below the target folder.
pub fn onnx_runtime_library(workspace: &Workspace) -> Result<PathBuf> {
    library_in(&workspace.target().join("onnxruntime"))
}

/// cargo-deny, wherever it is.
pub fn deny(workspace: &Workspace) -> PathBuf {
    let own = workspace.target().join("tools/bin/cargo-deny");
    if own.exists() { own } else { shell::find("cargo-deny").unwrap_or(own) }
}

/// Copies the library out of the environment, then links it beside the binaries and the test binaries, where the
/// scorer's search looks first.
fn onnx_runtime(workspace: &Workspace) -> Result<()> {
    let capi = python::site_packages(workspace, "tools")?.join("onnxruntime/capi");
    let wheel = library_in(&capi)?;
    let name = wheel.file_name().context("a library has a name")?;
    let folder = workspace.target().join("onnxruntime");
    let library = folder.join(name);
    if !library.exists() {
        if folder.exists() {
            fs_err::remove_dir_all(&folder)?;
        }
        fs_err::create_dir_all(&folder)?;
        fs_err::copy(&wheel, &library)?;
        shell::say(&format!("copied {} to {}", name.display(), folder.display()));
    }
    let release = workspace.target().join("release");
    for beside in [release.clone(), release.join("deps")] {
        fs_err::create_dir_all(&beside)?;
        let link = beside.join(if cfg!(target_os = "macos") {
            "libonnxruntime.1.dylib"
        } else {
            "libonnxruntime.so.1"
        });
        if fs_err::read_link(&link).is_ok_and(|target| target == library) {
            continue;
        }
        if link.symlink_metadata().is_ok() {
            fs_err::remove_file(&link)?;
        }
        fs_err::os::unix::fs::symlink(&library, &link)?;
    }
    Ok(())
}

/// The one versioned `libonnxruntime` in a folder.
fn library_in(folder: &Path) -> Result<PathBuf> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libonnxruntime.so.")
            || (name.starts_with("libonnxruntime.") && name.ends_with(".dylib"))
        {
            return Ok(path);
        }
    }
    bail!("{} holds no libonnxruntime; run `cargo xtask tools`", folder.display())
}

fn wrk() -> Result<()> {
    if shell::find("wrk").is_some() {
        return Ok(());
    }
    if !can_install()? {
        bail!(
            "the benches need `wrk` as their load generator: install it (Debian: `apt-get install wrk`) and run again"
        );
    }
    apt(&["wrk"])
}

/// The tests start servers of their own from its binaries; whether the distribution's one runs does not matter.
fn postgres() -> Result<()> {
    let versions = fs_err::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = versions.map(|version| version.path().join("bin/initdb")).any(|initdb| initdb.exists());
    if debian || shell::find("initdb").is_some() {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say(
            "no PostgreSQL: the metadata database is tested with SQLite only (Debian: `apt-get install postgresql`)",
        );
        return Ok(());
    }
    apt(&["postgresql"])
}

fn chromium() -> Result<()> {
    if shell::find("chromium").is_some() {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say("no Chromium: the portal is not tested in a browser (Debian: `apt-get install chromium`)");
        return Ok(());
    }
    apt(&["chromium", "fonts-dejavu-core"])
}

fn mosquitto() -> Result<()> {
    if shell::find("mosquitto_pub").is_some() && containers::system_program("mosquitto").is_some() {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say(
            "no mosquitto: neither plain MQTT clients nor bridges are tested (Debian: `apt-get install mosquitto mosquitto-clients`)",
        );
        return Ok(());
    }
    apt(&["mosquitto", "mosquitto-clients"])
}

/// `tc` comes with `ip`.
fn networks() -> Result<()> {
    let mut missing: Vec<&str> = [("iproute2", "ip"), ("iptables", "iptables")]
        .into_iter()
        .filter(|(_, program)| containers::system_program(program).is_none())
        .map(|(package, _)| package)
        .collect();
    let mut folders = fs_err::read_dir("/usr/lib").into_iter().flatten().flatten();
    if !folders.any(|folder| folder.path().join("faketime/libfaketime.so.1").exists()) {
        missing.push("libfaketime");
    }
    if missing.is_empty() {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say(&format!(
            "no bad links and no wrong clocks: devices are not tested with them (Debian: `apt-get install {}`)",
            missing.join(" ")
        ));
        return Ok(());
    }
    apt(&missing)
}

/// A driver by which this machine's processor is an OpenCL device, and the loader that finds it.
fn pocl() -> Result<()> {
    let drivers = fs_err::read_dir("/etc/OpenCL/vendors").into_iter().flatten().flatten();
    if drivers.map(|driver| driver.file_name()).any(|name| name.to_string_lossy().contains("pocl")) {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say(
            "no PoCL: bitstreams are not tested on a device (Debian: `apt-get install pocl-opencl-icd ocl-icd-libopencl1`)",
        );
        return Ok(());
    }
    apt(&["pocl-opencl-icd", "ocl-icd-libopencl1"])
}

/// What kernels joined by channels are compared on. It is Intel's, comes from no distribution, and nothing else wants it.
fn intel_emulator(workspace: &Workspace) {
    let list = [Requirements::all("intel-emulator.txt")];
    if let Err(error) = python::install(workspace, "intel-emulator", &list) {
        // Not a failure: the one test that wants it says that it is skipped.
        shell::say(&format!("no emulator of Intel's, so channels are not tested: {error:#}"));
    }
}

/// Whether the distribution's packages can be installed by us.
pub(crate) fn can_install() -> Result<bool> {
    let root = shell::output(std::process::Command::new("id").arg("-u"))?.trim() == "0";
    Ok(root && shell::find("apt-get").is_some())
}

pub(crate) fn apt(packages: &[&str]) -> Result<()> {
    shell::step(&packages.join(" "), || {
        let apt = || {
            let mut command = std::process::Command::new("apt-get");
            // Another installation on this machine is waited for.
            command.args(["--option", "DPkg::Lock::Timeout=300"]);
            command
        };
        shell::run(apt().args(["update", "--quiet"]))?;
        let mut install = apt();
        install.args(["install", "--quiet", "--yes", "--no-install-recommends"]).args(packages);
        shell::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
    })
}

fn install_deny(workspace: &Workspace) -> Result<()> {
    if deny(workspace).exists() {
        return Ok(());
    }
    shell::step("cargo-deny (compiled once, some minutes)", || {
        let root = workspace.target().join("tools");
        let mut install =
            workspace.cargo(&["install", "cargo-deny", "--locked", "--version", DENY_VERSION, "--root"]);
        // A target folder of its own: a foreign lock file must not disturb the workspace's artifacts.
        install.arg(&root).arg("--target-dir").arg(root.join("build")).arg("--debug");
        // Nobody looks into it with a debugger.
        install.envs([("CARGO_PROFILE_DEV_DEBUG", "false"), ("CARGO_PROFILE_DEV_INCREMENTAL", "false")]);
        shell::run(&mut install)?;
        Ok(fs_err::remove_dir_all(root.join("build"))?)
    })
}
