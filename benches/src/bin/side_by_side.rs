//! `cargo xtask bench scorer|gateway|image|kubernetes|edge|monitor`: ours and its baselines in the same minute, under the same load, in one table.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;
use moorline_benches::{
    edge_rows::EDGE,
    gateway_rows::GATEWAY,
    image_rows::IMAGE,
    kubernetes_rows::KUBERNETES,
    monitor_rows::MONITOR,
    report,
    rows::{Effort, Measure, SCORER},
    stage::Stage,
};
use xtask::{Workspace, shell};

#[derive(Parser)]
struct Arguments {
    #[arg(value_enum)]
    subject: Subject,
    /// Short runs and few: the figures are rough.
    #[arg(long)]
    quick: bool,
    /// Write the table to `benches/results/`.
    #[arg(long)]
    save: bool,
    /// Only the measurements whose name contains this.
    #[arg(long)]
    only: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Subject {
    Scorer,
    Gateway,
    Image,
    Kubernetes,
    Edge,
    Monitor,
}

impl Subject {
    fn rows(self) -> &'static [(&'static str, Measure)] {
        match self {
            Self::Scorer => &SCORER,
            Self::Gateway => &GATEWAY,
            Self::Image => &IMAGE,
            Self::Kubernetes => &KUBERNETES,
            Self::Edge => &EDGE,
            Self::Monitor => &MONITOR,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Scorer => "scorer",
            Self::Gateway => "gateway",
            Self::Image => "image",
            Self::Kubernetes => "kubernetes",
            Self::Edge => "edge",
            Self::Monitor => "monitor",
        }
    }

    fn method(self, Effort { seconds, rounds, large }: Effort) -> String {
        let load = format!(
            "edians of {rounds} alternating runs of {seconds} s a side; load by wrk on the same cores."
        );
        match self {
            Self::Scorer | Self::Gateway => format!("M{load}"),
            Self::Image => format!(
                "The large model is {} MiB of noise, in the page cache for both sides. Times are those of whole \
                 commands, medians of alternating rounds. Throughput: m{load}",
                large >> 20
            ),
            Self::Edge => format!(
                "The hub of the server and all clients are one process, the agent another, on the same cores. Rates: \
                 medians of {rounds} alternating runs of {seconds} s, QoS 1 both ways, 64 messages under way, TLS 1.3 and kept \
                 sessions on both sides. Ours writes each message to its queue before it is acknowledged; mosquitto \
                 passes messages on from memory, and writes what waits down every second."
            ),
            Self::Monitor => format!(
                "The server, its 200 scorers and Chromium are on the same cores. Processor time: over {} s, in which the \
                 server looks at all replicas each five seconds. Frames: the time between two of them, while a list is \
                 scrolled from its beginning to its end in 3 s.",
                seconds * 6
            ),
            Self::Kubernetes => "The cluster is the one of `KUBECONFIG`. No deployment has a pod.".to_owned(),
        }
    }
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let workspace = Workspace::find()?;
    let effort = if arguments.quick {
        Effort { seconds: 2, rounds: 2, large: 256 << 20 }
    } else {
        Effort { seconds: 5, rounds: 5, large: 1 << 30 }
    };
    let stage = Stage::new(&workspace)?;
    let (mut table, mut failed) = (Vec::new(), Vec::new());
    for &(name, measure) in arguments.subject.rows() {
        if arguments.only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        match shell::step(&format!("measure {name}"), || measure(&stage, effort)) {
            Ok(rows) => table.extend(rows),
            // The other rows are still worth having.
            Err(error) => {
                shell::complain(&format!("{error:#}"));
                failed.push(name);
            }
        }
    }
    let text = report::table(&report::setup(&workspace, &arguments.subject.method(effort)), &table);
    shell::print(&format!("\n{text}"));
    let short: Vec<&str> = table.iter().filter(|row| !row.holds()).map(|row| row.name).collect();
    if !short.is_empty() {
        shell::warn(&format!("fall short of their bound: {}", short.join("; ")));
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    if table.is_empty() {
        bail!("no measurement has such a name");
    }
    if arguments.save {
        shell::say(&format!(
            "written to {}",
            report::save(&workspace, arguments.subject.as_str(), &text)?.display()
        ));
    }
    Ok(())
}
