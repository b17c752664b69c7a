//! HTTP on Kariz, for curl: `http DIR PORT CORES`.
//!
//! - `POST /TOPIC/PARTITION`: each line of the body, which must be JSON, becomes a record's value as
//!   it is. All lines of a body, or of each MiB of it, are one batch. Answered once they are durable.
//! - `GET /TOPIC/PARTITION?from=N` follows the partition, a record a line, for ever;
//!   `&follow=false` ends at the high watermark. Without `from` it begins with the first record.
//! - `GET /TOPIC/PARTITION/raw?from=N` gives the batches as they are on disk, by `sendfile`, up to
//!   the end of a segment: what comes is a segment of Kafka's. `Kariz-Next-Offset` says what follows.
//!
//! Core `i` listens on port + i; a partition lives on the core that was first posted to, and the
//! others answer 307.

mod codec;
mod failure;
mod ndjson;
mod wire;

use codec::{Framing, Head, answer};
use failure::{Failure, Result};
use kariz_engine::io::{Conn, Io};
use kariz_engine::*;
use std::error::Error;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Semaphore;
use wire::Wire;

const CONNECTIONS_MAX: usize = 1_000;
/// What a core holds of bodies; further ones wait.
const BODIES_BYTES_MAX: usize = 256 << 20;
/// A tail's chunks end after this.
const CHUNK_BYTES: usize = 64 << 10;
const INFLATED_BYTES_MAX: usize = 16 << 20;
/// So much is looked at without a pause to see where batches end.
const PIECE: Want = Want { max_bytes: 1 << 20, min_bytes: 0, wait: Duration::ZERO };

/// Serves on one core until the engine stops.
pub async fn serve<I: Io>(shard: Shard<I>, first: SocketAddr) -> std::io::Result<()> {
    let at = SocketAddr::new(first.ip(), first.port() + shard.id().0);
    let bodies = Rc::new(Semaphore::new(BODIES_BYTES_MAX));
    let session = |conn| {
        let wire = Wire::new(conn, shard.clone());
        Session { shard: shard.clone(), first, bodies: Rc::clone(&bodies), wire }.run()
    };
    shard.accept(at, CONNECTIONS_MAX, session).await
}

struct Session<I: Io> {
    shard: Shard<I>,
    first: SocketAddr,
    bodies: Rc<Semaphore>,
    wire: Wire<I>,
}

impl<I: Io> Session<I> {
    async fn run(mut self) -> Result<()> {
        loop {
            match self.exchange().await {
                Ok(true) => {}
                Err(Failure::Refused(refusal)) => return self.wire.end(&refusal.answer()).await,
                Ok(false) | Err(Failure::Gone) => return Ok(()),
            }
        }
    }

    /// One request and its answer; whether another may follow.
    async fn exchange(&mut self) -> Result<bool> {
        let head = self.wire.head().await?;
        let log = match self.shard.partition(&head.partition) {
            Err(NotHere::Elsewhere(core)) => {
                return Err(Failure::moved(self.first, core, &head.target));
            }
            Err(NotHere::Unknown) => None,
            Ok(log) => Some(log),
        };
        match (head.method.as_str(), log) {
            ("POST", log) if !head.is_raw => self.append(&head, log).await,
            ("GET", _) if !matches!(head.body, Framing::None | Framing::Bytes(0)) => {
                Err(Failure::new(400, "GET has no body"))
            }
            ("GET", None) => Err(Failure::new(404, "no such partition: POST makes it")),
            ("GET", Some(log)) if head.is_raw => self.raw(&head, &log).await,
            ("GET", Some(log)) => self.tail(&head, &log).await,
            _ => Err(Failure::new(405, "only GET, and POST of records")),
        }
    }

