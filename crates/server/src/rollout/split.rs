//! How an endpoint's traffic is split while one of its deployments is rolled out.

use std::collections::BTreeMap;

use moorline_core::Name;

/// Percentages by deployment.
pub(crate) type Traffic = BTreeMap<Name, u8>;

/// `percent` for `to`, and the rest for those that had traffic before, in the proportions that they had among themselves:
/// 100 in all. Who rounding leaves nothing is left out; `before` must have somebody beside `to`, or `to` gets all.
pub(crate) fn split(before: &Traffic, to: &Name, percent: u8) -> Traffic {
    let rest = u32::from(100 - percent.min(100));
    let others: Vec<(&Name, u32)> = before
        .iter()
        .filter(|(name, share)| *name != to && **share > 0)
        .map(|(name, share)| (name, u32::from(*share)))
        .collect();
    let sum: u32 = others.iter().map(|(_, share)| share).sum();
    if rest == 0 || sum == 0 {
        return Traffic::from([(to.clone(), 100)]);
    }
    // What is left over after rounding down goes to those that lost most by it; of equals, to the first.
    let mut shares: Vec<(&Name, u32, u32)> =
        others.iter().map(|(name, share)| (*name, share * rest / sum, share * rest % sum)).collect();
    let given: u32 = shares.iter().map(|(_, share, _)| share).sum();
    shares.sort_by(|(one, _, lost), (other, _, more)| more.cmp(lost).then(one.cmp(other)));
    let mut traffic = Traffic::from([(to.clone(), percent)]);
    for (index, (name, share, _)) in shares.into_iter().enumerate() {
        let share = share + u32::from((index as u32) < rest - given);
        if let Some(share) = u8::try_from(share).ok().filter(|share| *share > 0) {
            traffic.insert(name.clone(), share);
        }
    }
    traffic
}

/// `blue=90 green=10`, as the command line takes it.
pub(crate) fn shown(traffic: &Traffic) -> String {
    let given = traffic.iter().filter(|(_, share)| **share > 0);
    given.map(|(name, share)| format!("{name}={share}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn traffic(pairs: &[(&str, u8)]) -> Traffic {
        pairs.iter().map(|(name, share)| (name.parse().unwrap(), *share)).collect()
    }

    #[test]
    fn the_rest_keeps_its_proportions() {
        let green: Name = "green".parse().unwrap();
        let at = |before: &[(&str, u8)], percent| split(&traffic(before), &green, percent);
        assert_eq!(at(&[("blue", 100)], 10), traffic(&[("blue", 90), ("green", 10)]));
        assert_eq!(at(&[("blue", 100), ("green", 0)], 100), traffic(&[("green", 100)]));
        assert_eq!(
            at(&[("blue", 60), ("grey", 30), ("green", 10)], 40),
            traffic(&[("blue", 40), ("grey", 20), ("green", 40)])
        );
        // A split that did not give away everything is one of what there was.
        assert_eq!(
            at(&[("blue", 20), ("grey", 20)], 50),
            traffic(&[("blue", 25), ("grey", 25), ("green", 50)])
        );
        assert_eq!(
            at(&[("a", 1), ("b", 1), ("c", 1)], 90),
            traffic(&[("a", 4), ("b", 3), ("c", 3), ("green", 90)])
        );
        assert_eq!(at(&[("a", 1), ("b", 1)], 99), traffic(&[("a", 1), ("green", 99)]));
    }

    proptest! {
        #[test]
        fn it_is_always_a_hundred_and_nobody_is_far_from_his_share(
            shares in prop::collection::vec(0_u8..=100, 1..8), percent in 1_u8..=100
        ) {
            let green: Name = "green".parse().unwrap();
            prop_assume!(shares.iter().any(|share| *share > 0));
            let before: Traffic = shares
                .iter()
                .enumerate()
                .map(|(index, share)| (format!("d{index}").parse().unwrap(), *share))
                .chain([(green.clone(), 5)])
                .collect();
            let after = split(&before, &green, percent);
            prop_assert_eq!(after.values().map(|share| u32::from(*share)).sum::<u32>(), 100);
            prop_assert_eq!(after[&green], percent);
            let sum: u32 = shares.iter().map(|share| u32::from(*share)).sum();
            for (name, share) in before.iter().filter(|(name, _)| **name != green) {
                let ideal = f64::from(*share) * f64::from(100 - percent) / f64::from(sum);
                let got = f64::from(after.get(name).copied().unwrap_or_default());
                prop_assert!((got - ideal).abs() < 1.0, "{name} has {got} for {ideal}");
            }
        }
    }
}
