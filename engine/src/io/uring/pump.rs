//! The task that takes the ring's turns.

use super::ring::Ring;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Takes turns for ever; returns why it cannot.
pub(super) async fn pump(ring: Rc<Ring>) -> io::Error {
    let eventfd = Arc::clone(ring.eventfd());
    // SAFETY: the descriptor is open and the same for the `AsyncFd`'s whole life, which owns a
    // share of it.
    let eventfd = match unsafe { AsyncFd::register_with_interest(eventfd, Interest::READABLE) } {
        Ok(eventfd) => eventfd,
        Err(e) => return e.into(),
    };
    loop {
        if let Err(e) = ring.turn() {
            return e;
        }
        // What the turn woke runs before the next one.
        yield_now().await;
        if let Err(e) = poll_fn(|cx| poll_work(&ring, &eventfd, cx)).await {
            return e;
        }
    }
}

/// Ready when the ring has work. The kernel signals the eventfd only while the pump sleeps, so
/// that a busy ring does not pay for it. It is never read: its readiness is edge-triggered, and
/// each signal is an edge.
fn poll_work(
    ring: &Ring,
    eventfd: &AsyncFd<Arc<OwnedFd>>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ring.signal(false);
        if ring.has_work() {
            return Poll::Ready(Ok(()));
        }
        ring.signal(true);
        if ring.has_work() {
            continue;
        }
        match eventfd.poll_read_ready(cx) {
            Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => {
                ring.wake_for_work(cx.waker());
                return Poll::Pending;
            }
        }
    }
}

/// Lets all other ready tasks of the core go first. Tokio's own also looks at its timers and
/// descriptors, a system call that each turn of a busy ring would pay.
pub(super) async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
