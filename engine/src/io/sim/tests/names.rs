//! What a power cut leaves of names.

use super::{count, durable_file, world, write};
use crate::io::sim::rng::{Rng, Stream};
use crate::io::sim::{End, Faults, Outcome, Sim, World};
use crate::io::{File, Io, OpenMode};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

const SEEDS: u64 = 200;

fn exists(world: &World, path: &str) -> bool {
    world.disk().read(path).is_ok()
}

#[test]
fn a_name_is_durable_only_after_its_directory_is_synced() {
    let survives = |seed, sync_dir: bool| {
        let mut world = world(seed);
        let main = move |io: Sim| async move {
            let file = io.open(Path::new("/new"), OpenMode::Create).unwrap();
            write(&file, &[1; 10], 0).unwrap();
            file.sync().await.unwrap();
            if sync_dir {
                io.sync_dir(Path::new("/")).await.unwrap();
            }
        };
        world.boot(main).done();
        world.crash();
        if exists(&world, "/new") {
            // The bytes were synced: where the name is, they are.
            assert_eq!(world.disk().read("/new").unwrap(), [1; 10]);
        }
        exists(&world, "/new")
    };
    let survived = count(SEEDS, |seed| survives(seed, false));
    assert!((20..SEEDS - 20).contains(&survived), "{survived}");
    assert_eq!(count(SEEDS, |seed| survives(seed, true)), SEEDS);
}

#[test]
fn a_directory_is_durable_only_with_the_name_above_it() {
    let survives = |seed, dirs: &'static [&'static str]| {
        let mut world = world(seed);
        let main = move |io: Sim| async move {
            io.create_dir(Path::new("/a/b")).unwrap();
            let file = io.open(Path::new("/a/b/c"), OpenMode::Create).unwrap();
            file.sync().await.unwrap();
            for dir in dirs {
                io.sync_dir(Path::new(dir)).await.unwrap();
            }
        };
        world.boot(main).done();
        world.crash();
        exists(&world, "/a/b/c")
    };
    assert_eq!(count(SEEDS, |seed| survives(seed, &["/a/b", "/a", "/"])), SEEDS);
    for partly in [&["/a/b", "/a"][..], &["/a/b", "/"], &["/a", "/"]] {
        assert!((20..SEEDS - 20).contains(&count(SEEDS, |seed| survives(seed, partly))));
    }
}

#[test]
fn a_rename_replaces_whole_or_not_at_all() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io: Sim| async move {
            durable_file(&io, "/f", b"old").await.unwrap();
            let aside = io.open(Path::new("/f.new"), OpenMode::Create).unwrap();
            write(&aside, b"new", 0).unwrap();
            aside.sync().await.unwrap();
            io.rename(Path::new("/f.new"), Path::new("/f")).unwrap();
        };
        world.boot(main).done();
        world.crash();
        match world.disk().read("/f").unwrap().as_slice() {
            b"old" => old += 1,
            b"new" => {
                new += 1;
                assert!(!exists(&world, "/f.new"), "two names, seed {seed}");
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(old > 20 && new > 20, "{old} old, {new} new");
}

#[test]
fn a_file_renamed_often_has_one_name_after_a_crash() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io: Sim| async move {
            durable_file(&io, "/0", b"here").await.unwrap();
            for n in 0..4 {
                let (from, to) = (format!("/{n}"), format!("/{}", n + 1));
                io.rename(Path::new(&from), Path::new(&to)).unwrap();
            }
        };
        world.boot(main).done();
        world.crash();
        let names = world.disk().list("/").unwrap();
        assert_eq!(names.len(), 1, "seed {seed}: {names:?}");
        left.insert(names[0].name.clone());
    }
    assert_eq!(left.len(), 5, "{left:?}");
}

#[test]
fn of_many_names_a_crash_leaves_all_or_none_or_the_first_or_any() {
    let (mut all, mut none, mut first, mut any) = (0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = world(seed);
        let main = |io: Sim| async move {
            for n in 0..20 {
                let path = format!("/{n:02}");
                drop(io.open(Path::new(&path), OpenMode::Create).unwrap());
            }
        };
        world.boot(main).done();
        world.crash();
        let names = world.disk().list("/").unwrap();
        let last = names.last().map(|entry| entry.name.parse::<usize>().unwrap());
        match (names.len(), last) {
            (0, _) => none += 1,
            (20, _) => all += 1,
            (n, Some(last)) if last + 1 == n => first += 1,
            _ => any += 1,
        }
    }
    assert!(all > 10 && none > 25 && first > 20 && any > 20, "{all} {none} {first} {any}");
}

