//! What a plain scalar means, by YAML 1.1's rules as PyYAML has them.

use super::Content;

/// Decides between null, boolean, integer, float and text.
pub(super) fn resolve(text: &str) -> Content {
    let raw = || text.into();
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Content::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Content::Bool(true, raw());
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Content::Bool(false, raw());
        }
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Content::Text(text.to_owned());
    }
    if let Some(integer) = integer(text) {
        return Content::Int(integer, raw());
    }
    if let Some(float) = float(text) {
        return Content::Float(float, raw());
    }
    Content::Text(text.to_owned())
}

/// Binary, octal, decimal, hexadecimal and base 60, with `_` anywhere between digits. `None` beyond 127 bits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let magnitude = if let Some(binary) = digits.strip_prefix("0b") {
        in_base(binary, 2)?
    } else if let Some(hexadecimal) = digits.strip_prefix("0x") {
        in_base(hexadecimal, 16)?
    } else if digits == "0" {
        0
    } else if let Some(octal) = digits.strip_prefix('0') {
        in_base(octal, 8)?
    } else if digits.contains(':') {
        base_60(digits)?
    } else {
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        in_base(digits, 10)?
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn in_base(digits: &str, base: u32) -> Option<i128> {
    let mut found = false;
    let mut value: i128 = 0;
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = c.to_digit(base)?;
        value = value.checked_mul(i128::from(base))?.checked_add(i128::from(digit))?;
        found = true;
    }
    found.then_some(value)
}

/// `1:30` is ninety.
fn base_60(text: &str) -> Option<i128> {
    let mut parts = text.split(':');
    let first = parts.next()?;
    if !first.starts_with(|c: char| matches!(c, '1'..='9')) {
        return None;
    }
    let mut value = in_base(first, 10)?;
    for part in parts {
        value = value.checked_mul(60)?.checked_add(i128::from(below_60(part)?))?;
    }
    Some(value)
}

fn below_60(part: &str) -> Option<u8> {
    let digits = part.bytes().all(|byte| byte.is_ascii_digit());
    (digits && (1..=2).contains(&part.len())).then(|| part.parse().ok()).flatten().filter(|value| *value < 60)
}

/// A float needs a point, and a sign in its exponent: `1e3` is text, `1.0e+3` is a thousand.
fn float(text: &str) -> Option<f64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = body.len() != text.len();
    let magnitude = match body {
        ".inf" | ".Inf" | ".INF" => f64::INFINITY,
        ".nan" | ".NaN" | ".NAN" if !signed => f64::NAN,
        _ if body.contains(':') => base_60_float(body)?,
        _ => {
            let (mantissa, exponent) = match body.find(['e', 'E']) {
                Some(at) => (&body[..at], Some(&body[at + 1..])),
                None => (body, None),
            };
            let (whole, fraction) = mantissa.split_once('.')?;
            let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_');
            let begins = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
            // Without digits before the point there must be some behind it, and no sign.
            let shaped = if whole.is_empty() { !signed && begins(fraction) } else { begins(whole) };
            if !shaped || !digits(whole) || !digits(fraction) {
                return None;
            }
            if let Some(exponent) = exponent {
                let power = exponent.strip_prefix(['+', '-'])?;
                if power.is_empty() || !power.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
            }
            body.replace('_', "").parse().ok()?
        }
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn base_60_float(body: &str) -> Option<f64> {
    let (whole, fraction) = body.split_once('.')?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_') || !whole.contains(':') {
        return None;
    }
    let mut parts = whole.split(':');
    let first = parts.next()?;
    if !first.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut value = in_base(first, 10)? as f64;
    for part in parts {
        value = value * 60.0 + f64::from(below_60(part)?);
    }
    let fraction: f64 = format!("0.{}", fraction.replace('_', "")).parse().ok()?;
    Some(value + fraction)
}

/// A float as Python writes it: `0.1`, `1e+16`, `1e-05`.
pub(super) fn float_text(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    let text = format!("{number:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_mean_what_pyyaml_says() {
        for text in ["yes", "On", "TRUE", "true"] {
            assert!(matches!(resolve(text), Content::Bool(true, _)), "{text}");
        }
        for text in ["no", "OFF", "False"] {
            assert!(matches!(resolve(text), Content::Bool(false, _)), "{text}");
        }
        for text in ["", "~", "null", "NULL"] {
            assert_eq!(resolve(text), Content::Null, "{text}");
        }
        let integers = [
            ("0", 0),
            ("-0", 0),
            ("12", 12),
            ("+12", 12),
            ("-1_000", -1000),
            ("0777", 511),
            ("0o777", -1),
            ("0x1F", 31),
            ("0b101", 5),
            ("1:30", 90),
            ("190:20:30", 685_230),
            ("09", -1),
            ("1:60", -1),
            ("-", -1),
            ("1-2", -1),
            ("99999999999999999999999999999999999999999", -1),
        ];
        for (text, value) in integers {
            match resolve(text) {
                Content::Int(integer, _) => assert_eq!(integer, value, "{text}"),
                other => assert_eq!((value, other), (-1, Content::Text(text.to_owned()))),
            }
        }
        let floats =
            [("1.", 1.0), ("1.5", 1.5), (".5", 0.5), ("-1.0e+3", -1000.0), ("6.8523015e+5", 685_230.15)];
        for (text, value) in floats {
            assert!(matches!(resolve(text), Content::Float(float, _) if float == value), "{text}");
        }
        assert!(matches!(resolve(".inf"), Content::Float(float, _) if float.is_infinite()));
        assert!(matches!(resolve("1:30.5"), Content::Float(float, _) if float == 90.5));
        for text in ["1e3", "1.0e3", "-.5", "2001-12-14", "1.2.3", "y", "n", "None", ".", "..", "-.nan", "0x"]
        {
            assert_eq!(resolve(text), Content::Text(text.to_owned()), "{text}");
        }
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (0.1, "0.1"),
            (3.0, "3.0"),
            (1e16, "1e+16"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e200, "1e+200"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(float_text(number), text);
        }
    }
}
