//! The Pythons of this machine, and which of them an environment asks for.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

/// The worker of scoring scripts runs from this one on.
const OLDEST: Version = Version([3, 8, 0]);
/// More interpreters than this are not asked for their versions.
const ASKED_AT_MOST: usize = 64;
/// More patch levels than any minor version has had.
const MOST_PATCHES: u32 = 100;
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) [u32; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('.').map(|part| part.parse().ok());
        Some(Self([parts.next()??, parts.next()??, parts.next()??]))
    }
}

/// An interpreter and what it says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Python {
    pub(crate) path: PathBuf,
    pub(crate) version: Version,
}

/// What is asked for: `3.12`, `>=3.10,<3.13`; empty for any.
#[derive(Debug)]
pub(crate) struct Constraint(Vec<(Comparison, Vec<u32>)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Is,
    IsNot,
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl Constraint {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty() && *part != "*");
        parts.map(Self::part).collect::<Option<_>>().map(Self)
    }

    fn part(text: &str) -> Option<(Comparison, Vec<u32>)> {
        const OPERATORS: [(&str, Comparison); 8] = [
            ("===", Comparison::Is),
            ("==", Comparison::Is),
            ("!=", Comparison::IsNot),
            (">=", Comparison::AtLeast),
            ("<=", Comparison::AtMost),
            (">", Comparison::Above),
            ("<", Comparison::Below),
            ("=", Comparison::Is),
        ];
        let operator = OPERATORS.iter().find_map(|(sign, own)| Some((*own, text.strip_prefix(sign)?)));
        let (comparison, version) = operator.unwrap_or((Comparison::Is, text));
        // A build, as in `=3.12.1=h123_0`, is of no other use than to conda.
        let version = version.trim().split('=').next().unwrap_or_default();
        let version = version.trim_end_matches(".*").trim_end_matches('*');
        let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        Some((comparison, numbers.filter(|numbers| numbers.len() <= 3)?))
    }

    /// Nothing is asked for.
    pub(crate) fn is_any(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether some patch level of a minor version meets it.
    pub(crate) fn meets_some(&self, [major, minor]: [u32; 2]) -> bool {
        (0..MOST_PATCHES).any(|patch| self.meets(Version([major, minor, patch]), false))
    }

    /// `precise` compares patch levels as well; without it, an exact 3.12.4 is met by any 3.12.
    pub(crate) fn meets(&self, version: Version, precise: bool) -> bool {
        self.0.iter().all(|(comparison, asked)| {
            let looked_at = match comparison {
                Comparison::Is | Comparison::IsNot if !precise => asked.len().min(2),
                _ => asked.len(),
            };
            let ordering = version.0[..looked_at].cmp(&asked[..looked_at]);
            match comparison {
                Comparison::Is => ordering.is_eq(),
                Comparison::IsNot => ordering.is_ne() || (!precise && asked.len() > 2),
                Comparison::AtLeast => ordering.is_ge(),
                Comparison::AtMost => ordering.is_le(),
                Comparison::Above => ordering.is_gt(),
                Comparison::Below => ordering.is_lt(),
            }
        })
    }

    /// The best of those found: the machine's default where it will do, else the newest.
    pub(crate) fn choose<'a>(&self, found: &'a [Python]) -> Option<&'a Python> {
        let usable = || found.iter().filter(|python| python.version >= OLDEST);
        let newest = |precise: bool| {
            usable()
                .filter(|python| self.meets(python.version, precise))
                // The first of equals is the one that the `PATH` names first.
                .rev()
                .max_by_key(|python| python.version)
        };
        let default = if self.0.is_empty() { usable().next() } else { None };
        default.or_else(|| newest(true)).or_else(|| newest(false))
    }
}

/// Every Python on the `PATH`, of pyenv and of `uv`, in this order.
pub(crate) async fn find(environment: &BTreeMap<String, String>, uv: Option<&Path>) -> Vec<Python> {
    let mut candidates = on_path(environment);
    candidates.extend(of_pyenv(environment));
    let mut seen = Vec::new();
    let mut found = Vec::new();
    for path in candidates {
        // What a link leads to is one interpreter, but the link of a virtual environment is not what it leads to.
        let Ok(real) = fs_err::canonicalize(&path) else { continue };
        if seen.contains(&real) || seen.len() == ASKED_AT_MOST {
            continue;
        }
        seen.push(real);
        if let Some(version) = ask(&path, environment).await {
            found.push(Python { path, version });
        }
    }
    if let Some(uv) = uv {
        for python in of_uv(uv, environment).await {
            let real = fs_err::canonicalize(&python.path).ok();
            if real.is_some_and(|real| !seen.contains(&real)) {
                found.push(python);
            }
        }
    }
    found
}

