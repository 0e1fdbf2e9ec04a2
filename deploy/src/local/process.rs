//! One scorer process: started by us, or found running after a server before us was killed.

use std::{
    ffi::OsStr,
    fmt, io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::ExitStatusExt},
    },
    path::Path,
    process::ExitStatus,
};

use moorline_core::{DeploymentId, Digest};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::{
    io::{Interest, unix::AsyncFd},
    process::Child,
};

use super::layout::{Layout, deployment_id};

/// The variable by which a replica is known on the machine.
pub(crate) const IDENTITY: &str = "MOORLINE_REPLICA";

/// Whose a process is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) home: String,
    pub(crate) deployment: DeploymentId,
    pub(crate) revision: Digest,
    pub(crate) replica: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.home, self.deployment, self.revision.hex(), self.replica)
    }
}

impl Identity {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let mut next = || parts.next();
        let home = next()?.to_owned();
        let deployment = deployment_id(next()?, next()?, next()?)?;
        let revision = format!("sha256:{}", next()?).parse().ok()?;
        let replica = next()?.to_owned();
        let sound = !replica.is_empty() && replica.bytes().all(|byte| byte.is_ascii_hexdigit());
        (sound && next().is_none()).then_some(Self { home, deployment, revision, replica })
    }
}

/// A process that leads a group of its own. Dropping it leaves it alone.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Child(Child),
    /// Not our child: its end is seen, its status is not.
    Adopted(AsyncFd<OwnedFd>),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) Option<ExitStatus>);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.map(|status| (status.code(), status.signal())) {
            Some((Some(code), _)) => write!(f, "exited with code {code}"),
            Some((None, Some(9))) => {
                f.write_str("was killed by signal 9, as by `kill -9` or for want of memory")
            }
            Some((None, Some(11))) => f.write_str("was killed by signal 11, a segmentation fault"),
            Some((None, Some(signal))) => write!(f, "was killed by signal {signal}"),
            Some((None, None)) | None => f.write_str("ended, and how is not known"),
        }
    }
}

impl Process {
    pub(crate) fn of_child(child: Child) -> io::Result<Self> {
        let pid = child.id().and_then(|id| Pid::from_raw(id as i32));
        let pid = pid.ok_or_else(|| io::Error::other("a child that was just started has no process id"))?;
        Ok(Self { pid, kind: Kind::Child(child) })
    }

    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get() as u32
    }

    /// Done once it has ended; may be cancelled and asked again.
    pub(crate) async fn wait(&mut self) -> Ended {
        match &mut self.kind {
            Kind::Child(child) => Ended(child.wait().await.ok()),
            Kind::Adopted(descriptor) => {
                // A descriptor that cannot be waited for is of a process that is not there.
                let _ = descriptor.readable().await.map(|mut guard| guard.retain_ready());
                Ended(None)
            }
        }
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it and what it left in its group.
    pub(crate) fn kill(&self) {
        // The group first: its id is surely ours only as long as its leader is there to be waited for.
        if self.is_there()
            && let Err(error) = kill_process_group(self.pid, Signal::KILL)
        {
            tracing::debug!(%error, "could not kill a replica's group");
        }
        self.signal(Signal::KILL);
    }

    fn is_there(&self) -> bool {
        match &self.kind {
            Kind::Child(child) => child.id().is_some(),
            Kind::Adopted(_) => rustix::process::test_kill_process(self.pid).is_ok(),
        }
    }

    fn signal(&self, signal: Signal) {
        let sent = match &self.kind {
            // Until it was waited for, nobody else can have its id.
            Kind::Child(child) => match child.id() {
                Some(_) => rustix::process::kill_process(self.pid, signal),
                None => Ok(()),
            },
            Kind::Adopted(descriptor) => pidfd_send_signal(descriptor.get_ref(), signal),
        };
        if let Err(error) = sent
            && error != rustix::io::Errno::SRCH
        {
            tracing::warn!(%error, pid = self.id(), "could not signal a replica");
        }
    }
}

/// Every replica of this home that runs on the machine.
pub(crate) fn find(layout: &Layout) -> Vec<(Identity, Process)> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid else { continue };
        if identity_of(layout, &entry.path()).is_none() {
            continue;
        }
        // The id may have gone to another process since; the descriptor cannot. So it is looked at again.
        let Ok(descriptor) = pidfd_open(pid, PidfdFlags::NONBLOCK) else { continue };
        let Some(identity) = identity_of(layout, &entry.path()) else { continue };
        match watched(descriptor) {
            Ok(descriptor) => found.push((identity, Process { pid, kind: Kind::Adopted(descriptor) })),
            Err(error) => tracing::warn!(%error, %pid, "could not adopt a replica"),
        }
    }
    found
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; an owned descriptor stays the same while it is registered"
)]
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// Whose the process with this folder in `/proc` is. A replica hands its variables on to the processes that it starts,
/// so its command line, which they do not have, counts as well.
fn identity_of(layout: &Layout, process: &Path) -> Option<Identity> {
    let environment = fs_err::read(process.join("environ")).ok()?;
    let prefix = format!("{IDENTITY}={}/", layout.id);
    let entry = environment.split(|byte| *byte == 0).find(|entry| entry.starts_with(prefix.as_bytes()))?;
    let identity = Identity::parse(std::str::from_utf8(&entry[IDENTITY.len() + 1..]).ok()?)?;
    let address = Layout::address_below_home(&identity.deployment, &identity.replica);
    let command_line = fs_err::read(process.join("cmdline")).ok()?;
    let mut arguments = command_line.split(|byte| *byte == 0).map(|own| Path::new(OsStr::from_bytes(own)));
    arguments.any(|argument| argument.ends_with(&address)).then_some(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let identity = Identity {
            home: "h0".to_owned(),
            deployment: deployment_id("default", "iris", "blue").unwrap(),
            revision: Digest::of(b"1"),
            replica: "69251a3f00".to_owned(),
        };
        assert_eq!(Identity::parse(&identity.to_string()), Some(identity));
        for bad in ["", "h/a/b/c", "h/a/b/c/00/1", "h/a/b/c/d/../../x"] {
            assert_eq!(Identity::parse(bad), None, "{bad}");
        }
    }
}
