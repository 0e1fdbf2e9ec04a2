//! The subcommands, one in each file.

pub(crate) mod enrol;
pub(crate) mod hub;
pub(crate) mod run;
