//! What `moorline up` and `moorline gateway` are told of traces and of the access log.

use std::num::{NonZeroU64, NonZeroUsize};

use clap::Args;
use moorline_observe::{LinePlace, LinesConfig, TraceConfig};
use moorline_server::Observation;

#[derive(Debug, Args)]
#[command(next_help_heading = "Observation")]
pub(crate) struct ObservationFlags {
    /// An OTLP collector (gRPC) for traces of requests, as in http://127.0.0.1:4317; scorers that this server starts are
    /// told it too [default: nothing is traced]
    #[arg(long, env = TraceConfig::ENDPOINT, value_name = "URL", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// The share of traces begun here that are recorded, 0 to 1; a caller's decision is followed
    #[arg(
        long,
        env = TraceConfig::RATIO,
        default_value = "1",
        value_name = "RATIO",
        value_parser = TraceConfig::parse_ratio,
        hide_env_values = true
    )]
    trace_ratio: f64,
    /// A line of JSON for each request to an endpoint: into a file, with - to the standard output, or off
    #[arg(
        long,
        env = Observation::ACCESS_LOG,
        default_value = "off",
        value_name = "FILE|-|off",
        hide_env_values = true
    )]
    access_log: LinePlace,
    /// The access log's size at which it becomes FILE.1, what was that FILE.2, and so on
    #[arg(
        long,
        env = "MOORLINE_ACCESS_LOG_BYTES",
        default_value = "104857600",
        value_name = "BYTES",
        hide_env_values = true
    )]
    access_log_bytes: NonZeroU64,
    /// Numbered files of the access log that are kept
    #[arg(
        long,
        env = "MOORLINE_ACCESS_LOG_FILES",
        default_value = "5",
        value_name = "N",
        hide_env_values = true
    )]
    access_log_files: NonZeroUsize,
}

impl ObservationFlags {
    pub(crate) fn settings(self, service_name: &str) -> Observation {
        let endpoint = self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty());
        Observation {
            traces: endpoint.map(|endpoint| TraceConfig {
                endpoint,
                ratio: self.trace_ratio,
                service_name: service_name.to_owned(),
            }),
            access_log: (self.access_log != LinePlace::Off).then(|| LinesConfig {
                place: self.access_log,
                max_bytes: self.access_log_bytes.get(),
                kept: self.access_log_files.get(),
            }),
        }
    }
}
