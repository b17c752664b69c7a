//! What a power cut leaves of bytes.

use super::{LOG, count, durable_file, read, world, write};
use crate::io::sim::content::SECTOR_BYTES;
use crate::io::sim::rng::{Rng, Stream};
use crate::io::sim::{End, Fault, Faults, OpKind, Rule, World};
use crate::io::{File, Io, OpenMode};
use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice};
use std::path::Path;
use std::rc::Rc;

const SEEDS: u64 = 200;

/// What a file held at each moment since its last sync, that one included.
type Snapshots = Rc<RefCell<Vec<Vec<u8>>>>;

/// Changes one file at random and cuts the power: what was held since the last sync, and what is
/// left.
fn change_and_crash(seed: u64, cuts: bool) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut world = world(seed);
    let snapshots: Snapshots = Rc::default();
    let seen = Rc::clone(&snapshots);
    let main = |io: crate::io::sim::Sim| async move {
        let file = durable_file(&io, LOG, b"").await.unwrap();
        seen.borrow_mut().push(Vec::new());
        let mut rng = Rng::new(seed, Stream::App);
        let mut now = Vec::new();
        for step in 0..rng.below(40) {
            match rng.below(8) {
                0 => {
                    let synced = now.clone();
                    file.sync().await.unwrap();
                    *seen.borrow_mut() = vec![synced];
                }
                1 if cuts => {
                    now.resize(rng.index(6000), 0);
                    file.set_len(now.len() as u64).unwrap();
                }
                2 => assert_eq!(read(&file).unwrap(), now),
                _ => {
                    let at = if rng.coin() { now.len() } else { rng.index(6000) };
                    let bytes = vec![u8::try_from(step + 1).unwrap(); 1 + rng.index(3000)];
                    now.resize(now.len().max(at + bytes.len()), 0);
                    now[at..at + bytes.len()].copy_from_slice(&bytes);
                    write(&file, &bytes, at as u64).unwrap();
                }
            }
            seen.borrow_mut().push(now.clone());
        }
    };
    world.boot(main).done();
    world.crash();
    let left = world.disk().read(LOG).unwrap();
    (snapshots.take(), left)
}

#[test]
fn a_crash_leaves_each_byte_as_it_was_at_some_moment_since_the_last_sync() {
    for seed in 0..1000 {
        let (snapshots, left) = change_and_crash(seed, true);
        let lengths = || snapshots.iter().map(Vec::len);
        assert!(left.len() >= lengths().min().unwrap(), "seed {seed}");
        assert!(left.len() <= lengths().max().unwrap(), "seed {seed}");
        for (at, byte) in left.iter().enumerate() {
            // Beyond an end there are zeros, should the file become longer.
            let held = |snapshot: &Vec<u8>| snapshot.get(at).unwrap_or(&0) == byte;
            assert!(snapshots.iter().any(held), "seed {seed}, byte {at}: {byte}");
        }
    }
}

#[test]
fn a_crash_tears_no_sector() {
    for seed in 0..1000 {
        let (snapshots, left) = change_and_crash(seed, false);
        for (i, sector) in left.chunks(SECTOR_BYTES).enumerate() {
            let held = |snapshot: &Vec<u8>| {
                let byte = |at: usize| snapshot.get(i * SECTOR_BYTES + at).unwrap_or(&0);
                sector.iter().enumerate().all(|(at, found)| byte(at) == found)
            };
            assert!(snapshots.iter().any(held), "seed {seed}, sector {i}");
        }
    }
}

/// What is left of sixteen sectors of 1 over sixteen of 0, synced or not.
fn overwritten(seed: u64, sync: bool) -> Vec<u8> {
    let mut world = world(seed);
    let main = |io| async move {
        let file = durable_file(&io, LOG, &[0; 16 * SECTOR_BYTES]).await.unwrap();
        write(&file, &[1; 16 * SECTOR_BYTES], 0).unwrap();
        if sync {
            file.sync().await.unwrap();
        }
    };
    world.boot(main).done();
    world.crash();
    world.disk().read(LOG).unwrap()
}

