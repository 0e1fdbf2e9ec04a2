//! What a rollout may not be worse than, as people write it: `1%`, `200ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::span;

/// The gateway's histogram tells longer ones not apart from this.
const MAX_LATENCY: Duration = Duration::from_mins(3);
/// Of a text that cannot be, so much is repeated.
const SHOWN: usize = 40;

/// Why something of a rollout is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    #[error("there are no steps; write them like 10:5m,50:10m,100")]
    NoSteps,
    #[error("{step}: `{found}` is no percentage; it is 1 to 100")]
    Percent { step: StepName, found: String },
    #[error("{step}: `{found}` is no time; write it like 30s, 5m or 1h, from 1s to 168h")]
    Watched { step: StepName, found: String },
    #[error("{step} has no time; every step but the last is watched, as in {percent}:5m")]
    NotWatched { step: StepName, percent: u8 },
    #[error("{step} is not more than the step before it ({before} %)")]
    NotMore { step: StepName, before: u8 },
    #[error("{step} is the last, and the last is 100")]
    NotAll { step: StepName },
    #[error("`{found}` is no rate of errors; write it like 1% or 0.5%, up to 100%")]
    ErrorRate { found: String },
    #[error("`{found}` is no latency; write it like 200ms or 1.5s, from 1ms to less than 3m")]
    Latency { found: String },
}

/// Which step, by its number and how it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepName {
    number: usize,
    text: String,
}

impl StepName {
    pub(super) fn new(index: usize, text: &str) -> Self {
        Self { number: index + 1, text: cut(text) }
    }
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} (`{}`)", self.number, self.text)
    }
}

/// The beginning of what somebody wrote.
pub(super) fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The share of requests that may fail, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ErrorRate(f64);

impl ErrorRate {
    pub(super) fn percent(self) -> f64 {
        self.0
    }
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self(1.0)
    }
}

impl FromStr for ErrorRate {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let number = text.trim().strip_suffix('%').map(str::trim_end);
        let number = number.filter(|number| number.chars().all(|c| c.is_ascii_digit() || c == '.'));
        number
            .and_then(|number| number.parse().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Self)
            .ok_or_else(|| PlanError::ErrorRate { found: cut(text) })
    }
}

impl fmt::Display for ErrorRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// How long a request may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Latency(Duration);

impl Latency {
    pub(super) fn seconds(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl FromStr for Latency {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        const UNITS: [(&str, Duration); 3] =
            [("ms", Duration::from_millis(1)), ("s", Duration::from_secs(1)), ("m", Duration::from_mins(1))];
        span::read(text.trim(), &UNITS)
            .filter(|latency| (Duration::from_millis(1)..MAX_LATENCY).contains(latency))
            .map(Self)
            .ok_or_else(|| PlanError::Latency { found: cut(text) })
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{}ms", self.0.as_nanos() as f64 / 1e6)
        } else {
            write!(f, "{}s", self.0.as_secs_f64())
        }
    }
}

impl TryFrom<String> for ErrorRate {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<ErrorRate> for String {
    fn from(rate: ErrorRate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for Latency {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<Latency> for String {
    fn from(latency: Latency) -> Self {
        latency.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_written_as_they_are_read() {
        for text in ["1%", "0.5%", "0%", "100%", "12.25%"] {
            assert_eq!(text.parse::<ErrorRate>().unwrap().to_string(), text);
        }
        for text in ["200ms", "1.5s", "1ms", "2s", "0.5ms", "2.5ms", "179s"] {
            match text.parse::<Latency>() {
                Ok(latency) => assert_eq!(latency.to_string(), text),
                Err(_) => assert_eq!(text, "0.5ms"),
            }
        }
        assert_eq!("2m".parse::<Latency>().unwrap().to_string(), "120s");
        assert_eq!("1 %".parse::<ErrorRate>().unwrap(), ErrorRate::default());
    }

    #[test]
    fn what_is_no_bound_is_refused_with_what_it_was() {
        for bad in ["", "1", "%", "-1%", "101%", "NaN%", "inf%", "1e1%", "0.01", "one%"] {
            let error = bad.parse::<ErrorRate>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("0.5%"), "{error}");
        }
        for bad in ["", "200", "0ms", "3m", "180s", "1h", "ms", "-5ms", "fast"] {
            let error = bad.parse::<Latency>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("200ms"), "{error}");
        }
        let long = "9".repeat(5000);
        assert!(long.parse::<Latency>().unwrap_err().to_string().len() < 200);
    }
}
