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

/// Stacks the inputs of several requests along the first dimension. `items` must not be empty.
pub fn stack(items: Vec<Tensors>) -> Result<Tensors, BatchError> {
    let mut items = items.into_iter();
    let Some(first) = items.next() else { return Ok(Tensors::new()) };
    let rest: Vec<Tensors> = items.collect();
    if rest.is_empty() {
        return Ok(first);
    }
    let mut columns = Vec::with_capacity(first.len());
    for (name, value) in first {
        let Value::Tensor(tensor) = value else { return Err(BatchError::NoRows { name }) };
        if tensor.shape().is_empty() {
            return Err(BatchError::NoRows { name });
        }
        columns.push((name, tensor.into_parts()));
    }
    for item in rest {
        if item.len() != columns.len() {
            let name = columns.first().map_or_else(|| Arc::from(""), |(name, _)| Arc::clone(name));
            return Err(BatchError::Mixed { name });
        }
        for ((name, (shape, data)), (other_name, other)) in columns.iter_mut().zip(item) {
            let mixed = || BatchError::Mixed { name: Arc::clone(name) };
            let Value::Tensor(other) = other else { return Err(mixed()) };
            let (other_shape, other_data) = other.into_parts();
            if *name != other_name || other_shape.len() != shape.len() || other_shape[1..] != shape[1..] {
                return Err(mixed());
            }
            append(data, other_data).map_err(|()| mixed())?;
            shape[0] += other_shape[0];
        }
    }
    columns
        .into_iter()
        .map(|(name, (shape, data))| {
            let tensor =
                Tensor::new(shape, data).map_err(|_| BatchError::Mixed { name: Arc::clone(&name) })?;
            Ok((name, Value::Tensor(tensor)))
        })
        .collect()
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

fn append(data: &mut TensorData, other: TensorData) -> Result<(), ()> {
    macro_rules! append {
        ($($variant:ident)*) => {
            match (data, other) {
                $((TensorData::$variant(own), TensorData::$variant(mut other)) => own.append(&mut other),)*
                _ => return Err(()),
            }
        };
    }
    append!(Bool U8 U16 U32 U64 I8 I16 I32 I64 F16 Bf16 F32 F64 String);
    Ok(())
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
            let stacked = stack(items.clone()).unwrap();
            prop_assert_eq!(split(stacked, &rows).unwrap(), items);
        }
    }

    #[test]
    fn what_differs_is_not_stacked() {
        let error = stack(vec![item(1, 2, 0), item(1, 3, 0)]).unwrap_err();
        assert_eq!(error, BatchError::Mixed { name: "numbers".into() });
        let mut scalar = Tensors::new();
        scalar.push("x", Tensor::new(vec![], vec![1.0_f32].into()).unwrap());
        assert_eq!(stack(vec![scalar.clone(), scalar]).unwrap_err(), BatchError::NoRows { name: "x".into() });
    }

    #[test]
    fn an_answer_with_other_rows_is_not_split() {
        let error = split(item(3, 1, 0), &[1, 1]).unwrap_err();
        assert_eq!(error, BatchError::Rows { name: "numbers".into(), expected: 2, actual: 3 });
    }
}
