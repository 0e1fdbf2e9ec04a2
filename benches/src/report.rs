//! The table, and the machine that it was measured on.

use std::{fmt::Write as _, path::PathBuf, process::Command, thread};

use anyhow::Result;
use xtask::{Workspace, shell};

/// What a row must reach.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// Exclusive.
    Below(f64),
    /// None: the figure is worth knowing, and nothing is asked of it.
    Open,
    /// There is no figure, and the row says why.
    NotMeasured,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub baseline: String,
    pub ours: String,
    /// What is compared with the bound.
    pub value: f64,
    /// Behind the value and the bound: empty for a ratio.
    pub unit: &'static str,
    pub bound: Bound,
}

impl Row {
    pub fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.value >= bound,
            Bound::AtMost(bound) => self.value <= bound,
            Bound::Below(bound) => self.value < bound,
            Bound::Open | Bound::NotMeasured => true,
        }
    }

    /// A row that lacks something here.
    pub fn not_measured(name: &'static str, why: &str) -> Self {
        Self {
            name,
            baseline: "–".to_owned(),
            ours: format!("not measured: {why}"),
            value: f64::NAN,
            unit: "",
            bound: Bound::NotMeasured,
        }
    }

    fn line(&self) -> String {
        let Self { name, baseline, ours, value, unit, .. } = self;
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => ("≥", bound),
            Bound::AtMost(bound) => ("≤", bound),
            Bound::Below(bound) => ("<", bound),
            Bound::Open => return format!("| {name} | {baseline} | {ours} | {value:.2}{unit} | – | |"),
            Bound::NotMeasured => return format!("| {name} | {baseline} | {ours} | – | – | |"),
        };
        let verdict = if self.holds() { "holds" } else { "**short**" };
        format!("| {name} | {baseline} | {ours} | {value:.2}{unit} | {sign} {bound}{unit} | {verdict} |")
    }
}

/// The table in Markdown, under what it was measured on.
pub fn table(setup: &str, rows: &[Row]) -> String {
    let mut text = format!(
        "{setup}\n\n| row | baseline | ours | value | bound | |\n| --- | --- | --- | --- | --- | --- |\n"
    );
    for row in rows {
        let _ = writeln!(text, "{}", row.line());
    }
    text
}

/// The machine, the commit and the method, as a few lines of Markdown.
pub fn setup(workspace: &Workspace, method: &str) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let text = shell::output(workspace.command(program).args(arguments)).unwrap_or_default();
        text.trim().to_owned()
    };
    format!(
        "{} · {} cores · {} · commit {} · {}\n\n{method}",
        cpu(),
        cores(),
        said("uname", &["-sr"]),
        said("git", &["describe", "--always", "--dirty"]),
        said("rustc", &["--version"]),
    )
}

/// Writes the table to `benches/results/<date>-<subject>-<machine>.md`.
pub fn save(workspace: &Workspace, subject: &str, table: &str) -> Result<PathBuf> {
    let date = shell::output(Command::new("date").args(["-u", "+%F"]))?;
    let folder = workspace.root().join("benches/results");
    fs_err::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{subject}-{}x-{}.md", date.trim(), cores(), slug(&cpu())));
    fs_err::write(&path, format!("# The {subject} beside its baselines, {}\n\n{table}", date.trim()))?;
    Ok(path)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn cpu() -> String {
    let info = fs_err::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// `Intel(R) Xeon(R) CPU @ 2.20GHz` as `intel-xeon-cpu-2-20ghz`.
fn slug(text: &str) -> String {
    let plain = text.replace("(R)", "").replace("(TM)", "").to_lowercase();
    let words: Vec<&str> =
        plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_it_holds() {
        let mut row = Row {
            name: "tiny",
            baseline: "100/s".to_owned(),
            ours: "65/s".to_owned(),
            value: 0.65,
            unit: "",
            bound: Bound::AtLeast(0.6),
        };
        assert_eq!(row.line(), "| tiny | 100/s | 65/s | 0.65 | ≥ 0.6 | holds |");
        row.bound = Bound::Below(0.65);
        assert_eq!(row.line(), "| tiny | 100/s | 65/s | 0.65 | < 0.65 | **short** |");
        row.bound = Bound::Open;
        assert_eq!(row.line(), "| tiny | 100/s | 65/s | 0.65 | – | |");
        let lacking = Row::not_measured("boxed", "no Engine");
        assert_eq!(lacking.line(), "| boxed | – | not measured: no Engine | – | – | |");
        assert!(row.holds() && lacking.holds());
    }

    #[test]
    fn machines_have_file_names() {
        assert_eq!(slug("Intel(R) Xeon(R) CPU @ 2.20GHz"), "intel-xeon-cpu-2-20ghz");
    }
}
