//! The direct methods of the agent: those of Azure's agent, with its names and answers, and ours.

use std::io::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::{Compression, write::GzEncoder};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::runs::Runs;
use crate::modules::OrderError;

/// Bytes of JSON that all logs of one answer take: an answer has 128 KiB.
const LONGEST: usize = 120 * 1024;
/// Logs of one answer.
const MOST_LOGS: usize = 64;
const NAMES: &str = "ping, restartModule, getModuleLogs, getLogs, runGolden";

/// Why a method was not done, with the status that Azure's agent gives it.
enum Refusal {
    /// What was asked makes no sense.
    Request(String),
    Missing(String),
    /// It makes sense, and cannot be done.
    State(String),
}

impl Refusal {
    fn answer(self) -> (u16, Value) {
        let (status, message) = match self {
            Self::Request(message) => (400, message),
            Self::Missing(message) => (404, message),
            Self::State(message) => (500, message),
        };
        (status, json!({ "message": message }))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default)]
    schema_version: Option<String>,
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Logs {
    #[serde(default)]
    schema_version: Option<String>,
    items: Items,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    content_type: ContentType,
}

/// Azure's agent takes one as well.
#[derive(Deserialize)]
#[serde(untagged)]
enum Items {
    Many(Vec<Item>),
    One(Item),
}

