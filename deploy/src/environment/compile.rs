//! Packages that have no wheel: made into wheels in a container of the image that they are for, and from there on
//! installed like any other.
//!
//! Who runs the container is told what to bring ([`Compilation::files`]), what to run and what to take away. It may be
//! on another machine, so it is brought all that it needs of this one: the requirements, local folders and files that
//! they name, pip, and how packages are fetched. Nothing of that is in an image or in what an Engine shows of a
//! container: indexes may be named with a password.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err::File;
use moorline_core::{Digest, Environment, ErrorClass};
use tokio::{process::Command, time::timeout};

use super::{
    BuildLog, EnvironmentError, Environments, Folder, Inner, LayerTree, Making, Workshop,
    layer::{blocking, present, requirements},
    tools,
};
use crate::{Progress, image::BasePython};

/// Part of every name, so that trees that an earlier build made differently are made again.
const FORMAT: &str = "compiled 1";
const DRIVER: &str = include_str!("compile.py");
const DRIVER_FILE: &str = "compile.py";
/// Where the files are in the container: a folder that no image has.
const PLACE: &str = "/moorline-build";
const WHEELS: &str = "wheels";
/// The exit code of the driver where neither it nor the image has pip.
const NO_PIP: i64 = 78;
/// All that is brought of local folders.
const MOST_BROUGHT: u64 = 2 << 30;
const LARGEST_CERTIFICATES: u64 = 8 << 20;
/// Options that say where packages are found, for pip itself as well.
const OF_INDEXES: [&str; 5] = ["-i", "--index-url", "--extra-index-url", "-f", "--find-links"];
const FIND_LINKS: [&str; 2] = ["--find-links", "-f"];
/// Variables of this machine that say how packages are fetched, and their names in the container; the first that is set
/// wins.
const FETCHING: [(&str, &str); 14] = [
    ("PIP_INDEX_URL", "PIP_INDEX_URL"),
    ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"),
    ("UV_INDEX_URL", "PIP_INDEX_URL"),
    ("PIP_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
    ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
    ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
    ("PIP_TRUSTED_HOST", "PIP_TRUSTED_HOST"),
    ("UV_INSECURE_HOST", "PIP_TRUSTED_HOST"),
    ("PIP_NO_INDEX", "PIP_NO_INDEX"),
    ("PIP_PROXY", "PIP_PROXY"),
    ("PIP_RETRIES", "PIP_RETRIES"),
    ("PIP_TIMEOUT", "PIP_TIMEOUT"),
    ("PIP_DEFAULT_TIMEOUT", "PIP_DEFAULT_TIMEOUT"),
    ("PIP_PRE", "PIP_PRE"),
];
/// What programs print that miss something of the image, and what it is.
const MISSING: [(&str, &str); 9] = [
    ("command 'gcc' failed", "a C compiler"),
    ("command 'cc' failed", "a C compiler"),
    ("-linux-gnu-gcc' failed: No such file", "a C compiler"),
    ("unable to execute 'gcc'", "a C compiler"),
    ("C compiler cannot be found", "a C compiler"),
    ("Unknown compiler(s)", "a C compiler"),
    ("No CMAKE_C_COMPILER could be found", "a C compiler"),
    ("Python.h: No such file", "the headers of Python (Debian: python3-dev)"),
    ("can't find Rust compiler", "a Rust compiler"),
];

/// An environment on its way, which nobody else makes meanwhile. Dropping it leaves nothing behind.
#[derive(Debug)]
pub struct Compilation {
    environments: Environments,
    key: String,
    base: BasePython,
    lines: Vec<String>,
    workshop: Workshop,
    _lock: File,
}

impl Environments {
    /// Begins to make an environment whose packages have to be compiled; `None` where it is made already. `image` is the
    /// digest of the base's config: what was compiled in one image may not run in another.
    pub async fn compilation(
        &self,
        environment: &Environment,
        base: &BasePython,
        image: &Digest,
        progress: &Progress,
    ) -> Result<Option<Compilation>, EnvironmentError> {
        let lines = requirements(environment, base)?;
        let key = key(&lines, base, image);
        let Inner { config, folder } = &*self.0;
        let lock = folder
            .lock(&key, || progress.line("waiting for the same environment, which is being made already"))
            .await
            .map_err(|error| EnvironmentError::io("could not lock the environment", error))?;
        if present(folder, &key).await?.is_some() {
            return Ok(None);
        }
        let workshop = Workshop(folder.workshop(&key));
        let compilation =
            Compilation { environments: self.clone(), key, base: base.clone(), lines, workshop, _lock: lock };
        let told = |line: &str| progress.line(line);
        let mut log = BuildLog::create(&folder.log(&compilation.key), &told)
            .map_err(|error| EnvironmentError::io("could not write the log of the build", error))?;
        timeout(config.timeout, compilation.prepare(&mut log))
            .await
            .unwrap_or_else(|_| Err(EnvironmentError::late(config.timeout)))?;
        Ok(Some(compilation))
    }
}

/// The name of what was compiled in an image.
pub(super) fn key(lines: &[String], base: &BasePython, image: &Digest) -> String {
    let parts = serde_json::to_vec(&(FORMAT, lines, base, image)).expect("a base has only string keys");
    Digest::of(&parts).hex()
}

impl Compilation {
    /// The folder whose content is brought to [`Compilation::place`] in the container.
    pub fn files(&self) -> PathBuf {
        self.workshop.0.join("files")
    }

    /// A folder of the container.
    pub fn place(&self) -> &'static str {
        PLACE
    }

    /// The folder of the container whose files are to be taken away, into [`Compilation::wheels`].
    pub fn result(&self) -> String {
        format!("{PLACE}/{WHEELS}")
    }

    pub fn wheels(&self) -> PathBuf {
        self.workshop.0.join(WHEELS)
    }

    /// What is run in the container.
    pub fn program(&self) -> Vec<String> {
        vec![self.base.path.clone(), format!("{PLACE}/{DRIVER_FILE}")]
    }

    /// A name for the container: the same for the same environment of the same server.
    pub fn name(&self) -> String {
        let whole = format!("{}\n{}", self.environments.0.config.dir.display(), self.key);
        format!("moorline-build-{}", &Digest::of(whole.as_bytes()).hex()[..24])
    }

    /// How long the container may take.
    pub fn limit(&self) -> Duration {
        self.environments.0.config.timeout
    }

    /// Why the program failed, by its exit code and what it printed last.
    pub fn failure(&self, code: i64, log: Vec<String>) -> EnvironmentError {
        let missing = MISSING.iter().find(|(text, _)| log.iter().any(|line| line.contains(text)));
        let message = match missing {
            _ if code == NO_PIP => "the base image has no pip, and none could be fetched for it; use an image that has, such as python:3.11, or see to it that this server reaches a package index".to_owned(),
            Some((_, what)) => format!(
                "packages could not be built, since the base image has not got {what}; use an image that has, such as python:3.11 without `slim`, or give the environment's `build:` a Dockerfile that installs it"
            ),
            None => format!("packages could not be built in the base image (exit code {code})"),
        };
        EnvironmentError { log, ..EnvironmentError::new(ErrorClass::InvalidInput, message) }
    }

    /// Installs the wheels that were brought back.
    pub async fn finish(self, progress: &Progress) -> Result<LayerTree, EnvironmentError> {
        let Inner { config, folder } = &*self.environments.0;
        let told = |line: &str| progress.line(line);
        let mut log = BuildLog::create(&folder.log(&self.key), &told)
            .map_err(|error| EnvironmentError::io("could not write the log of the build", error))?;
        let variables = tools::variables(&config.environment);
        let making = Making { config, folder, key: &self.key, variables };
        let made = timeout(config.timeout, self.install(&making, &mut log)).await;
        let made = made.unwrap_or_else(|_| Err(EnvironmentError::late(config.timeout)));
        made.map_err(|error| EnvironmentError { log: log.tail(), ..error })
    }

    async fn install(
        &self,
        making: &Making<'_>,
        log: &mut BuildLog<'_>,
    ) -> Result<LayerTree, EnvironmentError> {
        let failed = |error| EnvironmentError::io("could not write the environment", error);
        let wheels = self.wheels();
        let wheels = blocking(move || {
            let all = fs_err::read_dir(wheels)?.map(|entry| Ok(entry?.path()));
            all.collect::<io::Result<Vec<PathBuf>>>()
        });
        let mut wheels = wheels.await.map_err(failed)?;
        wheels.sort_unstable();
        let made = self.workshop.0.join("made");
        fs_err::create_dir_all(Folder::tree_of(&made)).map_err(failed)?;
        if !wheels.is_empty() {
            let mut command = making.install_command(&self.base, &made).await?;
            command.args(["--no-index", "--no-deps"]).args(&wheels);
            making.run(command, "could not install the packages of the environment", log).await?;
        }
        making.put_tree(made, &self.base).await
    }

    /// Lays out what is brought into the container.
    async fn prepare(&self, log: &mut BuildLog<'_>) -> Result<(), EnvironmentError> {
        let Inner { config, folder } = &*self.environments.0;
        let failed = |error| EnvironmentError::io("could not lay out what is compiled", error);
        let files = self.files();
        for own in ["home", "tmp", "links", WHEELS] {
            fs_err::create_dir_all(files.join(own)).map_err(failed)?;
        }
        fs_err::create_dir_all(self.wheels()).map_err(failed)?;
        let variables = tools::variables(&config.environment);
        self.fetch_pip(&Making { config, folder, key: &self.key, variables: variables.clone() }, log).await?;
        let mut lines = self.lines.clone();
        let (own, environment) = (config.environment.clone(), files.clone());
        let base = self.base.clone();
        let brought = move || {
            let links = variables.get("UV_FIND_LINKS").map_or("", String::as_str).split(',');
            // Those that are not there are passed over by pip and uv as well.
            let there =
                |link: &&str| !link.is_empty() && (!link.starts_with('/') || Path::new(link).is_dir());
            lines.extend(links.filter(there).map(|link| format!("-f {link}")));
            let mut bringing = Bringing { to: &environment, left: MOST_BROUGHT, number: 0, base: &base };
            let lines = lines.iter().map(|line| bringing.line(line)).collect::<io::Result<Vec<_>>>()?;
            fs_err::write(environment.join("requirements.txt"), lines.join("\n") + "\n")?;
            let variables = bringing.variables(&own)?;
            let text = serde_json::to_vec(&variables).expect("variables have only string keys");
            fs_err::write(environment.join("variables.json"), text)?;
            fs_err::write(environment.join(DRIVER_FILE), DRIVER)
        };
        blocking(brought).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge | io::ErrorKind::IsADirectory => {
                EnvironmentError {
                    class: ErrorClass::InvalidInput,
                    ..EnvironmentError::io(
                        "what the conda file names of this machine cannot be brought into the image",
                        error,
                    )
                }
            }
            _ => failed(error),
        })
    }

    /// A pip of our own, since images have old ones or none. Without it the image's is used.
    async fn fetch_pip(&self, making: &Making<'_>, log: &mut BuildLog<'_>) -> Result<(), EnvironmentError> {
        let requirements = self.workshop.0.join("pip.txt");
        let indexes = self.lines.iter().filter(|line| option_of(line, &OF_INDEXES).is_some());
        let text: Vec<&str> = indexes.map(String::as_str).chain(["pip"]).collect();
        fs_err::write(&requirements, text.join("\n") + "\n")
            .map_err(|error| EnvironmentError::io("could not write the requirements", error))?;
        let tools = self.files().join("tools");
        let uv = making.uv()?.ok_or_else(|| making.no_uv())?;
        let runner = making.runner(&uv, &self.base).await?;
        let mut command = Command::new(&uv);
        command.args(["pip", "install", "--target"]).arg(&tools).arg("--requirements").arg(&requirements);
        command.arg("--python").arg(runner).args(["--python-version", &self.base.full_version()]);
        command.args(["--only-binary", ":all:", "--no-compile-bytecode", "--link-mode", "copy"]);
        if making.run(command, "could not fetch pip", log).await.is_err() {
            log.line("pip cannot be fetched from this server's package index; the image's own is used");
        }
        Ok(())
    }
}

