//! What deployments did: read from what their replicas and gateways count, kept within bounds, answered by range.
//!
//! A look at a deployment gives a [`Sample`]: what came since the last look, and what was true at it. Samples of 5
//! seconds are kept for hours, and sums of five minutes for weeks, in a SQLite file of their own: [`Monitor`]. Counts and
//! histograms are kept as they are, so that samples can be added up to any step, and rates and quantiles are computed
//! when somebody asks: [`series`].
//!
//! What a replica says is not trusted: [`Readings::parse`] takes numbers that can be true, and nothing else. Nor is
//! anything built on the history: a file that cannot be read is put aside, and one that cannot be written costs a gap.

mod block;
mod history;
mod monitor;
mod range;
mod readings;
mod sample;
pub mod series;

pub use history::HistoryError;
pub use monitor::Monitor;
pub use range::{COARSE_STEP, FINE_STEP, Range};
pub use readings::{Readings, Summary};
pub use sample::{BOUNDS, BUCKETS, Sample, spread};
