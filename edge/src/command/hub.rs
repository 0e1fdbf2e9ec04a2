//! `moorline-edge hub`: a hub whose identities and routes are in a file.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use moorline_core::Digest;
use moorline_edge::{
    disk::QueueLimits,
    hub::{ClientId, Hub, HubConfig, Identity, Listed, NamedRoute, Proof, Route, SharedKey, Sink, TlsFiles},
};
use serde::Deserialize;
use serde_json::json;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The hub's file, in YAML.
    #[arg(short, long)]
    file: PathBuf,
}

/// The file. Paths are relative to it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HubFile {
    /// The hub's name, as in connection strings.
    name: String,
    folder: PathBuf,
    mqtt: SocketAddr,
    https: Option<SocketAddr>,
    certificates: PathBuf,
    key: PathBuf,
    client_authorities: Option<PathBuf>,
    /// Whose modules `BrokeredEndpoint` leads to; those of the sender's device without it.
    device: Option<String>,
    #[serde(default)]
    routes: BTreeMap<String, RouteEntry>,
    #[serde(default)]
    inbox: QueueLimits,
    identities: Vec<IdentityEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RouteEntry {
    Text(String),
    #[serde(rename_all = "camelCase")]
    Full {
        route: String,
        time_to_live_secs: Option<u64>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityEntry {
    id: ClientId,
    primary_key: Option<String>,
    secondary_key: Option<String>,
    /// sha256 of its certificate.
    thumbprint: Option<Digest>,
    secondary_thumbprint: Option<Digest>,
    /// Proves itself by a certificate of `client_authorities`.
    #[serde(default)]
    authority: bool,
}

impl IdentityEntry {
    fn identity(&self) -> Result<Identity> {
        let key = |text: &String| SharedKey::new(text);
        let proof = match (&self.primary_key, &self.thumbprint, self.authority) {
            (Some(primary), None, false) => Proof::Sas {
                primary: key(primary)?,
                secondary: self.secondary_key.as_ref().map(key).transpose()?,
            },
            (None, Some(primary), false) => {
                Proof::Thumbprint { primary: *primary, secondary: self.secondary_thumbprint }
            }
            (None, None, true) => Proof::Authority,
            _ => bail!("give exactly one of `primary_key`, `thumbprint` and `authority: true`"),
        };
        Ok(Identity { proof, enabled: true })
    }
}

impl RouteEntry {
    fn named(&self, name: &str) -> Result<NamedRoute> {
        let (text, ttl) = match self {
            Self::Text(text) => (text, None),
            Self::Full { route, time_to_live_secs } => (route, time_to_live_secs.map(Duration::from_secs)),
        };
        let route: Route = text.parse()?;
        if *route.sink() == Sink::Upstream {
            bail!("there is nothing above this hub: `$upstream` leads nowhere");
        }
        Ok(NamedRoute { name: name.to_owned(), route, time_to_live: ttl })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let path = &arguments.file;
    let read = || -> Result<(HubConfig, Listed)> {
        let file: HubFile = serde_norway::from_str(&fs_err::read_to_string(path)?)?;
        settings(&file, path.parent().unwrap_or(Path::new("")))
    };
    let (config, identities) = read().with_context(|| format!("could not use `{}`", path.display()))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(config, identities))
}

fn settings(file: &HubFile, folder: &Path) -> Result<(HubConfig, Listed)> {
    let identities = Listed::default();
    for entry in &file.identities {
        let identity = entry.identity().with_context(|| format!("the identity `{}`", entry.id))?;
        identities.set(entry.id.clone(), identity);
    }
    let tls = TlsFiles {
        certificates: folder.join(&file.certificates),
        key: folder.join(&file.key),
        client_authorities: file.client_authorities.as_ref().map(|path| folder.join(path)),
    };
    let mut config = HubConfig::new(folder.join(&file.folder), file.name.clone(), file.mqtt, tls);
    (config.https, config.device, config.inbox) = (file.https, file.device.clone(), file.inbox);
    config.routes = file
        .routes
        .iter()
        .map(|(name, entry)| entry.named(name).with_context(|| format!("the route `{name}`")))
        .collect::<Result<_>>()?;
    Ok((config, identities))
}

async fn serve(config: HubConfig, identities: Listed) -> Result<()> {
    let hub = Hub::start(config, Arc::new(identities), &prometheus::Registry::new()).await?;
    // For whoever started it with port 0.
    let addresses = json!({ "mqtt": hub.mqtt_address(), "https": hub.https_address() });
    let mut out = std::io::stdout();
    writeln!(out, "{addresses}").and_then(|()| out.flush()).context("could not say where the hub listens")?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    hub.shutdown().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(routes: &str, identities: &str) -> Result<(HubConfig, Listed)> {
        let text = format!(
            "name: h\nfolder: f\nmqtt: 127.0.0.1:0\ncertificates: c\nkey: k\nroutes: {routes}\nidentities: {identities}\n"
        );
        settings(&serde_norway::from_str(&text)?, Path::new("/x"))
    }

    #[test]
    fn a_file_is_read_and_what_is_wrong_in_it_is_named() {
        let key = "MDEyMzQ1Njc4OWFiY2RlZg==";
        let route =
            r#"{a: {route: "FROM /* INTO BrokeredEndpoint(\"/modules/m/inputs/i\")", timeToLiveSecs: 5}}"#;
        let (config, _) = read(route, &format!("[{{id: d/m, primary_key: {key}}}]")).unwrap();
        assert_eq!(config.folder, Path::new("/x/f"));
        assert_eq!(config.routes[0].time_to_live, Some(Duration::from_secs(5)));
        let error = |routes: &str, identities: &str| format!("{:#}", read(routes, identities).unwrap_err());
        assert!(
            error("{a: \"FROM /* INTO $upstream\"}", "[]").contains("the route `a`: there is nothing above")
        );
        assert!(error("{}", "[{id: d}]").contains("the identity `d`: give exactly one of"));
        assert!(error("{}", "[{id: d, primary_key: x}]").contains("base64"));
        assert!(error("{}", "[{id: d#}]").contains("names no device"));
        assert!(error("{}", "[{id: d, secret: x}]").contains("secret"));
    }
}
