//! Sockets: sends inline until the socket is full, receives ahead through the core's ring.

use super::file::File;
use super::op::{Events, Key};
use super::pump::yield_now;
use super::ring::Ring;
use crate::io as seam;
use bytes::Bytes;
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendFlags, Shutdown, SocketAddrAny, SocketFlags, SocketType, acceptfrom_with,
    bind, getsockname, listen, send, shutdown, socket_with, sockopt,
};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Bytes received ahead on a connection before its receive is cancelled: four whole buffers.
pub(super) const AHEAD_BYTES: usize = 256 * 1024;

/// What a chunk counts at least, for what it costs beside its bytes.
const CHUNK_BYTES_MIN: usize = 1024;

/// Bytes that one call sends at most, and after which other tasks have their turn: some 50 us.
const SEND_BYTES: usize = 512 * 1024;

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket of one core.
pub struct Listener {
    ring: Rc<Ring>,
    fd: Arc<OwnedFd>,
}

impl Listener {
    pub(super) fn new(ring: Rc<Ring>, at: SocketAddr) -> io::Result<Self> {
        let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, None)?;
        // A restart must not wait until the old connections' TIME_WAIT is over.
        sockopt::set_socket_reuseaddr(&fd, true)?;
        // Accepted sockets inherit it.
        sockopt::set_tcp_nodelay(&fd, true)?;
        bind(&fd, &at)?;
        listen(&fd, BACKLOG)?;
        Ok(Self { ring, fd: Arc::new(fd) })
    }
}

impl seam::Listener for Listener {
    type Conn = Conn;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        address(getsockname(&self.fd)?)
    }

    async fn accept(&self) -> io::Result<Conn> {
        loop {
            match acceptfrom_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((fd, Some(peer))) => {
                    let inbox = Rc::new(Inbox::new(Arc::new(fd)));
                    return Ok(Conn { ring: Rc::clone(&self.ring), inbox, peer: address(peer)? });
                }
                Err(Errno::AGAIN) => {
                    self.ring.poll(&self.fd, Events::Readable).await?;
                }
                // The connection was gone before it was accepted: accept(2), "Error handling".
                Ok((_, None)) | Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn address(any: SocketAddrAny) -> io::Result<SocketAddr> {
    SocketAddr::try_from(any).map_err(io::Error::from)
}

/// A connection of one core. Dropped, it is closed in both directions.
pub struct Conn {
    ring: Rc<Ring>,
    inbox: Rc<Inbox>,
    peer: SocketAddr,
}

impl Conn {
    pub(super) fn fd(&self) -> &Arc<OwnedFd> {
        &self.inbox.fd
    }

    /// What the bytes received ahead count.
    #[cfg(test)]
    pub(super) fn ahead(&self) -> usize {
        self.inbox.state.borrow().ahead
    }

    /// What follows a call that sent `sent` bytes, with more to send if `more`: nothing, another
    /// call after other tasks had their turn, or another when the socket has room again.
    async fn sent(&self, sent: Result<usize, Errno>, more: bool) -> io::Result<usize> {
        match sent {
            Ok(sent) => {
                if more {
                    yield_now().await;
                }
                Ok(sent)
            }
            Err(Errno::INTR) => Ok(0),
            Err(Errno::AGAIN) => {
                self.ring.poll(self.fd(), Events::Writable).await?;
                Ok(0)
            }
            Err(e) => Err(e.into()),
        }
    }
}

impl seam::Conn for Conn {
    type File = File;

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    async fn recv(&self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.inbox.poll_next(&self.ring, cx)).await
    }

    async fn send(&self, bytes: &[u8], more: bool) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = rest.get(..SEND_BYTES).unwrap_or(rest);
            let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            flags.set(SendFlags::MORE, more || piece.len() < rest.len());
            let sent = send(self.fd(), piece, flags);
            let whole = sent == Ok(piece.len());
            let sent = self.sent(sent, whole && piece.len() < rest.len()).await?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    async fn send_file(&self, file: &File, at: u64, len: usize) -> io::Result<()> {
        let mut from = at;
        let mut rest = len;
        while rest > 0 {
            let piece = rest.min(SEND_BYTES);
            let sent = sendfile(self.fd(), file, Some(&mut from), piece);
            if sent == Ok(0) {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the file ends at {from}, {rest} bytes before the end of the range"),
                ));
            }
            let whole = sent == Ok(piece);
            rest -= self.sent(sent, whole && piece < rest).await?.min(rest);
        }
        Ok(())
    }

    fn close(&self) {
        self.inbox.close();
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // Ends the receive and the polls that still own the descriptor, and so closes it.
        self.inbox.close();
    }
}

