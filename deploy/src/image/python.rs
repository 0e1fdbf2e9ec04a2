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

#[cfg(test)]
mod tests {
    use super::*;

    /// Files that can be run, of `(path, content)`; what begins with `->` is a link.
    fn image(entries: &[(&str, &str)]) -> Filesystem {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o755);
            header.set_size(0);
            if let Some(target) = content.strip_prefix("->") {
                header.set_entry_type(tar::EntryType::Symlink);
                archive.append_link(&mut header, path, target).unwrap();
            } else {
                header.set_size(content.len() as u64);
                archive.append_data(&mut header, path, content.as_bytes()).unwrap();
            }
        }
        let layer = archive.into_inner().unwrap();
        Filesystem::read([Ok(layer.as_slice())]).unwrap()
    }

    fn config(variables: &[&str]) -> ImageConfiguration {
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": { "Env": variables },
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        serde_json::from_value(config).unwrap()
    }

    const GLIBC_TEXT: &str = "GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.";

    #[test]
    fn debians_python_is_found_behind_its_links() {
        let status = "Package: python3.11-minimal\nStatus: install ok installed\nVersion: 3.11.2-6\n";
        let files = image(&[
            ("usr/bin/python3", "->python3.11"),
            ("usr/bin/python3.11", "x"),
            ("lib", "->usr/lib"),
            ("usr/lib/x86_64-linux-gnu/libc.so.6", GLIBC_TEXT),
            ("var/lib/dpkg/status", status),
        ]);
        let python = BasePython::find("base", &files, &config(&[])).unwrap();
        assert_eq!((python.path.as_str(), python.home.as_str()), ("/usr/bin/python3.11", "/usr/bin"));
        assert_eq!(python.full_version(), "3.11.2");
        assert_eq!(python.platform, "x86_64-manylinux_2_36");
        assert_eq!(python.site_packages, None);
    }

    #[test]
    fn condas_and_alpines_and_virtual_environments_are_told_apart() {
        let conda = image(&[
            ("opt/conda/bin/python3", "x"),
            ("opt/conda/lib/python3.12/os.py", ""),
            ("opt/conda/conda-meta/python-3.12.4-h99_0.json", ""),
            ("lib64/libc.so.6", "->libc-2.17.so"),
            ("lib64/libc-2.17.so", ""),
        ]);
        let python = BasePython::find("conda", &conda, &config(&["PATH=/opt/conda/bin:/usr/bin"])).unwrap();
        assert_eq!(
            (python.full_version().as_str(), python.platform.as_str()),
            ("3.12.4", "x86_64-manylinux_2_17")
        );
        let alpine = image(&[
            ("usr/local/bin/python3", "->python3.13"),
            ("usr/local/bin/python3.13", "x"),
            ("venv/bin/python", "->/usr/local/bin/python3"),
            ("venv/bin/python3", "->python"),
            ("venv/pyvenv.cfg", "home = /usr/local/bin\n"),
            ("lib/ld-musl-x86_64.so.1", ""),
        ]);
        let variables = ["PATH=/venv/bin:/usr/local/bin", "PYTHON_VERSION=3.13.1"];
        let python = BasePython::find("alpine", &alpine, &config(&variables)).unwrap();
        assert_eq!(python.path, "/usr/local/bin/python3.13");
        assert_eq!(python.site_packages.as_deref(), Some("/venv/lib/python3.13/site-packages"));
        assert_eq!((python.patch, python.platform.as_str()), (Some(1), "x86_64-unknown-linux-musl"));
    }

    #[test]
    fn a_base_without_a_python_that_will_do_is_named() {
        let refusal = |entries: &[(&str, &str)]| {
            BasePython::find("own/base", &image(entries), &config(&[])).unwrap_err().to_string()
        };
        assert!(refusal(&[("usr/bin/perl", "")]).contains("`own/base` has no python3"));
        assert!(
            refusal(&[("usr/bin/python2.7", ""), ("usr/bin/python", "->python2.7")])
                .contains("has no python3")
        );
        assert!(refusal(&[("usr/bin/python3", "#!/bin/sh")]).contains("cannot be told"));
        assert!(refusal(&[("usr/bin/python3", "->python3.6"), ("usr/bin/python3.6", "")]).contains("3.6"));
        assert!(refusal(&[("usr/bin/python3", "->python3.9"), ("usr/bin/python3.9", "")]).contains("glibc"));
    }
}
