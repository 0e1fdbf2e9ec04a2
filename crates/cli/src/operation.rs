//! Waiting for what the server does: the phases as they come, the lines of its log, and how it ended.

use std::{io::IsTerminal, time::Duration};

use anyhow::Context;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use reqwest::{Method, Url, header::ACCEPT};
use serde_json::Value;

use crate::{
    client::{Client, Reply},
    events::{Event, Events},
    exit::Explained,
    screen::Screen,
};

/// Where an answer says what can be waited for.
const LOCATION: &str = "operation-location";
/// Lines of the log that are shown of what failed.
const SHOWN_LINES: usize = 40;
/// How often a broken stream is taken up again in a row.
const ATTEMPTS: u32 = 10;

/// What is waited for, in words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting<'a> {
    /// `deployment blue`.
    pub(crate) what: &'a str,
    /// The command that shows how it stands.
    pub(crate) look_again: &'a str,
    /// The command that shows more of the log.
    pub(crate) logs: Option<&'a str>,
}

/// Follows the operation of `reply` to its end, if it has one. Ctrl-C ends the waiting and nothing else.
pub(crate) async fn wait(
    client: &Client,
    screen: &Screen,
    reply: &Reply,
    waiting: Waiting<'_>,
) -> anyhow::Result<()> {
    let Some(location) = reply.headers.get(LOCATION).and_then(|value| value.to_str().ok()) else {
        return Ok(());
    };
    let operation = client.given(location)?;
    let mut view = View::new(screen);
    let done = tokio::select! {
        done = follow(client, &operation, &mut view) => done?,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("could not listen for Ctrl-C")?;
            view.close();
            return Err(Explained::new(format!("stopped waiting; the server goes on with the {}", waiting.what))
                .hint(format!("see how it stands with `{}`", waiting.look_again))
                .into());
        }
    };
    view.finish(&done);
    outcome(&done, waiting)
}

/// The end of an operation as a result.
fn outcome(operation: &Value, waiting: Waiting<'_>) -> anyhow::Result<()> {
    let text = |name: &str| operation.pointer(name).and_then(Value::as_str);
    match text("/state") {
        Some("Succeeded") => Ok(()),
        state => {
            let ended = if state == Some("Cancelled") { "was cancelled" } else { "failed" };
            let reason = text("/error/message").unwrap_or("the server gives no reason");
            let mut explained = Explained::new(format!("the {} {ended}: {reason}", waiting.what));
            let log = operation.pointer("/error/log").and_then(Value::as_array);
            let lines: Vec<&str> = log.into_iter().flatten().filter_map(Value::as_str).collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            if !shown.is_empty() {
                explained = explained.detail("the end of its log:");
                explained =
                    shown.iter().fold(explained, |all, line| all.detail(format!("  {}", printable(line))));
            }
            if let Some(logs) = waiting.logs.filter(|_| state == Some("Failed")) {
                explained = explained.hint(format!("`{logs}` shows the whole log"));
            }
            Err(explained.into())
        }
    }
}

/// The operation once it has ended. A stream that breaks is taken up again: the server may have been restarted.
async fn follow(client: &Client, operation: &Url, view: &mut View<'_>) -> anyhow::Result<Value> {
    let mut attempt = 0;
    let mut seen = 0;
    loop {
        let result = stream(client, operation, view, &mut seen).await;
        match result {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => attempt = 0,
            Err(error) => {
                attempt += 1;
                if attempt == ATTEMPTS || crate::client::status_of(&error).is_some() {
                    return Err(error.context("lost sight of the operation, which goes on in the server"));
                }
                tracing::info!(%error, "the stream of events broke, taking it up again");
            }
        }
        tokio::time::sleep(Duration::from_millis(200) * (attempt + 1)).await;
    }
}

/// Reads one stream of events to its end. A stream tells everything from the beginning; the first `seen` lines were
/// shown already.
async fn stream(
    client: &Client,
    operation: &Url,
    view: &mut View<'_>,
    seen: &mut usize,
) -> anyhow::Result<Option<Value>> {
    let mut url = operation.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.push("events");
    }
    let response = client.send(client.request(Method::GET, url).header(ACCEPT, "text/event-stream")).await?;
    let mut bytes = response.bytes_stream();
    let mut events = Events::default();
    let mut lines = 0;
    while let Some(piece) = bytes.next().await {
        for event in events.feed(&piece.map_err(|error| client.unreachable(error))?)? {
            match read(&event)? {
                Some(Change::Phase(phase)) => view.phase(&phase),
                Some(Change::Line(line)) => {
                    lines += 1;
                    if lines > *seen {
                        *seen = lines;
                        view.line(&line);
                    }
                }
                Some(Change::Transfer { direction, done, total }) => view.transfer(&direction, done, total),
                Some(Change::Standing(text)) => view.standing(&text),
                Some(Change::Done(operation)) => return Ok(Some(operation)),
                None => {}
            }
        }
    }
    // The stream ended before the operation did, as it does when the server is stopped.
    let operation = client.get(operation.clone()).await?;
    let running = operation.get("state").and_then(Value::as_str) == Some("Running");
    Ok((!running).then_some(operation))
}

#[derive(Debug, PartialEq)]
enum Change {
    Phase(String),
    Line(String),
    Transfer { direction: String, done: u64, total: u64 },
    Standing(String),
    Done(Value),
}

