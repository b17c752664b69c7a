//! The Redis example under the simulator: what its clients were told outlives kills and power cuts.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[allow(dead_code, unreachable_pub, reason = "an example is a program")]
#[path = "../examples/resp/main.rs"]
mod resp;

use kariz_engine::Mark;
use kariz_engine::io::sim::{End, Faults, Outcome, Sim, SimConn};
use kariz_engine::io::{Conn, Io};
use kariz_engine::sim::{Machine, connect};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

const AT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6379);
const CLIENTS: usize = 3;

/// A client that speaks RESP and no more.
struct Client {
    conn: SimConn,
    input: Vec<u8>,
}

impl Client {
    async fn new(io: &Sim) -> Self {
        Self { conn: connect(io, AT).await.unwrap(), input: Vec::new() }
    }

    async fn send(&self, commands: &[&[&str]]) -> Option<()> {
        let mut out = String::new();
        for command in commands {
            out += &format!("*{}\r\n", command.len());
            command.iter().for_each(|arg| out += &format!("${}\r\n{arg}\r\n", arg.len()));
        }
        self.conn.send(out.as_bytes(), false).await.ok()
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.input.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8(self.input[..end].to_vec()).unwrap();
                self.input.drain(..end + 2);
                return Some(line);
            }
            self.input.extend(self.conn.recv().await.ok()??);
        }
    }

    /// The strings, numbers and errors in one answer; `None` if the connection ends before.
    async fn answer(&mut self) -> Option<Vec<String>> {
        let (mut found, mut left) = (Vec::new(), 1);
        while left > 0 {
            let line = self.line().await?;
            left -= 1;
            match line.split_at(1) {
                ("*", "-1") => {}
                ("*", n) => left += n.parse::<usize>().unwrap(),
                ("$", _) => found.push(self.line().await?),
                _ => found.push(line),
            }
        }
        Some(found)
    }

    async fn ask(&mut self, command: &[&str]) -> Option<Vec<String>> {
        self.send(&[command]).await?;
        self.answer().await
    }
}

/// The entries that clients were told of: their ids and what they hold.
type Told = Rc<RefCell<BTreeMap<u64, String>>>;

/// Adds entries, pipelined, and notes what is answered, until the connection ends.
async fn add(io: Sim, who: usize, told: Told) {
    let mut client = Client::new(&io).await;
    let _ended = async {
        for round in 0.. {
            let depth = 1 + io.random() % 5;
            let values: Vec<_> =
                (0..depth).map(|i| format!("{who}-{}-{round}-{i}", io.random())).collect();
            let commands: Vec<[&str; 5]> =
                values.iter().map(|value| ["XADD", "s", "*", "f", value]).collect();
            let commands: Vec<&[&str]> = commands.iter().map(|command| &command[..]).collect();
            client.send(&commands).await?;
            for value in values {
                let answer = client.answer().await?.remove(0);
                // An error says that it was not added.
                if let Some(id) = answer.strip_suffix("-0") {
                    let mut told = told.borrow_mut();
                    if told.insert(id.parse().unwrap(), value).is_some() {
                        // No entry has that id.
                        told.insert(0, format!("{id} was given out twice"));
                    }
                }
            }
        }
        Some(())
    };
    let _ended = _ended.await;
}

/// What is there, by XRANGE in pieces; every one has its place.
async fn read(io: Sim) -> BTreeMap<u64, String> {
    let (mut client, mut entries) = (Client::new(&io).await, BTreeMap::new());
    loop {
        let from = format!("{}-0", entries.len() + 1);
        let found = client.ask(&["XRANGE", "s", &from, "+", "COUNT", "100"]).await.unwrap();
        if found.is_empty() {
            return entries;
        }
        for entry in found.chunks(3) {
            let id: u64 = entry[0].strip_suffix("-0").unwrap().parse().unwrap();
            assert_eq!(usize::try_from(id).unwrap(), entries.len() + 1);
            entries.insert(id, entry[2].clone());
        }
    }
}

/// Whether all that clients were told of is there after crashes and kills.
fn keeps_its_word(seed: u64, ack: Mark) -> bool {
    let mut machine = Machine::new(seed, Faults::swarm(seed), move |s| {
        resp::serve(s, resp::Options(AT, ack, true))
    });
    let told = Told::default();
    for round in 0..4 {
        let end = if (seed + round).is_multiple_of(3) { End::Killed } else { End::PowerCut };
        machine.world().stop_after(50 + seed * 7919 % 600, end);
        let told = Rc::clone(&told);
        let run = machine.run(|io| async move {
            for who in 1..CLIENTS {
                io.spawn(add(io.clone(), who, Rc::clone(&told)));
            }
            add(io, 0, told).await;
        });
        if !matches!(run, Outcome::Stopped(_)) {
            // Its connection was reset, or the disk has failed.
            machine.world().crash();
        }
    }
    machine.world().set_faults(Faults::none());
    machine.world().stop_after(u64::MAX, End::Killed);
    let there = machine.run(read).done().unwrap();
    machine.shut_down().unwrap();
    assert_eq!(machine.run(read).done().unwrap(), there, "after a clean stop");
    told.borrow().iter().all(|(id, value)| there.get(id) == Some(value))
}

