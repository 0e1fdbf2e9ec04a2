//! Where an Engine listens, as `DOCKER_HOST` says it, and where one is looked for that nobody named.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr};

use thiserror::Error;

const PLAIN_PORT: u16 = 2375;
const TLS_PORT: u16 = 2376;

/// The address of an Engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineHost {
    Unix(PathBuf),
    /// Without `tls` only a loopback address can be connected to: whoever reaches an Engine rules its machine.
    Tcp {
        /// `host:port`
        address: String,
        tls: Option<TlsFiles>,
    },
    /// `user@host` or `host`, optionally with `:port`; the program `ssh` connects with its own settings and keys.
    Ssh(String),
}

/// The files (PEM) of mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A text that names no Engine.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not the address of an Engine: {why}")]
pub struct HostError {
    text: String,
    why: &'static str,
}

impl EngineHost {
    /// What `environment` names: `DOCKER_HOST`, with `DOCKER_TLS_VERIFY` and `DOCKER_CERT_PATH`; else the first socket
    /// that is there, the system's before the user's own and Docker's before Podman's.
    pub fn discover(environment: &BTreeMap<String, String>) -> Result<Option<Self>, HostError> {
        let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        if let Some(text) = set("DOCKER_HOST") {
            let host: Self = text.parse()?;
            let Self::Tcp { address, .. } = host else { return Ok(Some(host)) };
            let tls = set("DOCKER_TLS_VERIFY").and_then(|_| {
                let folder = set("DOCKER_CERT_PATH")
                    .map(PathBuf::from)
                    .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".docker")))?;
                Some(TlsFiles {
                    ca: folder.join("ca.pem"),
                    cert: folder.join("cert.pem"),
                    key: folder.join("key.pem"),
                })
            });
            return Ok(Some(Self::Tcp { address, tls }));
        }
        let system = ["/run/docker.sock", "/var/run/docker.sock"].map(PathBuf::from);
        let own = set("XDG_RUNTIME_DIR").map(PathBuf::from);
        let own =
            own.iter().flat_map(|folder| [folder.join("docker.sock"), folder.join("podman/podman.sock")]);
        let candidates = system.into_iter().chain(own).chain([PathBuf::from("/run/podman/podman.sock")]);
        Ok(candidates.into_iter().find(|path| path.exists()).map(Self::Unix))
    }

    /// The same with these files, where it is reached by TCP.
    #[must_use]
    pub fn with_tls(self, files: TlsFiles) -> Self {
        match self {
            Self::Tcp { address, .. } => Self::Tcp { address, tls: Some(files) },
            other => other,
        }
    }

    /// The host at which published ports are found; `None` where it is this machine.
    pub fn remote_host(&self) -> Option<&str> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp { address, .. } => Some(without_port(address)).filter(|host| !is_loopback(host)),
            Self::Ssh(destination) => {
                let host = destination.rsplit_once('@').map_or(destination.as_str(), |(_, host)| host);
                Some(without_port(host)).filter(|host| !is_loopback(host))
            }
        }
    }
}

