//! What unfinished large frames, and requests that name much, may hold of a core's memory.
//!
//! A frame past [`FREE_BYTES`] makes a [`Claim`], and so does such a request until it is answered.
//! A claim may grow while the others of its core are within the limit, that with the least to come
//! before the others. So all of them hold no more than the limit and the largest of them, and that
//! one can always get done. Frames of ordinary size never come here.
//!
//! A peer that announces much and sends little, or asks for much and reads nothing, would hold its
//! claim for ever: whoever waits closes those that have stood still for [`STALL`], or that a
//! request has held for [`PATIENCE`]. Since those with little to come go first, peers that do so
//! again and again stand behind an honest one.

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
/// While others wait for its memory a frame may come no slower than [`STEP_BYTES`] in this time.
const STALL: Duration = Duration::from_secs(2);
/// What counts as getting on.
const STEP_BYTES: usize = 64 * 1024;
/// While others wait for its memory a request may take so long to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// The claims of one core.
#[derive(Default)]
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
    next: Cell<u64>,
    /// By age.
    claims: RefCell<BTreeMap<u64, Entry>>,
}

struct Entry {
    bytes: usize,
    /// How much of the frame is still to come.
    missing: usize,
    /// It has all it asked for, and keeps it until a request is answered.
    is_held: bool,
    /// When it last got on, or was let on, ...
    moved: Instant,
    /// ... and how much had come then.
    missing_then: usize,
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
        let entry = Entry {
            bytes: 0,
            missing: usize::MAX,
            is_held: false,
            moved: now,
            missing_then: usize::MAX,
            waiting: None,
            close: Box::new(close),
        };
        self.claims.borrow_mut().insert(order, entry);
        Claim { budget: Rc::clone(self), order }
    }

    /// Closes the connections whose claims stand still. For whoever has waited a while.
    pub(crate) fn close_slow(&self, now: Instant) {
        for entry in self.claims.borrow().values() {
            // One that waits for the budget is not to blame for its speed.
            let limit = if entry.is_held { PATIENCE } else { STALL };
            if entry.waiting.is_none() && now - entry.moved > limit {
                (entry.close)();
            }
        }
    }

    fn wake(&self) {
        for entry in self.claims.borrow().values() {
            if let Some(waker) = &entry.waiting {
                waker.wake_by_ref();
            }
        }
    }
}

/// One large frame's or request's share of the budget; given back when dropped.
pub(crate) struct Claim {
    budget: Rc<Budget>,
    order: u64,
}

impl Claim {
    /// Waits until the claim may hold `bytes` in all, of a frame of which so many are `missing`.
    pub(crate) async fn grow(&self, bytes: usize, missing: usize, now: impl Fn() -> Instant) {
        poll_fn(|cx| {
            if self.try_grow(bytes, missing, now()) {
                return Poll::Ready(());
            }
            if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.order) {
                entry.waiting = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes `bytes` in all, if the limit, or its place among the others, allows it.
    pub(crate) fn try_grow(&self, bytes: usize, missing: usize, now: Instant) -> bool {
        let mut claims = self.budget.claims.borrow_mut();
        let used = self.budget.used.get();
        let may_grow = |entry: &Entry| used - entry.bytes <= self.budget.limit;
        let is_behind = claims.iter().any(|(order, other)| {
            let goes_before = (other.missing, *order) < (missing, self.order);
            *order != self.order && goes_before && other.waiting.is_some() && may_grow(other)
        });
        let Some(entry) = claims.get_mut(&self.order) else { return false };
        entry.missing = missing;
        if is_behind || !may_grow(entry) {
            return false;
        }
        self.budget.used.set(used - entry.bytes + bytes);
        entry.bytes = bytes;
        let waited = entry.waiting.take().is_some();
        if waited || entry.missing_then.saturating_sub(missing) >= STEP_BYTES {
            (entry.moved, entry.missing_then) = (now, missing);
        }
        drop(claims);
        if waited {
            // Those behind it may have looked before it was let on.
            self.budget.wake();
        }
        true
    }

    /// From `now` on it is a request's, until that is answered.
    pub(crate) fn hold(&self, now: Instant) {
        if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.order) {
            (entry.is_held, entry.moved) = (true, now);
        }
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
    use std::future::Future;
    use std::pin::pin;
    use std::task::Context;

    fn at(seconds: u64) -> Instant {
        Instant(Duration::from_secs(seconds))
    }

    #[test]
    fn a_claim_grows_while_the_others_are_within_the_limit() {
        let budget = Budget::new(100);
        let [one, two, three] = [0; 3].map(|_| budget.claim(at(0), || ()));
        assert!(one.try_grow(60, 9, at(0)) && two.try_grow(90, 9, at(0)));
        assert!(!three.try_grow(1, 9, at(0)), "150 of 100");
        assert!(two.try_grow(1000, 9, at(0)) && !one.try_grow(61, 9, at(0)));
        assert_eq!(budget.used_bytes(), 1060);
        drop(two);
        assert!(one.try_grow(61, 9, at(0)) && three.try_grow(1, 9, at(0)));
        drop((one, three));
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn who_has_the_least_to_come_is_let_on_first_and_then_the_others() {
        let budget = Budget::new(100);
        let mut cx = Context::from_waker(Waker::noop());
        let [holder, large, small] = [0; 3].map(|_| budget.claim(at(0), || ()));
        assert!(holder.try_grow(101, 0, at(0)));
        holder.hold(at(0));
        let mut large_grows = pin!(large.grow(10, 500, || at(0)));
        let mut small_grows = pin!(small.grow(10, 50, || at(0)));
        assert!(large_grows.as_mut().poll(&mut cx).is_pending());
        assert!(small_grows.as_mut().poll(&mut cx).is_pending());
        drop(holder);
        assert!(large_grows.as_mut().poll(&mut cx).is_pending(), "the small one goes before it");
        assert!(small_grows.as_mut().poll(&mut cx).is_ready());
        assert!(large_grows.as_mut().poll(&mut cx).is_ready());
    }

    #[test]
    fn only_a_claim_that_stands_still_is_closed() {
        let budget = Budget::new(1000 << 20);
        let closed = Rc::new(RefCell::new(Vec::new()));
        let claims: Vec<_> = ["still", "drips", "comes", "held"]
            .map(|name| {
                let closed = Rc::clone(&closed);
                let claim = budget.claim(at(0), move || closed.borrow_mut().push(name));
                assert!(claim.try_grow(1 << 20, 9 << 20, at(0)));
                claim
            })
            .into();
        claims[3].hold(at(0));
        assert!(claims[1].try_grow(1 << 20, (9 << 20) - 1, at(2)));
        assert!(claims[2].try_grow(1 << 20, 8 << 20, at(2)));
        budget.close_slow(at(2));
        assert!(closed.borrow().is_empty());
        budget.close_slow(at(3));
        assert_eq!(closed.take(), ["still", "drips"]);
        assert!(claims[2].try_grow(1 << 20, 1, at(11)));
        budget.close_slow(at(11));
        assert_eq!(closed.take(), ["still", "drips", "held"]);
    }
}
