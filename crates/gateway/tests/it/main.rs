//! The gateway between real sockets: clients on one side, servers as replicas on the other.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod churn;
mod errors;
mod grpc;
mod harness;
mod passage;
mod scale;
mod seen;
mod streams;
