//! The sending half of a connection: takes answers from the head of the queue.

use super::{Answer, Connection, Life, Slot};
use crate::handlers::fetch;
use bytes::{Bytes, BytesMut};
use kariz_engine::io::{Conn, Io};
use std::io;

/// Ready answers are gathered up to this many bytes, then sent. Source: a send of 256 KiB costs
/// about as much per byte as a larger one.
const GATHER_BYTES: usize = 256 * 1024;
/// What a send buffer may keep between two sends.
const KEEP_BYTES: usize = 64 * 1024;

/// What stands at the head of the queue.
enum Head {
    Empty,
    Waiting,
    Fetch,
    Later,
}

impl<I: Io> Connection<I> {
    /// Sends answers in the order of their requests until the connection ends.
    pub(super) async fn send_answers(&self) -> io::Result<()> {
        let mut out = BytesMut::new();
        loop {
            let head = self.gather(&mut out)?;
            if !out.is_empty() {
                // More follows at once only if a fetch stands behind what was gathered; even then
                // it may park, so nothing is held back.
                self.send(&out).await?;
                out.clear();
                if out.capacity() > KEEP_BYTES {
                    out = BytesMut::new();
                }
                continue;
            }
            if self.life.get() == Life::Closed {
                return Ok(());
            }
            match head {
                Head::Empty if self.life.get() == Life::Draining => return Ok(()),
                Head::Empty => {
                    self.writer.until(|| !self.queue.borrow().is_empty() || !self.is_open()).await;
                }
                Head::Waiting => self.wait_for_head().await,
                Head::Fetch => self.answer_fetch(&mut out).await?,
                Head::Later => self.answer_later().await?,
            }
        }
    }

    /// Encodes all answers from the head on that are ready, and says what stands there then.
    fn gather(&self, out: &mut BytesMut) -> io::Result<Head> {
        let mut now = None;
        let mut queue = self.queue.borrow_mut();
        let (mut answered, mut bytes) = (0, 0);
        let head = loop {
            let Some(slot) = queue.get_mut(answered) else { break Head::Empty };
            match &mut slot.answer {
                Answer::Fetch(_) => break Head::Fetch,
                Answer::Later(_) => break Head::Later,
                _ if out.len() >= GATHER_BYTES => break Head::Waiting,
                Answer::Ready(bytes) => out.extend_from_slice(bytes),
                Answer::Produce(pending) => {
                    let late = || *now.get_or_insert_with(|| self.core.shard.io().now());
                    if !pending.is_done(late) {
                        break Head::Waiting;
                    }
                    let encoded = pending.encode(&self.core, &self.last_produce, out);
                    encoded.map_err(io::Error::other)?;
                    if let Some(refusal) = pending.refusal(&self.core) {
                        self.refuse(&refusal);
                    }
                }
            }
            answered += 1;
            bytes += slot.bytes;
            self.answered(slot, *now.get_or_insert_with(|| self.core.shard.io().now()));
        };
        queue.drain(..answered);
        drop(queue);
        if answered > 0 {
            self.release(bytes);
            self.reader.wake();
        }
        Ok(head)
    }

    /// Counts an answered request.
    fn answered(&self, slot: &Slot<I>, now: kariz_engine::types::Instant) {
        self.core.metrics.answered(slot.api, now - slot.arrived);
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.conn.send(bytes, false).await?;
        self.active.set(self.core.tick());
        self.core.metrics.bytes_out.add(crate::num::u64_from(bytes.len()));
        Ok(())
    }

    /// Waits until the produce at the head may have got on.
    async fn wait_for_head(&self) {
        let wait = match self.queue.borrow().front() {
            Some(Slot { answer: Answer::Produce(pending), .. }) => pending.next_wait(),
            _ => None,
        };
        let Some(wait) = wait else { return };
        tokio::select! {
            biased;
            () = wait.done(self.core.shard.io()) => (),
            () = self.writer.until(|| self.life.get() == Life::Closed) => (),
        }
    }

    /// Runs the barrier at the head to its end, and sends what it found.
    async fn answer_later(&self) -> io::Result<()> {
        let Some(mut slot) = self.pop() else { return Ok(()) };
        let mut answer = Bytes::new();
        if let Answer::Later(future) = &mut slot.answer {
            tokio::select! {
                biased;
                found = future => answer = found,
                () = self.writer.until(|| self.life.get() == Life::Closed) => (),
            }
        }
        self.barrier.set(false);
        self.answered(&slot, self.core.shard.io().now());
        self.reader.wake();
        // The slot's claim is kept until it is sent.
        if answer.is_empty() { Ok(()) } else { self.send(&answer).await }
    }

    /// Reads for the fetch at the head, parks it while there is too little, and sends.
    async fn answer_fetch(&self, out: &mut BytesMut) -> io::Result<()> {
        let Some(slot) = self.pop() else { return Ok(()) };
        if let Answer::Fetch(request) = &slot.answer {
            let mut found = fetch::collect(&self.core, request).await;
            while !found.is_enough(request) && self.is_open() {
                let more = tokio::select! {
                    biased;
                    more = fetch::park(&self.core, request, &found) => more,
                    () = self.writer.until(|| !self.is_open()) => false,
                };
                if !more {
                    break;
                }
                found = fetch::collect(&self.core, request).await;
            }
            let sent = fetch::send(&self.core, &self.conn, request, &found, out).await?;
            out.clear();
            self.active.set(self.core.tick());
            self.core.metrics.bytes_out.add(sent);
        }
        self.answered(&slot, self.core.shard.io().now());
        self.reader.wake();
        Ok(())
    }
}
