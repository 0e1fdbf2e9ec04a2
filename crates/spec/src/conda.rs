//! Conda files: which Python, which packages from channels, which from PyPI.

mod requirements;

use moorline_core::ErrorClass;
use serde_json::Value;

use crate::{
    diagnostic::Diagnostics,
    fields::Fields,
    paths,
    reader::{Finding, Origin, Reader},
    scalars,
    source::{SourceError, SourceFile},
    yaml::{self, Content, Node, shown},
};

/// What a conda file asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CondaFile {
    pub name: Option<String>,
    pub channels: Vec<String>,
    /// The constraint on `python`: `3.12` for `=3.12`, `==3.12` and `=3.12.*`, or as it was written
    /// (`>=3.10,<3.13`); empty where any will do, `None` where Python is not asked for.
    pub python: Option<String>,
    /// Without `python`; `pip` itself is among them.
    pub packages: Vec<CondaPackage>,
    /// Lines for pip: requirements and options (`--index-url …`). What `-r` names has been put in its place.
    pub pip: Vec<String>,
}

/// One package of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CondaPackage {
    /// `conda-forge` of `conda-forge::numpy`.
    pub channel: Option<String>,
    pub name: String,
    /// As it was written: `=1.2`, `==1.2.3`, `>=1,<2`, `=1.2=py312_0`; empty for any.
    pub constraint: String,
}

/// Reads a conda file. Requirements that it includes are read too, relative to it.
pub fn parse(file: &SourceFile) -> Result<CondaFile, Diagnostics> {
    let origin = Origin::File { folder: file.folder().to_owned(), inner: std::path::PathBuf::new() };
    let mut reader = Reader::new(origin);
    let read = reader.parse(file).and_then(|root| read(&mut reader, &root));
    match read {
        Some(read) if reader.errors() == 0 => Ok(read.file),
        _ => Err(reader.refuse()),
    }
}

/// `conda_file` of an environment: an object, a path, or (in a request, or with a line break in it) the text itself.
/// Gives the text of a conda file that needs no other file.
pub(crate) fn conda_file(reader: &mut Reader, node: &Node) -> Option<String> {
    if let Content::Map(_) = &node.content {
        let read = read(reader, node)?;
        return Some(yaml::write(&read.without_includes(node)));
    }
    let Some(written) = node.written() else {
        reader.mismatch(node, "an object with `dependencies`, or the path of a conda file");
        return None;
    };
    if reader.is_request() || written.contains('\n') {
        let source = reader.add_source(None, "");
        let root = yaml::parse(reader, source, written)?;
        let read = read(reader, &root)?;
        return Some(if read.includes {
            yaml::write(&read.without_includes(&root))
        } else {
            written.to_owned()
        });
    }
    let path = paths::local_path(reader, node)?;
    let file = reader.read_named(&path.resolve(), node.place)?;
    let root = reader.parse(&file)?;
    let inner = std::path::Path::new(&path.text).parent().map(std::path::Path::to_owned).unwrap_or_default();
    let read = reader.within(inner, |reader| read(reader, &root))?;
    Some(if read.includes { yaml::write(&read.without_includes(&root)) } else { file.text })
}

struct Read {
    file: CondaFile,
    /// Whether `-r` stood among the pip lines.
    includes: bool,
}

impl Read {
    /// The file as JSON, with the lines of included requirements where they were included.
    fn without_includes(&self, root: &Node) -> Value {
        let mut value = root.to_json();
        if self.includes
            && let Some(Value::Array(dependencies)) = value.get_mut("dependencies")
            && let Some(pip) = dependencies.iter_mut().find_map(|dependency| dependency.get_mut("pip"))
        {
            *pip = self.file.pip.iter().cloned().map(Value::String).collect();
        }
        value
    }
}

fn read(reader: &mut Reader, root: &Node) -> Option<Read> {
    let mut fields = Fields::open(reader, root, "conda file")?;
    let mut read = Read { file: CondaFile::default(), includes: false };
    read.file.name = fields.optional(reader, "name", scalars::text);
    read.file.channels = fields
        .optional(reader, "channels", |reader, node| scalars::list(reader, node, scalars::filled))
        .unwrap_or_default();
    fields.optional(reader, "dependencies", |reader, node| dependencies(reader, node, &mut read));
    // conda takes these two as well; neither says what is installed.
    fields.optional(reader, "prefix", scalars::text);
    fields.optional(reader, "variables", scalars::object);
    for entry in fields.rest() {
        let message = format!("conda knows no key `{}`; it is not looked at", shown(&entry.key));
        reader.report(Finding::warning(entry.place, message));
    }
    fields.close(reader);
    Some(read)
}

