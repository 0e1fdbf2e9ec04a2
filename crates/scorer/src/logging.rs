//! Log lines: text for people, JSON for machines, to the standard error or to a file.

use std::{io::IsTerminal, sync::Mutex};

use anyhow::Context;
use moorline_observe::LogFile;
use tracing_subscriber::{EnvFilter, fmt, fmt::writer::BoxMakeWriter};

use crate::settings::{LogFormat, Observation};

/// Python's names for levels, which Azure ML's variable takes, beside tracing's own.
fn level(name: &str) -> &str {
    match name.to_ascii_uppercase().as_str() {
        "WARNING" => "warn",
        "CRITICAL" | "FATAL" => "error",
        "NOTSET" => "trace",
        _ => name,
    }
}

/// Starts logging. Libraries speak from `warn` on unless `--log-level` is a filter of its own (`debug,h2=trace`).
pub(crate) fn start(observation: &Observation) -> anyhow::Result<()> {
    let own = level(&observation.log_level);
    let mut directives = if own.contains(['=', ',']) {
        own.to_owned()
    } else {
        let libraries =
            if matches!(own.to_ascii_lowercase().as_str(), "error" | "off") { own } else { "warn" };
        let targets = ["moorline_scorer", "moorline_serve", "moorline_engines", "moorline_script", "script"];
        targets.iter().fold(libraries.to_owned(), |directives, target| format!("{directives},{target}={own}"))
    };
    if observation.log_requests || matches!(own.to_ascii_lowercase().as_str(), "debug" | "trace") {
        directives.push_str(",requests=info");
    }
    let filter = EnvFilter::builder().parse(&directives).with_context(|| {
        format!("log level `{}` is not one of ERROR, WARNING, INFO, DEBUG, TRACE", observation.log_level)
    })?;
    let writer = match &observation.log_file {
        None => BoxMakeWriter::new(std::io::stderr),
        Some(path) => {
            let file = LogFile::open(path, observation.log_file_bytes, observation.log_files.get())
                .context("could not open the log file")?;
            BoxMakeWriter::new(Mutex::new(file))
        }
    };
    let ansi = observation.log_file.is_none() && std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_writer(writer);
    match observation.log_format {
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
        }
        LogFormat::Text => builder.with_ansi(ansi).init(),
    }
    Ok(())
}