#[test]
fn a_rename_between_directories_is_seen_by_both_or_neither() {
    for (seed, synced) in (0..SEEDS).flat_map(|seed| ["", "/a", "/b"].map(|dir| (seed, dir))) {
        let mut world = world(seed);
        let main = move |io: Sim| async move {
            io.create_dir(Path::new("/a/p")).unwrap();
            io.create_dir(Path::new("/b")).unwrap();
            durable_file(&io, "/a/p/f", b"here").await.unwrap();
            for dir in ["/a", "/b", "/"] {
                io.sync_dir(Path::new(dir)).await.unwrap();
            }
            io.rename(Path::new("/a/p"), Path::new("/b/p")).unwrap();
            if !synced.is_empty() {
                io.sync_dir(Path::new(synced)).await.unwrap();
            }
        };
        world.boot(main).done();
        world.crash();
        let moved = exists(&world, "/b/p/f");
        assert_ne!(moved, exists(&world, "/a/p/f"), "seed {seed}");
        assert!(moved || synced.is_empty());
    }
}

#[test]
fn removals_can_come_back_until_they_are_synced() {
    let back = |seed, sync: bool| {
        let mut world = world(seed);
        let main = move |io: Sim| async move {
            io.create_dir(Path::new("/d")).unwrap();
            durable_file(&io, "/d/f", b"here").await.unwrap();
            io.sync_dir(Path::new("/")).await.unwrap();
            io.remove_dir(Path::new("/d")).unwrap();
            assert_eq!(io.list(Path::new("/")).unwrap(), []);
            assert_eq!(io.disk().used_bytes(), 0);
            if sync {
                io.sync_dir(Path::new("/")).await.unwrap();
            }
        };
        world.boot(main).done();
        world.crash();
        if exists(&world, "/d/f") {
            assert_eq!(world.disk().read("/d/f").unwrap(), b"here");
        }
        exists(&world, "/d/f")
    };
    let came_back = count(SEEDS, |seed| back(seed, false));
    assert!((20..SEEDS - 20).contains(&came_back), "{came_back}");
    assert_eq!(count(SEEDS, |seed| back(seed, true)), 0);
}

/// The recipe for a safe replacement, cut before every operation: the file is never gone and never
/// half.
#[test]
fn a_safe_replacement_survives_a_cut_anywhere() {
    let run = |seed, cut: Option<(u64, End)>| {
        let mut world = world(seed);
        world.boot(|io| async move { drop(durable_file(&io, "/f", &[1; 5000]).await) }).done();
        let before = world.cut_points();
        if let Some((n, end)) = cut {
            world.stop_after(n, end);
        }
        let main = |io: Sim| async move {
            let aside = io.open(Path::new("/f.new"), OpenMode::Create).unwrap();
            write(&aside, &[2; 5000], 0).unwrap();
            aside.sync().await.unwrap();
            io.rename(Path::new("/f.new"), Path::new("/f")).unwrap();
            io.sync_dir(Path::new("/")).await.unwrap();
        };
        let outcome = world.boot(main);
        assert_eq!(outcome, cut.map_or(Outcome::Done(()), |(_, end)| Outcome::Stopped(end)));
        let points = world.cut_points() - before;
        world.crash();
        (world.disk().read("/f").unwrap(), points)
    };
    for seed in 0..20 {
        let (left, points) = run(seed, None);
        assert_eq!(left, [2; 5000]);
        assert_eq!(points, 7); // open, write, sync, synced, rename, sync, synced
        for n in 1..=points {
            for end in [End::PowerCut, End::Killed] {
                let (left, _) = run(seed, Some((n, end)));
                assert!(left == [1; 5000] || left == [2; 5000], "seed {seed}, cut {n}");
            }
        }
    }
}

