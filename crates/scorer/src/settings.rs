//! Every setting of the scorer: its flag, its environment variable, its default and what it does. The names that Azure
//! ML's inference server has for a setting are kept.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use moorline_observe::TraceConfig;

/// The environment of the process, taken once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Variables whose names or values are not Unicode are none of ours and are left out.
    pub(crate) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Adds what `lower` has and this has not.
    pub(crate) fn fall_back_to(&mut self, lower: &BTreeMap<String, String>) {
        for (name, value) in lower {
            self.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }

    /// Everything, for the processes that this one starts.
    pub(crate) fn into_map(self) -> BTreeMap<String, String> {
        self.0
    }
}

/// Reads the command line; `environment` (which the process's own variables are part of) gives what no flag says.
pub(crate) fn parse(environment: &Environment) -> Result<Cli, clap::Error> {
    let given = |command: clap::Command| {
        // clap reads the process's environment itself; what the release adds to it comes in as defaults.
        command.mut_args(|argument| {
            let value =
                argument.get_env().and_then(|name| environment.get(name.to_str()?)).map(str::to_owned);
            match value {
                Some(value) if argument.get_id() != "release" => argument.default_value(value),
                _ => argument,
            }
        })
    };
    Cli::from_arg_matches(&given(Cli::command()).try_get_matches()?)
}

/// Serve one release of a model, with or without a scoring script, over HTTP and gRPC.
///
/// The release is a folder with `release.json`, `model/` and `code/`; `moorline release create` makes one. The data port
/// answers /score, the Open Inference Protocol (/v2/…, and gRPC on the same port) and MLflow's /invocations; the admin
/// port answers /live, /ready, /metrics and /drain. Logs go to the standard error. SIGTERM drains and exits 0.
#[derive(Debug, Parser)]
#[command(
    name = "moorline-scorer",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Exit codes: 0 stopped after draining, 1 failure, 2 usage, 3 the scoring script's import or init() failed.\n\n\
                  Examples:\n  moorline-scorer --release ./iris\n  \
                  moorline-scorer --release ./iris --engine ort --optimize-for latency --port 8080\n  \
                  moorline-scorer --release ./iris --max-batch-size 32 --max-batch-delay-us 500\n  \
                  moorline-scorer inspect model.onnx"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the signature of an ONNX model as JSON
    #[command(after_help = "Example:\n  moorline-scorer inspect model.onnx --engine tract")]
    Inspect(Inspect),
    /// Ask the scorer of this machine or container whether it is ready: exit code 0 if it is, else 1
    #[command(after_help = "Example:\n  moorline-scorer probe --admin-port 5000")]
    Probe(Probe),
    /// Copy the files of a folder: how a model comes from its own image into a volume
    #[command(after_help = "Example:\n  moorline-scorer copy /opt/moorline/release/model /model")]
    Copy(Copy),
    /// Hold a device for a scorer, which starts this itself
    #[cfg(feature = "fpga")]
    #[command(hide = true)]
    FpgaWorker,
    /// Quantise a model for `moorline fpga quantize`: lines of JSON with what was done, and at last the report
    #[cfg(feature = "fpga")]
    #[command(hide = true)]
    FpgaQuantize(FpgaQuantize),
    /// Say where the time of a model goes on a device: what `moorline fpga profile` starts
    #[cfg(feature = "fpga")]
    #[command(hide = true)]
    FpgaProfile(FpgaProfile),
}

#[cfg(feature = "fpga")]
#[derive(Debug, Args)]
pub(crate) struct FpgaQuantize {
    /// The ONNX file
    pub(crate) model: PathBuf,
    /// Samples: a file or a folder of them
    #[arg(long)]
    pub(crate) calibration: PathBuf,
    /// The quantised ONNX file
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// How much of a tensor's values is within its range, in hundredths; all, where it is not given
    #[arg(long)]
    pub(crate) percentile: Option<f32>,
    /// One scale for all of a layer's weights
    #[arg(long)]
    pub(crate) per_tensor: bool,
    /// The engine that runs the model
    #[arg(long, env = "MOORLINE_ENGINE", default_value = "auto")]
    pub(crate) engine: EngineChoice,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The ONNX file
    pub(crate) model: PathBuf,
    /// The engine that reads it
    #[arg(long, env = "MOORLINE_ENGINE", default_value = "auto")]
    pub(crate) engine: EngineChoice,
}

