//! Listeners and connections as tasks hold them.

use super::clock::Sleep;
use super::faults::{Fault, OpKind};
use super::file::SimFile;
use super::history::digest;
use super::machine::{Machine, Op, Shared};
use super::net::{End, Try};
use super::to_u64;
use crate::io::{Conn, Listener};
use bytes::Bytes;
use rustix::io::Errno;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Wakes, after the machine's lock has been given back.
fn wake(woken: impl IntoIterator<Item = Waker>) {
    woken.into_iter().for_each(Waker::wake);
}

/// A listener of a simulated network.
#[derive(Debug)]
pub struct SimListener {
    shared: Shared,
    boot: u64,
    at: SocketAddr,
    number: u64,
    name: Arc<str>,
}

impl SimListener {
    pub(super) fn bind(shared: Shared, boot: u64, at: SocketAddr) -> io::Result<Self> {
        let name: Arc<str> = Arc::from(at.to_string());
        let bound = {
            let (mut machine, fault) = shared.begin(boot, OpKind::Listen, &name)?;
            let result = match fault.and_then(Fault::error) {
                Some(error) => Err(error),
                None => machine.net.listen(at),
            };
            let op = Op { kind: OpKind::Listen, path: &name, offset: 0, len: 0 };
            machine.note(&op, &result, |(at, _)| (u64::from(at.port()), 0));
            result
        };
        let (at, number) = bound?;
        Ok(Self { shared, boot, at, number, name: Arc::from(at.to_string()) })
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<SimConn>> {
        let mut machine = self.shared.lock();
        if machine.boot != self.boot {
            return Poll::Ready(Err(Errno::IO.into()));
        }
        let (tried, woken) = machine.net.accept(self.at, cx.waker());
        let accepted = match tried {
            Try::Wait => None,
            Try::Done((peer, end)) => {
                let op = Op { kind: OpKind::Accept, path: &self.name, offset: 0, len: 0 };
                machine.note(&op, &Ok(()), |()| (u64::from(peer.port()), 0));
                Some((peer, end))
            }
        };
        drop(machine);
        wake(woken);
        let Some((peer, end)) = accepted else { return Poll::Pending };
        Poll::Ready(Ok(SimConn::new(self.shared.clone(), self.boot, peer, end)))
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let woken = {
            let mut machine = self.shared.lock();
            if machine.boot != self.boot {
                return;
            }
            machine.net.unlisten(self.at, self.number)
        };
        wake(woken);
    }
}

impl Listener for SimListener {
    type Conn = SimConn;

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.at)
    }

    async fn accept(&self) -> io::Result<SimConn> {
        let fault = self.shared.begin(self.boot, OpKind::Accept, &self.name)?.1;
        if let Some(error) = fault.and_then(Fault::error) {
            return Err(error);
        }
        poll_fn(|cx| self.poll_accept(cx)).await
    }
}

/// A connection of a simulated network, either end.
#[derive(Debug)]
pub struct SimConn {
    shared: Shared,
    boot: u64,
    peer: SocketAddr,
    end: End,
    name: Arc<str>,
}

impl SimConn {
    fn new(shared: Shared, boot: u64, peer: SocketAddr, end: End) -> Self {
        Self { shared, boot, peer, end, name: Arc::from(peer.to_string()) }
    }

    /// Dials `to`.
    pub(super) async fn connect(shared: Shared, boot: u64, to: SocketAddr) -> io::Result<Self> {
        let name: Arc<str> = Arc::from(to.to_string());
        let latency = {
            let (mut guard, fault) = shared.begin(boot, OpKind::Connect, &name)?;
            let machine = &mut *guard;
            if let Some(error) = fault.and_then(Fault::error) {
                return Err(error);
            }
            let on_its_way = machine.rng.duration(&machine.faults.net_latency);
            Sleep::new(shared.clone(), boot, machine.clock.now() + on_its_way)
        };
        latency.await;
        poll_fn(|cx| {
            let mut machine = shared.lock();
            if machine.boot != boot {
                return Poll::Ready(Err(Errno::IO.into()));
            }
            let tried = machine.net.connect(to, cx.waker());
            let op = Op { kind: OpKind::Connect, path: &name, offset: 0, len: 0 };
            let (tried, woken) = match tried {
                Ok(tried) => tried,
                Err(error) => {
                    let result = Err(error);
                    machine.note(&op, &result, |_: &Self| (0, 0));
                    return Poll::Ready(result);
                }
            };
            if let Try::Done(end) = &tried {
                machine.note(&op, &Ok(()), |()| (end.tx, 0));
            }
            drop(machine);
            wake(woken);
            match tried {
                Try::Done(end) => Poll::Ready(Ok(Self::new(shared.clone(), boot, to, end))),
                Try::Wait => Poll::Pending,
            }
        })
        .await
    }

