//! Directories that are gone, or are another topic's: what they held is neither forgotten nor
//! written over, and everything else is served.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use common::{Client, TempDir, batch, options, values};
use kariz_protocol::ErrorCode;
use kariz_server::{Server, check};
use std::fs;
use std::path::{Path, PathBuf};

/// A topic of four partitions on two cores, with a record each, on a server that has stopped.
fn stopped() -> TempDir {
    let dir = TempDir::new();
    let server = start(dir.path(), 2);
    Client::connect(server.listening()[0]).create("t", 4);
    for partition in 0..4 {
        assert_eq!(produce(&server, partition), Ok(0));
    }
    server.stop().unwrap();
    dir
}

/// Starts a server; one that was dropped takes a moment to let go of the directory.
fn start(dir: &Path, cores: usize) -> Server {
    loop {
        match Server::start(options(dir, cores)) {
            Ok(server) => return server,
            Err(error) => assert!(error.to_string().contains("in use"), "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Produces to `partition` at the core that leads it; the offset.
fn produce(server: &Server, partition: i32) -> Result<i64, ErrorCode> {
    let answer = leader(server, partition).produce("t", partition, batch(&["x"]));
    if answer.error == ErrorCode::None { Ok(answer.base_offset) } else { Err(answer.error) }
}

fn leader(server: &Server, partition: i32) -> Client {
    let found = Client::connect(server.listening()[0]).metadata(Some(&["t"]), false);
    let led = found.topics[0].partitions.iter().find(|p| p.index == partition).unwrap();
    Client::connect(server.listening()[usize::try_from(led.leader_id - 256).unwrap()])
}

/// The directory of a partition, wherever it is.
fn directory(dir: &Path, partition: &str) -> PathBuf {
    let brokers = ["broker-256", "broker-257"].map(|broker| dir.join(broker).join(partition));
    brokers.into_iter().find(|path| path.is_dir()).unwrap()
}

/// Two starts, at which just `lost` are refused and the others go on from offset `next`; one of
/// them ends in order, one as if killed.
fn only(dir: &Path, lost: &[i32], next: i64) {
    for (nth, is_clean) in [(0, true), (1, false)] {
        let server = start(dir, 2);
        for partition in 0..4 {
            let is_lost = lost.contains(&partition);
            let expected = if is_lost { Err(ErrorCode::KafkaStorageError) } else { Ok(next + nth) };
            assert_eq!(produce(&server, partition), expected, "{partition} at start {nth}");
        }
        if is_clean {
            server.stop().unwrap();
        }
    }
}

#[test]
fn a_partition_whose_directory_is_gone_is_refused_alone() {
    let dir = stopped();
    let gone = directory(dir.path(), "t-2");
    let away = dir.path().join("away");
    fs::rename(&gone, &away).unwrap();
    only(dir.path(), &[2], 1);
    assert!(!gone.exists());
    fs::rename(&away, &gone).unwrap();
    let server = start(dir.path(), 2);
    assert_eq!(produce(&server, 2), Ok(1));
    server.stop().unwrap();
}

#[test]
fn a_partition_that_cannot_be_opened_is_refused_alone() {
    let dir = stopped();
    let log = directory(dir.path(), "t-2").join("00000000000000000000.log");
    let away = dir.path().join("away");
    fs::rename(&log, &away).unwrap();
    fs::create_dir(&log).unwrap();
    only(dir.path(), &[2], 1);
    fs::remove_dir(&log).unwrap();
    fs::rename(&away, &log).unwrap();
    let server = start(dir.path(), 2);
    assert_eq!(produce(&server, 2), Ok(1));
    server.stop().unwrap();
}

/// What `kariz check` says is wrong.
fn faults(dir: &Path) -> Vec<String> {
    let mut printed = Vec::new();
    let sound = check::run(dir, &mut printed).unwrap();
    let printed = String::from_utf8(printed).unwrap();
    let mut lines: Vec<String> = printed.lines().map(str::to_owned).collect();
    let summary = lines.pop().unwrap();
    assert_eq!((sound, summary.ends_with("sound")), (lines.is_empty(), sound), "{printed}");
    lines
}

#[test]
fn check_tells_what_the_cluster_misses() {
    let dir = stopped();
    assert_eq!(faults(dir.path()), Vec::<String>::new());
    let away = dir.path().join("away");
    let without = |gone: PathBuf| {
        fs::rename(&gone, &away).unwrap();
        let found = faults(dir.path());
        fs::rename(&away, &gone).unwrap();
        found
    };
    let found = without(directory(dir.path(), "t-2"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("t-2: not there, but in the checkpoint"), "{found:?}");
    let found = without(dir.path().join("broker-257"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found.iter().all(|f| f.ends_with(": not there, but topic `t` has it")), "{found:?}");
    let found = without(dir.path().join("broker-256"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].ends_with("broker-256: not there, but broker-257 is"), "{found:?}");
    let metadata = directory(dir.path(), "t-1").join("partition.metadata");
    let good = fs::read_to_string(&metadata).unwrap();
    let id = good.lines().find_map(|line| line.strip_prefix("topic_id: ")).unwrap();
    for (text, expected) in [
        (good[..20].to_owned(), "it names no topic id"),
        (good.replace(id, "AAAAAAAAAAAAAAAAAAAABw"), "but topic `t` has"),
    ] {
        fs::write(&metadata, text).unwrap();
        let found = faults(dir.path());
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
    }
    let found = without(metadata.clone());
    assert!(found.len() == 1 && found[0].contains("partition.metadata: No such file"), "{found:?}");
    fs::write(&metadata, good).unwrap();
    assert_eq!(faults(dir.path()), Vec::<String>::new());
}

#[test]
fn partitions_of_a_core_whose_directory_is_gone_are_refused() {
    let dir = stopped();
    let (gone, away) = (dir.path().join("broker-257"), dir.path().join("away"));
    let lost: Vec<i32> =
        (0..4).filter(|partition| gone.join(format!("t-{partition}")).is_dir()).collect();
    assert_eq!(lost.len(), 2);
    fs::rename(&gone, &away).unwrap();
    only(dir.path(), &lost, 1);
    // Also on fewer cores.
    let server = start(dir.path(), 1);
    assert_eq!(produce(&server, lost[0]), Err(ErrorCode::KafkaStorageError));
    server.stop().unwrap();
    // What was begun in its place is nothing that anybody would miss.
    if gone.exists() {
        fs::remove_dir_all(&gone).unwrap();
    }
    fs::rename(&away, &gone).unwrap();
    let server = start(dir.path(), 2);
    for partition in lost {
        assert_eq!(produce(&server, partition), Ok(1));
    }
    server.stop().unwrap();
}

#[test]
fn without_the_first_cores_directory_nothing_is_served() {
    let dir = stopped();
    let (gone, away) = (dir.path().join("broker-256"), dir.path().join("away"));
    fs::rename(&gone, &away).unwrap();
    let refused = Server::start(options(dir.path(), 2)).err().unwrap().to_string();
    assert!(refused.contains("broker-256 is not there"), "{refused}");
    assert!(!gone.exists());
    // The cluster's own log is a partition as any other.
    fs::rename(&away, &gone).unwrap();
    let log = gone.join("__cluster_metadata-0");
    fs::rename(&log, &away).unwrap();
    let refused = Server::start(options(dir.path(), 2)).err().unwrap().to_string();
    assert!(refused.contains("__cluster_metadata-0 had records up to offset"), "{refused}");
    fs::rename(&away, &log).unwrap();
    only(dir.path(), &[], 1);
}

#[test]
fn a_lost_topic_can_be_deleted_and_made_again() {
    let dir = stopped();
    fs::remove_dir_all(directory(dir.path(), "t-0")).unwrap();
    fs::remove_dir_all(directory(dir.path(), "t-1")).unwrap();
    let server = start(dir.path(), 2);
    assert_eq!(produce(&server, 0), Err(ErrorCode::KafkaStorageError));
    let mut client = Client::connect(server.listening()[0]);
    assert_eq!(client.delete("t").error, ErrorCode::None);
    client.create("t", 4);
    assert_eq!(produce(&server, 0), Ok(0));
    server.stop().unwrap();
    let server = start(dir.path(), 2);
    assert_eq!((produce(&server, 0), produce(&server, 1)), (Ok(1), Ok(0)));
    server.stop().unwrap();
}

#[test]
fn records_that_no_topic_owns_are_kept() {
    let dir = stopped();
    let of = directory(dir.path(), "t-1");
    let (log, metadata) = (of.join("00000000000000000000.log"), of.join("partition.metadata"));
    let (records, good) = (fs::read(&log).unwrap(), fs::read_to_string(&metadata).unwrap());
    // What says whose they are cannot be read: only these are refused.
    for damaged in [Some(&good[..20]), Some(""), None] {
        match damaged {
            Some(text) => fs::write(&metadata, text).unwrap(),
            None => fs::remove_file(&metadata).unwrap(),
        }
        let server = start(dir.path(), 2);
        assert_eq!(produce(&server, 1), Err(ErrorCode::KafkaStorageError), "{damaged:?}");
        server.stop().unwrap();
        assert_eq!(fs::read(&log).unwrap(), records, "{damaged:?}");
    }
    fs::write(&metadata, &good).unwrap();
    let server = start(dir.path(), 2);
    assert_eq!(values(&leader(&server, 1).fetch("t", 1, 0).records.unwrap()).len(), 1);
    server.stop().unwrap();
    // They are another topic's: the partition begins anew, and they are set aside.
    let id = good.lines().find_map(|line| line.strip_prefix("topic_id: ")).unwrap();
    fs::write(&metadata, good.replace(id, "AAAAAAAAAAAAAAAAAAAABw")).unwrap();
    let server = start(dir.path(), 2);
    assert_eq!(produce(&server, 1), Ok(0));
    server.stop().unwrap();
    let mut strays = Vec::new();
    for entry in fs::read_dir(of.parent().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().ends_with("-stray") {
            strays.push(fs::read(entry.path().join("00000000000000000000.log")).unwrap());
        }
    }
    assert_eq!(strays, [records]);
}