/// Copying what is of this machine to where it can be sent from.
struct Bringing<'a> {
    to: &'a Path,
    /// Bytes that may still be copied.
    left: u64,
    number: usize,
    base: &'a BasePython,
}

impl Bringing<'_> {
    /// A line of requirements with the path, if it names one of this machine, as it is in the container.
    fn line(&mut self, line: &str) -> io::Result<String> {
        let Some(range) = local(line) else { return Ok(line.to_owned()) };
        let named = &line[range.clone()];
        let path = Path::new(named.strip_prefix("file://").unwrap_or(named));
        let folder = format!("links/{}", self.number);
        self.number += 1;
        fs_err::create_dir_all(self.to.join(&folder))?;
        let mut inside = format!("{PLACE}/{folder}");
        if path.is_dir() {
            if option_of(line, &FIND_LINKS).is_none() {
                let message = format!(
                    "`{}` is a folder; make a source distribution of it and name that",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::IsADirectory, message));
            }
            for entry in fs_err::read_dir(path)? {
                let entry = entry?.path();
                // A folder of links is flat, and may hold the wheels of every Python.
                let wanted = entry.file_name().and_then(|name| name.to_str()).filter(|name| self.suits(name));
                if let Some(name) = wanted.filter(|_| entry.is_file()) {
                    self.copy(&entry, &format!("{folder}/{name}"))?;
                }
            }
        } else {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("package");
            self.copy(path, &format!("{folder}/{name}"))?;
            inside = format!("{inside}/{name}");
        }
        let scheme = if named.starts_with("file://") { "file://" } else { "" };
        Ok(format!("{}{scheme}{inside}{}", &line[..range.start], &line[range.end..]))
    }

    /// Whether a file of a folder of links may be of use to this Python; of wheels their names say so.
    fn suits(&self, name: &str) -> bool {
        let Some(tags) = name.strip_suffix(".whl") else {
            return [".tar.gz", ".zip", ".tar.bz2"].iter().any(|end| name.ends_with(end));
        };
        let mut tags = tags.rsplit('-');
        let (Some(platform), Some(_abi), Some(python)) = (tags.next(), tags.next(), tags.next()) else {
            return false;
        };
        let own = format!("cp{}{}", self.base.major, self.base.minor);
        let python_suits = name.contains("-abi3-")
            || python.split('.').any(|tag| tag == own || tag.starts_with("py3") || tag == "py2.py3");
        let architecture = self.base.platform.split('-').next().unwrap_or_default();
        python_suits && (platform == "any" || platform.contains("linux") && platform.contains(architecture))
    }

    fn copy(&mut self, from: &Path, to: &str) -> io::Result<()> {
        let size = fs_err::metadata(from)?.len();
        self.left = self.left.checked_sub(size).ok_or_else(|| {
            let message = format!(
                "`{}` and what is named beside it are more than {} GiB",
                from.display(),
                MOST_BROUGHT >> 30
            );
            io::Error::new(io::ErrorKind::FileTooLarge, message)
        })?;
        fs_err::copy(from, self.to.join(to))?;
        Ok(())
    }

    /// The variables of the build.
    fn variables(&mut self, environment: &BTreeMap<String, String>) -> io::Result<BTreeMap<String, String>> {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        let mut variables = BTreeMap::from([
            ("HOME".to_owned(), format!("{PLACE}/home")),
            ("TMPDIR".to_owned(), format!("{PLACE}/tmp")),
            ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
        ]);
        for (own, inside) in FETCHING {
            if let Some(value) = set(own) {
                variables.entry(inside.to_owned()).or_insert_with(|| without_names(own, value));
            }
        }
        for name in tools::PROXIES {
            if let Some(value) = set(name) {
                variables.insert(name.to_owned(), value.clone());
            }
        }
        let certificates = ["PIP_CERT", "SSL_CERT_FILE"].into_iter().find_map(set).map(Path::new);
        if let Some(file) = certificates.filter(|file| {
            fs_err::metadata(file).is_ok_and(|found| found.is_file() && found.len() <= LARGEST_CERTIFICATES)
        }) {
            self.copy(file, "certificates.pem")?;
            for name in ["PIP_CERT", "SSL_CERT_FILE"] {
                variables.insert(name.to_owned(), format!("{PLACE}/certificates.pem"));
            }
        }
        Ok(variables)
    }
}

