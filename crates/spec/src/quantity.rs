//! Kubernetes quantities (`500m`, `1.5`, `512Mi`): how documents say how much of a machine is meant.

use thiserror::Error;

/// A text that is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{text}` is not a quantity of {what}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
}

/// Cores in thousandths: `2`, `0.5`, `500m`.
pub fn parse_millis(text: &str) -> Result<u32, QuantityError> {
    let number = match text.strip_suffix('m') {
        Some(digits) => decimal(digits).filter(|number| number.fract() == 0.0),
        None => decimal(text).map(|number| number * 1000.0),
    };
    number
        .map(f64::ceil)
        .filter(|millis| (1.0..=f64::from(u32::MAX)).contains(millis))
        .map(|millis| millis as u32)
        .ok_or_else(|| QuantityError { text: shown(text), what: "cores" })
}

/// Bytes: `1073741824`, `1Gi`, `512Mi`, `1.5G`, `1e9`.
pub fn parse_bytes(text: &str) -> Result<u64, QuantityError> {
    const UNITS: [(&str, f64); 13] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("k", 1e3),
        ("K", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("B", 1.0),
        ("", 1.0),
    ];
    UNITS
        .iter()
        .find_map(|(unit, factor)| Some(decimal(text.strip_suffix(unit)?)? * factor))
        .map(f64::ceil)
        // Beyond this a double holds no longer every byte, and no machine has as many.
        .filter(|bytes| (1.0..=9e15).contains(bytes))
        .map(|bytes| bytes as u64)
        .ok_or_else(|| QuantityError { text: shown(text), what: "memory" })
}

/// Digits with at most one point and a decimal exponent; no sign, no `inf`, no space.
fn decimal(text: &str) -> Option<f64> {
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '-' | '+');
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    (starts && text.len() <= 32 && text.chars().all(plain)).then(|| text.parse().ok())?
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, millis) in [("1", 1000), ("0.5", 500), ("500m", 500), (".25", 250), ("2.0001", 2001)] {
            assert_eq!(parse_millis(text), Ok(millis), "{text}");
        }
        for (text, bytes) in [
            ("1Gi", 1 << 30),
            ("512Mi", 512 << 20),
            ("1.5G", 1_500_000_000),
            ("1e9", 1_000_000_000),
            ("64", 64),
            ("1k", 1000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for bad in ["", "m", "Gi", "-1", "1 Gi", "inf", "nan", "1Xi", "0", "1e99", "١"] {
            assert!(parse_bytes(bad).is_err() && parse_millis(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_bytes("1Xi").unwrap_err().to_string(), "`1Xi` is not a quantity of memory");
    }
}
