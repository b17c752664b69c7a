//! What unfinished large frames, and requests that name much, may hold of a core's memory.
//!
//! A frame past [`FREE_BYTES`] makes a [`Claim`], and so does such a request until it is answered.
//! A claim may grow while the others of its core are within the limit. So all of them hold no more
//! than the limit and the largest of them, and that one can always get done. Frames of ordinary
//! size never come here.
//!
//! **The line.** Those that wait are let on in the order in which they would be whole, had each
//! come at [`RATE`] since it asked. So what is small passes what is large, but nobody passes one
//! that has waited longer than the difference is worth: who comes back stands behind.
//!
//! **The turn.** A peer that announces much and sends little, or asks for much and reads nothing,
//! would hold its claim for ever. So a claim has a turn ([`Budget::turn`]), and a longer one only
//! while it comes at [`RATE`]; what it waits itself does not count. Once somebody has waited a
//! while, those past their turns are closed, those with the most to come first, until the head of
//! the line may grow and they hold no more than one [`PART`] of the limit, or are one. Those that
//! stay come slowly, but have the least to come, so that the slow and honest get done too. They are
//! closed if they stand still for [`STALL`], or a request has held them for [`PATIENCE`].
//!
//! **Invariants:**
//! - The first of those that wait and may grow has been woken, and no other need be: whatever
//!   changes what is held, or who waits, wakes the first ([`Budget::wake_first`]).
//! - While the head of the line cannot grow, nothing stays past its turn.
//!
//! **Hence nobody waits for ever.** Were nobody within a turn while the head cannot grow, all would
//! wait, and the largest could grow. So turns run while the head waits, and at the end of each a
//! claim is given back or has come at [`RATE`]. Before one in the line are only those that there
//! are when it asks, and those that come while it would itself at [`RATE`]; who is closed and comes
//! back at once stands behind it. At the worst the turns of those before it run one after another;
//! mostly as many run at once as the other parts of the limit hold, so that 64 have had theirs in
//! ten seconds, whatever their size. What comes at [`RATE`] is served; what comes more slowly may
//! be closed at each try while others attack.

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
/// How often those that wait look for those that hold them up.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Bytes a second at which a frame comes that nobody need wait for. Source: two thirds of what
/// 100 Mbit/s carry; the largest frame that there may be takes 12.5 s.
const RATE: u64 = 8 * 1024 * 1024;
/// How long a claim may be slower than [`RATE`] while others wait. Source: a lost packet, or five
/// round trips over an ocean while TCP warms up.
const TURN: Duration = Duration::from_millis(500);
/// A claim of one such part of the limit has a whole turn, and those past their turns may keep one.
/// Source: the largest frame that is claimed at once, in the budget of a single core.
const PART: usize = 4;
/// While others wait for its memory a frame may come no slower than [`STEP_BYTES`] in this time.
const STALL: Duration = Duration::from_secs(2);
/// What counts as getting on.
const STEP_BYTES: usize = 64 * 1024;
/// While others wait for its memory a request may take so long to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// A claim's place in the line: when it would be whole at [`RATE`], and its number.
type Place = (Instant, u64);

/// The claims of one core.
#[derive(Default)]
pub(crate) struct Budget {
    limit: usize,
    used: Cell<usize>,
    next: Cell<u64>,
    /// When somebody last looked for those that hold others up.
    looked: Cell<Instant>,
    claims: RefCell<BTreeMap<Place, Entry>>,
    /// What each of those that wait holds.
    waiting: RefCell<BTreeMap<Place, usize>>,
}

struct Entry {
    bytes: usize,
    /// How much of the frame is still to come.
    missing: usize,
    /// It has all it asked for, and keeps it until a request is answered.
    is_held: bool,
    turn_ends: Instant,
    /// When it last got on by [`STEP_BYTES`], ...
    moved: Instant,
    /// ... and how much was missing then.
    missing_then: usize,
    /// While it waits: who is woken, and since when. Both times above stand still.
    waiting: Option<(Waker, Instant)>,
    /// Until it is called.
    close: Option<Box<dyn FnOnce()>>,
}

impl Entry {
    /// Takes note of what is `missing` at `now`, when it does not wait any more.
    fn comes(&mut self, missing: usize, now: Instant) {
        if let Some((_, since)) = self.waiting.take() {
            self.turn_ends = self.turn_ends.plus(now - since);
            self.moved = self.moved.plus(now - since);
        }
        self.turn_ends = self.turn_ends.plus(at_rate(self.missing.saturating_sub(missing)));
        self.missing = missing;
        if self.missing_then.saturating_sub(missing) >= STEP_BYTES {
            (self.moved, self.missing_then) = (now, missing);
        }
    }

    /// Whether it has stood still for too long at `now`.
    fn stands_still(&self, now: Instant) -> bool {
        now - self.moved > if self.is_held { PATIENCE } else { STALL }
    }
}

