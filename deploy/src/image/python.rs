//! Which Python a base image has, found by looking at its files: nothing of the image is run.

use moorline_core::ErrorClass;
use oci_spec::image::{Arch, ImageConfiguration};
use serde::Serialize;
use thiserror::Error;

use super::filesystem::{Filesystem, Kind};

/// What a container's `PATH` is where the image names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The worker of scoring scripts runs from this one on.
const OLDEST: (u32, u32) = (3, 8);
/// The versions of glibc for which uv has a platform.
const GLIBC: [u32; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];
/// Where distributions put the C library; `*` is the architecture.
const LIBC_FOLDERS: [&str; 6] =
    ["lib/*-linux-gnu", "usr/lib/*-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"];

/// Why no environment can stand on a base image.
#[derive(Debug, Error)]
pub enum BasePythonError {
    #[error("base image `{image}` has no python3 on its PATH; use one that has, such as python:3.11-slim")]
    Missing { image: String },
    #[error(
        "base image `{image}` has `{path}`, but which version of Python that is cannot be told from its files; use an image whose python3 is an ordinary installation, such as python:3.11-slim"
    )]
    Unclear { image: String, path: String },
    #[error("base image `{image}` has Python {major}.{minor}; scoring scripts need 3.8 or later")]
    TooOld { image: String, major: u32, minor: u32 },
    #[error(
        "packages cannot be chosen for base image `{image}`: {why}; use an image for x86_64 or aarch64 with glibc 2.17 or later, or with musl"
    )]
    Platform { image: String, why: String },
}

impl BasePythonError {
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Missing { .. } | Self::Unclear { .. } => ErrorClass::InvalidInput,
            Self::TooOld { .. } | Self::Platform { .. } => ErrorClass::Unsupported,
        }
    }
}

/// The Python of a base image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BasePython {
    /// The interpreter itself, its links followed: `/usr/bin/python3.11`.
    pub path: String,
    /// The folder that it is in.
    pub home: String,
    pub major: u32,
    pub minor: u32,
    /// Where something of the image tells it.
    pub patch: Option<u32>,
    /// uv's name of what its packages must be made for: `x86_64-manylinux_2_36`.
    pub platform: String,
    /// Where the packages of the image's own virtual environment lie, if its Python is of one.
    pub site_packages: Option<String>,
}

impl BasePython {
    /// Finds the Python that `python3` or `python` starts in the image. `image` is its name, for messages.
    pub fn find(
        image: &str,
        files: &Filesystem,
        config: &ImageConfiguration,
    ) -> Result<Self, BasePythonError> {
        let variables = Variables::of(config);
        let path = variables.get("PATH").unwrap_or(DEFAULT_PATH);
        let mut unclear = None;
        for name in ["python3", "python"] {
            for folder in path.split(':').filter(|folder| folder.starts_with('/')) {
                let named = format!("{}/{name}", folder.trim_end_matches('/'));
                let Some(resolved) = program(files, &named) else { continue };
                let Some((found, site_packages)) = installation(files, &named, &resolved) else {
                    unclear.get_or_insert(named);
                    continue;
                };
                let (major, minor) = found;
                if major != 3 {
                    continue;
                }
                if found < OLDEST {
                    return Err(BasePythonError::TooOld { image: image.to_owned(), major, minor });
                }
                let home = folder_of(&resolved);
                let patch = patch(files, &variables, home, found);
                return Ok(Self {
                    path: format!("/{resolved}"),
                    home: format!("/{home}"),
                    major,
                    minor,
                    patch,
                    platform: platform(files, config)
                        .map_err(|why| BasePythonError::Platform { image: image.to_owned(), why })?,
                    site_packages,
                });
            }
        }
        Err(match unclear {
            Some(path) => BasePythonError::Unclear { image: image.to_owned(), path },
            None => BasePythonError::Missing { image: image.to_owned() },
        })
    }

    /// `3.11`
    pub fn version(&self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// `3.11.2`, or `3.11` where no more is known.
    pub fn full_version(&self) -> String {
        match self.patch {
            Some(patch) => format!("{}.{patch}", self.version()),
            None => self.version(),
        }
    }
}

/// The variables of an image.
struct Variables<'a>(&'a [String]);

impl<'a> Variables<'a> {
    fn of(config: &'a ImageConfiguration) -> Self {
        let set = config.config().as_ref().and_then(|config| config.env().as_deref());
        Self(set.unwrap_or_default())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0
            .iter()
            .rev()
            .find_map(|set| set.split_once('=').filter(|(own, _)| *own == name).map(|(_, value)| value))
    }
}

