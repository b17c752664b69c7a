//! The network: a connection is two pipes, a pipe is bytes on their way.
//!
//! ```text
//!   send -> | piece, arrives at t3 | piece, t2 | piece, t1 | -> recv
//!           '------------ at most socket_bytes ------------'
//! ```
//!
//! Pieces are cut and joined at random, so that a receiver sees every split of the stream.
//! A full pipe makes the sender wait; what is received makes room.

use super::clock::Alarm;
use super::machine::Machine;
use super::rng::Rng;
use bytes::{Bytes, BytesMut};
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::Waker;
use std::time::Duration;

/// Connections that wait to be accepted, at most. Source: Linux' `SOMAXCONN`.
const BACKLOG_MAX: usize = 4096;

/// The first port for those who do not care which. Source: IANA's dynamic range.
const FIRST_FREE_PORT: u16 = 49_152;

/// Pieces into which one write to a pipe is cut, at most.
const PIECES_MAX: u64 = 4;

#[derive(Debug)]
struct Piece {
    arrives: Duration,
    bytes: Bytes,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    pieces: VecDeque<Piece>,
    held: usize,
    /// When the last piece arrives; none arrives before an earlier one.
    last: Duration,
    /// The sender has closed: when the receiver hears of it, and whether as a reset.
    ended: Option<(Duration, bool)>,
    /// The receiver has closed and takes nothing more: when the sender hears of it.
    deaf: Option<Duration>,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// Ends of the connection that are not dropped.
    ends: u8,
}

/// One end of a connection: the pipes that it reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) rx: u64,
    pub(super) tx: u64,
}

/// What waits at a listener.
#[derive(Debug)]
struct Backlog {
    number: u64,
    waiting: VecDeque<(SocketAddr, End)>,
    accepter: Option<Waker>,
    dialler: VecDeque<Waker>,
}

/// All sockets of the machine.
#[derive(Debug, Default)]
pub(super) struct Net {
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    listeners: BTreeMap<SocketAddr, Backlog>,
    next_listener: u64,
    next_port: u16,
}

/// What a try to send or receive found.
pub(super) enum Try<T> {
    Done(T),
    /// The waker is kept, and called when it is worth trying again.
    Wait,
}

impl Net {
    /// Listens on `at`, or on a free port of it: the address, and the listener's number.
    pub(super) fn listen(&mut self, at: SocketAddr) -> io::Result<(SocketAddr, u64)> {
        let mut at = at;
        if at.port() == 0 {
            at.set_port(self.free_port());
        }
        if self.listeners.contains_key(&at) {
            return Err(Errno::ADDRINUSE.into());
        }
        self.next_listener += 1;
        let number = self.next_listener;
        let backlog =
            Backlog { number, waiting: VecDeque::new(), accepter: None, dialler: VecDeque::new() };
        self.listeners.insert(at, backlog);
        Ok((at, number))
    }

    fn free_port(&mut self) -> u16 {
        loop {
            let port = FIRST_FREE_PORT + self.next_port;
            self.next_port = (self.next_port + 1) % (u16::MAX - FIRST_FREE_PORT);
            if self.listeners.keys().all(|at| at.port() != port) {
                return port;
            }
        }
    }

    /// Ends listener `number` on `at`; connections that wait there are reset.
    pub(super) fn unlisten(&mut self, at: SocketAddr, number: u64) -> Vec<Waker> {
        if self.listeners.get(&at).is_none_or(|backlog| backlog.number != number) {
            return Vec::new();
        }
        let Some(mut backlog) = self.listeners.remove(&at) else { return Vec::new() };
        let mut woken: Vec<Waker> = backlog.dialler.drain(..).collect();
        for (_, end) in backlog.waiting {
            woken.extend(self.reset(end));
            self.drop_end(end);
        }
        woken
    }

