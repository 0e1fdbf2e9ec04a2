//! The state of reading one document: where it came from, where in it the reader is, and all that was found so far.

use std::path::{Path, PathBuf};

use crate::{
    diagnostic::{Diagnostic, Diagnostics, Severity},
    source::{BYTE_ORDER_MARK, SourceFile, read_file},
    yaml::{self, Content, Node, Place, shown},
};

/// A document with more mistakes than this is of another kind.
const MAX_FINDINGS: usize = 100;
/// As much of a line as a message shows.
const MAX_EXCERPT: usize = 160;
/// Files that a document can consist of.
const MAX_SOURCES: usize = 100;

/// One thing to report; the reader adds the file and the path of the key.
#[derive(Debug)]
pub(crate) struct Finding {
    severity: Severity,
    place: Place,
    message: String,
    expected: Option<String>,
    hint: Option<String>,
}

impl Finding {
    pub(crate) fn error(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, message: message.into(), expected: None, hint: None }
    }

    pub(crate) fn warning(place: Place, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, message) }
    }

    pub(crate) fn expected(self, expected: impl Into<String>) -> Self {
        Self { expected: Some(expected.into()), ..self }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// Something that nodes come from: a file, a flag, or the body of a request.
#[derive(Debug)]
struct Source {
    label: Option<PathBuf>,
    text: String,
}

/// What local paths mean where the document came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Relative paths start from `folder`; those of a file that the document names, from `inner` below it.
    File { folder: PathBuf, inner: PathBuf },
    /// There are none.
    Request,
}

/// One step on the way to where the reader is.
#[derive(Clone, Debug)]
enum Step {
    Key(String),
    Index(usize),
}

#[derive(Debug)]
pub struct Reader {
    origin: Origin,
    sources: Vec<Source>,
    path: Vec<Step>,
    found: Vec<(Place, Diagnostic)>,
    errors: usize,
    left_out: usize,
}

impl Reader {
    pub(crate) fn new(origin: Origin) -> Self {
        Self { origin, sources: Vec::new(), path: Vec::new(), found: Vec::new(), errors: 0, left_out: 0 }
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    pub(crate) fn is_request(&self) -> bool {
        self.origin == Origin::Request
    }

    /// Makes a source known; what is found in its nodes is shown with its label.
    pub(crate) fn add_source(&mut self, label: Option<PathBuf>, text: &str) -> u16 {
        self.sources.push(Source { label, text: text.to_owned() });
        (self.sources.len() - 1) as u16
    }

    /// Adds a file and reads the tree in it.
    pub(crate) fn parse(&mut self, file: &SourceFile) -> Option<Node> {
        let source = self.add_source(Some(file.name.clone()), &file.text);
        yaml::parse(self, source, file.text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&file.text))
    }

    /// Reads a file that a document names at `place`, relative to it.
    pub(crate) fn read_named(&mut self, path: &Path, place: Place) -> Option<SourceFile> {
        if self.sources.len() >= MAX_SOURCES {
            self.error(place, format!("more than {MAX_SOURCES} files in one document"));
            return None;
        }
        match read_file(path) {
            Ok(file) => Some(file),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                let finding = Finding::error(place, error.to_string());
                // A missing file has been named already; any other cause is news.
                let missing = matches!(error, crate::source::SourceError::Missing { .. });
                self.report(match cause {
                    Some(cause) if !missing => finding.hint(cause),
                    _ => finding,
                });
                None
            }
        }
    }

    /// Reads what lies in a file below `inner` of the document's folder; paths in it start there.
    pub(crate) fn within<T>(&mut self, inner: PathBuf, read: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.origin.clone();
        if let Origin::File { inner: own, .. } = &mut self.origin {
            *own = inner;
        }
        let value = read(self);
        self.origin = before;
        value
    }

    /// Goes one key down for the time of `read`.
    pub(crate) fn at_key<T>(&mut self, key: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Step::Key(key.to_owned()));
        let value = read(self);
        self.path.pop();
        value
    }

    pub(crate) fn at_index<T>(&mut self, index: usize, read: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Step::Index(index));
        let value = read(self);
        self.path.pop();
        value
    }

    /// Where the reader is, as a person would write it.
    pub(crate) fn here(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => {
                    text.push('[');
                    text.push_str(&index.to_string());
                    text.push(']');
                }
                Step::Key(key) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(&shown(key));
                }
            }
        }
        text
    }

    /// The thing that the reader is at, for the beginning of a message.
    pub(crate) fn subject(&self) -> String {
        match self.path.last() {
            None => "the document".to_owned(),
            Some(Step::Key(key)) => format!("`{}`", shown(key)),
            Some(Step::Index(_)) => format!("`{}`", self.here()),
        }
    }

    pub(crate) fn errors(&self) -> usize {
        self.errors
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.report(Finding::error(place, message));
    }

    pub(crate) fn report(&mut self, finding: Finding) {
        if finding.severity == Severity::Error {
            self.errors += 1;
        }
        if self.found.len() >= MAX_FINDINGS {
            self.left_out += 1;
            return;
        }
        let Finding { severity, place, message, expected, hint } = finding;
        let source = self.sources.get(place.source as usize);
        let excerpt = source
            .filter(|_| place.line > 0)
            .and_then(|source| source.text.lines().nth(place.line as usize - 1))
            .map(|line| line.chars().take(MAX_EXCERPT).collect());
        let diagnostic = Diagnostic {
            severity,
            file: source.and_then(|source| source.label.clone()),
            line: place.line,
            column: place.column,
            path: self.here(),
            message,
            expected,
            hint,
            excerpt,
        };
        self.found.push((place, diagnostic));
    }

    /// `expected something, found something else` about the node that the reader is at.
    pub(crate) fn mismatch(&mut self, node: &Node, expected: &str) {
        let finding = if node.content == Content::Null {
            let hint = "give it a value, or leave the key out";
            Finding::error(node.place, format!("{} is empty", self.subject())).expected(expected).hint(hint)
        } else {
            Finding::error(node.place, format!("{} is {}", self.subject(), describe(node))).expected(expected)
        };
        self.report(finding);
    }

    /// Everything that was found, in the order of the text.
    pub(crate) fn finish(self) -> Vec<Diagnostic> {
        let mut found = self.found;
        found.sort_by_key(|(place, _)| *place);
        let mut found: Vec<Diagnostic> = found.into_iter().map(|(_, diagnostic)| diagnostic).collect();
        if self.left_out > 0 {
            found.push(Diagnostic {
                severity: if self.errors > 0 { Severity::Error } else { Severity::Warning },
                file: found.first().and_then(|first| first.file.clone()),
                line: 0,
                column: 0,
                path: String::new(),
                message: format!("{} more", self.left_out),
                expected: None,
                hint: None,
                excerpt: None,
            });
        }
        found
    }

    /// A refusal with everything that was found.
    pub(crate) fn refuse(self) -> Diagnostics {
        Diagnostics::new(self.finish())
    }
}

/// What a node is, for the middle of a message.
pub(crate) fn describe(node: &Node) -> String {
    match &node.content {
        Content::Null => "empty".to_owned(),
        Content::Bool(flag, _) => format!("the boolean {flag}"),
        Content::Int(_, raw) | Content::Float(_, raw) => format!("the number {}", shown(raw)),
        Content::Text(text) => format!("the text `{}`", shown(text)),
        Content::Loose(_, raw) => format!("`{}`", shown(raw)),
        Content::List(_) => "a list".to_owned(),
        Content::Map(_) => "an object".to_owned(),
    }
}
