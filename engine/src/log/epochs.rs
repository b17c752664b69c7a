//! Which leader's term a record was appended in: the terms' first offsets.
//!
//! On disk Kafka's `leader-epoch-checkpoint`: version 0, a count, and a line `epoch start` a term.

use crate::types::{LeaderEpoch, Offset};
use std::fmt::Write as _;

/// Why a `leader-epoch-checkpoint` was not understood; it can be rebuilt from the batches.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the leader epochs is not as expected")]
pub(crate) struct EpochsError {
    line: usize,
}

/// Terms and their first offsets; both rise from entry to entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Epochs(Vec<(LeaderEpoch, Offset)>);

impl Epochs {
    /// The last term; none before the first batch.
    pub(crate) fn latest(&self) -> Option<LeaderEpoch> {
        self.0.last().map(|(epoch, _)| *epoch)
    }

    /// Records from `start` on belong to `epoch`, if that is a later term than any before.
    /// Returns whether anything changed.
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if self.latest().is_some_and(|latest| latest >= epoch) {
            return false;
        }
        // A term in which nothing was appended has no records, and so no entry.
        while self.0.last().is_some_and(|(_, s)| *s >= start) {
            self.0.pop();
        }
        self.0.push((epoch, start));
        true
    }

    /// The term of the record at `offset`.
    pub(crate) fn at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.0.partition_point(|(_, start)| *start <= offset);
        after.checked_sub(1).and_then(|i| self.0.get(i)).map(|(epoch, _)| *epoch)
    }

    /// The largest term at or before `epoch`, and where it ends: the first offset of the next one,
    /// or `log_end`. `None` if every term is later, or none is known.
    pub(crate) fn end_of(
        &self,
        epoch: LeaderEpoch,
        log_end: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        let after = self.0.partition_point(|(e, _)| *e <= epoch);
        let (found, _) = after.checked_sub(1).and_then(|i| self.0.get(i))?;
        Some((*found, self.0.get(after).map_or(log_end, |(_, start)| *start)))
    }

    /// Forgets the terms that begin at or past `end`. Returns whether anything changed.
    pub(crate) fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.0.len();
        self.0.retain(|(_, start)| *start < end);
        self.0.len() < before
    }

    /// The log begins at `start` now: forgets the terms that end before. Returns whether anything
    /// changed.
    pub(crate) fn truncate_from_start(&mut self, start: Offset) -> bool {
        let after = self.0.partition_point(|(_, s)| *s <= start);
        let Some(first) = after.checked_sub(1) else {
            return false;
        };
        self.0.drain(..first);
        match self.0.first_mut() {
            Some((_, s)) if *s < start => {
                *s = start;
                true
            }
            _ => first > 0,
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut text = format!("0\n{}\n", self.0.len());
        for (epoch, start) in &self.0 {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "{epoch} {start}");
        }
        text
    }

    pub(crate) fn decode(text: &str) -> Result<Self, EpochsError> {
        let mut lines = text.lines().zip(1..);
        let mut next = |expected: usize| lines.next().ok_or(EpochsError { line: expected });
        let (version, line) = next(1)?;
        if version != "0" {
            return Err(EpochsError { line });
        }
        let (count, line) = next(2)?;
        let count: usize = count.parse().map_err(|_| EpochsError { line })?;
        let mut epochs = Self::default();
        for (text, line) in lines {
            let parsed = text.split_once(' ').and_then(|(epoch, start)| {
                Some((LeaderEpoch(epoch.parse().ok()?), Offset(start.parse().ok()?)))
            });
            let (epoch, start) = parsed.ok_or(EpochsError { line })?;
            let rises = epochs.0.last().is_none_or(|(e, s)| *e < epoch && *s <= start);
            if !rises {
                return Err(EpochsError { line });
            }
            epochs.0.push((epoch, start));
        }
        if epochs.0.len() == count { Ok(epochs) } else { Err(EpochsError { line: 2 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The model keeps the term of every record.
        #[test]
        fn every_record_has_its_term(ops in prop::collection::vec((0..4_u8, 0..20_i64), 0..60)) {
            let (mut epochs, mut model): (Epochs, Vec<i32>) = Default::default();
            let (mut start, mut epoch) = (0_i64, 0);
            epochs.assign(LeaderEpoch(0), Offset(0));
            for (op, n) in ops {
                let end = i64::try_from(model.len()).unwrap();
                match op {
                    0 => model.extend((0..n).map(|_| epoch)),
                    1 => {
                        epoch += 1;
                        epochs.assign(LeaderEpoch(epoch), Offset(end));
                    }
                    2 => {
                        let to = (end - n).max(start);
                        model.truncate(usize::try_from(to).unwrap());
                        epochs.truncate_from_end(Offset(to));
                        epoch += 1;
                        epochs.assign(LeaderEpoch(epoch), Offset(to));
                    }
                    _ => {
                        start = (start + n).min(end);
                        epochs.truncate_from_start(Offset(start));
                    }
                }
                for (offset, epoch) in model.iter().enumerate().skip(usize::try_from(start).unwrap()) {
                    let offset = Offset(i64::try_from(offset).unwrap());
                    prop_assert_eq!(epochs.at(offset), Some(LeaderEpoch(*epoch)));
                }
                prop_assert_eq!(Epochs::decode(&epochs.encode()).unwrap(), epochs.clone());
            }
        }
    }

    #[test]
    fn a_term_ends_where_the_next_begins() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.end_of(LeaderEpoch(0), Offset(9)), None);
        for (epoch, start) in [(1, 0), (3, 5), (4, 5), (7, 8)] {
            epochs.assign(LeaderEpoch(epoch), Offset(start));
        }
        let end = |e| epochs.end_of(LeaderEpoch(e), Offset(9)).map(|(e, o)| (e.0, o.0));
        assert_eq!(
            [end(0), end(1), end(3), end(4), end(7), end(9)],
            [None, Some((1, 5)), Some((1, 5)), Some((4, 8)), Some((7, 9)), Some((7, 9))]
        );
    }

    #[test]
    fn what_is_no_epoch_file_is_refused() {
        for bad in
            ["", "1\n0\n", "0\n", "0\n1\n", "0\n1\n1\n", "0\n2\n2 0\n1 5\n", "0\n1\n1 0\n2 5\n"]
        {
            assert!(Epochs::decode(bad).is_err(), "{bad:?}");
        }
    }
}
