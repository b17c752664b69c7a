//! How far a partition has come. Pure.
//!
//! `log start <= last stable <= high watermark <= floor <= written <= staged`
//!
//! The floor is what a power cut cannot take back (`durable`), or, with `write.caching`, what
//! is written. Only the shard ever sees `staged`.

use crate::log::LogEnd;
use crate::types::Offset;

/// Where a partition's log begins and how far its records have come.
///
/// ```
/// # use kariz_engine::{io::sim::{Faults, World}, *};
/// # World::new(1, Faults::none()).boot(|io| async move {
/// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
/// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
/// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
/// let span = log.append(&batch)?;
/// assert_eq!(log.marks().written, Offset(0)); // the end of the turn writes it
/// log.reach(Mark::Durable, &span).await?;
/// let marks = log.marks();
/// assert_eq!((marks.written, marks.durable, marks.high_watermark), (span.end, span.end, span.end));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).done().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// The first offset kept.
    pub log_start: Offset,
    /// No transaction is open below it.
    pub last_stable: Offset,
    /// Consumers see what is below it.
    pub high_watermark: Offset,
    /// A power cut leaves what is below it.
    pub durable: Offset,
    /// The page cache holds what is below it: the log end.
    pub written: Offset,
}

impl Marks {
    /// How many offsets consumers can read.
    #[must_use]
    pub fn visible(&self) -> i64 {
        self.high_watermark.since(self.log_start)
    }
}

/// The watermarks of one partition.
#[derive(Clone, Debug)]
pub(crate) struct Watermarks {
    start: Offset,
    high: LogEnd,
    durable: LogEnd,
    written: LogEnd,
    staged: Offset,
    write_caching: bool,
}

impl Watermarks {
    /// A log of `start..end.offset`, all of it durable.
    pub(crate) fn recovered(start: Offset, end: LogEnd, write_caching: bool) -> Self {
        let marks = Self {
            start,
            high: end,
            durable: end,
            written: end,
            staged: end.offset,
            write_caching,
        };
        marks.check();
        marks
    }

    pub(crate) fn start(&self) -> Offset {
        self.start
    }

    pub(crate) fn high(&self) -> LogEnd {
        self.high
    }

    pub(crate) fn durable(&self) -> LogEnd {
        self.durable
    }

    pub(crate) fn written(&self) -> LogEnd {
        self.written
    }

    pub(crate) fn staged(&self) -> Offset {
        self.staged
    }

    pub(crate) fn is_write_caching(&self) -> bool {
        self.write_caching
    }

    pub(crate) fn marks(&self) -> Marks {
        Marks {
            log_start: self.start,
            last_stable: self.high.offset,
            high_watermark: self.high.offset,
            durable: self.durable.offset,
            written: self.written.offset,
        }
    }

    pub(crate) fn stage(&mut self, end: Offset) {
        debug_assert!(self.staged <= end);
        self.staged = end;
    }

    /// All that was staged is in the page cache.
    pub(crate) fn write(&mut self, end: LogEnd) {
        debug_assert_eq!(self.staged, end.offset);
        self.written = end;
        self.raise_high();
    }

    /// What was staged and not written is gone.
    pub(crate) fn roll_back(&mut self) {
        self.staged = self.written.offset;
    }

    /// All below `end` survives a power cut.
    pub(crate) fn sync(&mut self, end: LogEnd) {
        if self.durable.offset < end.offset {
            self.durable = end;
            self.raise_high();
        }
    }

    /// The log was cut back to `end`: nothing behind it was ever there.
    pub(crate) fn truncate(&mut self, end: LogEnd) {
        for mark in [&mut self.high, &mut self.durable, &mut self.written] {
            if mark.offset > end.offset {
                *mark = end;
            }
        }
        self.staged = self.written.offset;
        self.check();
    }

    pub(crate) fn set_write_caching(&mut self, on: bool) {
        self.write_caching = on;
        self.raise_high();
    }

    /// Moves the log start up to `to`, which must not lie past the high watermark.
    pub(crate) fn trim(&mut self, to: Offset) {
        debug_assert!(to <= self.high.offset);
        self.start = self.start.max(to);
        self.check();
    }

    /// Never down: a reader must not see the log become shorter.
    fn raise_high(&mut self) {
        let floor = if self.write_caching { self.written } else { self.durable };
        if self.high.offset < floor.offset {
            self.high = floor;
        }
        self.check();
    }

    fn check(&self) {
        debug_assert!(self.start <= self.high.offset);
        debug_assert!(self.high.offset <= self.written.offset);
        debug_assert!(self.durable.offset <= self.written.offset);
        debug_assert!(self.written.offset <= self.staged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn end(offset: i64) -> LogEnd {
        LogEnd { offset: Offset(offset), segment: Offset(0), position: 0 }
    }

    proptest! {
        #[test]
        fn the_order_of_the_marks_holds_whatever_happens(ops in prop::collection::vec((0..5_u8, 0..10_i64), 0..200)) {
            let mut marks = Watermarks::recovered(Offset(0), end(0), false);
            let mut high = Offset(0);
            for (op, n) in ops {
                match op {
                    0 => marks.stage(marks.staged().plus(n)),
                    1 => marks.write(end(marks.staged().0)),
                    2 => marks.roll_back(),
                    3 => marks.sync(end(marks.written().offset.0.min(marks.durable().offset.0 + n))),
                    _ => marks.set_write_caching(n % 2 == 0),
                }
                let m = marks.marks();
                prop_assert!(m.log_start <= m.last_stable && m.last_stable <= m.high_watermark);
                prop_assert!(m.high_watermark <= m.written && m.durable <= m.written);
                prop_assert!(m.written <= marks.staged());
                prop_assert!(high <= m.high_watermark, "the high watermark went down");
                high = m.high_watermark;
            }
        }
    }
}
