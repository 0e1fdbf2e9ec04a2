//! Python environments below the target folder, from the pinned lists in `tests/requirements`.
//!
//! `uv` installs them where pip can bring it, since it is several times faster; else pip does. A stamp holds what an
//! environment was made from, so that a second run does nothing and a changed list makes it anew.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{Workspace, shell};

const UV_VERSION: &str = "0.13.9";
const STAMP: &str = "moorline-stamp.txt";
/// The pinned lists are resolved for these; the models' package refuses 3.13.
const PINNED_FOR: [&str; 2] = ["3.11", "3.12"];
/// What scoring scripts may run on.
const SUPPORTED: [&str; 6] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13"];

/// One list of requirements and how it is installed.
#[derive(Clone, Copy, Debug)]
pub struct Requirements {
    file: &'static str,
    dependencies: bool,
}

impl Requirements {
    /// The list and whatever it depends on.
    pub const fn all(file: &'static str) -> Self {
        Self { file, dependencies: true }
    }

    /// Nothing but the list.
    pub const fn alone(file: &'static str) -> Self {
        Self { file, dependencies: false }
    }
}

/// The folder of the environments.
pub fn venvs(workspace: &Workspace) -> PathBuf {
    workspace.target().join("venvs")
}

/// An environment's interpreter, installed or not.
pub fn interpreter(workspace: &Workspace, name: &str) -> PathBuf {
    venvs(workspace).join(name).join("bin/python")
}

/// An environment's `site-packages`.
pub fn site_packages(workspace: &Workspace, name: &str) -> Result<PathBuf> {
    let lib = venvs(workspace).join(name).join("lib");
    for entry in fs_err::read_dir(&lib)? {
        let candidate = entry?.path().join("site-packages");
        if candidate.is_dir() {
            return Ok(candidate);
        }
    }
    bail!("{} holds no site-packages", lib.display())
}

/// Makes the environment `name` from `lists` unless it is there already.
pub fn install(workspace: &Workspace, name: &str, lists: &[Requirements]) -> Result<()> {
    let base = pinned_python()?;
    let mut stamp = format!("{}\n", base.display());
    for list in lists {
        stamp.push_str(&fs_err::read_to_string(list_path(workspace, list))?);
    }
    let folder = venvs(workspace).join(name);
    if fs_err::read_to_string(folder.join(STAMP)).is_ok_and(|made_from| made_from == stamp) {
        return Ok(());
    }
    shell::step(&format!("python environment `{name}`"), || {
        if folder.exists() {
            fs_err::remove_dir_all(&folder)?;
        }
        let failure = match uv(workspace, &base) {
            Some(uv) => with_uv(workspace, &uv, &base, &folder, lists).err(),
            None => Some(anyhow!("pip could not bring uv")),
        };
        if let Some(failure) = failure {
            shell::say(&format!("{failure:#}; using pip, which takes longer"));
            with_pip(workspace, &base, &folder, lists)?;
        }
        Ok(fs_err::write(folder.join(STAMP), stamp)?)
    })
}

/// The interpreters that scoring scripts may run on and that this machine has, oldest first.
pub fn interpreters() -> Vec<PathBuf> {
    SUPPORTED.iter().filter_map(|version| find_python(version)).collect()
}

fn list_path(workspace: &Workspace, list: &Requirements) -> PathBuf {
    workspace.root().join("tests/requirements").join(list.file)
}

fn pinned_python() -> Result<PathBuf> {
    PINNED_FOR
        .iter()
        .find_map(|version| find_python(version))
        .with_context(|| format!("no Python {} was found on PATH or under pyenv", PINNED_FOR.join(" or ")))
}

/// An interpreter of this minor version that really starts: pyenv's own, then PATH (where pyenv's shims may refuse).
fn find_python(version: &str) -> Option<PathBuf> {
    let named = shell::find(&format!("python{version}"));
    let candidates = pyenv(version).into_iter().chain(named).chain(shell::find("python3"));
    candidates.into_iter().find(|python| minor_version(python).as_deref() == Some(version))
}

fn pyenv(version: &str) -> Option<PathBuf> {
    let root = env::var_os("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".pyenv")))?
        .join("versions");
    let prefix = format!("{version}.");
    let mut found: Vec<PathBuf> = fs_err::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path().join("bin/python"))
        .collect();
    found.sort();
    found.pop()
}

fn minor_version(python: &Path) -> Option<String> {
    let script = "import sys; print('%d.%d' % sys.version_info[:2])";
    let text = shell::output(Command::new(python).args(["-c", script])).ok()?;
    Some(text.trim().to_owned())
}

