//! Reading on and on.

use super::{Health, Mark, Partition, ReadError};
use crate::batch::Batch;
use crate::io::Io;
use crate::io::uring::Uring;
use crate::types::Offset;
use std::sync::Arc;

/// How much is read at once.
const BYTES_MAX: usize = 1 << 20;

/// Follows a partition; see [`Partition::tail`].
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
/// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
/// let mut tail = log.tail(Offset(0));
/// log.append(&batch)?;
/// assert_eq!(tail.next().await?.len(), 1);
/// assert_eq!(tail.position(), Offset(1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
pub struct Tail<I: Io = Uring> {
    partition: Partition<I>,
    position: Offset,
}

impl<I: Io> Tail<I> {
    /// The next batches, at least one: waits for it. The very first may begin before the offset that
    /// was asked for. Dropped before its end, it has passed nothing.
    ///
    /// # Errors
    /// [`ReadError`]; `Ended` where no more can come.
    pub async fn next(&mut self) -> Result<Vec<Batch>, ReadError> {
        loop {
            let high = self.partition.marks().high_watermark;
            let batches = self.partition.batches(self.position, BYTES_MAX).await?;
            if let Some(last) = batches.last() {
                self.position = last.header().last_offset().plus(1);
                return Ok(batches);
            }
            if let Some(reason) = self.partition.end_reason() {
                return Err(ReadError::Ended(reason));
            }
            // An error of it is told above, or by the next read.
            let more = self.partition.reach_offset(Mark::High, high.max(self.position).plus(1));
            let _told = more.await;
        }
    }

    /// The offset that is read next.
    #[must_use]
    pub fn position(&self) -> Offset {
        self.position
    }
}

impl<I: Io> Partition<I> {
    /// Reads from `from` on, batch after batch, as they become visible.
    #[must_use]
    pub fn tail(&self, from: Offset) -> Tail<I> {
        Tail { partition: self.clone(), position: from }
    }

    /// Why nothing more will come to be read, if so.
    fn end_reason(&self) -> Option<Arc<str>> {
        match &self.0.state.borrow().health {
            Health::Failed(reason) | Health::Fenced(reason) => Some(Arc::clone(reason)),
            Health::Good | Health::Deleted => self.0.core.failure(),
        }
    }
}
