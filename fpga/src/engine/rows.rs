//! Rows of tensors: a plan is for a fixed number of them, a request may have any.

use moorline_core::{Tensor, TensorData, with_elements};

/// `count` rows of `tensor` from `first` on; where it has fewer, the last one is repeated, whose results nobody sees.
pub(crate) fn rows(tensor: &Tensor, first: usize, count: usize) -> Option<Tensor> {
    let mut shape = tensor.shape().to_vec();
    let there = std::mem::replace(shape.first_mut()?, count);
    let picked = |row: usize| (first + row).min(there.checked_sub(1)?).into();
    let rows: Option<Vec<usize>> = (0..count).map(picked).collect();
    let row: usize = shape.iter().skip(1).product();
    let data = with_elements!(tensor.data(), elements => {
        let mut chosen = Vec::with_capacity(count * row);
        for index in rows? {
            chosen.extend_from_slice(&elements[index * row..(index + 1) * row]);
        }
        chosen.into()
    });
    Tensor::new(shape, data).ok()
}

/// The rows of `parts` one behind the other, without those after the first `count`.
pub(super) fn joined(parts: Vec<Tensor>, empty: Tensor, count: usize) -> Option<Tensor> {
    let mut parts = parts.into_iter();
    let (mut shape, mut data) = parts.next().unwrap_or(empty).into_parts();
    for part in parts {
        append(&mut data, part.into_parts().1)?;
    }
    *shape.first_mut()? = count;
    let elements = shape.iter().product();
    with_elements!(&mut data, held => held.truncate(elements));
    Tensor::new(shape, data).ok()
}

fn append(data: &mut TensorData, more: TensorData) -> Option<()> {
    macro_rules! append {
        ($($variant:ident),*) => {
            match (data, more) {
                $((TensorData::$variant(data), TensorData::$variant(more)) => data.extend(more),)*
                _ => return None,
            }
        };
    }
    append!(Bool, U8, U16, U32, U64, I8, I16, I32, I64, F16, Bf16, F32, F64, String);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: usize) -> Tensor {
        let elements: Vec<f32> = (0..rows * 2).map(|element| element as f32).collect();
        Tensor::new(vec![rows, 2], elements.into()).unwrap()
    }

    #[test]
    fn a_tensor_cut_into_rows_and_joined_is_the_same() {
        for count in 1..8 {
            for step in 1..5 {
                let whole = tensor(count);
                let parts =
                    (0..count).step_by(step).map(|first| rows(&whole, first, step).unwrap()).collect();
                assert_eq!(joined(parts, tensor(0), count), Some(whole));
            }
        }
        assert_eq!(joined(vec![], tensor(1), 0), Some(tensor(0)));
    }
}
