//! Gives buffers their memory. Launches run in their order, so what nobody reads any more is there for what is written
//! next.

use crate::program::{Argument, BufferPlan, Launch, Range};

/// A buffer before it has memory.
#[derive(Clone, Debug)]
pub(crate) struct Virtual {
    pub(crate) bytes: u64,
    pub(crate) constant: Option<Range>,
}

/// The buffers of a program, and for each virtual one which of them it is. `pinned` ones share with nobody: the host
/// writes inputs and reads outputs at its own pace.
pub(crate) fn assign(
    virtuals: &[Virtual],
    launches: &[Launch],
    pinned: &[usize],
) -> (Vec<BufferPlan>, Vec<usize>) {
    let mut last_use: Vec<Option<usize>> = vec![None; virtuals.len()];
    for (time, launch) in launches.iter().enumerate() {
        for buffer in buffers(launch) {
            last_use[buffer] = Some(time);
        }
    }
    let mut plans: Vec<BufferPlan> = Vec::new();
    let mut place: Vec<Option<usize>> = vec![None; virtuals.len()];
    for (index, buffer) in virtuals.iter().enumerate() {
        if buffer.constant.is_some() || pinned.contains(&index) {
            place[index] = Some(plans.len());
            plans.push(BufferPlan { bytes: buffer.bytes, constant: buffer.constant });
        }
    }
    let mut free: Vec<usize> = Vec::new();
    for (time, launch) in launches.iter().enumerate() {
        for buffer in buffers(launch) {
            if place[buffer].is_none() {
                let bytes = virtuals[buffer].bytes;
                let chosen = if let Some(at) = best(&free, &plans, bytes) {
                    free.swap_remove(at)
                } else {
                    plans.push(BufferPlan { bytes: 0, constant: None });
                    plans.len() - 1
                };
                plans[chosen].bytes = plans[chosen].bytes.max(bytes);
                place[buffer] = Some(chosen);
            }
        }
        // Only now: what a launch reads and what it writes must not be the same.
        let mut done: Vec<usize> = buffers(launch).filter(|&buffer| last_use[buffer] == Some(time)).collect();
        done.sort_unstable();
        done.dedup();
        for buffer in done {
            if virtuals[buffer].constant.is_none() && !pinned.contains(&buffer) {
                free.extend(place[buffer]);
            }
        }
    }
    (plans, place.into_iter().map(Option::unwrap_or_default).collect())
}

/// The free buffer that fits with the least left over, or else the one that has to grow least.
fn best(free: &[usize], plans: &[BufferPlan], bytes: u64) -> Option<usize> {
    let waste = |at: &usize| {
        let size = plans[free[*at]].bytes;
        (size < bytes, size.abs_diff(bytes))
    };
    (0..free.len()).min_by_key(waste)
}

fn buffers(launch: &Launch) -> impl Iterator<Item = usize> {
    launch.arguments.iter().filter_map(|argument| match argument {
        Argument::Buffer(buffer) => Some(*buffer),
        Argument::I32(_) | Argument::F32(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(arguments: &[usize]) -> Launch {
        Launch {
            kernel: "activate".to_owned(),
            items: 1,
            arguments: arguments.iter().map(|&buffer| Argument::Buffer(buffer)).collect(),
            nodes: vec![],
            operations: 0,
            bytes: 0,
        }
    }

    #[test]
    fn a_chain_needs_two_buffers_whatever_its_length() {
        let virtuals: Vec<Virtual> =
            (0..10).map(|index| Virtual { bytes: 100 + index, constant: None }).collect();
        let launches: Vec<Launch> = (0..9).map(|index| launch(&[index, index + 1])).collect();
        let (plans, place) = assign(&virtuals, &launches, &[0, 9]);
        // The two that the host uses, and two that take turns.
        assert_eq!(plans.len(), 4);
        for pair in place.windows(2) {
            assert_ne!(pair[0], pair[1], "nothing is read where it is written");
        }
        for (buffer, &at) in virtuals.iter().zip(&place) {
            assert!(plans[at].bytes >= buffer.bytes);
        }
    }

    #[test]
    fn what_is_still_needed_is_not_written_over() {
        // 0 -> 1 -> 2, and 1 again with 2 -> 3.
        let virtuals = vec![Virtual { bytes: 8, constant: None }; 5];
        let launches = [launch(&[0, 1]), launch(&[1, 2]), launch(&[1, 2, 3]), launch(&[3, 4])];
        let (_, place) = assign(&virtuals, &launches, &[0, 4]);
        assert_ne!(place[1], place[2]);
        assert_ne!(place[1], place[3]);
        assert_ne!(place[2], place[3]);
    }
}
