//! One file's bytes, twice: as a process reads them now, and as the disk has them.
//!
//! ```text
//!   now      |aaaa|bBBB|cccc|DDDD|DD        written, in the page cache
//!   dirty          ^^^^      ^^^^ ^^        sectors written since the last sync
//!   durable  |aaaa|bbbb|cccc|.              what a power cut is certain to leave
//! ```
//!
//! The disk writes whole sectors, in any order. So a power cut leaves each dirty sector either as
//! it was or as it is, independently, and the length at any step of its way since the last sync.
//!
//! **Invariant:** a sector that is neither dirty nor lost to a failed sync is the same in both.

use super::rng::Rng;
use std::collections::BTreeMap;
use std::io::IoSlice;

/// The unit that the disk writes whole. Source: the smallest logical block of SATA and NVMe disks.
pub(super) const SECTOR_BYTES: usize = 512;

/// The unit in which room is allocated. Source: ext4's and XFS's default block size.
pub(super) const BLOCK_BYTES: u64 = 4096;

/// Steps of a file's length remembered between two syncs; above, neighbouring ones are one.
const LENGTHS_MAX: usize = 64;

/// A step of the length that is not durable.
#[derive(Clone, Copy, Debug)]
struct Length {
    seq: u64,
    len: usize,
    /// The shortest that the file was cut to: beyond it the disk's bytes are no longer its own.
    cut: usize,
}

/// What a sync covers: the file as it was when it was called.
#[derive(Debug)]
pub(super) struct Capture {
    seq: u64,
    /// The new length, and the shortest that the file was cut to on the way there.
    length: Option<(usize, usize)>,
    /// A dirty sector's number, and where its bytes lie in `bytes`.
    sectors: Vec<(usize, std::ops::Range<usize>)>,
    bytes: Vec<u8>,
}

/// What a power cut does to what is not durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Survival {
    /// All of it is lost.
    Nothing,
    /// All of it had reached the disk.
    Everything,
    /// What was done before this moment had.
    Until(u64),
    /// Each sector had with a chance of its own file's, whatever its age.
    Any,
}

/// A file's bytes.
#[derive(Debug, Default)]
pub(super) struct Content {
    now: Vec<u8>,
    /// May be longer than `durable_len`: sectors that the disk has, of a length that it has not.
    durable: Vec<u8>,
    durable_len: usize,
    /// Dirty sectors, each with the moment of its last write.
    dirty: BTreeMap<usize, u64>,
    lengths: Vec<Length>,
    /// The moment that the last completed sync covered.
    synced: u64,
    blocks: Blocks,
}

impl Content {
    /// A file that holds `bytes`, durable.
    pub(super) fn settled(bytes: Vec<u8>) -> Self {
        let mut content = Self { durable_len: bytes.len(), ..Self::default() };
        content.blocks.take(0, super::to_u64(bytes.len()));
        content.durable.clone_from(&bytes);
        content.now = bytes;
        content
    }

    /// The bytes as a process reads them.
    pub(super) fn now(&self) -> &[u8] {
        &self.now
    }

    /// The bytes that a power cut is certain to leave, as long as no length is pending.
    pub(super) fn durable(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        bytes.resize(self.durable_len, 0);
        bytes
    }

    /// The blocks it has.
    pub(super) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Allocates the blocks of `len` bytes at `at`.
    pub(super) fn allocate(&mut self, at: u64, len: u64) {
        self.blocks.take(at, len);
    }

    /// Frees all blocks: nobody can read the file any more.
    pub(super) fn free(&mut self) -> u64 {
        let count = self.blocks.count;
        self.blocks = Blocks::default();
        count
    }

    /// Writes the first `n` bytes of `slices` at `at`. `flushed` says, of a sector about to be
    /// overwritten, whether the disk had it already.
    pub(super) fn write(
        &mut self,
        slices: &[IoSlice<'_>],
        n: usize,
        at: usize,
        seq: u64,
        mut flushed: impl FnMut() -> bool,
    ) {
        if n == 0 {
            return;
        }
        let end = at + n;
        for sector in at / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            self.touch(sector, seq, &mut flushed);
        }
        if end > self.now.len() {
            self.now.resize(end, 0);
            self.note_growth(seq);
        } else if end == self.now.len() && end > self.durable_len && self.lengths.is_empty() {
            // A failed sync lost the length: writing the end again brings it to the disk, as it
            // does on ext4 and XFS, where the write-back of a page sets the length up to its end.
            self.note_growth(seq);
        }
        self.blocks.take(super::to_u64(at), super::to_u64(n));
        let mut at = at;
        for slice in slices {
            let part = slice.len().min(end - at);
            self.now[at..at + part].copy_from_slice(&slice[..part]);
            at += part;
        }
    }

