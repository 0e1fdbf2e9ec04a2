//! Stacking requests into one batch and splitting the answer, as pure functions with a law: `split(stack(xs)) == xs`.
//!
//! Rows are the first dimension. What may be stacked has equal names, data types and trailing dimensions.

use std::sync::Arc;

use thiserror::Error;

use crate::{
    tensor::{MapKeys, Maps, Tensor, TensorData, Tensors, Value},
    with_elements,
};

/// Why values cannot be stacked or split.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    #[error("`{name}` differs between the requests of a batch")]
    Mixed { name: Arc<str> },
    #[error("`{name}` is not a tensor with rows, so it cannot be batched")]
    NoRows { name: Arc<str> },
    #[error("`{name}` has {actual} rows, but the batch has {expected}")]
    Rows { name: Arc<str>, expected: usize, actual: usize },
}

/// Stacks the inputs of several requests along the first dimension, into buffers of its own.
pub fn stack(items: &[&Tensors]) -> Result<Tensors, BatchError> {
    let Some((first, rest)) = items.split_first() else { return Ok(Tensors::new()) };
    let mut stacked = Tensors::with_capacity(first.len());
    for (position, (name, value)) in first.iter().enumerate() {
        let no_rows = || BatchError::NoRows { name: Arc::clone(name) };
        let mixed = || BatchError::Mixed { name: Arc::clone(name) };
        let Value::Tensor(tensor) = value else { return Err(no_rows()) };
        let mut shape = tensor.shape().to_vec();
        let Some((rows, trailing)) = shape.split_first_mut() else { return Err(no_rows()) };
        let mut parts = Vec::with_capacity(items.len());
        parts.push(tensor.data());
        for item in rest {
            let Some((other_name, Value::Tensor(other))) = item.iter().nth(position) else {
                return Err(mixed());
            };
            match other.shape().split_first() {
                Some((other_rows, other_trailing))
                    if item.len() == first.len() && other_name == name && other_trailing == trailing =>
                {
                    *rows += other_rows;
                    parts.push(other.data());
                }
                _ => return Err(mixed()),
            }
        }
        let data = concatenate(&parts).ok_or_else(mixed)?;
        stacked.push(Arc::clone(name), Tensor::new(shape, data).map_err(|_| mixed())?);
    }
    Ok(stacked)
}

/// Splits the outputs of a batch back into one set a request; `rows` are the requests' rows in order.
pub fn split(outputs: Tensors, rows: &[usize]) -> Result<Vec<Tensors>, BatchError> {
    let total: usize = rows.iter().sum();
    let mut items: Vec<Tensors> = rows.iter().map(|_| Tensors::with_capacity(outputs.len())).collect();
    for (name, value) in outputs {
        let pieces: Vec<Value> = match value {
            Value::Tensor(tensor) => {
                split_tensor(tensor, rows, total, &name)?.into_iter().map(Value::Tensor).collect()
            }
            Value::Maps(Maps { keys, values }) => split_tensor(values, rows, total, &name)?
                .into_iter()
                .map(|values| Value::Maps(Maps { keys: MapKeys::clone(&keys), values }))
                .collect(),
            Value::Sequence(_) => return Err(BatchError::NoRows { name }),
        };
        for (item, piece) in items.iter_mut().zip(pieces) {
            item.push(Arc::clone(&name), piece);
        }
    }
    Ok(items)
}

/// All elements of `parts` in order; `None` where their data types differ.
fn concatenate(parts: &[&TensorData]) -> Option<TensorData> {
    let mut whole =
        TensorData::with_capacity(parts.first()?.data_type(), parts.iter().map(|part| part.len()).sum());
    macro_rules! extend {
        ($part:expr, $($variant:ident)*) => {
            match (&mut whole, $part) {
                $((TensorData::$variant(whole), TensorData::$variant(part)) => whole.extend_from_slice(part),)*
                _ => return None,
            }
        };
    }
    for part in parts {
        extend!(part, Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 Bf16 F32 F64 String);
    }
    Some(whole)
}

fn split_tensor(
    tensor: Tensor,
    rows: &[usize],
    total: usize,
    name: &Arc<str>,
) -> Result<Vec<Tensor>, BatchError> {
    let (shape, data) = tensor.into_parts();
    let Some((first, trailing)) = shape.split_first() else {
        return Err(BatchError::NoRows { name: Arc::clone(name) });
    };
    if *first != total {
        return Err(BatchError::Rows { name: Arc::clone(name), expected: total, actual: *first });
    }
    if rows.len() == 1 {
        return Ok(vec![Tensor::new(shape, data).expect("the parts were a tensor")]);
    }
    let row: usize = trailing.iter().product();
    with_elements!(data, elements => {
        let mut elements = elements.into_iter();
        Ok(rows
            .iter()
            .map(|count| {
                let mut shape = shape.clone();
                shape[0] = *count;
                let piece: Vec<_> = elements.by_ref().take(count * row).collect();
                Tensor::new(shape, piece.into()).expect("a piece has its rows")
            })
            .collect())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(rows: usize, columns: usize, seed: i64) -> Tensors {
        let count = rows * columns;
        let mut item = Tensors::new();
        let numbers: Vec<i64> = (0..count as i64).map(|index| index + seed).collect();
        item.push("numbers", Tensor::new(vec![rows, columns], numbers.into()).unwrap());
        let texts: Vec<String> = (0..rows).map(|row| format!("{seed}-{row}")).collect();
        item.push("texts", Tensor::new(vec![rows], texts.into()).unwrap());
        item
    }

    proptest! {
        #[test]
        fn splitting_what_was_stacked_gives_it_back(
            rows in prop::collection::vec(0_usize..5, 1..6), columns in 0_usize..4,
        ) {
            let items: Vec<Tensors> =
                rows.iter().enumerate().map(|(seed, rows)| item(*rows, columns, seed as i64 * 100)).collect();
            let stacked = stack(&items.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(split(stacked, &rows).unwrap(), items);
        }
    }

    #[test]
    fn what_differs_is_not_stacked() {
        let error = stack(&[&item(1, 2, 0), &item(1, 3, 0)]).unwrap_err();
        assert_eq!(error, BatchError::Mixed { name: "numbers".into() });
        let mut scalar = Tensors::new();
        scalar.push("x", Tensor::new(vec![], vec![1.0_f32].into()).unwrap());
        assert_eq!(stack(&[&scalar, &scalar]).unwrap_err(), BatchError::NoRows { name: "x".into() });
    }

    #[test]
    fn an_answer_with_other_rows_is_not_split() {
        let error = split(item(3, 1, 0), &[1, 1]).unwrap_err();
        assert_eq!(error, BatchError::Rows { name: "numbers".into(), expected: 2, actual: 3 });
    }
}
