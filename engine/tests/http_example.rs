//! The example `http`: every row of its table, and clients that mean no good.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../examples/http/main.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod http;

use kariz_engine::batch::Batch;
use kariz_engine::io::sim::{Fault, Faults, OpKind, Rule, Sim, SimConn, World};
use kariz_engine::io::{Conn, Io};
use kariz_engine::{Config, Engine, LogConfig, Mark, ShardId, Timestamp, TopicPartition, sim};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

const MIB: usize = 1 << 20;

/// The example on two cores.
struct Server {
    engine: Engine,
    dir: PathBuf,
    first: SocketAddr,
}

impl Server {
    fn start(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("kariz-http-{name}-{}", std::process::id()));
        let config = Config { cpus: vec![0, 0], journal_bytes: 8 << 20, ..Config::default() };
        let engine = Engine::open(&dir, config).unwrap();
        let first = two_ports();
        engine.serve(move |shard| http::serve(shard, first)).unwrap();
        for core in 0..2 {
            while TcpStream::connect((first.ip(), first.port() + core)).is_err() {
                std::thread::yield_now();
            }
        }
        Self { engine, dir, first }
    }

    fn dial(&self, core: u16) -> Client {
        let stream = TcpStream::connect((self.first.ip(), self.first.port() + core)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream, input: Vec::new() }
    }

    /// Asks the first core on a connection of its own.
    fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        self.dial(0).ask(request)
    }

    /// As other protocols do it, on the first core.
    fn append(&self, partition: &str, config: LogConfig, batches: Vec<Batch>) {
        let name = TopicPartition::from_dir_name(partition).unwrap();
        let appended = self.engine.handle();
        let appended = appended.on(ShardId(0), move |shard| async move {
            let log = shard.ensure(&name, config).await.unwrap();
            for batch in batches {
                let span = log.append(&batch).unwrap();
                log.reach(Mark::High, &span).await.unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(appended).unwrap();
    }

    /// The segments of a partition of the first core, in order, without the spare room.
    fn segments(&self, partition: &str) -> Vec<Vec<u8>> {
        let files = fs::read_dir(self.dir.join("broker-256").join(partition)).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|path| path.extension().is_some_and(|ext| ext == "log"));
        files.sort();
        files.iter().map(|path| fs::read(path).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let stopped = self.engine.shutdown(Duration::from_secs(10));
        let _gone = fs::remove_dir_all(&self.dir);
        assert!(stopped.is_ok() || std::thread::panicking(), "{stopped:?}");
    }
}

/// Two ports next to each other, below those that the kernel gives out.
fn two_ports() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = 10_000 + start + 2 * NEXT.fetch_add(1, Ordering::Relaxed);
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 1) {
            return SocketAddr::from(([127, 0, 0, 1], port));
        }
    }
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// `{"base":B,"end":E}`, and nothing else.
    fn span(&self) -> (i64, i64) {
        assert_eq!(self.status, 200, "{self:?}");
        let line: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        (line["base"].as_i64().unwrap(), line["end"].as_i64().unwrap())
    }
}

impl Client {
    /// Sends; a server that has refused may not take all of it.
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _cut = self.stream.write_all(bytes.as_ref());
    }

    /// Reads up to and with `end`.
    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            let found = self.input.windows(end.len()).position(|part| part == end);
            if let Some(at) = found {
                return self.input.drain(..at + end.len()).collect();
            }
            assert!(self.receive(), "cut: {}", self.input.escape_ascii());
        }
    }

    fn exactly(&mut self, bytes: usize) -> Vec<u8> {
        while self.input.len() < bytes {
            assert!(self.receive(), "cut");
        }
        self.input.drain(..bytes).collect()
    }

    fn receive(&mut self) -> bool {
        let mut bytes = [0; 65_536];
        let n = self.read(&mut bytes).unwrap();
        self.input.extend(&bytes[..n]);
        n > 0
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(bytes) {
                // With a timeout it is not begun again by the kernel.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    fn head(&mut self) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        Answer { status, head, body: Vec::new() }
    }

    /// The next chunk; the last is empty.
    fn chunk(&mut self) -> Vec<u8> {
        let size = String::from_utf8(self.until(b"\r\n")).unwrap();
        let mut chunk = self.exactly(usize::from_str_radix(size.trim(), 16).unwrap() + 2);
        assert_eq!(chunk.split_off(chunk.len() - 2), b"\r\n");
        chunk
    }

    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        match answer.header("Content-Length") {
            Some(bytes) => answer.body = self.exactly(bytes.parse().unwrap()),
            None => loop {
                assert_eq!(answer.header("Transfer-Encoding"), Some("chunked"));
                match self.chunk() {
                    chunk if chunk.is_empty() => break,
                    chunk => answer.body.extend(chunk),
                }
            },
        }
        answer
    }

    fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request);
        self.answer()
    }

    /// Whether the server has closed, having said no more.
    fn is_closed(&mut self) -> bool {
        self.input.is_empty() && matches!(self.read(&mut [0]), Ok(0) | Err(_))
    }
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: k\r\n\r\n")
}