#[test]
fn what_is_synced_survives_every_crash() {
    assert_eq!(count(SEEDS, |seed| overwritten(seed, true) == [1; 16 * SECTOR_BYTES]), SEEDS);
}

#[test]
fn what_is_not_synced_survives_some_crashes_and_not_others_and_is_torn_in_others() {
    let left: Vec<Vec<u8>> = (0..SEEDS).map(|seed| overwritten(seed, false)).collect();
    let whole = |byte| left.iter().filter(|bytes| bytes.iter().all(|b| *b == byte)).count();
    let (lost, survived) = (whole(0), whole(1));
    let torn = left.len() - lost - survived;
    assert!(lost > 20 && survived > 20 && torn > 50, "{lost} lost, {survived} not, {torn} torn");
    // The disk keeps no order: a later sector survives without an earlier one.
    let gap = |bytes: &&Vec<u8>| bytes.windows(SECTOR_BYTES + 1).any(|w| w[0] < w[SECTOR_BYTES]);
    assert!(left.iter().filter(gap).count() > 30);
}

#[test]
fn an_unsynced_length_survives_some_crashes_and_is_zeros_where_its_bytes_do_not() {
    let mut lengths = Vec::new();
    let mut holes = 0;
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[7; 100]).await.unwrap();
            write(&file, &[8; 4000], 100).unwrap();
        };
        world.boot(main).done();
        world.crash();
        let left = world.disk().read(LOG).unwrap();
        assert_eq!(left[..100], [7; 100]);
        assert!(left[100..].iter().all(|byte| [0, 8].contains(byte)));
        holes += u64::from(left[100..].contains(&0));
        lengths.push(left.len());
    }
    let with = |len| lengths.iter().filter(|l| **l == len).count();
    assert!(with(100) > 20 && with(4100) > 20 && holes > 20, "{lengths:?}");
    assert!(lengths.iter().any(|len| (101..4100).contains(len)));
}

#[test]
fn a_cut_that_is_not_synced_can_come_back() {
    let left = |seed, sync: bool| {
        let mut world = world(seed);
        let main = move |io| async move {
            let file = durable_file(&io, LOG, &[7; 5000]).await.unwrap();
            file.set_len(1000).unwrap();
            assert_eq!(read(&file).unwrap(), [7; 1000]);
            if sync {
                file.sync().await.unwrap();
            }
            file.set_len(2000).unwrap();
            assert_eq!(read(&file).unwrap()[1000..], [0; 1000]);
        };
        world.boot(main).done();
        world.crash();
        world.disk().read(LOG).unwrap()
    };
    let back = count(SEEDS, |seed| {
        let left = left(seed, false);
        // With the cut the disk gives up the bytes: they do not show when the file grows again.
        // The zeros behind the cut, in its own sector, are a write of their own.
        let rest = left.get(1024..).unwrap_or(&[]);
        let beyond = if left.len() == 5000 { 7 } else { 0 };
        assert!(rest.iter().all(|byte| *byte == beyond), "seed {seed}");
        left.len() == 5000
    });
    assert!((20..SEEDS - 20).contains(&back), "{back}");
    for seed in 0..SEEDS {
        let left = left(seed, true);
        assert!([1000, 2000].contains(&left.len()) || left.len() % SECTOR_BYTES == 0);
        assert!(left[..1000].iter().all(|byte| *byte == 7));
        assert!(left[1000..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_sync_covers_what_was_written_before_its_call_and_nothing_later() {
    let mut later_lost = 0;
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[0; 2000]).await.unwrap();
            write(&file, &[1; 512], 0).unwrap();
            let sync = file.sync();
            write(&file, &[2; 512], 512).unwrap();
            sync.await.unwrap();
        };
        world.boot(main).done();
        world.crash();
        let left = world.disk().read(LOG).unwrap();
        assert_eq!(left[..512], [1; 512]);
        later_lost += u64::from(left[512..1024] == [0; 512]);
    }
    assert!((20..SEEDS - 20).contains(&later_lost), "{later_lost}");
}

#[test]
fn what_is_written_over_a_sync_on_its_way_belongs_to_the_next_one() {
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[0; 2000]).await.unwrap();
            write(&file, &[1; 512], 0).unwrap();
            let first = file.sync();
            write(&file, &[2; 512], 0).unwrap();
            first.await.unwrap();
            file.sync().await.unwrap();
        };
        world.boot(main).done();
        world.crash();
        assert_eq!(world.disk().read(LOG).unwrap()[..512], [2; 512]);
    }
}

