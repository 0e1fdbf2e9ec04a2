//! What a worker is handed besides its socket: a page of memory that tells what it has started even after it died,
//! and the end of a pipe whose closing ends it.

use std::{
    fs::File,
    io::{self, PipeWriter},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
};

use rustix::{
    fs::{MemfdFlags, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
};

use crate::dispatch::Sequence;

/// Larger than any page size in use; only its first bytes matter.
const PAGE: u64 = 64 * 1024;
const STARTED: u64 = 0;
const INTERRUPT: u64 = 8;
const RECALLED: u64 = 16;
/// As many as a worker is supplied ahead with.
const RECALLS: usize = 2;

/// Shared with one worker process: what it started last (its mark), and what should be interrupted (ours).
#[derive(Debug)]
pub(crate) struct Page(File);

impl Page {
    fn new() -> io::Result<Self> {
        let fd = memfd_create("moorline-script", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, PAGE)?;
        Ok(Self(File::from(fd)))
    }

    /// The number of the group that the worker started last; zero for none.
    pub(crate) fn started(&self) -> Sequence {
        let mut bytes = [0; 8];
        // A page that cannot be read counts as one where nothing was noted, which loses nothing twice.
        self.0.read_exact_at(&mut bytes, STARTED).map_or(0, |()| u64::from_le_bytes(bytes))
    }

    /// Names the group that the next SIGALRM is meant for; any other is left alone by the worker.
    pub(crate) fn name_interrupted(&self, sequence: Sequence) -> io::Result<()> {
        self.0.write_all_at(&sequence.to_le_bytes(), INTERRUPT)
    }

    /// Names the groups that the worker must not start, in place of those that were named before.
    pub(crate) fn name_recalled(&self, sequences: &[Sequence]) -> io::Result<()> {
        let mut bytes = [0; 8 * RECALLS];
        for (place, sequence) in bytes.chunks_exact_mut(8).zip(sequences) {
            place.copy_from_slice(&sequence.to_le_bytes());
        }
        self.0.write_all_at(&bytes, RECALLED)
    }
}

/// Both ends of what is handed over.
#[derive(Debug)]
pub(crate) struct Handover {
    pub(crate) page: Page,
    /// The worker's whole process group is killed by the kernel when this closes, also with this process.
    pub(crate) lifeline: PipeWriter,
    theirs: OwnedFd,
}

impl Handover {
    pub(crate) fn new() -> io::Result<Self> {
        let (theirs, lifeline) = io::pipe()?;
        Ok(Self { page: Page::new()?, lifeline, theirs: theirs.into() })
    }

    /// Sends the settings, and with their first byte the two descriptors.
    pub(crate) fn send(self, socket: impl AsFd, settings: &[u8]) -> io::Result<(Page, PipeWriter)> {
        let mut message = (settings.len() as u32).to_le_bytes().to_vec();
        message.extend(settings);
        let fds = [self.theirs.as_fd(), self.page.0.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let sent = sendmsg(&socket, &[io::IoSlice::new(&message)], &mut ancillary, SendFlags::NOSIGNAL)?;
        if sent < message.len() {
            return Err(io::Error::new(io::ErrorKind::WriteZero, "the settings do not fit the socket"));
        }
        Ok((self.page, self.lifeline))
    }
}
