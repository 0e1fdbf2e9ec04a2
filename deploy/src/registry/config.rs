//! What a server is told about registries.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use moorline_core::Secret;

/// The settings of all registries, and the environment in which Docker's own are looked for.
#[derive(Clone, Default)]
pub struct RegistryConfig {
    /// By `host` or `host:port`, as in references.
    pub hosts: BTreeMap<String, HostSettings>,
    /// `HOME` and `DOCKER_CONFIG` lead to Docker's `config.json`, `PATH` to its credential helpers; `HTTPS_PROXY`,
    /// `ALL_PROXY` and `NO_PROXY` are heeded.
    pub environment: BTreeMap<String, String>,
}

/// The environment may hold secrets, and is not shown.
impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

/// What is special about one registry.
#[derive(Clone, Debug, Default)]
pub struct HostSettings {
    /// `[https://]host[:port][/prefix]`: pulls ask there first, and here where it does not have what is wanted.
    pub mirror: Option<String>,
    /// Certificates (PEM) to be trusted beside those of the system.
    pub ca_file: Option<PathBuf>,
    /// Used in the place of Docker's own.
    pub credentials: Option<Credentials>,
}

/// Who one is to a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

impl Credentials {
    /// The user name by which Docker's credential helpers say that the password is an identity token.
    const IDENTITY: &str = "<token>";

    /// An identity token, which is exchanged for access tokens instead of a password.
    pub(super) fn of_identity(token: Secret) -> Self {
        Self { username: Self::IDENTITY.to_owned(), password: token }
    }

    /// The identity token, if this is one: an Engine takes it in a field of its own.
    pub fn identity_token(&self) -> Option<&Secret> {
        (self.username == Self::IDENTITY).then_some(&self.password)
    }
}
