//! Nested JSON lists ⇄ tensors: the shape is found while the elements are read, and nothing is kept but them.

use moorline_core::{DataType, Tensor, TensorData, with_elements};

use super::{element::Element, error::CodecError, json::Reader};

/// Reads the value that comes next, a scalar or lists of any depth, appending its elements to `data`; gives its
/// shape. An error of an element carries its path below this value.
pub(super) fn read_into(reader: &mut Reader<'_>, data: &mut TensorData) -> Result<Vec<usize>, CodecError> {
    with_elements!(data, elements => read_elements(reader, elements))
}

/// Reads a whole tensor of a data type; errors name it `name`.
pub(super) fn read_tensor(
    reader: &mut Reader<'_>,
    name: &str,
    data_type: DataType,
    capacity: usize,
) -> Result<(Vec<usize>, TensorData), CodecError> {
    let mut data = TensorData::with_capacity(data_type, capacity);
    let shape = read_into(reader, &mut data).map_err(|error| error.within(name, ""))?;
    Ok((shape, data))
}

fn read_elements<E: Element>(reader: &mut Reader<'_>, out: &mut Vec<E>) -> Result<Vec<usize>, CodecError> {
    // The size of each level, known once a first list of it was closed.
    let mut sizes: Vec<Option<usize>> = Vec::new();
    // The lists that are open, by how many elements each has had.
    let mut counts: Vec<usize> = Vec::new();
    // How many lists each scalar is in, known from the first scalar on.
    let mut rank = None;
    loop {
        let mut closed = false;
        if reader.peek()? == b'[' {
            if rank == Some(counts.len()) {
                return Err(unwanted_list(reader, &counts));
            }
            closed = !reader.open_list()?;
            counts.push(0);
            if sizes.len() < counts.len() {
                sizes.push(None);
            }
            if !closed {
                continue;
            }
        } else {
            let known = *rank.get_or_insert(sizes.len());
            if known != counts.len() {
                return Err(unwanted_scalar(reader, &counts));
            }
            match E::read(reader) {
                Ok(element) => out.push(element),
                Err(error) => return Err(error.within("", &path_text(&counts))),
            }
        }
        // One value is complete, and with it perhaps the lists that it was the last element of.
        loop {
            if closed {
                let count = counts.pop().unwrap_or_default();
                let size = &mut sizes[counts.len()];
                match *size {
                    None => *size = Some(count),
                    Some(expected) if expected != count => {
                        return Err(ragged(reader, &counts, expected, count));
                    }
                    Some(_) => {}
                }
            }
            let Some(count) = counts.last_mut() else {
                return Ok(sizes.into_iter().map(Option::unwrap_or_default).collect());
            };
            *count += 1;
            closed = !reader.next_element()?;
            if !closed {
                break;
            }
        }
    }
}

/// The indices of the element that comes next: `[2][0]`.
fn path_text(counts: &[usize]) -> String {
    counts.iter().fold(String::new(), |path, index| path + &format!("[{index}]"))
}

#[cold]
fn unwanted_list(reader: &Reader<'_>, counts: &[usize]) -> CodecError {
    reader.misfit(path_text(counts), "expected a single value, as before it, found a list".to_owned())
}

#[cold]
fn unwanted_scalar(reader: &mut Reader<'_>, counts: &[usize]) -> CodecError {
    match reader.describe() {
        Ok(found) => {
            reader.misfit(path_text(counts), format!("expected a list, as before it, found {found}"))
        }
        Err(error) => error,
    }
}

#[cold]
fn ragged(reader: &Reader<'_>, counts: &[usize], expected: usize, actual: usize) -> CodecError {
    reader.misfit(
        path_text(counts),
        format!("a list of {actual} elements where the ones before it have {expected}"),
    )
}

/// Appends a tensor as nested lists.
pub(super) fn write_nested(out: &mut Vec<u8>, tensor: &Tensor) {
    with_elements!(tensor.data(), elements => write_level(out, tensor.shape(), elements));
}

/// Appends all elements of a tensor as one list.
pub(super) fn write_flat(out: &mut Vec<u8>, data: &TensorData) {
    with_elements!(data, elements => Element::write_list(out, elements));
}

// Recursion is as deep as the tensor's rank, which the codecs and the models bound.
fn write_level<E: Element>(out: &mut Vec<u8>, shape: &[usize], elements: &[E]) {
    match shape {
        [] => elements.iter().for_each(|element| element.write(out)),
        [_] => E::write_list(out, elements),
        [size, trailing @ ..] => {
            let step: usize = trailing.iter().product();
            out.push(b'[');
            for index in 0..*size {
                if index > 0 {
                    out.push(b',');
                }
                write_level(out, trailing, &elements[index * step..(index + 1) * step]);
            }
            out.push(b']');
        }
    }
}

/// Appends a list of objects: one a row of `values`, whose shape is `[rows, keys]`. Each key is written as given,
/// colon included.
pub(super) fn write_records(out: &mut Vec<u8>, keys: &[Vec<u8>], values: &Tensor) {
    let rows = values.shape().first().copied().unwrap_or(0);
    with_elements!(values.data(), elements => {
        out.push(b'[');
        for row in 0..rows {
            out.extend_from_slice(if row > 0 { b",{" } else { b"{" });
            let cells = elements.iter().skip(row * keys.len());
            for (index, (key, cell)) in keys.iter().zip(cells).enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(key);
                cell.write(out);
            }
            out.push(b'}');
        }
        out.push(b']');
    });
}

/// Appends one JSON text.
pub(super) fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text always serializes into memory");
}

/// Appends a shape as JSON.
pub(super) fn write_shape(out: &mut Vec<u8>, shape: &[usize]) {
    serde_json::to_writer(out, shape).expect("numbers always serialize into memory");
}
