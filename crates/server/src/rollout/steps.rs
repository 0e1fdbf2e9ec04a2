//! The steps of a rollout: `10:5m,50:10m,100`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    bounds::{PlanError, StepName, cut},
    span,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// Of one step.
const MAX_WATCHED: Duration = Duration::from_hours(168);

/// One step: the share of the traffic, and how long it is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// 1 to 100.
    pub percent: u8,
    /// Whole seconds; only the last step can be without.
    pub watched: Option<Duration>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.percent)?;
        let Some(seconds) = self.watched.map(|watched| watched.as_secs()) else { return Ok(()) };
        let (number, unit) = match seconds {
            seconds if seconds.is_multiple_of(3600) => (seconds / 3600, "h"),
            seconds if seconds.is_multiple_of(60) => (seconds / 60, "m"),
            seconds => (seconds, "s"),
        };
        write!(f, ":{number}{unit}")
    }
}

/// At least one step; each gives more than the one before, and the last gives all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Steps(Vec<Step>);

impl Steps {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The step with this index, from 0; all of the traffic beyond the last.
    pub fn get(&self, index: usize) -> Step {
        self.0.get(index).copied().unwrap_or(Step { percent: 100, watched: None })
    }
}

impl Default for Steps {
    fn default() -> Self {
        let watched = Some(5 * MINUTE);
        Self(vec![
            Step { percent: 10, watched },
            Step { percent: 50, watched },
            Step { percent: 100, watched: None },
        ])
    }
}

impl FromStr for Steps {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if text.trim().is_empty() {
            return Err(PlanError::NoSteps);
        }
        let mut steps: Vec<Step> = Vec::new();
        let mut parts = text.split(',').map(str::trim).enumerate().peekable();
        // They rise from 1 to 100, so that there are never more than a hundred.
        while let Some((index, part)) = parts.next() {
            let name = || StepName::new(index, part);
            let step = step(part, name)?;
            if let Some(before) = steps.last()
                && step.percent <= before.percent
            {
                return Err(PlanError::NotMore { step: name(), before: before.percent });
            }
            let last = parts.peek().is_none();
            if !last && step.watched.is_none() {
                return Err(PlanError::NotWatched { step: name(), percent: step.percent });
            }
            if last && step.percent != 100 {
                return Err(PlanError::NotAll { step: name() });
            }
            steps.push(step);
        }
        Ok(Self(steps))
    }
}

fn step(text: &str, name: impl Fn() -> StepName) -> Result<Step, PlanError> {
    const UNITS: [(&str, Duration); 3] = [("s", SECOND), ("m", MINUTE), ("h", HOUR)];
    let (percent, watched) = match text.split_once(':') {
        Some((percent, watched)) => (percent.trim(), Some(watched.trim())),
        None => (text, None),
    };
    let number = percent.trim_end_matches('%').parse().ok().filter(|percent| (1..=100).contains(percent));
    let percent = number.ok_or_else(|| PlanError::Percent { step: name(), found: cut(percent) })?;
    let read = |text: &str| {
        span::read(text, &UNITS)
            .filter(|watched| (SECOND..=MAX_WATCHED).contains(watched) && watched.subsec_nanos() == 0)
            .ok_or_else(|| PlanError::Watched { step: name(), found: cut(text) })
    };
    Ok(Step { percent, watched: watched.map(read).transpose()? })
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{step}")?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Steps {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<Steps> for String {
    fn from(steps: Steps) -> Self {
        steps.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn steps_are_read() {
        let steps: Steps = " 10:30s, 50%:1.5h ,100".parse().unwrap();
        assert_eq!(
            steps.0,
            [
                Step { percent: 10, watched: Some(Duration::from_secs(30)) },
                Step { percent: 50, watched: Some(Duration::from_mins(90)) },
                Step { percent: 100, watched: None },
            ]
        );
        assert_eq!("100".parse::<Steps>().unwrap().count(), 1);
        assert_eq!("100:1h".parse::<Steps>().unwrap().get(0).watched, Some(Duration::from_hours(1)));
        assert_eq!(Steps::default().to_string(), "10:5m,50:5m,100");
        assert_eq!(steps.get(7), Step { percent: 100, watched: None });
    }

    #[test]
    fn what_is_wrong_is_said_with_the_step() {
        for (text, words) in [
            ("", "no steps"),
            ("10:5m,,100", "step 2 (``): `` is no percentage"),
            ("0:5m,100", "step 1 (`0:5m`): `0` is no percentage"),
            ("10:5m,101", "step 2 (`101`): `101` is no percentage"),
            ("ten:5m,100", "`ten` is no percentage"),
            ("10:5m,50:10x,100", "step 2 (`50:10x`): `10x` is no time"),
            ("10:,100", "step 1 (`10:`): `` is no time"),
            ("10:0s,100", "`0s` is no time"),
            ("10:1.5s,100", "`1.5s` is no time"),
            ("10:200h,100", "`200h` is no time"),
            ("10,100", "step 1 (`10`) has no time"),
            ("10:5m,10:5m,100", "step 2 (`10:5m`) is not more than the step before it (10 %)"),
            ("50:5m,10:5m,100", "step 2 (`10:5m`) is not more"),
            ("100:5m,100", "step 2 (`100`) is not more"),
            ("10:5m,90:5m", "step 2 (`90:5m`) is the last"),
            ("90", "step 1 (`90`) is the last"),
        ] {
            let error = text.parse::<Steps>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!("1".repeat(100_000).parse::<Steps>().unwrap_err().to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn steps_are_written_as_they_are_read(
            shares in prop::collection::btree_set(1_u8..100, 0..20), seconds in 1_u64..604_801, watched: bool
        ) {
            let step = |percent| Step { percent, watched: Some(Duration::from_secs(seconds)) };
            let mut steps: Vec<Step> = shares.into_iter().map(step).collect();
            steps.push(Step { watched: step(100).watched.filter(|_| watched), percent: 100 });
            let steps = Steps(steps);
            prop_assert_eq!(steps.to_string().parse::<Steps>().unwrap(), steps);
        }

        #[test]
        fn whatever_is_written_is_read_or_refused(text in "[0-9:,smh. %]{0,30}") {
            if let Ok(steps) = text.parse::<Steps>() {
                prop_assert_eq!(steps.get(steps.count() - 1).percent, 100);
                prop_assert!(steps.0.windows(2).all(|pair| pair[0].percent < pair[1].percent));
            }
        }
    }
}
