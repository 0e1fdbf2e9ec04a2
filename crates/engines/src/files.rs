//! What is checked of a model file before an engine sees it, so that the reason is said in words of ours.

use std::{error::Error, path::Path};

use moorline_core::EngineError;

/// A load error of `engine` for the model at `path`.
pub(crate) fn load_error(engine: &'static str, path: &Path, reason: impl Into<String>) -> EngineError {
    EngineError::Load { engine, path: path.to_owned(), reason: reason.into(), source: None }
}

/// The same with the error that caused it.
pub(crate) fn load_error_from(
    engine: &'static str,
    path: &Path,
    reason: impl Into<String>,
    source: impl Error + Send + Sync + 'static,
) -> EngineError {
    EngineError::Load { engine, path: path.to_owned(), reason: reason.into(), source: Some(Box::new(source)) }
}

/// Whether `path` is a file that is not empty.
pub(crate) fn check_model_file(engine: &'static str, path: &Path) -> Result<(), EngineError> {
    match fs_err::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            Err(load_error(engine, path, "it is a folder; name the .onnx file in it"))
        }
        Ok(metadata) if metadata.len() == 0 => Err(load_error(engine, path, "the file is empty")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(load_error_from(engine, path, "there is no such file", error))
        }
        Err(error) => Err(load_error_from(engine, path, "the file cannot be read", error)),
    }
}
