//! The Python that workers run, embedded, and the private folder it is written into.

use std::{io, path::PathBuf};

use tempfile::TempDir;

macro_rules! files {
    ($($path:literal)*) => { [$(($path, include_str!(concat!("worker/", $path)))),*] };
}

const FILES: [(&str, &str); 14] = files!(
    "start.py"
    "moorline_worker/__init__.py"
    "moorline_worker/channel.py"
    "moorline_worker/console.py"
    "moorline_worker/contract.py"
    "moorline_worker/finder.py"
    "moorline_worker/flask_context.py"
    "moorline_worker/life.py"
    "moorline_worker/loading.py"
    "moorline_worker/mlflow_model.py"
    "moorline_worker/request.py"
    "moorline_worker/response.py"
    "moorline_worker/serving.py"
    "moorline_worker/swagger.py"
);

/// The folder, removed with this value.
#[derive(Debug)]
pub(crate) struct WorkerFiles(TempDir);

impl WorkerFiles {
    pub(crate) fn write() -> io::Result<Self> {
        // Created with mode 0700, so nobody else can put code into it.
        let folder = tempfile::Builder::new().prefix("moorline-script-").tempdir()?;
        fs_err::create_dir_all(folder.path().join("moorline_worker"))?;
        for (path, content) in FILES {
            fs_err::write(folder.path().join(path), content)?;
        }
        Ok(Self(folder))
    }

    pub(crate) fn start(&self) -> PathBuf {
        self.0.path().join("start.py")
    }
}
