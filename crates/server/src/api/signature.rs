//! What a model takes and gives, as its files say it.

use std::io::Cursor;

use axum::{Json, extract::State};
use bytes::Bytes;
use futures_util::TryStreamExt;
use moorline_core::{ErrorClass, FileEntry};
use moorline_store::AssetKind;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{AtVersion, Refusals, extract::At, is_latest};
use crate::{
    control::Control,
    problem::ApiError,
    signature::{self, Signature, Tensor},
};

/// Of a file that has to be fetched to be looked into.
const FETCHED: u64 = 64 << 20;

pub(super) fn routes() -> OpenApiRouter<Control> {
    OpenApiRouter::new().routes(routes!(get))
}

/// What a model takes and gives.
#[derive(Serialize, ToSchema)]
struct SignatureShown {
    inputs: Vec<TensorShown>,
    outputs: Vec<TensorShown>,
    /// The file that says so; none where no file does.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
}

/// An input or an output.
#[derive(Serialize, ToSchema)]
struct TensorShown {
    name: String,
    /// In the words of the Open Inference Protocol: `FP32`, `INT64`, `BYTES`; or in the file's own.
    #[schema(example = "FP32")]
    datatype: String,
    /// Numbers, names of what has any size, and `?`; left out where the model does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<String>>,
    /// An input that may be left out.
    optional: bool,
}

impl From<Tensor> for TensorShown {
    fn from(tensor: Tensor) -> Self {
        let Tensor { name, datatype, shape, optional } = tensor;
        Self { name, datatype, shape, optional }
    }
}

/// The signature of a version: of the ONNX file where there is one, or of the `MLmodel` file. Models of other kinds do
/// not say what they take.
#[utoipa::path(get, path = "/workspaces/{workspace}/models/{name}/versions/{version}/signature", params(AtVersion),
    responses((status = 200, body = SignatureShown), Refusals))]
async fn get(
    State(control): State<Control>,
    At(at): At<AtVersion>,
) -> Result<Json<SignatureShown>, ApiError> {
    let store = &control.store;
    let asset = if is_latest(&at.version) {
        store.latest_asset(&at.workspace, AssetKind::Model, &at.name).await?
    } else {
        store.asset(&at.workspace, AssetKind::Model, &at.name, at.version.as_str()).await?
    };
    let Some((file, kind)) = signature::file_of(&asset.files) else {
        return Ok(Json(SignatureShown { inputs: Vec::new(), outputs: Vec::new(), file: None }));
    };
    let found = if let Some(path) = store.blobs().path(&file.sha256) {
        blocking(move || signature::read(kind, std::io::BufReader::new(fs_err::File::open(path)?))).await?
    } else {
        let content = fetch(&control, file).await?;
        blocking(move || signature::read(kind, Cursor::new(content))).await?
    };
    let shown = |tensors: Vec<Tensor>| tensors.into_iter().map(Into::into).collect();
    let Signature { inputs, outputs } = found;
    Ok(Json(SignatureShown { inputs: shown(inputs), outputs: shown(outputs), file: Some(file.path.clone()) }))
}

async fn fetch(control: &Control, file: &FileEntry) -> Result<Bytes, ApiError> {
    if file.size > FETCHED {
        return Err(ApiError::new(
            ErrorClass::Unsupported,
            format!("`{}` is too large to be fetched for its signature", file.path),
        ));
    }
    let (_, content) = control.store.blobs().read(&file.sha256).await?;
    let parts: Vec<Bytes> = content.try_collect().await?;
    Ok(parts.concat().into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|error| ApiError::internal("a file was not looked into", error))?;
    done.map_err(|error| {
        if error.kind() == std::io::ErrorKind::InvalidData
            || error.kind() == std::io::ErrorKind::UnexpectedEof
        {
            ApiError::new(ErrorClass::Unsupported, format!("the file of this model cannot be read: {error}"))
        } else {
            ApiError::internal("a file could not be looked into", error)
        }
    })
}
