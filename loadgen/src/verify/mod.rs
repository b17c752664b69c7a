//! The content oracle: what was sent is there, each record once, in order, with its bytes.
//!
//! A [`PartitionCheck`] reads one partition from its first offset on, batch by batch, and keeps
//! for each producing connection the sequence it must see next. Whatever deviates is counted, and
//! the first deviations are kept in words. Memory is bounded by the number of connections and of
//! distinct holes, not by the number of records.

pub mod batch;
pub mod ledger;

use crate::num;
use crate::workload::Verify;
use crate::workload::codec::Codec;
use crate::workload::value::{Identity, Pool};
use batch::{Batch, Records};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Deviations kept in words.
const WORDS_MAX: usize = 8;

/// Holes remembered in one producer's sequences; what is missing beyond is still counted.
const HOLES_MAX: usize = 1 << 16;

/// Connections that may have produced to one partition.
const PRODUCERS_MAX: u32 = 1 << 16;

/// The most bytes a batch may decompress to.
const DECOMPRESSED_MAX: usize = 128 << 20;

/// What the reader counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Records that were acknowledged (or, with acks=0, sent) and so must be there.
    pub acked: u64,
    /// Records that were read.
    pub read: u64,
    /// Acknowledged records that are not there.
    pub lost: u64,
    /// Records that are there again.
    pub duplicate: u64,
    /// Records behind one that was sent after them.
    pub reordered: u64,
    /// Batches whose CRC or structure is wrong, and records whose bytes are not those sent.
    pub corrupt: u64,
    /// Records that this run did not send to this partition.
    pub foreign: u64,
    /// Places where an offset does not follow the one before.
    pub gaps: u64,
    /// Batches (of one connection, where its offsets were not kept singly: 1) at another offset
    /// than the acknowledgement said.
    pub misplaced: u64,
    /// The first deviations, in words.
    pub words: Vec<String>,
}

impl Findings {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations() == 0
    }

    /// Deviations of all kinds.
    #[must_use]
    pub fn violations(&self) -> u64 {
        self.lost
            + self.duplicate
            + self.reordered
            + self.corrupt
            + self.foreign
            + self.gaps
            + self.misplaced
    }

    /// Adds what another reader found.
    pub fn add(&mut self, other: &Self) {
        self.acked += other.acked;
        self.read += other.read;
        self.lost += other.lost;
        self.duplicate += other.duplicate;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
        self.foreign += other.foreign;
        self.gaps += other.gaps;
        self.misplaced += other.misplaced;
        for word in &other.words {
            self.say(|| word.clone());
        }
    }

    fn say(&mut self, word: impl FnOnce() -> String) {
        if self.words.len() < WORDS_MAX {
            self.words.push(word());
        }
    }
}

/// Where records must be, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Offsets {
    /// Not known.
    #[default]
    Unknown,
    /// The [`PlacesHash`] of all acknowledged batches.
    Hash(PlacesHash),
    /// Each acknowledged run of records, in the order of sequences.
    Runs(Vec<Run>),
}

/// Records of one producer that lie at consecutive offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The sequence of the first.
    pub first_sequence: u64,
    /// The offset of the first.
    pub first_offset: i64,
    /// How many.
    pub records: u64,
}

/// A hash over (sequence, offset) of a producer's batches, in order: one word says whether all
/// lie where the broker said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacesHash(u64);

impl PlacesHash {
    /// Adds the next batch.
    pub fn add(&mut self, first_sequence: u64, first_offset: i64) {
        let mut state = self.0 ^ first_sequence.rotate_left(32) ^ first_offset.cast_unsigned();
        self.0 = num::random(&mut state);
    }
}

/// What one connection sent to one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The connection's number.
    pub producer: u32,
    /// Sequences below this may be there; `None`: not known.
    pub sent: Option<u64>,
    /// Sequences below this must be there.
    pub acked: u64,
    /// Where.
    pub offsets: Offsets,
}

/// What is known beforehand of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// Nothing: order and content are checked, but not the end.
    #[default]
    Nothing,
    /// What was acknowledged. Anything else of the same run may be there, too.
    Acked(Vec<Expected>),
    /// What was sent, all of it.
    Sent(Vec<Expected>),
}

