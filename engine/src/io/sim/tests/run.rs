//! Tasks, time, and the promise that a seed decides everything.

use super::{LOG, durable_file, world, write};
use crate::io::sim::{End, Event, Fault, Faults, OpKind, Outcome, Rule, Sim, World};
use crate::io::{Conn, File, Io, Listener, OpenMode};
use std::cell::{Cell, RefCell};
use std::future::{Future, pending, poll_fn};
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

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

/// A bit of everything, errors included: writers that share a file, an echo over the network.
async fn busy(io: Sim) {
    let Ok(file) = io.open(Path::new(LOG), OpenMode::Create) else { return };
    for task in 0..4_u64 {
        let (io, file) = (io.clone(), file.clone());
        io.clone().spawn(async move {
            for step in 0..10 {
                let bytes = io.random().to_be_bytes();
                let _failed = write(&file, &bytes, (task * 10 + step) * 300);
                let _failed = file.sync().await;
                io.sleep(MS * u32::try_from(task).unwrap()).await;
            }
        });
    }
    let listener = io.listen("127.0.0.1:9092".parse().unwrap()).unwrap();
    io.spawn(async move {
        while let Ok(conn) = listener.accept().await {
            while let Ok(Some(bytes)) = conn.recv().await {
                if conn.send(&bytes, false).await.is_err() {
                    break;
                }
            }
        }
    });
    if let Ok(conn) = io.connect("127.0.0.1:9092".parse().unwrap()).await {
        for _ in 0..20 {
            let _failed = conn.send(&[7; 1000], false).await;
            let _ended = conn.recv().await;
        }
    }
    io.sleep(MS * 50).await;
}

fn history_of(seed: u64) -> (Vec<Event>, u64, Vec<u8>) {
    let mut world = World::new(seed, Faults::swarm(seed));
    world.keep_history(usize::MAX);
    world.stop_after(100 + seed, End::PowerCut);
    let _: Outcome<()> = world.boot(busy);
    let _: Outcome<()> = world.boot(busy);
    world.crash();
    let left = world.disk().read(LOG).unwrap_or_default();
    (world.history(), world.history_hash(), left)
}

#[test]
fn one_seed_is_one_history_byte_for_byte() {
    let text =
        |events: &[Event]| events.iter().map(|event| format!("{event}\n")).collect::<String>();
    let mut hashes = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let (first, second) = (history_of(seed), history_of(seed));
        assert!(first.0.len() > 50);
        assert_eq!(text(&first.0), text(&second.0));
        assert_eq!(first, second);
        hashes.insert(first.1);
    }
    assert_eq!(hashes.len(), 50);
}

/// The history of one seed, fixed: another machine, compiler or version of a dependency must not
/// change it, or seeds written down in tests mean nothing.
#[test]
fn a_seed_means_the_same_forever() {
    let (events, _, left) = history_of(42);
    let shown = |event: &Event| format!("{:?} at {} ns", event.kind, event.at.as_nanos());
    let sum: u64 = left.iter().map(|byte| u64::from(*byte)).sum();
    let facts =
        (events.get(40).map(shown), events.last().map(shown), events.len(), left.len(), sum);
    assert_eq!(
        facts,
        (
            Some("Synced at 13966896 ns".into()),
            Some("PowerCut at 81253964 ns".into()),
            186,
            10_808,
            29_258
        )
    );
}

#[test]
fn tasks_run_in_the_order_in_which_they_were_woken() {
    let order = Rc::new(RefCell::new(Vec::new()));
    let seen = Rc::clone(&order);
    let main = |io: Sim| async move {
        for task in 0..3 {
            let seen = Rc::clone(&seen);
            io.spawn(async move {
                for step in 0..2 {
                    seen.borrow_mut().push((step, task));
                    pause().await;
                }
            });
        }
        pause().await;
        pause().await;
        pause().await;
    };
    world(1).boot(main).done();
    assert_eq!(*order.borrow(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]);
}

#[test]
fn time_moves_only_when_nothing_is_ready_and_no_further_than_needed() {
    let main = |io: Sim| async move {
        for _ in 0..1000 {
            pause().await;
        }
        assert_eq!(io.now().0, Duration::ZERO);
        let wall = io.timestamp();
        io.sleep(MS * 5).await;
        assert_eq!(io.now().0, MS * 5);
        assert_eq!(io.timestamp().0 - wall.0, 5);
        // What lies in the past is over.
        io.sleep_until(crate::types::Instant(MS)).await;
        assert_eq!(io.now().0, MS * 5);
    };
    let mut world = world(1);
    world.boot(main).done();
    world.step_wall_clock(-10_000);
    let main = |io: Sim| async move { (io.now().0, io.timestamp().0) };
    assert_eq!(world.boot(main).done(), (Duration::ZERO, 1_767_225_600_000 + 5 - 10_000));
}

