//! Messages of a module's input are scored, and the answers are messages of its output.
//!
//! Many are asked about at one time, over one connection to the process that runs: the way there and back costs more than
//! scoring a small message does. Their answers leave in the order in which the messages came, whichever is there first,
//! and a message is done when its answer is on disk.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesOrdered};
use h2::client::SendRequest;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use moorline_core::Backoff;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    desired::Messaging,
    hub::{ClientId, Hub, HubError, InputMessage, Properties},
    modules::Modules,
};

/// Messages that are asked about at one time, and answers that are being stored.
const AT_ONCE: usize = 64;
/// Attempts at a message whose answer is a failure of the module's.
const ATTEMPTS: u32 = 3;
const TIMEOUT: Duration = Duration::from_mins(1);
/// What a message of the hub may hold.
const LONGEST_ANSWER: usize = 256 * 1024;
/// Of a failure's words.
const LONGEST_ERROR: usize = 1000;
/// Bytes that may be on their way on one connection.
const FLOW: u32 = 4 * 1024 * 1024;

pub(super) struct Scoring {
    pub(super) hub: Hub,
    pub(super) id: ClientId,
    pub(super) name: String,
    pub(super) messaging: Messaging,
    pub(super) modules: Arc<Modules>,
}

/// A connection to the process of a module.
struct Line {
    to: SocketAddr,
    sender: SendRequest<Bytes>,
    carrying: AbortOnDropHandle<()>,
}

/// What the module said of a message; nothing, while it starts or changes.
type Said = Option<(StatusCode, Bytes)>;

impl Scoring {
    pub(super) async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            if let Err(error) = self.pass(&mut backoff).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(module = self.name, error, "messages are not scored");
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn pass(&self, backoff: &mut Backoff) -> Result<(), HubError> {
        let mut inputs = self.hub.inputs(&self.id).await?;
        let (mut asked, mut storing) = (FuturesOrdered::new(), FuturesOrdered::new());
        let (mut line, mut most) = (None, AT_ONCE);
        loop {
            tokio::select! {
                biased;
                message = inputs.next(), if asked.len() < most => {
                    let message = message?;
                    if message.input == self.messaging.input {
                        let sender = self.sender(&mut line).await;
                        asked.push_back(async move {
                            let said = ask(sender, message.payload.clone()).await;
                            (message, said)
                        });
                    } else {
                        tracing::debug!(
                            module = self.name,
                            input = message.input,
                            "skipped a message of another input"
                        );
                        inputs.done([message.sequence])?;
                    }
                }
                Some((message, said)) = asked.next(), if !asked.is_empty() && storing.len() < AT_ONCE => {
                    // One that has too much to do is asked less at one time, and then more again.
                    most = match &said {
                        Some((StatusCode::TOO_MANY_REQUESTS, _)) => (most / 2).max(1),
                        _ => (most + 1).min(AT_ONCE),
                    };
                    let (answer, failure) = match said {
                        Some((status, body)) if status.is_success() => (body, None),
                        // Those behind it wait: their answers are not to overtake this one's.
                        said => self.insist(&mut line, &message, said).await,
                    };
                    let properties = self.answering(&message, failure);
                    let stored = self.hub.route_from(&self.id, properties, answer).await?;
                    storing.push_back(async move { (message.sequence, stored.await) });
                }
                Some(first) = storing.next(), if !storing.is_empty() => {
                    let (mut done, mut next) = (Vec::with_capacity(AT_ONCE), Some(first));
                    while let Some((sequence, stored)) = next {
                        stored?;
                        done.push(sequence);
                        next = storing.next().now_or_never().flatten();
                    }
                    inputs.done(done)?;
                    backoff.forget();
                }
            }
        }
    }

