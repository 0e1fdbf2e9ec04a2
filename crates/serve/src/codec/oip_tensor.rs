//! What the REST and the gRPC side of the Open Inference Protocol agree on: which tensors a request may carry and
//! how outputs that are no tensors are told as tensors.

use std::{borrow::Cow, sync::Arc};

use moorline_core::{DataType, MapKeys, Signature, Tensor, TensorSpec, Tensors, Value, ValueKind, stack};

use super::error::{CodecError, excerpt, name_list};

/// Most positions that the dimensions beside the zeros of an empty tensor may count: nothing in a request pays for
/// them, but an answer of the same shape would write each of them.
const MAX_EMPTY_POSITIONS: usize = 1 << 20;

/// A decoded inference request.
#[derive(Clone, Debug, PartialEq)]
pub struct InferRequest {
    /// Echoed in the answer.
    pub id: Option<String>,
    /// They fit the signature.
    pub inputs: Tensors,
    pub outputs: Requested,
}

/// Which outputs an answer holds and how each of them is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requested {
    /// In the order asked for; empty stands for all outputs of the model.
    pub outputs: Vec<RequestedOutput>,
    /// Whether outputs are binary that say nothing themselves.
    pub binary: bool,
}

/// One output that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedOutput {
    pub name: Arc<str>,
    pub binary: Option<bool>,
}

impl RequestedOutput {
    /// The output called `name`, which the model must have.
    pub(super) fn resolve(name: &str, signature: &Signature) -> Result<Self, CodecError> {
        let Some(spec) = signature.outputs.iter().find(|spec| *spec.name == *name) else {
            let known = name_list(signature.outputs.iter().map(|spec| &*spec.name));
            let name = excerpt(name);
            return Err(CodecError::Request(format!("output `{name}` is unknown; the model gives {known}")));
        };
        Ok(Self { name: Arc::clone(&spec.name), binary: None })
    }
}

/// One output as it is written: its name, its tensor, the keys of its columns if it was made of maps, whether binary.
pub(super) struct Output<'o> {
    pub(super) name: &'o Arc<str>,
    pub(super) tensor: Cow<'o, Tensor>,
    pub(super) keys: Option<&'o MapKeys>,
    pub(super) binary: bool,
}

impl Requested {
    /// Each output may be asked for once, so that no short request makes a long answer.
    pub(super) fn new(outputs: Vec<RequestedOutput>, binary: bool) -> Result<Self, CodecError> {
        for (position, output) in outputs.iter().enumerate() {
            if outputs[..position].iter().any(|earlier| earlier.name == output.name) {
                return Err(CodecError::Request(format!("output `{}` is asked for twice", output.name)));
            }
        }
        Ok(Self { outputs, binary })
    }

    /// The outputs of a run that were asked for, in that order.
    pub(super) fn select<'o>(&'o self, outputs: &'o Tensors) -> Result<Vec<Output<'o>>, CodecError> {
        if self.outputs.is_empty() {
            return outputs.iter().map(|(name, value)| Output::of(name, value, self.binary)).collect();
        }
        let output = |wanted: &'o RequestedOutput| {
            let value = outputs
                .get(&wanted.name)
                .ok_or_else(|| CodecError::Request(format!("the model gave no output `{}`", wanted.name)))?;
            Output::of(&wanted.name, value, wanted.binary.unwrap_or(self.binary))
        };
        self.outputs.iter().map(output).collect()
    }
}

impl<'o> Output<'o> {
    fn of(name: &'o Arc<str>, value: &'o Value, binary: bool) -> Result<Self, CodecError> {
        let (tensor, keys) = match value {
            Value::Tensor(tensor) => (Cow::Borrowed(tensor), None),
            Value::Maps(maps) => (Cow::Borrowed(&maps.values), Some(&maps.keys)),
            Value::Sequence(tensors) => (Cow::Owned(stacked(name, tensors)?), None),
        };
        Ok(Self { name, tensor, keys, binary })
    }
}

/// A sequence as one tensor with a first dimension more, which the protocol can carry if all its tensors are alike.
fn stacked(name: &Arc<str>, tensors: &[Tensor]) -> Result<Tensor, CodecError> {
    let unsupported = || {
        CodecError::Unsupported(format!(
            "output `{name}` is a sequence of tensors that are not alike, which this protocol cannot carry"
        ))
    };
    let items = tensors
        .iter()
        .map(|tensor| {
            let (shape, data) = tensor.clone().into_parts();
            let shape = std::iter::once(1).chain(shape).collect();
            let tensor = Tensor::new(shape, data).map_err(|_| unsupported())?;
            Ok(std::iter::once((Arc::clone(name), Value::Tensor(tensor))).collect())
        })
        .collect::<Result<Vec<Tensors>, CodecError>>()?;
    let stacked = stack(&items.iter().collect::<Vec<_>>()).map_err(|_| unsupported())?;
    match stacked.into_iter().next() {
        Some((_, Value::Tensor(tensor))) => Ok(tensor),
        _ => Err(unsupported()),
    }
}

/// The keys of an output that was made of maps, as the text of a JSON list: parameters hold scalars only.
pub(super) fn keys_text(keys: &MapKeys) -> String {
    let text = match keys {
        MapKeys::I64(keys) => serde_json::to_string(keys),
        MapKeys::String(keys) => serde_json::to_string(keys),
    };
    text.expect("numbers and texts always serialize into memory")
}

/// The input called `name`, which the model must have and take as tensor of `datatype`.
pub(super) fn resolve_input<'s>(
    name: &str,
    datatype: &str,
    signature: &'s Signature,
) -> Result<&'s TensorSpec, CodecError> {
    let Some(spec) = signature.input(name) else {
        return Err(super::table::unknown_input(name, signature));
    };
    if spec.kind != ValueKind::Tensor {
        let reason = "the model takes a sequence, and this protocol carries tensors only";
        return Err(CodecError::Unsupported(format!("input `{name}`: {reason}")));
    }
    if datatype == spec.data_type.oip_name() {
        return Ok(spec);
    }
    Err(CodecError::tensor(
        name,
        match DataType::from_oip_name(datatype) {
            Some(given) => format!("it has data type {given}, but the model takes {}", spec.data_type),
            None => format!("`{}` is not a data type", excerpt(datatype)),
        },
    ))
}

/// How many elements a declared shape holds, which must be a number that can be worked with.
pub(super) fn element_count(name: &str, shape: &[usize], max_rank: usize) -> Result<usize, CodecError> {
    if shape.len() > max_rank {
        let reason = format!("it has {} dimensions, more than {max_rank}", shape.len());
        return Err(CodecError::tensor(name, reason));
    }
    let positions =
        shape.iter().filter(|dim| **dim > 0).try_fold(1_usize, |product, dim| product.checked_mul(*dim));
    let empty = shape.contains(&0);
    match positions {
        Some(positions) if !empty => Ok(positions),
        Some(positions) if positions <= MAX_EMPTY_POSITIONS => Ok(0),
        _ => Err(CodecError::tensor(name, format!("shape {shape:?} is larger than can be worked with"))),
    }
}
