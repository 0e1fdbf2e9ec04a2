//! The small models in `fixtures/`, which `fixtures/generate.py` makes.

use std::path::{Path, PathBuf};

/// The path of a fixture: `fixture("classifier_10.onnx")`.
pub fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name);
    assert!(path.is_file(), "there is no fixture `{name}`");
    path
}
