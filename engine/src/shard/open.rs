//! Opening a core's directory: what the journal, the checkpoints and the logs say is put together.
//!
//! 1. The journal is replayed: its bytes go back where they belong, its floors are noted.
//! 2. Each log is opened by the table in `log::recover`, its producers by snapshot and batches.
//! 3. All that was written again is synced, the checkpoints are written, and only then is the
//!    journal begun anew: a crash before that finds everything as it was.

use super::lifecycle::{Absent, Lost, Traces};
use super::{CLEAN_SHUTDOWN, Inner, Settings, Shard};
use crate::checkpoint::{self, Checkpoint, CheckpointError, read_file, replace_file, write_all};
use crate::futures::{Latch, Signal, join_all};
use crate::io::{File, Io, OpenMode};
use crate::journal::entry::{Item, Kind};
use crate::journal::{self, Journal};
use crate::log::recover::{Facts, Recovered, recover};
use crate::log::{Limits, is_shortage, names};
use crate::partition::core::{Core, OnEvent};
use crate::partition::{Event, Opened, Partition};
use crate::producer::Producers;
use crate::types::{Offset, ShardId, TopicId, TopicPartition};
use rustc_hash::FxHashMap;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// In the directory of a fenced partition: up to where its records were promised.
const FLOOR: &str = "kariz.floor";
/// Kafka's properties of a log directory.
const META: &str = "meta.properties";

/// What opening a core's directory found.
#[derive(Clone, Debug)]
pub struct RecoveryReport {
    /// Which core.
    pub shard: ShardId,
    /// Whether it had been shut down in order, or is new.
    pub was_clean: bool,
    /// Entries that were replayed from the journal.
    pub journal_entries: u64,
    /// How long it took.
    pub took: Duration,
    /// Each partition.
    pub partitions: Vec<PartitionRecovery>,
}

/// What opening a partition found.
#[derive(Clone, Debug)]
pub struct PartitionRecovery {
    /// Which one.
    pub partition: TopicPartition,
    /// Its topic's id.
    pub topic_id: TopicId,
    /// The first offset kept.
    pub log_start: Offset,
    /// The log end.
    pub log_end: Offset,
    /// Bytes behind what was promised that made no whole batch, and were moved aside.
    pub cut_bytes: u64,
    /// Why it does not serve, if so.
    pub fenced: Option<String>,
}

/// A partition's directory, and what is known of it before its log is looked at.
struct Found {
    name: TopicPartition,
    dir: PathBuf,
    topic_id: TopicId,
    facts: Facts,
    /// Up to where its records were promised by all but the journal.
    floor: Offset,
    /// Its names may not have been durable, and were given again.
    is_named_anew: bool,
}

impl Found {
    /// Whether the journal has told of it what nothing else tells.
    fn needs_journal(&self) -> bool {
        !self.facts.rewritten.is_empty() || self.facts.floor != self.floor
    }
}

/// What a core's directory holds, and what it ought to hold.
struct Listing {
    /// By what the journal calls them.
    partitions: BTreeMap<(TopicId, i32), Found>,
    absent: Absent,
    /// Those with records of which it cannot be told whose they are.
    unowned: Vec<TopicPartition>,
}

impl Listing {
    /// What the journal has of records whose owner cannot be told would go with it.
    fn check_unowned(&self) -> io::Result<()> {
        for name in &self.unowned {
            let same = self.absent.journalled.keys().filter(|(_, p)| *p == name.partition);
            let ids: Vec<String> = same.map(|(id, _)| id.to_string()).collect();
            if !ids.is_empty() {
                return Err(io::Error::other(format!(
                    "{name} has records and no {} that can be read, and the journal may hold the \
                     only copy of the last of them: restore that file. The journal knows such a \
                     partition of the topics with the ids {}",
                    names::METADATA,
                    ids.join(", ")
                )));
            }
        }
        Ok(())
    }
}

