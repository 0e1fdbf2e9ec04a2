//! The sending side of a worker's socket. Whoever has a request writes it at once, in their own task; only what the
//! socket does not take is left to the link's own writer.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, PipeWriter},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::{Buf, Bytes};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{net::unix::OwnedWriteHalf, sync::Notify};

use crate::{
    dispatch::{Group, Sequence},
    frame::{Request, encode},
    handover::Page,
};

/// A living worker, as the dispatcher's side sees it.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<OwnedWriteHalf>,
    page: Page,
    pid: Pid,
    /// Closing it kills the worker's process group.
    lifeline: Option<PipeWriter>,
    outbox: Arc<Outbox>,
    scratch: Vec<u8>,
}

#[derive(Debug, Default)]
struct Outbox {
    rest: Mutex<VecDeque<Bytes>>,
    more: Notify,
}

impl Link {
    /// The link, and the future that writes what the socket did not take at once; it ends when the socket does.
    pub(crate) fn new(
        socket: OwnedWriteHalf,
        page: Page,
        pid: Pid,
        lifeline: PipeWriter,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let socket = Arc::new(socket);
        let outbox = Arc::new(Outbox::default());
        let writer = write_rest(Arc::clone(&socket), Arc::clone(&outbox));
        (Self { socket, page, pid, lifeline: Some(lifeline), outbox, scratch: Vec::new() }, writer)
    }

    /// Sends a group. A socket that fails is not reported here: its other direction ends then, and with it the worker.
    pub(crate) fn send<J: AsRef<Request>>(&mut self, group: &Group<J>) {
        self.scratch.clear();
        let bodies = encode(group, &mut self.scratch);
        let mut rest = self.outbox.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = !rest.is_empty();
        if group.batch || waits {
            let head = Bytes::copy_from_slice(&self.scratch);
            rest.extend(std::iter::once(head).chain(bodies.cloned()));
            if !waits {
                // What it refuses now, its writer sees again.
                drop(flush(&self.socket, &mut rest));
            }
        } else {
            let body = bodies.into_iter().next().cloned().unwrap_or_default();
            let slices = [IoSlice::new(&self.scratch), IoSlice::new(&body)];
            let sent = self.socket.try_write_vectored(&slices).unwrap_or(0);
            if sent < self.scratch.len() {
                rest.push_back(Bytes::copy_from_slice(&self.scratch[sent..]));
                rest.push_back(body);
            } else if sent < self.scratch.len() + body.len() {
                rest.push_back(body.slice(sent - self.scratch.len()..));
            }
        }
        if !rest.is_empty() {
            self.outbox.more.notify_one();
        }
    }

    /// What the worker started last.
    pub(crate) fn started(&self) -> Sequence {
        self.page.started()
    }

    /// Raises an exception in the script, if it is still busy with this group.
    pub(crate) fn interrupt(&self, sequence: Sequence) {
        if self.started() == sequence
            && self.page.name_interrupted(sequence).is_ok()
            && let Err(error) = kill_process(self.pid, Signal::ALARM)
        {
            tracing::debug!(%error, "could not interrupt a worker");
        }
    }

    /// Tells the worker what not to start. Where that fails it starts it, which is only slower.
    pub(crate) fn recall(&self, sequences: &[Sequence]) {
        if let Err(error) = self.page.name_recalled(sequences) {
            tracing::debug!(%error, "could not recall what a worker was sent ahead");
        }
    }

    /// Lets the kernel end whatever the worker left behind.
    pub(crate) fn release(&mut self) {
        self.lifeline = None;
    }

    /// Ends the worker and whatever it forked.
    pub(crate) fn kill(&mut self) {
        self.release();
        if let Err(error) = kill_process_group(self.pid, Signal::KILL) {
            tracing::debug!(%error, "could not kill a worker that should be gone");
        }
    }

    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// Says that no more requests will come; the worker ends when it has answered those that it has.
    pub(crate) fn hang_up(&self) {
        if let Err(error) = rustix::net::shutdown(self.socket.as_ref().as_ref(), rustix::net::Shutdown::Write)
        {
            tracing::debug!(%error, "could not hang up on a worker");
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The writer waits on this; it sees the closed socket then.
        self.outbox.more.notify_one();
    }
}

/// Writes what the socket takes. Fails when it will never take anything again.
fn flush(socket: &OwnedWriteHalf, rest: &mut VecDeque<Bytes>) -> io::Result<()> {
    while !rest.is_empty() {
        let slices: Vec<IoSlice<'_>> = rest.iter().take(64).map(|part| IoSlice::new(part)).collect();
        let mut sent = match socket.try_write_vectored(&slices) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        while let Some(first) = rest.front_mut().filter(|first| sent >= first.len()) {
            sent -= first.len();
            rest.pop_front();
        }
        if let Some(first) = rest.front_mut() {
            first.advance(sent);
        }
    }
    Ok(())
}

async fn write_rest(socket: Arc<OwnedWriteHalf>, outbox: Arc<Outbox>) {
    loop {
        outbox.more.notified().await;
        loop {
            if Arc::strong_count(&outbox) == 1 {
                return;
            }
            {
                let mut rest = outbox.rest.lock().unwrap_or_else(PoisonError::into_inner);
                if flush(&socket, &mut rest).is_err() {
                    return;
                }
                if rest.is_empty() {
                    break;
                }
            }
            if socket.writable().await.is_err() {
                return;
            }
        }
    }
}
