//! Operations in flight: their slots in the ring's slab, and the futures that wait for them.

use super::net::Inbox;
use super::ring::Ring;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// An operation in flight.
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) op: Op,
}

/// What an operation is, and all that it needs.
pub(super) enum Op {
    /// Completes once, for an [`Operation`].
    Once { state: State, _holds: Arc<OwnedFd> },
    /// Completes any number of times, for a connection.
    Receive(Rc<Inbox>),
}

/// How far an operation is that completes once.
pub(super) enum State {
    /// For the kernel; wakes whoever polled it.
    Waiting(Option<Waker>),
    /// With this result, which waits for its [`Operation`].
    Done(i32),
    /// The kernel has it yet, and nobody waits for it any more.
    Abandoned,
}

/// Names an operation in flight; never names another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    slot: u32,
    generation: u32,
}

impl Key {
    pub(super) fn new(slot: usize, generation: u32) -> Self {
        // A ring has far fewer operations than 2^32: one or two for a connection or a file.
        Self { slot: u32::try_from(slot).unwrap_or(u32::MAX), generation }
    }

    pub(super) fn generation(self) -> u32 {
        self.generation
    }

    pub(super) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub(super) fn slot(self) -> usize {
        usize::try_from(self.slot).unwrap_or(usize::MAX)
    }

    pub(super) fn of(user_data: u64) -> Self {
        let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(0);
        Self { slot: half(user_data), generation: half(user_data >> 32) }
    }
}

/// What of a file is to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sync {
    /// Its bytes, and what it takes to read them back (`fdatasync`).
    Data,
    /// All of it, as for a directory (`fsync`).
    All,
}

/// What to wait for on a descriptor: the values of poll(2).
#[derive(Clone, Copy, Debug)]
pub(super) enum Events {
    Readable,
    Writable,
}

impl Events {
    pub(super) fn bits(self) -> u32 {
        let bits = match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        };
        u32::from(bits.unsigned_abs())
    }
}

/// What becomes of an operation whose future is dropped: the fsync goes on, a poll would hold a
/// descriptor open for ever.
pub(super) enum OnDrop {
    Leave,
    Cancel,
}

/// An operation that completes once, with its result. Dropped, it goes on or is cancelled; what
/// it needs stays until then.
pub(super) struct Operation {
    ring: Rc<Ring>,
    key: Option<Key>,
    on_drop: OnDrop,
}

impl Operation {
    pub(super) fn new(ring: Rc<Ring>, key: Key, on_drop: OnDrop) -> Self {
        Self { ring, key: Some(key), on_drop }
    }
}

impl Future for Operation {
    type Output = io::Result<u32>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u32>> {
        let Some(key) = self.key else {
            return Poll::Ready(Err(io::Error::other("an operation was polled after its end")));
        };
        let mut ops = self.ring.ops().borrow_mut();
        let Some(Slot { op: Op::Once { state, .. }, .. }) = ops.get_mut(key.slot()) else {
            return Poll::Ready(Err(io::Error::other("an operation lost its slot")));
        };
        let result = match state {
            State::Done(result) => *result,
            State::Waiting(Some(waker)) if waker.will_wake(cx.waker()) => return Poll::Pending,
            state => {
                let before = std::mem::replace(state, State::Waiting(Some(cx.waker().clone())));
                drop(ops);
                drop(before);
                return Poll::Pending;
            }
        };
        let slot = ops.remove(key.slot());
        drop(ops);
        drop(slot);
        self.key = None;
        let failed = |_| io::Error::from_raw_os_error(result.wrapping_neg());
        Poll::Ready(u32::try_from(result).map_err(failed))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        let mut ops = self.ring.ops().borrow_mut();
        let Some(Slot { op: Op::Once { state, .. }, .. }) = ops.get_mut(key.slot()) else { return };
        match std::mem::replace(state, State::Abandoned) {
            State::Done(_) => {
                let slot = ops.remove(key.slot());
                drop(ops);
                drop(slot);
            }
            before => {
                drop(ops);
                drop(before);
                if matches!(self.on_drop, OnDrop::Cancel) {
                    self.ring.cancel(key);
                }
            }
        }
    }
}