    fn poll_recv(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let mut machine = self.shared.lock();
        if machine.boot != self.boot {
            return Poll::Ready(Err(Errno::IO.into()));
        }
        let op = Op { kind: OpKind::Recv, path: &self.name, offset: 0, len: 0 };
        let (result, woken) = match machine.take(self.end, cx.waker()) {
            Ok((Try::Wait, _)) => return Poll::Pending,
            Ok((Try::Done(received), woken)) => (Ok(received), woken),
            Err(error) => (Err(error), None),
        };
        machine.note(&op, &result, |received| {
            let bytes = received.as_deref().unwrap_or(&[]);
            (to_u64(bytes.len()), digest([bytes]))
        });
        drop(machine);
        wake(woken);
        Poll::Ready(result)
    }

    /// Sends `len` bytes, of which `part` gives any range when there is room for it.
    async fn send_all(
        &self,
        kind: OpKind,
        offset: u64,
        len: usize,
        part: impl Fn(&Machine, usize, usize) -> io::Result<Bytes>,
    ) -> io::Result<()> {
        {
            let (mut guard, fault) = self.shared.begin(self.boot, kind, &self.name)?;
            let machine = &mut *guard;
            let reset = machine.rng.chance(machine.faults.connection_reset);
            let op = Op { kind, path: &self.name, offset, len: to_u64(len) };
            let error = if reset {
                Some(io::Error::from(Errno::CONNRESET))
            } else {
                fault.and_then(Fault::error)
            };
            if let Some(error) = error {
                let woken = machine.net.reset(self.end);
                let result = Err(error);
                machine.note(&op, &result, |()| (0, 0));
                drop(guard);
                wake(woken);
                return result;
            }
        }
        let mut sent = 0;
        let result = poll_fn(|cx| {
            let mut machine = self.shared.lock();
            if machine.boot != self.boot {
                return Poll::Ready(Err(Errno::IO.into()));
            }
            while sent < len {
                match machine.room(self.end, cx.waker())? {
                    Try::Wait => return Poll::Pending,
                    Try::Done(room) => {
                        let n = room.min(len - sent);
                        let bytes = part(&machine, sent, n)?;
                        machine.push(self.end, bytes);
                        sent += n;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await;
        let mut machine = self.shared.lock();
        let op = Op { kind, path: &self.name, offset, len: to_u64(len) };
        machine.note(&op, &result, |()| (to_u64(sent), 0));
        result
    }
}

impl Drop for SimConn {
    fn drop(&mut self) {
        let woken = {
            let mut machine = self.shared.lock();
            if machine.boot != self.boot {
                return;
            }
            let woken = machine.close(self.end);
            machine.net.drop_end(self.end);
            woken
        };
        wake(woken);
    }
}

impl Conn for SimConn {
    type File = SimFile;

    fn peer(&self) -> SocketAddr {
        self.peer
    }

    async fn recv(&self) -> io::Result<Option<Bytes>> {
        let fault = self.shared.begin(self.boot, OpKind::Recv, &self.name)?.1;
        if let Some(error) = fault.and_then(Fault::error) {
            return Err(error);
        }
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    async fn send(&self, bytes: &[u8], _more: bool) -> io::Result<()> {
        let part =
            |_: &Machine, from: usize, n: usize| Ok(Bytes::copy_from_slice(&bytes[from..from + n]));
        self.send_all(OpKind::Send, 0, bytes.len(), part).await
    }

    async fn send_file(&self, file: &SimFile, at: u64, len: usize) -> io::Result<()> {
        // Each part is read when there is room for it, as `sendfile` does: not all at the start.
        let part = |machine: &Machine, from: usize, n: usize| {
            file.copy(machine, at.saturating_add(to_u64(from)), n).map(Bytes::from)
        };
        self.send_all(OpKind::SendFile, at, len, part).await
    }

    fn close(&self) {
        let woken = {
            let mut machine = self.shared.lock();
            if machine.boot != self.boot {
                return;
            }
            machine.close(self.end)
        };
        wake(woken);
    }
}