fn read(event: &Event) -> anyhow::Result<Option<Change>> {
    let data: Value = match event.name.as_str() {
        "phase" | "log" | "transfer" | "standing" | "done" => {
            serde_json::from_str(&event.data).context("the server sent an event that is not JSON")?
        }
        // Newer servers may have more to tell.
        _ => return Ok(None),
    };
    let text = |name: &str| data.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    Ok(match event.name.as_str() {
        "phase" => text("phase").map(Change::Phase),
        "log" => text("line").map(Change::Line),
        "standing" => text("text").map(Change::Standing),
        "transfer" => {
            let number = |name: &str| data.get(name).and_then(Value::as_u64);
            match (text("direction"), number("done"), number("total")) {
                (Some(direction), Some(done), Some(total)) => {
                    Some(Change::Transfer { direction, done, total })
                }
                _ => None,
            }
        }
        _ => Some(Change::Done(data)),
    })
}

/// What the person sees: on a terminal one line a phase, with the newest line of the log in it; elsewhere plain lines.
struct View<'a> {
    screen: &'a Screen,
    current: Option<(String, ProgressBar)>,
}

impl<'a> View<'a> {
    fn new(screen: &'a Screen) -> Self {
        Self { screen, current: None }
    }

    fn phase(&mut self, phase: &str) {
        if self.current.as_ref().is_some_and(|(current, _)| current == phase) {
            return;
        }
        self.tick();
        if self.screen.interactive() {
            self.current = Some((phase.to_owned(), self.screen.wheel(phase)));
        } else {
            self.screen.note(phase);
            self.current = Some((phase.to_owned(), ProgressBar::hidden()));
        }
    }

    fn line(&self, line: &str) {
        let line = printable(line);
        match &self.current {
            Some((_, bar)) if self.screen.interactive() => bar.set_message(line),
            _ => self.screen.note(format_args!("  {line}")),
        }
    }

    /// A bar behind the phase's name; where nobody watches, nothing.
    fn transfer(&self, direction: &str, done: u64, total: u64) {
        if let Some((_, bar)) = &self.current
            && self.screen.interactive()
        {
            bar.set_message(transferred(direction, done, total));
        }
    }

    /// What was measured, behind the phase's name; where nobody watches, nothing.
    fn standing(&self, text: &str) {
        if let Some((_, bar)) = &self.current
            && self.screen.interactive()
        {
            bar.set_message(printable(text));
        }
    }

    /// The phase that went on is over.
    fn tick(&mut self) {
        if let Some((phase, bar)) = self.current.take()
            && self.screen.interactive()
        {
            let seconds = bar.elapsed().as_secs_f32();
            bar.finish_and_clear();
            let time = self.screen.dim(&format!("{seconds:.1} s"));
            self.screen.note(format_args!("{} {phase} {time}", self.screen.green("✓")));
        }
    }

    fn finish(&mut self, operation: &Value) {
        if operation.get("state").and_then(Value::as_str) == Some("Succeeded") {
            self.tick();
        } else {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish_and_clear();
        }
    }
}

/// `push ━━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌ 12 / 27 MB`
fn transferred(direction: &str, done: u64, total: u64) -> String {
    const CELLS: u64 = 20;
    let filled = (done.min(total) * CELLS).checked_div(total).unwrap_or(CELLS) as usize;
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    format!(
        "{direction} {}{} {} / {} MB",
        "━".repeat(filled),
        "╌".repeat(CELLS as usize - filled),
        megabytes(done),
        megabytes(total)
    )
}

/// A line of somebody's log without what would change the terminal. Where it goes to a file, it is left as it is.
fn printable(line: &str) -> String {
    if std::io::stderr().is_terminal() {
        line.chars().filter(|c| !c.is_control() || *c == '\t').collect()
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WAITING: Waiting<'_> =
        Waiting { what: "deployment blue", look_again: "moorline …", logs: Some("moorline get-logs") };

    #[test]
    fn events_are_read_and_newer_ones_passed_over() {
        let event = |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
        assert_eq!(
            read(&event("phase", "{\"phase\":\"start\"}")).unwrap(),
            Some(Change::Phase("start".to_owned()))
        );
        assert_eq!(read(&event("log", "{\"line\":\"x\"}")).unwrap(), Some(Change::Line("x".to_owned())));
        let transfer = event("transfer", "{\"direction\":\"push\",\"done\":1,\"total\":2}");
        let read_transfer = Change::Transfer { direction: "push".to_owned(), done: 1, total: 2 };
        assert_eq!(read(&transfer).unwrap(), Some(read_transfer));
        let standing = event("standing", "{\"text\":\"9 requests\"}");
        assert_eq!(read(&standing).unwrap(), Some(Change::Standing("9 requests".to_owned())));
        assert_eq!(read(&event("weather", "sunny")).unwrap(), None);
        assert!(read(&event("done", "{")).is_err());
    }

    #[test]
    fn bytes_on_their_way_are_a_bar() {
        assert_eq!(transferred("push", 11_400_000, 27_000_000), "push ━━━━━━━━╌╌╌╌╌╌╌╌╌╌╌╌ 12 / 27 MB");
        assert_eq!(transferred("load", 0, 0), "load ━━━━━━━━━━━━━━━━━━━━ 0 / 0 MB");
    }

    #[test]
    fn what_failed_is_told_with_its_reason_and_the_end_of_its_log() {
        let failed = json!({
            "state": "Failed", "error": {"message": "init() raised", "log": ["Traceback", "ValueError: no"]}
        });
        let error = outcome(&failed, WAITING).unwrap_err();
        let explained = error.downcast_ref::<Explained>().unwrap();
        assert_eq!(explained.message, "the deployment blue failed: init() raised");
        assert_eq!(explained.details, ["the end of its log:", "  Traceback", "  ValueError: no"]);
        assert_eq!(explained.hints, ["`moorline get-logs` shows the whole log"]);
        assert!(outcome(&json!({"state": "Succeeded"}), WAITING).is_ok());
        assert!(
            outcome(&json!({"state": "Cancelled"}), WAITING).unwrap_err().to_string().contains("cancelled")
        );
    }
}
