//! Waiting for a partition to come far enough.

use super::{Health, Partition, ReachError};
use crate::io::Io;
use crate::io::uring::Uring;
use crate::types::{Instant, Offset, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// How far a partition must have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Written: in the page cache.
    Appended,
    /// Survives a power cut.
    Durable,
    /// Visible to consumers: durable on every in-sync replica, or, with `write.caching`, written.
    High,
}

/// What an append returned: where its records are, once they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first record's offset.
    pub base: Offset,
    /// The offset behind the last record.
    pub end: Offset,
    /// The broker's time, on a topic with `LogAppendTime`.
    pub append_time: Option<Timestamp>,
    /// Whether this is an earlier append of the same batch by an idempotent producer.
    pub duplicate: bool,
    /// How many writes had failed when it was staged: the same offsets can be given out again.
    pub(super) failures: u64,
}

/// A future: ready once `mark` has come to the end that is waited for. Asks for the commit that
/// it needs. Dropping it is cancelling it.
pub struct Reach<I: Io = Uring> {
    pub(super) partition: Partition<I>,
    pub(super) mark: Mark,
    pub(super) span: Span,
    pub(super) key: Option<usize>,
}

impl<I: Io> Unpin for Reach<I> {}

impl<I: Io> Future for Reach<I> {
    type Output = Result<(), ReachError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.partition.reached(self.mark, &self.span) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => {
                let mut state = self.partition.0.state.borrow_mut();
                let waiters = &mut state.waiters;
                let key = match self.key {
                    Some(key) => {
                        waiters.renew(key, cx.waker());
                        key
                    }
                    None => waiters.add(self.mark, self.span.end, cx.waker()),
                };
                drop(state);
                self.key = Some(key);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<I: Io> Drop for Reach<I> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.partition.0.state.borrow_mut().waiters.remove(key);
        }
    }
}

impl<I: Io> Partition<I> {
    /// Waits until `mark` has come to the end of `span`.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let span = log.append(&batch)?;
    /// log.reach(Mark::Appended, &span).await?; // in the page cache
    /// log.reach(Mark::Durable, &span).await?; // on the disk
    /// log.reach(Mark::High, &span).await?; // readers see it
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    pub fn reach(&self, mark: Mark, span: &Span) -> Reach<I> {
        Reach { partition: self.clone(), mark, span: *span, key: None }
    }

    /// Waits until `mark` has come to `end`, whatever is appended there.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let waiting = log.clone();
    /// shard.spawn(async move {
    ///     // Somebody else's record, as soon as it is visible.
    ///     waiting.reach_offset(Mark::High, Offset(1)).await.unwrap();
    /// });
    /// log.append(&batch)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    pub fn reach_offset(&self, mark: Mark, end: Offset) -> Reach<I> {
        let failures = self.0.state.borrow().failures;
        let span = Span { base: end, end, append_time: None, duplicate: false, failures };
        self.reach(mark, &span)
    }

    /// Whether `mark` has come to the end of `span`; asks for the commit that this needs.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let span = log.append(&batch)?;
    /// assert!(!log.reached(Mark::Durable, &span)?);
    /// log.reach(Mark::Durable, &span).await?;
    /// assert!(log.reached(Mark::Durable, &span)?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ReachError`]: it never will.
    pub fn reached(&self, mark: Mark, span: &Span) -> Result<bool, ReachError> {
        let state = self.0.state.borrow();
        if matches!(state.health, Health::Deleted) {
            return Err(ReachError::Deleted);
        }
        if state.was_rolled_back(span) {
            return Err(ReachError::Full);
        }
        if span.end <= state.at(mark) {
            return Ok(true);
        }
        if let Health::Failed(reason) | Health::Fenced(reason) = &state.health {
            return Err(ReachError::Failed(Arc::clone(reason)));
        }
        if let Some(reason) = self.0.core.failure() {
            return Err(ReachError::Failed(reason));
        }
        if mark != Mark::Appended && span.end <= state.marks.staged() {
            self.0.core.demand.set();
            drop(state);
            if mark == Mark::Durable {
                self.join_next_commit();
            }
        }
        Ok(false)
    }
}

/// Waits for the first of several partitions to come far enough, or to fail; its place in
/// `waits`, or `None` once `until` has passed.
pub(crate) async fn any<I: Io>(
    io: &I,
    waits: &[(Partition<I>, Mark, Offset)],
    until: Instant,
) -> Option<usize> {
    let mut reaches: Vec<Reach<I>> =
        waits.iter().map(|(p, mark, end)| p.reach_offset(*mark, *end)).collect();
    let first = std::future::poll_fn(|cx| {
        let ready = reaches.iter_mut().position(|r| Pin::new(r).poll(cx).is_ready());
        ready.map_or(Poll::Pending, Poll::Ready)
    });
    match crate::futures::either(first, io.sleep_until(until)).await {
        crate::futures::Either::Left(i) => Some(i),
        crate::futures::Either::Right(()) => None,
    }
}