    /// The properties of a message's answer.
    fn answering(&self, message: &InputMessage, failure: Option<StatusCode>) -> Properties {
        let mut properties = message.properties.clone();
        // The answer's own, of which the question's id is the correlation.
        let asked = properties.system("mid").map(str::to_owned);
        for name in ["cdid", "cmid"] {
            properties.set_system(name, None);
        }
        // The same when the same message is scored again, after a loss of power before it was done; and another one for
        // another message that has its number, after the module was away.
        let mid = format!("score-{}-{:08x}", message.sequence, crc32fast::hash(&message.payload));
        properties.set_system("mid", Some(&mid));
        properties.set_system("on", Some(&self.messaging.output));
        properties.set_system("cid", asked.as_deref());
        properties.set_system("ct", Some("application/json"));
        properties.set_system("ce", Some("utf-8"));
        if let Some(failure) = failure {
            properties.set_own("moorline-error", failure.as_str());
        }
        properties
    }

    /// Asks about a message until there is an answer, or a failure that is told in its place: one that cannot be scored
    /// must not keep those behind it for ever.
    async fn insist(
        &self,
        line: &mut Option<Line>,
        message: &InputMessage,
        mut said: Said,
    ) -> (Bytes, Option<StatusCode>) {
        let (mut failures, mut pauses) = (0, Backoff::default());
        loop {
            match said {
                Some((status, body)) if status.is_success() => return (body, None),
                // It has too much to do, or is starting, or changing: its messages wait.
                Some((StatusCode::TOO_MANY_REQUESTS, _)) | None => {}
                Some((status, body)) => {
                    failures += 1;
                    if status.is_client_error() || failures == ATTEMPTS {
                        let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_ERROR)]);
                        return (json!({ "error": text }).to_string().into(), Some(status));
                    }
                }
            }
            tokio::time::sleep(pauses.next_pause()).await;
            let sender = self.sender(line).await;
            said = ask(sender, message.payload.clone()).await;
        }
    }

    /// The connection to the process that runs now; waits for one.
    async fn sender(&self, line: &mut Option<Line>) -> SendRequest<Bytes> {
        let mut pauses = Backoff::default();
        loop {
            let to = self.modules.scorer(&self.name);
            match line {
                Some(open) if to == Some(open.to) && !open.carrying.is_finished() => {
                    return open.sender.clone();
                }
                _ => {}
            }
            if let Some(to) = to {
                match Line::open(to).await {
                    Ok(open) => return line.insert(open).sender.clone(),
                    Err(error) => {
                        let error = &*error;
                        tracing::debug!(module = self.name, error, "could not connect to a module");
                    }
                }
            }
            tokio::time::sleep(pauses.next_pause()).await;
        }
    }
}

impl Line {
    async fn open(to: SocketAddr) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let connecting = async {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(FLOW).initial_connection_window_size(FLOW);
            let (sender, connection) = builder.handshake(stream).await?;
            let carrying = tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to a module broke");
                }
            });
            Ok(Self { to, sender, carrying: AbortOnDropHandle::new(carrying) })
        };
        tokio::time::timeout(TIMEOUT, connecting).await?
    }
}

/// Asks about one message.
async fn ask(sender: SendRequest<Bytes>, payload: Bytes) -> Said {
    let asking = async {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::from_static("http://module/score");
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        let (answer, mut body) = sender.ready().await?.send_request(request, false)?;
        body.send_data(payload, true)?;
        let (head, mut body) = answer.await?.into_parts();
        let mut first = body.data().await.transpose()?.unwrap_or_default();
        body.flow_control().release_capacity(first.len())?;
        let mut rest = BytesMut::new();
        while let Some(more) = body.data().await.transpose()? {
            body.flow_control().release_capacity(more.len())?;
            if rest.is_empty() {
                rest.extend_from_slice(&first);
            }
            rest.extend_from_slice(&more);
            if rest.len() > LONGEST_ANSWER {
                break;
            }
        }
        if !rest.is_empty() {
            first = rest.freeze();
        }
        if first.len() > LONGEST_ANSWER {
            let words = Bytes::from_static(b"the answer is longer than a message may be");
            return Ok((StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        Ok::<_, h2::Error>((head.status, first))
    };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(Ok(said)) => Some(said),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a module did not answer");
            None
        }
        Err(_) => None,
    }
}
