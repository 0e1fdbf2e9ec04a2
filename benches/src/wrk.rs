//! The load generator: `wrk`, the same program with the same connections for both sides of a row.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::shell;

/// One kind of request, sent again and again.
#[derive(Debug)]
pub struct Load {
    /// wrk's Lua script, which holds method, headers and body.
    script: PathBuf,
    connections: usize,
}

/// What one run of wrk saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub requests_per_second: f64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p99: f64,
}

impl Load {
    /// A POST of `body`. Its files are written to `folder` under `name`.
    pub fn post(
        folder: &Path,
        name: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        connections: usize,
    ) -> Result<Self> {
        let body_file = folder.join(format!("{name}.body"));
        fs_err::write(&body_file, body)?;
        let script = folder.join(format!("{name}.lua"));
        fs_err::write(&script, lua(headers, &body_file))?;
        Ok(Self { script, connections })
    }

    /// Sends to `url` for whole `seconds`. An answer that is not a success fails the measurement.
    pub fn run(&self, url: &str, seconds: u64) -> Result<Sample> {
        let mut wrk = Command::new("wrk");
        wrk.args(["--latency", "--timeout", "10s"])
            .args(["--threads", &self.connections.min(2).to_string()])
            .args(["--connections", &self.connections.to_string()])
            .args(["--duration", &format!("{seconds}s"), "--script"])
            .arg(&self.script)
            .arg(url);
        let text = shell::output(&mut wrk)?;
        parse(&text).with_context(|| format!("while sending to {url}"))
    }
}

fn lua(headers: &[(&str, &str)], body: &Path) -> String {
    let mut lines = vec!["wrk.method = \"POST\"".to_owned()];
    lines.extend(headers.iter().map(|(name, value)| format!("wrk.headers[{name:?}] = {value:?}")));
    lines.push(format!("local body = assert(io.open({:?}, \"rb\"))", body.display().to_string()));
    lines.push("wrk.body = body:read(\"*a\")\nbody:close()\n".to_owned());
    lines.join("\n")
}

fn parse(text: &str) -> Result<Sample> {
    let value_of = |label: &str| text.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    if let Some(refused) = value_of("Non-2xx or 3xx responses:") {
        bail!("{refused} answers were errors");
    }
    if let Some(errors) = value_of("Socket errors:")
        && !errors.starts_with("connect 0, read 0, write 0, timeout 0")
    {
        bail!("socket errors: {errors}");
    }
    let rate = value_of("Requests/sec:").and_then(|rate| rate.parse().ok());
    let [p50, p99] = ["50%", "99%"].map(|label| value_of(label).and_then(milliseconds));
    match (rate, p50, p99) {
        (Some(requests_per_second), Some(p50), Some(p99)) if requests_per_second > 0.0 => {
            Ok(Sample { requests_per_second, p50, p99 })
        }
        _ => bail!("wrk measured nothing:\n{text}"),
    }
}

/// `532.00us`, `4.10ms`, `1.20s`, `1.00m` in milliseconds.
fn milliseconds(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0), ("m", 60_000.0)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://127.0.0.1:5001/score
  2 threads and 16 connections
  Latency Distribution
     50%  532.00us
     99%    4.10ms
  4000 requests in 1.00s, 1.00MB read
Requests/sec:   3998.25
Transfer/sec:      1.00MB
";

    #[test]
    fn a_report_is_read() {
        assert_eq!(parse(REPORT).unwrap(), Sample { requests_per_second: 3998.25, p50: 0.532, p99: 4.1 });
        assert_eq!(milliseconds("532.00us"), Some(0.532));
        assert_eq!(milliseconds("1.20s"), Some(1200.0));
    }

    #[test]
    fn errors_fail_a_measurement() {
        let refused = format!("{REPORT}  Non-2xx or 3xx responses: 7\n");
        assert!(parse(&refused).unwrap_err().to_string().contains("7 answers"));
        let broken = format!("{REPORT}  Socket errors: connect 0, read 3, write 0, timeout 0\n");
        assert!(parse(&broken).unwrap_err().to_string().contains("read 3"));
        assert!(parse("").is_err());
    }
}