    /// Connects to whoever listens on `to`.
    pub(super) fn connect(
        &mut self,
        to: SocketAddr,
        waker: &Waker,
    ) -> io::Result<(Try<End>, Option<Waker>)> {
        if !self.listeners.contains_key(&to) {
            return Err(Errno::CONNREFUSED.into());
        }
        let port = self.free_port();
        let (up, down) = (self.add_pipe(), self.add_pipe());
        let Some(backlog) = self.listeners.get_mut(&to) else {
            return Err(Errno::CONNREFUSED.into());
        };
        if backlog.waiting.len() >= BACKLOG_MAX {
            backlog.dialler.push_back(waker.clone());
            self.pipes.remove(&up);
            self.pipes.remove(&down);
            return Ok((Try::Wait, None));
        }
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        backlog.waiting.push_back((from, End { rx: up, tx: down }));
        Ok((Try::Done(End { rx: down, tx: up }), backlog.accepter.take()))
    }

    fn add_pipe(&mut self) -> u64 {
        self.next_pipe += 1;
        self.pipes.insert(self.next_pipe, Pipe { ends: 2, ..Pipe::default() });
        self.next_pipe
    }

    /// The next connection at `at`.
    pub(super) fn accept(
        &mut self,
        at: SocketAddr,
        waker: &Waker,
    ) -> (Try<(SocketAddr, End)>, Option<Waker>) {
        let Some(backlog) = self.listeners.get_mut(&at) else { return (Try::Wait, None) };
        match backlog.waiting.pop_front() {
            Some(waiting) => (Try::Done(waiting), backlog.dialler.pop_front()),
            None => {
                backlog.accepter = Some(waker.clone());
                (Try::Wait, None)
            }
        }
    }

    /// An alarm has rung for `pipe`: who reads from it.
    pub(super) fn arrived(&mut self, pipe: u64) -> Option<Waker> {
        self.pipes.get_mut(&pipe)?.reader.take()
    }

    /// Cuts a connection in both directions, as an `RST` does.
    pub(super) fn reset(&mut self, end: End) -> Vec<Waker> {
        let mut woken = Vec::new();
        for pipe in [end.rx, end.tx] {
            if let Some(pipe) = self.pipes.get_mut(&pipe) {
                pipe.reset = true;
                pipe.pieces.clear();
                pipe.held = 0;
                woken.extend(pipe.reader.take());
                woken.extend(pipe.writer.take());
            }
        }
        woken
    }

    /// One end of a connection is dropped.
    pub(super) fn drop_end(&mut self, end: End) {
        for number in [end.rx, end.tx] {
            if let Some(pipe) = self.pipes.get_mut(&number) {
                pipe.ends -= 1;
                if pipe.ends == 0 {
                    self.pipes.remove(&number);
                }
            }
        }
    }

    /// Pipes of connections that somebody still holds.
    #[cfg(test)]
    pub(super) fn open_pipes(&self) -> usize {
        self.pipes.len()
    }
}

impl Machine {
    /// Closes `end` in both directions: whom that wakes.
    pub(super) fn close(&mut self, end: End) -> Vec<Waker> {
        let mut woken = Vec::new();
        let arrives = self.clock.now() + self.rng.duration(&self.faults.net_latency);
        // Linux answers bytes that nobody will read with a reset instead of an end.
        let unread = self.net.pipes.get(&end.rx).is_some_and(|pipe| !pipe.pieces.is_empty());
        if let Some(pipe) = self.net.pipes.get_mut(&end.tx)
            && pipe.ended.is_none()
        {
            let arrives = arrives.max(pipe.last);
            pipe.ended = Some((arrives, unread && self.rng.coin()));
            woken.extend(pipe.writer.take());
            self.clock.set(arrives, Alarm::Pipe(end.tx));
        }
        if let Some(pipe) = self.net.pipes.get_mut(&end.rx) {
            pipe.deaf.get_or_insert(arrives);
            pipe.pieces.clear();
            pipe.held = 0;
            woken.extend(pipe.reader.take());
            woken.extend(pipe.writer.take());
        }
        woken
    }

