//! Direct methods: a request to one connected client, and its answer within a time.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use moorline_core::ErrorClass;
use serde_json::Value;
use thiserror::Error;
use tokio::sync::oneshot;

/// Bytes of a request's and of an answer's payload.
pub(crate) const MAX_PAYLOAD: usize = 128 * 1024;
const LONGEST_NAME: usize = 100;

/// A method to be called.
#[derive(Clone, Debug)]
pub struct MethodCall {
    pub name: String,
    pub payload: Value,
    /// For the answer.
    pub timeout: Duration,
    /// For the client to connect, if it is not connected.
    pub connect_timeout: Duration,
}

/// What the client answered.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodAnswer {
    /// A number of the client's own.
    pub status: u16,
    pub payload: Value,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MethodError {
    #[error("a method's name is 1 to {LONGEST_NAME} letters, digits or any of - _ . : $ !")]
    Name,
    #[error("a method's payload is at most {MAX_PAYLOAD} bytes")]
    TooLong,
    #[error("the client is not connected, or does not answer methods")]
    Offline,
    #[error("the client has too many methods to answer; try again later")]
    Busy,
    #[error("the client did not answer in time")]
    Timeout,
    #[error("the client went away before it answered")]
    Gone,
}

impl MethodError {
    pub const fn class(self) -> ErrorClass {
        match self {
            Self::Name => ErrorClass::InvalidInput,
            Self::TooLong => ErrorClass::TooLarge,
            Self::Offline => ErrorClass::NotFound,
            Self::Busy => ErrorClass::Overloaded,
            Self::Timeout => ErrorClass::Timeout,
            Self::Gone => ErrorClass::Unavailable,
        }
    }
}

/// A call on its way to a session.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) payload: Bytes,
    pub(crate) answer: oneshot::Sender<Result<MethodAnswer, MethodError>>,
}

impl MethodCall {
    /// The payload as it is sent.
    pub(crate) fn encoded(&self) -> Result<Bytes, MethodError> {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '$' | '!');
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || !self.name.chars().all(letters) {
            return Err(MethodError::Name);
        }
        let payload = self.payload.to_string();
        if payload.len() > MAX_PAYLOAD { Err(MethodError::TooLong) } else { Ok(payload.into()) }
    }
}

/// The calls that one session has not answered. Only that session can answer them.
#[derive(Debug, Default)]
pub(crate) struct Open {
    next: u64,
    calls: HashMap<u64, oneshot::Sender<Result<MethodAnswer, MethodError>>>,
}

impl Open {
    /// Keeps a call; gives its request id.
    pub(crate) fn add(
        &mut self,
        answer: oneshot::Sender<Result<MethodAnswer, MethodError>>,
        most: usize,
    ) -> Option<u64> {
        // Whoever waited has gone.
        self.calls.retain(|_, answer| !answer.is_closed());
        if self.calls.len() >= most {
            let _ = answer.send(Err(MethodError::Busy));
            return None;
        }
        self.next += 1;
        self.calls.insert(self.next, answer);
        Some(self.next)
    }

    /// Hands an answer over; `false` if nobody waits for it.
    pub(crate) fn answer(&mut self, rid: &str, status: u16, payload: &[u8]) -> bool {
        let Some(waiting) = rid.parse().ok().and_then(|rid: u64| self.calls.remove(&rid)) else {
            return false;
        };
        // Some clients answer with nothing, or with what is no JSON.
        let payload = serde_json::from_slice(payload).unwrap_or_else(|_| {
            match std::str::from_utf8(payload).map(str::trim) {
                Ok("") | Err(_) => Value::Null,
                Ok(text) => text.into(),
            }
        });
        waiting.send(Ok(MethodAnswer { status, payload })).is_ok()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        for (_, answer) in self.calls.drain() {
            let _ = answer.send(Err(MethodError::Gone));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_reaches_who_asked_and_nobody_else() {
        let mut open = Open::default();
        let (first, mut first_answer) = oneshot::channel();
        let (second, mut second_answer) = oneshot::channel();
        let (third, mut third_answer) = oneshot::channel();
        assert_eq!(open.add(first, 2), Some(1));
        assert_eq!(open.add(second, 2), Some(2));
        assert_eq!(open.add(third, 2), None);
        assert_eq!(third_answer.try_recv().unwrap(), Err(MethodError::Busy));
        assert!(!open.answer("3", 200, b"{}"));
        assert!(!open.answer("x", 200, b"{}"));
        assert!(open.answer("2", 201, b"{\"a\":1}"));
        assert!(!open.answer("2", 201, b"{\"a\":1}"));
        let answer = second_answer.try_recv().unwrap().unwrap();
        assert_eq!((answer.status, answer.payload), (201, serde_json::json!({"a": 1})));
        drop(open);
        assert_eq!(first_answer.try_recv().unwrap(), Err(MethodError::Gone));
    }

    #[test]
    fn callers_that_went_away_make_space() {
        let mut open = Open::default();
        assert_eq!(open.add(oneshot::channel().0, 1), Some(1));
        let (next, answer) = oneshot::channel();
        assert_eq!(open.add(next, 1), Some(2));
        drop(answer);
        assert!(!open.answer("2", 200, b""));
    }

    #[test]
    fn names_cannot_change_a_topic() {
        let call = |name: &str| MethodCall {
            name: name.to_owned(),
            payload: Value::Null,
            timeout: Duration::ZERO,
            connect_timeout: Duration::ZERO,
        };
        assert_eq!(call("ping").encoded().unwrap(), "null");
        for bad in ["", "a/b", "a b", "#", "a?$rid=1", &"x".repeat(101)] {
            assert_eq!(call(bad).encoded(), Err(MethodError::Name), "{bad}");
        }
    }
}
