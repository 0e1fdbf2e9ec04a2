//! Files to the server's blob store: hashed, then sent if the server does not have them yet, in pieces, going on where
//! an earlier attempt ended.

use std::{
    collections::BTreeMap,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use indicatif::ProgressBar;
use moorline_core::{Digest, FileEntry};
use reqwest::{Method, StatusCode, header::HeaderMap};

use crate::{
    client::{self, Client},
    files::Source,
    screen::Screen,
};

/// Files that are read or sent at one time.
const PARALLEL: usize = 4;
/// One piece: what is sent again at most after a broken connection.
const PIECE: u64 = 8 << 20;
/// For one piece.
const PATIENCE: Duration = Duration::from_mins(5);
/// Waits between attempts that bring no progress.
const AGAIN: [Duration; 6] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// Of them, those after an answer.
const ANSWERED_AGAIN: usize = 3;
/// Where less is sent, nobody needs to be told where nobody looks.
const WORTH_A_LINE: u64 = 64 << 20;
const OFFSET: &str = "upload-offset";

/// Makes sure that the server has all of `sources`, and returns their entries in the same order.
pub(crate) async fn store(
    client: &Client,
    screen: &Screen,
    label: &str,
    sources: Vec<Source>,
) -> anyhow::Result<Vec<FileEntry>> {
    let hashing = screen.wheel(&format!("reading {label}"));
    let entries: Vec<(PathBuf, FileEntry)> = stream::iter(sources)
        .map(|source| async move { tokio::task::spawn_blocking(move || entry(source)).await? })
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    hashing.finish_and_clear();

    // A file that is there twice is sent once.
    let distinct: BTreeMap<Digest, (&Path, u64)> =
        entries.iter().map(|(from, entry)| (entry.sha256, (from.as_path(), entry.size))).collect();
    let missing: Vec<Blob<'_>> = stream::iter(distinct)
        .map(|(digest, (from, size))| async move {
            Ok::<_, anyhow::Error>(offset(client, digest).await?.map(|begun| Blob {
                digest,
                from,
                size,
                begun,
            }))
        })
        .buffer_unordered(PARALLEL)
        .try_filter_map(|blob| async move { Ok(blob) })
        .try_collect()
        .await?;
    let total: u64 = missing.iter().map(|blob| blob.size).sum();
    if !missing.is_empty() {
        if total >= WORTH_A_LINE && !screen.interactive() {
            screen.note(format_args!("uploading {label}: {} MiB", total >> 20));
        }
        let bar = screen.bytes_bar(&format!("uploading {label}"), total);
        bar.inc(missing.iter().map(|blob| blob.begun.min(blob.size)).sum());
        stream::iter(missing)
            .map(|blob| send(client, blob, &bar))
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
        bar.finish_and_clear();
    }
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

/// A file that the server does not have, or not all of.
#[derive(Debug)]
struct Blob<'a> {
    digest: Digest,
    from: &'a Path,
    size: u64,
    /// The bytes that it has already.
    begun: u64,
}

fn entry(source: Source) -> anyhow::Result<(PathBuf, FileEntry)> {
    let file = fs_err::File::open(&source.from)?;
    let (sha256, size) =
        Digest::of_reader(file).with_context(|| format!("could not read `{}`", source.from.display()))?;
    Ok((source.from, FileEntry { path: source.path, size, sha256 }))
}

/// How much of a blob the server has; `None` if all of it.
async fn offset(client: &Client, digest: Digest) -> anyhow::Result<Option<u64>> {
    let url = client.at(&["blobs", &digest.to_string()]);
    let mut waits = AGAIN.iter().take(ANSWERED_AGAIN);
    let response = loop {
        match client.send_raw(client.request(Method::HEAD, url.clone()).timeout(PATIENCE)).await {
            Ok(response) => break response,
            Err(error) => match waits.next() {
                Some(wait) => tokio::time::sleep(*wait).await,
                None => return Err(error),
            },
        }
    };
    match response.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => Ok(None),
        // An answer without an offset is about the workspace, or from something else than our server.
        StatusCode::NOT_FOUND => match offset_of(response.headers()) {
            Some(offset) => Ok(Some(offset)),
            None => bail!(
                "could not look for `{digest}` on the server; is there a workspace `{}`?",
                client.workspace()
            ),
        },
        _ => Err(client::refusal(response).await),
    }
}

