//! Which core each partition lives on: for those who ask the wrong one, and for other threads.

use crate::types::{ShardId, TopicPartition};
use rustc_hash::FxHashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a core does not have a partition.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// let asked = TopicPartition::new("orders", 0);
/// match shard.partition(&asked) {
///     Ok(log) => println!("here, up to {}", log.marks().high_watermark),
///     Err(NotHere::Elsewhere(core)) => println!("go to core {}", core.0),
///     Err(NotHere::Unknown) => println!("there is none"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    /// No core has it: create it.
    #[error("there is no such partition")]
    Unknown,
    /// Another core has it: send the client there, or go there with a `Handle`.
    #[error("the partition lives on core {core}", core = .0.0)]
    Elsewhere(ShardId),
}

/// Who has what, over all cores. Whoever finds a partition on its own core never looks here.
#[derive(Clone, Default)]
pub(crate) struct Owners(Arc<RwLock<FxHashMap<TopicPartition, ShardId>>>);

impl Owners {
    /// Who has `name`, or makes it.
    pub(crate) fn of(&self, name: &TopicPartition) -> Option<ShardId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Says that `name` is `shard`'s from now on; nothing changes if it is another's.
    pub(crate) fn claim(&self, name: &TopicPartition, shard: ShardId) -> Result<(), ShardId> {
        let mut owners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match *owners.entry(name.clone()).or_insert(shard) {
            owner if owner == shard => Ok(()),
            other => Err(other),
        }
    }

    /// Says that `shard` has `name` no more.
    pub(crate) fn release(&self, name: &TopicPartition, shard: ShardId) {
        let mut owners = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if owners.get(name) == Some(&shard) {
            owners.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_one_core_s_until_that_one_releases_it() {
        let (owners, name) = (Owners::default(), TopicPartition::new("t", 0));
        assert_eq!(owners.of(&name), None);
        assert_eq!(owners.claim(&name, ShardId(1)), Ok(()));
        assert_eq!(owners.claim(&name, ShardId(1)), Ok(()));
        assert_eq!(owners.claim(&name, ShardId(0)), Err(ShardId(1)));
        owners.release(&name, ShardId(0));
        assert_eq!(owners.of(&name), Some(ShardId(1)));
        owners.release(&name, ShardId(1));
        assert_eq!(owners.claim(&name, ShardId(0)), Ok(()));
    }
}
