//! What a group commit writes and syncs: a circle of entries in one pre-written file.
//!
//! ```text
//! | slot A, 4 KiB | slot B, 4 KiB | entry | entry | ... | free | entry | ...            |
//!                                 ^ START  ^ head (next)        ^ tail (oldest needed)   ^ capacity
//! ```
//!
//! A slot names the journal (a random id, so that entries of its earlier lives are never taken
//! for its own) and the place of the oldest entry that recovery still needs. The two are written
//! in turn, so that a torn one leaves the other.
//!
//! **Invariants**
//! - One entry is in flight at a time: entry `n` is durable before `n + 1` is written. So the
//!   first entry that does not read back ends the journal, and a whole entry *behind* it is
//!   proof of damage, not of a torn tail.
//! - An entry's room is used again only after a slot that no longer needs it is durable, and that
//!   slot is written only after the files that the entry speaks of were synced.
//! - No block and no size of the file changes while it is used: it is filled with zeros, synced,
//!   step by step ahead of the head.

pub(crate) mod entry;
#[cfg(test)]
mod tests;

use crate::checkpoint::write_all;
use crate::io::turn::SyncTurn;
use crate::io::{File, Io, OpenMode};
use crate::num;
use crc_fast::crc32_iscsi;
use entry::{Entry, HEAD_BYTES, Item, SECTOR_BYTES, sectors};
use std::future::Future;
use std::io;
use std::path::Path;

/// The journal's name in a shard's directory.
pub(crate) const FILE_NAME: &str = "kariz.journal";
/// Each slot has a page of its own, so that writing one never touches the other.
const SLOT_BYTES: u64 = 4096;
/// Where the circle begins.
const START: u64 = 2 * SLOT_BYTES;
const SLOT_MAGIC: [u8; 8] = *b"KARIZJRN";
const SLOT_VERSION: u32 = 1;
/// The first zeros, and each further step: small enough that a new shard serves at once.
const FILL_STEP_BYTES: u64 = 4 << 20;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The place of an entry: where it begins, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    sequence: u64,
    position: u64,
}

/// Why a journal could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Release older entries first.
    #[error("the journal is full: {need} bytes do not fit")]
    Full { need: u64 },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a journal could not be replayed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A later entry is whole although an earlier one is not: the disk lost what it had synced.
    #[error("entry {missing} is damaged, but entry {found} behind it is whole")]
    Damaged { missing: u64, found: u64 },
}

/// The journal of one core.
pub(crate) struct Journal<I: Io> {
    file: I::File,
    id: u64,
    /// Counts slots, so that the newer one is known; its parity names the slot.
    slot_count: u64,
    tail: Place,
    head: Place,
    capacity: u64,
    size: u64,
    turn: SyncTurn,
}

impl<I: Io> Journal<I> {
    /// Begins an empty journal in the file at `path`, which is made if it is not there. Whatever
    /// the file held before is forgotten: replay it first.
    pub(crate) async fn begin(io: &I, path: &Path, size: u64) -> io::Result<Self> {
        let file = match io.open(path, OpenMode::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => io.open(path, OpenMode::Create)?,
            opened => opened?,
        };
        let size = size.max(START + 2 * FILL_STEP_BYTES.min(size)).next_multiple_of(SECTOR_BYTES);
        let slot_count = slots(&file)?.map(|s| s.count).max().unwrap_or(0);
        let first = Place { sequence: 1, position: START };
        let id = io.random();
        let (tail, head, turn) = (first, first, SyncTurn::default());
        let mut journal = Self { file, id, slot_count, tail, head, capacity: START, size, turn };
        // Both slots: an old one that outlived a torn write must not name an old circle.
        journal.write_slot(first)?;
        journal.file.sync().await?;
        journal.write_slot(first)?;
        journal.file.sync().await?;
        // However long the file is: after a failed sync its length reads back and is not on the
        // disk. Behind the slots, for zeros in an old circle would be taken for damage.
        journal.fill(FILL_STEP_BYTES)?;
        journal.file.sync().await?;
        Ok(journal)
    }