#[cfg(feature = "fpga")]
#[derive(Debug, Args)]
pub(crate) struct FpgaProfile {
    /// The ONNX file
    pub(crate) model: PathBuf,
    /// The engine of the parts on the CPU
    #[arg(long, env = "MOORLINE_ENGINE", default_value = "auto")]
    pub(crate) engine: EngineChoice,
    /// Requests that are measured
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// The file for the events of all requests
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) fpga: FpgaOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// The scorer's admin port
    #[arg(long, env = "MOORLINE_ADMIN_PORT", default_value_t = 5000, value_name = "PORT")]
    pub(crate) admin_port: u16,
    /// For the answer
    #[arg(long, default_value_t = 2000, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) timeout_ms: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Copy {
    /// The folder
    pub(crate) from: PathBuf,
    /// The folder that its files come to, which is made where it is not there
    pub(crate) to: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineChoice {
    /// ort where its library is found, else tract
    Auto,
    /// ONNX Runtime, loaded at run time
    Ort,
    /// Built in; needs nothing
    Tract,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    /// As many sessions as cores, one thread each: most requests a second
    Throughput,
    /// One session with as many threads as cores: the shortest answer to one request
    Latency,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct Settings {
    /// The release's folder
    #[arg(long, env = "MOORLINE_RELEASE", value_name = "DIR", required = true)]
    pub(crate) release: Option<PathBuf>,
    /// The address to listen on; there is no authentication here, so anything but loopback belongs behind a gateway
    #[arg(long, env = "MOORLINE_HOST", default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: IpAddr,
    /// The data port; 0 takes any free one
    #[arg(long, env = "SERVER_PORT", default_value_t = 5001)]
    pub(crate) port: u16,
    /// The admin port; 0 takes any free one
    #[arg(long, env = "MOORLINE_ADMIN_PORT", default_value_t = 5000, value_name = "PORT")]
    pub(crate) admin_port: u16,
    /// Written once both ports are bound, as JSON: `{"data":"IP:PORT","admin":"IP:PORT","pid":N}` [default: none]
    #[arg(long, env = "MOORLINE_ADDRESS_FILE", value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
    /// The label `endpoint` of the metrics [default: the release's name]
    #[arg(long, env = "MOORLINE_ENDPOINT", value_name = "NAME")]
    pub(crate) endpoint: Option<String>,
    /// The label `deployment` of the metrics [default: the release's name]
    #[arg(long, env = "MOORLINE_DEPLOYMENT", value_name = "NAME")]
    pub(crate) deployment: Option<String>,

    #[command(flatten)]
    pub(crate) engine: EngineOptions,
    #[command(flatten)]
    pub(crate) fpga: FpgaOptions,
    #[command(flatten)]
    pub(crate) script: ScriptOptions,
    #[command(flatten)]
    pub(crate) bounds: Bounds,
    #[command(flatten)]
    pub(crate) observation: Observation,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "ONNX models")]