fn post(target: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST {target} HTTP/1.1\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn chunked(chunks: &str) -> String {
    format!("POST /t/0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

/// The lines of a tail without their timestamps.
fn lines(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let line = |line: &str| {
        let (before, after) = line.split_once(r#","timestamp":"#).unwrap();
        format!("{before},{}", after.split_once(',').unwrap().1)
    };
    answer.text().lines().map(line).collect()
}

fn value(offset: i64, value: &str) -> String {
    format!(r#"{{"offset":{offset},"key":null,"value":{value}}}"#)
}

#[test]
fn lines_become_records_and_come_back_as_they_were() {
    let server = Server::start("lines");
    let values = [r#"{"a" : 1.50e400,"ü":"\ud83d\u00e9"}"#, "[[ ]]", "\"x\"", "null"];
    let body = format!("{}\n\n{}\r\n{}\n{}", values[0], values[1], values[2], values[3]);
    let mut client = server.dial(0);
    assert_eq!(client.ask(post("/t/7", &body)).span(), (0, 4));
    assert_eq!(client.ask(post("/t/7", "4\n")).span(), (4, 5));

    let expected: Vec<_> = (0..).zip(values).map(|(n, text)| value(n, text)).collect();
    let answer = client.ask(get("/t/7?follow=false"));
    assert_eq!(lines(&answer)[..4], expected);
    assert!(client.is_closed());
    assert_eq!(lines(&server.ask(get("/t/7?from=3&follow=false")))[0], expected[3]);
    assert_eq!(lines(&server.ask(get("/t/7?from=5&follow=false"))).len(), 0);
    for segment in server.segments("t-7") {
        let batches = kariz_engine::batch::Batches::new(&segment);
        let counts: Vec<_> = batches.map_while(|b| Some(b.ok()?.header.count())).collect();
        assert_eq!(counts, [4, 1], "a body is a batch");
    }
}

#[test]
fn a_large_body_is_several_batches_in_a_row() {
    let server = Server::start("large");
    let lines: String = (0..3000).map(|n| format!("\"{n:0998}\"\n")).collect();
    assert_eq!(server.ask(post("/t/0", &lines)).span(), (0, 3000));
    // The same in chunks of other sizes than lines have.
    let chunks: Vec<_> = lines.as_bytes().chunks(70_001).map(Vec::from).collect();
    let mut request = chunked("").into_bytes();
    for chunk in chunks {
        request.extend(format!("{:X};x=y\r\n", chunk.len()).into_bytes());
        request.extend(chunk.into_iter().chain(*b"\r\n"));
    }
    request.extend(b"0\r\nTrailer: t\r\n\r\n");
    assert_eq!(server.ask(&request).span(), (3000, 6000));
    let values = |answer: Answer| {
        let values = answer.text().lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["value"].to_string() + "\n"
        });
        values.collect::<String>()
    };
    assert_eq!(values(server.ask(get("/t/0?follow=false"))), lines.repeat(2));

    // A record that is larger than any batch: refused, and what came before it as well.
    let body = format!("1\n\"{}\"\n2\n", "x".repeat(MIB));
    assert_eq!(server.ask(post("/t/0", body)).status, 413);
    assert_eq!(server.ask(post("/t/0", "1")).span(), (6000, 6001));
}

#[test]
fn a_tail_goes_on_until_the_engine_stops() {
    let server = Server::start("tail");
    server.ask(post("/t/0", "1\n2"));
    let mut tail = server.dial(0);
    tail.send(get("/t/0?from=1"));
    assert_eq!(tail.head().status, 200);
    assert!(String::from_utf8(tail.chunk()).unwrap().ends_with("\"value\":2}\n"));
    for n in 3..6 {
        server.ask(post("/t/0", format!("{n}")));
        let line = String::from_utf8(tail.chunk()).unwrap();
        assert!(line.starts_with(&format!("{{\"offset\":{},", n - 1)), "{line}");
    }
    // One whose client has gone is over: the shutdown has nothing to wait for.
    let mut other = server.dial(0);
    other.send(get("/t/0"));
    other.head();
    drop(other);
    server.engine.shutdown(Duration::from_secs(30)).unwrap();
    assert!(tail.chunk().is_empty());
    assert!(tail.is_closed());
}

#[test]
fn what_others_have_written_comes_as_strings_where_it_is_no_json() {
    let server = Server::start("others");
    let mut batch = Batch::build();
    let mut add = |key: Option<&[u8]>, value: Option<&[u8]>| {
        batch.add(key, value, &[("header", None)], Timestamp(5));
    };
    add(None, None);
    add(Some(b"7"), Some(b"7"));
    add(Some(b"a\"b"), Some(b"plain \"text\"\n"));
    add(Some(b"\xff"), Some(b"\"\xff\""));
    add(None, Some(b" {\n\"pretty\" :\r\n 1 }\n"));
    add(None, Some(b""));
    let control = Batch::build().record(None, None, &[], None).control().done().unwrap();
    server.append("t-0", LogConfig::default(), vec![batch.done().unwrap(), control]);
    let expected = [
        r#"{"offset":0,"timestamp":5,"key":null,"value":null}"#,
        r#"{"offset":1,"timestamp":5,"key":"7","value":7}"#,
        r#"{"offset":2,"timestamp":5,"key":"a\"b","value":"plain \"text\"\n"}"#,
        "{\"offset\":3,\"timestamp\":5,\"key\":\"\u{fffd}\",\"value\":\"\\\"\u{fffd}\\\"\"}",
        r#"{"offset":4,"timestamp":5,"key":null,"value":{ "pretty" :   1 }}"#,
        r#"{"offset":5,"timestamp":5,"key":null,"value":""}"#,
    ];
    let answer = server.ask(get("/t/0?follow=false"));
    assert_eq!(answer.text().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn raw_gives_whole_batches_a_segment_at_a_time() {
    let server = Server::start("raw");
    let record = vec![b'x'; 600_000];
    let batch = |_| {
        let batch = Batch::build().record(None, Some(&record), &[], None);
        batch.record(None, Some(b"2"), &[], None).done().unwrap()
    };
    let mut config = LogConfig::default();
    config.segment_bytes = 2_000_000;
    server.append("t-0", config, (0..7).map(batch).collect());
    let segments = server.segments("t-0");
    assert_eq!(segments.len(), 3);

    let (mut client, mut next) = (server.dial(0), "0".to_owned());
    for segment in &segments {
        let answer = client.ask(get(&format!("/t/0/raw?from={next}")));
        assert_eq!(answer.status, 200);
        assert!(answer.body == *segment, "{next}: {} B", answer.body.len());
        answer.header("Kariz-Next-Offset").unwrap().clone_into(&mut next);
    }
    assert_eq!(next, "14");
    let nothing = client.ask(get("/t/0/raw?from=14"));
    assert_eq!((nothing.body.len(), nothing.header("Kariz-Next-Offset")), (0, Some("14")));
    // From within a batch: it begins with that.
    let answer = client.ask(get("/t/0/raw?from=3"));
    assert!(answer.body[..] == segments[0][segments[0].len() / 3..]);
    assert_eq!(answer.header("Kariz-Next-Offset"), Some("6"));
}

#[test]
fn another_core_says_who_has_it() {
    let server = Server::start("cores");
    assert_eq!(server.dial(1).ask(post("/t/0", "1")).span(), (0, 1));
    let at = SocketAddr::new(server.first.ip(), server.first.port() + 1);
    for (request, target) in [
        (get("/t/0?from=0&follow=false").into_bytes(), "/t/0?from=0&follow=false"),
        (get("/t/0/raw").into_bytes(), "/t/0/raw"),
        (post("/t/0", "2"), "/t/0"),
    ] {
        let answer = server.ask(request);
        let location = format!("http://{at}{target}");
        assert_eq!((answer.status, answer.header("Location")), (307, Some(location.as_str())));
    }
    // Before it has sent a body in vain.
    let head = "POST /t/0 HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    assert_eq!(server.ask(head).status, 307);
    let mut owner = server.dial(1);
    owner.send(head);
    assert_eq!(owner.head().status, 100);
    assert_eq!(owner.ask("123456789").span(), (1, 2));
}

#[test]
fn what_is_refused() {
    let server = Server::start("refused");
    server.ask(post("/t/0", "1"));
    let refused = [
        (404, get("/")),
        (404, get("/t")),
        (404, get("/t/0/raw/x")),
        (404, get("/t/1")),
        (404, get("/t/1/raw")),
        (400, get("/t/x")),
        (400, get("/t/-1")),
        (400, get("/../0")),
        (400, get("/%2e/0")),
        (400, get("/t/0?from=x")),
        (400, get("/t/0?follow=never")),
        (400, get("/t/0?form=1")),
        (416, get("/t/0?from=2")),
        (416, get("/t/0?from=-1")),
        (416, get("/t/0/raw?from=2")),
        (405, "PUT /t/0 HTTP/1.1\r\n\r\n".into()),
        (405, "POST /t/0/raw HTTP/1.1\r\nContent-Length: 1\r\n\r\n1".into()),
        (411, "POST /t/0 HTTP/1.1\r\n\r\n".into()),
        (400, "POST /t/0 HTTP/1.1\r\nContent-Length: 0\r\n\r\n".into()),
        (400, "POST /t/0 HTTP/1.1\r\nContent-Length: 4\r\n\r\n1\n{\n".into()),
        (400, "POST /t/0 HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\n".into()),
        (400, "GET /t/0 HTTP/1.1\r\nContent-Length: 1\r\n\r\n1".into()),
        (400, "nonsense\r\n\r\n".into()),
        (505, "GET /t/0 HTTP/1.0\r\n\r\n".into()),
    ];
    for (status, request) in refused {
        let answer = server.ask(&request);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
        let line: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(line["error"].is_string() && answer.body.ends_with(b"\n"));
    }
    assert_eq!(server.ask(post("/t/0", "1")).span(), (1, 2), "nothing of it was appended");
}

#[test]
fn hostile_clients_are_refused_and_cost_nobody_else_anything() {
    let server = Server::start("hostile");
    let head = |headers: &str| format!("POST /t/0 HTTP/1.1\r\n{headers}\r\n\r\n");
    let hostile = [
        // Without end, or without measure.
        (431, format!("GET /{}", "x".repeat(MIB))),
        (431, format!("GET /t/0 HTTP/1.1\r\nX: {}", "x".repeat(MIB))),
        (431, format!("GET /t/0 HTTP/1.1\r\n{}", "X: y\r\n".repeat(100))),
        (413, head("Content-Length: 16777217")),
        (413, head("Content-Length: 18446744073709551615")),
        (413, head(&format!("Content-Length: {}", "9".repeat(1000)))),
        (413, chunked("1000001\r\n")),
        (413, chunked("fffffffffffffff\r\n")),
        (400, chunked(&format!("1;{}", "x".repeat(MIB)))),
        (400, chunked(&format!("0\r\nX: {}", "x".repeat(MIB)))),
        // Lengths that two readers could read in two ways.
        (400, head("Content-Length: +1")),
        (400, head("Content-Length: 0x1")),
        (400, head("Content-Length: ")),
        (400, head("Content-Length: 1, 1")),
        (400, head("Content-Length: 1\r\nContent-Length: 1")),
        (400, head("Content-Length: 1\r\nTransfer-Encoding: chunked")),
        (400, head("Transfer-Encoding: chunked\r\nContent-Length: 1")),
        (501, head("Transfer-Encoding: gzip, chunked")),
        // Chunks that are none.
        (400, chunked("\r\n\r\n")),
        (400, chunked("x\r\n")),
        (400, chunked("-1\r\n")),
        (400, chunked(";\r\n")),
        (400, chunked("10000000000000000\r\n")),
        (400, chunked("1\r\n1xx0\r\n\r\n")),
        (400, chunked("1\n1\r\n0\r\n\r\n")),
        (400, "GET /t/0 HTTP/1.1\r\nbad header\r\n\r\n".into()),
        (400, "GET /t/0 HTTP/1.1\r\nX: \0\r\n\r\n".into()),
    ];
    for (status, request) in &hostile {
        let mut client = server.dial(0);
        let answer = client.ask(request);
        let shown = &request[..request.len().min(100)];
        assert_eq!(answer.status, *status, "{shown}: {answer:?}");
        assert_eq!(answer.header("Connection"), Some("close"), "{shown}");
    }
    // It is let go whatever more it sends.
    let mut client = server.dial(0);
    client.ask(&hostile[0].1);
    client.send(post("/t/0", "1"));
    assert!(client.is_closed());
    // Gone in the middle of all that can be sent.
    for request in
        [get("/t/0"), chunked("5\r\n12"), chunked("1\r\n1\r\n0\r\n"), head("Content-Length: 5")]
    {
        for cut in 1..request.len() {
            server.dial(0).send(&request[..cut]);
        }
    }
    assert_eq!(server.ask(post("/t/0", "1")).span(), (0, 1));
}

#[test]
fn requests_may_come_in_any_pieces() {
    let server = Server::start("pieces");
    // Many at once, answered in their order.
    let mut client = server.dial(0);
    let mut requests: Vec<u8> = (0..100).flat_map(|n| post("/t/0", format!("{n}"))).collect();
    requests.extend(chunked("1;x\r\n7\r\n2\r\n\n8\r\n0\r\n\r\n").into_bytes());
    requests.extend(get("/t/0/raw?from=102").into_bytes());
    requests.extend(get("/t/0?from=99&follow=false").into_bytes());
    client.send(&requests);
    for n in 0..100 {
        assert_eq!(client.answer().span(), (n, n + 1));
    }
    assert_eq!(client.answer().span(), (100, 102));
    assert_eq!(client.answer().header("Kariz-Next-Offset"), Some("102"));
    let expected = [value(99, "99"), value(100, "7"), value(101, "8")];
    assert_eq!(lines(&client.answer()), expected);
    // Byte by byte.
    let mut client = server.dial(0);
    client.stream.set_nodelay(true).unwrap();
    for byte in [post("/t/0", "\"one\""), chunked("3\r\n102\r\n0\r\n\r\n").into_bytes()].concat() {
        client.send([byte]);
    }
    assert_eq!(client.answer().span(), (102, 103));
    assert_eq!(client.answer().span(), (103, 104));
    // The last one.
    let close = "POST /t/0 HTTP/1.1\r\nConnection: close\r\nContent-Length: 1\r\n\r\n1";
    let answer = client.ask(close);
    assert_eq!((answer.status, answer.header("Connection")), (200, Some("close")));
    assert!(client.is_closed());
}

/// Sends `request` to the example on a simulated machine; what comes back until it closes, or has
/// been silent for a second.
async fn simulated(io: &Sim, conn: &SimConn, request: &[u8]) -> String {
    conn.send(request, false).await.unwrap();
    let mut answer = Vec::new();
    loop {
        tokio::select! {
            biased;
            chunk = conn.recv() => match chunk {
                Ok(Some(chunk)) => answer.extend(chunk),
                Ok(None) | Err(_) => break,
            },
            () = io.sleep(Duration::from_secs(1)) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

async fn on_simulated_disk(io: &Sim) -> SocketAddr {
    let opened = sim::open(io.clone(), Path::new("/data"), sim::Options::default()).await;
    let (shard, at) = (opened.unwrap().0, SocketAddr::from(([127, 0, 0, 1], 80)));
    io.spawn(async move { http::serve(shard, at).await.unwrap() });
    io.sleep(Duration::from_millis(1)).await;
    at
}

#[test]
fn a_disk_that_is_full_or_fails_says_whether_records_may_be_there() {
    let is_log = |path: &str| path.ends_with(".log");
    for (rule, status, written) in [
        (Rule::on(OpKind::Write, Fault::NoSpace).named(is_log), "507", "no"),
        (Rule::on(OpKind::Sync, Fault::Io), "503", "maybe"),
    ] {
        let main = move |io: Sim| async move {
            let at = on_simulated_disk(&io).await;
            let conn = io.connect(at).await.unwrap();
            assert!(
                simulated(&io, &conn, &post("/t/0", "1"))
                    .await
                    .ends_with("{\"base\":0,\"end\":1}\n")
            );
            io.set_faults(Faults::none().with(rule));
            let answer = simulated(&io, &conn, &post("/t/0", "2")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.ends_with(&format!("\"written\":\"{written}\"}}\n")), "{answer}");
            // Reads go on.
            io.set_faults(Faults::none());
            let conn = io.connect(at).await.unwrap();
            let answer = simulated(&io, &conn, get("/t/0?follow=false").as_bytes()).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"value\":1}"),
                "{answer}"
            );
            assert!(!answer.contains("\"value\":2}"), "{answer}");
        };
        World::new(1, Faults::none()).boot(main).done();
    }
}

#[test]
fn a_silent_client_is_let_go_and_a_refused_one_not_at_once() {
    let main = |io: Sim| async move {
        let at = on_simulated_disk(&io).await;
        let posted = "POST /t/0 HTTP/1.1\r\nContent-Length: 2\r\n\r\n1";
        for (request, s) in [("", 60), ("POST /t/0 HT", 60), (posted, 60), (&get("/"), 1)] {
            let (conn, began) = (io.connect(at).await.unwrap(), io.now());
            conn.send(request.as_bytes(), false).await.unwrap();
            while let Ok(Some(_)) = conn.recv().await {}
            let took = io.now() - began;
            assert!((s..s + 1).contains(&took.as_secs()), "{request}: {took:?}");
        }
    };
    World::new(1, Faults::none()).boot(main).done();
}