#[derive(Deserialize)]
struct Item {
    /// A module's name, or `.*` for all.
    id: String,
    #[serde(default)]
    filter: Filter,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    /// Lines.
    tail: Option<usize>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    None,
    Gzip,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ContentType {
    #[default]
    Text,
}

/// Does what is asked; gives the answer's status and payload. Names are read without regard to capitals, as Azure's are.
pub(super) async fn answer(runs: &Runs, name: &str, payload: &Value) -> (u16, Value) {
    let done = match name.to_ascii_lowercase().as_str() {
        "ping" => Ok(Value::Null),
        "restartmodule" => restart(runs, payload).await,
        "getmodulelogs" => logs(runs, payload).await,
        "getlogs" => log(runs, payload).await,
        "rungolden" => golden(runs, payload).await,
        _ => Err(Refusal::Request(format!("`{name}` is no method of this agent; it has {NAMES}"))),
    };
    done.map_or_else(Refusal::answer, |answer| (200, answer))
}

fn read<T: DeserializeOwned>(payload: &Value) -> Result<T, Refusal> {
    if payload.is_null() {
        return Err(Refusal::Request("the method needs a payload".to_owned()));
    }
    T::deserialize(payload).map_err(|error| Refusal::Request(format!("the payload cannot be read: {error}")))
}

fn check_schema(version: Option<&str>) -> Result<(), Refusal> {
    match version {
        None => Ok(()),
        Some(version) if version.split('.').next() == Some("1") => Ok(()),
        Some(version) => {
            Err(Refusal::Request(format!("the payload has schemaVersion `{version}`; this agent reads 1.0")))
        }
    }
}

fn named(payload: &Value) -> Result<String, Refusal> {
    let Named { schema_version, id } = read(payload)?;
    check_schema(schema_version.as_deref())?;
    Ok(id)
}

async fn restart(runs: &Runs, payload: &Value) -> Result<Value, Refusal> {
    let id = named(payload)?;
    runs.restart(&id).await.map_err(|error| Refusal::State(error.to_string()))?;
    tracing::info!(module = id, "restarted a module, as it was asked to");
    Ok(Value::Null)
}

async fn golden(runs: &Runs, payload: &Value) -> Result<Value, Refusal> {
    let id = named(payload)?;
    match runs.run_golden(&id).await {
        Ok(run) => Ok(json!({
            "id": id,
            "release": run.release,
            "met": run.failure.is_none(),
            "description": run.failure.unwrap_or_default(),
            "milliseconds": (run.took.as_secs_f64() * 1e6).round() / 1e3,
        })),
        Err(OrderError::NoModule(id)) => Err(Refusal::Missing(OrderError::NoModule(id).to_string())),
        Err(error) => Err(Refusal::State(error.to_string())),
    }
}

/// The end of one module's log.
async fn log(runs: &Runs, payload: &Value) -> Result<Value, Refusal> {
    let id = named(payload)?;
    match runs.log(&id).await {
        Some(log) => Ok(json!({ "id": id, "payload": within(&log, LONGEST) })),
        None => Err(Refusal::Missing(OrderError::NoModule(id).to_string())),
    }
}

async fn logs(runs: &Runs, payload: &Value) -> Result<Value, Refusal> {
    let Logs { schema_version, items, encoding, content_type: ContentType::Text } = read(payload)?;
    check_schema(schema_version.as_deref())?;
    let items = match items {
        Items::Many(items) => items,
        Items::One(item) => vec![item],
    };
    let names = runs.names();
    let mut asked = Vec::new();
    for item in &items {
        let known = names.iter().filter(|name| item.id == ".*" || **name == item.id);
        let before = asked.len();
        asked.extend(known.map(|name| (name, item.filter.tail)));
        if asked.len() == before && item.id != ".*" {
            return Err(Refusal::Request(OrderError::NoModule(item.id.clone()).to_string()));
        }
    }
    asked.truncate(MOST_LOGS);
    let share = LONGEST / asked.len().max(1) - 200;
    let mut answer = Vec::with_capacity(asked.len());
    for (name, tail) in asked {
        let log = runs.log(name).await.unwrap_or_default();
        let log = last_lines(&log, tail);
        answer.push(match encoding {
            Encoding::None => json!({ "id": name, "payload": within(log, share) }),
            Encoding::Gzip => json!({ "id": name, "payloadBytes": packed(log, share) }),
        });
    }
    Ok(Value::Array(answer))
}

fn last_lines(log: &str, tail: Option<usize>) -> &str {
    let Some(tail) = tail else { return log };
    if tail == 0 {
        return "";
    }
    let end = log.strip_suffix('\n').unwrap_or(log);
    let start = end.rmatch_indices('\n').nth(tail - 1).map_or(0, |(at, _)| at + 1);
    &log[start..]
}

/// The end of a text that takes `most` bytes as JSON.
fn within(text: &str, most: usize) -> &str {
    // As JSON writes them: quotes and line ends take two bytes, and other control characters six.
    let mut room = most.saturating_sub(2);
    for (at, character) in text.char_indices().rev() {
        let takes = match character {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            '\0'..='\x1f' => 6,
            other => other.len_utf8(),
        };
        if takes > room {
            return &text[at + character.len_utf8()..];
        }
        room -= takes;
    }
    text
}

/// The end of a text, packed; so much of it that it takes `most` bytes as base64.
fn packed(text: &str, most: usize) -> String {
    let mut text = text;
    loop {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        // Writing to memory does not fail.
        let bytes = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default();
        let encoded = STANDARD.encode(bytes);
        if encoded.len() <= most {
            return encoded;
        }
        text = within(text, text.len() / 2);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn the_end_of_a_log_is_given() {
        let log = "one\ntwo\nthree\n";
        assert_eq!(last_lines(log, None), log);
        assert_eq!(last_lines(log, Some(0)), "");
        assert_eq!(last_lines(log, Some(2)), "two\nthree\n");
        assert_eq!(last_lines(log, Some(9)), log);
        assert_eq!(last_lines("one\ntwo", Some(1)), "two");
        for text in ["plain", "quoted \"text\"\n", "\u{1}\u{1}", "größer"] {
            for most in 2..60 {
                let part = within(text, most);
                assert!(text.ends_with(part) && json!(part).to_string().len() <= most, "{text} {most}");
            }
            assert_eq!(within(text, 60), text);
        }
    }

    #[test]
    fn packed_logs_fit() {
        let mut state = 1_u32;
        let noise: String = (0..50_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b' ' + (state >> 26) as u8)
            })
            .collect();
        let packed = packed(&noise, 10_000);
        assert!(packed.len() <= 10_000);
        let mut text = String::new();
        flate2::read::GzDecoder::new(STANDARD.decode(packed).unwrap().as_slice())
            .read_to_string(&mut text)
            .unwrap();
        assert!(noise.ends_with(&text) && text.len() > 3000);
    }
}
