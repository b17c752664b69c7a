//! Files and names.

use super::{Arm, create, kind, stream, write};
use kariz_engine::io::{Entry, File, Io, Listener, OpenMode};
use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

fn read<F: File>(file: &F, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let mut done = 0;
    loop {
        match file.read_at(&mut bytes[done..], at + done as u64).unwrap() {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    bytes
}

fn names(entries: &[Entry]) -> Vec<(&str, bool)> {
    entries.iter().map(|entry| (entry.name.as_str(), entry.is_dir)).collect()
}

pub(crate) async fn a_file_reads_back_what_was_written<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    assert_eq!(file.len().unwrap(), 0);
    let bytes = stream(100_000);
    write(&file, &bytes, 0);
    assert_eq!(file.len().unwrap(), 100_000);
    assert!(read(&file, 0, 100_000) == bytes);
    write(&file, b"over", 511);
    assert_eq!(read(&file, 510, 6), [&bytes[510..511], b"over", &bytes[515..516]].concat());
    assert_eq!(file.len().unwrap(), 100_000);
}

pub(crate) async fn open_modes_are_the_kernels<A: Arm>(arm: A) {
    let (io, path) = (arm.io(), arm.dir().join("f"));
    assert_eq!(kind(io.open(&path, OpenMode::Read)), Some(ErrorKind::NotFound));
    assert_eq!(kind(io.open(&path, OpenMode::Write)), Some(ErrorKind::NotFound));
    write(&io.open(&path, OpenMode::Create).unwrap(), b"abc", 0);
    let reader = io.open(&path, OpenMode::Read).unwrap();
    assert_eq!(read(&reader, 0, 10), b"abc");
    assert!(reader.write_at(&[IoSlice::new(b"x")], 0).is_err());
    assert!(reader.set_len(0).is_err());
    assert!(reader.preallocate(0, 4096).is_err());
    let writer = io.open(&path, OpenMode::Write).unwrap();
    assert_eq!(writer.len().unwrap(), 3);
    write(&writer, b"d", 3);
    assert_eq!(read(&reader, 0, 10), b"abcd");
    // Emptied, also for those who have it open.
    drop(io.open(&path, OpenMode::Create).unwrap());
    assert_eq!(reader.len().unwrap(), 0);
}

pub(crate) async fn a_short_read_is_the_end_of_the_file<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    write(&file, b"0123456789", 0);
    let mut bytes = [0xee; 8];
    assert_eq!(file.read_at(&mut bytes, 6).unwrap(), 4);
    assert_eq!(&bytes, b"6789\xee\xee\xee\xee");
    for beyond in [10, 11, 1 << 40] {
        assert_eq!(file.read_at(&mut bytes, beyond).unwrap(), 0);
    }
    assert_eq!(file.read_at(&mut [], 0).unwrap(), 0);
    assert_eq!(file.write_at(&[], 0).unwrap(), 0);
    assert_eq!(file.write_at(&[IoSlice::new(b"")], 100).unwrap(), 0);
    assert_eq!(file.len().unwrap(), 10);
}

pub(crate) async fn slices_are_written_one_after_the_other<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    let slices = [IoSlice::new(b"head"), IoSlice::new(b""), IoSlice::new(b"tail")];
    assert_eq!(file.write_at(&slices, 2).unwrap(), 8);
    assert_eq!(read(&file, 0, 20), b"\0\0headtail");
}

pub(crate) async fn a_hole_reads_as_zeros<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    write(&file, b"end", 10_000);
    assert_eq!(file.len().unwrap(), 10_003);
    assert_eq!(read(&file, 0, 10_000), [0; 10_000]);
    assert_eq!(read(&file, 10_000, 10), b"end");
}

pub(crate) async fn set_len_cuts_and_extends<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    write(&file, &stream(5000), 0);
    file.set_len(700).unwrap();
    assert_eq!(file.len().unwrap(), 700);
    assert_eq!(file.read_at(&mut [0], 700).unwrap(), 0);
    file.set_len(6000).unwrap();
    let bytes = read(&file, 0, 7000);
    assert_eq!(bytes[..700], stream(5000)[..700]);
    // What was cut off does not come back.
    assert_eq!(bytes[700..], [0; 5300]);
    file.set_len(6000).unwrap();
    assert_eq!(file.len().unwrap(), 6000);
}

pub(crate) async fn preallocation_keeps_the_length<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    file.preallocate(0, 1 << 20).unwrap();
    assert_eq!(file.len().unwrap(), 0);
    assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 0);
    write(&file, b"abc", 0);
    file.preallocate(3, 1 << 20).unwrap();
    assert_eq!(read(&file, 0, 10), b"abc");
    file.set_len(2).unwrap();
    assert_eq!(read(&file, 0, 10), b"ab");
}

