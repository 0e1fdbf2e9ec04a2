//! Signatures and tensors for the tests of the codecs.

use half::{bf16, f16};
use moorline_core::{DataType, Dim, Signature, Tensor, TensorData, TensorSpec, ValueKind};
use proptest::prelude::*;

/// A spec; a negative size is a dimension of any size.
pub(super) fn spec(name: &str, data_type: DataType, shape: &[i64]) -> TensorSpec {
    let dim = |size: &i64| usize::try_from(*size).map_or(Dim::Dynamic(None), Dim::Fixed);
    TensorSpec {
        name: name.into(),
        data_type,
        shape: Some(shape.iter().map(dim).collect()),
        kind: ValueKind::Tensor,
        optional: false,
    }
}

/// `x: FP32[?, 3]` → `y: FP32[?, 2]`.
pub(super) fn one() -> Signature {
    Signature {
        inputs: vec![spec("x", DataType::F32, &[-1, 3])],
        outputs: vec![spec("y", DataType::F32, &[-1, 2])],
    }
}

/// `age: INT64[?, 1]`, `town: BYTES[?, 1]` → `label: INT64[?]`, `probabilities`: maps.
pub(super) fn several() -> Signature {
    let mut probabilities = spec("probabilities", DataType::F32, &[]);
    probabilities.kind = ValueKind::Maps { key: DataType::String };
    probabilities.shape = None;
    Signature {
        inputs: vec![spec("age", DataType::I64, &[-1, 1]), spec("town", DataType::String, &[-1, 1])],
        outputs: vec![spec("label", DataType::I64, &[-1]), probabilities],
    }
}

/// A signature whose only input and output are exactly like `tensor`.
pub(super) fn identity(tensor: &Tensor) -> Signature {
    let shape: Vec<i64> = tensor.shape().iter().map(|size| *size as i64).collect();
    Signature {
        inputs: vec![spec("x", tensor.data_type(), &shape)],
        outputs: vec![spec("x", tensor.data_type(), &shape)],
    }
}

/// Any tensor without infinities, which JSON cannot tell from NaN.
pub(super) fn tensors() -> impl Strategy<Value = Tensor> {
    let shapes = prop::collection::vec(0_usize..4, 0..4);
    (shapes, prop::sample::select(DataType::ALL.to_vec())).prop_flat_map(|(shape, data_type)| {
        let count = shape.iter().product();
        data(data_type, count).prop_map(move |data| Tensor::new(shape.clone(), data).unwrap())
    })
}

fn data(data_type: DataType, count: usize) -> BoxedStrategy<TensorData> {
    fn of<S: Strategy + 'static>(element: S, count: usize) -> BoxedStrategy<TensorData>
    where
        TensorData: From<Vec<S::Value>>,
        S::Value: Clone,
    {
        prop::collection::vec(element, count).prop_map(TensorData::from).boxed()
    }
    match data_type {
        DataType::Bool => of(any::<bool>(), count),
        DataType::U8 => of(any::<u8>(), count),
        DataType::U16 => of(any::<u16>(), count),
        DataType::U32 => of(any::<u32>(), count),
        DataType::U64 => of(any::<u64>(), count),
        DataType::I8 => of(any::<i8>(), count),
        DataType::I16 => of(any::<i16>(), count),
        DataType::I32 => of(any::<i32>(), count),
        DataType::I64 => of(any::<i64>(), count),
        DataType::F16 => of(
            any::<u16>().prop_map(f16::from_bits).prop_map(|x| if x.is_finite() { x } else { f16::NAN }),
            count,
        ),
        DataType::Bf16 => of(
            any::<u16>().prop_map(bf16::from_bits).prop_map(|x| if x.is_finite() { x } else { bf16::NAN }),
            count,
        ),
        DataType::F32 => of(
            any::<u32>().prop_map(f32::from_bits).prop_map(|x| if x.is_finite() { x } else { f32::NAN }),
            count,
        ),
        DataType::F64 => of(
            any::<u64>().prop_map(f64::from_bits).prop_map(|x| if x.is_finite() { x } else { f64::NAN }),
            count,
        ),
        DataType::String => of(any::<String>(), count),
    }
}
