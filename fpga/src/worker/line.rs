//! Many threads on the socket of one worker. Questions are sent in an order, and answers come in the same: whoever has
//! asked waits for its turn and reads its own answer, without a thread in between. No more are on their way than the
//! device has sets of buffers, so that the next inputs are there when the last request is over, and nothing piles up.

use std::{
    io,
    os::{fd::BorrowedFd, unix::net::UnixStream},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use thiserror::Error;

use crate::{program::SETS, runtime::RuntimeError};

use super::{
    process::{End, Silence},
    wire::{Channel, Reply, Shared, WireError},
};

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    /// For the answer, from when it is this one's turn.
    pub(super) limit: Duration,
    /// Bytes of the answer that are taken.
    pub(super) most: u64,
    /// Whether nothing else may be on its way.
    pub(super) alone: bool,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum LineError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("launch {launch} is not over within its limit")]
    Hung { launch: usize },
}

impl From<io::Error> for LineError {
    fn from(error: io::Error) -> Self {
        Self::Wire(error.into())
    }
}

#[derive(Debug)]
pub(super) struct Line {
    sender: Mutex<Sender>,
    receiver: Mutex<Channel>,
    turns: Mutex<Turns>,
    moved: Condvar,
    shared: Shared,
}

#[derive(Debug)]
struct Sender {
    channel: Channel,
    sent: usize,
}

#[derive(Debug, Default)]
struct Turns {
    answered: usize,
    /// The sets whose memory is in use.
    busy: [bool; SETS],
    /// Why nothing is answered any more, for all but the one that learns it first.
    over: Option<Silence>,
}

impl Line {
    pub(super) fn new(stream: UnixStream, shared: Shared) -> io::Result<Self> {
        let receiver = Mutex::new(Channel::new(stream.try_clone()?));
        let sender = Mutex::new(Sender { channel: Channel::new(stream), sent: 0 });
        Ok(Self { sender, receiver, turns: Mutex::default(), moved: Condvar::new(), shared })
    }

    pub(super) fn hand_over(&self, lease: Option<BorrowedFd<'_>>) -> Result<(), WireError> {
        lock(&self.sender).channel.hand_over(&self.shared, lease)
    }

    /// Sends by `send`, which may use the set that it is given of the shared memory, and takes the answer by `take`,
    /// which may still. `silenced` is called once, by the first who finds that there are no more answers.
    pub(super) fn call<T>(
        &self,
        call: Call,
        send: impl FnOnce(&mut Channel, &Shared, usize) -> Result<(), WireError>,
        take: impl FnOnce(&Shared, usize, (Reply, Vec<u8>)) -> Result<T, WireError>,
        silenced: impl Fn(LineError) -> Silence,
    ) -> Result<Result<T, RuntimeError>, Silence> {
        let mut sender = lock(&self.sender);
        let turn = sender.sent;
        let set = turn % SETS;
        let free = |turns: &Turns| {
            if call.alone { !turns.busy.contains(&true) } else { !turns.busy[set] }
        };
        self.wait_until(free).map_err(|_| Silence::Unsent)?.busy[set] = true;
        sender.channel.set_deadline(Some(Instant::now() + call.limit));
        send(&mut sender.channel, &self.shared, set).map_err(|error| self.fail(error.into(), &silenced))?;
        sender.sent += 1;
        // Who is alone keeps others from sending.
        let _alone = call.alone.then_some(sender);
        drop(self.wait_until(|turns| turns.answered == turn)?);
        let answer = {
            let mut receiver = lock(&self.receiver);
            receiver.set_deadline(Some(Instant::now() + call.limit));
            receiver.receive::<Reply>(call.most)
        };
        let answer = match answer {
            Ok((Reply::Hung { launch }, _)) => Err(LineError::Hung { launch }),
            Ok(answer) => Ok(answer),
            Err(error) => Err(error.into()),
        };
        let answer = answer.map_err(|error| self.fail(error, &silenced))?;
        self.change(|turns| turns.answered += 1);
        let taken = match answer {
            (Reply::Refused(error), _) => Ok(Err(error)),
            answer => take(&self.shared, set, answer).map(Ok),
        };
        let taken = taken.map_err(|error| self.fail(error.into(), &silenced))?;
        self.change(|turns| turns.busy[set] = false);
        Ok(taken)
    }

    /// Waits for what is wanted of the turns, or for the end of all.
    fn wait_until(&self, wanted: impl Fn(&Turns) -> bool) -> Result<MutexGuard<'_, Turns>, Silence> {
        let not_yet = |turns: &mut Turns| turns.over.is_none() && !wanted(turns);
        let turns = self.moved.wait_while(lock(&self.turns), not_yet);
        let turns = turns.unwrap_or_else(PoisonError::into_inner);
        turns.over.clone().map_or(Ok(turns), Err)
    }

    fn change(&self, change: impl FnOnce(&mut Turns)) {
        change(&mut lock(&self.turns));
        self.moved.notify_all();
    }

    /// Nothing is answered any more; what the others are told is only that.
    fn fail(&self, error: LineError, silenced: &impl Fn(LineError) -> Silence) -> Silence {
        let mut turns = lock(&self.turns);
        if let Some(over) = &turns.over {
            return over.clone();
        }
        let silence = silenced(error);
        turns.over = Some(match &silence {
            Silence::Unsent => Silence::Unsent,
            Silence::Ended(end) => Silence::Ended(end.clone()),
            Silence::Late { .. } => another("did not end in time"),
            Silence::Garbage(_) => another("was answered with garbage"),
        });
        self.moved.notify_all();
        silence
    }
}

fn another(what: &str) -> Silence {
    let status = format!("it was ended because another request {what}");
    Silence::Ended(End { status, broke_down: false, output: String::new() })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