pub(crate) async fn a_file_made_on_the_side_is_empty_and_has_room<A: Arm>(arm: A) {
    let (io, path) = (arm.io(), arm.dir().join("f"));
    let file = io.create(&path, 1 << 20).await.unwrap();
    assert_eq!(file.len().unwrap(), 0);
    write(&file, b"abc", 0);
    // One that is there is opened, and stays as it is.
    let again = io.create(&path, 1 << 20).await.unwrap();
    assert_eq!(read(&again, 0, 10), b"abc");
    write(&again, b"d", 3);
    assert_eq!(read(&file, 0, 10), b"abcd");
    let gone = io.create(&arm.dir().join("gone/f"), 0).await;
    assert_eq!(kind(gone), Some(ErrorKind::NotFound));
    let renamed = arm.dir().join("g");
    let other = io.create(&path.with_file_name("h"), 0).await.unwrap();
    io.rename(&path.with_file_name("h"), &renamed).unwrap();
    write(&other, b"x", 0);
    assert_eq!(read(&io.open(&renamed, OpenMode::Read).unwrap(), 0, 10), b"x");
}

pub(crate) async fn an_unlinked_file_stays_readable<A: Arm>(arm: A) {
    let (io, path) = (arm.io(), arm.dir().join("f"));
    let file = create(&arm, "f");
    write(&file, b"old", 0);
    io.remove_file(&path).unwrap();
    io.sync_dir(&arm.dir()).await.unwrap();
    assert_eq!(kind(io.open(&path, OpenMode::Read)), Some(ErrorKind::NotFound));
    write(&io.open(&path, OpenMode::Create).unwrap(), b"new", 0);
    assert_eq!(read(&file, 0, 10), b"old");
    write(&file, b"er", 3);
    file.sync().await.unwrap();
    assert_eq!(read(&file, 0, 10), b"older");
    assert_eq!(read(&io.open(&path, OpenMode::Read).unwrap(), 0, 10), b"new");
}

pub(crate) async fn clones_share_the_file<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    let clone = file.clone();
    write(&clone, b"both", 0);
    assert_eq!(read(&file, 0, 10), b"both");
    drop(file);
    assert_eq!(read(&clone, 0, 10), b"both");
}

pub(crate) async fn syncs_and_loads_complete<A: Arm>(arm: A) {
    let file = create(&arm, "f");
    file.sync().await.unwrap();
    write(&file, &stream(300_000), 0);
    // Several at once, awaited in another order, and one that nobody awaits.
    let (first, second) = (file.sync(), file.sync());
    drop(file.sync());
    second.await.unwrap();
    first.await.unwrap();
    file.load(0, 300_000).await.unwrap();
    // What a file has not need not be loaded.
    file.load(299_000, 100_000).await.unwrap();
    file.load(1 << 30, 10).await.unwrap();
    let sync = file.sync();
    drop(file);
    sync.await.unwrap();
    arm.io().sync_dir(&arm.dir()).await.unwrap();
}

// Names.

pub(crate) async fn names_are_listed_in_order<A: Arm>(arm: A) {
    let (io, dir) = (arm.io(), arm.dir());
    assert_eq!(io.list(&dir).unwrap(), []);
    for name in ["b", "a-10", "a-2", "B"] {
        drop(create(&arm, name));
    }
    io.create_dir(&dir.join("c/d")).unwrap();
    let listed = io.list(&dir).unwrap();
    let expected = [("B", false), ("a-10", false), ("a-2", false), ("b", false), ("c", true)];
    assert_eq!(names(&listed), expected);
    assert_eq!(names(&io.list(&dir.join("c")).unwrap()), [("d", true)]);
}

pub(crate) async fn a_rename_replaces<A: Arm>(arm: A) {
    let (io, dir) = (arm.io(), arm.dir());
    let old = create(&arm, "f");
    write(&old, b"old", 0);
    write(&create(&arm, "f.new"), b"new", 0);
    io.rename(&dir.join("f.new"), &dir.join("f")).unwrap();
    io.sync_dir(&dir).await.unwrap();
    assert_eq!(names(&io.list(&dir).unwrap()), [("f", false)]);
    assert_eq!(read(&io.open(&dir.join("f"), OpenMode::Read).unwrap(), 0, 10), b"new");
    assert_eq!(read(&old, 0, 10), b"old");
    io.rename(&dir.join("f"), &dir.join("f")).unwrap();
    // A directory moves with all that is in it, over an empty one too.
    io.create_dir(&dir.join("x/y")).unwrap();
    io.create_dir(&dir.join("empty")).unwrap();
    io.rename(&dir.join("f"), &dir.join("x/y/f")).unwrap();
    io.rename(&dir.join("x"), &dir.join("empty")).unwrap();
    assert_eq!(names(&io.list(&dir).unwrap()), [("empty", true)]);
    assert_eq!(names(&io.list(&dir.join("empty/y")).unwrap()), [("f", false)]);
}

