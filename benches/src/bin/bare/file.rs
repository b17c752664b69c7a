//! The data files: a row of segments a partition, only ever appended to.
//!
//! Their habits are the engine's, so that both pay the same for the page cache and the file
//! system: every file is fresh, its blocks are allocated ahead of its end without changing its
//! length and cut off when it is sealed, and the next one is made before it is needed.

use crate::ring::{Lent, Ring};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Blocks are allocated this far ahead of the end at first, twice as far each time ...
const AHEAD_BYTES_MIN: u64 = 64 << 10;
/// ... and so far at most.
const AHEAD_BYTES_MAX: u64 = 16 << 20;

/// The most pieces of one `pwritev`. Source: Linux's `UIO_MAXIOV`.
const PIECES_MAX: usize = 1024;

/// The ending of data files; what ends so in the directory is removed at the start.
const ENDING: &str = "bare";

/// When files are sealed and removed.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// A file of this length is sealed and followed by the next one.
    pub(crate) segment_bytes: u64,
    /// Sealed files are removed, oldest first, until no more than this is left in files.
    pub(crate) keep_bytes: u64,
}

/// The data files of all partitions.
pub(crate) struct Files {
    partitions: Vec<Partition>,
    limits: Limits,
    /// Oldest first, with their lengths.
    sealed: VecDeque<(PathBuf, u64)>,
    sealed_bytes: u64,
}

/// Where one partition's bytes go.
struct Partition {
    /// What to append in this turn.
    group: Vec<Lent>,
    group_bytes: u64,
    active: Segment,
    spare: Option<Segment>,
    name: PathBuf,
    made: u32,
}

/// One file, how far it is written and how far it is allocated.
struct Segment {
    file: Rc<OwnedFd>,
    path: PathBuf,
    len: u64,
    allocated: u64,
    ahead: u64,
}

impl Files {
    /// Makes `count` partitions in `dir`, and removes what an earlier run left there.
    pub(crate) fn create(dir: &Path, count: usize, limits: Limits) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == ENDING) {
                std::fs::remove_file(path)?;
            }
        }
        let partitions = (0..count).map(|i| Partition::create(dir.join(format!("{i}"))));
        Ok(Self {
            partitions: partitions.collect::<io::Result<_>>()?,
            limits,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
        })
    }

    /// Adds `bytes` to what the next [`Files::write`] appends for connection `slot`.
    pub(crate) fn add(&mut self, slot: u32, bytes: Lent) {
        let index = slot as usize % self.partitions.len();
        let partition = &mut self.partitions[index];
        partition.group_bytes += u64::from(bytes.len());
        partition.group.push(bytes);
    }

    /// Appends every partition's group, one `pwritev` each, and gives the buffers back to the
    /// ring; shows `each` group and its file.
    pub(crate) fn write(
        &mut self,
        ring: &mut Ring,
        mut each: impl FnMut(&Rc<OwnedFd>, &[IoSlice<'_>]),
    ) -> io::Result<()> {
        for partition in &mut self.partitions {
            if partition.group.is_empty() {
                continue;
            }
            let active = &mut partition.active;
            active.allocate(partition.group_bytes)?;
            for lent in partition.group.chunks(PIECES_MAX) {
                let mut pieces: Vec<_> = lent.iter().map(|l| IoSlice::new(ring.bytes(l))).collect();
                each(&active.file, &pieces);
                active.append(&mut pieces)?;
            }
            ring.give_back(partition.group.drain(..));
            partition.group_bytes = 0;
            if active.len >= self.limits.segment_bytes / 2 && partition.spare.is_none() {
                partition.spare = Some(partition.create_next()?);
            }
            if partition.active.len >= self.limits.segment_bytes {
                let (path, len) = partition.roll()?;
                self.sealed.push_back((path, len));
                self.sealed_bytes += len;
            }
        }
        let active_bytes: u64 = self.partitions.iter().map(|p| p.active.len).sum();
        while self.sealed_bytes + active_bytes > self.limits.keep_bytes
            && let Some((path, len)) = self.sealed.pop_front()
        {
            self.sealed_bytes -= len;
            ring.remove(&path)?;
        }
        Ok(())
    }
}

impl Partition {
    fn create(name: PathBuf) -> io::Result<Self> {
        let active = Segment::create(name.with_extension(format!("0.{ENDING}")))?;
        Ok(Self { group: Vec::new(), group_bytes: 0, active, spare: None, name, made: 1 })
    }

    fn create_next(&mut self) -> io::Result<Segment> {
        let path = self.name.with_extension(format!("{}.{ENDING}", self.made));
        self.made += 1;
        Segment::create(path)
    }

    /// Seals the file and goes on in the spare one. Returns the sealed file's path and length.
    fn roll(&mut self) -> io::Result<(PathBuf, u64)> {
        let next = match self.spare.take() {
            Some(spare) => spare,
            None => self.create_next()?,
        };
        let sealed = std::mem::replace(&mut self.active, next);
        rustix::fs::ftruncate(&sealed.file, sealed.len)?;
        Ok((sealed.path, sealed.len))
    }
}

impl Segment {
    fn create(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
        let file = Rc::new(rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?);
        let mut segment = Self { file, path, len: 0, allocated: 0, ahead: AHEAD_BYTES_MIN };
        segment.allocate(1)?;
        Ok(segment)
    }

    /// Makes sure of blocks for `bytes` more; where they are missing, allocates far ahead.
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        if self.len + bytes > self.allocated {
            let end = self.len + bytes + self.ahead;
            let (from, len) = (self.allocated, end - self.allocated);
            rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, len)?;
            self.allocated = end;
            self.ahead = (self.ahead * 2).min(AHEAD_BYTES_MAX);
        }
        Ok(())
    }

    /// Writes all of `pieces` at the end: with one call, unless it falls short.
    fn append(&mut self, mut pieces: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !pieces.is_empty() {
            let written = match rustix::io::pwritev(&self.file, pieces, self.len) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            self.len += written as u64;
            IoSlice::advance_slices(&mut pieces, written);
        }
        Ok(())
    }
}
