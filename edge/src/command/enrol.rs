//! `moorline-edge enrol`: once, with the token that the server gave for this device.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use moorline_edge::{
    agent::Identity,
    enrol::{self, AGENT},
    hub::ClientId,
};
use reqwest::Url;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The server's address: https://…
    #[arg(long)]
    server: Url,
    /// The device's name
    #[arg(long)]
    device: String,
    /// A file with the token, which is good for one enrolment; `-` for standard input
    #[arg(long)]
    token_file: PathBuf,
    /// Where the device's state is kept
    #[arg(long, default_value = "/var/lib/moorline-edge")]
    folder: PathBuf,
    /// PEM of the server's authority, where the machine does not trust it anyway
    #[arg(long)]
    authority: Option<PathBuf>,
    /// Allow a server without TLS: whoever is in between can take the device over
    #[arg(long)]
    insecure_http: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.server.scheme() != "https" && !arguments.insecure_http {
        bail!("{} is not https; give --insecure-http if that is meant", arguments.server);
    }
    let token = if arguments.token_file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin()).context("could not read the token")?
    } else {
        fs_err::read_to_string(&arguments.token_file)?
    };
    let id = ClientId::module(&arguments.device, AGENT)?;
    let mut builder = reqwest::Client::builder();
    if let Some(path) = &arguments.authority {
        for certificate in reqwest::Certificate::from_pem_bundle(&fs_err::read(path)?)? {
            builder = builder.tls_certs_merge([certificate]);
        }
    }
    let client = builder.build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (enrolled, key) = runtime
        .block_on(enrol::enrol(&client, &arguments.server, &id, token.trim()))
        .with_context(|| format!("could not enrol `{}`", arguments.device))?;
    Identity { id, server: arguments.server.to_string(), enrolled, key }.save(&arguments.folder)?;
    tracing::info!(device = arguments.device, "enrolled");
    Ok(())
}