impl<I: Io> Shard<I> {
    /// Opens `settings.dir`, which is made if it is not there. Nothing serves before this returns.
    pub(crate) async fn open(
        io: I,
        settings: Settings,
        node_id: i32,
        cluster_id: &str,
        on_event: OnEvent,
    ) -> io::Result<(Self, RecoveryReport)> {
        let began = io.now();
        let dir = settings.dir.clone();
        let is_new = make_dir(&io, &dir).await?;
        let has_served = io.open(&dir.join(journal::FILE_NAME), OpenMode::Read).is_ok();
        let directory_id = meta_properties(&io, &dir, node_id, cluster_id, has_served).await?;
        let sign = dir.join(CLEAN_SHUTDOWN);
        let was_clean = is_new || io.open(&sign, OpenMode::Read).is_ok();

        names::end_naming(&io, &dir)?;
        let mut found = find_partitions(&io, &dir, was_clean, &on_event)?;
        let journal_path = dir.join(journal::FILE_NAME);
        let journal_entries = replay(&io, &journal_path, &mut found).await?;
        if !was_clean && !found.partitions.is_empty() && !journal::is_there(&io, &journal_path)? {
            let path = journal_path.display();
            let what = format!("{path} is missing or damaged: what only it held is lost");
            on_event(&Event::Warning { what });
        }
        found.check_unowned()?;
        let Listing { partitions, mut absent, .. } = found;
        let mut opened = Vec::new();
        for partition in partitions.into_values() {
            match open_partition(&io, &partition).await {
                Ok((recovered, producers, snapshot)) => {
                    warn_of_lost_start(&partition, &recovered, &on_event);
                    opened.push((partition, recovered, producers, snapshot));
                }
                Err(error) if is_shortage(&error) || partition.needs_journal() => {
                    return Err(names::with_path(&partition.dir, error));
                }
                Err(error) => {
                    let Facts { recovery_point, log_start, .. } = partition.facts;
                    let known = Lost { recovery_point, log_start };
                    absent.pass_over(partition.name, known, &partition.dir, &error, &on_event);
                }
            }
        }
        for some in opened.chunks(8) {
            let unsynced: Vec<_> = some.iter().map(|(_, r, _, _)| r.log.unsynced()).collect();
            join_all(unsynced.iter().map(|u| u.sync())).await.into_iter().zip(some).try_for_each(
                |(synced, (found, ..))| {
                    synced.map(drop).map_err(|error| names::with_path(&found.dir, error))
                },
            )?;
        }

        let report = RecoveryReport {
            shard: settings.id,
            was_clean,
            journal_entries,
            took: Duration::ZERO,
            partitions: opened.iter().map(|(found, r, _, _)| describe(found, r)).collect(),
        };
        for (found, recovered, _, _) in &opened {
            keep_floor(&io, found, recovered.fence.is_some()).await?;
        }
        // Before the checkpoint that says that they are durable.
        if opened.iter().any(|(found, ..)| found.is_named_anew) {
            io.sync_dir(&dir).await?;
        }
        if !was_clean || !absent.traces.names().is_empty() {
            write_checkpoints(&io, &dir, &opened, &absent).await?;
            for trace in absent.traces.names() {
                io.remove_dir(&dir.join(trace))?;
            }
        }
        // Whatever happens from here on needs recovery.
        names::remove_if_there(&io, &sign)?;
        if io.open(&journal_path, OpenMode::Read).is_ok() {
            names::name_anew(&io, &journal_path)?;
        }
        io.sync_dir(&dir).await?;
        let journal = Journal::begin(&io, &journal_path, settings.journal_bytes).await?;
        io.sync_dir(&dir).await?;

        let core = Rc::new(Core::new(
            io.clone(),
            on_event,
            journal.entry_bytes_max(),
            settings.dirty_bytes_max,
        ));
        core.metrics.fenced.add(absent.unopened() as u64);
        let mut partitions = FxHashMap::default();
        for (found, mut recovered, producers, snapshot) in opened {
            let unsynced = recovered.log.unsynced();
            recovered.log.synced(&unsynced);
            tell(&core, &found, &recovered);
            let Recovered { log, start, end, fence, .. } = recovered;
            let opened = Opened { log, start, end, producers, fence, snapshot };
            let partition =
                Partition::new(Rc::clone(&core), found.name.clone(), found.topic_id, opened);
            partitions.insert(found.name, partition);
        }
        let took = io.now() - began;
        let shard = Self(Rc::new(Inner {
            settings,
            directory_id,
            core,
            partitions: RefCell::new(partitions),
            journal: RefCell::new(journal),
            room: Signal::default(),
            committing: tokio::sync::Mutex::new(()),
            preparing: tokio::sync::Mutex::new(()),
            checkpointing: tokio::sync::Mutex::new(()),
            absent: RefCell::new(absent),
            made: tokio::sync::Notify::new(),
            cutting: Cell::new(None),
            stopping: Latch::default(),
            stopped: Cell::new(false),
            apps: Cell::new(0),
            app_ended: Signal::default(),
            handle: OnceCell::new(),
        }));
        Ok((shard, RecoveryReport { took, ..report }))
    }
}