    /// Whether more than half of the circle is waiting to be released.
    pub(crate) fn is_half_full(&self) -> bool {
        self.used() * 2 > self.capacity - START
    }

    /// The largest entry that the circle should take: a quarter of what it is now, so that it fits
    /// wherever the head stands once all before it is released.
    pub(crate) fn entry_bytes_max(&self) -> usize {
        num::index((self.capacity - START) / 4)
    }

    /// Writes `entry` at the head; durable once a `sync` that is asked for later has succeeded.
    ///
    /// # Errors
    /// [`WriteError::Full`]: nothing was written; `release`, then try again.
    pub(crate) fn write(&mut self, entry: &mut Entry) -> Result<(), WriteError> {
        let need = sectors(entry.len());
        let position = self.place_for(need).ok_or(WriteError::Full { need })?;
        write_all(&self.file, entry.seal(self.id, self.head.sequence), position)?;
        self.head = Place { sequence: self.head.sequence + 1, position: position + need };
        Ok(())
    }

    /// Makes all that was written durable. After one sync that failed all fail.
    pub(crate) fn sync(&self) -> impl Future<Output = io::Result<()>> + 'static {
        let (file, turn) = (self.file.clone(), self.turn.clone());
        async move { turn.run(async { file.sync().await }).await }
    }

    /// The place of the next entry: `release` up to it once all before it is durable elsewhere.
    pub(crate) fn end(&self) -> Place {
        self.head
    }

    /// Notes that no entry before `end` is needed. Their room may be used once a `sync` that is
    /// asked for after this has succeeded: then call [`Self::released`].
    pub(crate) fn release(&mut self, end: Place) -> io::Result<()> {
        self.write_slot(end)
    }

    /// The slot that [`Self::release`] wrote is durable.
    pub(crate) fn released(&mut self, end: Place) {
        debug_assert!(self.tail.sequence <= end.sequence && end.sequence <= self.head.sequence);
        self.tail = end;
    }

    /// Makes the circle larger by another step of zeros, until it has its full size. Returns
    /// whether anything was done; the zeros count once `sync` has succeeded and [`Self::grown`]
    /// was called with the length that this returns.
    pub(crate) fn grow(&self) -> io::Result<Option<u64>> {
        if self.capacity >= self.size {
            return Ok(None);
        }
        let to = (self.capacity + FILL_STEP_BYTES).min(self.size);
        if let Err(error) = fill(&self.file, self.capacity, to) {
            // Half a step is of no use, and takes the room of others.
            let _best_effort = self.file.set_len(self.capacity);
            return Err(error);
        }
        Ok(Some(to))
    }

    /// The zeros up to `capacity` are durable.
    pub(crate) fn grown(&mut self, capacity: u64) {
        self.capacity = self.capacity.max(capacity.min(self.size));
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let to = (self.capacity + bytes).min(self.size);
        fill(&self.file, self.capacity, to)?;
        self.capacity = to;
        Ok(())
    }

    fn used(&self) -> u64 {
        if self.tail.sequence == self.head.sequence {
            0
        } else if self.head.position > self.tail.position {
            self.head.position - self.tail.position
        } else {
            self.capacity - self.tail.position + self.head.position - START
        }
    }

    /// Where an entry of `need` bytes may go: at the head, or at the start of the circle.
    fn place_for(&self, need: u64) -> Option<u64> {
        let (head, tail) = (self.head.position, self.tail.position);
        let is_empty = self.tail.sequence == self.head.sequence;
        if is_empty || head > tail {
            if head + need <= self.capacity {
                return Some(head);
            }
            return (START + need < tail).then_some(START);
        }
        // Never up to the tail itself: head equal to tail would read as empty.
        (head + need < tail).then_some(head)
    }

    fn write_slot(&mut self, tail: Place) -> io::Result<()> {
        self.slot_count += 1;
        let mut slot = [0; 48];
        slot[..8].copy_from_slice(&SLOT_MAGIC);
        slot[12..16].copy_from_slice(&SLOT_VERSION.to_be_bytes());
        slot[16..24].copy_from_slice(&self.slot_count.to_be_bytes());
        slot[24..32].copy_from_slice(&self.id.to_be_bytes());
        slot[32..40].copy_from_slice(&tail.sequence.to_be_bytes());
        slot[40..48].copy_from_slice(&tail.position.to_be_bytes());
        let crc = crc32_iscsi(&slot[12..]);
        slot[8..12].copy_from_slice(&crc.to_be_bytes());
        write_all(&self.file, &slot, self.slot_count % 2 * SLOT_BYTES)
    }
}

