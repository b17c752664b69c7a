//! What unfinished large frames, and requests that name much, may hold of a core's memory.
//!
//! A frame past [`FREE_BYTES`] makes a [`Claim`], and so does such a request until it is answered. While the claims of
//! a core are within the limit each may grow; past it only the oldest may, so that one always
//! gets done, and the others wait. Frames of ordinary size never come here.
//!
//! A peer that announces much and sends little, or asks for much and reads nothing, would hold its
//! claim for ever: while somebody waits, a claim that has grown slower than
//! [`BYTES_PER_SECOND_MIN`] is closed, or that a request has held longer than [`PATIENCE`].

use kariz_engine::types::Instant;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// What a connection may hold of an unfinished frame without asking. Source: more than any request
/// of a client that does not produce.
pub(crate) const FREE_BYTES: usize = 64 * 1024;
/// How long a claim may take before its speed is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
/// The slowest that a large frame may arrive while others wait for its memory.
const BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// The claims of one core.
#[derive(Default)]
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
    next: Cell<u64>,
    /// By age: the first is the oldest.
    claims: RefCell<BTreeMap<u64, Entry>>,
}

struct Entry {
    bytes: usize,
    since: Instant,
    /// It has all it asked for, since then, and keeps it until it is answered.
    is_held: bool,
    waiting: Option<Waker>,
    close: Box<dyn Fn()>,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub(crate) fn new(limit: usize) -> Rc<Self> {
        Rc::new(Self { limit, ..Self::default() })
    }

    /// Bytes held by all claims.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used.get()
    }

    /// A claim of nothing yet, made at `now`. `close` ends the connection that makes it.
    pub(crate) fn claim(self: &Rc<Self>, now: Instant, close: impl Fn() + 'static) -> Claim {
        let order = self.next.get();
        self.next.set(order + 1);
        let entry =
            Entry { bytes: 0, since: now, is_held: false, waiting: None, close: Box::new(close) };
        self.claims.borrow_mut().insert(order, entry);
        Claim { budget: Rc::clone(self), order }
    }

    /// Closes the connections whose claims grow too slowly. For whoever has waited a while.
    pub(crate) fn close_slow(&self, now: Instant) {
        let claims = self.claims.borrow();
        for entry in claims.values() {
            let age = now - entry.since;
            let due = age.as_secs().saturating_mul(BYTES_PER_SECOND_MIN);
            // One that waits for the budget is not to blame for its speed.
            let blocked = entry.waiting.is_some();
            let is_slow = entry.is_held || u64::try_from(entry.bytes).is_ok_and(|b| b < due);
            if age > PATIENCE && !blocked && is_slow {
                (entry.close)();
            }
        }
    }

    fn wake(&self) {
        for entry in self.claims.borrow_mut().values_mut() {
            if let Some(waker) = entry.waiting.take() {
                waker.wake();
            }
        }
    }
}

/// One unfinished frame's share of the budget; given back when dropped.
pub(crate) struct Claim {
    budget: Rc<Budget>,
    order: u64,
}

impl Claim {
    /// Waits until the claim may hold `bytes` in all.
    pub(crate) async fn grow(&self, bytes: usize) {
        poll_fn(|cx| {
            if self.try_grow(bytes) {
                return Poll::Ready(());
            }
            if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.order) {
                entry.waiting = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// From `now` on it is a request's, until that is answered.
    pub(crate) fn hold(&self, now: Instant) {
        if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.order) {
            (entry.is_held, entry.since) = (true, now);
        }
    }

    /// Takes `bytes` in all, if the limit or the claim's age allow it.
    pub(crate) fn try_grow(&self, bytes: usize) -> bool {
        let mut claims = self.budget.claims.borrow_mut();
        let oldest = claims.first_key_value().is_some_and(|(order, _)| *order == self.order);
        let Some(entry) = claims.get_mut(&self.order) else { return false };
        let used = self.budget.used.get() - entry.bytes + bytes;
        let granted = oldest || used <= self.budget.limit;
        if granted {
            self.budget.used.set(used);
            entry.bytes = bytes;
        }
        granted
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let entry = self.budget.claims.borrow_mut().remove(&self.order);
        if let Some(entry) = entry {
            self.budget.used.set(self.budget.used.get() - entry.bytes);
        }
        self.budget.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    #[test]
    fn past_the_limit_only_the_oldest_grows() {
        let budget = Budget::new(100);
        let old = budget.claim(at(0), || ());
        let young = budget.claim(at(0), || ());
        assert!(old.try_grow(60) && young.try_grow(40));
        assert!(!young.try_grow(41) && old.try_grow(1000));
        assert_eq!(budget.used_bytes(), 1040);
        drop(old);
        assert_eq!(budget.used_bytes(), 40);
        assert!(young.try_grow(100));
        drop(young);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn only_a_slow_claim_is_closed() {
        let budget = Budget::new(100 << 20);
        let closed = Rc::new(RefCell::new(Vec::new()));
        let claims: Vec<_> = [("slow", 100 << 10), ("fast", 10 << 20)]
            .map(|(name, bytes)| {
                let closed = Rc::clone(&closed);
                let claim = budget.claim(at(0), move || closed.borrow_mut().push(name));
                assert!(claim.try_grow(bytes));
                claim
            })
            .into();
        budget.close_slow(at(9));
        assert!(closed.borrow().is_empty());
        budget.close_slow(at(20));
        assert_eq!(*closed.borrow(), ["slow"]);
        drop(claims);
    }
}
