//! Files: inline through plain system calls, later through the core's ring.

use super::aside::{CLOSING, MAKING};
use super::op::{Operation, Sync};
use super::ring::Ring;
use crate::io as seam;
use crate::types::Timestamp;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

/// Slices that one `pwritev(2)` takes. Source: the kernel's UIO_MAXIOV.
const IOV_MAX: usize = 1024;

/// An open file. Sends to other cores; [`sync`](seam::File::sync) and [`load`](seam::File::load)
/// use the ring of the core they are called on.
#[derive(Clone, Debug)]
pub struct File {
    fd: Arc<OwnedFd>,
    /// Below `fd`, for fields are dropped in this order: what it closes is the last of them.
    _closer: Arc<Closer>,
}

/// From this length on the room of an unlinked file is freed on another thread: for 1 GiB the last
/// `close(2)` was measured to take half a second (ext4).
const SLOW_CLOSE_BYTES: u64 = 4 << 20;

/// Closes the file once nobody has it any more.
#[derive(Debug)]
struct Closer(Option<Arc<OwnedFd>>);

impl Drop for Closer {
    fn drop(&mut self) {
        let Some(fd) = self.0.take() else { return };
        let is_slow = rustix::fs::fstat(&fd).is_ok_and(|stat| {
            stat.st_nlink == 0 && u64::try_from(stat.st_size).is_ok_and(|n| n >= SLOW_CLOSE_BYTES)
        });
        if is_slow {
            CLOSING.run(move || drop(fd));
        }
    }
}

/// Starts the threads for what would make a core wait, on the CPUs that the caller may run on. Without
/// this each starts when it is first needed.
pub(crate) fn start_aside() {
    CLOSING.start();
    MAKING.start();
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl File {
    pub(super) fn open(path: &Path, how: seam::OpenMode) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true);
        match how {
            seam::OpenMode::Read => &mut options,
            seam::OpenMode::Write => options.write(true),
            seam::OpenMode::Create => options.write(true).create(true).truncate(true),
        };
        Ok(Self::new(options.open(path)?))
    }

    /// As [`create`](seam::Io::create). Not through the ring, which would give it to a thread too.
    pub(super) async fn create(path: &Path, allocate: u64) -> io::Result<Self> {
        let (done, made) = tokio::sync::oneshot::channel();
        let path = path.to_owned();
        // Nobody may be waiting any more.
        MAKING.run(move || drop(done.send(Self::make(&path, allocate))));
        made.await.map_err(io::Error::other)?
    }

    fn make(path: &Path, allocate: u64) -> io::Result<Self> {
        // Never emptied: the core may have made it meanwhile, and have written to it.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = Self::new(options.open(path)?);
        if allocate > 0 {
            seam::File::preallocate(&file, 0, allocate)?;
        }
        Ok(file)
    }

    /// Opens a directory, to sync it.
    pub(super) fn open_dir(path: &Path) -> io::Result<Self> {
        Ok(Self::new(std::fs::File::open(path)?))
    }

    fn new(file: std::fs::File) -> Self {
        let fd: Arc<OwnedFd> = Arc::new(file.into());
        let _closer = Arc::new(Closer(Some(Arc::clone(&fd))));
        Self { fd, _closer }
    }

    pub(super) fn start_sync(&self, what: Sync) -> io::Result<Operation> {
        Ok(Ring::current()?.sync(Arc::clone(&self.fd), what))
    }

    /// Whether all of a range that the file has is in the page cache, read and not just asked for.
    pub(super) fn is_resident(&self, at: u64, len: u64) -> bool {
        // One call counts the pages of the range, also those that are still being read: those are
        // the last of a readahead, which one byte read without waiting finds out.
        match cachestat(self.as_fd(), at, len) {
            Some(pages) => {
                let Ok(end) = seam::File::len(self).map(|end| end.min(at.saturating_add(len)))
                else {
                    return false;
                };
                let page = rustix::param::page_size() as u64;
                let expected = end.div_ceil(page).saturating_sub(at / page);
                pages >= expected && (end <= at || self.reads_at_once(end - 1))
            }
            None => false,
        }
    }

    /// Whether the byte at `at` can be read without waiting.
    fn reads_at_once(&self, at: u64) -> bool {
        let mut byte = [0];
        let slices = &mut [IoSliceMut::new(&mut byte)];
        rustix::io::preadv2(&self.fd, slices, at, ReadWriteFlags::NOWAIT).is_ok()
    }
}

impl seam::File for File {
    fn len(&self) -> io::Result<u64> {
        let size = rustix::fs::fstat(&self.fd)?.st_size;
        u64::try_from(size).map_err(io::Error::other)
    }

    fn modified(&self) -> io::Result<Timestamp> {
        let stat = rustix::fs::fstat(&self.fd)?;
        let ms = i64::try_from(stat.st_mtime_nsec / 1_000_000).unwrap_or(0);
        Ok(Timestamp(stat.st_mtime.saturating_mul(1000).saturating_add(ms)))
    }

    fn write_at(&self, slices: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
        let slices = slices.get(..IOV_MAX).unwrap_or(slices);
        Ok(retry_on_intr(|| rustix::io::pwritev(&self.fd, slices, at))?)
    }

    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        Ok(retry_on_intr(|| rustix::io::pread(&self.fd, &mut *buf, at))?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn preallocate(&self, at: u64, len: u64) -> io::Result<()> {
        let keep = FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(&self.fd, keep, at, len)) {
            // Allocating ahead is an optimisation, which not every file system has.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            done => Ok(done?),
        }
    }

    fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let started = self.start_sync(Sync::Data);
        async move { started?.await.map(drop) }
    }

    fn load(&self, at: u64, len: usize) -> impl Future<Output = io::Result<()>> + 'static {
        let file = self.clone();
        async move {
            let end = at.saturating_add(len as u64);
            if file.is_resident(at, len as u64) {
                return Ok(());
            }
            let ring = Ring::current()?;
            let mut from = at;
            while from < end {
                let read = ring.load(Arc::clone(&file.fd), from, end - from).await?;
                if read == 0 {
                    break; // the end of the file
                }
                from += u64::from(read);
            }
            Ok(())
        }
    }
}

/// How many pages of a range are in the page cache; `None` if the kernel (before Linux 6.5) or
/// the file's owner does not let us know.
fn cachestat(file: BorrowedFd<'_>, at: u64, len: u64) -> Option<u64> {
    /// `cachestat(2)`: the same number on all architectures that Rust's Linux has but Alpha.
    const SYS_CACHESTAT: libc::c_long = 451;
    /// Bytes from and in the range; a length of 0 would mean the rest of the file.
    #[repr(C)]
    struct Range {
        at: u64,
        len: u64,
    }
    /// `struct cachestat`; the first field is the number of pages cached.
    type Stat = [u64; 5];

    let range = Range { at, len: len.max(1) };
    let mut stat = Stat::default();
    // SAFETY: the kernel reads a `Range` and writes a `Stat`, both alive and exclusively ours for
    // the call, whose layouts are the kernel's.
    let done = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut stat, 0)
    };
    let [cached, ..] = stat;
    (done == 0).then_some(cached)
}
