//! The simulated machine: disk, network, clock and tasks, all decided by one seed.
//!
//! A [`World`] is a machine with a disk. [`World::boot`] starts a process on it, whose [`Sim`] is
//! its [`Io`]; [`World::crash`] cuts the power, [`World::kill`] ends the process only. What the
//! disk has kept, the next boot finds.
//!
//! ```
//! use kariz_engine::io::sim::{Faults, World};
//! use kariz_engine::io::{File, Io, OpenMode};
//! use std::io::IoSlice;
//! use std::path::Path;
//!
//! let mut world = World::new(42, Faults::none());
//! let booted = world.boot(|io| async move {
//!     io.create_dir(Path::new("/data"))?;
//!     let file = io.open(Path::new("/data/log"), OpenMode::Create)?;
//!     file.write_at(&[IoSlice::new(b"kept")], 0)?;
//!     file.sync().await?;
//!     file.write_at(&[IoSlice::new(b", perhaps")], 4)?;
//!     io.sync_dir(Path::new("/data")).await?;
//!     io.sync_dir(Path::new("/")).await
//! });
//! booted.done()?;
//! world.crash();
//! assert!(world.disk().read("/data/log")?.starts_with(b"kept"));
//! # std::io::Result::Ok(())
//! ```
//!
//! What the disk may do to bytes and names is told in `content.rs` and `volume.rs`; what else goes
//! wrong, in [`Faults`]. What it does not model: pages that are read slowly, two processes at
//! once, and machines that talk to each other.
//!
//! **Invariant:** one seed, one program: one history, byte for byte ([`World::history_hash`]).

mod clock;
mod conn;
mod content;
mod disk;
mod executor;
mod faults;
mod file;
mod history;
mod machine;
mod net;
mod rng;
mod volume;
mod world;

#[cfg(test)]
mod tests;

pub use conn::{SimConn, SimListener};
pub use disk::Disk;
pub use faults::{Fault, Faults, OpKind, Rule};
pub use file::SimFile;
pub use history::Event;
pub use machine::End;
pub use world::{Outcome, World};

use super::{Entry, Io, OpenMode};
use crate::types::{Instant, Timestamp};
use clock::{Sleep, Synced};
use executor::Tasks;
use machine::{Machine, Op, Shared};
use rustix::io::Errno;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A length as the seam counts it.
fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A position as an index; beyond the address space there is nothing anyway.
fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// The [`Io`] of a process on a simulated machine.
#[derive(Clone)]
pub struct Sim {
    shared: Shared,
    boot: u64,
    tasks: Rc<Tasks>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sim(boot {})", self.boot)
    }
}

impl Sim {
    /// Later. Dials `to`: the client's side of a connection.
    ///
    /// # Errors
    /// `ConnectionRefused` if nobody listens there.
    pub fn connect(&self, to: SocketAddr) -> impl Future<Output = io::Result<SimConn>> + 'static {
        SimConn::connect(self.shared.clone(), self.boot, to)
    }

    /// Inline. The machine's disk, seen from outside.
    #[must_use]
    pub fn disk(&self) -> Disk {
        Disk(self.shared.clone())
    }

    /// Inline. Replaces what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Runs an inline operation on names.
    fn inline<T>(
        &self,
        kind: OpKind,
        path: &Path,
        act: impl FnOnce(&mut Machine) -> io::Result<T>,
        done: impl FnOnce(&T) -> (u64, u64),
    ) -> io::Result<T> {
        let path: Arc<str> = Arc::from(path.to_string_lossy());
        let (mut machine, fault) = self.shared.begin(self.boot, kind, &path)?;
        let result = match fault.and_then(Fault::error) {
            Some(error) => Err(error),
            None => act(&mut machine),
        };
        machine.note(&Op { kind, path: &path, offset: 0, len: 0 }, &result, done);
        result
    }
}

impl Io for Sim {
    type File = SimFile;
    type Listener = SimListener;
    type Conn = SimConn;

    fn now(&self) -> Instant {
        Instant(self.shared.lock().clock.uptime())
    }

