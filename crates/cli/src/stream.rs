//! What the server goes on to send, printed as it comes: logs and messages of devices.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use futures_util::StreamExt;
use reqwest::Response;

/// Prints the body until it ends, or the person has seen enough. `what` it is goes into errors.
pub(crate) async fn print(response: Response, what: &str) -> anyhow::Result<()> {
    let mut pieces = response.bytes_stream();
    let mut out = std::io::stdout();
    // What a script wrote into its log must not move the cursor of the person who reads it.
    let clean = out.is_terminal();
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            interrupted = tokio::signal::ctrl_c() => return interrupted.context("could not listen for Ctrl-C"),
        };
        let Some(piece) = piece else { return Ok(()) };
        let mut piece = piece.with_context(|| format!("{what} broke off"))?.to_vec();
        if clean {
            piece.retain(|byte| !byte.is_ascii_control() || matches!(byte, b'\n' | b'\t'));
        }
        match out.write_all(&piece).and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            result => result.context("could not write to standard output")?,
        }
    }
}
