//! Where a registry is, how it is connected to, and who stands in for it.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::Path, time::Duration};

use moorline_core::Source;
use reqwest::{Certificate, Client, NoProxy, Proxy, Url, redirect};
use rustls::crypto::CryptoProvider;

use super::{HostSettings, RegistryConfig, RegistryError, reference::DOCKER_HUB};

/// Where Docker Hub answers.
const HUB_SERVER: &str = "registry-1.docker.io";
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
const LONGEST_CERTIFICATES: u64 = 4 << 20;

/// One registry, or what stands in for it.
#[derive(Clone)]
pub(super) struct Endpoint {
    /// As it is written in references, and shown to people.
    pub(super) name: String,
    /// With a slash at its end.
    pub(super) base: Url,
    pub(super) client: Client,
    /// Comes before the repository: empty, or with a slash at its end.
    pub(super) prefix: String,
}

impl Endpoint {
    /// Whether credentials for this endpoint may go to `url`.
    pub(super) fn is_origin_of(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Whether anything may go to `url`, to which a registry led: plain HTTP is for this machine, and for registries
    /// that are here themselves.
    pub(super) fn may_lead_to(&self, url: &Url) -> bool {
        match url.scheme() {
            "https" => true,
            "http" => self.base.scheme() == "http" && url.host_str().is_some_and(is_loopback),
            _ => false,
        }
    }
}

/// A client shows the password of its proxy, and is not shown.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// The connections to all registries.
pub(super) struct Endpoints {
    hosts: BTreeMap<String, HostSettings>,
    /// To those that nothing special is said of.
    usual: Client,
    /// To those with certificates of their own.
    trusting: BTreeMap<String, Client>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("hosts", &self.hosts).finish_non_exhaustive()
    }
}

