//! Numbers as JSON writes them, and their nearest values in the types of tensors.
//!
//! Most numbers in requests are short, and for those one multiplication or division of two exact floats is already
//! the nearest value; the standard library's parser, which is right for every number, does the others.

use std::num::ParseIntError;

/// A number as it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number<'a> {
    /// Digits, sign, point and exponent only.
    pub(super) text: &'a [u8],
    /// Where it begins in the body.
    pub(super) at: usize,
    /// Whether it is written without a fraction and an exponent.
    pub(super) integer: bool,
    /// Its value, where it is short enough.
    pub(super) decimal: Option<Decimal>,
}

/// `mantissa` × 10^`exponent`, exactly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    pub(super) negative: bool,
    pub(super) mantissa: u64,
    pub(super) exponent: i64,
}

impl Decimal {
    /// As many digits always fit a u64.
    pub(super) const MAX_DIGITS: usize = 19;

    /// The nearest f64, where a single rounding gives it: both operands are exact.
    #[inline]
    fn nearest(self) -> Option<f64> {
        const POWERS: [f64; 23] = [
            1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17,
            1e18, 1e19, 1e20, 1e21, 1e22,
        ];
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        if self.mantissa > 1 << f64::MANTISSA_DIGITS {
            return None;
        }
        let mantissa = self.mantissa as f64;
        let value = if self.exponent < 0 { mantissa / power } else { mantissa * power };
        Some(if self.negative { -value } else { value })
    }
}

impl<'a> Number<'a> {
    pub(super) fn text(&self) -> &'a str {
        std::str::from_utf8(self.text).expect("a number is ASCII")
    }

    /// The value of a number, if it is written as an integer and `T` holds it.
    #[inline]
    pub(super) fn to_integer<T: TryFrom<i128> + std::str::FromStr<Err = ParseIntError>>(self) -> Option<T> {
        match self.decimal {
            _ if !self.integer => None,
            Some(Decimal { negative, mantissa, .. }) => {
                let value = i128::from(mantissa);
                T::try_from(if negative { -value } else { value }).ok()
            }
            None => self.text().parse().ok(),
        }
    }

    /// The nearest f64; infinite where it is out of range.
    #[inline]
    pub(super) fn to_f64(self) -> f64 {
        self.decimal.and_then(Decimal::nearest).unwrap_or_else(|| parse(self.text()))
    }

    /// The nearest f32; infinite where it is out of range.
    #[inline]
    pub(super) fn to_f32(self) -> f32 {
        // Rounding the nearest f64 once more gives the nearest f32 unless it lies in the middle of two of them, where
        // the digits that are gone would have decided. Below the smallest normal number the middles lie elsewhere.
        const DROPPED: u64 = (1 << 29) - 1;
        const MIDDLE: u64 = 1 << 28;
        match self.decimal.and_then(Decimal::nearest) {
            Some(wide)
                if wide.to_bits() & DROPPED != MIDDLE
                    && (wide == 0.0 || wide.abs() >= f64::from(f32::MIN_POSITIVE)) =>
            {
                wide as f32
            }
            _ => parse(self.text()),
        }
    }
}

#[cold]
fn parse<F: std::str::FromStr<Err = std::num::ParseFloatError>>(text: &str) -> F {
    text.parse().expect("every number of JSON is one of Rust")
}
