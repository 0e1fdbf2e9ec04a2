//! What the tests run, and where: the scorer beside the tests, a target in a temporary folder, releases with scripts.

use std::{
    collections::BTreeMap,
    env,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use moorline_core::{DeploymentId, Digest, FileEntry, Placement, Release, ReleaseCode};
use moorline_deploy::local::{LocalConfig, LocalTarget};
use moorline_testkit::TestRelease;
use tempfile::TempDir;

/// The scorer, built beside this test. Says that a test is skipped where it was not built, and fails where `CI=true`.
pub(crate) fn scorer() -> Option<PathBuf> {
    let own = env::current_exe().expect("the test knows its own path");
    let path = own.ancestors().nth(2).expect("a test lies in target/<profile>/deps").join("moorline-scorer");
    if path.exists() {
        return Some(path);
    }
    skip(&format!("{} is missing; build the workspace first", path.display()));
    None
}

pub(crate) fn skip(why: &str) {
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    assert!(env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test: {why}");
}

/// The same, but where `MOORLINE_TEST_WITHOUT` names the component: then whoever runs the tests knows, and says so.
pub(crate) fn lack(component: &str, why: &str) {
    let known = env::var_os("MOORLINE_TEST_WITHOUT").unwrap_or_default();
    if known.to_string_lossy().split(',').any(|known| known == component) {
        let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
    } else {
        skip(why);
    }
}

/// The environment of the test, as a server would have taken it.
pub(crate) fn environment() -> BTreeMap<String, String> {
    env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// A target in a folder that goes away with it, after its replicas.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) target: Arc<LocalTarget>,
    pub(crate) folder: TempDir,
}

pub(crate) fn config(home: &Path, scorer: PathBuf) -> LocalConfig {
    LocalConfig::new(home.to_owned(), scorer, environment())
}

impl Home {
    pub(crate) async fn open(set: impl FnOnce(&mut LocalConfig)) -> Option<Self> {
        let scorer = scorer()?;
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = config(folder.path(), scorer);
        set(&mut config);
        let target = LocalTarget::open(config, Arc::new(|_| {})).await.expect("a new folder can be opened");
        Some(Self { target, folder })
    }

    /// Ends every replica, so that none is left when the test is over.
    pub(crate) async fn close(self) {
        self.target.shutdown(false).await;
    }

    /// All files below the folder, with their content.
    pub(crate) fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).expect("a folder can be listed").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let content = fs_err::read(&path).expect("a file can be read");
                    files.push((path, content));
                }
            }
        }
        files
    }
}

/// The process ids and command lines of the scorers that run for a home.
pub(crate) fn scorers(home: &Path) -> Vec<(u32, String)> {
    let home = fs_err::canonicalize(home).expect("the home is there");
    let needle = format!("--address-file\0{}", home.display());
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").expect("processes can be listed").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between the listing and the reading.
        let Ok(line) = fs_err::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).into_owned();
        if line.contains(&needle) {
            found.push((pid, line));
        }
    }
    found
}

/// Looks again and again until it is so.
pub(crate) async fn eventually(what: &str, mut question: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !question() {
        assert!(Instant::now() < deadline, "{what} never happens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A release with a scoring script beside the fixture's model.
#[derive(Debug)]
pub(crate) struct Scripted {
    base: TestRelease,
}

impl Scripted {
    pub(crate) fn new(script: &str) -> Self {
        let mut base = TestRelease::double(1);
        let code = base.path().join(Release::CODE_DIR);
        fs_err::create_dir_all(&code).expect("a folder can be made");
        fs_err::write(code.join("score.py"), script).expect("a script can be written");
        let (sha256, size) = (Digest::of(script.as_bytes()), script.len() as u64);
        base.release.code = Some(ReleaseCode {
            scoring_script: "score.py".to_owned(),
            files: vec![FileEntry { path: "score.py".to_owned(), size, sha256 }],
        });
        fs_err::write(base.path().join(Release::FILE), base.release.to_json())
            .expect("a release can be written");
        Self { base }
    }

    pub(crate) fn placement(&self, id: &DeploymentId, replicas: u32) -> Placement {
        self.base.placement(id, replicas)
    }
}
