//! NumPy's files: an array (`.npy`), and several with names in a ZIP archive (`.npz`).

use std::io::Read;

use flate2::read::DeflateDecoder;
use moorline_core::{Tensor, TensorData};

/// More than any sample is, so that a damaged archive cannot fill the memory.
const MOST_BYTES: u64 = 1 << 34;

/// The array of a `.npy` file.
pub(super) fn array(bytes: &[u8]) -> Result<Tensor, String> {
    let short = || "it ends too early".to_owned();
    if bytes.get(..6) != Some(b"\x93NUMPY") {
        return Err("it is not an array of NumPy".to_owned());
    }
    let number = |range: std::ops::Range<usize>| {
        let bytes = bytes.get(range).ok_or_else(short)?;
        Ok::<usize, String>(bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    };
    let (length, begin) = if bytes.get(6) == Some(&1) { (number(8..10)?, 10) } else { (number(8..12)?, 12) };
    let header = bytes.get(begin..begin + length).ok_or_else(short)?;
    let header = std::str::from_utf8(header).map_err(|_| "its header is not text".to_owned())?;
    let after = |key: &str| {
        let at = header.find(key).ok_or_else(|| format!("its header has no {key}"))?;
        Ok::<&str, String>(header[at + key.len()..].trim_start_matches([':', ' ']))
    };
    if after("'fortran_order'")?.starts_with("True") {
        return Err("it is ordered by columns: save `numpy.ascontiguousarray` of it".to_owned());
    }
    let shape = after("'shape'")?.trim_start_matches('(');
    let shape = shape.split(')').next().unwrap_or_default();
    let sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
    let shape: Vec<usize> = sizes
        .map(|size| size.parse().map_err(|_| "its shape is not numbers".to_owned()))
        .collect::<Result<_, _>>()?;
    let kind = after("'descr'")?.trim_start_matches('\'');
    let kind = kind.split('\'').next().unwrap_or_default();
    let data = bytes.get(begin + length..).unwrap_or_default();
    let data: TensorData = match kind {
        "<f4" => elements(data, f32::from_le_bytes).into(),
        "<f8" => elements(data, f64::from_le_bytes).into(),
        "<i4" => elements(data, i32::from_le_bytes).into(),
        "<i8" => elements(data, i64::from_le_bytes).into(),
        "|u1" => data.to_vec().into(),
        "|i1" => elements(data, i8::from_le_bytes).into(),
        other => return Err(format!("it has elements of `{other}`: save floats or integers")),
    };
    Tensor::new(shape, data).map_err(|error| error.to_string())
}

fn elements<const N: usize, T>(bytes: &[u8], from: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.as_chunks::<N>().0.iter().map(|chunk| from(*chunk)).collect()
}

/// The arrays of a `.npz` file, with their names.
pub(super) fn archive(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let number = |at: usize, size: usize| {
        let bytes = bytes.get(at..at.checked_add(size)?)?;
        Some(bytes.iter().rev().fold(0_usize, |number, &byte| number << 8 | usize::from(byte)))
    };
    let damaged = || "its archive is damaged".to_owned();
    // The end of the directory is the last thing in the file but for a comment.
    let end = bytes.windows(4).rposition(|window| window == b"PK\x05\x06");
    let end = end.ok_or_else(|| "it is not an archive of NumPy".to_owned())?;
    let (count, mut at) =
        (number(end + 10, 2).ok_or_else(damaged)?, number(end + 16, 4).ok_or_else(damaged)?);
    let mut arrays = Vec::with_capacity(count);
    for _ in 0..count {
        let field = |offset: usize, size: usize| number(at + offset, size).ok_or_else(damaged);
        if bytes.get(at..at + 4) != Some(b"PK\x01\x02") {
            return Err(damaged());
        }
        let (method, packed, local) = (field(10, 2)?, field(20, 4)?, field(42, 4)?);
        let name = bytes.get(at + 46..at + 46 + field(28, 2)?).ok_or_else(damaged)?;
        let name = String::from_utf8_lossy(name).into_owned();
        at += 46 + field(28, 2)? + field(30, 2)? + field(32, 2)?;
        let begin = number(local + 26, 2).zip(number(local + 28, 2));
        let (names, extra) = begin.ok_or_else(damaged)?;
        let begin = local + 30 + names + extra;
        let data = bytes.get(begin..begin + packed).ok_or_else(damaged)?;
        let unpacked = match method {
            0 => data.to_vec(),
            8 => {
                let mut unpacked = Vec::new();
                let read = DeflateDecoder::new(data).take(MOST_BYTES).read_to_end(&mut unpacked);
                read.map_err(|_| damaged())?;
                unpacked
            }
            _ => return Err("it is packed in a way that is not read: use `numpy.savez`".to_owned()),
        };
        let tensor = array(&unpacked).map_err(|reason| format!("`{name}`: {reason}"))?;
        arrays.push((name.trim_end_matches(".npy").to_owned(), tensor));
    }
    Ok(arrays)
}
