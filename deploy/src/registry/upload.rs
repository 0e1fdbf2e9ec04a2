//! One blob on its way to a registry: not sent if it is there, taken from a neighbour, or sent in parts, so that an
//! upload that was cut goes on where it was.

use std::{path::PathBuf, sync::Arc};

use http::{Method, StatusCode, header};
use moorline_core::Digest;
use reqwest::{Response, Url};

use super::{
    RegistryError,
    exchange::{self, Attempts},
    meter::Meter,
    remote::{Part, Remote, Request},
};

/// What fits into one request is not worth more.
const SMALL: u64 = 1 << 20;
/// A part: what is sent again, at the most, after a cut.
const PART: u64 = 16 << 20;
const LONGEST_PART: u64 = 256 << 20;
/// How often an upload is begun from its first byte.
const MOST_BEGINNINGS: u32 = 10;

/// How a blob came to be where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    WasThere,
    Mounted,
    Sent,
}

pub(super) struct Upload<'a> {
    pub(super) to: &'a Remote,
    pub(super) mount_from: &'a [String],
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) path: PathBuf,
    pub(super) meter: Arc<Meter>,
}

/// An upload that the registry has begun.
struct Session {
    url: Url,
    part: u64,
    done: u64,
}

/// What came of one step of an upload.
enum Step {
    Went,
    Done,
    /// The connection was cut, or the registry asked for another time.
    Cut(Result<Response, RegistryError>),
    /// The registry does not know how far it is.
    Lost(Response),
}

