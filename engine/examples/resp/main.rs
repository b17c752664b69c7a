//! Redis Streams on Kariz, for redis-cli: `resp DIR PORT CORES high|appended`.
//!
//! A stream is partition 0 of the topic of its name, an entry a record with the id `<offset + 1>-0`.
//! Its first field is the record's key and value, further ones are headers. Core `i` listens on port
//! + i and has a range of the hash slots; who wants another's stream is told where to go.

mod codec;

use codec::{Result, array, bulk, entry, int, number, option, parse};
use kariz_engine::io::{Conn, Io};
use kariz_engine::*;
use std::net::SocketAddr;
use std::ops::ControlFlow::{Break, Continue};
use std::str::from_utf8;
use std::time::Duration;

const CONNECTIONS_MAX: usize = 10_000;
const REQUEST_BYTES_MAX: usize = 1 << 20;
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Where core 0 listens, what XADD's answer promises, and whether a stream is made when first named.
#[derive(Clone, Copy)]
pub struct Options(pub SocketAddr, pub Mark, pub bool);

/// Serves on one core until the engine stops.
pub async fn serve<I: Io>(shard: Shard<I>, options: Options) -> std::io::Result<()> {
    let at = SocketAddr::new(options.0.ip(), options.0.port() + shard.id().0);
    let session =
        |conn| Session { shard: shard.clone(), options, conn, input: vec![], added: vec![] }.run();
    shard.accept(at, CONNECTIONS_MAX, session).await
}

struct Session<I: Io> {
    shard: Shard<I>,
    options: Options,
    conn: I::Conn,
    input: Vec<u8>,
    /// What the answers speak of that are not sent yet, or spoke of last.
    added: Vec<(Partition<I>, Span)>,
}

impl<I: Io> Session<I> {
    async fn run(mut self) -> Result<()> {
        while self.receive().await? {
            let (mut input, mut at, mut out) = (std::mem::take(&mut self.input), 0, Vec::new());
            while let Some((args, bytes)) = parse(&input[at..])? {
                at += bytes;
                out.extend(self.answer(&args).await.unwrap_or_else(codec::error));
            }
            for (stream, span) in &self.added {
                // On an error the connection ends: nobody can say what of it will be there.
                stream.reach(self.options.1, span).await?;
            }
            self.conn.send(&out, false).await?;
            self.added.drain(..self.added.len().saturating_sub(1));
            input.drain(..at);
            input.append(&mut self.input); // what came while a read waited
            self.input = input;
        }
        Ok(())
    }

    /// Takes what the client sends; false once it has gone, sends too much, or the engine stops.
    async fn receive(&mut self) -> Result<bool> {
        self.shard.room().await;
        let chunk = tokio::select! { biased;
            () = self.shard.stopping() => None,
            chunk = self.conn.recv() => chunk?,
        };
        self.input.extend_from_slice(chunk.as_deref().unwrap_or_default());
        Ok(chunk.is_some() && self.input.len() <= REQUEST_BYTES_MAX)
    }

    async fn answer(&mut self, args: &[&[u8]]) -> Result<Vec<u8>> {
        match (args[0].to_ascii_uppercase().as_slice(), &args[1..]) {
            (b"XADD", [key, b"*", name, value, rest @ ..]) if rest.len() % 2 == 0 => {
                let mut headers = Vec::new();
                for field in rest.chunks(2) {
                    headers.push((from_utf8(field[0])?, Some(field[1])));
                }
                let now = self.shard.io().timestamp();
                let batch = Batch::build().record(Some(name), Some(value), &headers, now).done()?;
                let stream = self.stream(key).await?;
                let span = stream.append(&batch)?;
                self.added.push((stream, span));
                Ok(bulk(format!("{}-0", span.end)))
            }
            (b"XADD", _) => Err("the log gives out ids: XADD key * field value ...".into()),
            (b"XLEN", [key]) => Ok(int(self.stream(key).await?.marks().visible())),
            (b"XRANGE", [key, from, to, options @ ..]) => {
                let (from, to) = (Offset(number(from)?.max(1) - 1), number(to)?);
                entries(&self.stream(key).await?, from, to, options).await
            }
            (b"XTRIM", [key, options @ ..]) => {
                let least = option(options, b"MINID").ok_or("only XTRIM key MINID id")?;
                let (stream, least) = (self.stream(key).await?, Offset(number(least)?.max(1) - 1));
                let marks = stream.marks();
                Ok(int(stream.trim(least.min(marks.high_watermark))?.since(marks.log_start)))
            }
            (b"XREAD", args) => self.read(args).await,
            (b"XDEL", _) => Err("a log loses its oldest only: XTRIM key MINID id".into()),
            (b"WAITAOF", _) => {
                for (stream, span) in &self.added {
                    stream.reach(Mark::Durable, span).await?;
                }
                Ok(array([int(1), int(0)]))
            }
            (b"PING", _) => Ok(b"+PONG\r\n".into()),
            (name, _) => Err(format!("{} is not served so", name.escape_ascii()).into()),
        }
    }

