//! Inputs for a run before the first request, which pays for what engines put off until then.

use moorline_core::{DataType, Dim, Signature, Tensor, TensorData, Tensors, ValueKind};

/// Zeros (`false`, empty strings) for every input that is not optional: `rows` along a dynamic first dimension, one
/// along every other dynamic one; an input without a declared rank gets shape `[rows]`.
///
/// `None` when an input is not a tensor, or would need more elements than a warm-up is worth (2²⁸): there is nothing
/// neutral to run then. That a run with these inputs fails says little of the model, which may want other sizes.
pub fn zero_inputs(signature: &Signature, rows: usize) -> Option<Tensors> {
    const MOST_ELEMENTS: usize = 1 << 28;
    signature
        .inputs
        .iter()
        .filter(|spec| !spec.optional)
        .map(|spec| {
            if spec.kind != ValueKind::Tensor {
                return None;
            }
            let size = |(axis, dim): (usize, &Dim)| match dim {
                Dim::Fixed(size) => *size,
                Dim::Dynamic(_) if axis == 0 => rows,
                Dim::Dynamic(_) => 1,
            };
            let shape: Vec<usize> = match &spec.shape {
                Some(dims) => dims.iter().enumerate().map(size).collect(),
                None => vec![rows],
            };
            let count = shape.iter().try_fold(1_usize, |product, dim| product.checked_mul(*dim))?;
            let data = (count <= MOST_ELEMENTS).then(|| zeros(spec.data_type, count))?;
            Some((spec.name.clone(), Tensor::new(shape, data).ok()?.into()))
        })
        .collect()
}

fn zeros(data_type: DataType, count: usize) -> TensorData {
    match data_type {
        DataType::Bool => TensorData::Bool(vec![false; count]),
        DataType::U8 => TensorData::U8(vec![0; count]),
        DataType::U16 => TensorData::U16(vec![0; count]),
        DataType::U32 => TensorData::U32(vec![0; count]),
        DataType::U64 => TensorData::U64(vec![0; count]),
        DataType::I8 => TensorData::I8(vec![0; count]),
        DataType::I16 => TensorData::I16(vec![0; count]),
        DataType::I32 => TensorData::I32(vec![0; count]),
        DataType::I64 => TensorData::I64(vec![0; count]),
        DataType::F16 => TensorData::F16(vec![half::f16::ZERO; count]),
        DataType::Bf16 => TensorData::Bf16(vec![half::bf16::ZERO; count]),
        DataType::F32 => TensorData::F32(vec![0.0; count]),
        DataType::F64 => TensorData::F64(vec![0.0; count]),
        DataType::String => TensorData::String(vec![String::new(); count]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_core::{TensorSpec, Value};

    #[test]
    fn zeros_fit_the_signature_and_leave_optional_inputs_out() {
        let spec = |name: &str, data_type, shape, optional| TensorSpec {
            name: name.into(),
            data_type,
            shape,
            kind: ValueKind::Tensor,
            optional,
        };
        let signature = Signature {
            inputs: vec![
                spec(
                    "x",
                    DataType::F32,
                    Some(vec![Dim::Dynamic(None), Dim::Fixed(3), Dim::Dynamic(None)]),
                    false,
                ),
                spec("text", DataType::String, None, false),
                spec("scale", DataType::F32, Some(vec![Dim::Fixed(1)]), true),
            ],
            outputs: vec![],
        };
        let inputs = zero_inputs(&signature, 2).unwrap();
        assert_eq!(signature.check_inputs(&inputs), Ok(()));
        let Some(Value::Tensor(x)) = inputs.get("x") else { panic!("x is a tensor") };
        assert_eq!(x.shape(), [2, 3, 1]);
        assert_eq!(inputs.len(), 2);
    }

    #[test]
    fn what_has_no_neutral_value_is_not_made_up() {
        let mut signature = Signature::default();
        signature.inputs.push(TensorSpec {
            name: "x".into(),
            data_type: DataType::F32,
            shape: Some(vec![Dim::Fixed(usize::MAX), Dim::Fixed(2)]),
            kind: ValueKind::Tensor,
            optional: false,
        });
        assert_eq!(zero_inputs(&signature, 1), None);
        signature.inputs[0].kind = ValueKind::Sequence;
        assert_eq!(zero_inputs(&signature, 1), None);
    }
}
