//! `cargo xtask portal`: the web portal, built with npm into `portal/dist`, from where the server takes it up when it is
//! compiled. What was built from the same sources is not built again, because that would compile the server anew.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::{Workspace, shell};

/// The oldest Node.js that the tools run on.
const OLDEST_NODE: (u32, u32) = (20, 19);
/// Beside what was built: what it was built from.
const STAMP: &str = ".sources";

/// Builds it, and fails where it cannot be.
pub fn run(workspace: &Workspace) -> Result<()> {
    if let Some(lack) = lack() {
        bail!("{lack}");
    }
    build(workspace)
}

/// Builds it where npm is; the server does without it where not.
pub fn run_if_possible(workspace: &Workspace) -> Result<()> {
    if let Some(lack) = lack() {
        shell::warn(&format!("{lack}: the server is built without its portal"));
        return Ok(());
    }
    build(workspace)
}

fn lack() -> Option<String> {
    let (major, minor) = OLDEST_NODE;
    let needs = format!("the portal needs npm and Node.js {major}.{minor} or later");
    if shell::find("npm").is_none() {
        return Some(needs);
    }
    let said = shell::output(std::process::Command::new("node").arg("--version")).unwrap_or_default();
    let mut parts = said.trim().trim_start_matches('v').split('.').map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    (found < OLDEST_NODE).then(|| format!("{needs}, and this is {}", said.trim()))
}

fn build(workspace: &Workspace) -> Result<()> {
    let portal = workspace.root().join("portal");
    let stamp = portal.join("dist").join(STAMP);
    let sources = sources(&portal)?;
    let built = fs_err::read_to_string(&stamp).is_ok_and(|stamp| stamp == sources);
    // The tests need what npm installs, whether anything is built or not.
    let installed = portal.join("node_modules/.package-lock.json");
    let fresh = |file: &Path| fs_err::metadata(file).and_then(|data| data.modified()).ok();
    let installed = fresh(&installed) >= fresh(&portal.join("package-lock.json"));
    if built && installed {
        return Ok(());
    }
    let npm = |arguments: &[&str]| {
        let mut npm = workspace.command("npm");
        npm.args(arguments).current_dir(&portal);
        shell::run(&mut npm)
    };
    shell::step("the portal", || {
        if !installed {
            npm(&["ci", "--no-audit", "--no-fund"])?;
        }
        if !built {
            npm(&["run", "--silent", "test"])?;
            npm(&["run", "--silent", "build"])?;
            fs_err::write(&stamp, sources)?;
        }
        Ok(())
    })
}

/// One digest of all that the portal is built from.
fn sources(portal: &Path) -> Result<String> {
    let mut files = Vec::new();
    for name in ["src", "public", "scripts"] {
        collect(&portal.join(name), &mut files)?;
    }
    for name in
        ["index.html", "openapi.json", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts"]
    {
        files.push(portal.join(name));
    }
    files.sort();
    let mut hash = Sha256::new();
    // What is written while it is built is not what it is built from.
    for file in files.iter().filter(|file| !file.ends_with("schema.d.ts")) {
        let name = file.strip_prefix(portal).context("a file of the portal is elsewhere")?;
        let content = fs_err::read(file)?;
        hash.update(format!("{} {}\n", name.display(), content.len()));
        hash.update(content);
    }
    Ok(hash.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