/// Linux reports a failed write-back once to an open file. So of two syncs on their way one fails,
/// and the other may end well although what both covered is lost.
#[test]
fn a_sync_beside_one_that_fails_may_end_well_over_lost_pages() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let fails = Rule::on(OpKind::Sync, Fault::Io).after(1).times(1);
        let mut world = World::new(seed, Faults::none().with(fails));
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[0; 4096]).await.unwrap();
            write(&file, &[1; 4096], 0).unwrap();
            let (first, second) = (file.sync(), file.sync());
            second.await.unwrap();
            first.await.unwrap_err();
        };
        world.boot(main).done();
        world.crash();
        lost += u64::from(world.disk().read(LOG).unwrap().contains(&0));
    }
    assert!((20..SEEDS - 20).contains(&lost), "{lost}");
}

/// The disk goes on with a sync that nobody waits for, and its error is gone with who called it.
#[test]
fn a_failed_sync_that_nobody_awaits_loses_pages_in_silence() {
    for killed in [false, true] {
        let mut lost = 0;
        for seed in 0..SEEDS {
            let fails = Rule::on(OpKind::Sync, Fault::Io).after(1).times(1);
            let mut world = World::new(seed, Faults::none().with(fails));
            let main = move |io: crate::io::sim::Sim| async move {
                let file = durable_file(&io, LOG, &[0; 4096]).await.unwrap();
                write(&file, &[1; 4096], 0).unwrap();
                drop(file.sync());
                if !killed {
                    io.sleep(io_time()).await;
                    file.sync().await.unwrap();
                }
            };
            world.boot(main).done();
            let main = |io: crate::io::sim::Sim| async move {
                let file = io.open(Path::new(LOG), OpenMode::Write).unwrap();
                assert_eq!(read(&file).unwrap(), [1; 4096]);
                file.sync().await.unwrap();
            };
            world.boot(main).done();
            world.crash();
            lost += u64::from(world.disk().read(LOG).unwrap().contains(&0));
        }
        assert!(lost > SEEDS / 2, "{lost}");
    }
}

/// Longer than any sync takes.
fn io_time() -> std::time::Duration {
    Faults::none().disk_latency.end
}

#[test]
fn syncs_that_overlap_never_take_back_what_one_of_them_settled() {
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[0; 2000]).await.unwrap();
            write(&file, &[1; 512], 0).unwrap();
            let first = file.sync();
            write(&file, &[2; 600], 0).unwrap();
            file.set_len(700).unwrap();
            // The order in which they are awaited is not that in which they end.
            file.sync().await.unwrap();
            first.await.unwrap();
        };
        world.boot(main).done();
        world.crash();
        let left = world.disk().read(LOG).unwrap();
        assert_eq!(left[..600], [2; 600]);
        assert_eq!(left.len(), 700);
    }
}