    /// Cuts or extends the file.
    pub(super) fn set_len(&mut self, len: usize, seq: u64, mut flushed: impl FnMut() -> bool) {
        if len == self.now.len() {
            return;
        }
        if len < self.now.len() {
            let cut = self.dirty.split_off(&len.div_ceil(SECTOR_BYTES));
            for sector in cut.into_keys() {
                if flushed() {
                    self.flush(sector);
                }
            }
            // The rest of the last sector becomes zeros, which is a write as any other.
            if !len.is_multiple_of(SECTOR_BYTES) {
                self.touch(len / SECTOR_BYTES, seq, &mut flushed);
            }
            self.blocks.release_from(super::to_u64(len));
            self.now.truncate(len);
            self.lengths.push(Length { seq, len, cut: len });
        } else {
            self.now.resize(len, 0);
            self.note_growth(seq);
        }
    }

    /// Marks `sector` written at `seq`, before its bytes change.
    fn touch(&mut self, sector: usize, seq: u64, flushed: &mut impl FnMut() -> bool) {
        let dirty = self.dirty.insert(sector, seq).is_some();
        if dirty && flushed() {
            self.flush(sector);
        }
    }

    /// The disk writes `sector` as it is now.
    fn flush(&mut self, sector: usize) {
        let start = sector * SECTOR_BYTES;
        let end = (start + SECTOR_BYTES).min(self.now.len());
        if start < end {
            put(&mut self.durable, start, &self.now[start..end]);
        }
    }

    fn note_growth(&mut self, seq: u64) {
        let len = self.now.len();
        let full = self.lengths.len() >= LENGTHS_MAX;
        match self.lengths.last_mut() {
            Some(last) if full => *last = Length { seq, len, cut: last.cut },
            _ => self.lengths.push(Length { seq, len, cut: usize::MAX }),
        }
    }

    /// The shortest that the file was cut to in the first `steps` steps.
    fn shortest_cut(&self, steps: usize) -> usize {
        self.lengths[..steps].iter().map(|length| length.cut).min().unwrap_or(usize::MAX)
    }

