//! What the side-by-side harness is made of. Criterion's micro-benches lie in `benches/benches/`, one file a hot path;
//! measured tables in `benches/results/`.

mod containers;
mod control_group;
mod edge_kills;
mod edge_place;
pub mod edge_rows;
pub mod gateway_rows;
mod hosted_rows;
pub mod image_rows;
pub mod kubernetes_rows;
pub mod monitor_rows;
pub mod peers;
pub mod report;
pub mod rows;
pub mod stage;
pub mod workspace;
mod workspace_rows;
pub mod wrk;
