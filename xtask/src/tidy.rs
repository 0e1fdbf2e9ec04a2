//! The house rules that no other tool holds: what files begin with and must not contain, and who may depend on whom.

mod crates;
mod docs;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::{Workspace, shell};

/// Longer Rust files are reported: a file that long has more than one reason to exist.
const LINE_BUDGET: usize = 600;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: PathBuf,
    /// 1 is the first line.
    pub line: usize,
    pub message: String,
}

pub fn run(workspace: &Workspace) -> Result<()> {
    let mut findings = Vec::new();
    for path in files(workspace.root())? {
        // What is not text has no lines to look at.
        let Ok(text) = fs_err::read_to_string(workspace.root().join(&path)) else { continue };
        findings.extend(text::check(&path, &text));
        if path.extension().is_some_and(|extension| extension == "md") {
            findings
                .extend(docs::broken_links(&path, &text, |target| workspace.root().join(target).exists()));
        }
        let lines = text.lines().count();
        if is_rust(&path) && lines > LINE_BUDGET {
            shell::warn(&format!("{} has {lines} lines; {LINE_BUDGET} is the budget", path.display()));
        }
    }
    for listing in &docs::LISTINGS {
        let [source, document] = [listing.source, listing.document]
            .map(|path| fs_err::read_to_string(workspace.root().join(path)));
        findings.extend(docs::missing(listing, &source?, &document?));
    }
    let metrics = docs::LISTINGS.iter().filter(|listing| listing.document == docs::METRICS);
    let sources = metrics.map(|listing| fs_err::read_to_string(workspace.root().join(listing.source)));
    let document = fs_err::read_to_string(workspace.root().join(docs::METRICS))?;
    findings.extend(docs::invented(docs::METRICS, &document, &sources.collect::<Result<Vec<_>, _>>()?));
    let map = fs_err::read_to_string(workspace.root().join(crates::MAP))?;
    findings.extend(crates::check(&map, workspace.metadata(), workspace.root()));
    for Finding { path, line, message } in &findings {
        shell::say(&format!("{}:{line}: {message}", path.display()));
    }
    if findings.is_empty() { Ok(()) } else { bail!("{} breaches of the house rules", findings.len()) }
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Every file that git would commit, relative to the root; a checkout without git is walked.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = std::process::Command::new("git");
    git.args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"]).current_dir(root);
    let mut files = Vec::new();
    if let Ok(list) = shell::output(&mut git) {
        files.extend(list.split_terminator('\0').map(PathBuf::from));
    } else {
        walk(root, Path::new(""), &mut files)?;
    }
    files.sort();
    Ok(files)
}

fn walk(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs_err::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name();
        let path = folder.join(&name);
        if entry.file_type()?.is_file() {
            files.push(path);
        } else if entry.file_type()?.is_dir() && name != "target" && name != ".git" {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}
