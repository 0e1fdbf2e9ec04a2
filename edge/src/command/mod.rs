//! The subcommands, one in each file.

pub(crate) mod hub;
