//! An open file of the simulated disk.

use super::clock::{Sleep, Synced};
use super::faults::{Fault, OpKind};
use super::history::digest;
use super::machine::{Machine, Op, Shared};
use super::volume::Inode;
use super::{to_u64, to_usize};
use crate::io::{File, OpenMode};
use crate::types::Timestamp;
use rustix::io::Errno;
use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// An open file of a simulated disk. Every operation on one that was opened before the process
/// ended fails.
#[derive(Clone, Debug)]
pub struct SimFile(Arc<Handle>);

struct Handle {
    shared: Shared,
    boot: u64,
    inode: Inode,
    how: OpenMode,
    path: Arc<str>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?}, boot {})", self.path, self.how, self.boot)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut machine = self.shared.lock();
        if machine.boot == self.boot {
            machine.disk.close(self.inode);
        }
    }
}

impl SimFile {
    pub(super) fn new(
        shared: Shared,
        boot: u64,
        inode: Inode,
        how: OpenMode,
        path: Arc<str>,
    ) -> Self {
        Self(Arc::new(Handle { shared, boot, inode, how, path }))
    }

    /// Copies `len` bytes from `at` out of the page cache.
    ///
    /// # Errors
    /// `UnexpectedEof` if they are not there.
    pub(super) fn copy(&self, machine: &Machine, at: u64, len: usize) -> io::Result<Vec<u8>> {
        let now = machine.disk.content(self.0.inode)?.now();
        let from = to_usize(at);
        let range = from.checked_add(len).and_then(|end| now.get(from..end));
        range.map(<[u8]>::to_vec).ok_or_else(|| {
            let why = format!("{}: the file ends before {at}+{len}", self.0.path);
            io::Error::new(io::ErrorKind::UnexpectedEof, why)
        })
    }

    /// Runs an inline operation on the file.
    fn inline<T>(
        &self,
        kind: OpKind,
        offset: u64,
        len: u64,
        act: impl FnOnce(&mut Machine, Option<Fault>) -> io::Result<T>,
        done: impl FnOnce(&T) -> (u64, u64),
    ) -> io::Result<T> {
        let (mut machine, fault) = self.0.shared.begin(self.0.boot, kind, &self.0.path)?;
        let result = match fault.and_then(Fault::error) {
            Some(error) => Err(error),
            None => act(&mut machine, fault),
        };
        machine.note(&Op { kind, path: &self.0.path, offset, len }, &result, done);
        result
    }