/// The host of `host:port`, an IPv6 address without its brackets.
fn without_port(address: &str) -> &str {
    if let Some(rest) = address.strip_prefix('[') {
        return rest.split_once(']').map_or(rest, |(host, _)| host);
    }
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl FromStr for EngineHost {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let refuse = |why| Err(HostError { text: shown(text), why });
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("it begins with neither unix://, tcp:// nor ssh://");
        };
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => refuse("the path of a socket begins with /"),
            "tcp" => {
                let rest = rest.trim_end_matches('/');
                // A user before an `@` would be a password, and nobody asks for it.
                if rest.is_empty()
                    || rest.contains(['/', '@', '?', '#'])
                    || rest.contains(char::is_whitespace)
                {
                    return refuse("tcp:// is followed by host:port and nothing else");
                }
                let host = without_port(rest);
                let port = match &rest[rest.find(host).unwrap_or(0) + host.len()..] {
                    "" | "]" if is_loopback(host) => PLAIN_PORT,
                    "" | "]" => TLS_PORT,
                    after => match after.trim_start_matches(']').strip_prefix(':').map(str::parse) {
                        Some(Ok(port)) => port,
                        _ => return refuse("the port is not a number from 1 to 65535"),
                    },
                };
                if host.is_empty() {
                    return refuse("the host is missing");
                }
                let address =
                    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                Ok(Self::Tcp { address, tls: None })
            }
            "ssh" => {
                let rest = rest.trim_end_matches('/');
                let (user, host) =
                    rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
                if user.is_some_and(|user| user.contains(':')) {
                    return refuse("a password does not belong into an address; use a key");
                }
                // `ssh` would take a leading dash for an option.
                let bad = |part: &str| {
                    part.is_empty()
                        || part.starts_with('-')
                        || part.contains(|c: char| c.is_whitespace() || c == '/')
                };
                if user.is_some_and(bad) || bad(host) {
                    return refuse("ssh:// is followed by user@host and nothing else");
                }
                Ok(Self::Ssh(rest.to_owned()))
            }
            _ => refuse("it begins with neither unix://, tcp:// nor ssh://"),
        }
    }
}

/// The text as an error may repeat it: without a password that stands in it.
fn shown(text: &str) -> String {
    let (scheme, rest) = text.split_once("://").map_or(("", text), |(scheme, rest)| (scheme, rest));
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => text.to_owned(),
    }
}

impl fmt::Display for EngineHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
            Self::Ssh(destination) => write!(f, "ssh://{destination}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        for (text, same) in [
            ("unix:///run/docker.sock", "unix:///run/docker.sock"),
            ("tcp://127.0.0.1", "tcp://127.0.0.1:2375"),
            ("tcp://engine.example", "tcp://engine.example:2376"),
            ("tcp://engine.example:99/", "tcp://engine.example:99"),
            ("tcp://[::1]", "tcp://[::1]:2375"),
            ("tcp://[fe80::2]:7", "tcp://[fe80::2]:7"),
            ("ssh://ops@engine.example:22", "ssh://ops@engine.example:22"),
            ("ssh://engine.example", "ssh://engine.example"),
        ] {
            let host: EngineHost = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(host.to_string(), same);
            assert_eq!(host.to_string().parse(), Ok(host));
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_telling_a_password() {
        for text in [
            "",
            "docker.sock",
            "unix://docker.sock",
            "npipe:////./pipe/docker",
            "tcp://",
            "tcp://:1",
            "tcp://a:b",
            "tcp://a:70000",
            "tcp://a/b",
            "tcp://me:s3cret@a:1",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://a@-b",
            "ssh://me:s3cret@a",
            "ssh://a b",
        ] {
            let error = text.parse::<EngineHost>().expect_err(text);
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn published_ports_are_found_at_the_engines_host() {
        let at = |text: &str| text.parse::<EngineHost>().unwrap().remote_host().map(str::to_owned);
        assert_eq!(at("unix:///run/docker.sock"), None);
        assert_eq!(at("tcp://localhost:1"), None);
        assert_eq!(at("tcp://[::1]:1"), None);
        assert_eq!(at("tcp://10.0.0.7:1").as_deref(), Some("10.0.0.7"));
        assert_eq!(at("ssh://ops@engine.example:22").as_deref(), Some("engine.example"));
    }

    #[test]
    fn the_environment_names_the_engine_and_its_certificates() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            EngineHost::discover(&pairs.collect())
        };
        assert_eq!(of(&[("DOCKER_HOST", "unix:///a")]), Ok(Some(EngineHost::Unix("/a".into()))));
        assert!(of(&[("DOCKER_HOST", "a")]).is_err());
        let tls = of(&[("DOCKER_HOST", "tcp://a:1"), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", "/c")]);
        let Ok(Some(EngineHost::Tcp { tls: Some(files), .. })) = tls else { panic!("{tls:?}") };
        assert_eq!(files.key, PathBuf::from("/c/key.pem"));
    }
}
