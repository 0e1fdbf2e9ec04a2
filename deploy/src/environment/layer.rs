//! Environments of images: a conda file becomes a folder that is a virtual environment where the image's Python finds it,
//! without the image being run. It is made once for every Python that it can stand on.

use std::path::{Path, PathBuf};

use moorline_core::{Digest, Environment, ErrorClass};
use moorline_spec::conda::CondaFile;
use tokio::{process::Command, time::timeout};

use super::{
    BuildLog, Constraint, EnvironmentError, Environments, Folder, Inner, Making, Workshop, compile,
    conda_file, packages, python, python::Version, tools, tree,
};
use crate::{Progress, image::BasePython};

/// Part of every name, so that trees that an earlier build made differently are made again.
const FORMAT: &str = "layer 1";
/// Names in the message of what has no wheel.
const NAMED_AT_MOST: usize = 20;

/// An environment's files for an image. Nothing in it is of this machine, but for times of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerTree {
    /// What belongs at `/opt/moorline/release/environment`: `pyvenv.cfg`, `bin/`, `lib/`.
    pub root: PathBuf,
    /// The exact versions in it, a line each: `numpy==2.1.0`.
    pub lock: String,
}

impl Environments {
    /// Makes the environment's tree if it is not there. `progress` is told of every line that the build prints. Two
    /// calls for one environment build it once. A call that is cancelled ends what it had begun.
    ///
    /// An environment without a conda file gives a tree without packages.
    ///
    /// Where packages have no wheel, the error names them, and [`Environments::compilation`] makes what this gives then.
    /// `image` is the digest of the base's config.
    pub async fn layer(
        &self,
        environment: &Environment,
        base: &BasePython,
        image: &Digest,
        progress: &Progress,
    ) -> Result<LayerTree, EnvironmentError> {
        let lines = requirements(environment, base)?;
        let key = key(&lines, base);
        let Inner { config, folder } = &*self.0;
        for key in [&key, &compile::key(&lines, base, image)] {
            if let Some(tree) = present(folder, key).await? {
                return Ok(tree);
            }
        }
        let _lock = folder
            .lock(&key, || progress.line("waiting for the same environment, which is being made already"))
            .await
            .map_err(|error| EnvironmentError::io("could not lock the environment", error))?;
        if let Some(tree) = present(folder, &key).await? {
            return Ok(tree);
        }
        let told = |line: &str| progress.line(line);
        let mut log = BuildLog::create(&folder.log(&key), &told)
            .map_err(|error| EnvironmentError::io("could not write the log of the build", error))?;
        let making = Making { config, folder, key: &key, variables: tools::variables(&config.environment) };
        let made = timeout(config.timeout, making.layer(&lines, base, &mut log)).await;
        let made = made.unwrap_or_else(|_| Err(EnvironmentError::late(config.timeout)));
        match made {
            Ok(tree) => Ok(tree),
            Err(error) => Err(explain(EnvironmentError { log: log.tail(), ..error })),
        }
    }
}

/// The lines for pip, where the base will do for them.
pub(super) fn requirements(
    environment: &Environment,
    base: &BasePython,
) -> Result<Vec<String>, EnvironmentError> {
    let Some(text) = &environment.conda_file else { return Ok(Vec::new()) };
    let file = conda_file(text)?;
    check_python(&file, base)?;
    let wanted = packages::requirements(&file);
    if wanted.obstacles.is_empty() {
        return Ok(wanted.lines);
    }
    Err(EnvironmentError::new(
        ErrorClass::Unsupported,
        format!(
            "the conda file needs conda itself: {}; move what is on PyPI to its `pip:` list, or give the environment a `build:` whose Dockerfile installs it",
            wanted.obstacles.join("; ")
        ),
    ))
}

fn check_python(file: &CondaFile, base: &BasePython) -> Result<(), EnvironmentError> {
    let asked = file.python.as_deref().unwrap_or_default();
    let constraint = Constraint::parse(asked).ok_or_else(|| EnvironmentError::python_constraint(asked))?;
    let minor = [base.major, base.minor];
    let meets = |patch| constraint.meets(Version([base.major, base.minor, patch]), false);
    // A patch level that nobody knows may be any.
    let met = base.patch.map_or_else(|| constraint.meets_some(minor), meets);
    if met {
        return Ok(());
    }
    Err(EnvironmentError::new(
        ErrorClass::InvalidInput,
        format!(
            "the conda file asks for Python {asked} and the environment's image has Python {}; name an image with the Python that is asked for, or change `python` in the conda file",
            base.full_version()
        ),
    ))
}

fn key(lines: &[String], base: &BasePython) -> String {
    let parts = serde_json::to_vec(&(FORMAT, lines, base)).expect("a base has only string keys");
    Digest::of(&parts).hex()
}

pub(super) async fn present(folder: &Folder, key: &str) -> Result<Option<LayerTree>, EnvironmentError> {
    if !folder.is_whole(key) {
        return Ok(None);
    }
    let lock = folder.layer_lock(key);
    let lock = blocking(move || fs_err::read_to_string(lock)).await;
    let lock =
        lock.map_err(|error| EnvironmentError::io("could not read the versions of an environment", error))?;
    Ok(Some(LayerTree { root: folder.layer_tree(key), lock }))
}

