//! Questions to the person, which only a terminal can answer.

use std::io::{BufRead, IsTerminal, Write};

use crate::exit::Explained;

/// Asks before something is done that cannot be undone; an answer other than yes is an error, so that nothing follows.
pub(crate) fn ask(question: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Explained::new(format!("not done: nobody can be asked “{question}” without a terminal"))
            .hint("--yes answers it")
            .into());
    }
    let mut errors = std::io::stderr();
    write!(errors, "{question} [y/N] ")?;
    errors.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Explained::new("not done").into()),
    }
}
