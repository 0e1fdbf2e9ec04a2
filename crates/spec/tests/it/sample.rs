//! What the tests share: a folder with files to point at, and what is said about a text.

use std::path::Path;

use moorline_spec::{Document, Loaded, Override, SourceFile, load};

/// A folder with everything that the documents of these tests point at.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    };
    write("model/model.onnx", "");
    write("code/score.py", "");
    write("context/Dockerfile", "");
    write("conda.yml", CONDA);
    folder
}

pub(crate) const CONDA: &str = "\
channels: [conda-forge]
dependencies:
- python=3.12
- pip
- pip:
  - scikit-learn==1.6.1
";

/// Loads `text` as a file `doc.yml` in `folder`.
pub(crate) fn load_in<T: Document>(
    folder: &Path,
    text: &str,
    changes: &[&str],
) -> Result<Loaded<T>, moorline_spec::Diagnostics> {
    let file = SourceFile::new(folder.join("doc.yml"), text);
    let changes: Vec<Override> = changes.iter().map(|change| Override::parse(change).unwrap()).collect();
    load(&file, &changes)
}

/// What is said about `text`, one finding a line; the temporary folder's name is left out.
pub(crate) fn said<T: Document>(text: &str) -> String {
    said_with::<T>(text, &[])
}

pub(crate) fn said_with<T: Document>(text: &str, changes: &[&str]) -> String {
    let folder = folder();
    let findings = match load_in::<T>(folder.path(), text, changes) {
        Ok(loaded) => loaded.warnings,
        Err(refusal) => refusal.into_vec(),
    };
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    if lines.is_empty() {
        return "accepted".to_owned();
    }
    lines.join("\n").replace(&format!("{}/", folder.path().display()), "")
}