impl Making<'_> {
    async fn layer(
        &self,
        lines: &[String],
        base: &BasePython,
        log: &mut BuildLog<'_>,
    ) -> Result<LayerTree, EnvironmentError> {
        log.line(&format!("Python {} of the image, for {}", base.full_version(), base.platform));
        let workshop = Workshop(self.folder.workshop(self.key));
        fs_err::create_dir_all(Folder::tree_of(&workshop.0))
            .map_err(|error| EnvironmentError::io("could not write the environment", error))?;
        if !lines.is_empty() {
            self.install(lines, base, &workshop, log).await?;
        }
        self.put_tree(workshop.0.clone(), base).await
    }

    /// Makes what was installed into an environment, and moves it into place.
    pub(super) async fn put_tree(
        &self,
        made: PathBuf,
        base: &BasePython,
    ) -> Result<LayerTree, EnvironmentError> {
        let failed = |error| EnvironmentError::io("could not write the environment", error);
        let (place, own) = (made.clone(), base.clone());
        let finish = move || {
            let lock = tree::finish(&Folder::tree_of(&place), &own)?;
            fs_err::write(Folder::lock_of(&place), &lock)?;
            let made_of = serde_json::json!({ "python": own.full_version(), "platform": own.platform });
            Folder::mark(&place, &made_of.to_string())?;
            Ok(lock)
        };
        let lock = blocking(finish).await.map_err(failed)?;
        self.folder.put(&made, self.key).map_err(failed)?;
        Ok(LayerTree { root: self.folder.layer_tree(self.key), lock })
    }

    async fn install(
        &self,
        lines: &[String],
        base: &BasePython,
        workshop: &Workshop,
        log: &mut BuildLog<'_>,
    ) -> Result<(), EnvironmentError> {
        let requirements = workshop.0.join("requirements.txt");
        fs_err::write(&requirements, lines.join("\n") + "\n")
            .map_err(|error| EnvironmentError::io("could not write the requirements", error))?;
        let mut command = self.install_command(base, &workshop.0).await?;
        command.arg("--requirements").arg(&requirements);
        self.run(command, "could not install the packages of the environment", log).await
    }

    /// uv, as it installs wheels for the image's Python into the tree of `place`. What to install is to be added.
    pub(super) async fn install_command(
        &self,
        base: &BasePython,
        place: &Path,
    ) -> Result<Command, EnvironmentError> {
        let uv = self.uv()?.ok_or_else(|| self.no_uv())?;
        let runner = self.runner(&uv, base).await?;
        let mut command = Command::new(&uv);
        command.args(["pip", "install", "--prefix"]).arg(Folder::tree_of(place));
        command.arg("--python").arg(&runner);
        command.args(["--python-version", &base.full_version(), "--python-platform", &base.platform]);
        command.args(["--only-binary", ":all:", "--no-compile-bytecode", "--link-mode", "copy"]);
        Ok(command)
    }

    /// uv runs with a Python of this machine, and asks nothing of it: versions and platform are those of the image.
    pub(super) async fn runner(&self, uv: &Path, base: &BasePython) -> Result<PathBuf, EnvironmentError> {
        let found = python::find(&self.variables, Some(uv)).await;
        let runner = Constraint::parse(&base.version()).and_then(|same| same.choose(&found));
        let runner = runner.or_else(|| found.first()).ok_or_else(|| {
            EnvironmentError::new(
                ErrorClass::Unavailable,
                "uv needs a Python 3 on this machine, of any version, and none was found; install python3",
            )
        })?;
        Ok(runner.path.clone())
    }
}

/// Names the packages that have to be built, where it was for want of wheels.
fn explain(error: EnvironmentError) -> EnvironmentError {
    let without_wheels = without_wheels(&error.log);
    if without_wheels.is_empty() {
        return error;
    }
    let named: Vec<String> = without_wheels.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "{} cannot be had as a wheel for the image's Python, and has to be built in the image, which needs an Engine, and none was found; start Docker, or say with DOCKER_HOST where it is, or choose a version that has a wheel",
        named.join(", ")
    );
    EnvironmentError { class: ErrorClass::Unsupported, message, without_wheels, ..error }
}

/// Of uv's output: ``Wheels are required for `docopt` because …`` and `docopt==0.6.2 has no usable wheels`.
fn without_wheels(log: &[String]) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut names: Vec<String> = Vec::new();
    for line in log {
        let hinted = line.match_indices("Wheels are required for `").filter_map(|(start, before)| {
            let rest = &line[start + before.len()..];
            rest.split('`').next()
        });
        let told = ["has no usable wheels", "has no wheels with"].into_iter().flat_map(|after| {
            line.match_indices(after).filter_map(|(end, _)| line[..end].trim_end().rsplit([' ', '(']).next())
        });
        for found in hinted.chain(told) {
            let name: String = found.chars().take_while(|c| is_name(*c)).collect();
            if !name.is_empty() && !names.contains(&name) && names.len() < NAMED_AT_MOST {
                names.push(name);
            }
        }
    }
    names
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}
