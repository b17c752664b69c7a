//! Lets one task of a core wait for another.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// A place for the one task that waits here.
#[derive(Default)]
pub(crate) struct WakeSlot(Cell<Option<Waker>>);

impl WakeSlot {
    /// Waits until `ready` says so; asked again after each [`WakeSlot::wake`].
    pub(crate) async fn until(&self, ready: impl Fn() -> bool) {
        poll_fn(|cx| {
            if ready() {
                return Poll::Ready(());
            }
            let waker = match self.0.take() {
                Some(waker) if waker.will_wake(cx.waker()) => waker,
                _ => cx.waker().clone(),
            };
            self.0.set(Some(waker));
            Poll::Pending
        })
        .await;
    }

    /// Wakes the task that waits, if one does.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}