    /// Room at `end` for bytes to send: waits while there is none.
    pub(super) fn room(&mut self, end: End, waker: &Waker) -> io::Result<Try<usize>> {
        let Some(pipe) = self.net.pipes.get_mut(&end.tx) else {
            return Err(Errno::NOTCONN.into());
        };
        if pipe.reset {
            return Err(Errno::CONNRESET.into());
        }
        if pipe.ended.is_some() || pipe.deaf.is_some_and(|at| at <= self.clock.now()) {
            return Err(Errno::PIPE.into());
        }
        let room = self.faults.socket_bytes.max(1).saturating_sub(pipe.held);
        if room == 0 {
            pipe.writer = Some(waker.clone());
            return Ok(Try::Wait);
        }
        Ok(Try::Done(room))
    }

    /// Sends `bytes`, for which there is room, in pieces.
    pub(super) fn push(&mut self, end: End, mut bytes: Bytes) {
        let pieces = if self.rng.coin() { 1 } else { 1 + self.rng.below(PIECES_MAX) };
        let Some(pipe) = self.net.pipes.get_mut(&end.tx) else { return };
        if pipe.deaf.is_some() {
            return; // Sent before the news of the peer's end arrived: lost.
        }
        pipe.held += bytes.len();
        for piece in 1..=pieces {
            let n = if piece == pieces { bytes.len() } else { self.rng.index(bytes.len() + 1) };
            let bytes = bytes.split_to(n);
            if bytes.is_empty() {
                continue;
            }
            let on_its_way = self.rng.duration(&self.faults.net_latency);
            let arrives = (self.clock.now() + on_its_way).max(pipe.last);
            pipe.last = arrives;
            pipe.pieces.push_back(Piece { arrives, bytes });
            self.clock.set(arrives, Alarm::Pipe(end.tx));
        }
    }

    /// Receives what has arrived, some of it, and whom the room that it leaves wakes.
    pub(super) fn take(
        &mut self,
        end: End,
        waker: &Waker,
    ) -> io::Result<(Try<Option<Bytes>>, Option<Waker>)> {
        let now = self.clock.now();
        let Some(pipe) = self.net.pipes.get_mut(&end.rx) else {
            return Ok((Try::Done(None), None));
        };
        if pipe.deaf.is_some() {
            return Ok((Try::Done(None), None));
        }
        if pipe.reset {
            return Err(Errno::CONNRESET.into());
        }
        if pipe.pieces.front().is_some_and(|piece| piece.arrives <= now) {
            let bytes = pipe.deliver(now, &mut self.rng);
            pipe.held -= bytes.len();
            return Ok((Try::Done(Some(bytes)), pipe.writer.take()));
        }
        if let (true, Some((at, as_reset))) = (pipe.pieces.is_empty(), pipe.ended)
            && at <= now
        {
            let ended = if as_reset { Err(Errno::CONNRESET.into()) } else { Ok(Try::Done(None)) };
            return ended.map(|ended| (ended, None));
        }
        pipe.reader = Some(waker.clone());
        Ok((Try::Wait, None))
    }
}

impl Pipe {
    /// Takes a piece that has arrived: a part of it, all, or all and what has arrived behind it.
    fn deliver(&mut self, now: Duration, rng: &mut Rng) -> Bytes {
        let Some(mut first) = self.pieces.pop_front() else { return Bytes::new() };
        match rng.below(4) {
            0 if first.bytes.len() > 1 => {
                let n = 1 + rng.index(first.bytes.len() - 1);
                let part = first.bytes.split_to(n);
                self.pieces.push_front(first);
                part
            }
            1 => {
                let mut joined = BytesMut::from(first.bytes);
                while let Some(next) = self.pieces.pop_front_if(|next| next.arrives <= now) {
                    joined.extend_from_slice(&next.bytes);
                }
                joined.freeze()
            }
            _ => first.bytes,
        }
    }
}