    fn check_writable(&self, errno: Errno) -> io::Result<()> {
        if self.0.how == OpenMode::Read { Err(errno.into()) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn len(&self) -> io::Result<u64> {
        let machine = self.0.shared.lock();
        if machine.boot != self.0.boot || machine.stopped.is_some() {
            return Err(Errno::IO.into());
        }
        Ok(to_u64(machine.disk.content(self.0.inode)?.now().len()))
    }

    fn modified(&self) -> io::Result<Timestamp> {
        let machine = self.0.shared.lock();
        if machine.boot != self.0.boot || machine.stopped.is_some() {
            return Err(Errno::IO.into());
        }
        machine.disk.modified(self.0.inode)
    }

    fn write_at(&self, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let want: usize = slices.iter().map(|slice| slice.len()).sum();
        let write = |machine: &mut Machine, fault| {
            self.check_writable(Errno::BADF)?;
            let Machine { disk, faults, rng, clock, .. } = machine;
            let room = to_usize(faults.file_bytes_max.saturating_sub(at));
            if room == 0 && want > 0 {
                return Err(Errno::FBIG.into());
            }
            let mut n = want.min(room);
            if fault == Some(Fault::Short) && n > 1 {
                n = 1 + rng.index(n - 1);
            }
            let flushed = || rng.chance(faults.writeback);
            disk.touch(self.0.inode, clock.wall_ms());
            disk.write(self.0.inode, slices, n, at, faults.capacity_bytes, flushed)
        };
        self.inline(OpKind::Write, at, to_u64(want), write, |n| {
            (to_u64(*n), digest(slices.iter().map(|slice| &**slice)))
        })
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let len = to_u64(buf.len());
        let (mut machine, fault) = self.0.shared.begin(self.0.boot, OpKind::Read, &self.0.path)?;
        let result = match fault.and_then(Fault::error) {
            Some(error) => Err(error),
            None => machine.disk.content(self.0.inode).map(|content| {
                let rest = content.now().get(to_usize(at)..).unwrap_or(&[]);
                let n = rest.len().min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                n
            }),
        };
        let op = Op { kind: OpKind::Read, path: &self.0.path, offset: at, len };
        machine.note(&op, &result, |n| (to_u64(*n), digest([&buf[..*n]])));
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let set = |machine: &mut Machine, _| {
            self.check_writable(Errno::INVAL)?;
            let Machine { disk, faults, rng, clock, .. } = machine;
            if len > faults.file_bytes_max {
                return Err(Errno::FBIG.into());
            }
            disk.touch(self.0.inode, clock.wall_ms());
            disk.set_len(self.0.inode, len, || rng.chance(faults.writeback))
        };
        self.inline(OpKind::SetLen, 0, len, set, |()| (len, 0))
    }

    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        let allocate = |machine: &mut Machine, _| {
            self.check_writable(Errno::BADF)?;
            if len == 0 {
                return Err(Errno::INVAL.into());
            }
            let Machine { disk, faults, .. } = machine;
            if at.saturating_add(len) > faults.file_bytes_max {
                return Err(Errno::FBIG.into());
            }
            disk.preallocate(self.0.inode, at, len, faults.capacity_bytes)
        };
        self.inline(OpKind::Preallocate, at, len, allocate, |()| (len, 0))
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        // Begun by the call, not by the first poll: what is written in between is not covered.
        // The disk ends it, whether or not it is polled.
        let handle = &self.0;
        let begun = handle.shared.begin(handle.boot, OpKind::Sync, &handle.path).and_then(
            |(mut machine, fault)| {
                let fails = fault.and_then(Fault::error);
                let sync = machine.disk.begin_sync(handle.inode)?;
                let at = machine.begin_sync(Synced::File(sync), fails.is_some());
                let op = Op { kind: OpKind::Sync, path: &handle.path, offset: 0, len: 0 };
                machine.note(&op, &Ok(()), |()| (sync, 0));
                Ok((Sleep::new(handle.shared.clone(), handle.boot, at), fails, sync))
            },
        );
        let file = self.clone();
        async move {
            let (ended, fails, sync) = begun?;
            ended.await;
            let result = |_: &mut Machine, _| fails.map_or(Ok(()), Err);
            file.inline(OpKind::Synced, 0, 0, result, |()| (sync, 0))
        }
    }

    fn load(&self, at: u64, len: usize) -> impl Future<Output = io::Result<()>> + 'static {
        let handle = &self.0;
        let begun = handle.shared.begin(handle.boot, OpKind::Load, &handle.path);
        let wait = begun.map(|(mut guard, fault)| {
            let machine = &mut *guard;
            let resident = machine.rng.coin();
            let latency = machine.rng.duration(&machine.faults.disk_latency);
            let result = fault.and_then(Fault::error).map_or(Ok(()), Err);
            let op = Op { kind: OpKind::Load, path: &handle.path, offset: at, len: to_u64(len) };
            machine.note(&op, &result, |()| (u64::from(resident), 0));
            let until = machine.clock.now() + latency;
            let sleep = Sleep::new(handle.shared.clone(), handle.boot, until);
            ((!resident).then_some(sleep), result)
        });
        async move {
            let (sleep, result) = wait?;
            if let Some(sleep) = sleep {
                sleep.await;
            }
            result
        }
    }
}
