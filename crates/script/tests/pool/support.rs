//! A script in a folder, a pool that runs it, and calls to it.

use std::{
    env::var_os,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use moorline_core::{Script, ScriptCall, ScriptError, ScriptReply, ScriptRoute};
use moorline_script::{ScriptConfig, ScriptPool, StartError};
use tempfile::TempDir;

pub(crate) fn python() -> PathBuf {
    var_os("MOORLINE_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

/// Whether an interpreter lacks a package, said loudly where a test is skipped for it.
pub(crate) fn lacks(python: &Path, package: &str) -> bool {
    let asked = Command::new(python).arg("-c").arg(format!("import {package}")).output();
    let lacks = !asked.is_ok_and(|output| output.status.success());
    if lacks {
        eprintln!(
            "SKIPPED: {} has no package {package}; set MOORLINE_TEST_PYTHON to one that has",
            python.display()
        );
    }
    lacks
}

/// A folder with a scoring script.
pub(crate) struct Code {
    pub(crate) folder: TempDir,
}

impl Code {
    pub(crate) fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("score.py"), script).unwrap();
        Self { folder }
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        let path = self.folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
        self
    }

    pub(crate) fn config(&self) -> ScriptConfig {
        let mut config = ScriptConfig::new(python(), self.folder.path().to_owned());
        config.entry_script = Some("score.py".to_owned());
        config.start_timeout = Duration::from_mins(1);
        config.scoring_timeout = Duration::from_mins(1);
        config
    }

    pub(crate) async fn start(self) -> Started {
        Started { pool: start(self.config()).await, _code: self }
    }

    pub(crate) async fn refused(&self) -> StartError {
        ScriptPool::start(self.config()).await.unwrap_err()
    }
}

/// A pool whose code lies there as long as it runs.
pub(crate) struct Started {
    pub(crate) pool: Arc<ScriptPool>,
    _code: Code,
}

impl std::ops::Deref for Started {
    type Target = Arc<ScriptPool>;

    fn deref(&self) -> &Arc<ScriptPool> {
        &self.pool
    }
}

pub(crate) async fn start(config: ScriptConfig) -> Arc<ScriptPool> {
    match ScriptPool::start(config).await {
        Ok(pool) => pool,
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn workers(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

pub(crate) fn post(body: &str) -> ScriptCall {
    ScriptCall {
        route: ScriptRoute::Score,
        method: "POST".to_owned(),
        target: "/score".to_owned(),
        headers: vec![("content-type".to_owned(), "application/json".to_owned())],
        body: Bytes::copy_from_slice(body.as_bytes()),
        request_id: "request-1".to_owned(),
        traceparent: None,
        deadline: Instant::now() + Duration::from_hours(1),
    }
}

pub(crate) fn get(target: &str) -> ScriptCall {
    ScriptCall { method: "GET".to_owned(), target: target.to_owned(), headers: Vec::new(), ..post("") }
}

pub(crate) fn header(mut call: ScriptCall, name: &str, value: &str) -> ScriptCall {
    call.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    call.headers.push((name.to_owned(), value.to_owned()));
    call
}

/// Status and body, the usual things to look at.
pub(crate) async fn ask(pool: &ScriptPool, call: ScriptCall) -> (u16, String) {
    let reply = pool.score(call).await.unwrap();
    (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
}

pub(crate) async fn reply(pool: &ScriptPool, body: &str) -> Result<ScriptReply, ScriptError> {
    pool.score(post(body)).await
}

/// Polls until it is so; fails after half a minute.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < deadline, "it did not come true that {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
