//! A collector of traces: OTLP over gRPC, as exporters speak it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::Value;

use crate::{
    place::{Venv, own_folder},
    process::eventually,
};

/// How long spans may take: a batch and a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The collector, which ends with this.
#[derive(Debug)]
pub struct Collector {
    child: Child,
    spans: Arc<Mutex<Vec<Value>>>,
    endpoint: String,
}

impl Collector {
    /// On a port that is free.
    pub fn start(venv: &Venv) -> Self {
        Self::run(venv, "0")
    }

    /// On the port of `endpoint`, where there is none now.
    pub fn start_at(venv: &Venv, endpoint: &str) -> Self {
        Self::run(venv, endpoint.rsplit(':').next().unwrap_or_default())
    }

    fn run(venv: &Venv, port: &str) -> Self {
        let mut child = Command::new(venv.python())
            .args(["-B", "-u"])
            .arg(own_folder().join("clients/otlp_receiver.py"))
            .arg(port)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a collector can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let endpoint = lines.next().and_then(Result::ok).expect("a collector says where it listens");
        let spans = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&spans);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let span = serde_json::from_str(&line).expect("a line of the collector is a span");
                own.lock().unwrap_or_else(PoisonError::into_inner).push(span);
            }
        });
        Self { child, spans, endpoint }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What has arrived of a trace.
    pub fn spans(&self, trace: &str) -> Vec<Value> {
        let spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        spans.iter().filter(|span| span["trace"] == trace).cloned().collect()
    }

    /// How many spans have arrived at all.
    pub fn count(&self) -> usize {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A trace, once `count` of its spans are there.
    pub fn trace(&self, trace: &str, count: usize) -> Vec<Value> {
        let all = eventually(LIMIT, || self.spans(trace).len() >= count);
        let spans = self.spans(trace);
        assert!(all, "of {count} spans only these: {spans:#?}");
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
