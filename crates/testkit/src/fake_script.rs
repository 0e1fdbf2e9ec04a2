//! A scoring script that echoes, with knobs for what goes wrong in real ones.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use moorline_core::{Script, ScriptCall, ScriptError, ScriptInfo, ScriptReply, ScriptStyle};

/// Answers a call with its own body and content type.
#[derive(Debug)]
pub struct FakeScript {
    info: ScriptInfo,
    delay: Duration,
    die_on: Option<Bytes>,
    fail_on: Option<Bytes>,
    unavailable: Option<String>,
    overloaded: bool,
    restarts: AtomicU64,
    calls: AtomicU64,
}

impl Default for FakeScript {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeScript {
    pub fn new() -> Self {
        let info = ScriptInfo {
            style: ScriptStyle::Plain,
            needs_headers: true,
            swagger: [("2", "2.0"), ("3", "3.0.3"), ("3.1", "3.1.0")]
                .map(|(version, stated)| (version.to_owned(), format!("{{\"swagger\": \"{stated}\"}}")))
                .into(),
            python: "3.11.0".to_owned(),
        };
        Self {
            info,
            delay: Duration::ZERO,
            die_on: None,
            fail_on: None,
            unavailable: None,
            overloaded: false,
            restarts: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// Says this of itself.
    pub fn info(self, info: ScriptInfo) -> Self {
        Self { info, ..self }
    }

    /// Every call takes this long, or ends at its deadline.
    pub fn delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// A call with this body kills its worker, which is started again.
    pub fn die_on(self, body: impl Into<Bytes>) -> Self {
        Self { die_on: Some(body.into()), ..self }
    }

    /// A call with this body makes the user's function raise.
    pub fn fail_on(self, body: impl Into<Bytes>) -> Self {
        Self { fail_on: Some(body.into()), ..self }
    }

    /// No worker is alive.
    pub fn unavailable(self, reason: &str) -> Self {
        Self { unavailable: Some(reason.to_owned()), ..self }
    }

    /// Too many wait already.
    pub fn overloaded(self) -> Self {
        Self { overloaded: true, ..self }
    }

    /// How many calls began.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Script for FakeScript {
    fn info(&self) -> &ScriptInfo {
        &self.info
    }

    fn ready(&self) -> bool {
        self.unavailable.is_none()
    }

    fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }

    async fn score(&self, call: ScriptCall) -> Result<ScriptReply, ScriptError> {
        let began = Instant::now();
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(reason) = &self.unavailable {
            return Err(ScriptError::Unavailable { reason: reason.clone() });
        }
        if self.overloaded {
            return Err(ScriptError::Overloaded);
        }
        if !self.delay.is_zero() {
            let end = tokio::time::sleep(self.delay);
            if tokio::time::timeout_at(call.deadline.into(), end).await.is_err() {
                return Err(ScriptError::Timeout { limit: call.deadline.saturating_duration_since(began) });
            }
        }
        if self.die_on.as_ref() == Some(&call.body) {
            self.restarts.fetch_add(1, Ordering::Relaxed);
            return Err(ScriptError::WorkerDied { reason: "the fake was told to die".to_owned() });
        }
        if self.fail_on.as_ref() == Some(&call.body) {
            return Ok(ScriptReply {
                status: 500,
                headers: vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())],
                body: Bytes::from_static(b"the fake was told to fail"),
                run_time: None,
                failed: Some(true),
            });
        }
        let content_type =
            call.headers.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
        Ok(ScriptReply {
            status: 200,
            headers: vec![content_type.unwrap_or(("content-type".to_owned(), "application/json".to_owned()))],
            body: call.body,
            run_time: Some(began.elapsed()),
            failed: Some(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use moorline_core::ScriptRoute;

    use super::*;

    fn call(body: &'static str) -> ScriptCall {
        ScriptCall {
            route: ScriptRoute::Score,
            method: "POST".to_owned(),
            target: "/score".to_owned(),
            headers: vec![],
            body: Bytes::from_static(body.as_bytes()),
            request_id: "test".to_owned(),
            traceparent: None,
            deadline: Instant::now() + Duration::from_mins(1),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_comes_back_unless_a_knob_says_otherwise() {
        let script = FakeScript::new().die_on("die").fail_on("fail");
        let reply = script.score(call("[1]")).await.unwrap();
        assert_eq!((reply.status, &reply.body[..], reply.failed), (200, &b"[1]"[..], Some(false)));
        assert!(matches!(script.score(call("die")).await, Err(ScriptError::WorkerDied { .. })));
        assert_eq!((script.restarts(), script.calls()), (1, 2));
        assert_eq!(script.score(call("fail")).await.unwrap().failed, Some(true));
        let script = FakeScript::new().unavailable("init() failed");
        assert!(!script.ready());
        assert!(matches!(script.score(call("[1]")).await, Err(ScriptError::Unavailable { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_ends_at_its_deadline() {
        assert!(FakeScript::new().delay(Duration::from_secs(5)).score(call("[1]")).await.is_ok());
        let script = FakeScript::new().delay(Duration::from_hours(1));
        assert!(matches!(script.score(call("[1]")).await, Err(ScriptError::Timeout { .. })));
    }
}
