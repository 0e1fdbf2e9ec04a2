//! Sockets: accepting connections within bounds, and draining them.
//!
//! What hyper leaves open is closed here, once for every server of ours: how many connections there may be, how long a
//! silent client is waited for, how long one may take to take its answer in, and how the last answers leave.

mod door;
mod preface;
mod service;

pub use door::{Door, ListenConfig};
pub use service::HttpService;