/// The file that a path leads to, where it can be run.
fn program(files: &Filesystem, path: &str) -> Option<String> {
    let resolved = files.resolve(path)?;
    let entry = files.get(&resolved)?;
    (matches!(entry.kind, Kind::File { .. }) && entry.mode & 0o111 != 0).then_some(resolved)
}

/// The version of an interpreter, and the packages of the virtual environment that it was found in.
fn installation(files: &Filesystem, named: &str, resolved: &str) -> Option<((u32, u32), Option<String>)> {
    let version = version_of(files, resolved)?;
    let folder = files.resolve(folder_of(named))?;
    let prefix = folder_of(&folder);
    let in_environment = files.get(&format!("{prefix}/pyvenv.cfg")).is_some();
    let (major, minor) = version;
    let packages = format!("{prefix}/lib/python{major}.{minor}/site-packages");
    Some((version, in_environment.then(|| format!("/{packages}"))))
}

/// By the name of the file, else by the library beside it.
fn version_of(files: &Filesystem, resolved: &str) -> Option<(u32, u32)> {
    let (folder, name) = resolved.rsplit_once('/').unwrap_or(("", resolved));
    let library = format!("{}/lib", folder_of(folder));
    if let Some(version) = name.strip_prefix("python").and_then(version) {
        return Some(version);
    }
    let whole = |name: &&str| files.follow(&format!("{library}/{name}/os.py")).is_some();
    let mut versions = files
        .names(&library)
        .into_iter()
        .filter(whole)
        .filter_map(|name| version(name.strip_prefix("python")?));
    match (versions.next(), versions.next()) {
        (Some(version), None) => Some(version),
        _ => None,
    }
}

/// `3.11`, and nothing else.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The patch level, as the image's maker, its packages or conda tell it.
fn patch(
    files: &Filesystem,
    variables: &Variables<'_>,
    home: &str,
    (major, minor): (u32, u32),
) -> Option<u32> {
    let prefix = format!("{major}.{minor}.");
    let level = |text: &str| {
        let digits = text.strip_prefix(&prefix)?.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok()
    };
    match home {
        "usr/bin" => {
            let status = String::from_utf8_lossy(files.content("var/lib/dpkg/status")?);
            let package = format!("Package: python{major}.{minor}-minimal");
            let paragraph =
                status.split("\n\n").find(|paragraph| paragraph.lines().any(|line| line == package))?;
            paragraph.lines().find_map(|line| level(line.strip_prefix("Version: ")?))
        }
        "usr/local/bin" => level(variables.get("PYTHON_VERSION")?),
        _ => {
            let meta = format!("{}/conda-meta", folder_of(home));
            files.names(&meta).into_iter().find_map(|name| level(name.strip_prefix("python-")?))
        }
    }
}

/// uv's name of the platform.
fn platform(files: &Filesystem, config: &ImageConfiguration) -> Result<String, String> {
    let architecture = match config.architecture() {
        Arch::Amd64 => "x86_64",
        Arch::ARM64 => "aarch64",
        other => return Err(format!("it is made for {other}")),
    };
    if let Some(minor) = glibc(files, architecture) {
        // A wheel for an older one runs on a newer one.
        let known = GLIBC.into_iter().rev().find(|known| *known <= minor);
        let known = known.ok_or_else(|| format!("its glibc is 2.{minor}"))?;
        return Ok(format!("{architecture}-manylinux_2_{known}"));
    }
    if files.follow(&format!("lib/ld-musl-{architecture}.so.1")).is_some() {
        return Ok(format!("{architecture}-unknown-linux-musl"));
    }
    Err("neither glibc nor musl was found in it".to_owned())
}

/// The 36 of glibc 2.36.
fn glibc(files: &Filesystem, architecture: &str) -> Option<u32> {
    LIBC_FOLDERS.iter().find_map(|folder| {
        let folder = folder.replace('*', architecture);
        // Older ones have their version in their name, and all print it.
        let resolved = files.resolve(&format!("{folder}/libc.so.6"))?;
        let name = resolved.rsplit('/').next().unwrap_or_default();
        let named = name.strip_prefix("libc-2.").and_then(|rest| rest.strip_suffix(".so")?.parse().ok());
        named.or_else(|| printed(files.content(&resolved)?))
    })
}

/// Of `GNU C Library (…) stable release version 2.36.`
fn printed(library: &[u8]) -> Option<u32> {
    const BEFORE: &[u8] = b" release version 2.";
    let start = library.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let digits = library[start..].iter().take(3).take_while(|byte| byte.is_ascii_digit());
    std::str::from_utf8(&digits.copied().collect::<Vec<u8>>()).ok()?.parse().ok()
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
