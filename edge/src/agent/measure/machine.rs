//! What the kernel says of this machine and of groups of processes.

use std::collections::HashMap;

/// Of CPU time in `/proc`, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processes that belong together: a module's and its workers'.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Group {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: f64,
}

#[derive(Debug, Default)]
pub(super) struct Machine {
    pub(super) memory_bytes: Option<f64>,
    pub(super) available_bytes: Option<f64>,
    pub(super) load: Option<f64>,
    groups: HashMap<u32, Group>,
}

/// What `stat` says of a process.
#[derive(Debug, PartialEq)]
struct Stat {
    group: u32,
    cpu_seconds: f64,
}

impl Machine {
    /// Looks at the machine, at the groups of these leaders, and at this process.
    pub(super) fn look(leaders: &[u32]) -> Self {
        let text = |path: &str| fs_err::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");
        let load = text("/proc/loadavg");
        let mut groups: HashMap<u32, Group> =
            leaders.iter().map(|leader| (*leader, Group::default())).collect();
        let own = std::process::id();
        for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Some(stat) = read_stat(&text(&format!("/proc/{id}/stat"))) else { continue };
            // This process is a group by itself here, whatever the shell has made of it.
            let group = if id == own {
                groups.entry(own).or_default()
            } else {
                let Some(group) = groups.get_mut(&stat.group) else { continue };
                group
            };
            group.cpu_seconds += stat.cpu_seconds;
            group.resident_bytes += kilobytes(&text(&format!("/proc/{id}/status")), "VmRSS:").unwrap_or(0.0);
        }
        Self {
            memory_bytes: kilobytes(&memory, "MemTotal:"),
            available_bytes: kilobytes(&memory, "MemAvailable:"),
            load: load.split_whitespace().next().and_then(|load| load.parse().ok()),
            groups,
        }
    }

    /// The group that this process leads.
    pub(super) fn group(&self, leader: u32) -> Option<Group> {
        self.groups.get(&leader).copied().filter(|group| *group != Group::default())
    }
}

/// Reads `/proc/PID/stat`: a program's name may hold anything, so what follows it is counted from its end.
fn read_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<f64>().ok());
    // Its own, and of children that it has waited for.
    let cpu = ticks(11)? + ticks(12)? + ticks(13)? + ticks(14)?;
    Some(Stat { group: fields.get(2)?.parse().ok()?, cpu_seconds: cpu / TICKS_PER_SECOND })
}

/// The bytes of a line `Name: 12 kB`.
fn kilobytes(text: &str, name: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let text = "12 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 20 30 20 0 1 0 9 1 2";
        assert_eq!(read_stat(text), Some(Stat { group: 7, cpu_seconds: 2.5 }));
        assert_eq!(read_stat("12 (x"), None);
        assert_eq!(kilobytes("A: 1 kB\nMemTotal:    12 kB\n", "MemTotal:"), Some(12288.0));
        assert_eq!(kilobytes("MemTotal: x kB", "MemTotal:"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let machine = Machine::look(&[]);
        let own = machine.group(std::process::id()).unwrap();
        assert!(own.resident_bytes > 100_000.0 && own.resident_bytes < machine.memory_bytes.unwrap());
        assert!(machine.available_bytes.is_some() && machine.load.is_some());
        assert_eq!(machine.group(u32::MAX), None);
    }
}