#[test]
fn a_failed_sync_leaves_pages_readable_and_lost_and_the_next_sync_does_not_bring_them_back() {
    let left = |seed, rewrite: bool| {
        let fails = Rule::on(OpKind::Sync, Fault::Io).after(1).times(1);
        let mut world = World::new(seed, Faults::none().with(fails));
        let main = move |io| async move {
            let file = durable_file(&io, LOG, &[0; 4096]).await.unwrap();
            write(&file, &[1; 4096], 0).unwrap();
            let failed = file.sync().await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(5));
            assert_eq!(read(&file).unwrap(), [1; 4096]);
            if rewrite {
                write(&file, &[1; 4096], 0).unwrap();
            }
            file.sync().await.unwrap();
        };
        world.boot(main).done();
        world.kill();
        assert_eq!(world.disk().read(LOG).unwrap(), [1; 4096]);
        world.crash();
        world.disk().read(LOG).unwrap()
    };
    let lost = count(SEEDS, |seed| left(seed, false).contains(&0));
    assert!(lost > SEEDS / 2, "{lost}");
    assert_eq!(count(SEEDS, |seed| left(seed, true) == [1; 4096]), SEEDS);
}

#[test]
fn a_page_lost_to_a_failed_sync_reads_old_once_it_is_evicted() {
    let fails = Rule::on(OpKind::Sync, Fault::Io).after(1);
    let mut world = World::new(3, Faults::none().with(fails));
    let main = |io| async move {
        let file = durable_file(&io, LOG, &[0; 4096]).await.unwrap();
        write(&file, &[1; 4096], 0).unwrap();
        file.sync().await.unwrap_err();
        write(&file, &[2; 512], 0).unwrap();
        io.disk().drop_caches();
        let bytes = read(&file).unwrap();
        assert_eq!(bytes[..512], [2; 512]);
        assert!(bytes[512..].contains(&0));
    };
    world.boot(main).done();
}

#[test]
fn a_killed_process_leaves_its_page_cache_which_a_crash_may_take() {
    let mut lost = 0;
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io| async move {
            let file = durable_file(&io, LOG, &[0; 512]).await.unwrap();
            write(&file, &[1; 512], 0).unwrap();
        };
        world.boot(main).done();
        world.kill();
        let main = |io: crate::io::sim::Sim| async move {
            let file = io.open(Path::new(LOG), OpenMode::Read).unwrap();
            assert_eq!(read(&file).unwrap(), [1; 512]);
            read(&file).unwrap()
        };
        world.boot(main).done();
        world.crash();
        lost += u64::from(world.disk().read(LOG).unwrap() == [0; 512]);
    }
    assert!((20..SEEDS - 20).contains(&lost), "{lost}");
}

#[test]
fn a_full_disk_takes_what_fits_and_has_room_again_when_a_file_is_gone() {
    let mut world = World::new(1, Faults { capacity_bytes: 64 * 1024, ..Faults::none() });
    let main = |io: crate::io::sim::Sim| async move {
        let old = io.open(Path::new("/old"), OpenMode::Create).unwrap();
        old.preallocate(0, 32 * 1024).unwrap();
        assert_eq!(old.len().unwrap(), 0);
        let new = io.open(Path::new("/new"), OpenMode::Create).unwrap();
        let all = [1; 40_000];
        // Room for eight blocks, and the file begins in the middle of the first.
        assert_eq!(new.write_at(&[IoSlice::new(&all)], 100).unwrap(), 32 * 1024 - 100);
        let full = new.write_at(&[IoSlice::new(&all)], 32 * 1024).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        assert_eq!(new.preallocate(32 * 1024, 1).unwrap_err().kind(), ErrorKind::StorageFull);
        // What has its block already needs no room; a preallocated one neither.
        assert_eq!(new.write_at(&[IoSlice::new(&[2; 100])], 0).unwrap(), 100);
        assert_eq!(old.write_at(&[IoSlice::new(&all)], 0).unwrap(), 32 * 1024);
        // Unlinked and open it still takes room.
        io.remove_file(Path::new("/old")).unwrap();
        assert_eq!(io.disk().used_bytes(), 64 * 1024);
        drop(old);
        assert_eq!(io.disk().used_bytes(), 32 * 1024);
        new.write_at(&[IoSlice::new(&all)], 32 * 1024).unwrap();
        new.set_len(1).unwrap();
        assert_eq!(io.disk().used_bytes(), 4096);
        io.disk().set_capacity(0);
        let full = new.write_at(&[IoSlice::new(&all)], 8192).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::StorageFull);
        let huge = new.set_len(1 << 40).unwrap_err();
        assert_eq!(huge.kind(), ErrorKind::FileTooLarge);
    };
    world.boot(main).done();
}

