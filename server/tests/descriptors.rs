//! A process with few file descriptors: clients cannot take those that its files need.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use common::{Client, TempDir, batch};
use kariz_protocol::ErrorCode;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

/// The soft limit on open files, and the hard one: the server is to raise the first to the second.
const LIMITS: &str = "ulimit -Sn 32; ulimit -Hn 64";
/// More than there are descriptors.
const FLOOD: usize = 200;
/// What makes a checkpoint due, and a little.
const BYTES: usize = 270 << 20;

/// A server that is killed when the test ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

fn start(dir: &TempDir) -> (Process, SocketAddr) {
    let child = Command::new("sh")
        .args(["-c", &format!("{LIMITS}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_kariz")])
        .args(["serve", "--listen", "127.0.0.1:0", "--cores", "0", "--data"])
        .arg(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut process = Process(child.unwrap());
    let mut ready = String::new();
    BufReader::new(process.0.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    let bootstrap = ready.split("bootstrap=").nth(1).unwrap();
    let bootstrap = bootstrap.split(' ').next().unwrap().parse().unwrap();
    (process, bootstrap)
}

#[test]
fn a_flood_of_idle_connections_stops_no_producer() {
    let dir = TempDir::new();
    let (mut process, bootstrap) = start(&dir);
    let mut producer = Client::connect(bootstrap);
    assert_eq!(producer.create("t", 1).error, ErrorCode::None);
    let flood: Vec<_> = (0..FLOOD).map(|_| TcpStream::connect(bootstrap).unwrap()).collect();
    // The last of them is turned away only once all before it were looked at.
    let mut last = Client::connect(bootstrap);
    assert!(last.is_closed());
    let value = "x".repeat(900_000);
    let mut end = 0;
    let mut produce = |producer: &mut Client| {
        let answer = producer.produce("t", 0, batch(&[&value]));
        assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, end));
        end += 1;
    };
    for _ in 0..BYTES / value.len() {
        produce(&mut producer);
    }
    // What is new needs files of its own.
    assert_eq!(producer.create("u", 1).error, ErrorCode::None);
    assert_eq!(producer.produce("u", 0, batch(&["x"])).error, ErrorCode::None);
    drop(flood);
    produce(&mut producer);
    drop(producer);
    let mut next = loop {
        // Until the server has seen that the flood is over.
        let mut next = Client::connect(bootstrap);
        next.send(4, &kariz_protocol::messages::api_versions::Request::default());
        if next.receive_frame().is_ok() {
            break next;
        }
    };
    produce(&mut next);
    drop(next);
    let pid = process.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(process.0.wait().unwrap().success());
}
