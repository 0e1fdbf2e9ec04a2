//! The rules by which one JSON value becomes one element of a tensor, and back.
//!
//! Integers fit float types; a number with a fraction does not fit an integer type, and nothing is ever wrapped,
//! clamped or turned into an infinity. `null` is NaN for float types, and NaN and the infinities are written as
//! `null`, for JSON has no word for them. `BOOL` takes `true`, `false`, 0 and 1; `BYTES` takes strings only.

use half::{bf16, f16};
use moorline_core::DataType;

use super::{
    error::{CodecError, excerpt},
    json::Reader,
    number::Number,
};

/// An element type of tensors, as JSON.
pub(super) trait Element: Sized {
    /// Reads the value that comes next. An error of the element itself has no path yet.
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError>;

    /// Appends a list of elements, brackets included.
    fn write_list(out: &mut Vec<u8>, elements: &[Self]);

    /// Appends one element.
    fn write(&self, out: &mut Vec<u8>);
}

#[cold]
fn unexpected(reader: &mut Reader<'_>, data_type: DataType) -> CodecError {
    match reader.describe() {
        Ok(found) => reader.misfit(String::new(), format!("expected {data_type}, found {found}")),
        Err(error) => error,
    }
}

#[cold]
fn out_of_range(reader: &Reader<'_>, number: Number<'_>, data_type: DataType) -> CodecError {
    let reason = format!("{} is out of the range of {data_type}", excerpt(number.text()));
    reader.misfit_at(number.at, String::new(), reason)
}

#[cold]
fn fractional(reader: &Reader<'_>, number: Number<'_>, data_type: DataType) -> CodecError {
    let reason = format!("{} is not an integer, as {data_type} needs", excerpt(number.text()));
    reader.misfit_at(number.at, String::new(), reason)
}

/// Appends what `serde_json` makes of `value`; floats that are not finite become `null`.
fn append<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("numbers and texts always serialize into memory");
}

macro_rules! written_by_serde {
    () => {
        fn write_list(out: &mut Vec<u8>, elements: &[Self]) {
            append(out, elements);
        }

        fn write(&self, out: &mut Vec<u8>) {
            append(out, self);
        }
    };
}

macro_rules! written_as_f32 {
    () => {
        fn write_list(out: &mut Vec<u8>, elements: &[Self]) {
            write_separated(out, elements);
        }

        fn write(&self, out: &mut Vec<u8>) {
            append(out, &self.to_f32());
        }
    };
}

macro_rules! integer {
    ($($element:ty, $data_type:ident;)*) => {$(
        impl Element for $element {
            fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
                const DATA_TYPE: DataType = DataType::$data_type;
                if !matches!(reader.peek()?, b'-' | b'0'..=b'9') {
                    return Err(unexpected(reader, DATA_TYPE));
                }
                let number = reader.number()?;
                if number.integer {
                    return number.to_integer().ok_or_else(|| out_of_range(reader, number, DATA_TYPE));
                }
                // `2.0` and `1e3` are integers too. The bounds are powers of two, so f64 holds them exactly.
                let value = number.to_f64();
                if value.fract() != 0.0 {
                    return Err(fractional(reader, number, DATA_TYPE));
                }
                let end = (<$element>::MAX / 2 + 1) as f64 * 2.0;
                if value >= <$element>::MIN as f64 && value < end {
                    Ok(value as $element)
                } else {
                    Err(out_of_range(reader, number, DATA_TYPE))
                }
            }

            written_by_serde!();
        }
    )*};
}
integer! {
    u8, U8; u16, U16; u32, U32; u64, U64;
    i8, I8; i16, I16; i32, I32; i64, I64;
}

/// The number that comes next; `None` for `null`.
#[inline]
fn read_number<'a>(reader: &mut Reader<'a>, data_type: DataType) -> Result<Option<Number<'a>>, CodecError> {
    match reader.peek()? {
        b'-' | b'0'..=b'9' => reader.number().map(Some),
        b'n' => reader.null().map(|()| None),
        _ => Err(unexpected(reader, data_type)),
    }
}

macro_rules! float {
    ($($element:ty, $data_type:ident, $nearest:expr, { $($written:tt)* };)*) => {$(
        impl Element for $element {
            #[inline]
            fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
                let Some(number) = read_number(reader, DataType::$data_type)? else { return Ok(Self::NAN) };
                let value: Self = $nearest(number);
                if value.is_finite() {
                    Ok(value)
                } else {
                    Err(out_of_range(reader, number, DataType::$data_type))
                }
            }

            $($written)*
        }
    )*};
}
float! {
    f32, F32, Number::to_f32, { written_by_serde!(); };
    f64, F64, Number::to_f64, { written_by_serde!(); };
    f16, F16, |number: Number<'_>| f16::from_f64(number.to_f64()), { written_as_f32!(); };
    bf16, Bf16, |number: Number<'_>| bf16::from_f64(number.to_f64()), { written_as_f32!(); };
}

fn write_separated<E: Element>(out: &mut Vec<u8>, elements: &[E]) {
    out.push(b'[');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        element.write(out);
    }
    out.push(b']');
}

impl Element for bool {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        match reader.peek()? {
            b't' | b'f' => reader.boolean(),
            b'0' | b'1' => {
                let number = reader.number()?;
                match number.text {
                    b"0" => Ok(false),
                    b"1" => Ok(true),
                    _ => Err(out_of_range(reader, number, DataType::Bool)),
                }
            }
            _ => Err(unexpected(reader, DataType::Bool)),
        }
    }

    written_by_serde!();
}

impl Element for String {
    fn read(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        match reader.peek()? {
            b'"' => Ok(reader.string()?.into_owned()),
            _ => Err(unexpected(reader, DataType::String)),
        }
    }

    written_by_serde!();
}
