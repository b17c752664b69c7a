//! A connection: whole requests in, pieces of answers out.

use super::codec::{self, Framing, Head};
use super::failure::{Failure, Result};
use kariz_engine::io::{Conn, Io};
use kariz_engine::{Instant, Shard};
use std::time::Duration;

/// How long a client may take to send a head, or a body.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
/// How long what a refused client still sends is dropped: a reset would overtake the answer.
const LINGER: Duration = Duration::from_secs(1);

/// A connection, and what it has received.
pub(super) struct Wire<I: Io> {
    pub(super) conn: I::Conn,
    shard: Shard<I>,
    input: Vec<u8>,
}

impl<I: Io> Wire<I> {
    pub(super) fn new(conn: I::Conn, shard: Shard<I>) -> Self {
        Self { conn, shard, input: Vec::new() }
    }

    /// The next request, without its body.
    pub(super) async fn head(&mut self) -> Result<Head> {
        let until = self.deadline();
        loop {
            match codec::take_head(&mut self.input)? {
                Some(head) => return Ok(head),
                None => self.receive(until).await?,
            }
        }
    }

    /// The body that belongs to `head`.
    pub(super) async fn body(&mut self, head: &Head) -> Result<Vec<u8>> {
        if head.expects {
            self.conn.send(b"HTTP/1.1 100 Continue\r\n\r\n", false).await?;
        }
        let (until, mut body) = (self.deadline(), Vec::new());
        loop {
            match head.body {
                Framing::Bytes(bytes) if self.input.len() >= bytes => {
                    let rest = self.input.split_off(bytes);
                    return Ok(std::mem::replace(&mut self.input, rest));
                }
                Framing::Chunked if codec::unchunk(&mut self.input, &mut body)? => return Ok(body),
                _ => self.receive(until).await?,
            }
        }
    }

    fn deadline(&self) -> Instant {
        self.shard.io().now().plus(REQUEST_TIME_MAX)
    }

    /// Takes what the client sends next.
    async fn receive(&mut self, until: Instant) -> Result<()> {
        self.shard.room().await;
        let chunk = tokio::select! {
            biased;
            () = self.shard.stopping() => None,
            chunk = self.conn.recv() => chunk?,
            () = self.shard.io().sleep_until(until) => None,
        };
        self.input.extend(chunk.ok_or(Failure::Gone)?);
        Ok(())
    }

    /// Drops what the client sends until it has gone, or the engine stops.
    pub(super) async fn gone(&self) {
        tokio::select! {
            biased;
            () = async { while let Ok(Some(_)) = self.conn.recv().await {} } => {}
            () = self.shard.stopping() => {}
        }
    }

    pub(super) async fn send(&self, text: &str, more: bool) -> Result<()> {
        Ok(self.conn.send(text.as_bytes(), more).await?)
    }

    /// Sends `lines` as a chunk; one of none would end the answer.
    pub(super) async fn send_chunk(&self, lines: &str) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        self.send(&format!("{:x}\r\n{lines}\r\n", lines.len()), false).await
    }

    /// Sends the last answer.
    pub(super) async fn end(self, answer: &str) -> Result<()> {
        self.send(answer, false).await?;
        tokio::select! {
            biased;
            () = self.gone() => {}
            () = self.shard.io().sleep(LINGER) => {}
        }
        Ok(())
    }
}
