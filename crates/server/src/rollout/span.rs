//! Spans of time as people write them in a rollout: a number and a unit.

use std::time::Duration;

/// The span that `text` is, in one of these units; nothing where it is none.
pub(super) fn read(text: &str, units: &[(&str, Duration)]) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, unit) = units.iter().find(|(name, _)| *name == unit)?;
    let number: f64 = number.parse().ok()?;
    Duration::try_from_secs_f64(number * unit.as_secs_f64()).ok()
}

/// `1h 5m`, `2m 10s`, `38ms`: the two units that matter.
pub(crate) fn shown(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match seconds {
        0 if span.as_micros() < 1000 => format!("{:.1}ms", span.as_secs_f64() * 1000.0),
        0 => format!("{:.0}ms", span.as_secs_f64() * 1000.0),
        1..10 if span.subsec_millis() > 0 => format!("{:.1}s", span.as_secs_f64()),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        _ => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_are_a_span() {
        const UNITS: [(&str, Duration); 2] =
            [("ms", Duration::from_millis(1)), ("m", Duration::from_mins(1))];
        assert_eq!(read("250ms", &UNITS), Some(Duration::from_millis(250)));
        assert_eq!(read("1.5m", &UNITS), Some(Duration::from_secs(90)));
        for bad in ["", "5", "m", "5s", "-5m", "5 m", "1.2.3m", "5M", "1e3m", "9999999999999999999999m"] {
            assert_eq!(read(bad, &UNITS), None, "{bad}");
        }
    }

    #[test]
    fn spans_are_shown_in_two_units() {
        for (millis, text) in [
            (0, "0.0ms"),
            (38, "38ms"),
            (1000, "1s"),
            (1234, "1.2s"),
            (42_900, "42s"),
            (130_000, "2m 10s"),
            (300_000, "5m"),
            (3_900_000, "1h 5m"),
        ] {
            assert_eq!(shown(Duration::from_millis(millis)), text);
        }
        assert_eq!(shown(Duration::from_micros(250)), "0.2ms");
    }
}
