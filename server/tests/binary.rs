//! The binary: its one line, signals, a kill, and the offline commands.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use common::{Client, TempDir, batch, values};
use kariz_protocol::ErrorCode;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const KARIZ: &str = env!("CARGO_BIN_EXE_kariz");

/// A server that is killed when the test ends.
struct Process {
    child: Child,
    bootstrap: SocketAddr,
    ready: String,
}

impl Process {
    fn start(dir: &Path) -> Self {
        Self::with(dir, &[])
    }

    fn with(dir: &Path, flags: &[&str]) -> Self {
        Self::told(dir, flags, Stdio::null())
    }

    /// As [`Process::with`], with its log in `stderr`.
    fn told(dir: &Path, flags: &[&str], stderr: Stdio) -> Self {
        Self::of(Command::new(KARIZ), dir, flags, stderr)
    }

    /// As [`Process::told`], by a command of its own.
    fn of(mut command: Command, dir: &Path, flags: &[&str], stderr: Stdio) -> Self {
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--cores", "0", "--data"])
            .arg(dir)
            .args(flags)
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        let bootstrap = address_in(&ready);
        Self { child, bootstrap, ready }
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// The address in a line that says where a server listens.
fn address_in(line: &str) -> SocketAddr {
    let at = line.split("bootstrap=").nth(1).expect(line);
    at.split(' ').next().unwrap().parse().expect(line)
}

fn kariz(args: &[&str], path: &Path) -> Output {
    Command::new(KARIZ).args(args).arg(path).output().unwrap()
}

#[test]
fn one_line_tells_that_it_serves() {
    let dir = TempDir::new();
    let mut process = Process::start(dir.path());
    let (at, pid) = (process.bootstrap, process.child.id());
    assert_eq!(process.ready, format!("kariz ready bootstrap={at} cores=1 pid={pid}\n"));
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    let mut rest = String::new();
    process.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "", "logs go to stderr");
}

#[test]
fn flags_reach_the_server() {
    let dir = TempDir::new();
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "num.partitions=3\nnode.id=7\nauto.create.topics.enable=true\n").unwrap();
    // An address of this test's own, so that nobody takes the port before the server does.
    let metrics = TcpListener::bind("127.0.0.77:0").unwrap().local_addr().unwrap().to_string();
    let process = Process::with(
        &dir.path().join("data"),
        &[
            "--advertise",
            "kafka.example:1000",
            "--config",
            file.to_str().unwrap(),
            "--set",
            "node.id=2",
            "--metrics",
            &metrics,
        ],
    );
    let found = Client::connect(process.bootstrap).metadata(Some(&["t"]), true);
    let brokers: Vec<_> =
        found.brokers.iter().map(|b| (b.node_id, b.host.as_str(), b.port)).collect();
    assert_eq!(brokers, [(2 << 8, "kafka.example", 1000)]);
    assert_eq!((found.topics[0].error, found.topics[0].partitions.len()), (ErrorCode::None, 3));
    let text = scrape(&metrics);
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("topic=\"t\""), "{text}");
}