    fn timestamp(&self) -> Timestamp {
        Timestamp(self.shared.lock().clock.wall_ms())
    }

    fn random(&self) -> u64 {
        self.shared.lock().app_rng.next()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static {
        let at = self.shared.lock().clock.at_uptime(at.0);
        Sleep::new(self.shared.clone(), self.boot, at)
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn(task);
    }

    fn open(&self, path: &Path, how: OpenMode) -> io::Result<SimFile> {
        let open = |machine: &mut Machine| {
            let Machine { disk, faults, rng, .. } = machine;
            disk.open(path, how == OpenMode::Create, || rng.chance(faults.writeback))
        };
        let inode = self.inline(OpKind::Open, path, open, |inode| (*inode, 0))?;
        let name = Arc::from(path.to_string_lossy());
        Ok(SimFile::new(self.shared.clone(), self.boot, inode, how, name))
    }

    fn create(
        &self,
        path: &Path,
        allocate: u64,
    ) -> impl Future<Output = io::Result<SimFile>> + 'static {
        let at = {
            let mut machine = self.shared.lock();
            let Machine { clock, faults, rng, .. } = &mut *machine;
            clock.now() + rng.duration(&faults.disk_latency)
        };
        let (io, path) = (self.clone(), path.to_owned());
        async move {
            Sleep::new(io.shared.clone(), io.boot, at).await;
            let file = match io.open(&path, OpenMode::Write) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    io.open(&path, OpenMode::Create)?
                }
                opened => opened?,
            };
            if allocate > 0 {
                super::File::preallocate(&file, 0, allocate)?;
            }
            Ok(file)
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let list = |machine: &mut Machine| machine.disk.list(dir);
        self.inline(OpKind::List, dir, list, |entries| (to_u64(entries.len()), 0))
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let create = |machine: &mut Machine| machine.disk.create_dir(dir);
        self.inline(OpKind::CreateDir, dir, create, |()| (0, 0))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |machine: &mut Machine| machine.disk.rename(from, to);
        let target = || history::digest([to.as_os_str().as_encoded_bytes()]);
        self.inline(OpKind::Rename, from, rename, |()| (0, target()))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let remove = |machine: &mut Machine| machine.disk.remove_file(path);
        self.inline(OpKind::RemoveFile, path, remove, |()| (0, 0))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let remove = |machine: &mut Machine| machine.disk.remove_dir(dir);
        self.inline(OpKind::RemoveDir, dir, remove, |()| (0, 0))
    }

    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let path: Arc<str> = Arc::from(dir.to_string_lossy());
        // Begun by the call and ended by the disk, as a file's sync.
        let begun = self.shared.begin(self.boot, OpKind::SyncDir, &path).and_then(
            |(mut machine, fault)| {
                let fails = fault.and_then(Fault::error);
                let found = match fault {
                    // It was not opened.
                    Some(Fault::Descriptors) => Err(Errno::MFILE.into()),
                    _ => machine.disk.lookup_dir(dir),
                };
                let op = Op { kind: OpKind::SyncDir, path: &path, offset: 0, len: 0 };
                machine.note(&op, &found, |inode| (*inode, 0));
                let (dir, until) = (found?, machine.disk.now());
                let at = machine.begin_sync(Synced::Dir { dir, until }, fails.is_some());
                Ok((Sleep::new(self.shared.clone(), self.boot, at), fails, until))
            },
        );
        let (shared, boot) = (self.shared.clone(), self.boot);
        async move {
            let (ended, fails, until) = begun?;
            ended.await;
            let mut machine = shared.begin(boot, OpKind::Synced, &path)?.0;
            let result = fails.map_or(Ok(()), Err);
            let op = Op { kind: OpKind::Synced, path: &path, offset: 0, len: 0 };
            machine.note(&op, &result, |()| (until, 0));
            result
        }
    }

    fn listen(&self, at: SocketAddr) -> io::Result<SimListener> {
        SimListener::bind(self.shared.clone(), self.boot, at)
    }
}
