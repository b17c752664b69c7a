//! The two arms, and how to be the peer of each.

use kariz_engine::io::sim::{Sim, SimConn};
use kariz_engine::io::uring::Uring;
use kariz_engine::io::{Conn, Io};
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// The peer of an accepted connection.
pub(crate) trait Peer: 'static {
    /// Sends all of `bytes`.
    fn send(&mut self, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>>;
    /// Receives some bytes, or none at the end.
    fn recv(&mut self) -> impl Future<Output = io::Result<Vec<u8>>>;
    /// Closes both directions.
    fn close(self);
}

/// An [`Io`], and how to be its peer.
pub(crate) trait Arm: Clone + 'static {
    type Io: Io;
    type Peer: Peer;
    fn io(&self) -> &Self::Io;
    /// An empty directory of this run's own.
    fn dir(&self) -> PathBuf;
    fn dial(&self, to: SocketAddr) -> impl Future<Output = io::Result<Self::Peer>> + 'static;
}

// The simulation.

#[derive(Clone)]
pub(crate) struct Simulated(pub(crate) Sim);

impl Arm for Simulated {
    type Io = Sim;
    type Peer = SimConn;

    fn io(&self) -> &Sim {
        &self.0
    }

    fn dir(&self) -> PathBuf {
        let dir = PathBuf::from("/data");
        self.0.create_dir(&dir).unwrap();
        dir
    }

    fn dial(&self, to: SocketAddr) -> impl Future<Output = io::Result<SimConn>> + 'static {
        self.0.connect(to)
    }
}

impl Peer for SimConn {
    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        Conn::send(self, &bytes, false).await
    }

    async fn recv(&mut self) -> io::Result<Vec<u8>> {
        Ok(Conn::recv(self).await?.map_or_else(Vec::new, Vec::from))
    }

    fn close(self) {
        Conn::close(&self);
    }
}

// The kernel.

#[derive(Clone)]
pub(crate) struct Real {
    pub(crate) io: Uring,
    pub(crate) dir: Rc<TempDir>,
}

pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("kariz-conform-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// A plain socket. Each call blocks, so each runs on a thread of its own.
pub(crate) struct Socket(TcpStream);

/// Runs `call` on another thread; the core goes on meanwhile.
pub(crate) async fn beside<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    thread::spawn(move || done.send(call()).map_err(drop).unwrap());
    result.await.unwrap()
}

impl Arm for Real {
    type Io = Uring;
    type Peer = Socket;

    fn io(&self) -> &Uring {
        &self.io
    }

    fn dir(&self) -> PathBuf {
        self.dir.0.clone()
    }

    fn dial(&self, to: SocketAddr) -> impl Future<Output = io::Result<Socket>> + 'static {
        beside(move || TcpStream::connect(to).map(Socket))
    }
}

impl Peer for Socket {
    async fn send(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        let mut socket = self.0.try_clone()?;
        beside(move || socket.write_all(&bytes)).await
    }

    async fn recv(&mut self) -> io::Result<Vec<u8>> {
        let mut socket = self.0.try_clone()?;
        beside(move || {
            let mut bytes = vec![0; 64 * 1024];
            let n = socket.read(&mut bytes)?;
            bytes.truncate(n);
            Ok(bytes)
        })
        .await
    }

    fn close(self) {
        // It may be closed already, from the other side.
        let _closed = self.0.shutdown(Shutdown::Both);
    }
}
