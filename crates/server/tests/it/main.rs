//! The server from outside: a real one in this process, with a home of its own, spoken to over HTTP.

mod access;
mod assets;
mod blobs;
mod bounds;
mod deployments;
mod documents;
mod endpoints;
mod life;
mod place;
mod workspaces;
