//! What is compared with what.

use crate::job::Durability;

/// Batches of a turn: what 64 connections bring at once, with a request of each.
const TURN_BATCHES: usize = 64;
/// Bytes of a turn at most. Source: the engine stages no more before it writes.
const TURN_BYTES_MAX: usize = 256 << 10;
/// Batches of one sync: alone, and what 64 connections wait for together.
const DURABLE_GROUPS: [usize; 2] = [1, 64];

/// The ceiling's name.
pub(crate) const CEILING: &str = "pwritev";

/// Who appends, and how.
#[derive(Clone, Copy)]
pub(crate) struct Subject {
    /// What it is called, here and there.
    pub(crate) name: &'static str,
    pub(crate) durability: Durability,
    /// Whether it is in the other program.
    pub(crate) is_rival: bool,
    /// How it gets there.
    pub(crate) says: &'static str,
}

const fn own(name: &'static str, durability: Durability, says: &'static str) -> Subject {
    Subject { name, durability, is_rival: false, says }
}

const fn rival(name: &'static str, durability: Durability, says: &'static str) -> Subject {
    Subject { name, durability, is_rival: true, says }
}

/// Those that append to the page cache.
const CACHED: [Subject; 8] = [
    own(CEILING, Durability::PageCache, "one `pwritev` a turn into preallocated files"),
    own(
        CEILING,
        Durability::Behind,
        "the same, and a thread on the same CPU syncs what was written, every 256 MiB",
    ),
    own(
        "kariz",
        Durability::PageCache,
        "`write.caching=true`: nobody waits for a sync, and files are synced every 256 MiB, on the \
         same CPU",
    ),
    own(
        "kariz-parse",
        Durability::PageCache,
        "as `kariz`, and each batch is parsed before, CRC and all",
    ),
    own(
        "kariz",
        Durability::Behind,
        "the default contract: each batch is synced some milliseconds behind, journalled or in its \
         file, and appends are held to what the disk takes",
    ),
    rival(
        "commitlog",
        Durability::PageCache,
        "one `append` of a `MessageBuf` a turn, which is filled and has its CRCs computed there",
    ),
    rival(
        "mrecordlog",
        Durability::PageCache,
        "one `append_records` a turn, then `sync`, which writes out its buffer; all records stay \
         in memory besides",
    ),
    rival(
        "walrus-rust",
        Durability::PageCache,
        "`append_for_topic` each, `FsyncSchedule::NoFsync`; it syncs each block of 10 MB all the same",
    ),
];

/// Those that sync.
const DURABLE: [Subject; 4] = [
    own(
        CEILING,
        Durability::Durable,
        "one `pwritev` and one `fdatasync` a group, over blocks written before",
    ),
    own("kariz", Durability::Durable, "`reach(Mark::Durable)` of each group's last batch"),
    rival(
        "okaywal",
        Durability::Durable,
        "an entry a group, a chunk a batch; it writes a segment's zeros before it uses it, the first \
         one's before the clock starts",
    ),
    rival(
        "walrus-rust",
        Durability::Durable,
        "alone `append_for_topic` with `FsyncSchedule::SyncEach`, in groups \
         `batch_append_for_topic`, which syncs at its end",
    ),
];

/// What cannot be compared, and why.
pub(crate) const MISSING: [(&str, Durability, &str); 3] = [
    (
        "okaywal",
        Durability::PageCache,
        "every commit of an entry syncs; there is no other end of it",
    ),
    (
        "commitlog",
        Durability::Durable,
        "its `flush` calls `File::flush`, which does nothing, and `msync` on the index: no `fsync` \
         of the log anywhere",
    ),
    (
        "mrecordlog",
        Durability::Durable,
        "its `sync` flushes a `BufWriter` into the page cache: no `fsync` anywhere, with any policy",
    ),
];

/// Those that do the same at the same size, and are compared.
pub(crate) struct Row {
    pub(crate) batch_bytes: usize,
    pub(crate) group: usize,
    /// The first is the ceiling.
    pub(crate) subjects: Vec<Subject>,
}

impl Row {
    /// As it is called in the table.
    pub(crate) fn name(&self) -> String {
        let how = match self.is_durable() {
            true => format!("durable, {} a sync", self.group),
            false => format!("page cache, {} a turn", self.group),
        };
        format!("{} B, {how}", self.batch_bytes)
    }

    pub(crate) fn is_durable(&self) -> bool {
        self.subjects.iter().all(|s| s.durability == Durability::Durable)
    }
}

/// All rows of batches of so many bytes; without rivals only what is our own.
pub(crate) fn rows(batch_bytes: usize, with_rivals: bool) -> Vec<Row> {
    let subjects = |all: &[Subject]| -> Vec<Subject> {
        all.iter().filter(|s| with_rivals || !s.is_rival).copied().collect()
    };
    let turn = TURN_BATCHES.min(TURN_BYTES_MAX / batch_bytes.max(1)).max(1);
    let mut rows = vec![Row { batch_bytes, group: turn, subjects: subjects(&CACHED) }];
    let durable = |group| Row { batch_bytes, group, subjects: subjects(&DURABLE) };
    rows.extend(DURABLE_GROUPS.map(durable));
    rows
}