fn fill<F: File>(file: &F, mut from: u64, to: u64) -> io::Result<()> {
    while from < to {
        let n = num::index((to - from).min(ZEROS.len() as u64));
        write_all(file, ZEROS.get(..n).unwrap_or(&ZEROS), from)?;
        from += n as u64;
    }
    Ok(())
}

struct Slot {
    count: u64,
    id: u64,
    tail: Place,
}

/// The slots of `file` that read back whole.
fn slots<F: File>(file: &F) -> io::Result<impl Iterator<Item = Slot>> {
    let mut found = [None, None];
    for (slot, at) in found.iter_mut().zip([0, SLOT_BYTES]) {
        let mut bytes = [0; 48];
        if read_full(file, &mut bytes, at)? == bytes.len() {
            *slot = parse_slot(&bytes);
        }
    }
    Ok(found.into_iter().flatten())
}

fn parse_slot(bytes: &[u8; 48]) -> Option<Slot> {
    let field = |at: usize| -> Option<u64> {
        Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let crc = crc32_iscsi(&bytes[12..]).to_be_bytes();
    let version = SLOT_VERSION.to_be_bytes();
    if bytes[..8] != SLOT_MAGIC || bytes[8..12] != crc || bytes[12..16] != version {
        return None;
    }
    let tail = Place { sequence: field(32)?, position: field(40)? };
    Some(Slot { count: field(16)?, id: field(24)?, tail })
}

fn read_full<F: File>(file: &F, buf: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64)? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Hands every item of the journal at `path`, oldest first, to `visit`; a journal that is not
/// there, or was never begun, has none. Returns the number of entries.
///
/// # Errors
/// Those of the disk and of `visit`, and [`ReplayError::Damaged`].
pub(crate) fn replay<I: Io>(
    io: &I,
    path: &Path,
    mut visit: impl FnMut(&Item<'_>) -> io::Result<()>,
) -> Result<u64, ReplayError> {
    match open(io, path, OpenMode::Read)? {
        Some(file) => each_entry(&file, |_, _, payload| {
            entry::items(payload).try_for_each(|item| visit(&item))
        }),
        None => Ok(0),
    }
}

/// Whether there is a journal at `path` that tells where it begins: one that was ever begun does,
/// unless it was damaged.
pub(crate) fn is_there<I: Io>(io: &I, path: &Path) -> io::Result<bool> {
    match open(io, path, OpenMode::Read)? {
        Some(file) => Ok(slots(&file)?.next().is_some()),
        None => Ok(false),
    }
}

/// Makes the journal at `path` durable if it speaks of a cut: an entry whose sync failed reads back
/// all the same, and must not be obeyed now and gone at the next start.
///
/// # Errors
/// As those of [`replay`].
pub(crate) async fn write_again<I: Io>(io: &I, path: &Path) -> Result<(), ReplayError> {
    let Some(file) = open(io, path, OpenMode::Write)? else { return Ok(()) };
    let mut cuts = false;
    each_entry(&file, |_, _, payload| {
        cuts |= entry::items(payload).any(|item| item.kind == entry::Kind::Truncated);
        Ok(())
    })?;
    if cuts {
        each_entry(&file, |position, bytes, _| write_all(&file, bytes, position))?;
        file.sync().await?;
    }
    Ok(())
}

fn open<I: Io>(io: &I, path: &Path, how: OpenMode) -> io::Result<Option<I::File>> {
    match io.open(path, how) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Shows every entry that is needed, oldest first, to `visit`: where it lies, its bytes, and its
/// payload. Returns how many there are.
fn each_entry<F: File>(
    file: &F,
    mut visit: impl FnMut(u64, &[u8], &[u8]) -> io::Result<()>,
) -> Result<u64, ReplayError> {
    let Some(slot) = slots(file)?.max_by_key(|s| s.count) else {
        return Ok(0);
    };
    let len = file.len()?;
    let mut next = slot.tail;
    let mut entries = 0;
    let mut buffer = Vec::new();
    loop {
        let at_next = read_entry(file, slot.id, next, len, &mut buffer)?;
        let at_start = Place { position: START, ..next };
        let head = match at_next {
            Some(head) => head,
            // The writer goes back to the start where an entry does not fit before the end.
            None => match read_entry(file, slot.id, at_start, len, &mut buffer)? {
                Some(head) if next.position != START => {
                    next = at_start;
                    head
                }
                _ => break,
            },
        };
        let payload = entry::payload(&head, &buffer).unwrap_or_default();
        visit(next.position, &buffer, payload)?;
        entries += 1;
        let bytes = sectors(HEAD_BYTES + payload.len());
        next = Place { sequence: next.sequence + 1, position: next.position + bytes };
    }
    match find_later(file, slot.id, next.sequence, len)? {
        Some(found) => Err(ReplayError::Damaged { missing: next.sequence, found }),
        None => Ok(entries),
    }
}

/// Reads the entry at `place` into `buffer`, if it is that entry, whole.
fn read_entry<F: File>(
    file: &F,
    id: u64,
    place: Place,
    len: u64,
    buffer: &mut Vec<u8>,
) -> io::Result<Option<entry::Head>> {
    let mut first = [0; HEAD_BYTES];
    if place.position >= len || read_full(file, &mut first, place.position)? < HEAD_BYTES {
        return Ok(None);
    }
    let Some(head) = entry::head(&first) else {
        return Ok(None);
    };
    let bytes = HEAD_BYTES as u64 + u64::from(head.payload_bytes);
    if head.journal != id || head.sequence != place.sequence || place.position + bytes > len {
        return Ok(None);
    }
    buffer.resize(num::index(bytes), 0);
    if read_full(file, buffer, place.position)? < buffer.len() {
        return Ok(None);
    }
    let whole = entry::payload(&head, buffer)
        .is_some_and(|p| u32::try_from(entry::items(p).count()).is_ok_and(|n| n == head.items));
    Ok(whole.then_some(head))
}

/// A whole entry of this journal with a sequence above `missing`, wherever it lies.
fn find_later<F: File>(file: &F, id: u64, missing: u64, len: u64) -> io::Result<Option<u64>> {
    let mut chunk = vec![0; 256 << 10];
    let mut buffer = Vec::new();
    let mut at = START;
    while at < len {
        let filled = read_full(file, &mut chunk, at)?;
        for (i, sector) in chunk[..filled].chunks(num::index(SECTOR_BYTES)).enumerate() {
            let Some(head) = entry::head(sector) else {
                continue;
            };
            let place = Place { sequence: head.sequence, position: at + i as u64 * SECTOR_BYTES };
            if head.journal == id
                && head.sequence > missing
                && read_entry(file, id, place, len, &mut buffer)?.is_some()
            {
                return Ok(Some(head.sequence));
            }
        }
        at += chunk.len() as u64;
    }
    Ok(None)
}
