use super::*;
use crate::num::u64_from;
use proptest::prelude::*;
use std::future::Future;
use std::mem::take;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

const MIB: usize = 1 << 20;

fn at(seconds: u64) -> Instant {
    at_ms(1000 * seconds)
}

fn at_ms(ms: u64) -> Instant {
    Instant(Duration::from_millis(ms))
}

type Grows = Pin<Box<dyn Future<Output = Claim>>>;

/// A claim that waits, from when this is first looked at, for 101 bytes.
fn grows(claim: Claim, missing: usize, now: Instant) -> Grows {
    Box::pin(async move {
        claim.grow(101, missing, || now).await;
        claim
    })
}

/// What has become of it.
fn look(grows: &mut Grows) -> Poll<Claim> {
    grows.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// The names of claims that were closed.
type Closed = Rc<RefCell<Vec<&'static str>>>;

/// A claim made at 0 that holds so many bytes, and notes its name in `closed`.
fn named(
    budget: &Rc<Budget>,
    closed: &Closed,
    name: &'static str,
    bytes: usize,
    missing: usize,
) -> Claim {
    let closed = Rc::clone(closed);
    let claim = budget.claim(missing, at(0), move || closed.borrow_mut().push(name));
    assert!(claim.try_grow(bytes, missing, at(0)));
    claim
}

#[test]
fn a_claim_grows_while_the_others_are_within_the_limit() {
    let budget = Budget::new(100);
    let [one, two, three] = [0; 3].map(|_| budget.claim(9, at(0), || ()));
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
fn who_has_what_it_asks_for_never_waits() {
    let budget = Budget::new(100);
    let [small, large, first] = [9, 9, 0].map(|missing| budget.claim(missing, at(0), || ()));
    assert!(small.try_grow(10, 9, at(0)) && large.try_grow(200, 9, at(0)));
    assert!(look(&mut grows(first, 0, at(0))).is_pending());
    assert!(!small.try_grow(11, 8, at(0)) && small.try_grow(10, 8, at(0)));
}

#[test]
fn nobody_passes_one_that_has_waited_for_longer_than_it_takes() {
    let budget = Budget::new(100);
    let holder = budget.claim(0, at(0), || ());
    assert!(holder.try_grow(101, 0, at(0)));
    // The large one takes a second. The others ask before that is over, and after.
    let mut waiting = [(8 * MIB, 0), (100, 900), (100, 1_100)].map(|(missing, ms)| {
        let mut grows = grows(budget.claim(missing, at_ms(ms), || ()), missing, at_ms(ms));
        assert!(look(&mut grows).is_pending());
        Some(grows)
    });
    let mut before = holder;
    for next in [1, 0, 2] {
        drop(before);
        for behind in (0..3).filter(|n| *n != next) {
            assert!(waiting[behind].as_mut().is_none_or(|grows| look(grows).is_pending()));
        }
        let Poll::Ready(claim) = look(&mut waiting[next].take().unwrap()) else {
            panic!("{next} is next");
        };
        before = claim;
    }
}

#[test]
fn only_a_claim_that_stands_still_is_closed_while_all_have_room() {
    let budget = Budget::new(1000 * MIB);
    let closed = Closed::default();
    let claims =
        ["still", "drips", "comes", "held"].map(|name| named(&budget, &closed, name, MIB, 9 * MIB));
    claims[3].hold(at(0));
    assert!(claims[1].try_grow(MIB, 9 * MIB - 1, at(2)));
    assert!(claims[2].try_grow(MIB, 8 * MIB, at(2)));
    budget.close_slow(at(2));
    assert!(closed.borrow().is_empty());
    budget.close_slow(at(3));
    assert_eq!(closed.take(), ["still", "drips"]);
    assert!(claims[2].try_grow(MIB, 1, at(11)));
    budget.close_slow(at(11));
    assert_eq!(closed.take(), ["held"], "each once");
}

#[test]
fn of_those_past_their_turns_a_part_stays_that_has_the_least_to_come() {
    for (bytes, gone) in [(11, 8), (21, 4), (34, 2)] {
        let budget = Budget::new(100);
        let closed = Closed::default();
        let names = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"];
        let names = &names[10 - 100_usize.div_ceil(bytes)..];
        let claims: Vec<_> = names
            .iter()
            .rev()
            .zip(1..)
            .map(|(n, m)| named(&budget, &closed, n, bytes, m))
            .collect();
        let mut head = grows(budget.claim(0, at(0), || ()), 0, at(0));
        assert!(look(&mut head).is_pending());
        budget.close_slow(at_ms(250));
        assert!(closed.borrow().is_empty(), "within their turns");
        budget.close_slow(at_ms(601));
        assert_eq!(*closed.borrow(), names[..gone], "of {} of {bytes} bytes", claims.len());
        drop(claims);
        assert!(look(&mut head).is_ready());
    }
}

#[test]
fn nothing_stays_past_its_turn_while_the_head_cannot_grow() {
    let budget = Budget::new(100);
    let closed = Closed::default();
    let claims = [
        named(&budget, &closed, "small", 1, 1),
        named(&budget, &closed, "fresh", 10, 1),
        named(&budget, &closed, "large", 101, 2),
    ];
    let mut head = grows(budget.claim(0, at(0), || ()), 0, at(0));
    assert!(look(&mut head).is_pending());
    claims[1].hold(at_ms(300));
    budget.close_slow(at_ms(601));
    assert_eq!(closed.take(), ["large"], "11 are left");
    // It has not gone yet.
    budget.close_slow(at_ms(750));
    assert!(closed.borrow().is_empty());
}

#[test]
fn a_turn_goes_on_while_the_frame_comes_and_no_longer() {
    let budget = Budget::new(100);
    let closed = Closed::default();
    let claim = named(&budget, &closed, "large", 101, 90 * MIB);
    let mut head = grows(budget.claim(0, at(0), || ()), 0, at(0));
    assert!(look(&mut head).is_pending());
    for n in 1..=60 {
        assert!(claim.try_grow(101, (90 - n) * MIB, at_ms(80 * u64_from(n))));
        budget.close_slow(at_ms(80 * u64_from(n)));
        assert!(closed.borrow().is_empty(), "12.5 MiB a second, {n}");
    }
    budget.close_slow(at_ms(4_900));
    assert!(closed.borrow().is_empty());
    budget.close_slow(at_ms(5_000));
    assert_eq!(closed.take(), ["large"]);
}

#[test]
fn what_holds_more_has_a_shorter_turn() {
    let budget = Budget::new(100);
    let turns = [0, 25, 26, 50, 101, usize::MAX].map(|bytes| budget.turn(bytes));
    assert_eq!(turns, [TURN, TURN, TURN / 2, TURN / 2, TURN / 5, Duration::ZERO]);
}

#[test]
fn what_a_claim_waits_itself_is_not_of_its_turn() {
    let budget = Budget::new(100);
    let closed = Closed::default();
    let holder = named(&budget, &closed, "holder", 101, 0);
    let waits = named(&budget, &closed, "waits", 0, 10);
    let mut cx = Context::from_waker(Waker::noop());
    let now = Cell::new(at(0));
    let mut waits = pin!(waits.grow(101, 10, || now.get()));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    // Looking does not count either.
    now.set(at(5));
    assert!(waits.as_mut().poll(&mut cx).is_pending());
    now.set(at(9));
    drop(holder);
    assert!(waits.as_mut().poll(&mut cx).is_ready());
    let mut head = grows(budget.claim(0, at(9), || ()), 0, at(9));
    assert!(look(&mut head).is_pending());
    budget.close_slow(at_ms(9_100));
    assert!(closed.borrow().is_empty());
    budget.close_slow(at_ms(9_200));
    assert_eq!(closed.take(), ["waits"]);
}

/// Counts how often it wakes.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wakes {
    fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn of_a_thousand_that_wait_one_is_woken_for_each_that_goes() {
    let budget = Budget::new(100);
    let holder = budget.claim(0, at(0), || ());
    assert!(holder.try_grow(101, 0, at(0)));
    let wakes = Arc::new(Wakes::default());
    let waker = Arc::clone(&wakes).into();
    let mut cx = Context::from_waker(&waker);
    // Each but the last has less to come than all before it.
    let mut waiting: Vec<_> = (0..1000)
        .map(|n| {
            let missing = 1000 - n;
            grows(budget.claim(missing, at(0), || ()), missing, at(0))
        })
        .collect();
    assert!(waiting.iter_mut().all(|grows| grows.as_mut().poll(&mut cx).is_pending()));
    assert_eq!(wakes.take(), 0);
    drop(holder);
    while let Some(mut first) = waiting.pop() {
        assert_eq!(wakes.take(), 1);
        let Poll::Ready(claim) = first.as_mut().poll(&mut cx) else { panic!("it was woken") };
        assert_eq!(wakes.take(), 0, "101 of 100");
        drop(claim);
    }
    assert_eq!(wakes.take(), 0);
}

#[test]
fn one_that_is_woken_and_goes_wakes_the_next() {
    let budget = Budget::new(100);
    let wakes = [(); 2].map(|()| Arc::new(Wakes::default()));
    let [holder, first, second] = [0; 3].map(|_| budget.claim(0, at(0), || ()));
    assert!(holder.try_grow(101, 0, at(0)));
    {
        let mut grows = [&first, &second].map(|claim| Box::pin(claim.grow(10, 5, || at(0))));
        for (grows, wakes) in grows.iter_mut().zip(&wakes) {
            let waker = Arc::clone(wakes).into();
            assert!(grows.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    drop(holder);
    assert_eq!([&wakes[0], &wakes[1]].map(|wakes| wakes.take()), [1, 0]);
    drop(first);
    assert_eq!(wakes[1].take(), 1);
}

const CLAIMS: usize = 6;

/// What may happen to the claim of a number below [`CLAIMS`].
#[derive(Clone, Debug)]
enum Op {
    /// It asks for bytes, with so much missing, and no longer for what it has asked for before.
    Ask {
        who: usize,
        bytes: usize,
        missing: usize,
    },
    Drop(usize),
    /// All that were woken look.
    Run,
}

fn op() -> impl Strategy<Value = Op> {
    let ask = (0..CLAIMS, 0_usize..80, 0_usize..4);
    prop_oneof![
        4 => ask.prop_map(|(who, bytes, missing)| Op::Ask { who, bytes, missing }),
        1 => (0..CLAIMS).prop_map(Op::Drop),
        1 => Just(Op::Run),
    ]
}

/// The contract: of those that ask, and may have what they ask for while the others hold no more
/// than the limit, the one is next that had the least missing when it first asked, for all do at
/// the same time, and of such the oldest. Who has what it asks for is let on at once.
#[derive(Default)]
struct Model {
    /// In the line's order.
    claims: Vec<Asked>,
}

struct Asked {
    who: usize,
    missing: usize,
    held: usize,
    /// How many bytes it asks for, if it does.
    asks: Option<usize>,
}

impl Model {
    fn used(&self) -> usize {
        self.claims.iter().map(|claim| claim.held).sum()
    }

    fn next(&self, limit: usize) -> Option<usize> {
        let may_grow = |claim: &&Asked| self.used() - claim.held <= limit;
        let asking = self.claims.iter().filter(may_grow).find(|claim| claim.asks.is_some());
        asking.map(|claim| claim.who)
    }

    fn grant(&mut self, who: usize) {
        let claim = self.claims.iter_mut().find(|claim| claim.who == who).unwrap();
        claim.held = claim.asks.take().unwrap();
    }

    /// Who is granted what it asks for, in this order.
    fn apply(&mut self, op: &Op, limit: usize) -> Vec<usize> {
        let mut granted = Vec::new();
        match *op {
            Op::Ask { who, bytes, missing } => {
                if !self.claims.iter().any(|claim| claim.who == who) {
                    self.claims.push(Asked { who, missing, held: 0, asks: None });
                    // Equals stay as they are.
                    self.claims.sort_by_key(|claim| claim.missing);
                }
                let claim = self.claims.iter_mut().find(|claim| claim.who == who).unwrap();
                claim.asks = Some(bytes);
                if bytes <= claim.held || self.next(limit) == Some(who) {
                    self.grant(who);
                    granted.push(who);
                }
            }
            Op::Drop(who) => self.claims.retain(|claim| claim.who != who),
            Op::Run => {
                while let Some(who) = self.next(limit) {
                    self.grant(who);
                    granted.push(who);
                }
            }
        }
        granted
    }
}

/// A claim, and what it waits for.
#[derive(Default)]
struct Asking {
    claim: Option<Rc<Claim>>,
    grows: Option<Pin<Box<dyn Future<Output = ()>>>>,
    wakes: Arc<Wakes>,
}

impl Asking {
    /// Whether it is let on now.
    fn look(&mut self) -> bool {
        let waker = Arc::clone(&self.wakes).into();
        let Some(grows) = &mut self.grows else { return false };
        let is_ready = grows.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        if is_ready {
            self.grows = None;
        }
        is_ready
    }
}

proptest! {
    /// Only those that are woken look, so that one that is not woken in time shows.
    #[test]
    fn claims_are_let_on_as_a_model_says(ops in prop::collection::vec(op(), 1..80)) {
        let budget = Budget::new(100);
        let mut model = Model::default();
        let mut claims: [Asking; CLAIMS] = Default::default();
        for op in &ops {
            let mut granted = Vec::new();
            match *op {
                Op::Ask { who, bytes, missing } => {
                    let asking = &mut claims[who];
                    let make = || Rc::new(budget.claim(missing, at(0), || ()));
                    let claim = Rc::clone(asking.claim.get_or_insert_with(make));
                    let grows = async move { claim.grow(bytes, missing, || at(0)).await };
                    asking.grows = Some(Box::pin(grows));
                    granted.extend(asking.look().then_some(who));
                }
                Op::Drop(who) => drop(take(&mut claims[who])),
                Op::Run => {
                    let mut looks = 0;
                    while let Some(who) = claims.iter().position(|c| c.wakes.take() > 0) {
                        looks += 1;
                        prop_assert!(looks < 100, "it wakes for ever");
                        granted.extend(claims[who].look().then_some(who));
                    }
                }
            }
            prop_assert_eq!(granted, model.apply(op, 100), "{:?}", op);
            prop_assert_eq!(budget.used_bytes(), model.used());
        }
        drop(claims);
        prop_assert_eq!(budget.used_bytes(), 0);
        prop_assert!(budget.waiting.borrow().is_empty());
    }
}
