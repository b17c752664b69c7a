//! A partition that cannot be opened: it alone is not served, and nothing takes its place.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use kariz_engine::batch::Batch;
use kariz_engine::io::Io;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, World};
use kariz_engine::{
    LeaderEpoch, LogConfig, Mark, Offset, Partition, Shard, TopicId, TopicPartition, sim,
};
use std::cell::RefCell;
use std::io;
use std::path::Path;
use std::rc::Rc;

const RECORDS: i64 = 10;

fn name(topic: &str) -> TopicPartition {
    TopicPartition::new(topic, 0)
}

async fn open(io: &Sim) -> io::Result<Shard<Sim>> {
    Ok(sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await?.0)
}

async fn create(shard: &Shard<Sim>, topic: &str) -> Result<Partition<Sim>, String> {
    let id = TopicId([topic.as_bytes()[0]; 16]);
    let created = shard.create_as(&name(topic), id, LeaderEpoch(0), LogConfig::default()).await;
    created.map_err(|error| error.to_string())
}

async fn append(io: &Sim, partition: &Partition<Sim>) {
    let batch = Batch::build().record(None, Some(b"x"), &[], io.timestamp()).done().unwrap();
    let span = partition.append(&batch).unwrap();
    partition.reach(Mark::Durable, &span).await.unwrap();
}

/// Two partitions with records, stopped in order if `clean`.
fn written(clean: bool) -> World {
    let mut world = World::new(1, Faults::none());
    world
        .boot(move |io| async move {
            let shard = open(&io).await.unwrap();
            for topic in ["t", "u"] {
                let partition = create(&shard, topic).await.unwrap();
                for _ in 0..RECORDS {
                    append(&io, &partition).await;
                }
            }
            if clean {
                sim::close(&shard).await.unwrap();
            }
        })
        .done();
    world.kill();
    world
}

/// How far `topic` goes, if it is there.
fn end(shard: &Shard<Sim>, topic: &str) -> Option<Offset> {
    shard.partition(&name(topic)).ok().map(|partition| partition.marks().high_watermark)
}

fn on_t(end: &'static str) -> Rule {
    let named = move |path: &str| path.starts_with("/data/t-0") && path.ends_with(end);
    Rule::on(OpKind::Open, Fault::Io).named(named)
}

#[test]
fn one_that_cannot_be_opened_is_passed_over_and_found_again_as_it_was() {
    let metadata = [
        on_t("partition.metadata"),
        Rule::on(OpKind::List, Fault::Io).named(|path| path == "/data/t-0"),
    ];
    for rule in [on_t(".log"), on_t("recovery.tmp")].into_iter().chain(metadata) {
        let told = format!("{rule:?}");
        let mut world = written(true);
        world.set_faults(Faults::none().with(rule));
        for next in [RECORDS, RECORDS + 1] {
            world
                .boot(move |io| async move {
                    let shard = open(&io).await.unwrap();
                    assert_eq!(end(&shard, "t"), None);
                    assert_eq!(end(&shard, "u"), Some(Offset(next)));
                    append(&io, &shard.partition(&name("u")).unwrap()).await;
                    let why = create(&shard, "t").await.err().unwrap();
                    assert!(why.contains("/data/t-0 could not be opened"), "{why}");
                    sim::close(&shard).await.unwrap();
                })
                .done();
            world.kill();
            let points = world.disk().read("/data/recovery-point-offset-checkpoint").unwrap();
            let points = String::from_utf8(points).unwrap();
            assert!(points.contains(&format!("t 0 {RECORDS}\n")), "{told}: {points}");
            // Or else the next start would take all of it for durable.
            assert!(world.disk().read("/data/.kafka_cleanshutdown").is_err(), "{told}");
        }
        world.crash();
        world.set_faults(Faults::none());
        world
            .boot(|io| async move {
                let shard = open(&io).await.unwrap();
                assert_eq!(end(&shard, "t"), Some(Offset(RECORDS)));
                append(&io, &shard.partition(&name("t")).unwrap()).await;
            })
            .done();
    }
}

#[test]
fn one_that_cannot_be_opened_can_be_deleted_and_made_anew() {
    let mut world = written(true);
    world.set_faults(Faults::none().with(on_t(".log")));
    world
        .boot(|io| async move {
            let shard = open(&io).await.unwrap();
            io.set_faults(Faults::none());
            shard.delete(&name("t")).await.unwrap();
            let partition = create(&shard, "t").await.unwrap();
            assert_eq!(partition.marks().high_watermark, Offset(0));
            let names = io.list(Path::new("/data")).unwrap().into_iter().map(|entry| entry.name);
            let mut strays = names.filter(|n| n.starts_with("t-0.") && n.ends_with("-stray"));
            let stray = Path::new("/data").join(strays.next().unwrap());
            assert!(io.list(&stray).unwrap().iter().any(|entry| entry.name.ends_with(".log")));
            sim::close(&shard).await.unwrap();
        })
        .done();
    assert!(world.disk().read("/data/.kafka_cleanshutdown").is_ok());
    world.crash();
    world.set_faults(Faults::none());
    world
        .boot(|io| async move {
            let shard = open(&io).await.unwrap();
            assert_eq!(end(&shard, "t"), Some(Offset(0)));
            append(&io, &shard.partition(&name("t")).unwrap()).await;
        })
        .done();
}

#[test]
fn one_whose_records_may_be_in_the_journal_alone_stops_the_start() {
    let mut world = written(false);
    for (end, named) in [("recovery.tmp", "/data/t-0: "), (".log", "/data/t-0/0000")] {
        for fault in [Fault::Io, Fault::Descriptors] {
            let names = move |path: &str| path.starts_with("/data/t-0") && path.ends_with(end);
            let rule = Rule::on(OpKind::Open, fault).named(names);
            world.set_faults(Faults::none().with(rule));
            let opened = world.boot(|io| async move { open(&io).await.map(drop) });
            let why = opened.done().unwrap_err().to_string();
            assert!(why.contains(named), "{why}");
            world.crash();
        }
    }
    world.set_faults(Faults::none());
    world
        .boot(|io| async move {
            let shard = open(&io).await.unwrap();
            assert_eq!(end(&shard, "t"), Some(Offset(RECORDS)));
            assert_eq!(end(&shard, "u"), Some(Offset(RECORDS)));
        })
        .done();
}

#[test]
fn a_journal_that_is_gone_or_damaged_is_told() {
    let slots = 8192;
    for (clean, is_told) in [(false, true), (true, false)] {
        for is_gone in [true, false] {
            let mut world = written(clean);
            if is_gone {
                world.disk().remove("/data/kariz.journal").unwrap();
            } else {
                world.disk().truncate("/data/kariz.journal", 0).unwrap();
                world.disk().truncate("/data/kariz.journal", slots).unwrap();
            }
            let told = Rc::new(RefCell::new(String::new()));
            let tells = Rc::clone(&told);
            world
                .boot(move |io| async move {
                    let on_event =
                        Rc::new(move |event: &_| *tells.borrow_mut() += &format!("{event:?}"));
                    let options = sim::Options { on_event, ..sim::Options::default() };
                    sim::open(io, Path::new("/data"), options).await.unwrap();
                })
                .done();
            let told = told.borrow().contains("kariz.journal is missing or damaged");
            assert_eq!(told, is_told, "clean: {clean}, gone: {is_gone}");
        }
    }
}