/// What was received ahead on one connection.
///
/// ```text
///         recv(), room       limit reached
///   Idle ─────────────▶ Receiving ──────────▶ Idle         a kernel that limits a receive
///                           └──────▶ Stopping ──▶ Idle     any other: cancelled, and too late
/// ```
pub(super) struct Inbox {
    fd: Arc<OwnedFd>,
    state: RefCell<Received>,
}

struct Received {
    chunks: VecDeque<Bytes>,
    /// What the chunks count together.
    ahead: usize,
    receive: Receive,
    end: Option<End>,
    /// Who waits for a chunk.
    reader: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Receive {
    Idle,
    Receiving(Key),
    Stopping,
}

/// Why nothing more comes.
enum End {
    /// The peer, or `close`.
    Closed,
    /// The error, told once; then as closed.
    Failed(Errno),
}

fn weight(chunk: &Bytes) -> usize {
    chunk.len().max(CHUNK_BYTES_MIN)
}

impl Inbox {
    fn new(fd: Arc<OwnedFd>) -> Self {
        Self {
            fd,
            state: RefCell::new(Received {
                chunks: VecDeque::new(),
                ahead: 0,
                receive: Receive::Idle,
                end: None,
                reader: None,
            }),
        }
    }

    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    fn poll_next(
        self: &Rc<Self>,
        ring: &Ring,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        let mut state = self.state.borrow_mut();
        if let Some(chunk) = state.chunks.pop_front() {
            state.ahead -= weight(&chunk);
            self.start(&mut state, ring);
            return Poll::Ready(Ok(Some(chunk)));
        }
        match state.end.take() {
            Some(end) => {
                state.end = Some(End::Closed);
                Poll::Ready(match end {
                    End::Closed => Ok(None),
                    End::Failed(e) => Err(e.into()),
                })
            }
            None => {
                self.start(&mut state, ring);
                if !state.reader.as_ref().is_some_and(|r| r.will_wake(cx.waker())) {
                    state.reader = Some(cx.waker().clone());
                }
                Poll::Pending
            }
        }
    }

    /// Takes what a receive brought: bytes, none at the end of the stream, or an error. `last`:
    /// the receive is over.
    pub(super) fn received(self: &Rc<Self>, ring: &Ring, got: Result<Bytes, Errno>, last: bool) {
        let mut state = self.state.borrow_mut();
        if last {
            state.receive = Receive::Idle;
        }
        match got {
            // After `close` nobody wants it.
            _ if state.end.is_some() => {}
            Ok(chunk) if !chunk.is_empty() => {
                state.ahead += weight(&chunk);
                state.chunks.push_back(chunk);
                match state.receive {
                    Receive::Receiving(key) if state.ahead >= AHEAD_BYTES => {
                        state.receive = Receive::Stopping;
                        ring.cancel(key);
                    }
                    _ => self.start(&mut state, ring),
                }
            }
            Ok(_) => state.end = Some(End::Closed),
            // Stopped by us, interrupted, or out of buffers, in which case the ring resumes.
            Err(Errno::CANCELED | Errno::INTR | Errno::AGAIN) => {
                self.start(&mut state, ring);
            }
            Err(Errno::NOBUFS) => return,
            Err(e) => state.end = Some(End::Failed(e)),
        }
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Goes on receiving after the ring was out of buffers.
    pub(super) fn resume(self: &Rc<Self>, ring: &Ring) {
        self.start(&mut self.state.borrow_mut(), ring);
    }

    /// Begins to receive, unless it does already, there is no more, or too little room: not
    /// before half is free, since each start is an operation of the ring.
    fn start(self: &Rc<Self>, state: &mut Received, ring: &Ring) {
        let idle = matches!(state.receive, Receive::Idle);
        if idle && state.end.is_none() && state.ahead <= AHEAD_BYTES / 2 {
            match ring.receive(self, AHEAD_BYTES.saturating_sub(state.ahead)) {
                Some(key) => state.receive = Receive::Receiving(key),
                None => state.end = Some(End::Closed),
            }
        }
    }

    fn close(&self) {
        // The peer may have closed it already: then there is nothing to shut down.
        if let Err(e) = shutdown(&*self.fd, Shutdown::Both) {
            debug_assert!(e == Errno::NOTCONN, "shutdown of an open socket: {e}");
        }
        let mut state = self.state.borrow_mut();
        state.end = Some(End::Closed);
        state.ahead = 0;
        let chunks = std::mem::take(&mut state.chunks);
        let reader = state.reader.take();
        drop(state);
        drop(chunks);
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}
