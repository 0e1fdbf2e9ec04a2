//! Tensors for tests: short to make, and compared the way that tests mean it.

use moorline_core::{Tensor, TensorData, Tensors, Value};

/// A tensor of `shape` over `data`; panics when they do not fit.
pub fn numbers(shape: &[usize], data: impl Into<TensorData>) -> Tensor {
    Tensor::new(shape.to_vec(), data.into()).expect("the test's data fits its shape")
}

/// Tensors with these names.
pub fn named<const N: usize>(values: [(&str, Tensor); N]) -> Tensors {
    values.into_iter().map(|(name, tensor)| (name.into(), Value::Tensor(tensor))).collect()
}

/// The FP32 elements under `name`; panics when there are none.
pub fn numbers_of<'a>(tensors: &'a Tensors, name: &str) -> &'a [f32] {
    match tensors.get(name) {
        Some(Value::Tensor(tensor)) => match tensor.data() {
            TensorData::F32(elements) => elements,
            other => panic!("`{name}` holds {}, not FP32", other.data_type()),
        },
        other => panic!("`{name}` is {other:?}, not a tensor"),
    }
}

/// Whether two tensors are the same to the bit, so that a NaN is itself.
pub fn same(left: &Tensor, right: &Tensor) -> bool {
    let data = match (left.data(), right.data()) {
        (TensorData::F16(left), TensorData::F16(right)) => {
            left.iter().map(|number| number.to_bits()).eq(right.iter().map(|number| number.to_bits()))
        }
        (TensorData::Bf16(left), TensorData::Bf16(right)) => {
            left.iter().map(|number| number.to_bits()).eq(right.iter().map(|number| number.to_bits()))
        }
        (TensorData::F32(left), TensorData::F32(right)) => {
            left.iter().map(|number| number.to_bits()).eq(right.iter().map(|number| number.to_bits()))
        }
        (TensorData::F64(left), TensorData::F64(right)) => {
            left.iter().map(|number| number.to_bits()).eq(right.iter().map(|number| number.to_bits()))
        }
        (left, right) => left == right,
    };
    data && left.shape() == right.shape()
}
