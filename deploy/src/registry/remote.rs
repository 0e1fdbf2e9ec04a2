//! One repository of one registry: requests for it, with what lets them in, led on where the registry leads.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::{Response, Url};
use tokio::sync::mpsc;

use super::{
    Reference, RegistryError,
    auth::{Grant, Grants},
    challenge::Challenge,
    endpoint::{Endpoint, Endpoints},
    exchange::{self, Attempts},
    meter::Meter,
};

const MOST_REDIRECTS: usize = 5;
/// One piece of a file on its way.
const PIECE: usize = 128 * 1024;
/// Pieces that are read before they can be sent.
const PIECES_AHEAD: usize = 4;

/// What all clones of [`Registries`](super::Registries) share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) endpoints: Endpoints,
    pub(super) grants: Grants,
}

/// A repository where it can be asked.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    shared: Arc<Shared>,
    pub(super) endpoint: Endpoint,
    repository: String,
    /// What else than this repository is read for it, in the words of token servers.
    also: String,
    pushes: bool,
    is_last: bool,
}

/// A request, which can be sent more than once.
#[derive(Debug)]
pub(super) struct Request<'a> {
    method: Method,
    url: Url,
    /// What is asked for, as in "refused to …".
    action: &'a str,
    headers: HeaderMap,
    body: Body<'a>,
    again: bool,
}

#[derive(Debug)]
enum Body<'a> {
    None,
    Bytes(Bytes),
    File(Part<'a>),
}

/// A part of a file.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    pub(super) path: PathBuf,
    pub(super) from: u64,
    pub(super) length: u64,
    pub(super) meter: &'a Arc<Meter>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, url: Url, action: &'a str) -> Self {
        Self { method, url, action, headers: HeaderMap::new(), body: Body::None, again: true }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // What this client says itself has no control characters in it, and media types that were read are checked.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn bytes(mut self, bytes: Bytes) -> Self {
        self.body = Body::Bytes(bytes);
        self
    }

    pub(super) fn part(mut self, part: Part<'a>) -> Self {
        self.body = Body::File(part);
        self
    }

    /// The caller knows better what to do after a failure.
    pub(super) fn once(mut self) -> Self {
        self.again = false;
        self
    }
}

impl Remote {
    /// Where the repository is read from: the mirror, if there is one, and the registry itself.
    pub(super) fn sources(shared: &Arc<Shared>, reference: &Reference) -> Result<Vec<Self>, RegistryError> {
        let own = Self::new(shared, shared.endpoints.of(reference.registry())?, reference.repository());
        let mirror = shared.endpoints.mirror_of(reference.registry())?;
        let mirror = mirror
            .map(|endpoint| Self { is_last: false, ..Self::new(shared, endpoint, reference.repository()) });
        Ok(mirror.into_iter().chain([own]).collect())
    }

    /// Where the repository is written to, with blobs of the repositories `from`.
    pub(super) fn destination(
        shared: &Arc<Shared>,
        reference: &Reference,
        from: &[String],
    ) -> Result<Self, RegistryError> {
        let endpoint = shared.endpoints.of(reference.registry())?;
        let also =
            from.iter().map(|other| ["repository:", other, ":pull"].concat()).collect::<Vec<_>>().join(" ");
        Ok(Self { pushes: true, also, ..Self::new(shared, endpoint, reference.repository()) })
    }

    fn new(shared: &Arc<Shared>, endpoint: Endpoint, repository: &str) -> Self {
        let repository = format!("{}{repository}", endpoint.prefix);
        Self {
            shared: Arc::clone(shared),
            endpoint,
            repository,
            also: String::new(),
            pushes: false,
            is_last: true,
        }
    }

    /// The same access to another repository of the registry.
    pub(super) fn beside(&self, repository: &str) -> Self {
        Self { repository: repository.to_owned(), ..self.clone() }
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// Whether somebody else is asked after it.
    pub(super) fn is_mirror(&self) -> bool {
        !self.is_last
    }

    pub(super) fn attempts(&self) -> Attempts {
        if self.is_last { Attempts::new() } else { Attempts::few() }
    }

    /// An address of the repository. What is put into it are digests, tags and words of the protocol.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("/v2/{}/{path}", self.repository));
        url
    }

    /// An address that the registry gave.
    pub(super) fn led(&self, from: &Url, response: &Response, action: &str) -> Result<Url, RegistryError> {
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let url = location.and_then(|location| from.join(location).ok());
        let url = url.ok_or_else(|| self.wrong(action, "it leads to no address".to_owned()))?;
        if !self.endpoint.may_lead_to(&url) {
            let host = url.host_str().unwrap_or_default();
            return Err(self.wrong(action, format!("it leads to `{host}`, and not by https")));
        }
        Ok(url)
    }

    pub(super) fn wrong(&self, action: &str, why: String) -> RegistryError {
        RegistryError::Protocol { host: self.endpoint.name.clone(), action: action.to_owned(), why }
    }

