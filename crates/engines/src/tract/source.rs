//! A model file as a graph that tract can take, with the signature that it has for the outside.

use std::path::Path;

use moorline_core::{DataType, Dim, EngineError, Signature, TensorSpec, ValueKind};
use tract_onnx::{
    Onnx,
    pb::{
        GraphProto, ModelProto, ValueInfoProto, tensor_proto::DataType as RawType,
        tensor_shape_proto::dimension::Value as Size, type_proto,
    },
    prelude::Framework,
};

use super::{
    NAME,
    labels::{self, Labels},
    refusals,
    zip_map::{self, ZipMap},
};
use crate::files::{check_model_file, load_error};

/// From this version on, an initializer that is also an input is a default that callers may replace; before it, every
/// initializer had to be listed as an input and was a constant all the same.
const FIRST_VERSION_WITH_DEFAULTS: i64 = 4;

/// A graph of what tract has.
pub(super) struct Source {
    pub(super) proto: ModelProto,
    pub(super) signature: Signature,
    /// Of each output in order, what is left to do with it.
    pub(super) finishes: Vec<Finish>,
}

/// What was taken out of the graph before an output, and is done after the run.
#[derive(Debug)]
pub(super) enum Finish {
    Nothing,
    ZipMap(ZipMap),
    Labels(Labels),
}

/// Reads the file and refuses what tract cannot run, naming it.
pub(super) fn read(onnx: &Onnx, path: &Path) -> Result<Source, EngineError> {
    check_model_file(NAME, path)?;
    let mut proto = onnx.proto_model_for_path(path).map_err(|error| {
        // Its error type has no `std::error::Error`; a boxed one is what remains.
        let source = error.into_boxed_dyn_error();
        EngineError::Load {
            engine: NAME,
            path: path.to_owned(),
            reason: "it is not an ONNX model, or is cut short".to_owned(),
            source: Some(source),
        }
    })?;
    let refuse = |reason: String| load_error(NAME, path, reason);
    let version = proto.ir_version;
    let graph =
        proto.graph.as_mut().ok_or_else(|| refuse("it is not an ONNX model: it has no graph".to_owned()))?;
    let zip_maps = zip_map::cut(graph).map_err(refuse)?;
    let finishes: Vec<Finish> = zip_maps
        .into_iter()
        .zip(labels::number(graph))
        .map(|(zip_map, labels)| match (zip_map, labels) {
            (Some(zip_map), _) => Finish::ZipMap(zip_map),
            (None, Some(labels)) => Finish::Labels(labels),
            (None, None) => Finish::Nothing,
        })
        .collect();
    if let Some(reason) = refusals::find(onnx, graph) {
        return Err(refuse(reason));
    }
    let signature = signature(graph, &finishes, version >= FIRST_VERSION_WITH_DEFAULTS).map_err(refuse)?;
    Ok(Source { proto, signature, finishes })
}

/// The folder of external data.
pub(super) fn folder(path: &Path) -> Option<&str> {
    path.parent().and_then(Path::to_str)
}

fn signature(graph: &GraphProto, finishes: &[Finish], has_defaults: bool) -> Result<Signature, String> {
    let mut inputs = Vec::with_capacity(graph.input.len());
    for input in &graph.input {
        let initialized = graph.initializer.iter().any(|initializer| initializer.name == input.name);
        if initialized && !has_defaults {
            continue;
        }
        let spec = tensor_spec("input", input)?;
        inputs.push(TensorSpec { optional: initialized, ..spec });
    }
    let outputs = graph
        .output
        .iter()
        .zip(finishes)
        .map(|(output, finish)| match finish {
            Finish::Nothing | Finish::Labels(_) => tensor_spec("output", output),
            Finish::ZipMap(zip_map) => Ok(TensorSpec {
                name: zip_map.name.as_str().into(),
                data_type: DataType::F32,
                shape: None,
                kind: ValueKind::Maps { key: zip_map.key_type() },
                optional: false,
            }),
        })
        .collect::<Result<_, _>>()?;
    Ok(Signature { inputs, outputs })
}

fn tensor_spec(side: &str, info: &ValueInfoProto) -> Result<TensorSpec, String> {
    let name = &info.name;
    let Some(type_proto::Value::TensorType(tensor)) =
        info.r#type.as_ref().and_then(|declared| declared.value.as_ref())
    else {
        return Err(format!("{side} `{name}` is not a tensor, which it cannot run; engine `ort` may"));
    };
    let data_type = RawType::try_from(tensor.elem_type).ok();
    let Some(data_type_here) = data_type.and_then(known_type) else {
        let stated = data_type.map_or_else(|| format!("{}", tensor.elem_type), |raw| format!("{raw:?}"));
        return Err(format!(
            "{side} `{name}` has data type {stated}, which it does not have; engine `ort` may"
        ));
    };
    let shape = tensor.shape.as_ref().map(|shape| {
        shape
            .dim
            .iter()
            .map(|dim| match &dim.value {
                Some(Size::DimValue(size)) => usize::try_from(*size).map_or(Dim::Dynamic(None), Dim::Fixed),
                Some(Size::DimParam(name)) if !name.is_empty() => Dim::Dynamic(Some(name.as_str().into())),
                _ => Dim::Dynamic(None),
            })
            .collect()
    });
    Ok(TensorSpec {
        name: name.as_str().into(),
        data_type: data_type_here,
        shape,
        kind: ValueKind::Tensor,
        optional: false,
    })
}

const fn known_type(raw: RawType) -> Option<DataType> {
    Some(match raw {
        RawType::Bool => DataType::Bool,
        RawType::Uint8 => DataType::U8,
        RawType::Uint16 => DataType::U16,
        RawType::Uint32 => DataType::U32,
        RawType::Uint64 => DataType::U64,
        RawType::Int8 => DataType::I8,
        RawType::Int16 => DataType::I16,
        RawType::Int32 => DataType::I32,
        RawType::Int64 => DataType::I64,
        RawType::Float16 => DataType::F16,
        RawType::Float => DataType::F32,
        RawType::Double => DataType::F64,
        RawType::String => DataType::String,
        _ => return None,
    })
}
