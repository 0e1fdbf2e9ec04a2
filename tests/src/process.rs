//! Looking at processes from outside: their children, their memory, and waiting for something to become true.

use std::{
    ffi::OsStr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::place::{Venv, own_folder};

/// The process ids of all descendants of `parent`.
pub fn children_of(parent: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // A process may end between the listing and the reading.
        let Ok(stat) = fs_err::read_to_string(entry.path().join("stat")) else { continue };
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut fields = after_name.split_whitespace();
        let (state, ppid) = (fields.next(), fields.next().and_then(|text| text.parse::<u32>().ok()));
        if let (Some(state), Some(ppid)) = (state, ppid)
            && state != "Z"
        {
            parents.push((pid, ppid));
        }
    }
    let mut found = vec![parent];
    let mut next = 0;
    while next < found.len() {
        let own = found[next];
        found.extend(parents.iter().filter(|(_, ppid)| *ppid == own).map(|(pid, _)| *pid));
        next += 1;
    }
    found.split_off(1)
}

/// The processes of this program that name a path below `folder` in their command line.
pub fn processes_with(program: &str, folder: &Path) -> Vec<u32> {
    let folder = folder.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(line) = fs_err::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        if words.next().is_some_and(|word| word.ends_with(program))
            && words.any(|word| word.contains(&folder))
        {
            found.push(pid);
        }
    }
    found
}

/// Resident memory of a process, in MiB.
pub fn resident_mib(pid: u32) -> f64 {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).expect("the process is alive");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has a VmRSS");
    let kib: f64 =
        line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("VmRSS is a number");
    kib / 1024.0
}

/// Asks again and again until the answer is yes or the time has passed; says which.
pub fn eventually(within: Duration, mut question: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if question() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs one of `tests/clients` under an environment's Python and gives its output; a failure shows all that it said.
pub fn run_client(venv: &Venv, client: &str, arguments: &[&str]) -> String {
    run_client_with(venv, client, arguments, &[])
}

/// The same with variables of its own.
pub fn run_client_with(
    venv: &Venv,
    client: &str,
    arguments: &[&str],
    variables: &[(&str, &OsStr)],
) -> String {
    let path = own_folder().join("clients").join(client);
    let mut command = Command::new(venv.python());
    command.arg("-B").arg(path).args(arguments).envs(variables.iter().copied());
    let output = command.output().expect("the environment's Python can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{client} failed ({}):\n{stdout}\n{stderr}", output.status);
    stdout
}
