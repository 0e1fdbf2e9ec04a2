//! Which time is asked about, and how finely: within what is kept, and never in more points than somebody can look at.

/// Seconds between two looks, and how long each is kept.
pub const FINE_STEP: u64 = 5;
const FINE_KEPT: u64 = 6 * 3600;
/// Seconds of a sum of looks, and how long each is kept.
pub const COARSE_STEP: u64 = 300;
const COARSE_KEPT: u64 = 28 * 24 * 3600;

/// Points of an answer, where nothing is said and at most.
const USUAL_POINTS: u64 = 240;
const MOST_POINTS: u64 = 1000;

/// The two grains of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Grain {
    Fine,
    Coarse,
}

impl Grain {
    pub(crate) const ALL: [Self; 2] = [Self::Fine, Self::Coarse];

    pub(crate) const fn step(self) -> u64 {
        match self {
            Self::Fine => FINE_STEP,
            Self::Coarse => COARSE_STEP,
        }
    }

    pub(crate) const fn kept(self) -> u64 {
        match self {
            Self::Fine => FINE_KEPT,
            Self::Coarse => COARSE_KEPT,
        }
    }

    /// As it is written in the file.
    pub(crate) const fn number(self) -> i64 {
        match self {
            Self::Fine => 0,
            Self::Coarse => 1,
        }
    }
}

/// A time, cut into steps; in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    from: u64,
    to: u64,
    step: u64,
    grain: Grain,
}

impl Range {
    /// The range that answers a question. `step` is made longer where there would be too many points, or where it is
    /// finer than what is kept of that time. What was before anything is kept of it, or is not yet, is left out.
    pub fn new(from: u64, to: u64, step: Option<u64>, now: u64) -> Self {
        let to = to.min(now);
        let from = from.max(now.saturating_sub(COARSE_KEPT)).min(to);
        let span = to - from;
        let wanted =
            step.unwrap_or_else(|| span.div_ceil(USUAL_POINTS)).max(span.div_ceil(MOST_POINTS)).max(1);
        let grain = if wanted < COARSE_STEP && from + FINE_KEPT >= now { Grain::Fine } else { Grain::Coarse };
        // A step is at most a month: nothing of what is asked can make these too large.
        let step = wanted.min(COARSE_KEPT).next_multiple_of(grain.step());
        Self { from: from / step * step, to: to.next_multiple_of(step), step, grain }
    }

    pub fn from(&self) -> u64 {
        self.from
    }

    pub fn to(&self) -> u64 {
        self.to
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    /// The beginning of every step.
    pub fn steps(&self) -> impl Iterator<Item = u64> + use<> {
        (self.from..self.to).step_by(self.step as usize)
    }

    pub(crate) fn grain(&self) -> Grain {
        self.grain
    }

    /// In which step a time is.
    pub(crate) fn index(&self, at: u64) -> Option<usize> {
        (self.from..self.to).contains(&at).then(|| ((at - self.from) / self.step) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    #[test]
    fn what_is_near_is_fine_and_what_is_far_is_coarse() {
        let hour = Range::new(NOW - 3600, NOW, None, NOW);
        assert_eq!((hour.step(), hour.grain()), (15, Grain::Fine));
        let minute = Range::new(NOW - 60, NOW, Some(1), NOW);
        assert_eq!((minute.step(), minute.steps().count()), (5, 12));
        let day = Range::new(NOW - 24 * 3600, NOW, Some(5), NOW);
        assert_eq!((day.step(), day.grain()), (300, Grain::Coarse));
        let month = Range::new(0, u64::MAX, Some(1), NOW);
        assert_eq!(month.step(), 2700);
        assert_eq!(Range::new(NOW - 3600, NOW, Some(600), NOW).grain(), Grain::Coarse);
        assert_eq!(Range::new(NOW + 5, NOW + 10, None, NOW).steps().count(), 0);
    }

    proptest! {
        #[test]
        fn no_question_has_too_large_an_answer(from: u64, to: u64, step: Option<u64>, back in 0_u64..10_000_000) {
            for (from, to) in [(from, to), (NOW - back, NOW)] {
                let range = Range::new(from, to, step, NOW);
                prop_assert!(range.steps().count() as u64 <= MOST_POINTS + 2);
                prop_assert_eq!(range.step() % range.grain().step(), 0);
                for (index, start) in range.steps().enumerate() {
                    prop_assert_eq!(range.index(start), Some(index));
                }
            }
        }
    }
}
