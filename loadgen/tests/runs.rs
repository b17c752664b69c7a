//! Whole runs of the program, against its own server and against one that a test starts.

#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used)]

use serde_json::Value;
use std::fs;
use std::io::{self, BufRead, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A directory that is removed at the end of a test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kariz-runs-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn result(&self) -> Value {
        serde_json::from_slice(&fs::read(self.0.join("out/result.json")).unwrap()).unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn command(dir: &Dir, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kariz-loadgen"));
    command
        .args(args.split_whitespace())
        .args(["--quiet", "--sleep", "--out", &dir.path("out")])
        .current_dir(&dir.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs the program and returns its exit code and what it printed.
fn run(dir: &Dir, args: &str) -> (i32, String) {
    told(&command(dir, args).output().unwrap())
}

/// The exit code of a run that is over, and what it printed.
fn told(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// As [`run`], with a server of its own.
fn run_alone(dir: &Dir, args: &str) -> (i32, String) {
    fs::create_dir_all(dir.0.join("data")).unwrap();
    let done = run(dir, &format!("run --warm-up off --data {} {args}", dir.path("data")));
    assert_eq!(entries(&dir.0.join("data")), 0, "the data is removed: {}", done.1);
    done
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// A busy machine makes numbers invalid; whether records are there it does not touch.
fn assert_verified((code, text): &(i32, String)) {
    assert!(matches!(code, 0 | 14), "exit code {code}\n{text}");
    assert!(!text.contains("VIOLATED"), "{text}");
}

struct Server {
    server: kariz_server::Server,
    _dir: Dir,
}

impl Server {
    fn start(name: &str) -> Self {
        Self::behind(name, None)
    }

    /// One that tells its clients to come to another address.
    fn behind(name: &str, advertise: Option<String>) -> Self {
        let dir = Dir::new(name);
        let options = kariz_server::Options {
            data: dir.0.join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            cores: vec![0],
            advertise,
            ..kariz_server::Options::default()
        };
        Self { server: kariz_server::Server::start(options).unwrap(), _dir: dir }
    }

    fn address(&self) -> String {
        self.server.bootstrap().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.server.stop().unwrap();
    }
}

#[test]
fn what_is_produced_is_read_back() {
    let dir = Dir::new("run");
    let done = run_alone(&dir, "--records 100k --batch-records 50 -c 6 -p 3");
    assert_verified(&done);
    let result = dir.result();
    let phases = result["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2, "{}", done.1);
    assert_eq!(phases[0]["counts"]["records"], 100_000);
    assert_eq!(phases[0]["response"]["samples"], 2_000);
    let found = &result["verification"];
    assert_eq!((&found["acked"], &found["read"]), (&100_000.into(), &100_000.into()));
    assert_eq!(found["words"].as_array().unwrap().len(), 0);
    let log = fs::read_to_string(dir.0.join("out/latency.hlog")).unwrap();
    assert!(log.contains("Tag=1-run-produce,") && log.contains("Tag=2-run-fetch,"), "{log}");
    assert!(done.1.contains("each once, in order, as sent"), "{}", done.1);
}

#[test]
fn every_codec_and_contract_is_read_back() {
    let dir = Dir::new("codecs");
    for args in [
        "--compression gzip",
        "--compression snappy",
        "--compression lz4 --idempotent --depth 5",
        "--compression zstd --acks 1",
        "--acks 0",
        "--acks all --topic-config write.caching=true --rate 20kreq/s --arrival poisson",
        "-c 1,3 --depth 1 --batch-records 1 --records 500",
    ] {
        let size = if args.contains("--records") { "" } else { "--records 4k --batch-records 20" };
        let done = run_alone(&dir, &format!("{args} {size}"));
        assert_verified(&done);
        assert!(dir.result()["verification"]["read"].as_u64().unwrap() >= 1_000, "{args}");
    }
}

/// A batch of which the broker did not say in time that it is there may be: who sends it again is
/// to blame for what is there twice.
#[test]
fn an_impatient_run_blames_nobody() {
    let dir = Dir::new("impatient");
    let (code, text) = run_alone(&dir, "--timeout 1ms --records 100k");
    assert!(code != 10 && !text.contains("VIOLATED"), "{text}");
}

#[test]
fn a_ledger_is_kept_and_checked() {
    let dir = Dir::new("ledger");
    let server = Server::start("ledger-server");
    let broker = server.address();
    let ledger = dir.path("ledger");
    let produce = format!("produce -b {broker} -t kept --records 20k -c 4 -p 2 --ledger {ledger}");
    assert_verified(&run(&dir, &produce));
    let verify = format!("verify -b {broker} --ledger {ledger}");
    let done = run(&dir, &verify);
    assert_verified(&done);
    assert_eq!(dir.result()["verification"]["acked"], 20_032);
    // It is checked against the topic that it tells of, and each record is.
    let (code, text) = run(&dir, &format!("{verify} -t other"));
    assert!(code == 2 && text.contains("tells of topic kept, not of other"), "{text}");
    assert_eq!(run(&dir, &format!("{verify} --verify off")).0, 2);
    assert_verified(&run(&dir, &format!("{verify} -t kept --verify full")));
    // The same topic again: its ledger would not start at its first record.
    assert_eq!(run(&dir, &produce).0, 2);
    // What a ledger tells and a log does not have is lost.
    let mut text = fs::read_to_string(&ledger).unwrap();
    let last = text.lines().last().unwrap().to_owned();
    let words: Vec<u64> = last.split(' ').map(|w| w.parse().unwrap()).collect();
    let [partition, producer, sequence, offset, records] = words[..] else { panic!("{last}") };
    let (next, at) = (sequence + records, offset + records + 1_000_000);
    text += &format!("{partition} {producer} {next} {at} 64\n");
    fs::write(&ledger, text).unwrap();
    let (code, text) = run(&dir, &verify);
    assert_eq!(code, 10, "{text}");
    assert_eq!(dir.result()["verification"]["lost"], 64, "{text}");
    assert!(text.contains("VIOLATED"), "{text}");
}

/// The data directory that [`serves_until_killed`] is to serve.
const SERVE: &str = "KARIZ_RUNS_SERVE";

/// No test: the server of the next one, in a process of its own that can be killed.
#[test]
fn serves_until_killed() {
    let Some(data) = std::env::var_os(SERVE) else { return };
    let options = kariz_server::Options {
        data: data.into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        cores: vec![0],
        ..kariz_server::Options::default()
    };
    let server = kariz_server::Server::start(options).unwrap();
    println!("\nserving {}", server.bootstrap());
    // Until the test that started it kills it, or is gone itself.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Starts [`serves_until_killed`]; returns where it listens.
fn serve(dir: &Dir) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serves_until_killed", "--nocapture"])
        .env(SERVE, dir.0.join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = std::io::BufReader::new(child.stdout.take().unwrap());
    let line = out.lines().map(Result::unwrap).find(|l| l.starts_with("serving ")).unwrap();
    (child, line.trim_start_matches("serving ").to_owned())
}

#[test]
fn a_killed_broker_has_everything_it_acknowledged() {
    let dir = Dir::new("kill");
    let ledger = dir.path("ledger");
    for idempotent in ["", "--idempotent --depth 5"] {
        let _old = (fs::remove_dir_all(dir.0.join("data")), fs::remove_file(&ledger));
        let (mut server, broker) = serve(&dir);
        let args = format!(
            "produce -b {broker} -t kept -c 6 -p 3 --batch-records 7 -d 120s --ledger {ledger} \
             {idempotent}"
        );
        let load = command(&dir, &args).spawn().unwrap();
        // The ledger's head is one line; the others are acknowledgements.
        while fs::read_to_string(&ledger).map_or(0, |text| text.lines().count()) < 40 {
            std::thread::yield_now();
        }
        server.kill().unwrap();
        server.wait().unwrap();
        let (code, text) = told(&load.wait_with_output().unwrap());
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("6 of 6 connections broke"), "{text}");

        let (mut server, broker) = serve(&dir);
        let done = run(&dir, &format!("verify -b {broker} --ledger {ledger}"));
        assert_verified(&done);
        let found = &dir.result()["verification"];
        assert!(found["acked"].as_u64().unwrap() > 0, "{}", done.1);
        assert!(found["read"].as_u64() >= found["acked"].as_u64(), "{}", done.1);
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

/// What is there of a run whose broker died: that it failed, and what was measured until then.
fn assert_failed(dir: &Dir, output: &Output, connections: u32) {
    let (code, text) = told(output);
    assert_eq!(code, 1, "{text}");
    let broke = format!("{connections} of {connections} connections broke");
    assert!(text.contains(&broke) && text.contains("verdict    FAILED"), "{text}");
    let result = dir.result();
    assert_eq!(result["verdict"], "failed");
    let [phase] = &result["phases"].as_array().unwrap()[..] else { panic!("{text}") };
    assert_eq!(phase["lost_connections"], connections);
    assert!(phase["first_lost_ns"].is_u64() && phase["failure"].is_string(), "{phase}");
    assert!(dir.0.join("out/latency.hlog").exists());
}

#[test]
fn what_was_measured_until_a_broker_died_is_reported() {
    let dir = Dir::new("died");
    let (mut server, mut broker) = serve(&dir);
    for mode in ["run --warm-up off", "produce"] {
        let topic = mode.split(' ').next().unwrap();
        let args = format!("{mode} -b {broker} -t {topic} -c 3 -p 1 -d 120s");
        let load = command(&dir, &args).spawn().unwrap();
        let log = format!("/{topic}-0/");
        while !stores(&dir.0.join("data"), &log, 1 << 20) {
            std::thread::yield_now();
        }
        server.kill().unwrap();
        server.wait().unwrap();
        assert_failed(&dir, &load.wait_with_output().unwrap(), 3);
        assert!(dir.result()["phases"][0]["counts"]["records"].as_u64().unwrap() > 0);
        (server, broker) = serve(&dir);
    }
    let load =
        command(&dir, &format!("fetch -b {broker} -t produce -c 1 -d 120s")).spawn().unwrap();
    while !loads(load.id()) {
        std::thread::yield_now();
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let output = load.wait_with_output().unwrap();
    assert_failed(&dir, &output, 1);
    // What was not read to its end is not called lost.
    assert_eq!(dir.result()["verification"]["lost"], 0);
}

/// Whether a load generator has begun a phase: its threads are there.
fn loads(pid: u32) -> bool {
    let mut threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.any(|t| fs::read_to_string(t.path().join("comm")).is_ok_and(|c| c.starts_with("load-")))
}

/// Passes connections on to `broker`, until the process ends; cuts the first that has sent 100 kB.
fn pass_on(listener: TcpListener, broker: String) {
    const CUT_AFTER_BYTES: u64 = 100_000;
    let cut = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for from in listener.incoming().map(Result::unwrap) {
            let to = TcpStream::connect(&broker).unwrap();
            let (mut back, mut answers) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut answers, &mut back));
            let cut = Arc::clone(&cut);
            std::thread::spawn(move || {
                let mut first = (&from).take(CUT_AFTER_BYTES);
                let passed = io::copy(&mut first, &mut &to).unwrap_or(0);
                if passed == CUT_AFTER_BYTES && !cut.swap(true, Ordering::Relaxed) {
                    from.shutdown(Shutdown::Both).unwrap();
                } else {
                    // Either end may go first.
                    let _passed = io::copy(&mut &from, &mut &to);
                }
                let _closed = to.shutdown(Shutdown::Both);
            });
        }
    });
}

#[test]
fn a_single_connection_that_breaks_fails_the_run() {
    let dir = Dir::new("single");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::behind("single-server", Some(address));
    pass_on(listener, server.address());
    let args = format!("run --warm-up off -b {} -c 4 -p 4 --records 40k", server.address());
    let (code, text) = run(&dir, &args);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("1 of 4 connections broke"), "{text}");
    let result = dir.result();
    assert_eq!(result["verdict"], "failed");
    let [produced, fetched] = &result["phases"].as_array().unwrap()[..] else { panic!("{text}") };
    assert_eq!(
        (&produced["lost_connections"], &fetched["lost_connections"]),
        (&1.into(), &0.into())
    );
    assert!(produced["unanswered_records"].as_u64().unwrap() > 0);
    // The others went on, and what was acknowledged is there.
    assert!(produced["counts"]["records"].as_u64().unwrap() >= 29_000);
    let found = &result["verification"];
    assert!(found["read"].as_u64() >= found["acked"].as_u64(), "{text}");
}

#[test]
fn fetching_alone_checks_what_it_can() {
    let dir = Dir::new("fetch");
    let server = Server::start("fetch-server");
    let broker = server.address();
    assert_verified(&run(&dir, &format!("produce -b {broker} -t t --records 10k -p 2")));
    for verify in ["off", "batches", "full"] {
        let done = run(&dir, &format!("fetch -b {broker} -t t --verify {verify}"));
        assert_verified(&done);
        assert_eq!(dir.result()["phases"][0]["counts"]["records"], 10_048, "{verify}");
    }
    let (code, text) = run(&dir, &format!("fetch -b {broker} -t unknown"));
    assert!(code == 1 && text.contains("topic unknown: UNKNOWN_TOPIC_OR_PARTITION"), "{text}");
    // Again and again for some time, with the CPU time of this process as the server's.
    let pid = std::process::id();
    assert_verified(&run(&dir, &format!("fetch -b {broker} -t t -d 500ms --server-pid {pid}")));
    let phase = &dir.result()["phases"][0];
    assert!(phase["counts"]["records"].as_u64().unwrap() >= 10_048);
    assert!(phase["resources"]["server_cpu_ns"].is_u64());
}

#[test]
fn what_cannot_be_run_says_so() {
    let dir = Dir::new("errors");
    // Before anything is connected to or made.
    fs::write(dir.0.join("out"), "").unwrap();
    let (code, text) = run(&dir, "run -b 127.0.0.1:1");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("/out: File exists"), "{text}");
    fs::remove_file(dir.0.join("out")).unwrap();
    assert_eq!(run(&dir, "run --record-size 10").0, 2);
    assert_eq!(run(&dir, "fetch -t t").0, 2);
    assert_eq!(run(&dir, "run --no-such-flag").0, 2);
    let (code, text) = run(&dir, "run -b 127.0.0.1:1 --cores 0,1023");
    assert!(code == 2 && text.contains("CPU 1023"), "{text}");
    let (code, text) = run(&dir, "run -b 127.0.0.1:1 --server-pid 4194305");
    assert!(code == 2 && text.contains("no process 4194305"), "{text}");
    let (code, text) = run(&dir, "run -b localhost");
    assert!(code == 1 && text.contains("`localhost` is no HOST:PORT"), "{text}");
    for nothing in ["-d 0s", "--records 0", "--bytes 0", "-r 0", "-c 0", "--timeout 0s"] {
        let (code, text) = run(&dir, &format!("run {nothing}"));
        assert_eq!(code, 2, "{nothing}: {text}");
    }
    let (code, text) = run(&dir, "fetch -b 127.0.0.1:1 -t t -d 0s");
    assert!(code == 2 && text.contains("--duration must be more than 0"), "{text}");
    let (code, text) = run(&dir, "run -b 127.0.0.1:1");
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is a broker listening there?"), "{text}");
}

/// A file that may not grow is to the server what a full disk is.
#[test]
fn a_full_disk_is_named() {
    let dir = Dir::new("full");
    fs::create_dir_all(dir.0.join("data")).unwrap();
    // Past the journal's 64 MiB.
    let blocks = (80 << 20) / 512;
    let output = Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_kariz-loadgen"))
        .args("run --warm-up off --partitions 1 --bytes 100M --quiet --sleep".split(' '))
        .args(["--data", &dir.path("data"), "--out", &dir.path("out")])
        .output()
        .unwrap();
    let (code, text) = told(&output);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("KAFKA_STORAGE_ERROR (56)") && text.contains("full"), "{text}");
    assert_eq!(entries(&dir.0.join("data")), 0, "the data is removed: {text}");
}

#[test]
fn an_interrupted_run_cleans_up() {
    let dir = Dir::new("interrupt");
    fs::create_dir_all(dir.0.join("data")).unwrap();
    let args = format!("run --warm-up off --data {} -d 60s --rate 1kreq/s", dir.path("data"));
    let child = command(&dir, &args).spawn().unwrap();
    let status = interrupt_under_load(child, &dir);
    assert_eq!(status.code(), Some(130));
    assert_eq!(entries(&dir.0.join("data")), 0);
    assert_eq!(dir.result()["verdict"], "interrupted");
}

/// Whether a log with at least so many bytes is below `dir`, in a path that contains `name`.
fn stores(dir: &Path, name: &str, bytes: u64) -> bool {
    let mut all = vec![dir.to_owned()];
    while let Some(dir) = all.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path().display().to_string();
            if entry.path().is_dir() {
                all.push(entry.path());
            } else if path.contains(name)
                && path.ends_with(".log")
                && entry.metadata().is_ok_and(|m| m.len() >= bytes)
            {
                return true;
            }
        }
    }
    false
}

/// Waits until records are stored, then interrupts.
fn interrupt_under_load(mut child: Child, dir: &Dir) -> ExitStatus {
    while !stores(&dir.0.join("data"), "-1-0/", 1) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before anything was stored");
        std::thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait().unwrap()
}
