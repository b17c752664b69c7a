//! Following a partition.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::{
    AppendError, LogConfig, Mark, Offset, Partition, ReadError, Shard, TopicPartition, sim,
};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

async fn open(io: &Sim) -> (Shard<Sim>, Partition<Sim>) {
    let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await;
    let shard = opened.unwrap().0;
    // Several segments.
    let mut config = LogConfig::default();
    config.segment_bytes = 1 << 20;
    let log = shard.create(&TopicPartition::new("t", 0), config).await.unwrap();
    (shard, log)
}

fn batch(records: usize, bytes: usize) -> Batch {
    let mut batch = Batch::build();
    for _ in 0..records {
        batch = batch.record(None, Some(&vec![7; bytes]), &[], None);
    }
    batch.done().unwrap()
}

#[test]
fn it_gives_every_batch_once_as_they_come() {
    for seed in 0..20 {
        let main = |io: Sim| async move {
            let (shard, log) = open(&io).await;
            let seen = Rc::new(RefCell::new(Vec::new()));
            let (mut tail, noted) = (log.tail(Offset::ZERO), Rc::clone(&seen));
            shard.spawn(async move {
                loop {
                    for batch in tail.next().await.unwrap() {
                        noted.borrow_mut().push(batch.header().base_offset());
                    }
                    let last = noted.borrow().last().copied().unwrap();
                    assert!(tail.position() > last);
                }
            });
            let mut appended = Vec::new();
            for _ in 0..100 {
                let records = usize::try_from(1 + io.random() % 3).unwrap();
                let bytes = usize::try_from(io.random() % 50_000).unwrap();
                let span = log.append(&batch(records, bytes)).unwrap();
                appended.push(span.base);
                if io.random().is_multiple_of(4) {
                    log.reach(Mark::High, &span).await.unwrap();
                }
            }
            io.sleep(Duration::from_secs(1)).await;
            assert_eq!(*seen.borrow(), appended);
        };
        World::new(seed, Faults::none()).boot(main).done();
    }
}

#[test]
fn it_begins_with_the_batch_that_holds_its_offset() {
    let main = |io: Sim| async move {
        let (_shard, log) = open(&io).await;
        let span = log.append(&batch(10, 10)).unwrap();
        log.reach(Mark::High, &span).await.unwrap();
        let mut tail = log.tail(Offset(7));
        assert_eq!(tail.next().await.unwrap().len(), 1);
        assert_eq!(tail.position(), Offset(10));
        assert!(matches!(log.tail(Offset(11)).next().await, Err(ReadError::OutOfRange { .. })));
    };
    World::new(1, Faults::none()).boot(main).done();
}

#[test]
fn it_ends_where_nothing_more_can_come() {
    let main = |io: Sim| async move {
        let (shard, log) = open(&io).await;
        let span = log.append(&batch(1, 10)).unwrap();
        log.reach(Mark::High, &span).await.unwrap();
        let mut waiting = log.tail(Offset::ZERO);
        assert_eq!(waiting.next().await.unwrap().len(), 1);
        io.set_faults(Faults::none().with(Rule::on(OpKind::Sync, Fault::Io)));
        log.append(&batch(1, 10)).unwrap();
        let began = io.now();
        assert!(matches!(waiting.next().await, Err(ReadError::Ended(_))));
        // What was readable still is.
        let mut again = log.tail(Offset::ZERO);
        assert_eq!(again.next().await.unwrap().len(), 1);
        assert!(matches!(again.next().await, Err(ReadError::Ended(_))));
        assert!(io.now() - began < Duration::from_secs(1));
        drop(shard);
    };
    World::new(1, Faults::none()).boot(main).done();

    let main = |io: Sim| async move {
        let (shard, log) = open(&io).await;
        let deleting = shard.clone();
        shard.spawn(async move { deleting.delete(&TopicPartition::new("t", 0)).await.unwrap() });
        assert!(matches!(log.tail(Offset::ZERO).next().await, Err(ReadError::Deleted)));
    };
    World::new(1, Faults::none()).boot(main).done();
}

#[test]
fn a_slice_is_cut_to_whole_batches() {
    let main = |io: Sim| async move {
        let (_shard, log) = open(&io).await;
        for _ in 0..3 {
            log.append(&batch(2, 100)).unwrap();
        }
        log.reach_offset(Mark::High, Offset(6)).await.unwrap();
        let all = log.slice(Offset::ZERO, 1 << 20).await.unwrap();
        let one = all.len() / 3;
        for (max_bytes, len, next) in [(1, one, 2), (2 * one - 1, one, 2), (2 * one, 2 * one, 4)] {
            let slice = log.slice(Offset::ZERO, max_bytes).await.unwrap();
            let (whole, end) = slice.whole().unwrap().unwrap();
            assert_eq!((whole.len(), end), (len, Offset(next)));
        }
        assert!(log.slice(Offset(6), 1).await.unwrap().whole().unwrap().is_none());
    };
    World::new(1, Faults::none()).boot(main).done();
}

/// What its end notes would not know of it.
#[test]
fn a_core_that_ends_takes_no_appends() {
    let main = |io: Sim| async move {
        let (shard, log) = open(&io).await;
        let appending = log.clone();
        let refused = Rc::new(RefCell::new(None));
        let told = Rc::clone(&refused);
        let ticking = io.clone();
        shard.spawn(async move {
            loop {
                match appending.append(&batch(1, 10)) {
                    Ok(_) => ticking.sleep(Duration::from_micros(10)).await,
                    Err(error) => return drop(told.replace(Some(error))),
                }
            }
        });
        io.sleep(Duration::from_millis(10)).await;
        sim::close(&shard).await.unwrap();
        assert!(matches!(*refused.borrow(), Some(AppendError::Closed)));
        log.marks().written
    };
    let mut world = World::new(1, Faults::none());
    let written = world.boot(main).done();
    let again = |io: Sim| async move {
        let opened = sim::open(io, Path::new("/data"), sim::Options::default()).await.unwrap();
        assert!(opened.1.was_clean);
        opened.0.partition(&TopicPartition::new("t", 0)).unwrap().marks().written
    };
    assert_eq!(world.boot(again).done(), written);
}
