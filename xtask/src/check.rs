//! `cargo xtask check`: what a reviewer should never have to say. Every stage runs, whatever the ones before it found.

use anyhow::{Result, bail};

use crate::{
    Workspace, shell, tidy,
    tools::{self, Tool},
};

type Stage = fn(&Workspace) -> Result<()>;

/// The quick ones first.
const STAGES: [(&str, Stage); 4] =
    [("formatting", formatting), ("house rules", tidy::run), ("lints", lints), ("dependency policy", deny)];

pub fn run(workspace: &Workspace) -> Result<()> {
    let mut failed = Vec::new();
    for (title, stage) in STAGES {
        if let Err(error) = shell::step(title, || stage(workspace)) {
            shell::complain(&format!("{error:#}"));
            failed.push(title);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("check failed: {}", failed.join(", ")) }
}

fn formatting(workspace: &Workspace) -> Result<()> {
    shell::run(&mut workspace.cargo(&["fmt", "--all", "--check"]))
}

/// In the one profile, so that build scripts and procedural macros are those of the build.
fn lints(workspace: &Workspace) -> Result<()> {
    let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
    shell::run(&mut workspace.cargo(&clippy))
}

/// Licences, sources and bans need nothing but Cargo.lock; advisories need a database that may be out of reach.
fn deny(workspace: &Workspace) -> Result<()> {
    tools::install(workspace, &[Tool::Deny])?;
    let program = tools::deny(workspace);
    let mut checks = vec!["check", "bans", "licenses", "sources"];
    if shell::succeeds(workspace.command(&program).args(["fetch", "db"])) {
        checks.push("advisories");
    } else {
        shell::warn(
            "advisories were NOT checked: the advisory database (https://github.com/RustSec/advisory-db) cannot be \
             fetched from here. Run `cargo xtask check` where it can.",
        );
    }
    shell::run(workspace.command(&program).args(checks))
}
