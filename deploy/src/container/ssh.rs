//! The way to the Engine of another machine: the program `ssh`, a process for each connection, as Docker's own client
//! goes it. The settings and keys of the user hold, and what `ssh` says is the reason where it does not work.

use std::{
    error::Error as StdError,
    io,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bollard::{BollardRequest, errors::Error as Bollard};
use bytes::Bytes;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt, copy, join, sink},
    process::Command,
    task::JoinHandle,
    time::timeout,
};

/// What runs on the other machine: it joins its input and its output to the Engine's socket. In words that every shell
/// takes the same way.
const DIAL: &str = "sh -c 'if command -v docker >/dev/null; then exec docker system dial-stdio; fi; \
                    if command -v podman >/dev/null; then exec podman system dial-stdio; fi; \
                    echo neither docker nor podman is on the PATH of this user >&2; exit 127'";
/// `ssh` takes a connection for lost when three questions in such a distance had no answer.
const ALIVE: &str = "ServerAliveInterval=15";
/// Connections that are kept for the next request.
const MOST_KEPT: usize = 8;
/// Of what `ssh` says, no more than this is looked at.
const LOOKED_AT: u64 = 8 * 1024;
/// So long its words are waited for once the connection is over.
const WORDS_WITHIN: Duration = Duration::from_secs(2);

type Body = UnsyncBoxBody<Bytes, Box<dyn StdError + Send + Sync>>;

/// The last line that `ssh` printed before it ended.
#[derive(Debug, Error)]
#[error("ssh says: {0}")]
struct SshSaid(String);

/// Whether it was `ssh` that said why there is no connection.
pub(super) fn said(error: &io::Error) -> bool {
    error.get_ref().and_then(|error| error.downcast_ref::<SshSaid>()).is_some()
}

/// Connections to one machine.
#[derive(Debug)]
pub(super) struct Ssh {
    destination: String,
    kept: Mutex<Vec<SendRequest<Body>>>,
}

impl Ssh {
    /// `destination` is `host`, `user@host` or either with `:port`.
    pub(super) fn new(destination: &str) -> Arc<Self> {
        Arc::new(Self { destination: destination.to_owned(), kept: Mutex::default() })
    }

    /// Asks the Engine, over a connection that is free or a new one.
    pub(super) async fn request(&self, request: BollardRequest) -> Result<Response<Incoming>, Bollard> {
        let mut request = to_origin(request);
        while let Some(mut connection) = self.free() {
            match connection.try_send_request(request).await {
                Ok(response) => {
                    self.keep(connection);
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    // It ended before anything of the request was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(io::Error::other(error.into_error()).into()),
                },
            }
        }
        let (mut connection, words) = self.connect().await?;
        match connection.send_request(request).await {
            Ok(response) => {
                self.keep(connection);
                Ok(response)
            }
            Err(error) => match timeout(WORDS_WITHIN, words).await {
                Ok(Ok(Some(words))) => Err(io::Error::other(SshSaid(words)).into()),
                _ => Err(io::Error::other(error).into()),
            },
        }
    }

    async fn connect(&self) -> io::Result<(SendRequest<Body>, JoinHandle<Option<String>>)> {
        let mut command = Command::new("ssh");
        command.args(["-T", "-o", "BatchMode=yes", "-o", ALIVE, "--"]);
        command.arg(format!("ssh://{}", self.destination)).arg(DIAL);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => io::Error::new(error.kind(), "there is no program `ssh` on the PATH"),
            _ => error,
        })?;
        let (Some(input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("ssh was started without its pipes"));
        };
        let (connection, driver) =
            http1::handshake(TokioIo::new(join(output, input))).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // How it ended is told to whoever has a request in it.
            let _ = driver.await;
            drop(child);
        });
        Ok((connection, tokio::spawn(last_line(errors))))
    }

    fn free(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept();
        kept.retain(|connection| !connection.is_closed());
        let index = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(index))
    }

    /// It is free again once the answer was read to its end.
    fn keep(&self, connection: SendRequest<Body>) {
        let mut kept = self.kept();
        if kept.len() < MOST_KEPT {
            kept.push(connection);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<SendRequest<Body>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request as it goes over a connection to its server, and not to a proxy.
fn to_origin(request: BollardRequest) -> Request<Body> {
    let (mut head, body) = request.into_parts();
    head.uri = head.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    head.headers.insert(HOST, HeaderValue::from_static("docker"));
    Request::from_parts(head, body.boxed_unsync())
}

/// Reads to the end, so that nobody waits to be read, and gives the last line that says something.
async fn last_line(mut from: impl AsyncRead + Unpin) -> Option<String> {
    let mut text = Vec::new();
    // What cannot be read any more has ended.
    let _ = (&mut from).take(LOOKED_AT).read_to_end(&mut text).await;
    let _ = copy(&mut from, &mut sink()).await;
    let text = String::from_utf8_lossy(&text);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_words_are_kept_and_not_more() {
        let said = "Warning: something\nhost: Permission denied (publickey).\r\n\n";
        assert_eq!(last_line(said.as_bytes()).await.as_deref(), Some("host: Permission denied (publickey)."));
        assert_eq!(last_line(&b"\n"[..]).await, None);
        let long = vec![b'x'; 1 << 20];
        assert_eq!(last_line(long.as_slice()).await.map(|line| line.len()), Some(8 * 1024));
    }
}
