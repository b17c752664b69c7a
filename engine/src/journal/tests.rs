use super::*;
use crate::io::sim::{Faults, Sim, World};
use crate::types::{LeaderEpoch, Offset, TopicId};
use entry::Kind;
use proptest::prelude::*;
use std::path::PathBuf;

const SIZE: u64 = 64 << 10;

fn path() -> PathBuf {
    PathBuf::from("/d/kariz.journal")
}

fn entry(n: u64, bytes: usize) -> Entry {
    let mut entry = Entry::new();
    let value = n.to_be_bytes().repeat(bytes / 8);
    entry.push(
        &Item {
            topic_id: TopicId([3; 16]),
            partition: 7,
            kind: Kind::Bytes,
            leader_epoch: LeaderEpoch(1),
            base: Offset(i64::try_from(n).unwrap()),
            end: Offset(i64::try_from(n).unwrap() + 1),
            segment: Offset(0),
            position: 9,
            bytes: &[],
        },
        [value.as_slice()].into_iter(),
    );
    entry
}

fn replayed(io: &Sim) -> Result<Vec<u64>, ReplayError> {
    let mut seen = Vec::new();
    replay(io, &path(), |item| {
        let n = u64::try_from(item.base.0).unwrap();
        assert!(item.bytes.chunks(8).all(|c| c == n.to_be_bytes()), "entry {n} is not as written");
        seen.push(n);
        Ok(())
    })?;
    Ok(seen)
}

proptest! {
    /// Whatever the sizes and the releases, a replay after a power cut shows every synced entry
    /// from the last durable release on, in order, and at most what was written after.
    #[test]
    fn a_power_cut_loses_nothing_that_was_synced(
        seed: u64,
        ops in prop::collection::vec((0..4_u8, 8..9000_usize), 1..120),
    ) {
        let mut world = World::new(seed, Faults::none());
        let (written, synced, needed) = world.boot(move |io: Sim| async move {
            io.create_dir(std::path::Path::new("/d")).unwrap();
            let mut journal = Journal::begin(&io, &path(), SIZE).await.unwrap();
            io.sync_dir(std::path::Path::new("/d")).await.unwrap();
            io.sync_dir(std::path::Path::new("/")).await.unwrap();
            let (mut written, mut synced, mut needed) = (0, 0, 1);
            for (op, bytes) in ops {
                match op {
                    0 | 1 => {
                        if synced < written {
                            journal.sync().await.unwrap();
                            synced = written;
                        }
                        match journal.write(&mut entry(written + 1, bytes)) {
                            Ok(()) => written += 1,
                            Err(WriteError::Full { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                    2 => {
                        journal.sync().await.unwrap();
                        synced = written;
                    }
                    _ => {
                        let end = journal.end();
                        journal.release(end).unwrap();
                        journal.sync().await.unwrap();
                        journal.released(end);
                        (synced, needed) = (written, written + 1);
                    }
                }
            }
            (written, synced, needed)
        }).done();
        world.crash();
        let seen = world.boot(|io: Sim| async move { replayed(&io) }).done().unwrap();
        let last = needed + seen.len() as u64 - 1;
        prop_assert_eq!(&seen, &(needed..=last).collect::<Vec<_>>());
        prop_assert!(synced <= last && last <= written, "{} {} {}", synced, last, written);
    }
}

#[test]
fn an_earlier_life_is_not_replayed() {
    let mut world = World::new(1, Faults::none());
    let run = |n: u64| {
        move |io: Sim| async move {
            io.create_dir(std::path::Path::new("/d")).unwrap();
            let before = replayed(&io).unwrap();
            let mut journal = Journal::begin(&io, &path(), SIZE).await.unwrap();
            for i in 0..n {
                journal.write(&mut entry(i, 100)).unwrap();
                journal.sync().await.unwrap();
            }
            before
        }
    };
    assert_eq!(world.boot(run(5)).done(), Vec::<u64>::new());
    assert_eq!(world.boot(run(2)).done(), (0..5).collect::<Vec<_>>());
    assert_eq!(world.boot(run(0)).done(), (0..2).collect::<Vec<_>>());
    assert_eq!(world.boot(run(0)).done(), Vec::<u64>::new());
}

#[test]
fn rot_in_the_middle_is_not_taken_for_the_end() {
    let mut world = World::new(1, Faults::none());
    let outcome = world.boot(|io: Sim| async move {
        io.create_dir(std::path::Path::new("/d")).unwrap();
        let mut journal = Journal::begin(&io, &path(), SIZE).await.unwrap();
        let mut second = 0;
        for i in 0..4 {
            if i == 1 {
                second = journal.end().position;
            }
            journal.write(&mut entry(i, 800)).unwrap();
            journal.sync().await.unwrap();
        }
        let file = io.open(&path(), OpenMode::Write).unwrap();
        write_all(&file, b"rot", second + 100).unwrap();
        replayed(&io)
    });
    match outcome.done() {
        Err(ReplayError::Damaged { missing: 2, found: 3 }) => {}
        other => panic!("{other:?}"),
    }
}