    /// The error of an answer that is none of those that were expected.
    pub(super) async fn refused(&self, action: &str, response: Response) -> RegistryError {
        let grant = self.shared.grants.get(&self.endpoint, &self.scope()).await;
        let credentials = self.shared.grants.credentials(&self.shared.endpoints, &self.endpoint.name).await;
        let header = grant.as_ref().and_then(|grant| grant.header.to_str().ok());
        let header = header.and_then(|header| header.split_once(' ')).map(|(_, secret)| secret);
        let credentials = credentials.ok().flatten();
        let password = credentials.as_ref().map(|known| known.password.expose());
        let secrets: Vec<&str> =
            header.into_iter().chain(password).filter(|secret| !secret.is_empty()).collect();
        exchange::refused(&self.endpoint, action, response, &secrets).await
    }

    /// Sends a request until it is answered with something that would not change. The answer may be a refusal.
    pub(super) async fn send(&self, request: Request<'_>) -> Result<Response, RegistryError> {
        let scope = self.scope();
        let mut attempts = self.attempts();
        let mut challenged = false;
        loop {
            let grant = self.shared.grants.get(&self.endpoint, &scope).await;
            let sent = self.follow(&request, grant.as_ref()).await;
            let pause = match &sent {
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !challenged => {
                    challenged = true;
                    let Some(challenge) = Challenge::of(response.headers()) else { return sent };
                    let Shared { endpoints, grants } = &*self.shared;
                    let met = grants.renew(endpoints, &self.endpoint, (&scope, &challenge), grant.as_ref());
                    if met.await? {
                        continue;
                    }
                    return sent;
                }
                Ok(response) if request.again && exchange::is_passing(response.status()) => {
                    exchange::retry_after(response)
                }
                Err(error) if request.again && exchange::is_cut(error) => None,
                _ => return sent,
            };
            if !attempts.pause(pause).await {
                return sent;
            }
            // A token may have ended meanwhile.
            challenged = false;
        }
    }

    /// Goes where the registry leads, without credentials where that is another place.
    async fn follow(&self, request: &Request<'_>, grant: Option<&Grant>) -> Result<Response, RegistryError> {
        let mut url = request.url.clone();
        for _ in 0..=MOST_REDIRECTS {
            let mut headers = request.headers.clone();
            if let Some(grant) = grant.filter(|_| self.endpoint.is_origin_of(&url)) {
                headers.insert(header::AUTHORIZATION, grant.header.clone());
            }
            let builder = self.endpoint.client.request(request.method.clone(), url.clone()).headers(headers);
            let response = match &request.body {
                Body::None => exchange::within(&self.endpoint, request.action, builder.send()).await,
                Body::Bytes(bytes) => {
                    exchange::within(&self.endpoint, request.action, builder.body(bytes.clone()).send()).await
                }
                Body::File(part) => {
                    let builder = builder.header(header::CONTENT_LENGTH, part.length).body(part.stream());
                    exchange::moving(&self.endpoint, request.action, part.meter, builder.send()).await
                }
            }?;
            let reads = matches!(request.method, Method::GET | Method::HEAD);
            match response.status().as_u16() {
                301..=303 if reads => {}
                307 | 308 => {}
                _ => return Ok(response),
            }
            url = self.led(&url, &response, request.action)?;
        }
        Err(self.wrong(request.action, format!("it leads on more than {MOST_REDIRECTS} times")))
    }

    /// What is done here, in the words of token servers.
    fn scope(&self) -> String {
        let actions = if self.pushes { "pull,push" } else { "pull" };
        format!("repository:{}:{actions} {}", self.repository, self.also).trim_end().to_owned()
    }
}

impl Part<'_> {
    /// The part, read as fast as it is sent, by a thread that may wait for the disk.
    fn stream(&self) -> reqwest::Body {
        let (pieces, sent) = mpsc::channel(PIECES_AHEAD);
        let (path, from, length) = (self.path.clone(), self.from, self.length);
        // It ends when the part does, or when nobody takes its pieces any more.
        tokio::task::spawn_blocking(move || {
            if let Err(error) = read(&path, from, length, &pieces) {
                let _ = pieces.blocking_send(Err(error));
            }
        });
        let state = (sent, Arc::clone(self.meter), from);
        reqwest::Body::wrap_stream(stream::unfold(state, async |(mut sent, meter, mut done)| {
            let piece: Result<Bytes, std::io::Error> = sent.recv().await?;
            if let Ok(piece) = &piece {
                done += piece.len() as u64;
                meter.passed(piece.len(), done);
            }
            Some((piece, (sent, meter, done)))
        }))
    }
}

type Piece = Result<Bytes, std::io::Error>;

fn read(path: &std::path::Path, from: u64, length: u64, pieces: &mpsc::Sender<Piece>) -> std::io::Result<()> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = fs_err::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut left = length;
    while left > 0 {
        let mut piece = vec![0; (PIECE as u64).min(left) as usize];
        file.read_exact(&mut piece)?;
        left -= piece.len() as u64;
        if pieces.blocking_send(Ok(Bytes::from(piece))).is_err() {
            break;
        }
    }
    Ok(())
}
