//! One request and its answer: within bounds of time and size, tried again where that may help, and its failures in
//! words.

use std::{error::Error, pin::pin, time::Duration};

use futures_util::StreamExt as _;
use http::{StatusCode, header};
use moorline_core::Backoff;
use reqwest::Response;

use super::{RegistryError, endpoint::Endpoint, meter::Meter};

/// A registry may have to move a large blob before it answers. There is no limit on the whole, as long as bytes move.
const STALLED: Duration = Duration::from_mins(2);
/// How long a registry may ask to be left alone before the work is given up.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// In a row, without anything gained: with the pauses between them 5 to 10 s.
const MOST_ATTEMPTS: u32 = 7;
const LONGEST_COMPLAINT: usize = 16 * 1024;
/// What is shown of a complaint.
const LONGEST_SHOWN: usize = 300;

/// Attempts in a row at one thing.
#[derive(Debug)]
pub(super) struct Attempts {
    backoff: Backoff,
    most: u32,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::default(), most: MOST_ATTEMPTS }
    }

    /// For a place beside which there is another one to ask.
    pub(super) fn few() -> Self {
        Self { backoff: Backoff::default(), most: 2 }
    }

    /// Something was gained.
    pub(super) fn forget(&mut self) {
        self.backoff.forget();
    }

    /// Waits before the next attempt. `false`: there is none.
    pub(super) async fn pause(&mut self, asked: Option<Duration>) -> bool {
        if self.backoff.ends() + 1 >= self.most || asked.is_some_and(|asked| asked > LONGEST_PAUSE) {
            return false;
        }
        let pause = self.backoff.next_pause();
        tokio::time::sleep(pause.max(asked.unwrap_or_default())).await;
        true
    }
}

/// Whether the same request may be answered another time.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Whether the connection was the trouble.
pub(super) fn is_cut(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Unreachable { .. } | RegistryError::Stalled { .. })
}

/// How long the registry asks to be left alone, in whole seconds.
pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The head of an answer, which has to come within the time that a registry may stand still.
pub(super) async fn within(
    endpoint: &Endpoint,
    action: &str,
    sending: impl Future<Output = Result<Response, reqwest::Error>>,
) -> Result<Response, RegistryError> {
    moving(endpoint, action, &Meter::unseen(), sending).await
}

/// Like [`within`], with a body on its way, which may take any time as long as it moves.
pub(super) async fn moving(
    endpoint: &Endpoint,
    action: &str,
    meter: &Meter,
    sending: impl Future<Output = Result<Response, reqwest::Error>>,
) -> Result<Response, RegistryError> {
    let mut sending = pin!(sending);
    loop {
        let before = meter.all_passed();
        match tokio::time::timeout(STALLED, &mut sending).await {
            Ok(sent) => return sent.map_err(|source| unreachable(endpoint, action, source)),
            Err(_) if meter.all_passed() != before => {}
            Err(_) => return Err(stalled(endpoint, action)),
        }
    }
}

/// The next bytes of an answer.
pub(super) async fn chunk(
    endpoint: &Endpoint,
    action: &str,
    stream: &mut (impl futures_util::Stream<Item = Result<bytes::Bytes, reqwest::Error>> + Unpin),
) -> Result<Option<bytes::Bytes>, RegistryError> {
    match tokio::time::timeout(STALLED, stream.next()).await {
        Ok(next) => next.transpose().map_err(|source| unreachable(endpoint, action, source)),
        Err(_) => Err(stalled(endpoint, action)),
    }
}

/// The whole of a short answer.
pub(super) async fn body(
    endpoint: &Endpoint,
    action: &str,
    response: Response,
    longest: usize,
) -> Result<Vec<u8>, RegistryError> {
    let too_long = || RegistryError::TooLarge {
        image: endpoint.name.clone(),
        what: "an answer",
        why: format!("when asked to {action}, the registry sent more than {longest} bytes"),
    };
    if response.content_length().is_some_and(|length| length > longest as u64) {
        return Err(too_long());
    }
    let mut stream = Box::pin(response.bytes_stream());
    let mut content = Vec::new();
    while let Some(bytes) = chunk(endpoint, action, &mut stream).await? {
        if content.len() + bytes.len() > longest {
            return Err(too_long());
        }
        content.extend_from_slice(&bytes);
    }
    Ok(content)
}

