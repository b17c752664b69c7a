//! Files made before they are needed, so that a roll is a rename and waits for nothing.
//!
//! Beside a busy disk the file system takes milliseconds to make a file. From seven eighths of a
//! segment on, by size or by age, the next one's file is made on the side, under a name that says
//! nothing yet: the base offset is known only at the roll. The new segment's index files are made
//! once it has that name. Where a file was not made in time, whoever needs it makes it inline.

use super::{Log, names};
use crate::io::{File, Io};
use crate::types::{Offset, Timestamp};
use std::io;
use std::path::PathBuf;

/// The next segment's file.
pub(super) enum Spare<F> {
    /// Not needed yet.
    None,
    /// To be made.
    Wanted,
    /// Being made.
    Coming,
    Ready {
        file: F,
        allocated: u64,
    },
    /// It could not be made, or was given back. The roll will try, and say why not.
    Refused,
}

/// Files to be made for a log.
pub(crate) struct Making<I: Io> {
    io: I,
    indexes_of: Offset,
    indexes: [PathBuf; 2],
    /// Where the spare is to be, and how many bytes of it are allocated.
    spare: Option<(PathBuf, u64)>,
}

/// What came of a [`Making`].
pub(crate) struct Made<F> {
    indexes_of: Offset,
    spare: Option<(io::Result<F>, u64)>,
}

impl<I: Io> Making<I> {
    pub(crate) async fn run(self) -> Made<I::File> {
        for path in &self.indexes {
            // Made by whoever saves the index, then.
            let _best_effort = self.io.create(path, 0).await;
        }
        let spare = match self.spare {
            Some((path, allocate)) => Some((self.io.create(&path, allocate).await, allocate)),
            None => None,
        };
        Made { indexes_of: self.indexes_of, spare }
    }
}

impl<I: Io> Log<I> {
    /// Whether it has just become time to make the next segment's file.
    pub(crate) fn wants_spare(&mut self, now: Timestamp) -> bool {
        if !matches!(self.spare, Spare::None) {
            return false;
        }
        let (active, limits) = (&self.active, self.limits);
        let age = active.begun.map_or(0, |begun| now.0.saturating_sub(begun.0));
        let wants = active.bytes >= limits.segment_bytes - limits.segment_bytes / 8
            || age >= limits.segment_ms - limits.segment_ms / 8;
        if wants {
            self.spare = Spare::Wanted;
        }
        wants
    }

    /// The files that are to be made now; [`Log::made`] takes them.
    pub(crate) fn begin_making(&mut self) -> Making<I> {
        let (dir, base) = (&self.dir, self.active.base);
        let indexes = [names::index(dir, base), names::time_index(dir, base)];
        let wanted = matches!(self.spare, Spare::Wanted);
        let spare = wanted.then(|| (names::spare(dir), self.step()));
        if wanted {
            self.spare = Spare::Coming;
        }
        Making { io: self.io.clone(), indexes_of: base, indexes, spare }
    }

    /// Takes the files that were made.
    pub(crate) fn made(&mut self, made: Made<I::File>) {
        let base = made.indexes_of;
        // A cut may have taken the segment meanwhile, or retention.
        if self.active.base != base && self.sealed.iter().all(|s| s.base != base) {
            let _best_effort = names::remove_indexes(&self.io, &self.dir, base);
        }
        match made.spare {
            // One that holds anything was left by somebody, and may not be taken for a new one.
            Some((Ok(file), allocated)) if matches!(file.len(), Ok(0)) => {
                self.spare = Spare::Ready { file, allocated };
            }
            Some(_) => self.refuse_spare(),
            None => {}
        }
    }

    /// The file of the segment that begins at `base`, and how much of it is allocated: the spare,
    /// if there is one.
    pub(super) fn take_spare(&mut self, base: Offset) -> io::Result<Option<(I::File, u64)>> {
        if let Spare::Ready { .. } = &self.spare {
            let (spare, log) = (names::spare(&self.dir), names::log(&self.dir, base));
            match self.io.rename(&spare, &log) {
                // Somebody has tidied up.
                Err(e) if e.kind() == io::ErrorKind::NotFound => self.spare = Spare::None,
                renamed => renamed?,
            }
        }
        match std::mem::replace(&mut self.spare, Spare::None) {
            Spare::Ready { file, allocated } => Ok(Some((file, allocated))),
            // It will be for the segment after this one.
            late @ (Spare::Wanted | Spare::Coming) => {
                self.spare = late;
                Ok(None)
            }
            Spare::None | Spare::Refused => Ok(None),
        }
    }

    /// Gives back the room of a spare, until the next segment wants one; whether there was one.
    pub(crate) fn drop_spare(&mut self) -> bool {
        let is_there = matches!(self.spare, Spare::Ready { .. });
        if is_there {
            self.refuse_spare();
        }
        is_there
    }

    fn refuse_spare(&mut self) {
        self.spare = Spare::Refused;
        // What stays is an empty file, which the next start removes.
        let _best_effort = names::remove_if_there(&self.io, &names::spare(&self.dir));
    }
}
