//! The disk as a test sees it: to look, and to damage.

use super::machine::Shared;
use super::to_usize;
use crate::io::Entry;
use rustix::io::Errno;
use std::io;
use std::path::Path;

/// The machine's disk, seen from outside: what is done here is no operation of the process, and
/// no part of the history. Damage is durable at once.
#[derive(Clone, Debug)]
pub struct Disk(pub(super) Shared);

impl Disk {
    /// All bytes of a file, as a process would read them.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn read(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let machine = self.0.lock();
        let inode = machine.disk.lookup_file(path.as_ref())?;
        Ok(machine.disk.content(inode)?.now().to_vec())
    }

    /// All bytes that a file would certainly have after a power cut now; of bytes written and not
    /// synced it may have more.
    ///
    /// # Errors
    /// `NotFound` also for a file whose name is not durable.
    pub fn read_durable(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        Ok(self.0.lock().disk.lookup_durable(path.as_ref())?.durable())
    }

    /// What is in a directory, in name order.
    ///
    /// # Errors
    /// `NotFound`, or `NotADirectory`.
    pub fn list(&self, dir: impl AsRef<Path>) -> io::Result<Vec<Entry>> {
        self.0.lock().disk.list(dir.as_ref())
    }

    /// Flips the bits `mask` of the byte at `at`, as rot does.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` beyond the end.
    pub fn flip(&self, path: impl AsRef<Path>, at: u64, mask: u8) -> io::Result<()> {
        self.damage(path.as_ref(), at, 1, |byte| byte ^ mask)
    }

    /// Makes `len` bytes at `at` zeros, as a lost sector reads.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` beyond the end.
    pub fn zero(&self, path: impl AsRef<Path>, at: u64, len: usize) -> io::Result<()> {
        self.damage(path.as_ref(), at, len, |_| 0)
    }

    fn damage(
        &self,
        path: &Path,
        at: u64,
        len: usize,
        change: impl Fn(u8) -> u8,
    ) -> io::Result<()> {
        let mut machine = self.0.lock();
        let inode = machine.disk.lookup_file(path)?;
        let there = machine.disk.content_mut(inode)?.damage(to_usize(at), change, len);
        if there { Ok(()) } else { Err(Errno::INVAL.into()) }
    }

    /// Cuts or extends a file.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn truncate(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        let mut machine = self.0.lock();
        let inode = machine.disk.lookup_file(path.as_ref())?;
        machine.disk.set_len(inode, len, || false)?;
        let sync = machine.disk.begin_sync(inode)?;
        machine.disk.end_sync(sync, None);
        Ok(())
    }

    /// Removes a file.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn remove(&self, path: impl AsRef<Path>) -> io::Result<()> {
        self.0.lock().disk.remove_durably(path.as_ref())
    }

    /// Evicts clean pages, as a machine short of memory does: what a failed sync lost reads as the
    /// disk has it.
    pub fn drop_caches(&self) {
        self.0.lock().disk.drop_caches();
    }

    /// Bytes of room that files take, in whole blocks.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.0.lock().disk.used_bytes()
    }

    /// Changes the room on the disk; see [`Faults::capacity_bytes`](super::Faults::capacity_bytes).
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().faults.capacity_bytes = bytes;
    }
}
