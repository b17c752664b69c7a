use super::*;
use proptest::prelude::*;
use std::future::Future;
use std::mem::take;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake};

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
    let holder = budget.claim(at(0), || ());
    assert!(holder.try_grow(101, 0, at(0)));
    let wakes = Arc::new(Wakes::default());
    let waker = Arc::clone(&wakes).into();
    let mut cx = Context::from_waker(&waker);
    // Each but the last has less to come than all before it.
    let mut waiting: Vec<_> = (0..1000)
        .map(|n| {
            let claim = budget.claim(at(0), || ());
            Box::pin(async move {
                claim.grow(101, 1000 - n, || at(0)).await;
                claim
            })
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
    let [holder, first, second] = [0; 3].map(|_| budget.claim(at(0), || ()));
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
/// than the limit, the one with the least missing is next, and of such the oldest.
#[derive(Default)]
struct Model {
    /// By age.
    claims: Vec<Asked>,
}

struct Asked {
    who: usize,
    held: usize,
    /// How many bytes it asks for, if it does, and with how much missing.
    asks: Option<(usize, usize)>,
}

impl Model {
    fn used(&self) -> usize {
        self.claims.iter().map(|claim| claim.held).sum()
    }

    fn next(&self, limit: usize) -> Option<usize> {
        let may_grow = self.claims.iter().filter(|claim| self.used() - claim.held <= limit);
        let asking = may_grow.filter_map(|claim| Some((claim.who, claim.asks?.1)));
        // The first of equals.
        asking.min_by_key(|(_, missing)| *missing).map(|(who, _)| who)
    }

    fn grant(&mut self, who: usize) {
        let claim = self.claims.iter_mut().find(|claim| claim.who == who).unwrap();
        claim.held = claim.asks.take().unwrap().0;
    }

    /// Who is granted what it asks for, in this order.
    fn apply(&mut self, op: &Op, limit: usize) -> Vec<usize> {
        let mut granted = Vec::new();
        match *op {
            Op::Ask { who, bytes, missing } => {
                let asks = Some((bytes, missing));
                match self.claims.iter_mut().find(|claim| claim.who == who) {
                    Some(claim) => claim.asks = asks,
                    None => self.claims.push(Asked { who, held: 0, asks }),
                }
                granted.extend(self.next(limit).filter(|next| *next == who));
                granted.iter().for_each(|who| self.grant(*who));
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
                    let make = || Rc::new(budget.claim(at(0), || ()));
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