fn offset_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(OFFSET)?.to_str().ok()?.parse().ok()
}

/// Sends what is missing of one blob. Attempts that bring nothing forward are counted; any progress begins anew.
async fn send(client: &Client, blob: Blob<'_>, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut offset = blob.begun;
    // Progress is what goes beyond this: a server that gave up what it had, for want of space, may take it in again.
    let mut furthest = offset;
    let mut waits = AGAIN.iter();
    loop {
        match piece(client, &blob, offset).await {
            Ok(Progress::Done) => {
                bar.inc(blob.size.saturating_sub(offset));
                return Ok(());
            }
            Ok(Progress::Now(now)) => {
                if now > offset {
                    if now > furthest {
                        waits = AGAIN.iter();
                        furthest = now;
                    }
                    bar.inc(now - offset);
                } else {
                    bar.set_position(bar.position().saturating_sub(offset - now));
                    let Some(wait) = waits.next() else {
                        bail!("the server does not take `{}` in", blob.from.display())
                    };
                    tokio::time::sleep(*wait).await;
                }
                offset = now;
            }
            Err(error) if may_pass(&error) => {
                // A server that answers is asked less often than one that cannot be reached: its disk may be full.
                let answered = client::status_of(&error).is_some();
                let spent = AGAIN.len() - waits.len();
                let Some(wait) = waits.next().filter(|_| !answered || spent < ANSWERED_AGAIN) else {
                    return Err(error.context(format!("could not upload `{}`", blob.from.display())));
                };
                tracing::info!(%error, file = %blob.from.display(), offset, "an upload broke off, trying again");
                tokio::time::sleep(*wait).await;
                // The server knows best how much has arrived; if it cannot say, the next piece will.
                match self::offset(client, blob.digest).await {
                    Ok(None) => return Ok(()),
                    Ok(Some(now)) => offset = now,
                    Err(error) => tracing::debug!(%error, "could not ask how much has arrived"),
                }
            }
            Err(error) => return Err(error.context(format!("could not upload `{}`", blob.from.display()))),
        }
    }
}

enum Progress {
    Done,
    /// The server has this much now.
    Now(u64),
}

async fn piece(client: &Client, blob: &Blob<'_>, offset: u64) -> anyhow::Result<Progress> {
    let length = PIECE.min(blob.size.saturating_sub(offset));
    let from = blob.from.to_owned();
    let bytes = tokio::task::spawn_blocking(move || read(&from, offset, length)).await??;
    if (bytes.len() as u64) < length {
        bail!("`{}` became shorter while it was sent", blob.from.display());
    }
    let mut url = client.at(&["blobs", &blob.digest.to_string()]);
    url.query_pairs_mut().append_pair("size", &blob.size.to_string());
    let sent = bytes.len() as u64;
    let request = client.request(Method::PATCH, url).timeout(PATIENCE).header(OFFSET, offset).body(bytes);
    let response = client.send_raw(request).await?;
    match response.status() {
        StatusCode::CREATED | StatusCode::OK => Ok(Progress::Done),
        StatusCode::NO_CONTENT => Ok(Progress::Now(offset_of(response.headers()).unwrap_or(offset + sent))),
        StatusCode::CONFLICT => match offset_of(response.headers()) {
            Some(right) if right != offset => Ok(Progress::Now(right)),
            _ => Err(client::refusal(response).await),
        },
        _ => Err(client::refusal(response).await),
    }
}

fn read(path: &Path, offset: u64, length: u64) -> anyhow::Result<Bytes> {
    let mut file = fs_err::File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::with_capacity(usize::try_from(length)?);
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}

/// Whether trying again can help: the connection broke, or the server is busy.
fn may_pass(error: &anyhow::Error) -> bool {
    match client::status_of(error) {
        Some(status) => matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        ),
        None => error.chain().any(<dyn std::error::Error>::is::<reqwest::Error>),
    }
}

#[cfg(test)]
#[path = "upload_tests.rs"]
mod tests;
