//! Registries as they are used: Debian's own, and scripted ones for what a real one cannot be made to do.

mod answers;
mod cuts;
pub(crate) mod fixture;
mod referrers;
mod round_trip;
mod scripted;
mod tokens;
