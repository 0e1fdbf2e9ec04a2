//! What to do next for a deployment: a pure function of what is asked for and what is there.

use moorline_core::ReplicaState;

/// Replicas that start at the same time, at most: each of them keeps a processor busy.
const STARTING_AT_ONCE: usize = 4;
/// Replicas beyond the number asked for while older ones are replaced.
const SURGE: usize = 1;

/// One replica that was not told to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// It is of the newest revision.
    pub(crate) current: bool,
    pub(crate) state: ReplicaState,
}

/// How many to start, and which to stop.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) start: usize,
    pub(crate) stop: Vec<usize>,
}

/// `seen` is in the order of starts. A `failed` revision is not started any more, and older replicas are left alone.
pub(crate) fn plan(wanted: usize, failed: bool, seen: &[Seen]) -> Plan {
    let indices = |current: bool, ready: bool| {
        let suits =
            move |seen: &Seen| seen.current == current && (seen.state == ReplicaState::Ready) == ready;
        seen.iter().enumerate().filter(move |(_, seen)| suits(seen)).map(|(index, _)| index)
    };
    let (ready, unready) = (indices(true, true).count(), indices(true, false).count());
    let (old_ready, old_unready) = (indices(false, true).count(), indices(false, false).count());
    if failed {
        return Plan { start: 0, stop: indices(true, false).collect() };
    }
    let mut plan = Plan::default();

    // Too many of the newest: those that do not serve go first, then the youngest.
    let surplus = (ready + unready).saturating_sub(wanted);
    let youngest_first = |current, ready| indices(current, ready).collect::<Vec<_>>().into_iter().rev();
    plan.stop.extend(youngest_first(true, false).chain(youngest_first(true, true)).take(surplus));

    // Older ones go as far as the newest serve in their place.
    let serving = ready.min(wanted);
    if serving > 0 || wanted == 0 {
        plan.stop.extend(indices(false, false));
        let enough = (serving + old_ready).saturating_sub(wanted).min(old_ready);
        plan.stop.extend(indices(false, true).take(enough));
    }

    let missing = wanted.saturating_sub(ready + unready);
    let starting = indices(true, false).filter(|index| seen[*index].state == ReplicaState::Starting).count();
    let room = if old_ready + old_unready == 0 {
        missing
    } else {
        // What is told to stop now still has its memory, so it counts. The first one may come on top of anything.
        let all = ready + unready + old_ready + old_unready;
        (wanted + SURGE).saturating_sub(all).max(usize::from(ready + unready == 0))
    };
    plan.start = missing.min(room).min(STARTING_AT_ONCE.saturating_sub(starting));
    plan
}

#[cfg(test)]
mod tests {
    use ReplicaState::{BackingOff, Ready, Starting, Unready};

    use super::*;

    fn seen(current: &[ReplicaState], old: &[ReplicaState]) -> Vec<Seen> {
        let of = |current: bool| move |state: &ReplicaState| Seen { current, state: *state };
        old.iter().map(of(false)).chain(current.iter().map(of(true))).collect()
    }

    fn planned(wanted: usize, current: &[ReplicaState], old: &[ReplicaState]) -> (usize, Vec<usize>) {
        let Plan { start, stop } = plan(wanted, false, &seen(current, old));
        (start, stop)
    }

    #[test]
    fn a_first_revision_starts_a_few_at_a_time_and_rests() {
        assert_eq!(planned(1, &[], &[]), (1, vec![]));
        assert_eq!(planned(9, &[], &[]), (4, vec![]));
        assert_eq!(planned(9, &[Starting; 4], &[]), (0, vec![]));
        assert_eq!(planned(9, &[Starting, Ready, Ready], &[]), (3, vec![]));
        assert_eq!(planned(2, &[Ready, Ready], &[]), (0, vec![]));
        assert_eq!(planned(2, &[Ready, BackingOff], &[]), (0, vec![]));
    }

    #[test]
    fn fewer_are_had_by_stopping_what_serves_least() {
        assert_eq!(planned(1, &[Ready, Unready, Ready], &[]), (0, vec![1, 2]));
        assert_eq!(planned(0, &[Ready, Ready], &[]), (0, vec![1, 0]));
    }

    #[test]
    fn an_update_never_has_fewer_that_serve_than_before() {
        assert_eq!(planned(2, &[], &[Ready, Ready]), (1, vec![]));
        assert_eq!(planned(2, &[Starting], &[Ready, Ready]), (0, vec![]));
        assert_eq!(planned(2, &[Ready], &[Ready, Ready]), (0, vec![0]));
        assert_eq!(planned(2, &[Ready], &[Ready]), (1, vec![]));
        assert_eq!(planned(2, &[Ready, Ready], &[Ready]), (0, vec![0]));
        assert_eq!(planned(1, &[Ready], &[Ready, Ready, Unready]), (0, vec![2, 0, 1]));
        assert_eq!(planned(0, &[], &[Ready, Ready]), (0, vec![0, 1]));
        assert_eq!(planned(1, &[], &[Ready, Ready, Ready]), (1, vec![]));
    }

    #[test]
    fn a_failed_revision_leaves_the_older_ones_alone() {
        let plan = plan(2, true, &seen(&[Ready, Starting], &[Ready]));
        assert_eq!(plan, Plan { start: 0, stop: vec![2] });
    }

    /// Played out with replicas that always become ready, every update ends with what was asked for, and there never
    /// are fewer ready ones than both before and after.
    #[test]
    fn every_update_ends_and_keeps_serving() {
        for old in 0..6 {
            for wanted in 0..6 {
                let mut replicas = vec![Seen { current: false, state: Ready }; old];
                for _ in 0..100 {
                    let Plan { start, mut stop } = plan(wanted, false, &replicas);
                    stop.sort_unstable();
                    for index in stop.iter().rev() {
                        replicas.remove(*index);
                    }
                    let serving = replicas.iter().filter(|seen| seen.state == Ready).count();
                    assert!(serving >= old.min(wanted), "{old} → {wanted}: {serving} serve");
                    for seen in &mut replicas {
                        seen.state = Ready;
                    }
                    replicas.extend(vec![Seen { current: true, state: Starting }; start]);
                }
                assert_eq!(replicas.len(), wanted, "{old} → {wanted}");
                assert!(replicas.iter().all(|seen| seen.current));
            }
        }
    }
}
