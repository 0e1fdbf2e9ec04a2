//! The scoring script's contract, one test a line of it: what Azure ML's server promises to a script and to its
//! clients, kept by the real scorer over HTTP. What both servers do is compared in `differential`; here it is said.

mod http;
mod loading;
mod run;

use moorline_tests::{ReleaseDir, Scorer, Venv, venv};

/// Serves one script with the system's Python.
fn serve(source: &str) -> Scorer {
    ReleaseDir::of_script(source).serve().start()
}

/// Serves one script with the oracle's Python, which has `inference-schema`.
fn serve_with_packages(source: &str) -> Option<Scorer> {
    let venv: Venv = venv("oracle")?;
    Some(ReleaseDir::of_script(source).serve().env("MOORLINE_PYTHON", venv.python()).start())
}

/// A script whose `run` is `body`, in which `data` is the input.
fn run_of(body: &str) -> String {
    format!("def init():\n    pass\n\n\ndef run(data):\n    {}\n", body.replace('\n', "\n    "))
}