fn dependencies(reader: &mut Reader, node: &Node, read: &mut Read) -> Option<()> {
    if node.content == Content::Null {
        return Some(());
    }
    let mut pip_place = None;
    scalars::list(reader, node, |reader, item| {
        if let Content::Map(_) = &item.content {
            if pip_place.replace(item.place).is_some() {
                reader.error(item.place, "a second `pip:` list; one is enough");
                return None;
            }
            return pip(reader, item, read);
        }
        package(reader, item, &mut read.file)
    })
    .map(|_| ())
}

/// `- pip: […]`
fn pip(reader: &mut Reader, item: &Node, read: &mut Read) -> Option<()> {
    let mut fields = Fields::open(reader, item, "dependency")?;
    fields.required(reader, "pip", |reader, node| {
        if node.content == Content::Null {
            return Some(());
        }
        scalars::list(reader, node, |reader, line| {
            let text = scalars::filled(reader, line)?;
            let folder = (!reader.is_request()).then(|| paths::current_folder(reader));
            let expanded = requirements::expand(&text, folder.as_deref());
            match expanded {
                Ok(expanded) => {
                    read.includes |= expanded.included;
                    read.file.pip.extend(expanded.lines);
                    Some(())
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error)
                        .filter(|_| error.class() != ErrorClass::NotFound)
                        .map(ToString::to_string);
                    let finding = Finding::error(line.place, error.to_string());
                    reader.report(match error.hint().map(str::to_owned).or(cause) {
                        Some(hint) => finding.hint(hint),
                        None => finding,
                    });
                    None
                }
            }
        })
        .map(|_| ())
    });
    fields.close(reader);
    Some(())
}

/// `python=3.12`, `numpy >=1.2`, `conda-forge::numpy=1.2=py312_0`
fn package(reader: &mut Reader, item: &Node, file: &mut CondaFile) -> Option<()> {
    let text = scalars::filled(reader, item)?;
    let Some(package) = split(text.trim()) else {
        reader.mismatch(item, "a package: `name`, `name=version`, `channel::name>=version`");
        return None;
    };
    if package.name != "python" {
        file.packages.push(package);
        return Some(());
    }
    if file.python.is_some() {
        reader.error(item.place, "`python` is asked for twice");
        return None;
    }
    file.python = Some(python_version(&package.constraint));
    Some(())
}

fn split(text: &str) -> Option<CondaPackage> {
    let (channel, text) = match text.split_once("::") {
        Some((channel, text)) => (Some(channel.to_owned()), text),
        None => (None, text),
    };
    let name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let end = text.find(|c: char| !name_char(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let constraint = rest.trim();
    let starts = |c: char| matches!(c, '=' | '<' | '>' | '!' | '~');
    // Behind a space a bare version is one too: `numpy 1.8*`.
    let spaced = |c: char| starts(c) || c.is_ascii_digit() || c == '*';
    let follows =
        if rest.starts_with(' ') { constraint.starts_with(spaced) } else { constraint.starts_with(starts) };
    let empty_channel = channel.as_deref() == Some("");
    let name_starts = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if empty_channel || !name_starts || !(constraint.is_empty() || follows) {
        return None;
    }
    let constraint = if constraint.starts_with(|c: char| c.is_ascii_digit() || c == '*') {
        format!("={constraint}")
    } else {
        constraint.to_owned()
    };
    Some(CondaPackage { channel, name: name.to_ascii_lowercase(), constraint })
}

/// `3.12` of `=3.12`, `==3.12` and `=3.12.*`; everything else as it is.
fn python_version(constraint: &str) -> String {
    let bare = constraint.trim_start_matches('=');
    if bare.len() == constraint.len() {
        return constraint.to_owned();
    }
    // A build string says nothing that another packager could hold to.
    let version = bare.split('=').next().unwrap_or_default().trim();
    version.trim_end_matches('*').trim_end_matches('.').to_owned()
}

impl requirements::RequirementsError {
    fn class(&self) -> ErrorClass {
        match self {
            Self::File(error) => SourceError::class(error),
            _ => ErrorClass::InvalidInput,
        }
    }
}