pub(crate) struct EngineOptions {
    /// The engine that runs the model [default: the release's, else auto]
    #[arg(long, env = "MOORLINE_ENGINE")]
    pub(crate) engine: Option<EngineChoice>,
    /// What sessions and threads are chosen for; it costs a copy of the scratch memory per session
    #[arg(long, env = "MOORLINE_OPTIMIZE_FOR", default_value = "throughput", value_name = "GOAL")]
    pub(crate) optimize_for: Goal,
    /// Runs at the same time [default: the release's, else by --optimize-for]
    #[arg(long, env = "MOORLINE_SESSIONS", value_name = "N")]
    pub(crate) sessions: Option<NonZeroUsize>,
    /// Threads inside one run [default: the release's, else by --optimize-for]
    #[arg(long, env = "MOORLINE_THREADS", value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Runs that take less of late skip the hand-over to a session's thread, which would take longer; 0: none does
    #[arg(long, env = "MOORLINE_INLINE_BELOW_US", default_value_t = 50, value_name = "MICROSECONDS")]
    pub(crate) inline_below_us: u64,
    /// Rows of one batch at most; turns dynamic batching on [default: the release's, else off]
    #[arg(long, env = "MOORLINE_MAX_BATCH_SIZE", value_name = "ROWS")]
    pub(crate) max_batch_size: Option<NonZeroUsize>,
    /// How long the first request of a batch waits for others [default: the release's, else 0]
    #[arg(long, env = "MOORLINE_MAX_BATCH_DELAY_US", value_name = "MICROSECONDS")]
    pub(crate) max_batch_delay_us: Option<u64>,
    /// Sizes at which a batch goes at once, ascending
    #[arg(long, env = "MOORLINE_PREFERRED_BATCH_SIZES", value_name = "ROWS", value_delimiter = ',')]
    pub(crate) preferred_batch_sizes: Vec<NonZeroUsize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "FPGAs")]
pub(crate) struct FpgaOptions {
    /// The bitstream that runs the model, as far as its kernels go; the engine runs the rest [default: none]
    #[arg(
        long = "fpga-bitstream",
        env = "MOORLINE_FPGA_BITSTREAM",
        value_name = "FILE",
        requires = "trusted_keys"
    )]
    pub(crate) bitstream: Option<PathBuf>,
    /// Public keys (PEM) or files with them, one of which must have signed the bitstream
    #[arg(
        long = "fpga-trusted-keys",
        env = "MOORLINE_FPGA_TRUSTED_KEYS",
        value_name = "KEYS",
        value_delimiter = ','
    )]
    pub(crate) trusted_keys: Vec<String>,
    /// Which device is taken: `platform=…`, `name=…`, `index=N`, `class=hardware|emulation` [default: the first that fits]
    #[arg(long = "fpga-device", env = "MOORLINE_FPGA_DEVICE", value_name = "FILTER", value_delimiter = ',')]
    pub(crate) device: Vec<String>,
    /// The least share of the model's operations that the device must take, 0 to 1
    #[arg(
        long = "fpga-min-coverage",
        env = "MOORLINE_FPGA_MIN_COVERAGE",
        default_value_t = 0.0,
        value_name = "SHARE"
    )]
    pub(crate) min_coverage: f64,
    /// How the device computes: `f32-fma-v1`, `i8-rne-v1` or `bfp9-v1` [default: on codes what the model quantises, the rest on floats]
    #[arg(long = "fpga-numerics", env = "MOORLINE_FPGA_NUMERICS", value_name = "NAME")]
    pub(crate) numerics: Option<String>,
    /// The least agreement with the model of floats that a quantised model must report of itself, 0 to 1 [default: none is wanted]
    #[arg(long = "fpga-min-agreement", env = "MOORLINE_FPGA_MIN_AGREEMENT", value_name = "SHARE")]
    pub(crate) min_agreement: Option<f64>,
    /// Let an emulated device build the kernels from the bitstream's source, where it has no image for it
    #[arg(long = "fpga-rebuild", env = "MOORLINE_FPGA_REBUILD", value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(crate) rebuild: bool,
    /// The folder in which devices are leased: one for all that use them [default: moorline-fpga in the temporary folder]
    #[arg(long = "fpga-leases", env = "MOORLINE_FPGA_LEASES", value_name = "DIR")]
    pub(crate) leases: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Scoring scripts")]
