//! Who does what: lanes to threads, partitions to connections.

use super::ExecError;
use crate::client::Control;
use crate::num;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Deals lanes out to `threads`, as evenly as it goes; no thread is without one.
pub(super) fn deal<L>(lanes: Vec<L>, threads: usize) -> Vec<Vec<L>> {
    let threads = threads.min(lanes.len()).max(1);
    let mut shares: Vec<Vec<L>> = (0..threads).map(|_| Vec::new()).collect();
    for (i, lane) in lanes.into_iter().enumerate() {
        shares[i % threads].push(lane);
    }
    shares
}

/// Which connection serves which partitions: each connection goes to one leader, and each
/// partition has at least one connection. More leaders than connections add connections.
pub(super) fn share_out(leaders: &[SocketAddr], connections: u32) -> Vec<(SocketAddr, Vec<u32>)> {
    let mut by_leader: BTreeMap<SocketAddr, Vec<u32>> = BTreeMap::new();
    for (partition, leader) in (0..).zip(leaders) {
        by_leader.entry(*leader).or_default().push(partition);
    }
    let connections = num::index(u64::from(connections)).max(by_leader.len());
    let brokers = by_leader.len().max(1);
    let mut shares = Vec::with_capacity(connections);
    for (i, (leader, partitions)) in by_leader.into_iter().enumerate() {
        let here = connections / brokers + usize::from(i < connections % brokers);
        for connection in 0..here {
            let mine = if here >= partitions.len() {
                vec![partitions[connection % partitions.len()]]
            } else {
                partitions.iter().copied().skip(connection).step_by(here).collect()
            };
            shares.push((leader, mine));
        }
    }
    shares
}

/// The one broker that leads all of `partitions` now.
pub(super) fn leader_of(
    bootstrap: SocketAddr,
    topic: &str,
    partitions: &[u32],
) -> Result<SocketAddr, ExecError> {
    let topic = Control::connect(bootstrap)?.topic(topic)?;
    let mut leaders =
        partitions.iter().filter_map(|p| topic.leaders.get(num::index(u64::from(*p))).copied());
    let first = leaders.next().ok_or(ExecError::MovedApart)?;
    if leaders.all(|leader| leader == first) { Ok(first) } else { Err(ExecError::MovedApart) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_partition_is_served_by_its_leader(
            leaders in proptest::collection::vec(0_u16..4, 1..40), connections in 1_u32..50,
        ) {
            let leaders: Vec<SocketAddr> =
                leaders.iter().map(|p| SocketAddr::from(([127, 0, 0, 1], 9000 + p))).collect();
            let shares = share_out(&leaders, connections);
            let brokers = leaders.iter().collect::<std::collections::BTreeSet<_>>().len();
            prop_assert_eq!(shares.len(), usize::try_from(connections).unwrap().max(brokers));
            let mut served = vec![0; leaders.len()];
            for (leader, partitions) in &shares {
                prop_assert!(!partitions.is_empty());
                for p in partitions {
                    let p = usize::try_from(*p).unwrap();
                    prop_assert_eq!(leaders[p], *leader);
                    served[p] += 1;
                }
            }
            prop_assert!(served.iter().all(|n| *n > 0));
            // No more connections than partitions (and brokers): each is served by exactly one.
            if usize::try_from(connections).unwrap() <= brokers {
                prop_assert!(served.iter().all(|n| *n == 1));
            }
        }
    }

    #[test]
    fn as_many_connections_as_partitions_have_one_each() {
        let leaders = vec![SocketAddr::from(([127, 0, 0, 1], 9000)); 16];
        let mut partitions: Vec<_> =
            share_out(&leaders, 16).into_iter().flat_map(|s| s.1).collect();
        partitions.sort_unstable();
        assert_eq!(partitions, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn lanes_are_dealt_evenly() {
        let shares = deal((0..7).collect(), 3);
        assert_eq!(shares, [vec![0, 3, 6], vec![1, 4], vec![2, 5]]);
        assert_eq!(deal(vec![1], 8), [vec![1]]);
    }
}