/// Makes `dir` if it is not there; whether it was not. Its name is durable when this returns: the
/// one who made it may have been killed in the sync that failed to make it so.
async fn make_dir<I: Io>(io: &I, dir: &Path) -> io::Result<bool> {
    names::end_naming_of(io, dir)?;
    let is_new = io.list(dir).is_err();
    if is_new {
        io.create_dir(dir)?;
    } else if io.open(&dir.join(journal::FILE_NAME), OpenMode::Read).is_err() {
        match names::name_anew(io, dir) {
            // A mount point: its name is not of our making.
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
            done => done?,
        }
    }
    if let Some(parent) = dir.parent()
        && let Err(error) = io.sync_dir(parent).await
    {
        if is_new {
            // Its name reads back and is not durable: no later start may find it there.
            let _best_effort = io.remove_dir(dir);
        }
        return Err(error);
    }
    Ok(is_new)
}

/// The directory's id, which is made with it.
async fn meta_properties<I: Io>(
    io: &I,
    dir: &Path,
    node_id: i32,
    cluster_id: &str,
    has_served: bool,
) -> io::Result<TopicId> {
    let text = match read_file(io, &dir.join(META)) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e),
    };
    let known = text.lines().find_map(|line| line.strip_prefix("directory.id="));
    if let Some(id) = known.and_then(|id| id.trim().parse().ok()) {
        // Without a journal the start that wrote it may have been killed before it was durable.
        if !has_served {
            replace_file(io, dir, META, text.as_bytes()).await?;
        }
        return Ok(id);
    }
    let id = TopicId((u128::from(io.random()) << 64 | u128::from(io.random())).to_be_bytes());
    let text =
        format!("version=1\ncluster.id={cluster_id}\nnode.id={node_id}\ndirectory.id={id}\n");
    replace_file(io, dir, META, text.as_bytes()).await?;
    Ok(id)
}

