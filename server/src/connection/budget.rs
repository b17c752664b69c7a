//! What unfinished large frames, and requests that name much, may hold of a core's memory.
//!
//! A frame past [`FREE_BYTES`] makes a [`Claim`], and so does such a request until it is answered.
//! A claim may grow while the others of its core are within the limit, that with the least to come
//! before the others. So all of them hold no more than the limit and the largest of them, and that
//! one can always get done. Frames of ordinary size never come here.
//!
//! **Invariant:** the first of those that wait and may grow has been woken, and no other need be:
//! whatever changes what is held, or who waits, wakes the first ([`Budget::wake_first`]).
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

#[cfg(test)]
mod tests;

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
    /// What each of those that wait holds, in the order in which they are let on: by what is
    /// missing, and by age.
    waiting: RefCell<BTreeMap<(usize, u64), usize>>,
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

    /// Whether a claim that holds `held` may have more, if none goes before it.
    fn may_grow(&self, held: usize) -> bool {
        self.used.get() - held <= self.limit
    }

    /// Wakes the first of those that wait and may grow. Woken all at once, each would look at all
    /// those before it.
    fn wake_first(&self) {
        let waiting = self.waiting.borrow();
        let Some(((_, order), _)) = waiting.iter().find(|(_, held)| self.may_grow(**held)) else {
            return;
        };
        if let Some(Entry { waiting: Some(waker), .. }) = self.claims.borrow().get(order) {
            waker.wake_by_ref();
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
                let place = (entry.missing, self.order);
                self.budget.waiting.borrow_mut().insert(place, entry.bytes);
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes `bytes` in all, if the limit, and its place among the others, allow it; does not wait
    /// for it, nor any longer for what it has waited for.
    fn try_grow(&self, bytes: usize, missing: usize, now: Instant) -> bool {
        let budget = &*self.budget;
        let mut claims = budget.claims.borrow_mut();
        let mut waiting = budget.waiting.borrow_mut();
        let Some(entry) = claims.get_mut(&self.order) else { return false };
        let held = entry.bytes;
        let waited = waiting.remove(&(entry.missing, self.order)).is_some();
        (entry.missing, entry.waiting) = (missing, None);
        let place = (missing, self.order);
        // Those that may not grow themselves hold nobody up.
        let is_behind = || waiting.range(..place).any(|(_, held)| budget.may_grow(*held));
        let is_let_on = budget.may_grow(held) && !is_behind();
        if is_let_on {
            budget.used.set(budget.used.get() - held + bytes);
            entry.bytes = bytes;
            if waited || entry.missing_then.saturating_sub(missing) >= STEP_BYTES {
                (entry.moved, entry.missing_then) = (now, missing);
            }
        }
        let has_changed = waited || entry.bytes != held;
        drop((claims, waiting));
        if has_changed {
            budget.wake_first();
        }
        is_let_on
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
            self.budget.waiting.borrow_mut().remove(&(entry.missing, self.order));
            self.budget.used.set(self.budget.used.get() - entry.bytes);
        }
        self.budget.wake_first();
    }
}