    /// What a sync called now covers.
    pub(super) fn capture(&self, seq: u64) -> Capture {
        let mut bytes = Vec::with_capacity(self.dirty.len() * SECTOR_BYTES);
        let mut sectors = Vec::with_capacity(self.dirty.len());
        for &sector in self.dirty.keys() {
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.now.len());
            let from = bytes.len();
            bytes.extend_from_slice(&self.now[start..end]);
            sectors.push((sector, from..bytes.len()));
        }
        let pending = self.lengths.len();
        let length = (pending > 0).then(|| (self.now.len(), self.shortest_cut(pending)));
        Capture { seq, length, sectors, bytes }
    }

    /// A sync has ended well: what it covers is durable.
    pub(super) fn settle(&mut self, capture: &Capture) {
        if capture.seq < self.synced {
            return; // A later call that ended earlier covered more.
        }
        self.synced = capture.seq;
        if let Some((len, cut)) = capture.length {
            self.settle_length(len, cut, capture.seq);
        }
        for (sector, range) in &capture.sectors {
            put(&mut self.durable, sector * SECTOR_BYTES, &capture.bytes[range.clone()]);
            self.clean(*sector, capture.seq);
        }
    }

    /// A sync has failed. As Linux does, each page it covered is clean from now on, and on the disk
    /// or not. The syncs still on their way, `others`, will not bring back what is lost.
    pub(super) fn lose<'a>(
        &mut self,
        capture: &Capture,
        others: impl Iterator<Item = &'a mut Capture>,
        rng: &mut Rng,
    ) {
        let length_lost = capture.length.is_some() && rng.coin();
        if let Some((len, cut)) = capture.length {
            if length_lost {
                self.lengths.retain(|length| length.seq > capture.seq);
            } else {
                self.settle_length(len, cut, capture.seq);
            }
        }
        let mut lost = Vec::new();
        for (sector, range) in &capture.sectors {
            if rng.coin() {
                put(&mut self.durable, sector * SECTOR_BYTES, &capture.bytes[range.clone()]);
            } else {
                lost.push(*sector);
            }
            self.clean(*sector, capture.seq);
        }
        for other in others {
            let rewritten = |sector| self.dirty.contains_key(&sector);
            other
                .sectors
                .retain(|(sector, _)| lost.binary_search(sector).is_err() || rewritten(*sector));
            if length_lost {
                other.length = None;
            }
        }
    }

    fn settle_length(&mut self, len: usize, cut: usize, seq: u64) {
        // Cut there, and not at `len`: the disk may have sectors of a later, longer file.
        self.durable.truncate(cut);
        self.durable_len = len;
        self.lengths.retain(|length| length.seq > seq);
    }

    fn clean(&mut self, sector: usize, seq: u64) {
        if self.dirty.get(&sector).is_some_and(|written| *written <= seq) {
            self.dirty.remove(&sector);
        }
    }

    /// The power fails: what is left.
    pub(super) fn power_cut(mut self, survival: Survival, rng: &mut Rng) -> Self {
        let steps = match survival {
            Survival::Nothing => 0,
            Survival::Everything => self.lengths.len(),
            Survival::Until(seq) => self.lengths.partition_point(|length| length.seq <= seq),
            Survival::Any => rng.index(self.lengths.len() + 1),
        };
        let mut len = steps.checked_sub(1).map_or(self.durable_len, |last| self.lengths[last].len);
        let mut image = std::mem::take(&mut self.durable);
        image.truncate(self.shortest_cut(steps));
        // A step that makes the file longer may have got as far as any of its sectors.
        if let (Survival::Any, Some(next)) = (survival, self.lengths.get(steps))
            && next.len > len
            && rng.coin()
        {
            let sectors = len / SECTOR_BYTES..next.len / SECTOR_BYTES;
            len = len.max((sectors.start + rng.index(sectors.len() + 1)) * SECTOR_BYTES);
        }
        image.resize(len, 0);
        let odds = rng.below(9);
        for (&sector, &written) in &self.dirty {
            let survives = match survival {
                Survival::Nothing => false,
                Survival::Everything => true,
                Survival::Until(seq) => written <= seq,
                Survival::Any => rng.below(8) < odds,
            };
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.now.len()).min(len);
            if survives && start < end {
                image[start..end].copy_from_slice(&self.now[start..end]);
            }
        }
        Self::settled(image)
    }

    /// Evicts the clean pages: what a failed sync lost reads as the disk has it.
    pub(super) fn drop_caches(&mut self) {
        // Beyond a cut that is not durable the disk still has the old bytes, of another file's room.
        let cut = self.shortest_cut(self.lengths.len());
        for sector in 0..self.now.len().min(cut).div_ceil(SECTOR_BYTES) {
            if self.dirty.contains_key(&sector) {
                continue;
            }
            let start = sector * SECTOR_BYTES;
            let end = (start + SECTOR_BYTES).min(self.now.len());
            let held = self.durable.len().clamp(start, end);
            self.now[start..held].copy_from_slice(&self.durable[start..held]);
            self.now[held..end].fill(0);
        }
    }

    /// Overwrites bytes, in the cache and on the disk, as rot does; false beyond the end.
    pub(super) fn damage(&mut self, at: usize, change: impl Fn(u8) -> u8, n: usize) -> bool {
        let Some(range) = at.checked_add(n).filter(|end| *end <= self.now.len()) else {
            return false;
        };
        for i in at..range {
            self.now[i] = change(self.now[i]);
            if let Some(byte) = self.durable.get_mut(i) {
                *byte = change(*byte);
            }
        }
        true
    }
}

/// Writes `bytes` at `at`, after zeros if `disk` ends before.
fn put(disk: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if disk.len() < end {
        disk.resize(end, 0);
    }
    disk[at..end].copy_from_slice(bytes);
}

/// Which blocks of a file are allocated.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    words: Vec<u64>,
    count: u64,
}

impl Blocks {
    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many more `len` bytes at `at` need.
    pub(super) fn missing(&self, at: u64, len: u64) -> u64 {
        let held = block_range(at, len).filter(|block| self.holds(*block)).count();
        let all = block_range(at, len).count();
        super::to_u64(all - held)
    }

    /// Whether `block` is allocated.
    fn holds(&self, block: u64) -> bool {
        let word = self.words.get(super::to_usize(block / 64)).copied().unwrap_or(0);
        word >> (block % 64) & 1 == 1
    }

    fn take(&mut self, at: u64, len: u64) {
        for block in block_range(at, len) {
            if !self.holds(block) {
                let word = super::to_usize(block / 64);
                if self.words.len() <= word {
                    self.words.resize(word + 1, 0);
                }
                self.words[word] |= 1 << (block % 64);
                self.count += 1;
            }
        }
    }

    fn release_from(&mut self, len: u64) {
        let first = len.div_ceil(BLOCK_BYTES);
        for (i, word) in (0_u64..).zip(&mut self.words) {
            let kept = first.saturating_sub(i * 64);
            if kept < 64 {
                *word &= (1 << kept) - 1;
            }
        }
        self.count = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
    }
}

fn block_range(at: u64, len: u64) -> std::ops::Range<u64> {
    at / BLOCK_BYTES..at.saturating_add(len).div_ceil(BLOCK_BYTES)
}
