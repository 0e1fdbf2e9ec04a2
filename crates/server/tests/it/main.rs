//! The server from outside: a real one in this process, with a home of its own, spoken to over HTTP.

#[cfg(test)]
mod access;
#[cfg(test)]
mod assets;
#[cfg(test)]
mod blobs;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod deployments;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod endpoints;
#[cfg(test)]
mod life;
#[cfg(test)]
mod monitor;
#[cfg(test)]
mod place;
#[cfg(test)]
mod rollouts;
#[cfg(test)]
mod workspaces;
