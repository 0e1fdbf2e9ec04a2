//! The binary form of tensors in the Open Inference Protocol: little-endian elements in row-major order, strings
//! each with its length as four bytes before it. REST's binary extension and gRPC's raw contents share it.

use bytemuck::Pod;
use half::{bf16, f16};
use moorline_core::{DataType, TensorData};

use super::error::CodecError;

// The wire is little-endian, and so is every machine that is built for; elements are copied as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// Decodes `count` elements, which `bytes` must hold exactly. Allocates the typed vector and nothing else.
pub(super) fn decode(
    name: &str,
    data_type: DataType,
    count: usize,
    bytes: &[u8],
) -> Result<TensorData, CodecError> {
    if let Some(size) = data_type.size()
        && count.checked_mul(size) != Some(bytes.len())
    {
        return Err(CodecError::tensor(
            name,
            format!(
                "its binary data has {} bytes, but {count} elements of {data_type} have {}",
                bytes.len(),
                count.saturating_mul(size)
            ),
        ));
    }
    Ok(match data_type {
        DataType::Bool => TensorData::Bool(decode_bools(name, bytes)?),
        DataType::U8 => TensorData::U8(bytes.to_vec()),
        DataType::U16 => TensorData::U16(copied::<u16>(bytes)),
        DataType::U32 => TensorData::U32(copied::<u32>(bytes)),
        DataType::U64 => TensorData::U64(copied::<u64>(bytes)),
        DataType::I8 => TensorData::I8(copied::<i8>(bytes)),
        DataType::I16 => TensorData::I16(copied::<i16>(bytes)),
        DataType::I32 => TensorData::I32(copied::<i32>(bytes)),
        DataType::I64 => TensorData::I64(copied::<i64>(bytes)),
        DataType::F16 => TensorData::F16(copied::<f16>(bytes)),
        DataType::Bf16 => TensorData::Bf16(copied::<bf16>(bytes)),
        DataType::F32 => TensorData::F32(copied::<f32>(bytes)),
        DataType::F64 => TensorData::F64(copied::<f64>(bytes)),
        DataType::String => TensorData::String(decode_strings(name, count, bytes)?),
    })
}

/// The elements in `bytes`, which need not be aligned but hold whole elements.
fn copied<T: Pod>(bytes: &[u8]) -> Vec<T> {
    let mut elements = vec![T::zeroed(); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut elements).copy_from_slice(bytes);
    elements
}

fn decode_bools(name: &str, bytes: &[u8]) -> Result<Vec<bool>, CodecError> {
    if let Some(position) = bytes.iter().position(|byte| *byte > 1) {
        let reason = format!("element {position} is {}, but BOOL is 0 or 1", bytes[position]);
        return Err(CodecError::tensor(name, reason));
    }
    Ok(bytes.iter().map(|byte| *byte == 1).collect())
}

fn decode_strings(name: &str, count: usize, mut bytes: &[u8]) -> Result<Vec<String>, CodecError> {
    // Each string has four bytes at least, so that a shape alone never makes memory be asked for.
    if count > bytes.len() / 4 {
        let reason = format!("its binary data has {} bytes, too few for {count} strings", bytes.len());
        return Err(CodecError::tensor(name, reason));
    }
    let mut strings = Vec::with_capacity(count);
    for position in 0..count {
        let element = bytes.split_first_chunk::<4>().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((text, rest)) = element else {
            return Err(CodecError::tensor(
                name,
                format!("its binary data ends within element {position} of {count}"),
            ));
        };
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(CodecError::tensor(name, format!("element {position} is not UTF-8")));
        };
        strings.push(text.to_owned());
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(strings)
    } else {
        let reason = format!("its binary data has {} bytes after its {count} strings", bytes.len());
        Err(CodecError::tensor(name, reason))
    }
}

/// How many bytes [`encode`] appends.
pub(super) fn encoded_length(data: &TensorData) -> usize {
    match (data, data.data_type().size()) {
        (TensorData::String(strings), _) => strings.iter().map(|text| text.len() + 4).sum(),
        (_, size) => data.len() * size.unwrap_or(0),
    }
}

/// Appends the elements. Fails for a string whose length four bytes cannot tell.
pub(super) fn encode(out: &mut Vec<u8>, name: &str, data: &TensorData) -> Result<(), CodecError> {
    match data {
        TensorData::Bool(elements) => out.extend(elements.iter().map(|element| u8::from(*element))),
        TensorData::U8(elements) => out.extend_from_slice(elements),
        TensorData::U16(elements) => copy(out, elements),
        TensorData::U32(elements) => copy(out, elements),
        TensorData::U64(elements) => copy(out, elements),
        TensorData::I8(elements) => copy(out, elements),
        TensorData::I16(elements) => copy(out, elements),
        TensorData::I32(elements) => copy(out, elements),
        TensorData::I64(elements) => copy(out, elements),
        TensorData::F16(elements) => copy(out, elements),
        TensorData::Bf16(elements) => copy(out, elements),
        TensorData::F32(elements) => copy(out, elements),
        TensorData::F64(elements) => copy(out, elements),
        TensorData::String(elements) => {
            for text in elements {
                let Ok(length) = u32::try_from(text.len()) else {
                    return Err(CodecError::Unsupported(format!(
                        "output `{name}` has a string of more than 4 GiB, which this protocol cannot carry"
                    )));
                };
                out.extend_from_slice(&length.to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
    Ok(())
}

fn copy<T: Pod>(out: &mut Vec<u8>, elements: &[T]) {
    out.extend_from_slice(bytemuck::cast_slice(elements));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data_type: DataType, count: usize, bytes: &[u8]) -> String {
        decode("x", data_type, count, bytes).unwrap_err().to_string()
    }

    #[test]
    fn truncated_and_lying_data_are_refused() {
        assert_eq!(
            message(DataType::F32, 2, &[0; 7]),
            "input `x`: its binary data has 7 bytes, but 2 elements of FP32 have 8"
        );
        assert!(message(DataType::F64, usize::MAX, &[0; 8]).contains("its binary data has 8 bytes"));
        assert_eq!(message(DataType::Bool, 2, &[1, 2]), "input `x`: element 1 is 2, but BOOL is 0 or 1");
        let text = DataType::String;
        assert_eq!(
            message(text, usize::MAX, &[0; 8]),
            format!("input `x`: its binary data has 8 bytes, too few for {} strings", usize::MAX)
        );
        assert_eq!(
            message(text, 1, b"\xff\xff\xff\xffabc"),
            "input `x`: its binary data ends within element 0 of 1"
        );
        assert_eq!(message(text, 1, b"\x01\0\0\0\xff"), "input `x`: element 0 is not UTF-8");
        assert_eq!(
            message(text, 1, b"\x01\0\0\0ab"),
            "input `x`: its binary data has 1 bytes after its 1 strings"
        );
    }

    #[test]
    fn elements_need_not_be_aligned() {
        let mut bytes = vec![0];
        encode(&mut bytes, "x", &vec![1.5_f64, -2.0].into()).unwrap();
        assert_eq!(decode("x", DataType::F64, 2, &bytes[1..]).unwrap(), vec![1.5_f64, -2.0].into());
    }
}
