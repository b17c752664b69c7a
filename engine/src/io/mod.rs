//! The one seam to the outside: disk, network, clock and tasks.
//!
//! Two implementations stand behind it: [`Uring`](uring::Uring) (production: one pinned thread
//! a core) and [`Sim`](sim::Sim) (a seeded simulation of all of it). The engine and the server
//! are generic over [`Io`] and run unchanged on both.
//!
//! Every operation says whether it is **inline** (done when the call returns, on this thread)
//! or completes **later** (a future; the disk or the peer decides when).
//!
//! *Architecture invariant:* nothing outside this module reads a clock, opens a file or a
//! socket, or makes a random number; and all `unsafe` code of the project is in `io/uring`.

pub mod sim;
pub(crate) mod turn;
pub mod uring;

use crate::types::{Instant, Timestamp};
use bytes::Bytes;
use rustix::io::Errno;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// Disk, network, clock and tasks of one core. A cheap handle; clones share everything.
pub trait Io: Clone + 'static {
    /// An open file.
    type File: File;
    /// A socket that accepts connections.
    type Listener: Listener<Conn = Self::Conn>;
    /// One accepted (or, in a simulation, dialled) connection.
    type Conn: Conn<File = Self::File>;

    /// Inline. Monotonic time.
    fn now(&self) -> Instant;

    /// Inline. Wall-clock time.
    fn timestamp(&self) -> Timestamp;

    /// Inline. A random number: seeded in a simulation, unpredictable in production.
    fn random(&self) -> u64;

    /// Later: once `at` has passed.
    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static;

    /// Runs `task` on this core until it ends. Ready tasks run in the order they were woken.
    fn spawn(&self, task: impl Future<Output = ()> + 'static);

    /// Inline. Opens the file at `path`.
    ///
    /// # Errors
    /// As `open(2)`.
    fn open(&self, path: &Path, how: OpenMode) -> io::Result<Self::File>;

    /// Later. Opens the file at `path` as it is, for reading and writing, or makes it; with blocks
    /// for its first `allocate` bytes, as [`File::preallocate`] gives them: a file
    /// system makes a file in its own time, and beside a busy disk that is milliseconds. Dropped
    /// before its end, it may make the file all the same.
    fn create(
        &self,
        path: &Path,
        allocate: u64,
    ) -> impl Future<Output = io::Result<Self::File>> + 'static;

    /// Inline. What is in the directory `dir`, in name order.
    ///
    /// # Errors
    /// As `readdir(3)`.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// Inline. Makes `dir` and its missing parents. Durable only after `sync_dir` of each parent.
    ///
    /// # Errors
    /// As `mkdir(2)`; a directory that exists is no error.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Inline. Renames a file or directory over `to`. Durable only after `sync_dir` of the parents.
    ///
    /// # Errors
    /// As `rename(2)`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Inline. Unlinks a file; whoever has it open can still read it.
    ///
    /// # Errors
    /// As `unlink(2)`.
    fn remove_file(&self, path: &Path) -> io::Result<()>;

    /// Inline. Removes a directory and all that is in it.
    ///
    /// # Errors
    /// As `rmdir(2)` and `unlink(2)`.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;

    /// Later. Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + 'static;

    /// Inline. Listens on `at`; port 0 takes a free one.
    ///
    /// # Errors
    /// As `bind(2)` and `listen(2)`.
    fn listen(&self, at: SocketAddr) -> io::Result<Self::Listener>;

    /// Later: once `d` has passed.
    fn sleep(&self, d: Duration) -> impl Future<Output = ()> + 'static {
        self.sleep_until(self.now().plus(d))
    }
}

/// How [`Io::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new or emptied file, for reading and writing. Its name is durable only after `sync_dir`.
    Create,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name, without its directory. Names that are no UTF-8 are left out of listings.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Whether `error` is that file descriptors have run out (`EMFILE`, `ENFILE`): nothing was opened,
/// and so nothing done; it may go better later. No sync of an open file says this.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// An open file; clones share it, and it stays readable until the last of them is dropped, even
/// when its name is gone.
#[allow(clippy::len_without_is_empty)] // a length in bytes, as fstat tells it
pub trait File: Clone + Send + 'static {
    /// Inline. Its length in bytes.
    ///
    /// # Errors
    /// As `fstat(2)`.
    fn len(&self) -> io::Result<u64>;

    /// Inline. When its content was last changed.
    ///
    /// # Errors
    /// As `fstat(2)`.
    fn modified(&self) -> io::Result<Timestamp>;

    /// Inline. Copies `slices` into the page cache at `at`; may write fewer bytes than given.
    /// Durable only after [`File::sync`].
    ///
    /// # Errors
    /// As `pwritev(2)`.
    fn write_at(&self, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize>;

    /// Inline. Reads up to `buf.len()` bytes; 0 is the end of the file. Waits for the disk if the
    /// pages are not resident: call [`File::load`] first wherever a core must not wait.
    ///
    /// # Errors
    /// As `pread(2)`.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;

    /// Inline. Cuts or extends the file to `len` bytes.
    ///
    /// # Errors
    /// As `ftruncate(2)`.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Inline. Allocates blocks for `len` bytes at `at` without changing the file's length.
    ///
    /// # Errors
    /// As `fallocate(2)` with `FALLOC_FL_KEEP_SIZE`.
    fn preallocate(&self, at: u64, len: u64) -> io::Result<()>;

    /// Later. Makes all that was written before the call durable (`fdatasync`). After an error
    /// what was not yet durable may be lost although it still reads back: never retry.
    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static;

    /// Later. Brings a range into the page cache, so that `read_at` and `send_file` need not
    /// wait; completes at once if it is resident.
    fn load(&self, at: u64, len: usize) -> impl Future<Output = io::Result<()>> + 'static;
}

/// A listening socket.
pub trait Listener: 'static {
    /// What it accepts.
    type Conn: Conn;

    /// Inline. Where it listens.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Later. The next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Conn>>;
}

/// A connection. One task may receive while another sends; each direction is one task's.
pub trait Conn: 'static {
    /// What [`Conn::send_file`] sends from.
    type File: File;

    /// The peer's address.
    fn peer(&self) -> SocketAddr;

    /// Later. The next bytes from the peer, as an owned chunk, or `None` when it has closed.
    /// Not calling it is backpressure: a bounded amount is received ahead.
    fn recv(&self) -> impl Future<Output = io::Result<Option<Bytes>>>;

    /// Later. Sends all of `bytes`. `more`: something follows at once, so a small packet may wait
    /// for it.
    fn send(&self, bytes: &[u8], more: bool) -> impl Future<Output = io::Result<()>>;

    /// Later. Sends `len` bytes of `file` from `at`. The range must be there: an error means the
    /// stream is cut, and the connection is of no more use.
    fn send_file(
        &self,
        file: &Self::File,
        at: u64,
        len: usize,
    ) -> impl Future<Output = io::Result<()>>;

    /// Inline. Ends both directions; a `recv` that waits returns `None`, a `send` an error.
    fn close(&self);
}