/// uv lets an index have a name, `own=https://…`, of which pip knows nothing.
fn without_names(variable: &str, value: &str) -> String {
    if !matches!(variable, "UV_INDEX" | "UV_DEFAULT_INDEX") {
        return value.to_owned();
    }
    let plain = value.split_whitespace().map(|index| match index.split_once('=') {
        Some((name, url)) if !name.contains("://") => url,
        _ => index,
    });
    plain.collect::<Vec<_>>().join(" ")
}

/// What follows one of these options in a line.
fn option_of<'a>(line: &'a str, options: &[&str]) -> Option<&'a str> {
    options.iter().find_map(|option| {
        let rest = line.strip_prefix(option)?;
        rest.starts_with(['=', ' ', '\t']).then(|| rest.trim_start_matches(['=', ' ', '\t']))
    })
}

/// Where in a line a file or folder of this machine is named.
fn local(line: &str) -> Option<Range<usize>> {
    let start = match line.find("file:///") {
        Some(at) => at,
        None if line.starts_with('/') => 0,
        None => {
            let value = option_of(line, &FIND_LINKS).filter(|value| value.starts_with('/'))?;
            line.len() - value.len()
        }
    };
    let length = line[start..].find(char::is_whitespace).unwrap_or(line.len() - start);
    Some(start..start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> BasePython {
        BasePython {
            path: "/usr/bin/python3.11".to_owned(),
            home: "/usr/bin".to_owned(),
            major: 3,
            minor: 11,
            patch: None,
            platform: "x86_64-manylinux_2_36".to_owned(),
            site_packages: None,
        }
    }

    #[test]
    fn what_is_of_this_machine_is_brought_and_named_anew() {
        let (machine, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wheels = machine.path().join("wheels");
        fs_err::create_dir_all(&wheels).unwrap();
        for name in [
            "a-1.tar.gz",
            "a-1-py3-none-any.whl",
            "a-1-cp311-cp311-manylinux_2_17_x86_64.whl",
            "a-1-cp38-abi3-linux_x86_64.whl",
            "a-1-cp312-cp312-manylinux_2_17_x86_64.whl",
            "a-1-cp311-cp311-manylinux_2_17_aarch64.whl",
            "a-1-cp311-cp311-win_amd64.whl",
            "index.html",
        ] {
            fs_err::write(wheels.join(name), "x").unwrap();
        }
        let base = base();
        let mut bringing = Bringing { to: to.path(), left: 100, number: 0, base: &base };
        let wheels = wheels.display();
        for (line, expected) in [
            ("numpy==2.0".to_owned(), "numpy==2.0"),
            ("--find-links https://x/y".to_owned(), "--find-links https://x/y"),
            (format!("--find-links={wheels}"), "--find-links=/moorline-build/links/0"),
            (format!("-f file://{wheels}"), "-f file:///moorline-build/links/1"),
            (
                format!("a @ file://{wheels}/a-1.tar.gz ; os_name == 'posix'"),
                "a @ file:///moorline-build/links/2/a-1.tar.gz ; os_name == 'posix'",
            ),
            (format!("{wheels}/a-1.tar.gz"), "/moorline-build/links/3/a-1.tar.gz"),
        ] {
            assert_eq!(bringing.line(&line).unwrap(), expected);
        }
        let mut brought: Vec<_> = fs_err::read_dir(to.path().join("links/0"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        brought.sort();
        let suit = [
            "a-1-cp311-cp311-manylinux_2_17_x86_64.whl",
            "a-1-cp38-abi3-linux_x86_64.whl",
            "a-1-py3-none-any.whl",
            "a-1.tar.gz",
        ];
        assert_eq!(brought, suit);
        let folder = bringing.line(&format!("a @ file://{wheels}")).unwrap_err();
        assert_eq!(folder.kind(), io::ErrorKind::IsADirectory);
        let absent = bringing.line("/nowhere/a.tar.gz").unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        bringing.left = 0;
        let full = bringing.line(&format!("-f {wheels}")).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn how_packages_are_fetched_is_handed_on_in_pips_words() {
        let to = tempfile::tempdir().unwrap();
        let certificates = to.path().join("ca.crt");
        fs_err::write(&certificates, "x").unwrap();
        let base = base();
        let mut bringing = Bringing { to: to.path(), left: 100, number: 0, base: &base };
        let environment = [
            ("UV_DEFAULT_INDEX", "own=https://a/simple"),
            ("UV_INDEX", "https://b/x=1 c=https://c"),
            ("PIP_CERT", certificates.to_str().unwrap()),
            ("https_proxy", "http://proxy:1"),
            ("DATABASE_PASSWORD", "x"),
        ];
        let environment =
            environment.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let variables = bringing.variables(&environment).unwrap();
        let get = |name: &str| variables.get(name).map(String::as_str);
        assert_eq!(get("PIP_INDEX_URL"), Some("https://a/simple"));
        assert_eq!(get("PIP_EXTRA_INDEX_URL"), Some("https://b/x=1 https://c"));
        assert_eq!(get("SSL_CERT_FILE"), Some("/moorline-build/certificates.pem"));
        assert_eq!(get("https_proxy"), Some("http://proxy:1"));
        assert_eq!(get("DATABASE_PASSWORD"), None);
        assert!(to.path().join("certificates.pem").is_file());
    }
}
