//! `bare` answers every frame, in order, and its files hold the bytes that came.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running `bare`, killed at the end, and its directory, removed.
struct Bare {
    child: Child,
    address: String,
    dir: PathBuf,
}

impl Bare {
    fn start(name: &str, args: &[&str]) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut child = Command::new(env!("CARGO_BIN_EXE_bare"))
            .args(["--data", dir.to_str().unwrap(), "--buffers", "8", "--buffer-bytes", "4096"])
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(&words[..2], ["bare", "ready"], "{line}");
        assert_eq!(words[3], format!("pid={}", child.id()));
        Self { address: words[2].to_owned(), child, dir }
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).unwrap()
    }

    /// The data files of partition `index`, in the order of their writing, in one piece.
    fn data(&self, index: usize) -> Vec<u8> {
        let path = |n| self.dir.join(format!("{index}.{n}.bare"));
        (0..).map(path).map_while(|p| std::fs::read(p).ok()).flatten().collect()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }
}

fn frame(id: i32, body: usize) -> Vec<u8> {
    let len = i32::try_from(8 + body).unwrap();
    let mut frame = [len.to_be_bytes(), [0, 0, 0, 9], id.to_be_bytes()].concat();
    frame.extend((0..body).map(|i| u8::try_from((i + body) % 251).unwrap()));
    frame
}

/// Reads one answer: its correlation id, and what follows that.
fn answer(stream: &mut TcpStream) -> (i32, Vec<u8>) {
    let mut head = [0; 8];
    stream.read_exact(&mut head).unwrap();
    let (len, id) = head.split_at(4);
    let len = usize::try_from(i32::from_be_bytes(len.try_into().unwrap())).unwrap();
    let mut rest = vec![0; len - 4];
    stream.read_exact(&mut rest).unwrap();
    (i32::from_be_bytes(id.try_into().unwrap()), rest)
}

/// Sends frames of many lengths over `clients` connections at once, more of them than there are
/// buffers, and checks answers and files.
fn append(name: &str, args: &[&str], clients: usize, partitions: usize) {
    let bare = Bare::start(name, args);
    let bodies = [0, 1, 100, 4_084, 5_000, 300_000, 7, 0, 20_000, 1_000_000, 3];
    let mut sent = vec![0; partitions];
    let mut streams: Vec<_> = (0..clients).map(|_| bare.connect()).collect();
    for (id, body) in (0..).zip(bodies) {
        let frame = frame(id, body);
        for (i, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&frame).unwrap();
            sent[i % partitions] += frame.len();
        }
    }
    for stream in &mut streams {
        for (id, _) in (0..).zip(bodies) {
            let (answered, rest) = answer(stream);
            assert_eq!(answered, id);
            assert_eq!(rest.len(), 47, "an answer to a Produce of one batch");
        }
    }
    for (index, sent) in sent.into_iter().enumerate() {
        let data = bare.data(index);
        assert_eq!(data.len(), sent, "partition {index}");
        if clients == partitions {
            let expected: Vec<u8> =
                (0..).zip(bodies).flat_map(|(id, body)| frame(id, body)).collect();
            assert!(data == expected, "partition {index} holds other bytes");
        }
    }
}

#[test]
fn written_bytes_are_answered_and_in_the_files() {
    append("written", &["--partitions", "3"], 3, 3);
}

#[test]
fn durable_bytes_are_answered_and_in_the_files() {
    append("durable", &["--flush", "--partitions", "3"], 3, 3);
}

#[test]
fn more_connections_than_buffers_are_served() {
    append("starved", &[], 40, 1);
    append("starved-durable", &["--flush", "--partitions", "2"], 40, 2);
}

#[test]
fn files_are_rolled_and_the_oldest_are_removed() {
    let args = ["--segment-bytes", "100000", "--keep-bytes", "400000"];
    let bare = Bare::start("rolled", &args);
    let mut stream = bare.connect();
    for id in 0..100 {
        stream.write_all(&frame(id, 19_988)).unwrap();
        assert_eq!(answer(&mut stream).0, id);
    }
    // The removals are a worker's: asking for more work until it has done them.
    let lengths = (100..100_000).find_map(|id| {
        stream.write_all(&frame(id, 0)).unwrap();
        answer(&mut stream);
        let files = std::fs::read_dir(&bare.dir).unwrap();
        let lengths: Vec<_> = files.map(|f| f.unwrap().metadata().unwrap().len()).collect();
        (lengths.iter().sum::<u64>() <= 400_000).then_some(lengths)
    });
    let mut lengths = lengths.expect("the oldest files were not removed");
    lengths.sort_unstable();
    // Three sealed ones, the one that is written, and perhaps the next one, empty.
    assert!(lengths.iter().filter(|len| **len >= 100_000).count() >= 3, "{lengths:?}");
}

#[test]
fn every_request_is_answered_with_a_piece_of_the_file() {
    let args = ["--send-file", "--bytes", "1500000", "--file-bytes", "4000000"];
    let bare = Bare::start("file", &args);
    let mut stream = bare.connect();
    for id in 0..5 {
        stream.write_all(&frame(id, 30)).unwrap();
    }
    let file = std::fs::read(bare.dir.join("answers.bare")).unwrap();
    // Two fit before the file's end, then from its start.
    for (id, at) in (0..5).zip([0, 1_500_000, 0, 1_500_000, 0]) {
        let (answered, piece) = answer(&mut stream);
        assert_eq!(answered, id);
        assert!(piece == file[at..at + 1_500_000], "answer {id} is not the file from {at}");
    }
}

#[test]
fn every_connection_begins_at_a_piece_of_its_own() {
    let args =
        ["--send-file", "--bytes", "1000", "--file-bytes", "100000", "--append-bytes", "999"];
    let bare = Bare::start("spread", &args);
    let file = std::fs::read(bare.dir.join("answers.bare")).unwrap();
    let connections: Vec<_> = (0..16).map(|_| bare.connect()).collect();
    let mut pieces = std::collections::BTreeSet::new();
    for mut stream in connections {
        stream.write_all(&frame(1, 30)).unwrap();
        let (_, piece) = answer(&mut stream);
        assert!(file.chunks(1000).any(|chunk| chunk == piece), "no piece of the file");
        pieces.insert(piece);
    }
    assert_eq!(pieces.len(), 16);
}

#[test]
fn a_stream_of_no_frames_is_cut_off() {
    let bare = Bare::start("cut-off", &[]);
    let mut stream = bare.connect();
    stream.write_all(&[0xff; 100]).unwrap();
    assert!(matches!(stream.read(&mut [0; 8]), Ok(0) | Err(_)));
    // The others are served all the same.
    let mut stream = bare.connect();
    stream.write_all(&frame(1, 10)).unwrap();
    assert_eq!(answer(&mut stream).0, 1);
}

#[test]
fn a_peer_that_does_not_read_is_cut_off() {
    for args in [&[][..], &["--flush"], &["--send-file", "--bytes", "1", "--file-bytes", "9"]] {
        let bare = Bare::start("unread", args);
        let mut stream = bare.connect();
        let frames = frame(7, 0).repeat(1000);
        // Their answers would be 1.1 GB, or 900 MB where each has a byte of the file.
        let taken = (0..20_000).take_while(|_| stream.write_all(&frames).is_ok()).count();
        assert!(taken < 20_000, "{args:?}: all was taken");
        let mut stream = bare.connect();
        stream.write_all(&frame(1, 10)).unwrap();
        assert_eq!(answer(&mut stream).0, 1);
    }
}