/// What a refusal says, without anything of `secrets`: a registry may show what it was sent.
pub(super) async fn refused(
    endpoint: &Endpoint,
    action: &str,
    response: Response,
    secrets: &[&str],
) -> RegistryError {
    let status = response.status();
    let content = body(endpoint, action, response, LONGEST_COMPLAINT).await.unwrap_or_default();
    let said = complaint(&content, secrets);
    let host = endpoint.name.clone();
    let hint = match status {
        StatusCode::UNAUTHORIZED => {
            format!("; `docker login {host}` or registries.yml gives it credentials")
        }
        StatusCode::FORBIDDEN => {
            "; its credentials do not allow this, or there is no such repository".to_owned()
        }
        StatusCode::TOO_MANY_REQUESTS => "; try again later, or give it credentials or a mirror".to_owned(),
        StatusCode::INSUFFICIENT_STORAGE => "; its disk is full".to_owned(),
        _ => String::new(),
    };
    let said = said.map(|said| format!(": {said}")).unwrap_or_default();
    RegistryError::Refused { host, action: action.to_owned(), status, said, hint }
}

/// The registry's own words, on one line, where they are in the form that is specified and show no secret.
fn complaint(content: &[u8], secrets: &[&str]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(content).ok()?;
    let said = document.pointer("/errors/0/message")?.as_str()?;
    let lower = said.to_lowercase();
    let is_echo = ["bearer ", "basic ", "authorization"].iter().any(|sign| lower.contains(sign));
    if is_echo || secrets.iter().any(|secret| said.contains(secret)) {
        return None;
    }
    let line: String =
        said.chars().take(LONGEST_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

fn unreachable(endpoint: &Endpoint, action: &str, source: reqwest::Error) -> RegistryError {
    // An address may be signed, which makes it a credential.
    let source = source.without_url();
    let host = endpoint.name.clone();
    if is_about_trust(&source) {
        return RegistryError::Untrusted { host, source };
    }
    RegistryError::Unreachable { host, action: action.to_owned(), source }
}

/// A certificate that is not trusted now is not trusted in a second either.
fn is_about_trust(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
            return true;
        }
        // The source of an I/O error is not the error within, but that one's.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(within) => Some(within),
            None => error.source(),
        };
    }
    false
}

fn stalled(endpoint: &Endpoint, action: &str) -> RegistryError {
    RegistryError::Stalled { host: endpoint.name.clone(), action: action.to_owned(), after: STALLED }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_shown_on_one_short_line() {
        let said = |text: &str| complaint(text.as_bytes(), &["s3cret"]);
        assert_eq!(
            said(r#"{"errors":[{"code":"DENIED","message":"not\n yours\u001b[0m","detail":{"a":1}}]}"#),
            Some("not  yours [0m".to_owned())
        );
        assert_eq!(said(r#"{"errors":[{"code":"OWN","message":"x"}]}"#), Some("x".to_owned()));
        assert_eq!(said("<html>"), None);
        assert_eq!(said(r#"{"errors":[{"code":"DENIED","message":"you sent s3cret"}]}"#), None);
        assert_eq!(said(r#"{"errors":[{"code":"DENIED","message":"you sent Basic eDp5"}]}"#), None);
        assert_eq!(said(r#"{"errors":[]}"#), None);
        let long = format!(r#"{{"errors":[{{"code":"OWN","message":"{}"}}]}}"#, "x".repeat(1000));
        assert_eq!(said(&long).map(|line| line.len()), Some(LONGEST_SHOWN));
    }

    #[tokio::test]
    async fn attempts_end() {
        let mut attempts = Attempts::few();
        assert!(attempts.pause(None).await);
        assert!(!attempts.pause(None).await);
        attempts.forget();
        assert!(!attempts.pause(Some(LONGEST_PAUSE + Duration::from_secs(1))).await, "that is too long");
    }
}
