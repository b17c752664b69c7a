//! Group commit: the durable ceiling.
//!
//! All that was appended while one commit ran is the next commit's group. A group of few bytes is
//! written once more, into a circle of blocks that are all written already, so that one
//! `fdatasync` changes neither a length nor a block, however many files the group spans. A group
//! of many bytes is not written twice: its files are synced themselves, all at once.
//!
//! The sync is a worker's, through the ring. Done by this thread, which would save two wake-ups, it
//! was slower wherever something else wanted the core (16 connections, one 1,100-byte frame in
//! flight: 690 requests/s instead of 5,200; 64 with 16 small ones: 27,000 instead of 211,000), and
//! looking for work meanwhile (`--spins`) takes the core from that worker: 4,700 and 176,000.

use crate::ring::Ring;
use rustix::fs::{Mode, OFlags};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// A group below this goes through the journal.
const FEW_BYTES: usize = 256 << 10;

/// The length of the journal.
const JOURNAL_BYTES: u64 = 64 << 20;

/// A group begins on a page of its own, so that no page under writeback is written to.
const PAGE_BYTES: u64 = 4096;

/// The groups: one gathers, one is on its way to the disk.
pub(crate) struct Commits {
    journal: Rc<OwnedFd>,
    position: u64,
    gathering: Group,
    syncing: Group,
    /// Syncs of `syncing` that have not completed.
    outstanding: usize,
}

#[derive(Default)]
struct Group {
    len: usize,
    /// The bytes, while they are few.
    bytes: Vec<u8>,
    /// The files they were appended to.
    files: Vec<Rc<OwnedFd>>,
}

impl Commits {
    /// Makes the journal in `dir`, every block of it written and on the disk.
    pub(crate) fn create(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
        let path = dir.join("journal.bare");
        let journal = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?;
        let zeros = vec![0; 1 << 20];
        for at in (0..JOURNAL_BYTES).step_by(zeros.len()) {
            write_all(&journal, &zeros, at)?;
        }
        rustix::fs::fsync(&journal)?;
        Ok(Self {
            journal: Rc::new(journal),
            position: 0,
            gathering: Group::default(),
            syncing: Group::default(),
            outstanding: 0,
        })
    }

    /// Adds `pieces`, appended to `file`, to the group that gathers.
    pub(crate) fn add(&mut self, file: &Rc<OwnedFd>, pieces: &[IoSlice<'_>]) {
        let group = &mut self.gathering;
        group.len += pieces.iter().map(|p| p.len()).sum::<usize>();
        if group.len < FEW_BYTES {
            pieces.iter().for_each(|piece| group.bytes.extend_from_slice(piece));
        }
        if !group.files.iter().any(|f| Rc::ptr_eq(f, file)) {
            group.files.push(Rc::clone(file));
        }
    }

    /// Starts a commit of all that has gathered; `false` if there is nothing, or one still runs.
    pub(crate) fn start(&mut self, ring: &mut Ring) -> io::Result<bool> {
        if self.outstanding > 0 || self.gathering.len == 0 {
            return Ok(false);
        }
        std::mem::swap(&mut self.gathering, &mut self.syncing);
        let group = &mut self.syncing;
        if group.len < FEW_BYTES {
            if self.position + group.len as u64 > JOURNAL_BYTES {
                self.position = 0;
            }
            write_all(&self.journal, &group.bytes, self.position)?;
            self.position += (group.len as u64).next_multiple_of(PAGE_BYTES);
            ring.sync(self.journal.as_fd())?;
            self.outstanding = 1;
        } else {
            for file in &group.files {
                ring.sync(file.as_fd())?;
            }
            self.outstanding = group.files.len();
        }
        Ok(true)
    }

    /// Takes note that one sync has completed; `true` if the group is durable with it.
    pub(crate) fn synced(&mut self) -> bool {
        self.outstanding -= 1;
        if self.outstanding == 0 {
            self.syncing.len = 0;
            self.syncing.bytes.clear();
            self.syncing.files.clear();
        }
        self.outstanding == 0
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, at)?;
        bytes = &bytes[written..];
        at += written as u64;
    }
    Ok(())
}
