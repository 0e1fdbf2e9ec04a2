//! `moorline secret`: values that deployments need and nobody may see. A value is never a flag: flags can be seen by
//! everybody on the machine, and stay in the shell's history.

use std::{
    io::{BufRead, IsTerminal, Read, Write},
    path::PathBuf,
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use moorline_core::{Name, Secret};
use reqwest::Method;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};

use crate::{
    arguments::Yes,
    client::Precondition,
    confirm,
    exit::Explained,
    output::{Columns, Printing},
    session::{Session, environment_of_process},
};

const COLUMNS: Columns = Columns(&[("Name", "name"), ("Version", "version"), ("Modified", "modified_at")]);
const KIND: &str = "secrets";
/// No secret is larger.
const MAX_BYTES: u64 = 64 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Keep a value: from standard input, a file or a variable, or asked for
    #[command(after_help = "Examples:\n  moorline secret set db-password\n  \
                      moorline secret set db-password --value-file password.txt\n  \
                      moorline secret set db-password --value-env DB_PASSWORD\n  \
                      moorline secret set db-password < password.txt\n\n\
                      A deployment names it in its document:  environment_variables: {DB_PASSWORD: secret:db-password}")]
    Set(Set),
    /// List the names; values are never shown
    #[command(after_help = "Example:\n  moorline secret list")]
    List {
        #[command(flatten)]
        printing: Printing,
    },
    /// Delete a value
    #[command(after_help = "Example:\n  moorline secret delete db-password -y")]
    Delete {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        yes: Yes,
    },
}

/// The name, as a word or as `az` has it.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The secret's name
    #[arg(value_name = "NAME", required_unless_present = "name_flag")]
    name: Option<Name>,
    /// The secret's name
    #[arg(short, long = "name", id = "name_flag", value_name = "NAME", conflicts_with = "name")]
    name_flag: Option<Name>,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    which: Which,
    /// The file with the value; one newline at its end is not part of it
    #[arg(long, value_name = "FILE")]
    value_file: Option<PathBuf>,
    /// The environment variable with the value
    #[arg(long, value_name = "VARIABLE", conflicts_with = "value_file")]
    value_env: Option<String>,
}

impl Which {
    fn name(&self) -> anyhow::Result<&Name> {
        self.name
            .as_ref()
            .or(self.name_flag.as_ref())
            .ok_or_else(|| Explained::usage("the secret has no name").into())
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Set(set) => {
            let name = set.which.name()?;
            let value = value(name, &set)?;
            let client = session.client().await?;
            let body = json!({ "value": value.expose() });
            let url = client.at(&[KIND, name.as_str()]);
            client.call(Method::PUT, url, Some(&body), Precondition::Any).await?;
            session.screen.note(format_args!("the secret `{name}` is kept"));
            Ok(())
        }
        Verb::List { printing } => {
            let client = session.client().await?;
            printing.print(Value::Array(client.list(client.at(&[KIND]), None).await?), COLUMNS)
        }
        Verb::Delete { which, yes } => {
            let name = which.name()?;
            confirm::ask(&format!("Delete the secret `{name}`?"), yes.yes)?;
            let client = session.client().await?;
            let url = client.at(&[KIND, name.as_str()]);
            client.call(Method::DELETE, url, None, Precondition::Any).await.map(drop)
        }
    }
}

fn value(name: &Name, set: &Set) -> anyhow::Result<Secret> {
    let text = match (&set.value_file, &set.value_env) {
        (Some(path), _) => bounded(fs_err::File::open(path)?)?,
        (None, Some(variable)) => environment_of_process()
            .remove(variable)
            .ok_or_else(|| Explained::new(format!("there is no variable `{variable}`, or it is not text")))?,
        (None, None) if std::io::stdin().is_terminal() => prompt(&format!("The value of `{name}`: "))?,
        (None, None) => bounded(std::io::stdin().lock())?,
    };
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        bail!("the value is empty");
    }
    Ok(Secret::new(text.to_owned()))
}

fn bounded(reader: impl Read) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("a secret is at most {} KiB", MAX_BYTES >> 10);
    }
    // The bytes are not shown, not even the first that is wrong.
    String::from_utf8(bytes).map_err(|_| Explained::new("the value is not UTF-8").into())
}

/// Asks on the terminal without showing what is typed.
fn prompt(question: &str) -> anyhow::Result<String> {
    let input = std::io::stdin();
    let mut errors = std::io::stderr();
    write!(errors, "{question}")?;
    errors.flush()?;
    let shown = tcgetattr(&input).context("could not ask the terminal how it is set")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&input, OptionalActions::Flush, &hidden).context("could not hide what is typed")?;
    let mut text = String::new();
    let read = input.lock().take(MAX_BYTES + 2).read_line(&mut text);
    tcsetattr(&input, OptionalActions::Flush, &shown).context("could not show again what is typed")?;
    writeln!(errors)?;
    read?;
    if text.len() as u64 > MAX_BYTES {
        bail!("a secret is at most {} KiB", MAX_BYTES >> 10);
    }
    Ok(text)
}
