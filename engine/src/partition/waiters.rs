//! Who waits for a partition to come how far.

use super::Mark;
use crate::types::Offset;
use slab::Slab;
use std::task::Waker;

/// One wait: woken once `mark` has reached `end`, or when the partition fails.
struct Waiter {
    mark: Mark,
    end: Offset,
    waker: Waker,
}

/// The waits of one partition.
#[derive(Default)]
pub(super) struct Waiters(Slab<Waiter>);

impl Waiters {
    pub(super) fn add(&mut self, mark: Mark, end: Offset, waker: &Waker) -> usize {
        self.0.insert(Waiter { mark, end, waker: waker.clone() })
    }

    /// The task that waits under `key` may have moved.
    pub(super) fn renew(&mut self, key: usize, waker: &Waker) {
        if let Some(waiter) = self.0.get_mut(key) {
            waiter.waker.clone_from(waker);
        }
    }

    pub(super) fn remove(&mut self, key: usize) {
        self.0.try_remove(key);
    }

    /// Wakes those whose mark, as `reached` tells it, has come to their end. They stay until
    /// they remove themselves.
    pub(super) fn wake(&self, reached: impl Fn(Mark) -> Offset) {
        for (_, waiter) in &self.0 {
            if waiter.end <= reached(waiter.mark) {
                waiter.waker.wake_by_ref();
            }
        }
    }

    pub(super) fn wake_all(&self) {
        for (_, waiter) in &self.0 {
            waiter.waker.wake_by_ref();
        }
    }

    /// Whether anybody waits for more than the page cache.
    pub(super) fn want_durable(&self, below: Offset) -> bool {
        self.0.iter().any(|(_, w)| w.mark != Mark::Appended && w.end <= below)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