    async fn append(&mut self, head: &Head, log: Option<Partition<I>>) -> Result<bool> {
        let _room =
            self.bodies.acquire_many(head.body.bytes_max()?).await.map_err(|_| Failure::Gone)?;
        let body = self.wire.body(head).await?;
        let batches = ndjson::batches(&body, self.shard.io().timestamp())?;
        let log = match log {
            Some(log) => log,
            None => match self.shard.ensure(&head.partition, LogConfig::default()).await {
                Err(CreateError::Elsewhere(_, core)) => {
                    return Err(Failure::moved(self.first, core, &head.target));
                }
                made => made?,
            },
        };
        // Before the first is appended: a body is taken or refused as one.
        let max = log.config().max_message_bytes;
        if let Some(bytes) = batches.iter().map(Batch::total_bytes).find(|bytes| *bytes > max) {
            return Err(AppendError::TooLarge { bytes, max }.into());
        }
        let mut spans = Vec::new();
        for batch in &batches {
            spans.push(log.append(batch).map_err(|e| Failure::from(e).after(spans.len()))?);
        }
        for (n, span) in spans.iter().enumerate() {
            log.reach(Mark::High, span).await.map_err(|e| Failure::from(e).after(n))?;
        }
        let (base, end) = (spans[0].base, spans[spans.len() - 1].end);
        let line = format!("{{\"base\":{base},\"end\":{end}}}\n");
        self.wire.send(&answer("200 OK", head.connection(), &line), false).await?;
        Ok(head.keep_alive)
    }

    async fn tail(&self, head: &Head, log: &Partition<I>) -> Result<bool> {
        let marks = log.marks();
        let from = head.from.unwrap_or(marks.log_start);
        // Errors while a status can still tell them.
        log.slice(from, 1).await?;
        self.wire.send(codec::TAIL_HEAD, false).await?;
        let mut tail = log.tail(from);
        while head.follow || tail.position() < marks.high_watermark {
            let sent = tokio::select! {
                biased;
                () = self.wire.gone(), if head.follow => break,
                batches = tail.next() => match batches {
                    Ok(batches) => self.send_lines(&batches, from).await,
                    Err(error) => Err(error.into()),
                },
            };
            if let Err(Failure::Refused(refusal)) = &sent {
                // Who reads it sees that it was cut: the chunk that ends it does not come.
                self.wire.send_chunk(&refusal.line()).await?;
                return Ok(false);
            }
            sent?;
        }
        self.wire.send("0\r\n\r\n", false).await?;
        Ok(false)
    }

    async fn send_lines(&self, batches: &[Batch], from: Offset) -> Result<()> {
        let mut lines = String::new();
        for batch in batches.iter().filter(|batch| !batch.header().is_control()) {
            for record in batch.records(INFLATED_BYTES_MAX)?.iter() {
                let record = record?;
                if record.offset >= from {
                    ndjson::put_line(&mut lines, &record);
                }
                if lines.len() >= CHUNK_BYTES {
                    self.wire.send_chunk(&std::mem::take(&mut lines)).await?;
                }
            }
        }
        self.wire.send_chunk(&lines).await
    }

    async fn raw(&self, head: &Head, log: &Partition<I>) -> Result<bool> {
        let mut next = head.from.unwrap_or(log.marks().log_start);
        let (mut pieces, mut bytes) = (Vec::<Slice<I>>::new(), 0);
        // The length is known once the heads have been looked at.
        while let Some((piece, end)) = log.read(next, PIECE).await?.whole()? {
            if pieces.last().is_some_and(|p| piece.position() != p.position() + p.len() as u64) {
                break; // It is the next segment's.
            }
            (bytes, next) = (bytes + piece.len(), end);
            pieces.push(piece);
            tokio::task::yield_now().await;
        }
        self.wire.send(&codec::raw_head(bytes, next, head.connection()), bytes > 0).await?;
        for piece in pieces {
            piece.load().await?;
            self.wire.conn.send_file(piece.file(), piece.position(), piece.len()).await?;
        }
        Ok(head.keep_alive)
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, port, cores] = args.as_slice() else { Err("see the top of the source")? };
    let first = SocketAddr::from(([127, 0, 0, 1], port.parse()?));
    let cpus = (0..cores.parse()?).collect();
    let engine = Engine::open(dir, Config { cpus, ..Config::default() })?;
    engine.serve(move |shard| {
        // Settings are not stored: without them nothing of a partition is ever deleted.
        shard.partitions().iter().for_each(|log| log.configure(LogConfig::default()));
        serve(shard, first)
    })?;
    Ok(engine.wait()?)
}
