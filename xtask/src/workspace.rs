//! Where things are: the workspace's root and the target folder that Cargo uses for it.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::shell;

/// The paths that every verb needs, and Cargo run at the root.
#[derive(Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
    metadata: Value,
}

impl Workspace {
    /// Asks Cargo, so that `CARGO_TARGET_DIR` and configuration files are respected.
    pub fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has no parent folder")?;
        let text = shell::output(
            Command::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).current_dir(root),
        )?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
        let target =
            metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
        Ok(Self { root: root.to_owned(), target: target.into(), metadata })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target folder; everything that xtask makes is below it.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// A binary of this workspace, built or not.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// `cargo metadata` of the workspace's own packages.
    pub fn metadata(&self) -> &Value {
        &self.metadata
    }

    /// A command that runs at the root.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(arguments);
        command
    }

    /// Builds every binary in the one profile. The whole workspace at once, so that features unify the same way for
    /// every verb and nothing is compiled twice.
    pub fn build(&self) -> Result<()> {
        shell::step("build all binaries", || {
            shell::run(&mut self.cargo(&["build", "--release", "--workspace", "--bins"]))
        })
    }
}
