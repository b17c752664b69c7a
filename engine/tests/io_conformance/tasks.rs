//! Time and tasks.

use super::{Arm, MS};
use kariz_engine::io::Io;
use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

/// Lets every other ready task run once.
async fn pause() {
    let mut paused = false;
    poll_fn(|cx| {
        if paused {
            return Poll::Ready(());
        }
        paused = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

pub(crate) async fn sleepers_wake_in_the_order_of_their_deadlines<A: Arm>(arm: A) {
    let io = arm.io();
    let order = Rc::new(RefCell::new(Vec::new()));
    let start = io.now();
    for ms in [40_u32, 10, 30, 20] {
        let (timer, order) = (io.clone(), Rc::clone(&order));
        io.spawn(async move {
            timer.sleep_until(start.plus(MS * ms)).await;
            assert!(timer.now() - start >= MS * ms);
            order.borrow_mut().push(ms);
        });
    }
    io.sleep(MS * 60).await;
    assert_eq!(*order.borrow(), [10, 20, 30, 40]);
    // What has passed is over at once.
    io.sleep_until(start).await;
    assert!(io.timestamp().0 > 1_700_000_000_000);
}

pub(crate) async fn tasks_run_in_the_order_in_which_they_were_woken<A: Arm>(arm: A) {
    let order = Rc::new(RefCell::new(Vec::new()));
    for task in 0..5 {
        let order = Rc::clone(&order);
        arm.io().spawn(async move {
            for step in 0..3 {
                order.borrow_mut().push((step, task));
                pause().await;
            }
        });
    }
    while order.borrow().len() < 15 {
        pause().await;
    }
    let expected: Vec<_> = (0..3).flat_map(|step| (0..5).map(move |task| (step, task))).collect();
    assert_eq!(*order.borrow(), expected);
}

pub(crate) async fn random_numbers_differ<A: Arm>(arm: A) {
    let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| arm.io().random()).collect();
    assert_eq!(drawn.len(), 100);
}
