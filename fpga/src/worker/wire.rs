//! What passes between a worker and its parent: a message as JSON and the bytes that belong to it, behind the lengths
//! of both. Each end believes the other's lengths only within bounds, and memory grows with what came, not with what
//! was announced.

use std::{
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::{pread, pwrite, retry_on_intr},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use crate::{
    bitstream::Kernel,
    device::{Device, DeviceId},
    program::Program,
    runtime::{Profile, RuntimeError},
};

/// Programs of the largest models take a few.
const LONGEST_MESSAGE: u64 = 64 << 20;
/// Constants of the largest models that devices have memory for.
pub(super) const MOST_BYTES: u64 = 8 << 30;

/// What a worker is told. The bytes that go with it are named in each case.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Discover {
        told_to_emulate: bool,
    },
    /// With the source text.
    Build {
        device: DeviceId,
        told_to_emulate: bool,
    },
    /// With the image.
    Open {
        device: DeviceId,
        told_to_emulate: bool,
        from_source: bool,
        kernels: Vec<Kernel>,
    },
    /// With the constants.
    Load {
        program: Program,
    },
    Unload {
        id: u32,
    },
    /// The inputs are in the shared memory, and the outputs are wanted behind them.
    Run {
        id: u32,
        /// Which of the sets of buffers, and of the places in the shared memory.
        set: usize,
        profile: bool,
        launch_limit: Duration,
    },
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    Devices(Vec<Device>),
    /// With the binary.
    Built {
        device: Device,
        kernels: Vec<Kernel>,
    },
    Opened(Device),
    Loaded {
        id: u32,
    },
    Unloaded,
    Ran {
        /// From the start of its first launch to the end of the last one, in nanoseconds of the device's clock.
        busy: (u64, u64),
        profile: Option<Profile>,
    },
    Refused(RuntimeError),
    /// A launch, by its place in the program, is not over within its limit. Nothing else follows.
    Hung {
        launch: usize,
    },
}

/// Why nothing was sent or received.
#[derive(Debug, Error)]
pub(super) enum WireError {
    #[error("the other end is gone")]
    Closed,
    #[error("it is too late")]
    Late,
    #[error("{0}")]
    Garbage(String),
    #[error("the socket failed")]
    Socket(#[source] io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::Late,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            _ => Self::Socket(error),
        }
    }
}

/// Memory that a worker and its parent have in common, for what goes into the device and comes out of it: written and
/// read like a file, which no `unsafe` is needed for, and which costs one copy and no turn of the other end.
#[derive(Debug)]
pub(super) struct Shared(OwnedFd);

impl Shared {
    /// Sets lie this far apart. What nobody writes takes no memory.
    const SET: u64 = 1 << 40;

    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(memfd_create("moorline-fpga", MemfdFlags::CLOEXEC)?))
    }

    /// Puts bytes into a set, `at` bytes behind its beginning.
    pub(super) fn write(&self, set: usize, mut at: u64, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = retry_on_intr(|| pwrite(&self.0, bytes, set as u64 * Self::SET + at))?;
            at += written as u64;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    pub(super) fn read(&self, set: usize, mut at: u64, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let read = retry_on_intr(|| pread(&self.0, &mut *bytes, set as u64 * Self::SET + at))?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            at += read as u64;
            bytes = &mut bytes[read..];
        }
        Ok(())
    }
}

