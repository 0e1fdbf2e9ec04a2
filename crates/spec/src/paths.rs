//! Reading what a document points at: references, files beside it, and documents in files of their own.

use std::path::{Path, PathBuf};

use moorline_core::Name;

use crate::{
    reader::{Finding, Origin, Reader},
    reference::{AssetRef, CodeSource, LocalPath, PREFIX, Reference, Scope, VersionRef},
    scalars,
    yaml::{Content, Node, shown},
};

/// What a document's own file is read from: `file:./environment.yml`.
const FILE_PREFIX: &str = "file:";

/// What a reference may point at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AssetWord {
    /// `model`
    pub(crate) one: &'static str,
    /// As addresses have it: `models`.
    pub(crate) many: &'static str,
}

/// An asset by reference, inline, or in a file of its own.
pub(crate) fn asset_ref<T>(
    reader: &mut Reader,
    node: &Node,
    word: AssetWord,
    inline: impl FnOnce(&mut Reader, &Node) -> Option<T>,
) -> Option<AssetRef<T>> {
    if let Content::Map(_) = &node.content {
        return inline(reader, node).map(|value| AssetRef::Inline(Box::new(value)));
    }
    let Some(text) = node.written() else {
        let expected = format!("a reference to a registered {}, or an object that describes one", word.one);
        reader.mismatch(node, &expected);
        return None;
    };
    if let Some(path) = text.strip_prefix(FILE_PREFIX) {
        let value = in_file(reader, node, path, inline)?;
        return Some(AssetRef::Inline(Box::new(value)));
    }
    reference(reader, node, text, word).map(AssetRef::Reference)
}

fn reference(reader: &mut Reader, node: &Node, text: &str, word: AssetWord) -> Option<Reference> {
    match text.parse::<Reference>() {
        Ok(reference) => {
            let (Scope::Registry { assets, .. } | Scope::Arm { assets, .. }) = &reference.scope else {
                return Some(reference);
            };
            if !assets.eq_ignore_ascii_case(word.many) {
                let message = format!("`{}` points at `{assets}`", shown(text));
                reader
                    .report(Finding::error(node.place, message).expected(format!("one of `{}`", word.many)));
                return None;
            }
            Some(reference)
        }
        Err(error) => {
            let finding = Finding::error(node.place, error.to_string());
            let bare = format!("{PREFIX}{text}");
            reader.report(if !text.starts_with(PREFIX) && bare.parse::<Reference>().is_ok() {
                finding.hint(format!("did you mean `{}`?", shown(&bare)))
            } else {
                finding
            });
            None
        }
    }
}

fn in_file<T>(
    reader: &mut Reader,
    node: &Node,
    text: &str,
    read: impl FnOnce(&mut Reader, &Node) -> Option<T>,
) -> Option<T> {
    let path = local(reader, node, text)?;
    let file = reader.read_named(&path.resolve(), node.place)?;
    let root = reader.parse(&file)?;
    let inner = Path::new(&path.text).parent().map(Path::to_owned).unwrap_or_default();
    reader.within(inner, |reader| read(reader, &root))
}

/// A path of this machine that exists; whether it is a file or a folder is what `expected` is about.
pub(crate) fn local_path(reader: &mut Reader, node: &Node) -> Option<LocalPath> {
    let text = scalars::filled(reader, node)?;
    let path = local(reader, node, &text)?;
    let resolved = path.resolve();
    let Err(error) = fs_err::metadata(&resolved) else { return Some(path) };
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let what = if missing { "does not exist" } else { "cannot be read" };
    let finding = Finding::error(node.place, format!("`{}` {what}", resolved.display()));
    let relative = Path::new(&path.text).is_relative();
    reader.report(match (missing, relative) {
        (true, true) => finding.hint("relative paths start from the folder of the document"),
        (true, false) => finding,
        (false, _) => finding.hint(error.to_string()),
    });
    None
}

/// The same, and it has to be a folder.
pub(crate) fn local_folder(reader: &mut Reader, node: &Node) -> Option<LocalPath> {
    let path = local_path(reader, node)?;
    if !path.resolve().is_dir() {
        let message = format!("`{}` is not a folder", path.resolve().display());
        reader.report(Finding::error(node.place, message));
        return None;
    }
    Some(path)
}

/// A path, existing or not.
pub(crate) fn local(reader: &mut Reader, node: &Node, text: &str) -> Option<LocalPath> {
    let Origin::File { folder, inner } = reader.origin() else {
        let message = format!("{} is a path; the server cannot see files of yours", reader.subject());
        reader.report(Finding::error(node.place, message).hint("upload them, and name them by digest"));
        return None;
    };
    let base = folder.clone();
    // Without `inner` the text stays as it was written.
    let text = if inner.as_os_str().is_empty() {
        text.to_owned()
    } else {
        inner.join(text).to_string_lossy().into_owned()
    };
    let remote = text.contains("://") || text.starts_with(PREFIX) || text.starts_with("runs:/");
    if remote || text.contains('\0') {
        let message = format!("{} is `{}`", reader.subject(), shown(&text));
        let finding = Finding::error(node.place, message).expected("a path on this machine");
        reader.report(if remote { finding.hint("fetch it, and give the path here") } else { finding });
        return None;
    }
    Some(LocalPath { text, base })
}

/// A compute by reference: `azureml:NAME`, or its ARM id.
pub(crate) fn compute(reader: &mut Reader, node: &Node) -> Option<Name> {
    let text = scalars::text(reader, node)?;
    let name = match text.parse::<Reference>() {
        Ok(Reference { scope: Scope::Workspace, name, version: VersionRef::Default }) => Some(name),
        Ok(Reference { scope: Scope::Arm { assets, .. }, name, version: VersionRef::Default })
            if assets.eq_ignore_ascii_case("computes") =>
        {
            Some(name)
        }
        _ => None,
    };
    if name.is_none() {
        reader.mismatch(node, &format!("a compute, `{PREFIX}NAME`"));
    }
    name
}

/// Where code lies: a folder, or a registered version.
pub(crate) fn code(reader: &mut Reader, node: &Node) -> Option<CodeSource> {
    let text = scalars::filled(reader, node)?;
    if text.starts_with(PREFIX) && !text.starts_with("azureml://") || reader.is_request() {
        let word = AssetWord { one: "code", many: "codes" };
        return reference(reader, node, &text, word).map(CodeSource::Reference);
    }
    local_folder(reader, node).map(CodeSource::Local)
}

/// A path in a folder, relative to it and not out of it, with `/` between parts.
pub(crate) fn inner_path(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = scalars::filled(reader, node)?;
    let normal = text.strip_prefix("./").unwrap_or(&text);
    let bad = |part: &str| matches!(part, "" | "." | "..");
    if normal.contains(['\\', '\0']) || normal.split('/').any(bad) {
        let expected = "a relative path with `/` between its parts, and neither `.` nor `..` among them";
        reader.mismatch(node, expected);
        return None;
    }
    Some(normal.to_owned())
}

/// The folder that relative paths start from now.
pub(crate) fn current_folder(reader: &Reader) -> PathBuf {
    match reader.origin() {
        Origin::File { folder, inner } => folder.join(inner),
        Origin::Request => PathBuf::new(),
    }
}