impl Upload<'_> {
    pub(super) async fn run(&self) -> Result<Arrival, RegistryError> {
        if self.is_in(self.to).await? {
            return Ok(Arrival::WasThere);
        }
        let mut neighbour = None;
        for other in self.mount_from.iter().filter(|other| *other != self.to.repository()) {
            // A neighbour that may not be looked at has nothing to give.
            if self.is_in(&self.to.beside(other)).await.unwrap_or(false) {
                neighbour = Some(other.as_str());
                break;
            }
        }
        let mut attempts = Attempts::new();
        let mut in_parts = self.size > SMALL;
        for _ in 0..MOST_BEGINNINGS {
            let Some(session) = self.begin(neighbour.take()).await? else { return Ok(Arrival::Mounted) };
            match self.send(session, &mut in_parts, &mut attempts).await? {
                true => return Ok(Arrival::Sent),
                false if self.is_in(self.to).await? => return Ok(Arrival::Sent),
                false => {}
            }
        }
        Err(self.to.wrong(&self.action(), format!("the upload was lost {MOST_BEGINNINGS} times")))
    }

    async fn is_in(&self, place: &Remote) -> Result<bool, RegistryError> {
        let action = format!("say whether it has blob {} in `{}`", self.digest, place.repository());
        let url = place.url(&format!("blobs/{}", self.digest));
        let response = self.to.send(Request::new(Method::HEAD, url, &action)).await?;
        match response.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.to.refused(&action, response).await),
        }
    }

    /// Opens an upload. `None`: the registry took the blob from the neighbour.
    async fn begin(&self, neighbour: Option<&str>) -> Result<Option<Session>, RegistryError> {
        let mut url = self.to.url("blobs/uploads/");
        if let Some(neighbour) = neighbour {
            url.query_pairs_mut()
                .append_pair("mount", &self.digest.to_string())
                .append_pair("from", neighbour);
        }
        let action = self.action();
        let request = Request::new(Method::POST, url.clone(), &action).header(header::CONTENT_LENGTH, "0");
        let response = self.to.send(request).await?;
        match response.status() {
            StatusCode::CREATED if neighbour.is_some() => Ok(None),
            StatusCode::ACCEPTED => {
                let least = response.headers().get("oci-chunk-min-length");
                let least = least.and_then(|least| least.to_str().ok()?.parse().ok()).unwrap_or(0);
                let part = PART.max(least).min(LONGEST_PART);
                Ok(Some(Session { url: self.to.led(&url, &response, &action)?, part, done: 0 }))
            }
            _ => Err(self.to.refused(&action, response).await),
        }
    }

    /// Sends everything in one upload. `false`: it was lost, and has to begin again.
    async fn send(
        &self,
        mut session: Session,
        in_parts: &mut bool,
        attempts: &mut Attempts,
    ) -> Result<bool, RegistryError> {
        loop {
            let before = session.done;
            let step = if *in_parts && session.done < self.size {
                self.part(&mut session).await?
            } else {
                self.complete(&session).await?
            };
            match step {
                Step::Done => return Ok(true),
                Step::Went => attempts.forget(),
                Step::Cut(cut) => {
                    let asked = cut.as_ref().ok().and_then(exchange::retry_after);
                    if !attempts.pause(asked).await {
                        return match cut {
                            Ok(response) => Err(self.to.refused(&self.action(), response).await),
                            Err(error) => Err(error),
                        };
                    }
                    if !*in_parts || !self.look(&mut session).await? {
                        return Ok(false);
                    }
                    if session.done > before {
                        attempts.forget();
                    }
                }
                Step::Lost(response)
                    if before == 0 && *in_parts && response.status() != StatusCode::NOT_FOUND =>
                {
                    // It takes blobs whole only.
                    *in_parts = false;
                    return Ok(false);
                }
                Step::Lost(response) => {
                    if !attempts.pause(None).await {
                        return Err(self.to.refused(&self.action(), response).await);
                    }
                    return Ok(false);
                }
            }
        }
    }

    async fn part(&self, session: &mut Session) -> Result<Step, RegistryError> {
        let length = session.part.min(self.size - session.done);
        let end = session.done + length;
        let action = self.action();
        let request = Request::new(Method::PATCH, session.url.clone(), &action)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_RANGE, &format!("{}-{}", session.done, end - 1))
            .part(self.bytes(session.done, length))
            .once();
        let sent = self.to.send(request).await;
        let response = match sent {
            Ok(response) if exchange::is_passing(response.status()) => return Ok(Step::Cut(Ok(response))),
            Err(error) if exchange::is_cut(&error) => return Ok(Step::Cut(Err(error))),
            other => other?,
        };
        match response.status() {
            StatusCode::ACCEPTED | StatusCode::CREATED | StatusCode::NO_CONTENT => {
                let reached = reached(&response).unwrap_or(end);
                if reached > end || reached < session.done {
                    return Err(self
                        .to
                        .wrong(&action, format!("it has {reached} bytes of {end} that were sent")));
                }
                if response.headers().contains_key(header::LOCATION) {
                    session.url = self.to.led(&session.url, &response, &action)?;
                }
                if reached == session.done {
                    // Nothing was taken: that is no way forward.
                    return Ok(Step::Cut(Ok(response)));
                }
                session.done = reached;
                Ok(Step::Went)
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PAYLOAD_TOO_LARGE => {
                Err(self.to.refused(&action, response).await)
            }
            status if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED => {
                Ok(Step::Lost(response))
            }
            _ => Err(self.to.refused(&action, response).await),
        }
    }

    /// Says that all of it was sent, along with what was not yet.
    async fn complete(&self, session: &Session) -> Result<Step, RegistryError> {
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.digest.to_string());
        let action = self.action();
        let left = self.size - session.done;
        let request = Request::new(Method::PUT, url, &action)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .part(self.bytes(session.done, left))
            .once();
        let response = match self.to.send(request).await {
            Ok(response) if exchange::is_passing(response.status()) => return Ok(Step::Cut(Ok(response))),
            Err(error) if exchange::is_cut(&error) => return Ok(Step::Cut(Err(error))),
            other => other?,
        };
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::ACCEPTED => Ok(Step::Done),
            // The upload, and not the repository, which was there when it began.
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => Ok(Step::Lost(response)),
            _ => Err(self.to.refused(&action, response).await),
        }
    }

    /// Asks how far the upload is. `false`: it is not known any more.
    async fn look(&self, session: &mut Session) -> Result<bool, RegistryError> {
        let action = format!("say how far the upload of blob {} is", self.digest);
        let response = self.to.send(Request::new(Method::GET, session.url.clone(), &action)).await?;
        if !response.status().is_success() {
            return Ok(false);
        }
        let Some(reached) = reached(&response).filter(|reached| *reached <= self.size) else {
            return Ok(false);
        };
        if response.headers().contains_key(header::LOCATION) {
            session.url = self.to.led(&session.url, &response, &action)?;
        }
        session.done = reached;
        Ok(true)
    }

    fn bytes(&self, from: u64, length: u64) -> Part<'_> {
        Part { path: self.path.clone(), from, length, meter: &self.meter }
    }

    fn action(&self) -> String {
        format!("take blob {} into `{}`", self.digest, self.to.repository())
    }
}

/// How many bytes the registry has, as it says in `Range`. `0-0` is what registries say of none.
fn reached(response: &Response) -> Option<u64> {
    let range = response.headers().get(header::RANGE)?.to_str().ok()?;
    let end: u64 = range.trim_start_matches("bytes=").split_once('-')?.1.trim().parse().ok()?;
    if end == 0 { Some(0) } else { end.checked_add(1) }
}