#[test]
fn a_sleep_that_is_dropped_wakes_nobody() {
    let mut world = world(1);
    let main = |io: Sim| async move {
        let mut sleep = Box::pin(io.sleep(Duration::from_secs(60)));
        poll_fn(|cx| {
            assert!(sleep.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
    };
    world.boot(main).done();
    world.run_until_idle().done();
    assert_eq!(world.now().0, Duration::ZERO);
}

#[test]
fn a_deadlock_an_endless_wait_and_an_endless_loop_are_found() {
    assert_eq!(world(1).boot(|_| pending::<()>()), Outcome::Stuck);
    let ticks = |io: Sim| async move {
        loop {
            io.sleep(Duration::from_secs(1)).await;
        }
    };
    assert_eq!(world(1).boot::<(), _>(ticks), Outcome::Late);
    let spins = |_| async {
        loop {
            pause().await;
        }
    };
    assert_eq!(world(1).boot::<(), _>(spins), Outcome::Stuck);
    // Spinning until a deadline is slow, and ends.
    let spins = |io: Sim| async move {
        let timer = io.clone();
        io.spawn(async move { timer.sleep(MS).await });
        while io.now().0 < MS {
            pause().await;
        }
    };
    world(1).boot(spins).done();
}

#[test]
fn what_a_main_task_spawned_runs_on_until_the_process_ends() {
    struct OnDrop(Rc<Cell<bool>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let (ticks, dropped) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (count, guard) = (Rc::clone(&ticks), OnDrop(Rc::clone(&dropped)));
    let main = |io: Sim| async move {
        let timer = io.clone();
        io.spawn(async move {
            let _guard = guard;
            loop {
                timer.sleep(MS).await;
                count.set(count.get() + 1);
            }
        });
    };
    let mut world = world(1);
    world.boot(main).done();
    assert_eq!(ticks.get(), 0);
    world.run_for(MS * 10).done();
    assert_eq!(ticks.get(), 10);
    world.run_for(MS / 2).done();
    assert_eq!(world.now().0, MS * 10 + MS / 2);
    assert!(!dropped.get());
    world.kill();
    assert!(dropped.get());
    world.run_for(MS * 10).done();
    assert_eq!(ticks.get(), 10);
}

#[test]
fn not_a_line_runs_after_the_machine_stops_and_destructors_find_it_dead() {
    struct OnDrop(Sim, Rc<RefCell<Vec<&'static str>>>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let refused = self.0.remove_file(Path::new(LOG)).is_err();
            self.1.borrow_mut().push(if refused { "refused" } else { "removed" });
            self.0.spawn(async { panic!("a dead process runs no task") });
        }
    }
    for fault in [Fault::PowerCut, Fault::Kill] {
        let rule = Rule::on(OpKind::SetLen, fault).named(|path| path == LOG).times(1);
        let mut world = World::new(1, Faults::none().with(rule));
        let lines = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&lines);
        let main = |io: Sim| async move {
            let file = durable_file(&io, LOG, &[1; 10]).await.unwrap();
            let _guard = OnDrop(io.clone(), Rc::clone(&seen));
            seen.borrow_mut().push("before");
            let _failed = file.set_len(0);
            seen.borrow_mut().push("after");
        };
        let end = if fault == Fault::Kill { End::Killed } else { End::PowerCut };
        assert_eq!(world.boot(main), Outcome::Stopped(end));
        assert_eq!(*lines.borrow(), ["before", "refused"]);
        assert_eq!(world.disk().read(LOG).unwrap(), [1; 10]);
        // The rule has struck: the next process lives.
        world.boot(|io| async move { drop(durable_file(&io, LOG, &[]).await) }).done();
    }
}

#[test]
#[should_panic(expected = "a bug of the application")]
fn a_task_that_panics_panics_the_test() {
    let main = |io: Sim| async move {
        io.spawn(async { panic!("a bug of the application") });
        pending::<()>().await;
    };
    let _: Outcome<()> = world(1).boot(main);
}

#[test]
fn later_operations_end_in_an_order_that_the_seed_decides() {
    let order = |seed| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&order);
        let main = |io: Sim| async move {
            let file = durable_file(&io, LOG, &[]).await.unwrap();
            for task in 0..3 {
                let (file, seen) = (file.clone(), Rc::clone(&seen));
                io.spawn(async move {
                    file.sync().await.unwrap();
                    seen.borrow_mut().push(task);
                });
            }
            io.sleep(MS * 100).await;
        };
        world(seed).boot(main).done();
        order.take()
    };
    let orders: std::collections::BTreeSet<_> = (0..100).map(order).collect();
    assert_eq!(orders.len(), 6);
}