#[test]
fn what_was_answered_outlives_kills_and_power_cuts() {
    for seed in 0..100 {
        assert!(keeps_its_word(seed, Mark::High), "seed {seed}");
    }
}

/// Or the test above would see nothing.
#[test]
fn what_is_only_appended_does_not() {
    assert!((0..100).any(|seed| !keeps_its_word(seed, Mark::Appended)));
}

#[test]
fn a_blocked_read_wakes_when_an_entry_comes_and_ends_with_its_time() {
    let mut machine = Machine::new(1, Faults::none(), |shard| {
        resp::serve(shard, resp::Options(AT, Mark::High, true))
    });
    let run = machine.run(|io| async move {
        let (mut reader, mut writer) = (Client::new(&io).await, Client::new(&io).await);
        reader.send(&[&["XREAD", "BLOCK", "0", "STREAMS", "a", "b", "$", "$"]]).await.unwrap();
        io.sleep(std::time::Duration::from_secs(100)).await;
        writer.ask(&["XADD", "b", "*", "f", "v"]).await.unwrap();
        assert_eq!(reader.answer().await.unwrap(), ["b", "1-0", "f", "v"]);
        let began = io.now();
        assert!(
            reader.ask(&["XREAD", "BLOCK", "50", "STREAMS", "a", "$"]).await.unwrap().is_empty()
        );
        assert!((50..60).contains(&(io.now() - began).as_millis()));
        // What is pipelined behind a read that waits is answered behind it.
        let read: &[&str] = &["XREAD", "BLOCK", "0", "STREAMS", "a", "$"];
        reader.send(&[read, &["XLEN", "a"]]).await.unwrap();
        io.sleep(std::time::Duration::from_secs(1)).await;
        writer.ask(&["XADD", "a", "*", "f", "w"]).await.unwrap();
        assert_eq!(reader.answer().await.unwrap(), ["a", "1-0", "f", "w"]);
        assert_eq!(reader.answer().await.unwrap(), [":1"]);
        // One who goes away while he waits leaves nothing behind; the stop waits for nobody.
        reader.send(&[&["XREAD", "BLOCK", "0", "STREAMS", "a", "$"]]).await.unwrap();
    });
    run.done().unwrap();
    let began = machine.world().now();
    machine.shut_down().unwrap();
    assert!((machine.world().now() - began).as_millis() < 500);
}

#[test]
fn what_is_no_resp_ends_the_connection_and_nothing_else() {
    let mut machine = Machine::new(1, Faults::none(), |shard| {
        resp::serve(shard, resp::Options(AT, Mark::High, true))
    });
    let run = machine.run(|io| async move {
        for bad in
            ["GET / HTTP/1.1\r\n\r\n", "*-1\r\n", "*1\r\n:1\r\n", "*1\r\n$99999999999\r\n", "\n"]
        {
            let client = Client::new(&io).await;
            client.conn.send(bad.as_bytes(), false).await.unwrap();
            if !bad.starts_with("*1\r\n$") {
                assert_eq!(client.conn.recv().await.unwrap(), None, "{bad}");
            }
        }
        // More than a request may have.
        let client = Client::new(&io).await;
        client.conn.send(b"*1\r\n$99999999\r\n", false).await.unwrap();
        while client.conn.send(&[7; 100_000], false).await.is_ok() {
            // Until the word of the end has come.
            io.sleep(std::time::Duration::from_micros(1)).await;
        }
        let mut good = Client::new(&io).await;
        assert_eq!(good.ask(&["PING"]).await.unwrap(), ["+PONG"]);
        for (command, answer) in [
            (&["XDEL", "s", "1-0"][..], "-ERR a log loses its oldest only: XTRIM key MINID id"),
            (
                &["XADD", "s", "5-0", "f", "v"],
                "-ERR the log gives out ids: XADD key * field value ...",
            ),
            (&["XREAD", "STREAMS"], "*-1"),
            (&["XREAD", "BLOCK"], "-ERR STREAMS is missing"),
            (&["XRANGE", "s", "x", "+"], "-ERR a number or an id is expected"),
            (
                &["XADD", "a/b", "*", "f", "v"],
                "-ERR a topic's name has only letters, digits, `.`, `_` and `-`",
            ),
            (&["NOSUCH"], "-ERR NOSUCH is not served so"),
        ] {
            let expected = if answer == "*-1" { vec![] } else { vec![answer.to_owned()] };
            assert_eq!(good.ask(command).await.unwrap(), expected);
        }
    });
    run.done().unwrap();
}