/// One producer, as far as it was read.
#[derive(Clone, Debug, Default)]
struct Stream {
    expected: Expected,
    known: bool,
    /// The sequence that comes next.
    next: u64,
    /// Sequences below `next` that were skipped: first and end.
    holes: BTreeMap<u64, u64>,
    /// Sequences that were skipped when there were too many holes to remember.
    forgotten: u64,
    /// Over the batches below `expected.acked`.
    places: PlacesHash,
    /// The run in which the last batch was.
    run: usize,
}

/// Checks one partition from its first offset on.
#[derive(Debug)]
pub struct PartitionCheck {
    level: Verify,
    partition: u32,
    /// The run whose records are expected; `None`: that of the first record.
    run: Option<u64>,
    streams: Vec<Stream>,
    /// Whether it is known what must be there.
    knows_acked: bool,
    /// Whether it is known what may be there.
    knows_sent: bool,
    next_offset: i64,
    pool: Option<Pool>,
    scratch: Vec<u8>,
    findings: Findings,
    value_bytes: u64,
}

impl PartitionCheck {
    /// Checks `partition` from `first_offset` on. Without a `run`, all records must be of that of
    /// the first one.
    #[must_use]
    pub fn new(
        level: Verify,
        partition: u32,
        first_offset: i64,
        run: Option<u64>,
        knowledge: &Knowledge,
    ) -> Self {
        let expected: &[Expected] = match knowledge {
            Knowledge::Nothing => &[],
            Knowledge::Acked(expected) | Knowledge::Sent(expected) => expected,
        };
        let mut this = Self {
            level,
            partition,
            run,
            streams: Vec::new(),
            knows_acked: *knowledge != Knowledge::Nothing,
            knows_sent: matches!(knowledge, Knowledge::Sent(_)),
            next_offset: first_offset,
            pool: None,
            scratch: Vec::new(),
            findings: Findings::default(),
            value_bytes: 0,
        };
        for e in expected {
            this.findings.acked += e.acked;
            if let Some(stream) = this.stream(e.producer) {
                stream.expected = e.clone();
                stream.known = true;
            }
        }
        this
    }

    /// The offset that comes next.
    #[must_use]
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// What was found so far.
    #[must_use]
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Bytes of values that were read; below [`Verify::Full`], where values are not looked at,
    /// bytes of records as they are stored.
    #[must_use]
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    fn count_unread(&mut self, batch: &Batch<'_>) {
        self.findings.read += u64::try_from(batch.count).unwrap_or(0);
        self.value_bytes += u64::try_from(batch.records.len()).unwrap_or(0);
    }

    /// Takes the batches of a fetch response. A batch that lies wholly below the next offset is
    /// passed over: a broker may start with the batch that *contains* the offset asked for.
    pub fn take(&mut self, mut bytes: &[u8]) {
        loop {
            match Batch::cut(bytes) {
                Ok(None) => return,
                Ok(Some(batch)) => {
                    bytes = &bytes[batch.bytes.len()..];
                    self.batch(&batch);
                }
                Err(fault) => {
                    let (partition, at) = (self.partition, self.next_offset);
                    self.findings.corrupt += 1;
                    self.findings
                        .say(|| format!("partition {partition}, behind offset {at}: {fault}"));
                    // The next batch cannot be found. Asking again would bring the same bytes.
                    self.next_offset = i64::MAX;
                    return;
                }
            }
        }
    }

    fn batch(&mut self, batch: &Batch<'_>) {
        let last = batch.base_offset.saturating_add(i64::from(batch.last_offset_delta));
        let end = last.saturating_add(1);
        if end <= self.next_offset && end > batch.base_offset {
            return;
        }
        let next_offset = self.next_offset;
        self.next_offset = end.max(next_offset);
        if self.level == Verify::Off {
            self.count_unread(batch);
            return;
        }
        if batch.base_offset != next_offset {
            self.findings.gaps += 1;
            let (partition, base) = (self.partition, batch.base_offset);
            self.findings.say(|| {
                format!("partition {partition}: offset {base} where {next_offset} was expected")
            });
        }
        let checked = batch.check_crc().and_then(|()| self.records(batch));
        if let Err(fault) = checked {
            self.findings.corrupt += 1;
            let (partition, base) = (self.partition, batch.base_offset);
            self.findings.say(|| format!("partition {partition}, batch at offset {base}: {fault}"));
        }
    }

