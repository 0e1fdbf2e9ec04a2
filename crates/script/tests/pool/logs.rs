//! What scripts print and log, as the server's log events.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use moorline_core::ScriptCall;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::support::*;

/// Keeps the events of the target `script`: level, request id and text.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

struct Fields {
    request_id: String,
    message: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "request_id" {
            value.clone_into(&mut self.request_id);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            write!(self.message, "{value:?}").unwrap();
        }
    }
}

impl Subscriber for Kept {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "script"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { request_id: String::new(), message: String::new() };
        event.record(&mut fields);
        let line = format!("{} [{}] {}", event.metadata().level(), fields.request_id, fields.message);
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn everything_said_is_an_event_with_its_level_and_request() {
    // For the whole binary, since whether an event is wanted is remembered across threads. What other tests' scripts
    // say lands here as well and is told apart by its words.
    let kept = Kept::default();
    tracing::subscriber::set_global_default(kept.clone()).unwrap();
    let pool = Code::new(
        r#"
import logging, os, sys, time
def init(): print("said in init")
def run(data):
    print("printed", data)
    print("two\nlines", end="")
    print("\\n stays", file=sys.stderr)
    logging.getLogger("mine").error("logged\nlines")
    logging.info("info")
    logging.debug("debug")
    os.write(1, b"from c\n")
    time.sleep(0.2)
    if data == "raise": raise KeyError("said")
    return data
"#,
    )
    .start()
    .await;
    let call = |id: &str, body: &str| ScriptCall { request_id: id.to_owned(), ..post(body) };
    ask(&pool, call("said-1", "x")).await;
    ask(&pool, call("said-2", "raise")).await;
    let raised = |lines: &[String]| lines.iter().any(|line| line.contains("KeyError: 'said'"));
    until("all of it has arrived", || raised(&kept.0.lock().unwrap())).await;
    let lines = kept.0.lock().unwrap().clone();
    for expected in [
        "INFO [] said in init",
        "INFO [said-1] printed x",
        "INFO [said-1] two",
        "INFO [said-1] lines",
        "WARN [said-1] \\n stays",
        "ERROR [said-1] mine: logged\nlines",
        "INFO [said-1] root: info",
        "INFO [said-1] from c",
        "INFO [said-2] printed raise",
    ] {
        assert!(lines.iter().any(|line| line == expected), "no {expected:?} in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("[said-1] root: debug")), "{lines:#?}");
    let error = lines.iter().find(|line| line.contains("KeyError: 'said'")).unwrap();
    assert!(error.starts_with("ERROR [said-2] run() raised\nTraceback"), "{error}");
}
