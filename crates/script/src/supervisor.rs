//! One worker's place in the pool: starts a process, reads its answers, buries it, starts the next.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use moorline_core::{Backoff, ScriptError, ScriptInfo};
use tokio::{io::AsyncReadExt, net::unix::OwnedReadHalf, sync::oneshot, time::timeout};

use crate::{
    error::StartError,
    frame::{Message, decode},
    link::Link,
    pool::Shared,
    process::{Running, describe},
};

/// How long a worker that was hung up on may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(5);

/// After so many failures in a row, the next start is too late for requests to wait for it.
const HOPEFUL_FAILURES: u32 = 3;

/// Where a worker's first start is reported to.
type First = oneshot::Sender<Result<ScriptInfo, StartError>>;

/// Keeps place `index` filled until the pool closes. The first start's outcome goes to `first`; if it fails, the
/// place stays empty.
pub(crate) async fn supervise(shared: Arc<Shared>, index: usize, first: First) {
    let mut first = Some(first);
    let mut backoff = Backoff::default();
    let mut closing = shared.closing();
    loop {
        let started = tokio::select! {
            started = shared.start_worker(index) => started,
            _ = closing.wait_for(|closing| *closing) => Err(StartError::ShuttingDown),
        };
        let worked = match started {
            Ok(running) => {
                let hopeful = backoff.ends() < HOPEFUL_FAILURES;
                let end = run(&shared, index, running, hopeful, first.take()).await;
                if *closing.borrow() {
                    return;
                }
                tracing::warn!(worker = index, reason = %end.reason, "a worker of the scoring script ended");
                end.worked
            }
            Err(error) => {
                if let Some(first) = first.take() {
                    if first.send(Err(error)).is_err() {
                        tracing::debug!(worker = index, "nobody waits for the outcome of this start");
                    }
                    return;
                }
                if *closing.borrow() {
                    return;
                }
                tracing::error!(worker = index, %error, "a worker of the scoring script could not be started again");
                shared.not_started(index, backoff.ends() < HOPEFUL_FAILURES, error.summary());
                false
            }
        };
        let pause = if worked {
            // One that had worked before it died starts again at once.
            backoff.forget();
            Duration::ZERO
        } else {
            backoff.next_pause()
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        shared.count_restart();
    }
}

struct End {
    reason: String,
    worked: bool,
}

/// Runs a ready worker until it ends in whatever way, and settles what it leaves behind. `hopeful` says that its
/// successor is worth waiting for even if it answered nothing. `ready` is told once requests can be sent to it.
async fn run(
    shared: &Arc<Shared>,
    index: usize,
    running: Running,
    hopeful: bool,
    ready: Option<First>,
) -> End {
    let Running { mut child, pid, mut reader, mut buffer, writer, page, lifeline, info } = running;
    let (link, writer) = Link::new(writer, page, pid, lifeline);
    let writer = tokio::spawn(writer);
    shared.joined(index, link);
    if let Some(ready) = ready
        && ready.send(Ok(info)).is_err()
    {
        // The start was given up for another worker's failure; with it this task is about to be.
        tracing::debug!(worker = index, "nobody waits for the outcome of this start");
    }
    let mut answers = 0_u64;
    let longest = shared.longest_frame();
    let mut closing = shared.closing();
    let mut garbage = None;
    let mut status = None;
    loop {
        loop {
            match decode(&mut buffer, longest) {
                Ok(Some(Message::Reply(sequence, reply))) => {
                    answers += 1;
                    shared.replied(index, sequence, reply);
                }
                Ok(Some(Message::Skipped(sequence))) => shared.skipped(index, sequence),
                Ok(Some(Message::Ready(_) | Message::Failed(_))) => {
                    garbage = Some("it broke the protocol: a greeting after the first".to_owned());
                    break;
                }
                Ok(None) => break,
                Err(error) => {
                    garbage = Some(error.to_string());
                    break;
                }
            }
        }
        if garbage.is_some() {
            break;
        }
        buffer.reserve(32 * 1024);
        tokio::select! {
            biased;
            read = reader.read_buf(&mut buffer) => match read {
                Ok(read) if read > 0 => {}
                _ => break,
            },
            // A process that it forked may hold the socket open, so its end is watched for as well. What it said
            // before is read first.
            ended = child.wait(), if status.is_none() => {
                status = Some(ended);
                read_what_is_left(&reader, &mut buffer);
                while let Ok(Some(Message::Reply(sequence, reply))) = decode(&mut buffer, longest) {
                    answers += 1;
                    shared.replied(index, sequence, reply);
                }
                break;
            }
            _ = closing.wait_for(|closing| *closing) => {
                shared.hang_up(index);
                break;
            }
        }
    }
    if status.is_none() && garbage.is_none() {
        // Either it is on its way out or it closed its socket and lives on, which is the same to us.
        let patience = if *closing.borrow() { FAREWELL } else { Duration::from_millis(200) };
        if let Ok(ended) = timeout(patience, child.wait()).await {
            status = Some(ended);
        }
    }
    shared.kill(index, status.is_some());
    let status = match status {
        Some(status) => status,
        None => child.wait().await,
    };
    writer.abort();
    let reason = garbage.unwrap_or_else(|| describe(status));
    let lost = shared.died(index, answers > 0 || hopeful, &reason);
    for job in lost {
        job.fail(ScriptError::WorkerDied { reason: reason.clone() });
    }
    End { reason, worked: answers > 0 }
}

/// Takes what is in the socket already. Asks the kernel and not the runtime, which may not have heard of it yet.
fn read_what_is_left(reader: &OwnedReadHalf, buffer: &mut BytesMut) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read) = rustix::io::read(reader.as_ref(), &mut piece[..])
        && read > 0
    {
        buffer.extend_from_slice(&piece[..read]);
    }
}

/// Interrupts and kills workers whose requests are beyond their time, and sends batches that waited long enough.
pub(crate) async fn keep_time(shared: Arc<Shared>) {
    const TICK: Duration = Duration::from_millis(20);
    let mut closing = shared.closing();
    loop {
        let now = Instant::now();
        let next = shared.tick(now).map_or(now + TICK, |batch| batch.min(now + TICK));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = shared.batch_began() => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
    }
}