fn scrape(metrics: &str) -> String {
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_free_port_for_metrics_is_told() {
    let dir = TempDir::new();
    let log = dir.path().join("log");
    let stderr = File::create(&log).unwrap().into();
    let data = dir.path().join("data");
    let _process = Process::told(&data, &["--metrics", "127.0.0.1:0"], stderr);
    let log = std::fs::read_to_string(log).unwrap();
    let (at, _) = log.split_once("/metrics").expect(&log);
    let (_, at) = at.rsplit_once("http://").expect(&log);
    assert!(scrape(at).starts_with("HTTP/1.1 200"), "{log}");
}

#[test]
fn signals_end_it_cleanly() {
    for signal in ["-TERM", "-INT", "-HUP"] {
        let dir = TempDir::new();
        let mut process = {
            // Also where the tests themselves run under `nohup`.
            let mut command = Command::new("env");
            command.args(["--default-signal=HUP", KARIZ]);
            Process::of(command, dir.path(), &[], Stdio::null())
        };
        let mut c = Client::connect(process.bootstrap);
        c.create("t", 1);
        assert_eq!(c.produce("t", 0, batch(&["a"])).error, ErrorCode::None);
        process.signal(signal);
        assert!(process.child.wait().unwrap().success(), "{signal}");
        let checked = kariz(&["check"], dir.path());
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        // No term was lost, for nothing was: the stop was clean.
        let process = Process::start(dir.path());
        assert_eq!(Client::connect(process.bootstrap).offset("t", 0, -1).leader_epoch, 0);
    }
}

#[test]
fn a_kill_loses_nothing_acknowledged_and_begins_a_new_term() {
    let dir = TempDir::new();
    let mut expected = Vec::new();
    for term in 0..4 {
        let process = Process::start(dir.path());
        let mut c = Client::connect(process.bootstrap);
        if term == 0 {
            assert_eq!(c.create("t", 1).error, ErrorCode::None);
        }
        assert_eq!(c.offset("t", 0, -1).leader_epoch, term);
        for n in 0..20 {
            let value = format!("{term}.{n}");
            let answer = c.produce("t", 0, batch(&[&value]));
            assert_eq!(answer.error, ErrorCode::None);
            expected.push((answer.base_offset, value));
        }
        assert_eq!(values(&c.fetch("t", 0, 0).records.unwrap()), expected);
        process.signal("-KILL");
    }
    let process = Process::start(dir.path());
    let mut c = Client::connect(process.bootstrap);
    assert_eq!(values(&c.fetch("t", 0, 0).records.unwrap()), expected);
}

#[test]
fn a_server_whose_log_nobody_reads_is_stopped_all_the_same() {
    let dir = TempDir::new();
    let mut process = Process::told(dir.path(), &[], Stdio::piped());
    drop(process.child.stderr.take());
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
}

/// A pipe that nobody reads any more.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn a_server_whose_ready_line_cannot_be_written_serves_all_the_same() {
    for stdout in [closed_pipe(), File::create("/dev/full").unwrap().into()] {
        let dir = TempDir::new();
        let mut child = Command::new(KARIZ)
            .args(["serve", "--listen", "127.0.0.1:0", "--cores", "0", "--data"])
            .arg(dir.path())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let told = log.find(|line| line.contains("standard output cannot be written"));
        let mut process =
            Process { child, bootstrap: address_in(&told.unwrap()), ready: String::new() };
        let mut c = Client::connect(process.bootstrap);
        assert_eq!(c.create("t", 1).error, ErrorCode::None);
        process.signal("-TERM");
        assert!(process.child.wait().unwrap().success());
    }
}

#[test]
fn a_server_under_nohup_outlives_its_terminal() {
    let dir = TempDir::new();
    let mut nohup = Command::new("nohup");
    nohup.arg(KARIZ);
    let mut process = Process::of(nohup, dir.path(), &[], Stdio::null());
    process.signal("-HUP");
    // Still ignored: what is not handled cannot end it.
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 1, 1);
    assert_eq!(Client::connect(process.bootstrap).create("t", 1).error, ErrorCode::None);
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
}

#[test]
fn settings_that_nobody_reads_end_quietly() {
    let output = Command::new(KARIZ).arg("settings").stdout(closed_pipe()).output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(1), &b""[..]));
}

/// Sets how long files of a process may be, in bytes: past it a write fails as on a full disk.
fn limit_files(pid: u32, limit: &str) {
    let set = Command::new("prlimit")
        .args([format!("--pid={pid}"), format!("--fsize={limit}:unlimited")])
        .status()
        .unwrap();
    assert!(set.success());
}