#[test]
fn an_unlinked_file_is_readable_until_its_last_handle_is_gone() {
    let mut world = world(1);
    let main = |io: crate::io::sim::Sim| async move {
        let file = durable_file(&io, LOG, b"still here").await.unwrap();
        let clone = file.clone();
        io.remove_file(Path::new(LOG)).unwrap();
        io.sync_dir(Path::new("/")).await.unwrap();
        drop(file);
        assert_eq!(read(&clone).unwrap(), b"still here");
        write(&clone, b"!", 10).unwrap();
        clone.sync().await.unwrap();
        assert_eq!(clone.len().unwrap(), 11);
        drop(clone);
        assert_eq!(io.disk().used_bytes(), 0);
    };
    world.boot(main).done();
}

#[test]
fn rules_strike_the_chosen_operation_on_the_chosen_file() {
    let faults = Faults::none()
        .with(Rule::on(OpKind::Write, Fault::NoSpace).named(|p| p == "/b").after(1).times(1))
        .with(Rule::on(OpKind::Read, Fault::Io).named(|p| p == "/a"))
        .with(Rule::on(OpKind::Write, Fault::Short).named(|p| p == "/a"));
    let main = |io: crate::io::sim::Sim| async move {
        let a = io.open(Path::new("/a"), OpenMode::Create).unwrap();
        let b = io.open(Path::new("/b"), OpenMode::Create).unwrap();
        let short = a.write_at(&[IoSlice::new(&[1; 100])], 0).unwrap();
        assert!((1..100).contains(&short));
        assert_eq!(a.read_at(&mut [0; 1], 0).unwrap_err().raw_os_error(), Some(5));
        write(&b, &[1], 0).unwrap();
        assert_eq!(write(&b, &[2], 0).unwrap_err().kind(), ErrorKind::StorageFull);
        write(&b, &[3], 0).unwrap();
        assert_eq!(read(&b).unwrap(), [3]);
    };
    World::new(1, faults).boot(main).done();
}

#[test]
fn damage_is_there_for_processes_and_after_a_crash() {
    let mut world = world(1);
    world.boot(|io| async move { drop(durable_file(&io, LOG, &[0; 1000]).await) }).done();
    world.disk().flip(LOG, 999, 0x80).unwrap();
    world.disk().truncate("/log", 1000).unwrap();
    assert_eq!(world.disk().flip(LOG, 1000, 1).unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(world.disk().read(LOG).unwrap()[999], 0x80);
    world.crash();
    assert_eq!(world.disk().read(LOG).unwrap()[999], 0x80);
    world.disk().truncate(LOG, 10).unwrap();
    world.crash();
    assert_eq!(world.disk().read(LOG).unwrap(), [0; 10]);
    world.disk().remove(LOG).unwrap();
    world.crash();
    assert_eq!(world.disk().read(LOG).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn handles_of_a_dead_process_are_dead() {
    for end in [End::Killed, End::PowerCut] {
        let mut world = world(1);
        let file =
            world.boot(|io| async move { durable_file(&io, LOG, &[0; 10]).await.unwrap() }).done();
        match end {
            End::Killed => world.kill(),
            End::PowerCut => world.crash(),
        }
        assert!(file.len().is_err());
        assert!(file.read_at(&mut [0], 0).is_err());
        let io = world.start();
        assert!(write(&file, &[1], 0).is_err());
        drop(file);
        assert_eq!(io.disk().read(LOG).unwrap(), [0; 10]);
    }
}