/// What makes environments for deployments.
#[derive(Debug)]
pub struct EnvironmentMaker {
    pub uv: PathBuf,
    /// What uv must be told of pip's configuration, as variables.
    pub settings: Vec<(String, String)>,
}

/// The one for tests and demo; `None` where pip cannot bring it.
pub fn environment_maker(workspace: &Workspace) -> Result<Option<EnvironmentMaker>> {
    let base = pinned_python()?;
    let Some(uv) = uv(workspace, &base) else { return Ok(None) };
    let configuration = shell::output(Command::new(&base).args(["-m", "pip", "config", "list"]))?;
    Ok(Some(EnvironmentMaker { uv, settings: uv_settings(&configuration) }))
}

/// `uv`: the one on PATH, or one that pip brings once.
fn uv(workspace: &Workspace, base: &Path) -> Option<PathBuf> {
    if let Some(uv) = shell::find("uv") {
        return Some(uv);
    }
    let folder = venvs(workspace).join(".uv");
    let uv = folder.join("bin/uv");
    if !uv.exists() {
        let made = shell::succeeds(Command::new(base).args(["-m", "venv"]).arg(&folder))
            && shell::succeeds(Command::new(folder.join("bin/python")).args([
                "-m",
                "pip",
                "install",
                "--quiet",
                &format!("uv=={UV_VERSION}"),
            ]));
        if !made {
            return None;
        }
    }
    Some(uv)
}

fn with_uv(
    workspace: &Workspace,
    uv: &Path,
    base: &Path,
    folder: &Path,
    lists: &[Requirements],
) -> Result<()> {
    let settings = uv_settings(&shell::output(Command::new(base).args(["-m", "pip", "config", "list"]))?);
    let run = |command: &mut Command| {
        shell::run(command.current_dir(workspace.root()).envs(settings.iter().cloned()))
    };
    run(Command::new(uv).args(["venv", "--quiet", "--python"]).arg(base).arg(folder))?;
    for list in lists {
        let mut install = Command::new(uv);
        install.args(["pip", "install", "--quiet", "--python"]).arg(folder.join("bin/python"));
        if !list.dependencies {
            install.arg("--no-deps");
        }
        run(install.arg("--requirement").arg(list_path(workspace, list)))?;
    }
    Ok(())
}

fn with_pip(workspace: &Workspace, base: &Path, folder: &Path, lists: &[Requirements]) -> Result<()> {
    shell::run(Command::new(base).args(["-m", "venv", "--clear"]).arg(folder))?;
    for list in lists {
        let mut install = workspace.command(folder.join("bin/python"));
        install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        if !list.dependencies {
            install.arg("--no-deps");
        }
        shell::run(install.arg("--requirement").arg(list_path(workspace, list)))?;
    }
    Ok(())
}

/// What uv must be told of pip's configuration, which it does not read: where packages come from. As variables, since
/// addresses may hold passwords and command lines are printed.
fn uv_settings(pip_configuration: &str) -> Vec<(String, String)> {
    let mut settings = vec![("UV_PYTHON_DOWNLOADS".to_owned(), "never".to_owned())];
    for line in pip_configuration.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.trim_matches(['\'', '"']);
        let option = key.rsplit(['.', ':']).next().unwrap_or(key);
        let variable = match option {
            "index-url" => "UV_DEFAULT_INDEX",
            "extra-index-url" => "UV_INDEX",
            // uv refuses folders that do not exist; pip does not mind.
            "find-links" if value.contains("://") || Path::new(value).is_dir() => "UV_FIND_LINKS",
            "cert" => "SSL_CERT_FILE",
            _ => continue,
        };
        settings.push((variable.to_owned(), value.to_owned()));
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uv_is_told_of_pips_indexes() {
        let settings = uv_settings(
            "global.index-url='https://packages.example/simple'\n\
             :env:.find-links='/does/not/exist'\n:env:.default-timeout='180'\n",
        );
        let settings: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(
            settings,
            [("UV_PYTHON_DOWNLOADS", "never"), ("UV_DEFAULT_INDEX", "https://packages.example/simple")]
        );
    }

    #[test]
    fn requirements_are_pinned() {
        let workspace = Workspace::find().unwrap();
        for file in [
            "oracle.txt",
            "tools.txt",
            "models.txt",
            "mlflow.txt",
            "azure-ml.txt",
            "s3.txt",
            "helm.txt",
            "edge.txt",
        ] {
            let text =
                fs_err::read_to_string(workspace.root().join("tests/requirements").join(file)).unwrap();
            for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
                assert!(line.contains("=="), "{file}: {line}");
            }
        }
    }
}
