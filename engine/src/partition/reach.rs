//! Waiting for a partition to come far enough.

use super::{Mark, Partition, ReachError};
use crate::io::Io;
use crate::io::uring::Uring;
use crate::types::{Instant, Offset, Timestamp};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

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
