//! `cargo xtask check`: what a reviewer should never have to say.

use anyhow::Result;

use crate::{
    Workspace, shell, tidy,
    tools::{self, Tool},
};

pub fn run(workspace: &Workspace) -> Result<()> {
    shell::step("formatting", || shell::run(&mut workspace.cargo(&["fmt", "--all", "--check"])))?;
    shell::step("house rules", || tidy::run(workspace))?;
    // In the one profile: build scripts and procedural macros are those of the build.
    shell::step("lints", || {
        let clippy = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
        shell::run(&mut workspace.cargo(&clippy))
    })?;
    tools::install(workspace, &[Tool::Deny])?;
    shell::step("dependency policy", || deny(workspace))
}

/// Licences, sources and bans need nothing but Cargo.lock; advisories need a database that may be out of reach.
fn deny(workspace: &Workspace) -> Result<()> {
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
