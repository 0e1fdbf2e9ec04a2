//! Running programs so that whoever watches sees what happens, how long it took and what failed.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task runner talks to the terminal")]

use std::{
    env,
    ffi::OsStr,
    io::{self, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

/// Runs `work` between a line that names it and a line that says how long it took.
pub fn step<T>(title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {title}");
    let start = Instant::now();
    let result = work().with_context(|| title.to_owned())?;
    println!("    {title}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(result)
}

/// One line of a step's own words.
pub fn say(line: &str) {
    println!("    {line}");
    // Children write to the same terminal; what was said must stand before it.
    let _ = io::stdout().flush();
}

/// Text as it is, for what is the verb's result.
pub fn print(text: &str) {
    println!("{text}");
}

/// Something that must not be overlooked, but that does not fail the verb.
pub fn warn(line: &str) {
    eprintln!("\nWARNING: {line}\n");
}

/// The last words of a verb that failed.
pub fn complain(line: &str) {
    eprintln!("error: {line}");
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Runs a command with its output on the terminal; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", line(command)));
    let status = command.status().with_context(|| format!("could not start `{}`", line(command)))?;
    if status.success() { Ok(()) } else { bail!("`{}` ended with {status}", line(command)) }
}

/// Runs a command quietly and gives its standard output; its error output is part of the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start `{}`", line(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` ended with {}\n{}", line(command), output.status, complaint.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", line(command)))
}

/// Whether a command starts and succeeds, whatever it prints.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A program on `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_so_that_it_can_be_typed() {
        let mut command = Command::new("curl");
        command.args(["http://127.0.0.1:5001/score", "-H", "content-type: a", "it's", ""]);
        assert_eq!(line(&command), r"curl http://127.0.0.1:5001/score -H 'content-type: a' 'it'\''s' ''");
    }
}
