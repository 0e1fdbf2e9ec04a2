//! The frames between the pool and a worker; the other end, with the layout, is `worker/moorline_worker/channel.py`.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use moorline_core::{ScriptCall, ScriptReply, ScriptRoute, trace_id};
use thiserror::Error;

use crate::dispatch::{Group, Sequence};

const TEXT: u8 = 0;
const CALL: u8 = 1;
const BATCH: u8 = 2;

const JSON: u8 = 0;
const REPLY: u8 = 1;
const READY: u8 = 2;
const FAILED: u8 = 3;
const SKIPPED: u8 = 4;
const RUN_FAILED: u8 = 1;
const HAS_TIME: u8 = 2;
const OUTCOME_UNSAID: u8 = 4;

const REPLY_HEADER: usize = 24;
const LONGEST_ID: usize = 255;
/// Stands between a request's id and its trace's, where it has one. No header has this character.
pub(crate) const TRACE_FOLLOWS: char = '\x1d';

/// A request as workers are sent it.
#[derive(Debug)]
pub(crate) struct Request {
    /// By what the worker marks what is said meanwhile: the request's id and its trace's.
    pub(crate) id: String,
    /// Method, path and headers, encoded, where the script wants more than the text.
    description: Option<Vec<u8>>,
    body: Bytes,
}

impl Request {
    /// Only the body: all that `run(text)` wants.
    pub(crate) fn text(call: ScriptCall) -> Self {
        Self { id: mark(call.request_id, call.traceparent.as_deref()), description: None, body: call.body }
    }

    /// Everything that is known of the request.
    pub(crate) fn described(call: ScriptCall) -> Self {
        let id = mark(call.request_id, call.traceparent.as_deref());
        let mut headers = String::new();
        let traceparent = call.traceparent.map(|value| ("traceparent".to_owned(), value));
        // What the script does belongs to the span that is told here, and not to the caller's.
        let replaced = traceparent.is_some();
        let own =
            call.headers.iter().filter(|(name, _)| !(replaced && name.eq_ignore_ascii_case("traceparent")));
        // A name with `_` cannot be told from the same name with `-` where headers become variables, so servers of
        // Python leave such headers out, and scripts are not used to seeing them.
        let shown = |(name, _): &&(String, String)| !name.contains('_');
        for (name, value) in own.chain(&traceparent).filter(shown) {
            for part in [name, value] {
                headers.extend(part.chars().filter(|letter| *letter != '\0'));
                headers.push('\0');
            }
        }
        let method = &call.method.as_bytes()[..call.method.len().min(255)];
        let mut description = Vec::with_capacity(10 + method.len() + call.target.len() + headers.len());
        description.push(match call.route {
            ScriptRoute::Score => 0,
            ScriptRoute::Invocations => 1,
        });
        description.push(method.len() as u8);
        description.extend((call.target.len() as u32).to_le_bytes());
        description.extend((headers.len() as u32).to_le_bytes());
        description.extend(method);
        description.extend(call.target.as_bytes());
        description.extend(headers.as_bytes());
        Self { id, description: Some(description), body: call.body }
    }

    /// The bytes of the frame beside its header and id.
    fn length(&self) -> usize {
        self.description.as_ref().map_or(0, Vec::len) + self.body.len()
    }

    /// Whether no frame can hold it.
    pub(crate) fn is_too_long(&self) -> bool {
        self.length() >= 1 << 31
    }

    fn short_id(&self) -> &[u8] {
        let id = self.id.as_bytes();
        &id[..id.len().min(LONGEST_ID)]
    }
}

fn mark(request_id: String, traceparent: Option<&str>) -> String {
    match traceparent.and_then(trace_id) {
        Some(trace) => format!("{request_id}{TRACE_FOLLOWS}{trace}"),
        None => request_id,
    }
}

fn header(out: &mut Vec<u8>, length: usize, sequence: Sequence, kind: u8, id: &[u8]) {
    out.extend((12 + id.len() as u32 + length as u32).to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend([kind, id.len() as u8, 0, 0]);
    out.extend(id);
}

/// Writes everything but the bodies of a group into `out`; the bodies follow it on the wire, in order.
pub(crate) fn encode<'a, J: AsRef<Request> + 'a>(
    group: &'a Group<J>,
    out: &mut Vec<u8>,
) -> impl Iterator<Item = &'a Bytes> + use<'a, J> {
    if group.batch {
        let items = group.jobs();
        let count = items.len();
        let id = group.jobs().next().map_or(&b""[..], |(_, job)| job.as_ref().short_id());
        let bodies: usize = group.jobs().map(|(_, job)| job.as_ref().body.len()).sum();
        header(out, 4 + 12 * count + bodies, group.sequence, BATCH, id);
        out.extend((count as u32).to_le_bytes());
        for (sequence, job) in items {
            out.extend(sequence.to_le_bytes());
            out.extend((job.as_ref().body.len() as u32).to_le_bytes());
        }
    } else if let Some((sequence, job)) = group.jobs().next() {
        let request = job.as_ref();
        let kind = if request.description.is_some() { CALL } else { TEXT };
        header(out, request.length(), sequence, kind, request.short_id());
        out.extend(request.description.iter().flatten());
    }
    group.jobs().map(|(_, job)| &job.as_ref().body)
}

/// What a worker says.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Reply(Sequence, ScriptReply),
    /// A group that the worker was told not to start.
    Skipped(Sequence),
    /// The JSON of [`crate::process::Ready`].
    Ready(Bytes),
    /// The JSON of [`crate::process::Failed`].
    Failed(Bytes),
}