    fn records(&mut self, batch: &Batch<'_>) -> Result<(), batch::Fault> {
        if batch.is_control() {
            return Ok(());
        }
        if i64::from(batch.last_offset_delta) + 1 != i64::from(batch.count) {
            return Err(batch::Fault::Count { said: batch.count, bytes_left: 0 });
        }
        if self.level != Verify::Full {
            self.count_unread(batch);
            return Ok(());
        }
        let codec = Codec::from_attributes(batch.attributes).map_err(|_| batch::Fault::Codec)?;
        if codec == Codec::None {
            return self.each(Records::new(batch.records, batch.count), batch);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let done = codec
            .decompress(batch.records, DECOMPRESSED_MAX, &mut scratch)
            .map_err(|_| batch::Fault::Codec)
            .and_then(|()| self.each(Records::new(&scratch, batch.count), batch));
        self.scratch = scratch;
        done
    }

    fn each(&mut self, mut records: Records<'_>, batch: &Batch<'_>) -> Result<(), batch::Fault> {
        let mut delta = 0_i64;
        while let Some(record) = records.read_next()? {
            let offset = batch.base_offset.saturating_add(delta);
            self.findings.read += 1;
            let bytes = record.value.map_or(0, <[u8]>::len);
            self.value_bytes += u64::try_from(bytes).unwrap_or(0);
            if record.offset_delta != delta {
                self.findings.gaps += 1;
            }
            match record.value.and_then(Identity::split) {
                None => self.foreign(offset),
                Some((identity, filler)) => self.record(offset, delta, &identity, filler),
            }
            delta += 1;
        }
        Ok(())
    }

    /// Checks one record: `delta` is its place in its batch.
    fn record(&mut self, offset: i64, delta: i64, identity: &Identity, filler: &[u8]) {
        let run = *self.run.get_or_insert(identity.run);
        if identity.run != run || identity.partition != self.partition {
            return self.foreign(offset);
        }
        if !self.filler_is_right(identity, filler) {
            self.findings.corrupt += 1;
            let partition = self.partition;
            self.findings.say(|| {
                format!("partition {partition}, offset {offset}: not the bytes that were sent")
            });
        }
        let knows_sent = self.knows_sent;
        let Some(stream) = self.stream(identity.producer) else { return self.foreign(offset) };
        let beyond = stream.expected.sent.is_some_and(|sent| identity.sequence >= sent);
        if beyond || (knows_sent && !stream.known) {
            return self.foreign(offset);
        }
        if delta == 0 && !stream.is_at_its_place(identity.sequence, offset) {
            self.findings.misplaced += 1;
            let (partition, producer, sequence) =
                (self.partition, identity.producer, identity.sequence);
            self.findings.say(|| {
                format!(
                    "partition {partition}: record {producer}:{sequence} is at offset {offset}, \
                     not where it was acknowledged"
                )
            });
        }
        let Some(stream) = self.stream(identity.producer) else { return };
        if identity.sequence == stream.next {
            stream.next += 1;
            return;
        }
        let deviation = stream.out_of_step(identity.sequence);
        let next = stream.next;
        let what = match deviation {
            Deviation::Ahead => {
                "came before those it should follow (they are lost, or reordered if they come)"
            }
            Deviation::Late => {
                self.findings.reordered += 1;
                "came late"
            }
            Deviation::Again => {
                self.findings.duplicate += 1;
                "came again"
            }
        };
        let (partition, producer, sequence) =
            (self.partition, identity.producer, identity.sequence);
        self.findings.say(|| {
            format!(
                "partition {partition}, offset {offset}: record {producer}:{sequence} {what}; \
                 next is {next}"
            )
        });
    }

    fn foreign(&mut self, offset: i64) {
        self.findings.foreign += 1;
        let partition = self.partition;
        self.findings.say(|| {
            format!("partition {partition}, offset {offset}: this run did not send that here")
        });
    }

    fn filler_is_right(&mut self, identity: &Identity, filler: &[u8]) -> bool {
        let zero_percent = identity.filler.zero_percent;
        if zero_percent > 100 {
            return false;
        }
        let pool = match &mut self.pool {
            Some(pool) if pool.is_of(identity.run, zero_percent) => pool,
            pool => pool.insert(Pool::new(identity.run, zero_percent, filler.len())),
        };
        if let Some(window) = pool.window(identity.filler, filler.len()) {
            return window == filler;
        }
        pool.widen(filler.len());
        pool.window(identity.filler, filler.len()).is_some_and(|window| window == filler)
    }

    fn stream(&mut self, producer: u32) -> Option<&mut Stream> {
        if producer >= PRODUCERS_MAX {
            return None;
        }
        let at = num::index(u64::from(producer));
        if at >= self.streams.len() {
            self.streams.resize_with(at + 1, Stream::default);
        }
        self.streams.get_mut(at)
    }

    /// Ends the check: what was acknowledged and did not come is lost.
    #[must_use]
    pub fn finish(mut self) -> Findings {
        if self.level != Verify::Full {
            // Records of nobody we know: their number is all that can be compared.
            self.findings.lost += self.findings.acked.saturating_sub(self.findings.read);
            return self.findings;
        }
        for (producer, stream) in self.streams.iter().enumerate() {
            let acked = if self.knows_acked { stream.expected.acked } else { stream.next };
            let holes = stream.holes.iter();
            let inside: u64 =
                holes.map(|(first, end)| end.min(&acked).saturating_sub(*first)).sum();
            let lost = inside + stream.forgotten + acked.saturating_sub(stream.next);
            self.findings.lost += lost;
            let partition = self.partition;
            if lost > 0 {
                let next = stream.next;
                self.findings.say(|| {
                    format!(
                        "partition {partition}: {lost} of {acked} records of connection \
                         {producer} are missing; the last that came is before {next}"
                    )
                });
            }
            if let Offsets::Hash(places) = stream.expected.offsets
                && lost == 0
                && places != stream.places
            {
                self.findings.misplaced += 1;
                self.findings.say(|| {
                    format!(
                        "partition {partition}: records of connection {producer} are not at \
                         the offsets at which they were acknowledged"
                    )
                });
            }
        }
        self.findings
    }
}

/// How a record is out of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deviation {
    /// Others should have come before it.
    Ahead,
    /// It should have come before; now it has.
    Late,
    /// It has come before.
    Again,
}