impl Endpoints {
    pub(super) fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        if CryptoProvider::get_default().is_none() {
            // That of another thread in the same instant is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let proxy = proxy(&config.environment)?;
        let build = |certificates: Vec<Certificate>, with_system: bool| {
            let builder = Client::builder()
                .user_agent(concat!("moorline/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_PATIENCE)
                .redirect(redirect::Policy::none())
                // Content is verified as it is stored: nobody may unpack it on the way.
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd()
                .no_proxy();
            let builder = match &proxy {
                Some(proxy) => builder.proxy(proxy.clone()),
                None => builder,
            };
            let builder = if with_system {
                builder.tls_certs_merge(certificates)
            } else {
                builder.tls_certs_only(certificates)
            };
            builder.build()
        };
        let mut trusting = BTreeMap::new();
        for (host, settings) in &config.hosts {
            let Some(path) = &settings.ca_file else { continue };
            let client = build(read_certificates(host, path)?, true)
                .map_err(|source| RegistryError::Client { host: host.clone(), source })?;
            trusting.insert(host.clone(), client);
        }
        let usual = build(Vec::new(), true).or_else(|error| {
            // A machine without certificates can still use registries on itself, and those with a `ca_file`.
            tracing::warn!(%error, "certificates of the system are missing, so that registries are not trusted");
            build(Vec::new(), false)
        });
        let usual = usual.map_err(|source| RegistryError::Client { host: DOCKER_HUB.to_owned(), source })?;
        let endpoints = Self { hosts: config.hosts.clone(), usual, trusting };
        for host in config.hosts.keys() {
            endpoints.of(host)?;
            endpoints.mirror_of(host)?;
        }
        Ok(endpoints)
    }

    pub(super) fn settings(&self, host: &str) -> Option<&HostSettings> {
        self.hosts.get(host)
    }

    /// The registry itself: over TLS, except where it is on this machine and no certificate was set for it.
    pub(super) fn of(&self, host: &str) -> Result<Endpoint, RegistryError> {
        if host == Source::UNPUSHED {
            return Err(RegistryError::Unpushed(Source::UNPUSHED));
        }
        let plain = is_loopback(host) && !self.trusting.contains_key(host);
        self.build(host, if plain { "http" } else { "https" }, String::new())
    }

    /// Who is asked before the registry.
    pub(super) fn mirror_of(&self, host: &str) -> Result<Option<Endpoint>, RegistryError> {
        let Some(mirror) = self.hosts.get(host).and_then(|settings| settings.mirror.as_deref()) else {
            return Ok(None);
        };
        let fail = |why: &str| RegistryError::Settings {
            host: host.to_owned(),
            why: format!("its mirror `{mirror}` {why}"),
        };
        let (scheme, place) = match mirror.split_once("://") {
            Some((scheme @ ("http" | "https"), place)) => (Some(scheme), place),
            Some(_) => return Err(fail("is neither http nor https")),
            None => (None, mirror),
        };
        let (mirror_host, prefix) = place.split_once('/').unwrap_or((place, ""));
        if scheme == Some("http") && !is_loopback(mirror_host) {
            return Err(fail("is not on this machine, and plain HTTP is for this machine only"));
        }
        let prefix = match prefix.trim_matches('/') {
            "" => String::new(),
            prefix => format!("{prefix}/"),
        };
        // The rules of references are those of mirrors.
        let sound = |reference: super::Reference| reference.registry() == mirror_host;
        if !format!("{mirror_host}/{prefix}a").parse().is_ok_and(sound) {
            return Err(fail("is not written `host[:port][/prefix]`"));
        }
        let endpoint = match scheme {
            Some(scheme) => self.build(mirror_host, scheme, prefix)?,
            None => Endpoint { prefix, ..self.of(mirror_host)? },
        };
        Ok(Some(endpoint))
    }

    fn build(&self, host: &str, scheme: &str, prefix: String) -> Result<Endpoint, RegistryError> {
        let server = if host == DOCKER_HUB { HUB_SERVER } else { host };
        let base = Url::parse(&format!("{scheme}://{server}/")).map_err(|error| RegistryError::Settings {
            host: host.to_owned(),
            why: format!("its name is none ({error})"),
        })?;
        let client = self.trusting.get(host).unwrap_or(&self.usual).clone();
        Ok(Endpoint { name: host.to_owned(), base, client, prefix })
    }
}

/// Whether `host`, with or without a port, is this machine.
fn is_loopback(host: &str) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read_certificates(host: &str, path: &Path) -> Result<Vec<Certificate>, RegistryError> {
    use std::io::Read as _;
    let mut pem = Vec::new();
    fs_err::File::open(path).and_then(|file| file.take(LONGEST_CERTIFICATES).read_to_end(&mut pem)).map_err(
        |source| RegistryError::Certificates { host: host.to_owned(), path: path.to_owned(), source },
    )?;
    let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if certificates.is_empty() {
        return Err(RegistryError::Settings {
            host: host.to_owned(),
            why: format!("its `ca` `{}` holds no PEM certificate", path.display()),
        });
    }
    Ok(certificates)
}

/// The proxy on the way to other machines; what is on this one is never behind it.
fn proxy(environment: &BTreeMap<String, String>) -> Result<Option<Proxy>, RegistryError> {
    let set = |names: [&str; 2]| {
        names.iter().find_map(|&name| environment.get(name)).filter(|text| !text.is_empty())
    };
    let Some(address) = set(["HTTPS_PROXY", "https_proxy"]).or_else(|| set(["ALL_PROXY", "all_proxy"]))
    else {
        return Ok(None);
    };
    let direct = set(["NO_PROXY", "no_proxy"]).map(String::as_str).unwrap_or_default();
    let direct = NoProxy::from_string(&format!("localhost,127.0.0.0/8,::1,{direct}"));
    // The address may hold a password, and is not shown.
    let proxy = Proxy::all(address.as_str()).map_err(|_| RegistryError::Settings {
        host: "*".to_owned(),
        why: "HTTPS_PROXY or ALL_PROXY is not the address of a proxy".to_owned(),
    })?;
    Ok(Some(proxy.no_proxy(direct)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(host: &str, mirror: &str) -> Result<Endpoints, RegistryError> {
        let settings = HostSettings { mirror: Some(mirror.to_owned()), ..HostSettings::default() };
        Endpoints::new(&RegistryConfig {
            hosts: [(host.to_owned(), settings)].into(),
            ..RegistryConfig::default()
        })
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        let endpoints = Endpoints::new(&RegistryConfig::default()).unwrap();
        for (host, base) in [
            ("docker.io", "https://registry-1.docker.io/"),
            ("ghcr.io", "https://ghcr.io/"),
            ("x.io:5000", "https://x.io:5000/"),
            ("localhost:5000", "http://localhost:5000/"),
            ("127.3.4.5:80", "http://127.3.4.5/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("localhost.example.com", "https://localhost.example.com/"),
            ("127.0.0.1.example.com", "https://127.0.0.1.example.com/"),
        ] {
            assert_eq!(endpoints.of(host).unwrap().base.as_str(), base);
        }
        assert!(matches!(endpoints.of(Source::UNPUSHED), Err(RegistryError::Unpushed(_))));
        let may = |host: &str, url: &str| endpoints.of(host).unwrap().may_lead_to(&Url::parse(url).unwrap());
        assert!(may("x.io", "https://cdn.x.io/blob") && may("localhost:5000", "http://127.0.0.1:9/blob"));
        assert!(!may("x.io", "http://cdn.x.io/blob") && !may("x.io", "http://localhost:80/"));
        assert!(!may("localhost:5000", "http://x.io/blob") && !may("x.io", "file:///etc/passwd"));
    }

    #[test]
    fn a_mirror_is_a_host_and_perhaps_a_prefix() {
        for (mirror, base, prefix) in [
            ("localhost:5000", "http://localhost:5000/", ""),
            ("https://localhost:5000", "https://localhost:5000/", ""),
            ("http://127.0.0.1:5000/", "http://127.0.0.1:5000/", ""),
            ("m.example.com/hub/", "https://m.example.com/", "hub/"),
            ("m.example.com/a/b", "https://m.example.com/", "a/b/"),
        ] {
            let mirror = endpoints("docker.io", mirror).unwrap().mirror_of("docker.io").unwrap().unwrap();
            assert_eq!((mirror.base.as_str(), mirror.prefix.as_str()), (base, prefix));
        }
        for mirror in
            ["http://m.example.com", "ftp://m.example.com", "", "a b", "m.example.com/A", "u:p@m.example.com"]
        {
            let error = endpoints("docker.io", mirror).unwrap_err().to_string();
            assert!(
                error.starts_with("the settings of registry `docker.io` cannot be used: its mirror"),
                "{error}"
            );
        }
    }

    #[test]
    fn certificates_that_are_none_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let config = |path: &Path| {
            let settings = HostSettings { ca_file: Some(path.to_owned()), ..HostSettings::default() };
            RegistryConfig { hosts: [("x.io".to_owned(), settings)].into(), ..RegistryConfig::default() }
        };
        let path = dir.path().join("ca.pem");
        assert!(matches!(Endpoints::new(&config(&path)), Err(RegistryError::Certificates { .. })));
        fs_err::write(&path, "no certificate").unwrap();
        let error = Endpoints::new(&config(&path)).unwrap_err().to_string();
        assert!(error.contains("holds no PEM certificate"), "{error}");
    }

    #[test]
    fn a_proxys_password_is_not_shown() {
        let environment = [("HTTPS_PROXY".to_owned(), "http://u:s3cret@ not an address".to_owned())].into();
        let error = Endpoints::new(&RegistryConfig { environment, ..RegistryConfig::default() }).unwrap_err();
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
