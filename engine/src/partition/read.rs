//! Reading: pinned file slices below the high watermark.

use super::{Health, Mark, Partition, ReadError, Slice, State};
use crate::batch::{Batch, Header, Record, RecordFault};
use crate::io::Io;
use crate::log::read::TimeSeek;
use crate::log::scan::{Found as FoundBatch, Heads, ScanError};
use crate::num;
use crate::types::{Instant, LeaderEpoch, Offset, Timestamp};
use std::ops::ControlFlow;
use std::time::Duration;
use tokio::task::yield_now;

/// A compressed batch is inflated to at most this to look for a timestamp in it; of a larger one
/// the head has to do.
const INFLATED_BYTES_MAX: usize = 16 << 20;

/// How much is read at once to look at records.
const RECORDS_BYTES: usize = 256 << 10;

/// How much to read, and how long to wait for it.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// At most so many bytes, but always one whole batch.
    pub max_bytes: usize,
    /// Wait for at least so many bytes, ...
    pub min_bytes: usize,
    /// ... but not longer than this.
    pub wait: Duration,
}

/// A record that was looked for by its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The term of its batch.
    pub leader_epoch: LeaderEpoch,
}

impl<I: Io> Partition<I> {
    /// What can be read from `from` now: at most `max_bytes`, but always one whole batch. Empty
    /// from the high watermark to the log end. Waits only for pages that are not resident.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let span = log.append(&batch)?;
    /// log.reach(Mark::High, &span).await?;
    /// let slice = log.slice(Offset(0), 1 << 20).await?;
    /// assert_eq!((slice.position(), slice.len()), (0, batch.total_bytes()));
    /// assert!(log.slice(span.end, 1 << 20).await?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn slice(&self, from: Offset, max_bytes: usize) -> Result<Slice<I>, ReadError> {
        let mut at = from;
        loop {
            let (seek, last) = {
                let state = self.0.state.borrow();
                state.check_readable(from)?;
                let high = state.marks.high();
                match state.log.seek(at, high) {
                    Some(seek) => (seek, high.segment),
                    None => return Ok(state.nothing()),
                }
            };
            match seek.find(at).await.map_err(|e| self.damaged(e))? {
                Some(found) => {
                    let rest = num::index(seek.limit - found.position);
                    let len = rest.min(max_bytes.max(num::index(found.bytes)));
                    let metrics = &self.0.core.metrics;
                    metrics.reads.add(1);
                    metrics.read_bytes.add(len as u64);
                    let is_followed = seek.base < last;
                    return Ok(Slice {
                        file: seek.file,
                        position: found.position,
                        len,
                        is_followed,
                    });
                }
                // The segment ends before `at`: a gap up to the next one.
                None => {
                    let state = self.0.state.borrow();
                    match state.log.next_base(seek.base) {
                        Some(next) => at = at.max(next),
                        None => return Ok(state.nothing()),
                    }
                }
            }
        }
    }

    /// The whole batches of [`Partition::slice`], for those who look into them. The first may begin
    /// before `from`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn batches(&self, from: Offset, max_bytes: usize) -> Result<Vec<Batch>, ReadError> {
        let slice = self.slice(from, max_bytes).await?;
        slice.load().await?;
        slice.batches()
    }

    /// Shows `see` the records from `from` on, or from the log start if that is later, in their
    /// order, as long as it goes on and there are more. Returns the offset behind the last that was
    /// seen.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// # let span = log.append(&batch)?;
    /// # log.reach(Mark::High, &span).await?;
    /// use std::ops::ControlFlow;
    ///
    /// let mut seen = Vec::new();
    /// let see = |record: &batch::Record<'_>| {
    ///     seen.extend(record.value.map(<[u8]>::to_vec));
    ///     ControlFlow::Continue(())
    /// };
    /// assert_eq!(log.records(Offset(0), see).await?, Offset(1));
    /// assert_eq!(seen, [b"one coffee"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ReadError`]; compressed records may be inflated to 16 MiB a batch.
    pub async fn records(
        &self,
        from: Offset,
        mut see: impl FnMut(&Record<'_>) -> ControlFlow<()>,
    ) -> Result<Offset, ReadError> {
        let mut at = from.max(self.marks().log_start);
        loop {
            let batches = self.batches(at, RECORDS_BYTES).await?;
            if batches.is_empty() {
                return Ok(at);
            }
            for batch in batches {
                let offset = batch.header().base_offset();
                let fault = |fault| ReadError::Records { offset, fault };
                for record in batch.records(INFLATED_BYTES_MAX).map_err(fault)?.iter() {
                    let record = record.map_err(fault)?;
                    if record.offset < at {
                        continue;
                    }
                    if see(&record).is_break() {
                        return Ok(at);
                    }
                    at = record.offset.plus(1);
                }
                at = batch.header().next_offset();
            }
        }
    }

    /// As [`Partition::slice`], but waits for `want.min_bytes`, or for `want.wait`; not in an older
    /// segment, where no slice grows any more ([`Slice::is_followed`]). Its pages are in memory when
    /// it comes.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// use std::time::Duration;
    ///
    /// let span = log.append(&batch)?;
    /// let want = Want { max_bytes: 1 << 20, min_bytes: 1, wait: Duration::from_secs(1) };
    /// let slice = log.read(span.base, want).await?; // comes as soon as the record is visible
    /// assert_eq!(slice.batches()?.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(&self, from: Offset, want: Want) -> Result<Slice<I>, ReadError> {
        let until = self.0.core.io.now().plus(want.wait);
        let slice = self.wait_for(from, want, until).await?;
        slice.load().await?;
        Ok(slice)
    }

    async fn wait_for(
        &self,
        from: Offset,
        want: Want,
        until: Instant,
    ) -> Result<Slice<I>, ReadError> {
        loop {
            let seen = self.marks().high_watermark;
            let slice = self.slice(from, want.max_bytes).await?;
            let io = &self.0.core.io;
            let is_enough = slice.len() >= want.min_bytes.min(want.max_bytes);
            if is_enough || slice.is_followed() || io.now() >= until {
                return Ok(slice);
            }
            let more = self.reach_offset(Mark::High, seen.max(from).plus(1));
            match crate::futures::either(more, io.sleep_until(until)).await {
                crate::futures::Either::Left(Ok(())) => {}
                crate::futures::Either::Left(Err(_)) => {
                    // What reads here in a loop must not go round in no time: nothing more comes.
                    if self.check_readable().is_ok() && !self.can_grow() {
                        io.sleep_until(until).await;
                    }
                    return self.slice(from, want.max_bytes).await;
                }
                crate::futures::Either::Right(()) => {}
            }
        }
    }

    /// Whether anything of it can be read.
    ///
    /// # Errors
    /// [`ReadError::Fenced`] and [`ReadError::Deleted`].
    pub fn check_readable(&self) -> Result<(), ReadError> {
        self.0.state.borrow().health.readable()
    }

    /// Whether more may come to be read: neither the partition nor its core has failed.
    #[must_use]
    pub fn can_grow(&self) -> bool {
        matches!(self.0.state.borrow().health, Health::Good) && self.0.core.failure().is_none()
    }

    /// The first record with a timestamp of at least `at`, below the high watermark.
    ///
    /// ```
    /// # use kariz_engine::{io::sim::{Faults, World}, *};
    /// # World::new(1, Faults::none()).boot(|io| async move {
    /// # let (shard, _) = sim::open(io, "/data".as_ref(), Default::default()).await?;
    /// # let log = shard.ensure(&TopicPartition::new("t", 0), LogConfig::default()).await?;
    /// for ms in [1_000, 2_000] {
    ///     let batch = Batch::build().record(None, None, &[], Timestamp(ms)).done()?;
    ///     let span = log.append(&batch)?;
    ///     log.reach(Mark::High, &span).await?;
    /// }
    /// let found = log.find(Timestamp(1_500)).await?;
    /// assert_eq!(found.map(|found| found.offset), Some(Offset(1)));
    /// assert_eq!(log.find(Timestamp(3_000)).await?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).done().unwrap();
    /// ```
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn find(&self, at: Timestamp) -> Result<Option<Found>, ReadError> {
        let seek = self.0.state.borrow().log.seek_time(at)?;
        match seek {
            Some(seek) => self.find_from(self.start_of(seek).await?, at).await,
            None => Ok(None),
        }
    }

    /// The offset from which to look: an index is not believed.
    async fn start_of(&self, time: TimeSeek) -> Result<Offset, ReadError> {
        let Some(before) = time.before else { return Ok(time.base) };
        let seek = {
            let state = self.0.state.borrow();
            if state.log.next_base(time.base).is_some_and(|next| next <= before.offset) {
                return Ok(time.base);
            }
            state.log.seek(before.offset, state.marks.high())
        };
        // What is not readable yet this process has noted itself.
        let Some(seek) = seek else { return Ok(before.offset) };
        let found = seek.find(before.offset).await.map_err(|e| self.damaged(e))?;
        let is_right = found.is_some_and(|found| before.is_of(&found.header));
        Ok(if is_right { before.offset } else { time.base })
    }

    /// The first of the records with the largest timestamp, below the high watermark.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn find_max_timestamp(&self) -> Result<Option<Found>, ReadError> {
        let (known, seek) = {
            let state = self.0.state.borrow();
            let high = state.marks.high();
            let (known, from) = state.log.max_timestamp(high);
            (known, state.log.seek(from, high).map(|seek| (seek, from)))
        };
        let mut newest = known;
        if let Some((seek, from)) = seek
            && let Some(first) = seek.find(from).await.map_err(|e| self.damaged(e))?
        {
            let mut heads = seek.heads_from(&first);
            let note = |header: &Header| {
                newest = newest.max(header.max_timestamp());
                false
            };
            self.find_next(&mut heads, note).await?;
        }
        if newest == Timestamp::NONE {
            return Ok(None);
        }
        self.find(newest).await
    }

    async fn find_from(&self, from: Offset, wanted: Timestamp) -> Result<Option<Found>, ReadError> {
        let mut at = from;
        loop {
            let Some(seek) = ({
                let state = self.0.state.borrow();
                // Retention may have moved it since the last turn.
                at = at.max(state.marks.marks().log_start);
                state.check_readable(at)?;
                state.log.seek(at, state.marks.high())
            }) else {
                return Ok(None);
            };
            if let Some(first) = seek.find(at).await.map_err(|e| self.damaged(e))? {
                let mut heads = seek.heads_from(&first);
                let may_hold = |header: &Header| header.max_timestamp() >= wanted;
                while let Some(batch) = self.find_next(&mut heads, may_hold).await? {
                    if let Some(found) = self.find_in(&seek.file, &batch, wanted).await? {
                        return Ok(Some(found));
                    }
                    // What a head says of its records is the producer's word: any number of them
                    // may be inflated in vain, and others have their turn in between.
                    yield_now().await;
                }
            }
            let next = self.0.state.borrow().log.next_base(seek.base);
            match next {
                Some(next) => at = at.max(next),
                None => return Ok(None),
            }
        }
    }

    /// The next batch whose head `is_wanted`.
    async fn find_next(
        &self,
        heads: &mut Heads<I::File>,
        mut is_wanted: impl FnMut(&Header) -> bool,
    ) -> Result<Option<FoundBatch>, ReadError> {
        while let Some(batch) = heads.next_loaded().await.map_err(|e| self.damaged(e))? {
            if is_wanted(&batch.header) {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    async fn find_in(
        &self,
        file: &I::File,
        batch: &FoundBatch,
        wanted: Timestamp,
    ) -> Result<Option<Found>, ReadError> {
        let whole = Slice::<I> {
            file: file.clone(),
            position: batch.position,
            len: num::index(batch.bytes),
            is_followed: false,
        };
        let start = self.marks().log_start;
        whole.load().await?;
        for batch in whole.batches()? {
            let header = batch.header();
            let leader_epoch = header.leader_epoch();
            match first_record(&batch, wanted, start) {
                Ok(Some((offset, timestamp))) => {
                    return Ok(Some(Found { offset, timestamp, leader_epoch }));
                }
                Ok(None) => {}
                // Nobody looked into it when it came. Whoever reads from its start misses nothing.
                Err(_) => {
                    let (offset, timestamp) = (header.base_offset(), header.max_timestamp());
                    return Ok(Some(Found { offset: offset.max(start), timestamp, leader_epoch }));
                }
            }
        }
        Ok(None)
    }

    /// Damage that a read has met: this partition alone stops serving.
    fn damaged(&self, error: ScanError) -> ReadError {
        match error {
            ScanError::Io(e) => ReadError::Io(e),
            fault @ ScanError::Fault { .. } => {
                let reason: std::sync::Arc<str> = fault.to_string().into();
                self.fence(&reason);
                ReadError::Fenced(reason)
            }
        }
    }
}

/// The first record of `batch` from offset `start` on that is not older than `wanted`.
fn first_record(
    batch: &Batch,
    wanted: Timestamp,
    start: Offset,
) -> Result<Option<(Offset, Timestamp)>, RecordFault> {
    for record in batch.records(INFLATED_BYTES_MAX)?.iter() {
        let record = record?;
        if record.timestamp >= wanted && record.offset >= start {
            return Ok(Some((record.offset, record.timestamp)));
        }
    }
    Ok(None)
}

impl<I: Io> State<I> {
    fn check_readable(&self, from: Offset) -> Result<(), ReadError> {
        self.health.readable()?;
        let marks = self.marks.marks();
        if from < marks.log_start || from > marks.written {
            let (start, end) = (marks.log_start, marks.written);
            return Err(ReadError::OutOfRange { offset: from, start, end });
        }
        Ok(())
    }

    fn nothing(&self) -> Slice<I> {
        Slice { file: self.log.active_file().clone(), position: 0, len: 0, is_followed: false }
    }
}
