//! A request whose answer is known: by it a place tells that a release works before it takes requests.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A request whose answer is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// JSON that is posted to `/score`.
    pub request: Value,
    /// What is answered; numbers may differ by `tolerance` of their size.
    pub answer: Value,
    #[serde(default = "tolerance")]
    pub tolerance: f64,
}

fn tolerance() -> f64 {
    1e-4
}

impl Golden {
    /// Whether this is the known answer.
    pub fn is_met_by(&self, answer: &Value) -> bool {
        alike(&self.answer, answer, self.tolerance)
    }
}

fn alike(expected: &Value, found: &Value, tolerance: f64) -> bool {
    match (expected, found) {
        (Value::Number(expected), Value::Number(found)) => {
            let (Some(expected), Some(found)) = (expected.as_f64(), found.as_f64()) else { return false };
            (expected - found).abs() <= tolerance * expected.abs().max(1.0)
        }
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(expected, found)| alike(expected, found, tolerance))
        }
        (Value::Object(expected), Value::Object(found)) => {
            expected.len() == found.len()
                && expected
                    .iter()
                    .all(|(name, value)| found.get(name).is_some_and(|found| alike(value, found, tolerance)))
        }
        (expected, found) => expected == found,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn golden_answers_are_met_within_their_tolerance() {
        let golden =
            Golden { request: json!(1), answer: json!({"y": [100.0, "a"], "n": 0}), tolerance: 0.01 };
        assert!(golden.is_met_by(&json!({"n": 0.005, "y": [100.9, "a"]})));
        for wrong in [
            json!({"n": 0, "y": [102.0, "a"]}),
            json!({"n": 0, "y": [100.0, "b"]}),
            json!({"n": 0, "y": [100.0]}),
            json!({"y": [100.0, "a"]}),
            json!({"n": 0, "y": [100.0, "a"], "z": 1}),
            json!(null),
        ] {
            assert!(!golden.is_met_by(&wrong), "{wrong}");
        }
    }
}