/// What lies in `dir`. What a crash left of a creation is removed.
fn find_partitions<I: Io>(
    io: &I,
    dir: &Path,
    was_clean: bool,
    on_event: &OnEvent,
) -> io::Result<Listing> {
    // What is damaged can be done without; what cannot be read now may be there at the next start.
    let read = |name: &str, otherwise: &str| match checkpoint::read(io, &dir.join(name)) {
        Err(CheckpointError::Io(error)) => Err(error),
        Err(error) => {
            on_event(&Event::Warning { what: format!("{name}: {error}; {otherwise}") });
            Ok(Checkpoint::new())
        }
        Ok(checkpoint) => Ok(checkpoint),
    };
    let points = read(checkpoint::RECOVERY_POINTS, "every log is scanned")?;
    let starts = read(checkpoint::LOG_STARTS, "logs start at their first segment")?;
    let cleaned = read(checkpoint::CLEANED, "a gap between two segments fences")?;
    let (mut found, mut absent) = (BTreeMap::new(), Absent::default());
    let mut unowned = Vec::new();
    let entries = io.list(dir)?;
    absent.traces = Traces::among(&entries);
    for (name, point) in &points {
        if *point > Offset::ZERO && !absent.traces.tell_of(name) {
            let log_start = starts.get(name).copied().unwrap_or_default();
            absent.lost.insert(name.clone(), Lost { recovery_point: *point, log_start });
        }
    }
    for entry in entries.into_iter().filter(|entry| entry.is_dir) {
        let path = dir.join(&entry.name);
        let Some(name) = TopicPartition::from_dir_name(&entry.name) else {
            continue;
        };
        let looked_at = names::end_naming(io, &path)
            .and_then(|()| Ok((topic_id(io, &path)?, promised(io, &path)?)));
        let (topic_id, promised) = match looked_at {
            Ok(told) => told,
            Err(error) if is_shortage(&error) => return Err(names::with_path(&path, error)),
            Err(error) => {
                let of = |file: &Checkpoint| file.get(&name).copied().unwrap_or_default();
                let known = Lost { recovery_point: of(&points), log_start: of(&starts) };
                absent.pass_over(name.clone(), known, &path, &error, on_event);
                unowned.push(name);
                continue;
            }
        };
        let Some(topic_id) = topic_id else {
            // The metadata is a partition's last file: without it the creation was not acked.
            let empty = io
                .list(&path)?
                .iter()
                .all(|e| !e.name.ends_with(".log") || is_empty(io, &path.join(&e.name)));
            if empty {
                io.remove_dir(&path)?;
            } else {
                let what = format!("{name} has records and no {}: left as it is", names::METADATA);
                on_event(&Event::Warning { what });
                unowned.push(name);
            }
            continue;
        };
        let mut facts = Facts {
            log_start: starts.get(&name).copied().unwrap_or_default(),
            recovery_point: points.get(&name).copied().unwrap_or_default(),
            cleaned: cleaned.get(&name).copied().unwrap_or_default(),
            was_clean,
            ..Facts::default()
        };
        facts.floor = facts.recovery_point.max(promised);
        let floor = facts.floor;
        // Whoever made it may have been killed in the last sync of its creation, and nobody has
        // heard whether that failed. A line in the checkpoint says that it did not.
        let is_named_anew = !points.contains_key(&name);
        if is_named_anew {
            names::name_anew(io, &path.join(names::METADATA))?;
            names::name_anew(io, &path)?;
        }
        absent.lost.remove(&name);
        let found_here = Found { name, dir: path, topic_id, facts, floor, is_named_anew };
        found.insert((topic_id, found_here.name.partition), found_here);
    }
    Ok(Listing { partitions: found, absent, unowned })
}

fn is_empty<I: Io>(io: &I, path: &Path) -> bool {
    io.open(path, OpenMode::Read).and_then(|file| file.len()).is_ok_and(|len| len == 0)
}

