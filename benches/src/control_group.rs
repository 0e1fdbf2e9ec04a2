//! A control group for a process outside a container. The kernel shares a processor among groups before it shares a group's
//! part among its processes; beside a load generator on the same cores that alone can take a fifth of the throughput. To see
//! what the container costs, its peer stands in a group of its own as well.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the kernel shows them.
const ROOT: &str = "/sys/fs/cgroup";

/// A group that goes when it is dropped, after its processes have ended.
#[derive(Debug)]
pub(crate) struct ControlGroup(PathBuf);

impl ControlGroup {
    /// A new one beside the group that process `other` is in.
    pub(crate) fn beside(other: &str) -> Result<Self> {
        let told = fs_err::read_to_string(Path::new("/proc").join(other).join("cgroup"))?;
        let its = folder(&told).with_context(|| format!("process {other} is in no group for processors"))?;
        let own = its
            .parent()
            .context("a container's group lies in another one")?
            .join(format!("moorline-bench-{}", std::process::id()));
        fs_err::create_dir(&own)?;
        Ok(Self(own))
    }

    pub(crate) fn take(&self, process: u32) -> Result<()> {
        Ok(fs_err::write(self.0.join("cgroup.procs"), process.to_string())?)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // It is empty and costs nothing if it stays.
        let _ = fs_err::remove_dir(&self.0);
    }
}

/// The folder of the group by which processors are shared: of the first version's own hierarchy where there is one.
fn folder(told: &str) -> Option<PathBuf> {
    let lines = || told.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let first = lines().find(|(controllers, _)| controllers.split(',').any(|name| name == "cpu"));
    let (below, path) = match first {
        Some((_, path)) => ("cpu", path),
        None => ("", lines().find(|(controllers, _)| controllers.is_empty())?.1),
    };
    Some(Path::new(ROOT).join(below).join(path.strip_prefix('/')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_understood() {
        let first = "8:pids:/docker/ab\n2:cpu,cpuacct:/docker/ab\n1:name=systemd:/\n0::/\n";
        assert_eq!(folder(first), Some(PathBuf::from("/sys/fs/cgroup/cpu/docker/ab")));
        let second = "0::/system.slice/docker-ab.scope\n";
        assert_eq!(folder(second), Some(PathBuf::from("/sys/fs/cgroup/system.slice/docker-ab.scope")));
        assert_eq!(folder("3:cpuset:/\n"), None);
    }
}
