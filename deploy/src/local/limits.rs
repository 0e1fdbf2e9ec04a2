//! Limits on what a replica uses, by control groups (version 2) where this process may make some of its own.
//!
//! Address space limits are not used in their place: engines and Python reserve many times what they touch.

use std::{
    io,
    path::{Path, PathBuf},
};

use moorline_core::Resources;

/// The group below which every replica has one, if there can be one.
#[derive(Debug)]
pub(crate) enum Limits {
    Groups(PathBuf),
    /// Why there are no limits.
    None(String),
}

/// The group of one replica.
#[derive(Debug)]
pub(crate) struct Group(PathBuf);

/// Of `cpu.max`: how often the share of a core is given out.
const PERIOD_MICROS: u64 = 100_000;

impl Limits {
    /// Looks for a delegated subtree: the group of this process, where it is writable and has the controllers.
    pub(crate) fn find(home: &str) -> Self {
        let own = match own_group() {
            Ok(own) => own,
            Err(why) => return Self::None(why),
        };
        match prepare(&own, home) {
            Ok(groups) => Self::Groups(groups),
            Err(error) => {
                Self::None(format!("no control groups can be made below `{}`: {error}", own.display()))
            }
        }
    }

    /// Puts a process that was just started under its limits.
    pub(crate) fn confine(&self, replica: &str, pid: u32, resources: &Resources) -> Option<Group> {
        if *resources == Resources::default() {
            return None;
        }
        let groups = match self {
            Self::Groups(groups) => groups,
            Self::None(why) => {
                tracing::warn!(replica, why, "the replica runs without limits on processor and memory");
                return None;
            }
        };
        let group = Group(groups.join(replica));
        match group.set(pid, resources) {
            Ok(()) => Some(group),
            Err(error) => {
                tracing::warn!(replica, %error, "the replica runs without limits on processor and memory");
                group.remove();
                None
            }
        }
    }

    /// The group of a replica that was adopted.
    pub(crate) fn of_adopted(replica: &str, pid: u32) -> Option<Group> {
        let text = fs_err::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = path_of(&text)?;
        let mount = mount()?;
        path.ends_with(&format!("/{replica}")).then(|| Group(mount.join(path.trim_start_matches('/'))))
    }
}

impl Group {
    fn set(&self, pid: u32, resources: &Resources) -> io::Result<()> {
        match fs_err::create_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(millis) = resources.cpu_millis {
            let quota = u64::from(millis) * PERIOD_MICROS / 1000;
            fs_err::write(self.0.join("cpu.max"), format!("{quota} {PERIOD_MICROS}"))?;
        }
        if let Some(bytes) = resources.memory_bytes {
            fs_err::write(self.0.join("memory.max"), bytes.to_string())?;
            // Workers of one replica end together with it: a half of it would hang instead.
            fs_err::write(self.0.join("memory.oom.group"), "1")?;
        }
        fs_err::write(self.0.join("cgroup.procs"), pid.to_string())
    }

    /// Ends what is left in it and removes it.
    pub(crate) fn remove(&self) {
        // Not there before Linux 5.14; then what is left ends by itself, and the empty group stays.
        let _ = fs_err::write(self.0.join("cgroup.kill"), "1");
        if let Err(error) = fs_err::remove_dir(&self.0) {
            tracing::debug!(%error, "a replica's control group stays");
        }
    }
}

fn mount() -> Option<PathBuf> {
    let mounts = fs_err::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// Of the text of a `/proc/PID/cgroup`, the path in the unified hierarchy.
fn path_of(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn own_group() -> Result<PathBuf, String> {
    let mount = mount().ok_or("control groups (version 2) are not mounted")?;
    let text = fs_err::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let path = path_of(&text).ok_or("this process is in no control group of version 2")?;
    Ok(mount.join(path.trim_start_matches('/')))
}

/// Makes the group of all replicas below `own` and hands the controllers down to it.
fn prepare(own: &Path, home: &str) -> io::Result<PathBuf> {
    let controllers = fs_err::read_to_string(own.join("cgroup.controllers"))?;
    let missing =
        ["cpu", "memory"].into_iter().find(|name| !controllers.split_whitespace().any(|own| own == *name));
    if let Some(missing) = missing {
        return Err(io::Error::other(format!("the controller `{missing}` was not handed down to it")));
    }
    let groups = own.join(format!("moorline-{home}"));
    match fs_err::create_dir(&groups) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    hand_down(own).and_then(|()| hand_down(&groups)).inspect_err(|_| {
        // Replicas of an earlier server may be in it.
        let _ = fs_err::remove_dir(&groups);
    })?;
    Ok(groups)
}

/// A group with processes of its own cannot hand controllers down; where this process is alone in it, it moves.
fn hand_down(group: &Path) -> io::Result<()> {
    let control = group.join("cgroup.subtree_control");
    if fs_err::write(&control, "+cpu +memory").is_ok() {
        return Ok(());
    }
    let own = std::process::id().to_string();
    let members = fs_err::read_to_string(group.join("cgroup.procs"))?;
    if members.lines().ne([own.as_str()]) {
        return Err(io::Error::other("other processes are in it"));
    }
    let server = group.join("server");
    match fs_err::create_dir(&server) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs_err::write(server.join("cgroup.procs"), &own)?;
    fs_err::write(&control, "+cpu +memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with the files that the kernel would have put there.
    fn group(controllers: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("cgroup.controllers"), controllers).unwrap();
        folder
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let own = group("cpuset cpu memory pids\n");
        let limits = Limits::Groups(prepare(own.path(), "h0").unwrap());
        let resources = Resources { cpu_millis: Some(1500), memory_bytes: Some(1 << 30) };
        let Group(path) = limits.confine("r1", 42, &resources).unwrap();
        let text = |name: &str| fs_err::read_to_string(path.join(name)).unwrap();
        assert_eq!(text("cpu.max"), "150000 100000");
        assert_eq!(text("memory.max"), "1073741824");
        assert_eq!(text("cgroup.procs"), "42");
        assert!(limits.confine("r2", 43, &Resources::default()).is_none());
    }

    #[test]
    fn a_subtree_without_the_controllers_is_none() {
        let own = group("cpu pids\n");
        assert!(prepare(own.path(), "h0").unwrap_err().to_string().contains("`memory`"));
        assert_eq!(path_of("4:memory:/a\n0::/b\n"), Some("/b"));
    }
}
