//! The ceiling: the same bytes into preallocated files of a segment's size, and nothing else.
//!
//! Where each group is synced the file is written before, and used in a circle: over blocks that
//! are written already a sync has nothing but the bytes to bring to the disk. Where it is synced
//! behind, a thread on the same CPU does so: what any log must do in the long run, or the kernel
//! does it and makes the writer wait.

use crate::job::{Done, Durability, Job, turn};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Below this batches are copied into one piece first: a slice of its own in `pwritev` costs more.
/// Source: the engine's own bound.
const COPY_BYTES_MAX: usize = 4 << 10;

/// Bytes after which a file is synced behind. Source: the engine's checkpoints.
const BEHIND_BYTES: u64 = 256 << 20;

/// Zeros that are written at once.
const ZEROS_BYTES: usize = 1 << 20;

/// The most pieces of one `pwritev`. Source: Linux's `UIO_MAXIOV`.
const PIECES_MAX: usize = 1024;

/// Does `job` with one `pwritev` a group, and where it is to be durable one `fdatasync`.
pub(crate) fn run(job: &Job) -> io::Result<Done> {
    let (files, to_sync) = sync_channel::<Arc<OwnedFd>>(1);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(move || {
            to_sync
                .iter()
                .try_for_each(|file| rustix::fs::fdatasync(&*file).map_err(io::Error::from))
        });
        let done = append(job, &files);
        drop(files);
        syncing.join().map_err(|_| io::Error::other("the syncing thread panicked"))??;
        done
    })
}

/// Appends; what is to be synced behind goes to `files`, which takes one at a time.
fn append(job: &Job, files: &SyncSender<Arc<OwnedFd>>) -> io::Result<Done> {
    let payloads = Job::payloads(job.batch_bytes);
    let mut number = 0;
    let mut file = segment(job, number)?;
    let (mut at, mut unsynced) = (0, 0);
    let mut copy = Vec::with_capacity(COPY_BYTES_MAX * PIECES_MAX);
    let mut meter = job.start();
    while let Some(group) = meter.next() {
        let bytes = (group.end - group.start) * job.batch_bytes as u64;
        if at + bytes > u64::from(job.segment_bytes) {
            if job.durability != Durability::Durable {
                number += 1;
                file = segment(job, number)?;
            }
            at = 0;
        }
        let of_group = group.map(|n| payloads[turn(n)].as_slice());
        if job.batch_bytes < COPY_BYTES_MAX {
            copy.clear();
            of_group.for_each(|payload| copy.extend_from_slice(payload));
            write(&file, &mut [IoSlice::new(&copy)], at)?;
        } else {
            let mut pieces: Vec<_> = of_group.map(IoSlice::new).collect();
            write(&file, &mut pieces, at)?;
        }
        at += bytes;
        unsynced += bytes;
        match job.durability {
            Durability::PageCache => {}
            Durability::Durable => rustix::fs::fdatasync(&file)?,
            // While one waits behind the one that is synced, this one goes on.
            Durability::Behind if unsynced >= BEHIND_BYTES => {
                if files.try_send(Arc::clone(&file)).is_ok() {
                    unsynced = 0;
                }
            }
            Durability::Behind => {}
        }
    }
    Ok(meter.end())
}

fn segment(job: &Job, number: u32) -> io::Result<Arc<OwnedFd>> {
    let path = job.dir.join(format!("{number}.segment"));
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, job.segment_bytes.into())?;
    if job.durability == Durability::Durable {
        let zeros = vec![0; ZEROS_BYTES];
        for at in (0..job.segment_bytes.into()).step_by(ZEROS_BYTES) {
            write(&file, &mut [IoSlice::new(&zeros)], at)?;
        }
    }
    Ok(Arc::new(file))
}

/// Writes all of `pieces` at `at`: with one call, unless it falls short.
fn write(file: &OwnedFd, mut pieces: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    while !pieces.is_empty() {
        let most = pieces.len().min(PIECES_MAX);
        match rustix::io::pwritev(file, &pieces[..most], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut pieces, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
