//! What a server and its model say of themselves in the Open Inference Protocol, for REST and gRPC alike.

use moorline_core::{DataType, Dim, Signature, TensorSpec, ValueKind};
use serde::Serialize;

/// How the model is called in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelIdentity<'a> {
    pub name: &'a str,
    pub version: &'a str,
}

/// The protocol extensions that are offered.
pub(super) const EXTENSIONS: [&str; 1] = ["binary_tensor_data"];
/// The server's name.
pub(super) const SERVER: &str = "moorline";

#[derive(Serialize)]
struct ServerMetadata<'a> {
    name: &'a str,
    version: &'a str,
    extensions: [&'a str; 1],
}

#[derive(Serialize)]
struct ModelMetadata<'a> {
    name: &'a str,
    versions: [&'a str; 1],
    platform: &'a str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

#[derive(Serialize)]
pub(super) struct TensorMetadata<'a> {
    pub(super) name: &'a str,
    pub(super) datatype: &'static str,
    pub(super) shape: Vec<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parameters: Option<TensorParameters>,
}

#[derive(Serialize)]
pub(super) struct TensorParameters {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) optional: bool,
    /// The data type of the keys that the columns stand for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key_datatype: Option<&'static str>,
}

/// `GET /v2`: the server's metadata as JSON. `version` is this program's.
pub fn server_metadata(version: &str) -> Vec<u8> {
    to_json(&ServerMetadata { name: SERVER, version, extensions: EXTENSIONS })
}

/// `GET /v2/models/{name}`: the model's metadata as JSON. `platform` is such as `onnxruntime_onnx`.
pub fn model_metadata(model: ModelIdentity<'_>, platform: &str, signature: &Signature) -> Vec<u8> {
    to_json(&ModelMetadata {
        name: model.name,
        versions: [model.version],
        platform,
        inputs: signature.inputs.iter().map(tensor_metadata).collect(),
        outputs: signature.outputs.iter().map(tensor_metadata).collect(),
    })
}

/// A declared tensor as the protocol tells it: -1 is a dimension of any size. Maps are tensors `[rows, keys]`, and a
/// sequence is a tensor with a first dimension more. The protocol has no word for an unknown rank; `[-1]` is said.
pub(super) fn tensor_metadata(spec: &TensorSpec) -> TensorMetadata<'_> {
    let dims = spec.shape.as_ref().map(|shape| {
        shape.iter().map(|dim| match dim {
            Dim::Fixed(size) => i64::try_from(*size).unwrap_or(-1),
            Dim::Dynamic(_) => -1,
        })
    });
    let (shape, key_datatype) = match (&spec.kind, dims) {
        (ValueKind::Maps { key }, _) => (vec![-1, -1], Some(DataType::oip_name(*key))),
        (ValueKind::Tensor, Some(dims)) => (dims.collect(), None),
        (ValueKind::Sequence, Some(dims)) => (std::iter::once(-1).chain(dims).collect(), None),
        (ValueKind::Tensor | ValueKind::Sequence, None) => (vec![-1], None),
    };
    let parameters = (spec.optional || key_datatype.is_some())
        .then_some(TensorParameters { optional: spec.optional, key_datatype });
    TensorMetadata { name: &spec.name, datatype: spec.data_type.oip_name(), shape, parameters }
}

fn to_json(document: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document of texts and numbers always serializes")
}