/// One end of the socket.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// No call waits beyond it.
    deadline: Option<Instant>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, deadline: None }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Hands over the shared memory and, where there is one, the lease; the first thing that is sent.
    pub(super) fn hand_over(&self, shared: &Shared, lease: Option<BorrowedFd<'_>>) -> Result<(), WireError> {
        let descriptors: Vec<BorrowedFd<'_>> = [shared.0.as_fd()].into_iter().chain(lease).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let sent = sendmsg(&self.stream, &[IoSlice::new(b"m")], &mut ancillary, SendFlags::NOSIGNAL);
        sent.map_err(io::Error::from)?;
        Ok(())
    }

    /// The other end of [`Channel::hand_over`].
    pub(super) fn take_over(&self) -> Result<(Shared, Option<OwnedFd>), WireError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let slices = &mut [io::IoSliceMut::new(&mut byte)];
        let got = recvmsg(&self.stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC);
        if got.map_err(io::Error::from)?.bytes == 0 {
            return Err(WireError::Closed);
        }
        let mut descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let shared =
            descriptors.next().ok_or_else(|| WireError::Garbage("no shared memory came".to_owned()))?;
        Ok((Shared(shared), descriptors.next()))
    }

    pub(super) fn send(&mut self, message: &impl Serialize, bytes: &[u8]) -> Result<(), WireError> {
        let json = serde_json::to_vec(message).map_err(|error| WireError::Garbage(error.to_string()))?;
        let mut head = (json.len() as u64).to_le_bytes().to_vec();
        head.extend((bytes.len() as u64).to_le_bytes());
        head.extend(json);
        self.write(&head)?;
        self.write(bytes)
    }

    /// The next message and its bytes, of which there may be `most`.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, most: u64) -> Result<(T, Vec<u8>), WireError> {
        let mut lengths = [0; 16];
        self.read_exact(&mut lengths)?;
        let (json, bytes) = lengths.split_at(8);
        let length = |part: &[u8]| part.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let (json, bytes) = (length(json), length(bytes));
        if json > LONGEST_MESSAGE || bytes > most {
            return Err(WireError::Garbage(format!(
                "a message of {json} bytes with {bytes} bytes, of which {most} are taken"
            )));
        }
        let json = self.read_vec(json)?;
        let message = serde_json::from_slice(&json).map_err(|error| WireError::Garbage(error.to_string()))?;
        Ok((message, self.read_vec(bytes)?))
    }

    fn remaining(&self) -> Result<Option<Duration>, WireError> {
        let Some(deadline) = self.deadline else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(WireError::Late) } else { Ok(Some(left)) }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(self.remaining()?)?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(WireError::Closed),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_exact(&mut self, mut bytes: &mut [u8]) -> Result<(), WireError> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(self.remaining()?)?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(WireError::Closed),
                Ok(read) => bytes = &mut bytes[read..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn read_vec(&mut self, length: u64) -> Result<Vec<u8>, WireError> {
        const PIECE: usize = 16 << 20;
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < length {
            let from = bytes.len();
            bytes.resize(from + PIECE.min((length - from as u64) as usize), 0);
            self.read_exact(&mut bytes[from..])?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (Channel::new(one), Channel::new(other))
    }

    #[test]
    fn a_message_comes_with_its_bytes() {
        let (mut one, mut other) = pair();
        let launch_limit = Duration::from_millis(1500);
        one.send(&Request::Run { id: 7, set: 1, profile: true, launch_limit }, b"inputs").unwrap();
        let (request, bytes) = other.receive::<Request>(6).unwrap();
        assert!(matches!(
            request,
            Request::Run { id: 7, set: 1, profile: true, launch_limit: limit } if limit == launch_limit
        ));
        assert_eq!(bytes, b"inputs");
        one.send(&Reply::Unloaded, b"").unwrap();
        assert!(matches!(other.receive(0).unwrap(), (Reply::Unloaded, _)));
    }

    #[test]
    fn a_length_that_lies_costs_no_memory() {
        let (mut one, mut other) = pair();
        one.send(&Reply::Unloaded, b"1234567").unwrap();
        assert!(matches!(other.receive::<Reply>(6), Err(WireError::Garbage(_))));
        let (mut one, mut other) = pair();
        one.write(&[255; 16]).unwrap();
        assert!(matches!(other.receive::<Reply>(u64::MAX), Err(WireError::Garbage(_))));
        let (mut one, mut other) = pair();
        one.write(&[&2_u64.to_le_bytes()[..], &(8_u64 << 30).to_le_bytes(), b"{}"].concat()).unwrap();
        drop(one);
        assert!(other.receive::<Reply>(MOST_BYTES).is_err());
    }

    #[test]
    fn garbage_silence_and_an_end_are_told_apart() {
        let (mut one, mut other) = pair();
        one.write(&[&4_u64.to_le_bytes()[..], &0_u64.to_le_bytes(), b"junk"].concat()).unwrap();
        assert!(matches!(other.receive::<Reply>(0), Err(WireError::Garbage(_))));
        other.set_deadline(Some(Instant::now()));
        assert!(matches!(other.receive::<Reply>(0), Err(WireError::Late)));
        other.set_deadline(None);
        drop(one);
        assert!(matches!(other.receive::<Reply>(0), Err(WireError::Closed)));
        assert!(matches!(other.send(&Reply::Unloaded, &vec![0; 1 << 20]), Err(WireError::Closed)));
    }

    #[test]
    fn shared_memory_and_a_lease_go_over() {
        let (one, other) = pair();
        let shared = Shared::new().unwrap();
        one.hand_over(&shared, None).unwrap();
        let (theirs, lease) = other.take_over().unwrap();
        assert!(lease.is_none());
        for set in [1, 0] {
            shared.write(set, 5, &[set as u8 + 1; 9]).unwrap();
        }
        let mut bytes = [9; 10];
        for set in [0, 1] {
            theirs.read(set, 4, &mut bytes).unwrap();
            assert_eq!(bytes, [&[0][..], &[set as u8 + 1; 9]].concat()[..]);
        }
        assert!(theirs.read(1, 5, &mut bytes).is_err(), "it ends where nobody wrote");

        let (reader, writer) = io::pipe().unwrap();
        one.hand_over(&shared, Some(writer.as_fd())).unwrap();
        let (_, theirs) = other.take_over().unwrap();
        drop(writer);
        std::fs::File::from(theirs.unwrap()).write_all(b"x").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "x");
    }
}