#[test]
fn a_full_disk_refuses_writes_and_serves_reads() {
    let dir = TempDir::new();
    let mut process = Process::start(dir.path());
    let mut c = Client::connect(process.bootstrap);
    assert_eq!(c.create("full", 1).error, ErrorCode::None);
    assert_eq!(c.create("other", 1).error, ErrorCode::None);
    // The journal has its length already; the segment reaches the limit.
    limit_files(process.child.id(), "3000000");
    let value = "x".repeat(900_000);
    let mut end = 0;
    let refused = loop {
        let answer = c.produce("full", 0, batch(&[&value]));
        if answer.error != ErrorCode::None {
            break answer.error;
        }
        assert_eq!(answer.base_offset, end);
        end += 1;
        assert!(end < 10);
    };
    assert_eq!((refused, end), (ErrorCode::KafkaStorageError, 3));
    // What fits still passes, here and elsewhere; and everything acknowledged can be read.
    assert_eq!(c.produce("other", 0, batch(&["x"])).error, ErrorCode::None);
    assert_eq!(c.produce("full", 0, batch(&["small"])).base_offset, 3);
    assert_eq!(c.offset("full", 0, -1).offset, 4);
    for offset in 0..3 {
        let found = values(&c.fetch("full", 0, offset).records.unwrap());
        assert_eq!(found[0], (offset, value.clone()));
    }
    // There is room again.
    limit_files(process.child.id(), "unlimited");
    let answer = c.produce("full", 0, batch(&[&value]));
    assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, 4));
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    assert!(kariz(&["check"], dir.path()).status.success());
}

#[test]
fn check_and_dump_find_damage() {
    let dir = TempDir::new();
    {
        let mut process = Process::start(dir.path());
        let mut c = Client::connect(process.bootstrap);
        c.create("t", 1);
        for value in ["first", "second", "third"] {
            c.produce("t", 0, batch(&[value]));
        }
        process.signal("-TERM");
        assert!(process.child.wait().unwrap().success());
    }
    let log = dir.path().join("broker-256/t-0/00000000000000000000.log");
    let dumped = kariz(&["dump"], &log);
    let text = String::from_utf8(dumped.stdout).unwrap();
    assert!(dumped.status.success());
    assert_eq!(text.lines().count(), 3);
    assert!(text.lines().all(|line| line.contains("crc ok") && line.contains("codec none")));

    let good = std::fs::read(&log).unwrap();
    let mut bad = good.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    for (damage, bytes) in [("a bit", bad), ("a cut", good[..good.len() - 1].to_vec())] {
        std::fs::write(&log, bytes).unwrap();
        for (command, path) in [("check", dir.path()), ("dump", log.as_path())] {
            let found = kariz(&[command], path);
            assert_eq!(found.status.code(), Some(1), "{command} after {damage}");
            let text = String::from_utf8(found.stdout).unwrap();
            assert!(
                text.contains("CRC") || text.contains("WRONG") || text.contains("needs"),
                "{text}"
            );
        }
    }
    // An index that points beside a batch.
    std::fs::write(&log, &good).unwrap();
    assert!(kariz(&["check"], dir.path()).status.success());
    let index = log.with_extension("index");
    std::fs::write(&index, [0, 0, 0, 1, 0, 0, 0, 3]).unwrap();
    let found = kariz(&["check"], dir.path());
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("no batch begins at position 3"));
    // A time index that rises, and is wrong.
    std::fs::write(&index, []).unwrap();
    std::fs::write(log.with_extension("timeindex"), [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]).unwrap();
    let found = kariz(&["check"], dir.path());
    assert_eq!(found.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&found.stdout).contains("timestamp 1, and up to offset 0"));
}