    /// The stream called `key`, made if it is not there.
    async fn stream(&self, key: &[u8]) -> Result<Partition<I>> {
        let name = TopicPartition::new(from_utf8(key)?, 0);
        let slot = crc16::State::<crc16::XMODEM>::calculate(key) % 16_384;
        let core = match self.shard.partition(&name) {
            Ok(stream) => return Ok(stream),
            Err(NotHere::Elsewhere(core)) => core.0,
            Err(NotHere::Unknown) => slot / 16_384_u16.div_ceil(self.shard.shards()),
        };
        if core != self.shard.id().0 {
            let at = SocketAddr::new(self.options.0.ip(), self.options.0.port() + core);
            return Err(format!("MOVED {slot} {at}").into());
        }
        self.options.2.then_some(()).ok_or("there is no such stream")?;
        Ok(self.shard.ensure(&name, LogConfig::default()).await?)
    }

    /// `[COUNT n] [BLOCK ms] STREAMS key ... id ...`
    async fn read(&mut self, args: &[&[u8]]) -> Result<Vec<u8>> {
        let at = args.iter().position(|arg| arg.eq_ignore_ascii_case(b"STREAMS"));
        let (options, named) = args.split_at(at.ok_or("STREAMS is missing")?);
        let (keys, ids) = named[1..].split_at(named.len() / 2);
        let mut waits = Vec::new();
        for (key, id) in keys.iter().zip(ids) {
            let stream = self.stream(key).await?;
            let end = stream.marks().high_watermark;
            let last = if *id == b"$" { end } else { Offset(number(id)?) };
            waits.push((stream, Mark::High, last.plus(1)));
        }
        let shard = self.shard.clone();
        let until = match option(options, b"BLOCK").map(number).transpose()? {
            Some(0) => Instant(Duration::MAX),
            ms => shard.io().now().plus(Duration::from_millis(ms.unwrap_or(0).unsigned_abs())),
        };
        loop {
            let mut found = Vec::new();
            for (key, (stream, _, next)) in keys.iter().zip(&waits) {
                if stream.marks().high_watermark >= *next {
                    let entries = entries(stream, next.plus(-1), i64::MAX, options).await?;
                    found.push(array([bulk(key), entries]));
                }
            }
            if !found.is_empty() {
                return Ok(array(found));
            }
            if shard.io().now() >= until || !waits.iter().all(|(stream, ..)| stream.can_grow()) {
                return Ok(b"*-1\r\n".into());
            }
            tokio::select! { biased;
                _ = shard.any(&waits, until) => {}
                open = self.receive() => if !open? { return Err("the engine stops".into()) },
            }
        }
    }
}

/// The entries from offset `from` to the id `to`, up to the option COUNT.
async fn entries<I: Io>(s: &Partition<I>, from: Offset, to: i64, o: &[&[u8]]) -> Result<Vec<u8>> {
    let mut count = option(o, b"COUNT").map_or(Ok(i64::MAX), number)?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    let see = |record: &batch::Record<'_>| {
        if record.offset.0 >= to || count <= 0 || bytes > REPLY_BYTES_MAX {
            return Break(());
        }
        found.push(entry(record));
        count -= 1;
        bytes += found.last().map_or(0, Vec::len);
        Continue(())
    };
    s.records(from, see).await?;
    (bytes <= REPLY_BYTES_MAX).then(|| array(found)).ok_or("too much at once: use COUNT".into())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, port, cores, ack] = args.as_slice() else { Err("see the top of the source")? };
    let first = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    let ack = if ack == "appended" { Mark::Appended } else { Mark::High };
    let cpus = (0..cores.parse()?).collect();
    let engine = Engine::open(dir, Config { cpus, ..Config::default() })?;
    engine.serve(move |shard| {
        // Settings are not stored: without them nothing of a stream is ever deleted.
        shard.partitions().iter().for_each(|stream| stream.configure(LogConfig::default()));
        serve(shard, Options(first, ack, true))
    })?;
    Ok(engine.wait()?)
}
