//! Prometheus, which the rules and the server's metrics are tested with: Debian's package, unpacked and not installed, so
//! that nothing of it is started.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{Workspace, shell, tools::can_install};

/// The folder with `prometheus` and `promtool`: the unpacked one, or else the machine's.
pub(crate) fn programs(workspace: &Workspace) -> Option<PathBuf> {
    let own = place(workspace);
    if own.join("promtool").exists() {
        return Some(own);
    }
    shell::find("promtool")?.parent().map(PathBuf::from)
}

/// Unpacks it where the distribution has it.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    if programs(workspace).is_some() {
        return Ok(());
    }
    if !can_install()? {
        // Not a failure: the tests that want it say that they are skipped.
        shell::say("no prometheus: alert rules are not tested (Debian: `apt-get install prometheus`)");
        return Ok(());
    }
    shell::step("prometheus", || {
        let folder = workspace.target().join("prometheus");
        fs_err::create_dir_all(&folder)?;
        shell::run(Command::new("apt-get").args(["update", "--quiet"]))?;
        shell::run(Command::new("apt-get").args(["download", "--quiet", "prometheus"]).current_dir(&folder))?;
        let mut files = fs_err::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
        let package = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let package = package.context("apt-get downloaded no package")?;
        shell::run(Command::new("dpkg-deb").arg("-x").args([&package, &folder]))?;
        Ok(fs_err::remove_file(package)?)
    })
}

fn place(workspace: &Workspace) -> PathBuf {
    workspace.target().join("prometheus/usr/bin")
}
