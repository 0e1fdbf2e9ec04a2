//! The harness of the end-to-end tests: it starts the real binaries, speaks to them over real sockets, and kills
//! them when the test ends. Nothing of the product is linked, so that a test sees what a user sees.
//!
//! A harness that cannot go on panics with what was expected and what the process said; a test that lacks an
//! optional peer (a Python environment) says `SKIPPED: why`, and fails instead where `CI=true`.

mod clustered;
mod collector;
pub mod containers;
pub mod dockerd;
pub mod documents;
mod hosted;
mod http;
mod log;
pub mod onnx;
mod opencl_image;
mod oracle;
mod place;
mod process;
mod release;
mod scorer;
pub mod sshd;
pub mod stores;
mod workspace;

pub use clustered::{Clustered, GivenCluster, Namespace};
pub use collector::Collector;
pub use hosted::{BODY, Hosted};
pub use http::{Connection, Reply, Request, call};
pub use log::Log;
pub use opencl_image::opencl_image;
pub use oracle::Oracle;
pub use place::{Venv, binary, engines, ort_library, own_folder, python, skip, uv, venv};
pub use process::{children_of, eventually, processes_with, resident_mib, run_client, run_client_with};
pub use release::{ReleaseContents, ReleaseDir};
pub use scorer::{Failure, Scorer, ScorerCommand};
pub use workspace::{Said, Workspace};
