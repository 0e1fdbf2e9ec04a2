//! One blob on its way into a layout: gone on with after a cut, and kept only if it is what was announced.

use std::io::Write as _;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use moorline_core::Digest;
use reqwest::Response;
use tokio::sync::mpsc;

use super::{
    RegistryError, exchange,
    meter::Meter,
    remote::{Remote, Request},
};
use crate::{
    Direction, Progress,
    image::{Layout, LayoutError},
};

/// Pieces that came before they are written.
const PIECES_AHEAD: usize = 32;
/// Of one blob, each after something came.
const MOST_CUTS: u32 = 100;

/// A blob that comes from one source.
struct Download<'a> {
    from: &'a Remote,
    digest: &'a Digest,
    size: u64,
    action: String,
    done: u64,
    meter: Meter,
}

/// Brings a blob into the layout, or leaves nothing.
pub(super) async fn download(
    from: &Remote,
    digest: &Digest,
    size: u64,
    into: &Layout,
    progress: &Progress,
) -> Result<(), RegistryError> {
    let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES_AHEAD);
    let layout = into.clone();
    let write = move || {
        let mut writer = layout.writer()?;
        let broken = |source| LayoutError::Io { path: layout.dir().to_owned(), source };
        while let Some(piece) = arriving.blocking_recv() {
            writer.write_all(&piece).map_err(broken)?;
        }
        Ok::<_, LayoutError>(writer)
    };
    let writing = tokio::task::spawn_blocking(write);
    let meter = Meter::new(progress, Direction::Pull, digest, size);
    let mut download = Download { from, digest, size, action: format!("give blob {digest}"), done: 0, meter };
    let came = download.run(&pieces).await;
    drop(pieces);
    // Without room on the disk nobody took the pieces: that is the cause, and comes first.
    let writer = writing.await??;
    came?;
    let (expected, host) = (*digest, from.endpoint.name.clone());
    let finished = tokio::task::spawn_blocking(move || writer.finish_as(&expected, Some(size))).await?;
    finished.map_err(|error| match error {
        LayoutError::Corrupt { expected, actual } => {
            RegistryError::Corrupt { host, what: "blob", expected, actual }
        }
        LayoutError::Size { digest: blob, expected, actual } => {
            RegistryError::Length { host, blob, expected, actual }
        }
        other => other.into(),
    })?;
    download.meter.finish();
    Ok(())
}

impl Download<'_> {
    async fn run(&mut self, pieces: &mpsc::Sender<Bytes>) -> Result<(), RegistryError> {
        let mut attempts = self.from.attempts();
        let mut cuts = 0;
        while self.done < self.size {
            let before = self.done;
            let response = self.ask().await?;
            let Err(error) = self.receive(response, pieces).await else { return Ok(()) };
            if !exchange::is_cut(&error) {
                return Err(error);
            }
            if self.done > before {
                attempts.forget();
                cuts += 1;
            }
            if cuts > MOST_CUTS || !attempts.pause(None).await {
                return Err(error);
            }
        }
        Ok(())
    }

    async fn ask(&self) -> Result<Response, RegistryError> {
        let mut request =
            Request::new(Method::GET, self.from.url(&format!("blobs/{}", self.digest)), &self.action);
        if self.done > 0 {
            request = request.header(header::RANGE, &format!("bytes={}-", self.done));
        }
        let response = self.from.send(request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound {
                host: self.from.endpoint.name.clone(),
                what: format!("blob {} in `{}`", self.digest, self.from.repository()),
            }),
            _ => Err(self.from.refused(&self.action, response).await),
        }
    }

    async fn receive(
        &mut self,
        response: Response,
        pieces: &mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let begin = match response.status() {
            StatusCode::PARTIAL_CONTENT => self.begin(&response)?,
            // It knows no ranges: what is there already comes once more.
            _ => 0,
        };
        if let Some(length) = response.content_length()
            && begin.checked_add(length) != Some(self.size)
        {
            return Err(self.length(begin.saturating_add(length)));
        }
        let mut known = self.done - begin;
        let mut stream = Box::pin(response.bytes_stream());
        while let Some(mut piece) = exchange::chunk(&self.from.endpoint, &self.action, &mut stream).await? {
            let skipped = known.min(piece.len() as u64);
            known -= skipped;
            let piece = piece.split_off(skipped as usize);
            if self.done + piece.len() as u64 > self.size {
                return Err(self.length(self.done + piece.len() as u64));
            }
            self.done += piece.len() as u64;
            self.meter.passed(piece.len(), self.done);
            if pieces.send(piece).await.is_err() {
                // The writer says why.
                return Ok(());
            }
        }
        if self.done < self.size {
            return Err(self.length(self.done));
        }
        Ok(())
    }

    /// Where the answer begins in the blob: not beyond what is there.
    fn begin(&self, response: &Response) -> Result<u64, RegistryError> {
        let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let begin = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
        begin.filter(|begin| *begin <= self.done).ok_or_else(|| {
            self.from
                .wrong(&self.action, format!("it sent another part than the one from byte {}", self.done))
        })
    }

    fn length(&self, actual: u64) -> RegistryError {
        RegistryError::Length {
            host: self.from.endpoint.name.clone(),
            blob: *self.digest,
            expected: self.size,
            actual,
        }
    }
}