pub(crate) struct ScriptOptions {
    /// The Python interpreter [default: $AZUREML_INFERENCE_PYTHON_PATH/python, else environment/bin/python of the release, else python3]
    #[arg(long, env = "MOORLINE_PYTHON", value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,
    /// Worker processes; each runs one request at a time [default: 1]
    #[arg(long, env = "WORKER_COUNT", value_name = "N")]
    pub(crate) worker_count: Option<NonZeroUsize>,
    /// For a worker to start and to finish init() [default: 300]
    #[arg(long, env = "WORKER_TIMEOUT", value_name = "SECONDS")]
    pub(crate) worker_timeout: Option<u64>,
    /// Address space of one worker [default: no limit]
    #[arg(long, env = "MOORLINE_WORKER_MEMORY_MIB", value_name = "MIB")]
    pub(crate) worker_memory_mib: Option<u64>,
    /// For one run(); answered with 500 when it passes [default: 3600000]
    #[arg(long, env = "SCORING_TIMEOUT_MS", value_name = "MILLISECONDS")]
    pub(crate) scoring_timeout_ms: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub(crate) struct Bounds {
    /// From a request to its answer; answered with 408 when it passes [default: the release's request_settings, else none]
    #[arg(long, env = "MOORLINE_REQUEST_TIMEOUT_MS", value_name = "MILLISECONDS")]
    pub(crate) request_timeout_ms: Option<u64>,
    /// Requests scored at one time; more wait [default: the release's request_settings, else 256]
    #[arg(long, env = "MOORLINE_MAX_CONCURRENT_REQUESTS", value_name = "N")]
    pub(crate) max_concurrent_requests: Option<NonZeroUsize>,
    /// Requests that wait; more are answered with 429
    #[arg(long, env = "MOORLINE_MAX_QUEUE_LENGTH", default_value_t = 1024, value_name = "N")]
    pub(crate) max_queue_length: usize,
    /// How long a request may wait; answered with 429 when it passes [default: the release's request_settings, else none]
    #[arg(long, env = "MOORLINE_MAX_QUEUE_WAIT_MS", value_name = "MILLISECONDS")]
    pub(crate) max_queue_wait_ms: Option<u64>,
    /// Connections at one time; more wait in the kernel
    #[arg(long, env = "MOORLINE_MAX_CONNECTIONS", default_value_t = 4096, value_name = "N")]
    pub(crate) max_connections: usize,
    /// One request's body, before and after decompression
    #[arg(long, env = "MOORLINE_MAX_BODY_BYTES", default_value_t = 100 * 1024 * 1024, value_name = "BYTES")]
    pub(crate) max_body_bytes: usize,
    /// All request bodies held at one time; answered with 429 when it passes
    #[arg(long, env = "MOORLINE_MAX_BUFFERED_BYTES", default_value_t = 1024 * 1024 * 1024, value_name = "BYTES")]
    pub(crate) max_buffered_bytes: usize,
    /// One request's head; 8192 at least
    #[arg(long, env = "MOORLINE_MAX_HEADER_BYTES", default_value_t = 65536, value_name = "BYTES")]
    pub(crate) max_header_bytes: usize,
    /// Nesting of a JSON body; also the highest rank of a tensor in it
    #[arg(long, env = "MOORLINE_MAX_JSON_DEPTH", default_value_t = 64, value_name = "N")]
    pub(crate) max_json_depth: usize,
    /// For a request's head to arrive, and for the next one on a kept connection
    #[arg(long, env = "MOORLINE_HEADER_TIMEOUT_MS", default_value_t = 60_000, value_name = "MILLISECONDS")]
    pub(crate) header_timeout_ms: u64,
    /// For a request's body to arrive, and for a client to take in what it was sent
    #[arg(long, env = "MOORLINE_BODY_TIMEOUT_MS", default_value_t = 60_000, value_name = "MILLISECONDS")]
    pub(crate) body_timeout_ms: u64,
    /// After SIGTERM, for requests in flight
    #[arg(long, env = "MOORLINE_DRAIN_TIMEOUT_MS", default_value_t = 30_000, value_name = "MILLISECONDS")]
    pub(crate) drain_timeout_ms: u64,
    /// Origins that browsers may call from, `*` for any
    #[arg(long, env = "AML_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub(crate) cors_origins: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Observation")]
pub(crate) struct Observation {
    /// How a log line is written
    #[arg(long, env = "MOORLINE_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// The least level that is logged: ERROR, WARNING, INFO, DEBUG, TRACE
    #[arg(long, env = "AZUREML_LOG_LEVEL", default_value = "INFO", value_name = "LEVEL")]
    pub(crate) log_level: String,
    /// Log to this file instead of the standard error; why a start failed is said there in any case
    #[arg(long, env = "MOORLINE_LOG_FILE", value_name = "FILE")]
    pub(crate) log_file: Option<PathBuf>,
    /// The log file's size at which it becomes FILE.1, what was that FILE.2, and so on
    #[arg(long, env = "MOORLINE_LOG_FILE_BYTES", default_value_t = 10 * 1024 * 1024, value_name = "BYTES")]
    pub(crate) log_file_bytes: u64,
    /// Numbered log files that are kept
    #[arg(long, env = "MOORLINE_LOG_FILES", default_value = "5", value_name = "N")]
    pub(crate) log_files: NonZeroUsize,
    /// Log each request that was answered, at the level INFO; at DEBUG and below it is logged in any case
    #[arg(long, env = "MOORLINE_LOG_REQUESTS", value_name = "BOOL", num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    pub(crate) log_requests: bool,
    /// Where what is collected waits to be fetched; scorers of one deployment may share it [default: moorline-collected-ENDPOINT-DEPLOYMENT in the temporary folder]
    #[arg(long, env = "MOORLINE_COLLECT_DIR", value_name = "DIR")]
    pub(crate) collect_dir: Option<PathBuf>,
    /// All that waits to be fetched; what comes beyond it is dropped, and counted
    #[arg(long, env = "MOORLINE_COLLECT_BYTES", default_value_t = 256 * 1024 * 1024, value_name = "BYTES")]
    pub(crate) collect_bytes: u64,
    /// An OTLP gRPC collector for traces [default: traces are not exported]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    /// The share of traces begun here that are recorded, 0 to 1; a caller's decision is followed
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_name = "RATIO", value_parser = TraceConfig::parse_ratio)]
    pub(crate) trace_ratio: f64,
}