fn on_path(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let path = environment.get("PATH").map_or("", String::as_str);
    let mut candidates = Vec::new();
    for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()) {
        let mut names: Vec<String> = fs_err::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok().map(|name| (entry.path(), name)))
            .filter(|(_, name)| is_python(name))
            .filter_map(|(path, _)| path.to_str().map(str::to_owned))
            .collect();
        // `python3` before `python3.12`: the default comes first.
        names.sort_unstable_by_key(String::len);
        candidates.extend(names.into_iter().map(PathBuf::from));
    }
    candidates
}

/// `python3` or `python3.12`, and not `python3-config` or `python2`.
fn is_python(name: &str) -> bool {
    name.strip_prefix("python3").is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('.').is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

fn of_pyenv(environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let root = environment
        .get("PYENV_ROOT")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(environment.get("HOME")?).join(".pyenv")));
    let versions =
        root.into_iter().flat_map(|root| fs_err::read_dir(root.join("versions")).into_iter().flatten());
    let mut paths: Vec<PathBuf> =
        versions.flatten().map(|version| version.path().join("bin/python3")).collect();
    paths.retain(|path| path.is_file());
    paths.sort_unstable();
    paths
}

async fn ask(path: &Path, environment: &BTreeMap<String, String>) -> Option<Version> {
    let mut command = Command::new(path);
    command.args(["-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]);
    Version::parse(&output(command, environment).await?)
}

async fn of_uv(uv: &Path, environment: &BTreeMap<String, String>) -> Vec<Python> {
    let mut command = Command::new(uv);
    command.args(["python", "list", "--only-installed", "--no-python-downloads", "--output-format", "json"]);
    let Some(text) = output(command, environment).await else { return Vec::new() };
    let listed: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    let python = |entry: &serde_json::Value| {
        let version = Version::parse(entry.get("version")?.as_str()?)?;
        let cpython = entry.get("implementation").and_then(|name| name.as_str()) == Some("cpython");
        cpython.then_some(Python { path: entry.get("path")?.as_str()?.into(), version })
    };
    listed.iter().filter_map(python).collect()
}

async fn output(mut command: Command, environment: &BTreeMap<String, String>) -> Option<String> {
    command.env_clear().envs(environment).stdin(Stdio::null()).kill_on_drop(true);
    // An interpreter that hangs or fails is one that is not there.
    let output = timeout(ANSWERS_WITHIN, command.output()).await.ok()?.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Vec<Python> {
        let python = |path: &str, version| Python { path: path.into(), version: Version(version) };
        vec![
            python("/usr/bin/python3", [3, 11, 2]),
            python("/usr/bin/python3.12", [3, 12, 1]),
            python("/opt/3.12.7", [3, 12, 7]),
            python("/opt/3.7", [3, 7, 9]),
        ]
    }

    fn chosen(constraint: &str) -> Option<String> {
        let found = found();
        let python = Constraint::parse(constraint).unwrap().choose(&found)?.path.clone();
        Some(python.display().to_string())
    }

    #[test]
    fn the_default_is_taken_where_it_will_do_and_else_the_newest() {
        assert_eq!(chosen("").unwrap(), "/usr/bin/python3");
        assert_eq!(chosen("3.12").unwrap(), "/opt/3.12.7");
        assert_eq!(chosen("=3.12.1").unwrap(), "/usr/bin/python3.12");
        assert_eq!(chosen("3.12.*").unwrap(), "/opt/3.12.7");
        assert_eq!(chosen(">=3.10,<3.12").unwrap(), "/usr/bin/python3");
        assert_eq!(chosen("==3.12.3").unwrap(), "/opt/3.12.7", "another patch level of the same Python");
        assert_eq!(chosen("3.13"), None);
        assert_eq!(chosen("3.7"), None, "no worker runs on it");
        assert_eq!(chosen("!=3.12.*").unwrap(), "/usr/bin/python3");
        assert_eq!(chosen("!=3.12.7,>3.11").unwrap(), "/usr/bin/python3.12");
        assert!(Constraint::parse("3.12|3.13").is_none());
        assert!(Constraint::parse("latest").is_none());
    }

    #[test]
    fn only_interpreters_are_looked_at() {
        for (name, is) in
            [("python3", true), ("python3.12", true), ("python3-config", false), ("python", false)]
        {
            assert_eq!(is_python(name), is, "{name}");
        }
    }
}