/// How long so many bytes take at [`RATE`].
fn at_rate(bytes: usize) -> Duration {
    let nanos = crate::num::u64_from(bytes).saturating_mul(1_000_000_000);
    Duration::from_nanos(nanos / RATE)
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

    /// A claim of nothing yet, made at `now` for a frame of which so many bytes are `missing`.
    /// `close` ends the connection that makes it.
    pub(crate) fn claim(
        self: &Rc<Self>,
        missing: usize,
        now: Instant,
        close: impl FnOnce() + 'static,
    ) -> Claim {
        let place = (now.plus(at_rate(missing)), self.next.get());
        self.next.set(place.1 + 1);
        let entry = Entry {
            bytes: 0,
            missing,
            is_held: false,
            turn_ends: now.plus(TURN),
            moved: now,
            missing_then: missing,
            waiting: None,
            close: Some(Box::new(close)),
        };
        self.claims.borrow_mut().insert(place, entry);
        Claim { budget: Rc::clone(self), place }
    }

    /// Closes the connections whose claims hold up those that wait. For whoever has waited a while.
    pub(crate) fn close_slow(&self, now: Instant) {
        // Of a thousand that wait one looks for all.
        if now - self.looked.get() < LOOK {
            return;
        }
        self.looked.set(now);
        let mut closing = Vec::new();
        let mut claims = self.claims.borrow_mut();
        // What those that stay hold, and what of it those past their turns.
        let (mut left, mut slow_bytes) = (self.used.get(), 0);
        let mut slow = Vec::new();
        for (place, entry) in claims.iter_mut() {
            // One that waits for the budget is not to blame for its speed.
            let is_moving = entry.waiting.is_none();
            if is_moving && entry.stands_still(now) {
                closing.extend(entry.close.take());
            }
            if entry.close.is_none() {
                left -= entry.bytes;
            } else if is_moving && now > entry.turn_ends {
                slow_bytes += entry.bytes;
                slow.push((entry.missing, *place));
            }
        }
        let head = self.waiting.borrow().first_key_value().map_or(0, |(_, held)| *held);
        slow.sort_unstable();
        while let Some((_, place)) = slow.pop() {
            let is_slow_part = slow.is_empty() || slow_bytes <= self.limit / PART;
            if is_slow_part && left.saturating_sub(head) <= self.limit {
                break;
            }
            if let Some(entry) = claims.get_mut(&place) {
                left -= entry.bytes;
                slow_bytes -= entry.bytes;
                closing.extend(entry.close.take());
            }
        }
        drop(claims);
        closing.into_iter().for_each(|close| close());
    }

    /// How long a claim of so many bytes may be slow: what holds several parts of the limit leaves
    /// less to the others meanwhile.
    fn turn(&self, bytes: usize) -> Duration {
        let times = bytes.div_ceil((self.limit / PART).max(1)).max(1);
        TURN / u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Whether a claim that holds `held` may have more, if none goes before it.
    fn may_grow(&self, held: usize) -> bool {
        self.used.get() - held <= self.limit
    }

    /// Wakes the first of those that wait and may grow. Woken all at once, each would look at all
    /// those before it.
    fn wake_first(&self) {
        let waiting = self.waiting.borrow();
        let Some((place, _)) = waiting.iter().find(|(_, held)| self.may_grow(**held)) else {
            return;
        };
        if let Some(Entry { waiting: Some((waker, _)), .. }) = self.claims.borrow().get(place) {
            waker.wake_by_ref();
        }
    }
}

/// One large frame's or request's share of the budget; given back when dropped.
pub(crate) struct Claim {
    budget: Rc<Budget>,
    place: Place,
}

impl Claim {
    /// Waits until the claim may hold `bytes` in all, of a frame of which so many are `missing`.
    pub(crate) async fn grow(&self, bytes: usize, missing: usize, now: impl Fn() -> Instant) {
        poll_fn(|cx| {
            let now = now();
            if self.try_grow(bytes, missing, now) {
                return Poll::Ready(());
            }
            if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.place) {
                entry.waiting = Some((cx.waker().clone(), now));
                self.budget.waiting.borrow_mut().insert(self.place, entry.bytes);
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes `bytes` in all, if it has them, or the limit and its place among the others allow it;
    /// does not wait for it, nor any longer for what it has waited for.
    fn try_grow(&self, bytes: usize, missing: usize, now: Instant) -> bool {
        let budget = &*self.budget;
        let mut claims = budget.claims.borrow_mut();
        let mut waiting = budget.waiting.borrow_mut();
        let Some(entry) = claims.get_mut(&self.place) else { return false };
        let held = entry.bytes;
        let waited = waiting.remove(&self.place).is_some();
        entry.comes(missing, now);
        // Those that may not grow themselves hold nobody up.
        let is_behind = || waiting.range(..self.place).any(|(_, held)| budget.may_grow(*held));
        let is_let_on = bytes <= held || (budget.may_grow(held) && !is_behind());
        if is_let_on {
            budget.used.set(budget.used.get() - held + bytes);
            entry.bytes = bytes;
            // What came fast is no credit for coming slowly later.
            entry.turn_ends = entry.turn_ends.min(now.plus(budget.turn(bytes)));
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
        if let Some(entry) = self.budget.claims.borrow_mut().get_mut(&self.place) {
            let turn_ends = now.plus(self.budget.turn(entry.bytes));
            (entry.is_held, entry.moved, entry.turn_ends) = (true, now, turn_ends);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let entry = self.budget.claims.borrow_mut().remove(&self.place);
        if let Some(entry) = entry {
            self.budget.waiting.borrow_mut().remove(&self.place);
            self.budget.used.set(self.budget.used.get() - entry.bytes);
        }
        self.budget.wake_first();
    }
}