/// Random changes of names against a plain map; at the end either all is synced, and all is there,
/// or each name is as it was at some moment since the last sync of everything.
#[test]
fn names_agree_with_a_model_and_survive_when_synced() {
    type Names = BTreeMap<&'static str, u8>;
    const NAMES: [&str; 6] = ["/d/a", "/d/b", "/e/a", "/e/b", "/a", "/b"];
    async fn sync_all(io: &Sim) {
        for dir in ["/d", "/e", "/"] {
            io.sync_dir(Path::new(dir)).await.unwrap();
        }
    }
    async fn change(io: Sim, seed: u64, sync_last: bool) -> Vec<Names> {
        io.create_dir(Path::new("/d")).unwrap();
        io.create_dir(Path::new("/e")).unwrap();
        sync_all(&io).await;
        let mut rng = Rng::new(seed, Stream::App);
        let mut names = Names::new();
        let mut since_sync = vec![Names::new()];
        for step in 0..30 {
            let from = NAMES[rng.index(NAMES.len())];
            let to = NAMES[rng.index(NAMES.len())];
            let was = names.get(from).copied();
            let result = match rng.below(4) {
                0 => {
                    let file = io.open(Path::new(from), OpenMode::Create).unwrap();
                    write(&file, &[step], 0).unwrap();
                    file.sync().await.unwrap();
                    names.insert(from, step);
                    Ok(())
                }
                1 => {
                    names.remove(from);
                    io.remove_file(Path::new(from)).map(|()| assert!(was.is_some()))
                }
                2 => {
                    if let Some(step) = names.remove(from) {
                        names.insert(to, step);
                    }
                    io.rename(Path::new(from), Path::new(to))
                }
                _ if rng.below(4) == 0 => {
                    sync_all(&io).await;
                    since_sync.clear();
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(error) = result {
                assert!(was.is_none());
                assert_eq!(error.kind(), ErrorKind::NotFound);
            }
            since_sync.push(names.clone());
        }
        if sync_last {
            sync_all(&io).await;
            since_sync.drain(..since_sync.len() - 1);
        }
        since_sync
    }
    for seed in 0..500 {
        let mut world = world(seed);
        let snapshots = world.boot(|io| change(io, seed, seed % 2 == 0)).done();
        world.crash();
        for name in NAMES {
            let left = world.disk().read(name).ok().map(|bytes| bytes.first().copied());
            // The bytes of a file emptied again belong to the byte tests.
            let held = |names: &Names| match (left, names.get(name)) {
                (Some(Some(left)), Some(held)) => left == *held || snapshots.len() > 1,
                (Some(None), held) => held.is_some() && snapshots.len() > 1,
                (None, None) => true,
                _ => false,
            };
            assert!(snapshots.iter().any(held), "seed {seed}, {name}: {left:?} in {snapshots:?}");
        }
    }
}

#[test]
fn faults_of_names_have_the_kernels_errors() {
    let mut world = World::new(1, Faults::none());
    let main = |io: Sim| async move {
        let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
        io.create_dir(Path::new("/d/e")).unwrap();
        drop(io.open(Path::new("/f"), OpenMode::Create).unwrap());
        assert_eq!(kind(io.create_dir(Path::new("/f"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(io.create_dir(Path::new("/f/g"))), ErrorKind::NotADirectory);
        assert_eq!(kind(io.rename(Path::new("/d"), Path::new("/d/e/d"))), ErrorKind::InvalidInput);
        assert_eq!(kind(io.rename(Path::new("/f"), Path::new("/d"))), ErrorKind::IsADirectory);
        assert_eq!(kind(io.rename(Path::new("/d"), Path::new("/f"))), ErrorKind::NotADirectory);
        assert_eq!(kind(io.remove_file(Path::new("/d"))), ErrorKind::IsADirectory);
        assert_eq!(kind(io.remove_dir(Path::new("/f"))), ErrorKind::NotADirectory);
        io.create_dir(Path::new("/x")).unwrap();
        assert_eq!(kind(io.rename(Path::new("/x"), Path::new("/d"))), ErrorKind::DirectoryNotEmpty);
        let long = format!("/{}", "n".repeat(256));
        let refused = io.open(Path::new(&long), OpenMode::Create).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidFilename);
        assert_eq!(kind(io.sync_dir(Path::new("/gone")).await), ErrorKind::NotFound);
    };
    world.boot(main).done();
}
