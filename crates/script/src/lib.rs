//! Scoring scripts in a pool of Python worker processes, behind [`moorline_core::Script`].
//!
//! The pool starts workers that run the user's script ([`ScriptPool::start`]), gives each request to one of them and
//! replaces workers that die. Which request is where, and which is lost when a worker dies, is decided by one pure
//! state machine (`dispatch`); everything else moves bytes.
//!
//! What only workers know (the contract of `init` and `run`, HTTP as the script sees it, JSON) is Python, embedded in
//! this crate (`worker/`) and written into a private folder at start.

mod config;
mod dispatch;
mod error;
mod frame;
mod handover;
mod link;
mod output;
mod pool;
mod process;
mod supervisor;
mod worker_files;

pub use config::ScriptConfig;
pub use error::StartError;
pub use pool::{PoolStats, ScriptPool};
