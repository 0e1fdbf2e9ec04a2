//! `moorline gateway`: what the pods of a namespace's gateway run. The server makes them; people need it to look for a
//! fault.

use std::net::IpAddr;

use clap::Args;
use moorline_server::{NamespaceGatewayConfig, serve_namespace};

use crate::{observation::ObservationFlags, session::environment_of_process, up::Ends};

#[derive(Debug, Args)]
pub(crate) struct Gateway {
    /// The namespace whose pods it sends requests to
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The gateway's name: that of the secret with its routes
    #[arg(long, default_value = "moorline-gateway", value_name = "NAME")]
    name: String,
    /// The host to listen on: requests come to port 5001, and questions about it to port 5000
    #[arg(long, default_value = "0.0.0.0", value_name = "HOST")]
    host: IpAddr,
    #[command(flatten)]
    observation: ObservationFlags,
}

pub(crate) async fn run(gateway: Gateway) -> anyhow::Result<()> {
    let mut ends = Ends::listen()?;
    let service = format!("{}/{}", gateway.namespace, gateway.name);
    let config = NamespaceGatewayConfig {
        observation: gateway.observation.settings(&service),
        namespace: gateway.namespace,
        name: gateway.name,
        host: gateway.host,
        environment: environment_of_process(),
    };
    let end = async {
        ends.next().await;
    };
    Ok(Box::pin(serve_namespace(config, end)).await?)
}
