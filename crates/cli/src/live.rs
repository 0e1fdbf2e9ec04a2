//! A table that is shown again and again: drawn over where somebody is looking, and going on below where not.

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{client::status_of, output, session::Session};

/// Shows what `ask` gives every so often, below `title`, until Ctrl-C. A server that is away is waited for; what it refuses
/// ends this.
pub(crate) async fn show(
    session: &Session,
    title: &str,
    often: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let drawn_over = std::io::stdout().is_terminal();
    // Once: a Ctrl-C between two waits must not be missed.
    let mut interrupts = signal(SignalKind::interrupt()).context("could not listen for Ctrl-C")?;
    let mut lost = false;
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            _ = interrupts.recv() => return Ok(()),
        };
        match answer {
            Ok(table) => {
                lost = false;
                let text = if drawn_over {
                    // To the upper left, with each line and what is below the last one wiped.
                    let lines = format!("{title}; Ctrl-C ends\n\n{table}").replace('\n', "\u{1b}[K\n");
                    format!("\u{1b}[H{lines}\u{1b}[J")
                } else {
                    table + "\n"
                };
                output::write(&text)?;
            }
            Err(error) if status_of(&error).is_some() => return Err(error),
            Err(error) => {
                if !lost {
                    session.screen.warn(format_args!("{error:#}; trying again"));
                }
                lost = true;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(often) => {}
            _ = interrupts.recv() => return Ok(()),
        }
    }
}
