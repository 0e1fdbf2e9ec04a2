//! Signatures: what a loaded model takes and gives.

use std::{fmt, sync::Arc};

use crate::tensor::{DataType, Tensor, Tensors, Value};

/// One dimension of a declared shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dim {
    Fixed(usize),
    /// Any size; the model may have named it (`batch`).
    Dynamic(Option<Arc<str>>),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Dynamic(Some(name)) => f.write_str(name),
            Self::Dynamic(None) => f.write_str("?"),
        }
    }
}

/// What kind of value a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueKind {
    Tensor,
    /// A sequence of tensors of the spec's data type.
    Sequence,
    /// A sequence of maps from this key type ([`DataType::I64`] or [`DataType::String`]) to the spec's data type.
    Maps {
        key: DataType,
    },
}

/// One declared input or output. For [`ValueKind::Tensor`] `shape: None` means that the model states no rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: Arc<str>,
    pub data_type: DataType,
    pub shape: Option<Vec<Dim>>,
    pub kind: ValueKind,
    /// An input with a default: it may be left out.
    pub optional: bool,
}

impl TensorSpec {
    /// Why `tensor` cannot be this input; `None` if it can.
    fn mismatch(&self, tensor: &Tensor) -> Option<String> {
        if tensor.data_type() != self.data_type {
            return Some(format!(
                "input `{}` has data type {}, but the model takes {}",
                self.name,
                tensor.data_type(),
                self.data_type
            ));
        }
        let shape = self.shape.as_ref()?;
        let fits = shape.len() == tensor.shape().len()
            && shape.iter().zip(tensor.shape()).all(|(dim, size)| match dim {
                Dim::Fixed(fixed) => fixed == size,
                Dim::Dynamic(_) => true,
            });
        if fits {
            return None;
        }
        Some(format!(
            "input `{}` has shape {:?}, but the model takes {}",
            self.name,
            tensor.shape(),
            shape_text(shape)
        ))
    }
}

/// A declared shape as people write it: `[batch, 3, ?]`.
fn shape_text(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// The declared inputs and outputs of a model, in its own order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    pub inputs: Vec<TensorSpec>,
    pub outputs: Vec<TensorSpec>,
}

impl Signature {
    pub fn input(&self, name: &str) -> Option<&TensorSpec> {
        self.inputs.iter().find(|spec| &*spec.name == name)
    }

    /// Checks names, arity, data types and shapes; the message names the input and both sides.
    pub fn check_inputs(&self, inputs: &Tensors) -> Result<(), String> {
        for (position, (name, value)) in inputs.iter().enumerate() {
            let Some(spec) = self.input(name) else {
                return Err(format!("input `{name}` is unknown; the model takes {}", self.input_names()));
            };
            if inputs.iter().take(position).any(|(earlier, _)| earlier == name) {
                return Err(format!("input `{name}` is given twice"));
            }
            match (value, &spec.kind) {
                (Value::Tensor(tensor), ValueKind::Tensor) => {
                    if let Some(mismatch) = spec.mismatch(tensor) {
                        return Err(mismatch);
                    }
                }
                (Value::Sequence(_), ValueKind::Sequence) | (Value::Maps(_), ValueKind::Maps { .. }) => {}
                _ => return Err(format!("input `{name}` is not the kind of value that the model takes")),
            }
        }
        match self.inputs.iter().find(|spec| !spec.optional && inputs.get(&spec.name).is_none()) {
            Some(missing) => Err(format!("input `{}` is missing", missing.name)),
            None => Ok(()),
        }
    }

    fn input_names(&self) -> String {
        let names: Vec<String> = self.inputs.iter().map(|spec| format!("`{}`", spec.name)).collect();
        names.join(", ")
    }

    /// Why this model cannot be batched along its first dimension; `None` if it can.
    pub fn batch_obstacle(&self) -> Option<String> {
        let describe = |side: &str, spec: &TensorSpec| match (&spec.kind, &spec.shape) {
            (ValueKind::Sequence, _) => Some(format!("{side} `{}` is a sequence", spec.name)),
            (ValueKind::Maps { .. }, _) => None,
            (ValueKind::Tensor, None) => Some(format!("{side} `{}` has no declared rank", spec.name)),
            (ValueKind::Tensor, Some(shape)) => match shape.first() {
                Some(Dim::Dynamic(_)) => None,
                Some(Dim::Fixed(size)) => Some(format!(
                    "{side} `{}` has shape {}, whose first dimension is fixed at {size}",
                    spec.name,
                    shape_text(shape)
                )),
                None => Some(format!("{side} `{}` is a scalar", spec.name)),
            },
        };
        self.inputs
            .iter()
            .find_map(|spec| describe("input", spec))
            .or_else(|| self.outputs.iter().find_map(|spec| describe("output", spec)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorData;

    fn spec(name: &str, shape: Vec<Dim>) -> TensorSpec {
        TensorSpec {
            name: name.into(),
            data_type: DataType::F32,
            shape: Some(shape),
            kind: ValueKind::Tensor,
            optional: false,
        }
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![spec("x", vec![Dim::Dynamic(Some("batch".into())), Dim::Fixed(2)])],
            outputs: vec![spec("y", vec![Dim::Dynamic(None)])],
        }
    }

    fn inputs(name: &str, shape: &[usize], data: TensorData) -> Tensors {
        let mut inputs = Tensors::new();
        inputs.push(name, Tensor::new(shape.to_vec(), data).unwrap());
        inputs
    }

    #[test]
    fn inputs_are_checked_by_name_type_shape_and_arity() {
        let signature = signature();
        assert_eq!(signature.check_inputs(&inputs("x", &[3, 2], TensorData::F32(vec![0.0; 6]))), Ok(()));
        assert_eq!(
            signature.check_inputs(&inputs("z", &[3, 2], TensorData::F32(vec![0.0; 6]))).unwrap_err(),
            "input `z` is unknown; the model takes `x`"
        );
        assert_eq!(
            signature.check_inputs(&inputs("x", &[3, 2], TensorData::I64(vec![0; 6]))).unwrap_err(),
            "input `x` has data type INT64, but the model takes FP32"
        );
        assert_eq!(
            signature.check_inputs(&inputs("x", &[2, 3], TensorData::F32(vec![0.0; 6]))).unwrap_err(),
            "input `x` has shape [2, 3], but the model takes [batch, 2]"
        );
        assert_eq!(signature.check_inputs(&Tensors::new()).unwrap_err(), "input `x` is missing");
    }

    #[test]
    fn a_fixed_first_dimension_is_an_obstacle_to_batching() {
        let mut signature = signature();
        assert_eq!(signature.batch_obstacle(), None);
        signature.inputs[0].shape = Some(vec![Dim::Fixed(1), Dim::Fixed(2)]);
        assert_eq!(
            signature.batch_obstacle().unwrap(),
            "input `x` has shape [1, 2], whose first dimension is fixed at 1"
        );
    }
}