fn topic_id<I: Io>(io: &I, dir: &Path) -> io::Result<Option<TopicId>> {
    match read_file(io, &dir.join(names::METADATA)) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            Ok(text
                .lines()
                .find_map(|l| l.strip_prefix("topic_id:"))
                .and_then(|id| id.trim().parse().ok()))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn promised<I: Io>(io: &I, dir: &Path) -> io::Result<Offset> {
    match read_file(io, &dir.join(FLOOR)) {
        // What cannot be read keeps the partition fenced.
        Ok(text) => {
            Ok(String::from_utf8_lossy(&text).trim().parse().map_or(Offset(i64::MAX), Offset))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Offset::ZERO),
        Err(e) => Err(e),
    }
}

/// A fenced partition's floor must outlive the journal: what is bad below it is never cut.
async fn keep_floor<I: Io>(io: &I, found: &Found, is_fenced: bool) -> io::Result<()> {
    if is_fenced {
        let text = format!("{}\n", found.facts.floor);
        return replace_file(io, &found.dir, FLOOR, text.as_bytes()).await;
    }
    match io.remove_file(&found.dir.join(FLOOR)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        // One that came back after a cut below it would fence a log that is whole.
        Ok(()) => io.sync_dir(&found.dir).await,
    }
}

/// Puts the journal's bytes back and notes the floors.
async fn replay<I: Io>(io: &I, path: &Path, found: &mut Listing) -> io::Result<u64> {
    let told = |error| {
        let hint = "the records it holds may be the only copies: keep the file, and restore it";
        io::Error::other(format!("{}: {error}; {hint}", path.display()))
    };
    journal::write_again(io, path).await.map_err(told)?;
    let replayed = journal::replay(io, path, |item| {
        let id = (item.topic_id, item.partition);
        if let Some(partition) = found.partitions.get_mut(&id) {
            return replay_item(io, partition, item);
        }
        // Deleted after the entry, and then nobody will ask for that id; or lost.
        found.absent.journalled.insert(id, item.end);
        Ok(())
    });
    replayed.map_err(told)
}

fn replay_item<I: Io>(io: &I, partition: &mut Found, item: &Item<'_>) -> io::Result<()> {
    let facts = &mut partition.facts;
    if item.kind == Kind::Truncated {
        facts.floor = facts.floor.min(item.end);
        facts.recovery_point = facts.recovery_point.min(item.end);
        facts.rewritten.insert(item.segment);
        return cut(io, &partition.dir, item);
    }
    facts.floor = facts.floor.max(item.end);
    if item.kind == Kind::Bytes && item.end > facts.recovery_point {
        let path = names::log(&partition.dir, item.segment);
        let file = match io.open(&path, OpenMode::Write) {
            // It was let go: what came before these bytes is nowhere, or no older segment is there,
            // whose name was durable before this one's.
            Err(e)
                if e.kind() == io::ErrorKind::NotFound
                    && (item.position > 0 || is_let_go(io, &partition.dir, item.segment)?) =>
            {
                return Ok(());
            }
            // The segment's name was not synced yet; its bytes are here.
            Err(e) if e.kind() == io::ErrorKind::NotFound => io.open(&path, OpenMode::Create),
            opened => opened,
        };
        let written = file.and_then(|f| write_all(&f, item.bytes, u64::from(item.position)));
        written.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        facts.rewritten.insert(item.segment);
    }
    Ok(())
}

/// Whether the segment that began at `base` has gone with all before it, and later ones are there:
/// retention takes the oldest, and where the disk is full before the log start could be noted.
fn is_let_go<I: Io>(io: &I, dir: &Path, base: Offset) -> io::Result<bool> {
    let mut bases = Vec::new();
    for entry in io.list(dir)? {
        bases.extend(names::offset_of(&entry.name, "log"));
    }
    Ok(!bases.is_empty() && bases.iter().all(|other| *other > base))
}

/// Cuts the segments in `dir` as they were cut, for that may not have come to the disk.
fn cut<I: Io>(io: &I, dir: &Path, item: &Item<'_>) -> io::Result<()> {
    if item.position == 0 {
        // The segment that is cut to nothing loses its name before another has it.
        io.open(&names::log(dir, item.segment), OpenMode::Create)?;
    }
    for entry in io.list(dir)? {
        match names::offset_of(&entry.name, "log") {
            Some(base) if base >= item.segment => {
                // One behind the cut is emptied: `recover` unlinks it once that is durable.
                let len = if base == item.segment { u64::from(item.position) } else { 0 };
                let file = io.open(&dir.join(&entry.name), OpenMode::Write)?;
                if file.len()? >= len {
                    names::cut_anew(&file, len)?;
                }
                names::remove_indexes(io, dir, base)?;
            }
            _ => {}
        }
        if names::offset_of(&entry.name, "snapshot").is_some_and(|offset| offset > item.end) {
            io.remove_file(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}

async fn open_partition<I: Io>(
    io: &I,
    found: &Found,
) -> io::Result<(Recovered<I>, Producers, Option<Offset>)> {
    let limits = Limits::from(&crate::config::LogConfig::default());
    let recovered = recover(io, &found.dir, limits, &found.facts).await?;
    let mut snapshots: Vec<Offset> = Vec::new();
    for entry in io.list(&found.dir)? {
        snapshots.extend(names::offset_of(&entry.name, "snapshot"));
    }
    snapshots.sort_unstable();
    let (mut producers, mut from, mut used) = (Producers::new(), Offset::ZERO, None);
    while let Some(offset) = snapshots.pop() {
        let path = names::snapshot(&found.dir, offset);
        // One from after the log's end speaks of batches that are gone, and would be believed
        // once others have taken their place.
        if offset > recovered.end {
            io.remove_file(&path)?;
            continue;
        }
        if let Some(read) = read_file(io, &path).ok().and_then(|b| Producers::decode(&b).ok()) {
            (producers, from, used) = (read, offset, Some(offset));
            break;
        }
        io.remove_file(&path)?;
    }
    if !snapshots.is_empty() {
        for old in snapshots {
            io.remove_file(&names::snapshot(&found.dir, old))?;
        }
    }
    let now = io.timestamp();
    if from < recovered.end {
        recovered.log.each_head(from, |header| producers.rebuild(header, now))?;
    }
    Ok((recovered, producers, used))
}

/// A first segment that is missing cannot be told from one that was let go: for want of room that
/// is done before it is noted, and Kafka notes no such start. The log begins later then, which
/// somebody should know.
fn warn_of_lost_start<I: Io>(found: &Found, recovered: &Recovered<I>, on_event: &OnEvent) {
    let (noted, first) = (found.facts.log_start, recovered.log.first_base());
    if first > noted && recovered.fence.is_none() {
        let what = format!(
            "{}: no records from {noted}, the log start that was noted, to {first}, its first \
             segment: it begins there now",
            found.name
        );
        on_event(&Event::Warning { what });
    }
}

async fn write_checkpoints<I: Io>(
    io: &I,
    dir: &Path,
    opened: &[(Found, Recovered<I>, Producers, Option<Offset>)],
    absent: &Absent,
) -> io::Result<()> {
    let (mut points, mut starts) = absent.lost_lines();
    for (found, recovered, _, _) in opened {
        // What is fenced is looked at again next time, from where it was looked at now.
        let point =
            if recovered.fence.is_some() { found.facts.recovery_point } else { recovered.end };
        points.insert(found.name.clone(), point);
        if recovered.start > Offset::ZERO {
            starts.insert(found.name.clone(), recovered.start);
        }
    }
    checkpoint::write(io, dir, checkpoint::LOG_STARTS, &starts).await?;
    checkpoint::write(io, dir, checkpoint::RECOVERY_POINTS, &points).await
}

fn describe<I: Io>(found: &Found, recovered: &Recovered<I>) -> PartitionRecovery {
    PartitionRecovery {
        partition: found.name.clone(),
        topic_id: found.topic_id,
        log_start: recovered.start,
        log_end: recovered.end,
        cut_bytes: recovered.cut_bytes,
        fenced: recovered.fence.clone(),
    }
}

fn tell<I: Io>(core: &Core<I>, found: &Found, recovered: &Recovered<I>) {
    let partition = found.name.to_string();
    if let Some(reason) = &recovered.fence {
        core.metrics.fenced.add(1);
        (core.on_event)(&Event::Fenced { partition, reason: reason.clone() });
    } else if recovered.cut_bytes > 0 {
        (core.on_event)(&Event::Cut { partition, bytes: recovered.cut_bytes });
    }
}