#[test]
fn check_finds_what_is_missing() {
    let dir = TempDir::new();
    {
        let mut process = Process::start(dir.path());
        let mut c = Client::connect(process.bootstrap);
        // The smallest segments: three of these batches fill one.
        c.create_with("t", 1, &[("segment.bytes", "1048576")]);
        let value = "x".repeat(300_000);
        for n in 0..9 {
            assert_eq!(c.produce("t", 0, batch(&[&value])).base_offset, n);
        }
        process.signal("-TERM");
        assert!(process.child.wait().unwrap().success());
    }
    let log = |base| dir.path().join(format!("broker-256/t-0/{base:020}.log"));
    let second = std::fs::read(log(3)).unwrap();
    let batches: Vec<&[u8]> = second.chunks_exact(second.len() / 3).collect();
    let [three, four, five] = batches[..] else { panic!("{} batches", batches.len()) };
    // Indexes may be gone: they are rebuilt.
    for extension in ["index", "timeindex"] {
        std::fs::remove_file(log(3).with_extension(extension)).unwrap();
    }
    assert!(kariz(&["check"], dir.path()).status.success());

    let refused = |expected: &[&str]| {
        let found = kariz(&["check"], dir.path());
        assert_eq!(found.status.code(), Some(1), "{expected:?}");
        let text = String::from_utf8(found.stdout).unwrap();
        assert!(expected.iter().all(|e| text.contains(e)), "{expected:?} in {text}");
        assert_eq!(text.lines().count(), expected.len() + 1, "{text}");
    };
    for (left, hole) in [
        ([four, five], "3.log: at position 0: no records from offset 3 to 4"),
        ([three, five], "no records from offset 4 to 5"),
        ([three, four], "6.log: no records from offset 5 to 6"),
    ] {
        std::fs::write(log(3), left.concat()).unwrap();
        refused(&[hole]);
    }
    // A batch that is there twice.
    std::fs::write(log(3), [three, four, four, five].concat()).unwrap();
    refused(&["begins at offset 4, but what is before ends at 5"]);
    std::fs::write(log(3), [three, four, five, five].concat()).unwrap();
    refused(&["begins at offset 5, but what is before ends at 6"]);
    std::fs::write(log(3), &second).unwrap();
    // A file that is gone, and comes back.
    let without = |gone: &Path, expected: &str| {
        let aside = dir.path().join("aside");
        std::fs::rename(gone, &aside).unwrap();
        refused(&[expected]);
        std::fs::rename(&aside, gone).unwrap();
    };
    for extension in ["index", "timeindex"] {
        for base in [0, 6] {
            std::fs::remove_file(log(base).with_extension(extension)).unwrap();
        }
    }
    without(&log(3), "6.log: no records from offset 3 to 6");
    without(&log(0), "3.log: no records from offset 0, the log start, to 3");
    without(&log(6), "t-0: no records from offset 6 to 9, the log end");
    without(&dir.path().join("broker-256/t-0"), "t-0: not there, but in the checkpoint");
    assert!(kariz(&["check"], dir.path()).status.success());
    // After a crash the checkpoints are behind, or ahead of what a cut left: nothing is told.
    std::fs::remove_file(dir.path().join("broker-256/.kafka_cleanshutdown")).unwrap();
    std::fs::remove_file(log(0)).unwrap();
    assert!(kariz(&["check"], dir.path()).status.success());
}

#[test]
fn check_keeps_off_a_directory_in_use() {
    let dir = TempDir::new();
    let mut process = Process::start(dir.path());
    let refused = kariz(&["check"], dir.path());
    assert!(!refused.status.success());
    assert_eq!(refused.stdout, b"");
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(why.contains("in use by another process: stop that one"), "{why}");
    process.signal("-TERM");
    assert!(process.child.wait().unwrap().success());
    assert!(kariz(&["check"], dir.path()).status.success());
    // What has no lock, as a copy may, is left as it is.
    let lock = dir.path().join(".lock");
    std::fs::remove_file(&lock).unwrap();
    assert!(kariz(&["check"], dir.path()).status.success());
    assert!(!lock.exists());
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let dir = TempDir::new();
    let refused = |args: &[&str]| {
        let output = Command::new(KARIZ).args(args).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let data = dir.path().to_str().unwrap();
    assert!(refused(&["serve", "--data", data, "--cores", "1-0"]).contains("no range"));
    assert!(refused(&["serve", "--data", data, "--set", "x.y=1", "--cores", "0"]).contains("x.y"));
    assert!(refused(&["check", data]).contains("broker-"));
    assert!(refused(&["dump", "/no/such/file"]).contains("/no/such/file"));
}

#[test]
fn a_log_filter_that_is_none_is_refused() {
    let output = Command::new(KARIZ).arg("settings").env("KARIZ_LOG", "kariz=loud").output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("KARIZ_LOG=kariz=loud is no log filter"), "{why}");
}