/// A frame that no worker of ours would send. Its sender is not to be trusted any more.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("it broke the protocol: {0}")]
pub(crate) struct Garbage(&'static str);

/// Takes the next whole message off the buffer. `None` means that more bytes are needed, for which room is made.
pub(crate) fn decode(buffer: &mut BytesMut, longest: usize) -> Result<Option<Message>, Garbage> {
    let Some(length) = buffer.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
        return Ok(None);
    };
    if length < REPLY_HEADER - 4 || length > longest {
        return Err(Garbage("a frame of an impossible length"));
    }
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + length).freeze();
    frame.advance(4);
    let sequence = frame.get_u64_le();
    let kind = frame.get_u8();
    let flags = frame.get_u8();
    let status = frame.get_u16_le();
    let nanoseconds = frame.get_u64_le();
    let run_time = (flags & HAS_TIME != 0).then(|| Duration::from_nanos(nanoseconds));
    match kind {
        SKIPPED => Ok(Some(Message::Skipped(sequence))),
        READY => Ok(Some(Message::Ready(frame))),
        FAILED => Ok(Some(Message::Failed(frame))),
        JSON => {
            let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
            let reply = ScriptReply { status, headers, body: frame, run_time, failed: Some(false) };
            Ok(Some(Message::Reply(sequence, reply)))
        }
        REPLY => {
            let headers = take_headers(&mut frame)?;
            let failed = (flags & OUTCOME_UNSAID == 0).then_some(flags & RUN_FAILED != 0);
            let reply = ScriptReply { status, headers, body: frame, run_time, failed };
            Ok(Some(Message::Reply(sequence, reply)))
        }
        _ => Err(Garbage("a frame of an unknown kind")),
    }
}

fn take_headers(frame: &mut Bytes) -> Result<Vec<(String, String)>, Garbage> {
    let cut = Garbage("headers that do not fit their frame");
    let Some(length) = frame.first_chunk().map(|bytes| u32::from_le_bytes(*bytes) as usize) else {
        return Err(cut);
    };
    frame.advance(4);
    if length > frame.len() {
        return Err(cut);
    }
    let raw = frame.split_to(length);
    let text = String::from_utf8_lossy(&raw);
    let mut parts = text.split_terminator('\0').map(str::to_owned);
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        headers.push((name, value));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(kind: u8, flags: u8, rest: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.extend_from_slice(&(20 + rest.len() as u32).to_le_bytes());
        frame.extend_from_slice(&7_u64.to_le_bytes());
        frame.extend_from_slice(&[kind, flags, 200, 0]);
        frame.extend_from_slice(&1500_u64.to_le_bytes());
        frame.extend_from_slice(rest);
        frame
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_garbage_or_too_few(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer, 1 << 20) {}
            prop_assert!(buffer.len() <= bytes.len());
        }

        #[test]
        fn a_frame_in_pieces_is_the_frame_as_a_whole(
            rest in prop::collection::vec(any::<u8>(), 0..100),
            cut in 0_usize..120,
        ) {
            let whole = reply(JSON, HAS_TIME, &rest);
            let cut = cut.min(whole.len() - 1);
            let mut buffer = BytesMut::from(&whole[..cut]);
            prop_assert_eq!(decode(&mut buffer, 1 << 20), Ok(None));
            buffer.extend_from_slice(&whole[cut..]);
            let Ok(Some(Message::Reply(7, reply))) = decode(&mut buffer, 1 << 20) else { panic!("no reply") };
            prop_assert_eq!(&reply.body[..], &rest[..]);
            prop_assert_eq!(reply.run_time, Some(Duration::from_nanos(1500)));
        }
    }

    #[test]
    fn headers_come_in_order_and_must_fit() {
        let mut rest = 8_u32.to_le_bytes().to_vec();
        rest.extend(b"a\0x\0a\0y\0body");
        let Ok(Some(Message::Reply(_, got))) = decode(&mut reply(REPLY, RUN_FAILED, &rest), 1000) else {
            panic!("no reply")
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(got.headers, [pair("a", "x"), pair("a", "y")]);
        assert_eq!((got.failed, got.run_time, &got.body[..]), (Some(true), None, &b"body"[..]));
        let Ok(Some(Message::Reply(_, got))) = decode(&mut reply(REPLY, OUTCOME_UNSAID, &rest), 1000) else {
            panic!("no reply")
        };
        assert_eq!(got.failed, None);
        rest[0] = 200;
        assert!(decode(&mut reply(REPLY, 0, &rest), 1000).is_err());
        assert!(decode(&mut reply(9, 0, b""), 1000).is_err());
        assert!(decode(&mut reply(JSON, 0, &[0; 2000]), 1000).is_err());
    }
}
