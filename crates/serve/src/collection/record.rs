//! One record and the line that it becomes: a CloudEvents object in JSON, with the attributes that Azure ML's collector
//! writes, so that what reads its files reads these.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method};
use jiff::Timestamp;
use moorline_core::Tensors;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::{CollectConfig, MOST_RECORD_BYTES, rows};

/// What a record takes besides its body.
const OVERHEAD: usize = 256;
const AGENT: &str = concat!("moorline/", env!("CARGO_PKG_VERSION"));

/// Something that is kept, as the request left it.
#[derive(Debug)]
pub(super) struct Record {
    /// Its place among the collections.
    pub(super) collection: usize,
    /// What the records of one request have in common.
    pub(super) id: Arc<str>,
    pub(super) time: SystemTime,
    pub(super) body: Body,
    pub(super) head: Head,
}

#[derive(Debug)]
pub(super) enum Body {
    Bytes {
        bytes: Bytes,
        content_type: Option<HeaderValue>,
    },
    Tensors {
        tensors: Tensors,
        bytes: usize,
    },
    /// Too long to be kept: how long it was.
    Length(usize),
}

/// What is said of a record by its kind.
#[derive(Debug)]
pub(super) enum Head {
    None,
    Request {
        method: Method,
        path: String,
        headers: Vec<(String, String)>,
    },
    Response {
        status: u16,
    },
    /// Given by a scoring script: its own words.
    Script {
        event: String,
        data_type: Option<String>,
        agent: Option<String>,
        model_version: Option<String>,
    },
}

impl Body {
    /// A body that is shared with the request, unless it is too long to be held for longer than that.
    pub(super) fn of_bytes(content_type: Option<&HeaderValue>, bytes: &Bytes) -> Self {
        if bytes.len() > MOST_RECORD_BYTES {
            Self::Length(bytes.len())
        } else {
            Self::Bytes { bytes: bytes.clone(), content_type: content_type.cloned() }
        }
    }
}

impl Record {
    pub(super) fn weight(&self) -> usize {
        OVERHEAD
            + match &self.body {
                Body::Bytes { bytes, .. } => bytes.len(),
                Body::Tensors { bytes, .. } => *bytes,
                Body::Length(_) => 0,
            }
    }

    /// Appends the record's line.
    pub(super) fn write(&self, config: &CollectConfig, collection: &str, line: &mut Vec<u8>) {
        let id = uuid::Uuid::new_v4().to_string();
        let source = format!("/endpoints/{}/deployments/{}", config.endpoint, config.deployment);
        let usual = format!("azureml.inference.{collection}");
        let event = if let Head::Script { event, .. } = &self.head { event } else { &usual };
        let content_type = match &self.body {
            Body::Bytes { content_type, .. } => {
                content_type.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("text/plain")
            }
            Body::Tensors { .. } | Body::Length(_) => "application/json",
        };
        line.push(b'{');
        attribute(line, "specversion", "1.0");
        attribute(line, "id", &id);
        attribute(line, "source", &source);
        attribute(line, "type", event);
        attribute(line, "datacontenttype", content_type);
        attribute(line, "time", &time(self.time));
        match &self.head {
            Head::Request { method, path, headers } => {
                attribute(line, "method", method.as_str());
                attribute(line, "path", path);
                if !headers.is_empty() {
                    let headers: serde_json::Map<String, Value> =
                        headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                    member(line, "headers", &Value::Object(headers));
                }
            }
            Head::Response { status } => member(line, "statuscode", &json!(status)),
            Head::Script { data_type, agent, model_version, .. } => {
                let model_version = model_version.as_deref().unwrap_or(&config.model_version);
                attribute(line, "modelversion", model_version);
                attribute(line, "collectdatatype", data_type.as_deref().unwrap_or("unknown"));
                attribute(line, "agent", agent.as_deref().unwrap_or(AGENT));
            }
            Head::None => {
                attribute(line, "modelversion", &config.model_version);
                attribute(line, "collectdatatype", "tensors");
                attribute(line, "agent", AGENT);
            }
        }
        attribute(line, "correlationid", &self.id);
        attribute(line, "xrequestid", &self.id);
        let length = self.write_data(line);
        let range = match (&self.body, length) {
            (Body::Length(length), _) => format!("bytes */{length}"),
            (_, 0) => "bytes */0".to_owned(),
            (_, length) => format!("bytes 0-{}/{length}", length - 1),
        };
        attribute(line, "contentrange", &range);
        // Every member was written with a comma behind it.
        line.pop();
        line.extend_from_slice(b"}\n");
    }

    /// Appends what the record is about; how many bytes it has.
    fn write_data(&self, line: &mut Vec<u8>) -> usize {
        const NAME: &[u8] = b"\"data\":";
        if matches!(self.body, Body::Length(_)) {
            return 0;
        }
        line.extend_from_slice(NAME);
        let before = line.len();
        match &self.body {
            Body::Bytes { bytes, .. } => embed(line, bytes),
            Body::Tensors { tensors, .. } => rows::write(line, tensors),
            Body::Length(_) => {}
        }
        let length =
            if let Body::Bytes { bytes, .. } = &self.body { bytes.len() } else { line.len() - before };
        line.push(b',');
        length
    }
}

/// JSON as it is, on one line; anything else as text.
fn embed(line: &mut Vec<u8>, bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
    {
        if !bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return line.extend_from_slice(bytes);
        }
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            return write_json(line, &value);
        }
    }
    write_json(line, &json!(String::from_utf8_lossy(bytes)));
}

fn attribute(line: &mut Vec<u8>, name: &str, value: &str) {
    line.push(b'"');
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    text(line, value);
    line.push(b',');
}

fn member(line: &mut Vec<u8>, name: &str, value: &Value) {
    line.push(b'"');
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
    write_json(line, value);
    line.push(b',');
}

/// A JSON string.
pub(super) fn text(line: &mut Vec<u8>, value: &str) {
    // A text can always be written, and memory does not fail.
    let _ = serde_json::to_writer(line, value);
}

pub(super) fn write_json(line: &mut Vec<u8>, value: &Value) {
    let _ = serde_json::to_writer(line, value);
}

fn time(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_where_it_is_and_text_where_not_and_always_one_line() {
        let embedded = |bytes: &[u8]| {
            let mut line = Vec::new();
            embed(&mut line, bytes);
            String::from_utf8(line).unwrap()
        };
        assert_eq!(embedded(br#"{"a": [1, 2.50]}"#), r#"{"a": [1, 2.50]}"#);
        assert_eq!(embedded(b"{\"a\":\n 1}"), r#"{"a":1}"#);
        assert_eq!(embedded(b"a\nb\"c"), r#""a\nb\"c""#);
        assert_eq!(embedded(b"\"\xff\""), "\"\\\"\u{fffd}\\\"\"");
        assert_eq!(embedded(b""), r#""""#);
        assert_eq!(embedded(b"{} {}"), r#""{} {}""#);
    }
}