impl EngineOptions {
    /// Sessions and threads for a machine with `cores` cores; the flags win over the release, the release over the goal.
    pub(crate) fn sessions_and_threads(
        &self,
        release: &moorline_core::EngineSettings,
        cores: NonZeroUsize,
    ) -> (NonZeroUsize, NonZeroUsize) {
        let one = NonZeroUsize::MIN;
        let by_goal = match self.optimize_for {
            Goal::Throughput => (cores, one),
            Goal::Latency => (one, cores),
        };
        (
            self.sessions.or(release.sessions).unwrap_or(by_goal.0),
            self.threads.or(release.threads).unwrap_or(by_goal.1),
        )
    }
}

/// The interpreter for a release's script, by the order that `--python` documents.
pub(crate) fn python(own: Option<&Path>, environment: &Environment, release: &Path) -> PathBuf {
    if let Some(own) = own {
        return own.to_owned();
    }
    let of_azure = environment.path("AZUREML_INFERENCE_PYTHON_PATH").map(|dir| dir.join("python"));
    let of_release = release.join("environment/bin/python");
    of_azure.or_else(|| of_release.exists().then_some(of_release)).unwrap_or_else(|| PathBuf::from("python3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_setting_has_a_variable_and_a_word() {
        let command = Cli::command();
        command.clone().debug_assert();
        for argument in command
            .get_arguments()
            .filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version"))
        {
            assert!(argument.get_env().is_some(), "{} has no environment variable", argument.get_id());
            assert!(argument.get_help().is_some(), "{} has no help", argument.get_id());
        }
    }

    #[test]
    fn the_goal_decides_where_nothing_is_said() {
        let options = |line: &[&str]| {
            let line = ["moorline-scorer", "--release", "r"].iter().chain(line);
            Cli::parse_from(line).settings.engine
        };
        let cores = NonZeroUsize::new(8).unwrap();
        let chosen = |line: &[&str]| {
            let (sessions, threads) =
                options(line).sessions_and_threads(&moorline_core::EngineSettings::default(), cores);
            (sessions.get(), threads.get())
        };
        assert_eq!(chosen(&[]), (8, 1));
        assert_eq!(chosen(&["--optimize-for", "latency"]), (1, 8));
        assert_eq!(chosen(&["--sessions", "2", "--threads", "3"]), (2, 3));
    }
}