impl Stream {
    /// Notes a sequence that is not the next one.
    fn out_of_step(&mut self, sequence: u64) -> Deviation {
        if sequence > self.next {
            if self.holes.len() < HOLES_MAX {
                self.holes.insert(self.next, sequence);
            } else {
                let acked = self.expected.acked.max(self.next);
                self.forgotten += sequence.min(acked).saturating_sub(self.next);
            }
            self.next = sequence + 1;
            return Deviation::Ahead;
        }
        let hole = self.holes.range(..=sequence).next_back().map(|(first, end)| (*first, *end));
        match hole {
            Some((first, end)) if sequence < end => {
                self.holes.remove(&first);
                if first < sequence {
                    self.holes.insert(first, sequence);
                }
                if sequence + 1 < end {
                    self.holes.insert(sequence + 1, end);
                }
                Deviation::Late
            }
            _ => Deviation::Again,
        }
    }

    /// Whether the batch that begins with `sequence` is where its acknowledgement said, as far as
    /// that can be told now.
    fn is_at_its_place(&mut self, sequence: u64, offset: i64) -> bool {
        match &self.expected.offsets {
            Offsets::Unknown => true,
            Offsets::Hash(_) => {
                if sequence < self.expected.acked {
                    self.places.add(sequence, offset);
                }
                true
            }
            Offsets::Runs(runs) => {
                let holds = |run: &Run| {
                    run.first_sequence <= sequence && sequence - run.first_sequence < run.records
                };
                let mut at = self.run;
                if !runs.get(at).is_some_and(holds) {
                    at = runs.partition_point(|run| run.first_sequence <= sequence);
                    at = at.saturating_sub(1);
                    self.run = at;
                }
                runs.get(at).is_none_or(|run| {
                    !holds(run) || {
                        let from_first = sequence - run.first_sequence;
                        offset.checked_sub(run.first_offset).map(i64::cast_unsigned)
                            == Some(from_first)
                    }
                })
            }
        }
    }
}

#[cfg(test)]
mod tests;