pub(crate) async fn directories_are_made_and_removed_whole<A: Arm>(arm: A) {
    let (io, dir) = (arm.io(), arm.dir());
    let deep = dir.join("a/b/c");
    io.create_dir(&deep).unwrap();
    io.create_dir(&deep).unwrap();
    write(&create(&arm, "a/b/f"), b"x", 0);
    io.sync_dir(&deep).await.unwrap();
    io.remove_dir(&dir.join("a")).unwrap();
    assert_eq!(io.list(&dir).unwrap(), []);
    assert_eq!(kind(io.list(&deep)), Some(ErrorKind::NotFound));
}

pub(crate) async fn errors_have_the_same_kinds<A: Arm>(arm: A) {
    use ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, InvalidFilename, InvalidInput, IsADirectory,
        NotADirectory, NotFound,
    };
    let (io, dir) = (arm.io(), arm.dir());
    let at = |name: &str| dir.join(name);
    let file = create(&arm, "file");
    io.create_dir(&at("dir/sub")).unwrap();
    io.create_dir(&at("other")).unwrap();

    let open = |name: &str, how| kind(io.open(&at(name), how));
    assert_eq!(open("gone/f", OpenMode::Create), Some(NotFound));
    assert_eq!(open("file/f", OpenMode::Create), Some(NotADirectory));
    assert_eq!(open("file/f", OpenMode::Read), Some(NotADirectory));
    assert_eq!(open("dir", OpenMode::Create), Some(IsADirectory));
    assert_eq!(open("dir", OpenMode::Write), Some(IsADirectory));
    assert_eq!(open(&"n".repeat(256), OpenMode::Create), Some(InvalidFilename));
    assert_eq!(open(&"n".repeat(255), OpenMode::Create), None);

    assert_eq!(kind(io.list(&at("gone"))), Some(NotFound));
    assert_eq!(kind(io.list(&at("file"))), Some(NotADirectory));
    assert_eq!(kind(io.create_dir(&at("file"))), Some(AlreadyExists));
    assert_eq!(kind(io.create_dir(&at("file/dir"))), Some(NotADirectory));

    let rename = |from: &str, to: &str| kind(io.rename(&at(from), &at(to)));
    assert_eq!(rename("gone", "x"), Some(NotFound));
    assert_eq!(rename("file", "gone/x"), Some(NotFound));
    assert_eq!(rename("file", "dir"), Some(IsADirectory));
    assert_eq!(rename("dir", "file"), Some(NotADirectory));
    assert_eq!(rename("other", "dir"), Some(DirectoryNotEmpty));
    assert_eq!(rename("dir", "dir/sub/x"), Some(InvalidInput));

    assert_eq!(kind(io.remove_file(&at("gone"))), Some(NotFound));
    assert_eq!(kind(io.remove_file(&at("dir"))), Some(IsADirectory));
    assert_eq!(kind(io.remove_dir(&at("gone"))), Some(NotFound));
    assert_eq!(kind(io.remove_dir(&at("file"))), Some(NotADirectory));
    assert_eq!(kind(io.sync_dir(&at("gone")).await), Some(NotFound));
    assert_eq!(kind(file.preallocate(0, 0)), Some(InvalidInput));

    let bound = io.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let taken = io.listen(bound.local_addr().unwrap());
    assert_eq!(kind(taken.map(drop)), Some(ErrorKind::AddrInUse));
    let to = bound.local_addr().unwrap();
    drop(bound);
    assert_eq!(kind(arm.dial(to).await.map(drop)), Some(ErrorKind::ConnectionRefused));
}

pub(crate) async fn a_file_knows_when_it_was_changed<A: Arm>(arm: A) {
    let (file, io) = (create(&arm, "f"), arm.io());
    let before = io.timestamp();
    write(&file, b"x", 0);
    let at = file.modified().unwrap();
    // The kernel's clock of files ticks in steps of some milliseconds.
    assert!(at.0 >= before.0 - 100 && at <= io.timestamp(), "{at:?}, {before:?}");
    io.sleep(Duration::from_millis(200)).await;
    assert_eq!(file.modified().unwrap(), at);
    file.set_len(0).unwrap();
    assert!(file.modified().unwrap() > at);
}
