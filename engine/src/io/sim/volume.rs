//! The file system: directories over files, twice as well, as processes see them and as the disk
//! has them.
//!
//! A change of a name is volatile until its directory is synced. A power cut leaves, by its seed,
//! what was changed before one moment (a journal), a prefix of each directory's changes, or any
//! changes of which each name's are a prefix (no journal). A rename is one change, also between
//! two directories: both see it or neither does.
//!
//! Syncing a file does not make its name durable, as POSIX has it; ext4 does better.

mod power;

use super::content::{BLOCK_BYTES, Capture, Content};
use super::rng::Rng;
use crate::io::Entry;
use crate::types::Timestamp;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};

/// A file or directory, whatever it is called.
pub(super) type Inode = u64;

/// The directory above all.
const ROOT: Inode = 0;

/// The longest name of a file, in bytes. Source: `NAME_MAX` of Linux.
const NAME_BYTES_MAX: usize = 255;

#[derive(Debug)]
enum Node {
    /// `modified` is in ms since 1970, as the wall clock had it.
    File {
        content: Content,
        handles: usize,
        modified: i64,
    },
    Dir {
        now: BTreeMap<String, Inode>,
        durable: BTreeMap<String, Inode>,
    },
}

/// `name` in directory `dir` becomes `inode`, or nothing.
#[derive(Debug)]
struct Assign {
    dir: Inode,
    name: String,
    inode: Option<Inode>,
}

/// A change of names that is not durable yet.
#[derive(Debug)]
struct Change {
    seq: u64,
    assigns: Vec<Assign>,
}

/// A place for a name: its directory, and what is there.
struct Place {
    dir: Inode,
    name: String,
    inode: Option<Inode>,
}

/// A `sync` that has been called and has not ended.
#[derive(Debug)]
struct InFlight {
    file: Inode,
    capture: Capture,
}

/// The disk of one machine.
#[derive(Debug)]
pub(super) struct Volume {
    nodes: BTreeMap<Inode, Node>,
    next_inode: Inode,
    /// Counts every change of anything: the disk's own time.
    seq: u64,
    changes: Vec<Change>,
    in_flight: BTreeMap<u64, InFlight>,
    /// Files with no name, which the durable names may still mean.
    nameless: BTreeSet<Inode>,
    used_blocks: u64,
}

impl Volume {
    /// An empty one.
    pub(super) fn new() -> Self {
        let mut volume = Self {
            nodes: BTreeMap::new(),
            next_inode: ROOT,
            seq: 0,
            changes: Vec::new(),
            in_flight: BTreeMap::new(),
            nameless: BTreeSet::new(),
            used_blocks: 0,
        };
        volume.add(Node::Dir { now: BTreeMap::new(), durable: BTreeMap::new() });
        volume
    }

    fn add(&mut self, node: Node) -> Inode {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.nodes.insert(inode, node);
        inode
    }

    fn tick(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    /// Bytes of room that files take.
    pub(super) fn used_bytes(&self) -> u64 {
        self.used_blocks * BLOCK_BYTES
    }

    // Names.

    fn names(&self, dir: Inode) -> io::Result<&BTreeMap<String, Inode>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir { now, .. }) => Ok(now),
            Some(Node::File { .. }) => Err(Errno::NOTDIR.into()),
            None => Err(Errno::NOENT.into()),
        }
    }

    fn is_dir(&self, inode: Inode) -> bool {
        matches!(self.nodes.get(&inode), Some(Node::Dir { .. }))
    }

    fn walk(&self, names: &[String]) -> io::Result<Inode> {
        names.iter().try_fold(ROOT, |dir, name| {
            self.names(dir)?.get(name).copied().ok_or_else(|| Errno::NOENT.into())
        })
    }

    /// What is at `path`.
    pub(super) fn lookup(&self, path: &Path) -> io::Result<Inode> {
        self.walk(&split(path)?)
    }

    /// The directory at `path`.
    pub(super) fn lookup_dir(&self, path: &Path) -> io::Result<Inode> {
        let dir = self.lookup(path)?;
        self.names(dir).map(|_| dir)
    }

    /// The file at `path`.
    pub(super) fn lookup_file(&self, path: &Path) -> io::Result<Inode> {
        let inode = self.lookup(path)?;
        if self.is_dir(inode) { Err(Errno::ISDIR.into()) } else { Ok(inode) }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        let mut names = split(path)?;
        let name = names.pop().ok_or(Errno::INVAL)?;
        let dir = self.walk(&names)?;
        let inode = self.names(dir)?.get(&name).copied();
        Ok(Place { dir, name, inode })
    }

    /// Changes names, for processes at once and for the disk later.
    fn change(&mut self, assigns: Vec<Assign>) {
        for Assign { dir, name, inode } in &assigns {
            if let Some(Node::Dir { now, .. }) = self.nodes.get_mut(dir) {
                assign(now, name, *inode);
            }
        }
        let seq = self.tick();
        self.changes.push(Change { seq, assigns });
    }

    /// What is in the directory at `path`, in name order.
    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let names = self.names(self.lookup(path)?)?;
        let entry = |(name, inode): (&String, &Inode)| Entry {
            name: name.clone(),
            is_dir: self.is_dir(*inode),
        };
        Ok(names.iter().map(entry).collect())
    }

    /// The file at `path`, made or emptied if `create`.
    pub(super) fn open(
        &mut self,
        path: &Path,
        create: bool,
        flushed: impl FnMut() -> bool,
    ) -> io::Result<Inode> {
        let place = self.place(path)?;
        let inode = match place.inode {
            Some(inode) if self.is_dir(inode) => return Err(Errno::ISDIR.into()),
            Some(inode) => {
                if create {
                    self.set_len(inode, 0, flushed)?;
                }
                inode
            }
            None if create => {
                let content = Content::default();
                let inode = self.add(Node::File { content, handles: 0, modified: 0 });
                self.change(vec![Assign { dir: place.dir, name: place.name, inode: Some(inode) }]);
                inode
            }
            None => return Err(Errno::NOENT.into()),
        };
        if let Some(Node::File { handles, .. }) = self.nodes.get_mut(&inode) {
            *handles += 1;
        }
        Ok(inode)
    }

    /// Makes `path` and what is missing above it.
    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let names = split(path)?;
        let mut dir = ROOT;
        for (i, name) in names.iter().enumerate() {
            dir = match self.names(dir)?.get(name).copied() {
                Some(inode) if self.is_dir(inode) => inode,
                Some(_) if i + 1 == names.len() => return Err(Errno::EXIST.into()),
                Some(_) => return Err(Errno::NOTDIR.into()),
                None => {
                    let node = Node::Dir { now: BTreeMap::new(), durable: BTreeMap::new() };
                    let made = self.add(node);
                    self.change(vec![Assign { dir, name: name.clone(), inode: Some(made) }]);
                    made
                }
            };
        }
        Ok(())
    }

    /// Renames `from` over `to`.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let source = self.place(from)?;
        let moved = source.inode.ok_or(Errno::NOENT)?;
        let target = self.place(to)?;
        if target.inode == Some(moved) {
            return Ok(());
        }
        let moves_dir = self.is_dir(moved);
        if moves_dir && split(to)?.starts_with(&split(from)?) {
            return Err(Errno::INVAL.into());
        }
        if let Some(over) = target.inode {
            match (moves_dir, self.is_dir(over)) {
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, false) => return Err(Errno::NOTDIR.into()),
                (true, true) if !self.names(over)?.is_empty() => {
                    return Err(Errno::NOTEMPTY.into());
                }
                _ => {}
            }
        }
        self.change(vec![
            Assign { dir: source.dir, name: source.name, inode: None },
            Assign { dir: target.dir, name: target.name, inode: Some(moved) },
        ]);
        if let Some(over) = target.inode {
            self.unname(over);
        }
        Ok(())
    }

    /// Unlinks a file.
    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        let Place { dir, name, inode } = self.place(path)?;
        let inode = inode.ok_or(Errno::NOENT)?;
        if self.is_dir(inode) {
            return Err(Errno::ISDIR.into());
        }
        self.change(vec![Assign { dir, name, inode: None }]);
        self.unname(inode);
        Ok(())
    }

    /// Removes a directory and all that is in it, from the bottom up.
    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let Place { dir, name, inode } = self.place(path)?;
        let inode = inode.ok_or(Errno::NOENT)?;
        for entry in self.list(path)? {
            let below = path.join(&entry.name);
            if entry.is_dir { self.remove_dir(&below)? } else { self.remove_file(&below)? }
        }
        self.change(vec![Assign { dir, name, inode: None }]);
        self.unname(inode);
        Ok(())
    }

    /// `inode` has lost a name. It may have another, of a rename that came to the disk in part.
    fn unname(&mut self, inode: Inode) {
        let names = |node: &Node| matches!(node, Node::Dir { now, .. } if now.values().any(|n| *n == inode));
        if self.nodes.values().any(names) {
            return;
        }
        self.nameless.insert(inode);
        self.free_if_closed(inode);
    }

    fn free_if_closed(&mut self, inode: Inode) {
        if let Some(Node::File { content, handles: 0, .. }) = self.nodes.get_mut(&inode)
            && self.nameless.contains(&inode)
        {
            self.used_blocks = self.used_blocks.saturating_sub(content.free());
        }
    }

    /// Forgets what has neither a name, on the disk or off it, nor a handle.
    fn collect(&mut self) {
        let open = |node: &Node| matches!(node, Node::File { handles, .. } if *handles > 0);
        let mut meant = BTreeSet::new();
        for node in self.nodes.values() {
            if let Node::Dir { durable, .. } = node {
                meant.extend(durable.values().copied());
            }
        }
        let pending = self.changes.iter().flat_map(|change| &change.assigns);
        meant.extend(pending.filter_map(|assign| assign.inode));
        let nodes = &mut self.nodes;
        self.nameless.retain(|inode| {
            let kept = meant.contains(inode) || nodes.get(inode).is_some_and(open);
            if !kept {
                nodes.remove(inode);
            }
            kept
        });
    }

    /// The moment up to which a `sync_dir` called now covers.
    pub(super) fn now(&self) -> u64 {
        self.seq
    }

    /// Makes the changes in `dir` up to moment `until` durable, with those of other directories
    /// that a rename ties to them; if `lost`, only some of them, and the others never.
    pub(super) fn settle_dir(&mut self, dir: Inode, until: u64, mut lost: Option<&mut Rng>) {
        let mut tied = BTreeSet::from([dir]);
        let mut covered = BTreeSet::new();
        for change in self.changes.iter().rev().filter(|change| change.seq <= until) {
            if change.assigns.iter().any(|assign| tied.contains(&assign.dir)) {
                tied.extend(change.assigns.iter().map(|assign| assign.dir));
                covered.insert(change.seq);
            }
        }
        let (settled, pending): (Vec<_>, Vec<_>) =
            self.changes.drain(..).partition(|change| covered.contains(&change.seq));
        self.changes = pending;
        let kept = match &mut lost {
            Some(rng) => rng.index(settled.len() + 1),
            None => settled.len(),
        };
        for change in &settled[..kept] {
            self.write_names(change);
        }
        if !self.nameless.is_empty() {
            self.collect();
        }
    }

    /// The disk writes a change of names.
    fn write_names(&mut self, change: &Change) {
        for Assign { dir, name, inode } in &change.assigns {
            if let Some(Node::Dir { durable, .. }) = self.nodes.get_mut(dir) {
                assign(durable, name, *inode);
            }
        }
    }

    // Files.

    /// The content of file `inode`.
    pub(super) fn content(&self, inode: Inode) -> io::Result<&Content> {
        match self.nodes.get(&inode) {
            Some(Node::File { content, .. }) => Ok(content),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// When file `inode` was last changed.
    pub(super) fn modified(&self, inode: Inode) -> io::Result<Timestamp> {
        match self.nodes.get(&inode) {
            Some(Node::File { modified, .. }) => Ok(Timestamp(*modified)),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// File `inode` is changed now, which is `ms`.
    pub(super) fn touch(&mut self, inode: Inode, ms: i64) {
        if let Some(Node::File { modified, .. }) = self.nodes.get_mut(&inode) {
            *modified = ms;
        }
    }

    /// The content of file `inode`, to damage it.
    pub(super) fn content_mut(&mut self, inode: Inode) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File { content, .. }) => Ok(content),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// Runs `act` on a file, with the moment, and counts the blocks that it took or freed.
    fn on<T>(&mut self, inode: Inode, act: impl FnOnce(&mut Content, u64) -> T) -> io::Result<T> {
        let seq = self.tick();
        let content = self.content_mut(inode)?;
        let before = content.blocks().count();
        let result = act(content, seq);
        let after = content.blocks().count();
        self.used_blocks = (self.used_blocks + after).saturating_sub(before);
        Ok(result)
    }

    /// Writes up to `want` bytes of `slices` at `at`, as far as there is room.
    pub(super) fn write(
        &mut self,
        inode: Inode,
        slices: &[io::IoSlice<'_>],
        want: usize,
        at: u64,
        capacity_bytes: u64,
        flushed: impl FnMut() -> bool,
    ) -> io::Result<usize> {
        let blocks = self.content(inode)?.blocks();
        let free = (capacity_bytes / BLOCK_BYTES).saturating_sub(self.used_blocks);
        let mut n = super::to_u64(want);
        // Full: write what fits, to the end of the last block that does.
        while n > 0 && blocks.missing(at, n) > free {
            let last = at + n - 1;
            n = (last - last % BLOCK_BYTES).saturating_sub(at);
        }
        if n == 0 && want > 0 {
            return Err(Errno::NOSPC.into());
        }
        let n = super::to_usize(n);
        let at = super::to_usize(at);
        self.on(inode, |content, seq| content.write(slices, n, at, seq, flushed))?;
        Ok(n)
    }

    /// Cuts or extends a file.
    pub(super) fn set_len(
        &mut self,
        inode: Inode,
        len: u64,
        flushed: impl FnMut() -> bool,
    ) -> io::Result<()> {
        self.on(inode, |content, seq| content.set_len(super::to_usize(len), seq, flushed))
    }

    /// Allocates blocks.
    pub(super) fn preallocate(
        &mut self,
        inode: Inode,
        at: u64,
        len: u64,
        capacity_bytes: u64,
    ) -> io::Result<()> {
        let free = (capacity_bytes / BLOCK_BYTES).saturating_sub(self.used_blocks);
        if self.content(inode)?.blocks().missing(at, len) > free {
            return Err(Errno::NOSPC.into());
        }
        self.on(inode, |content, _| content.allocate(at, len))
    }

    /// Begins a sync of a file: its number.
    pub(super) fn begin_sync(&mut self, file: Inode) -> io::Result<u64> {
        let seq = self.tick();
        let capture = self.content(file)?.capture(seq);
        self.in_flight.insert(seq, InFlight { file, capture });
        Ok(seq)
    }

    /// Ends a sync, well or (given the randomness for what is lost) badly.
    pub(super) fn end_sync(&mut self, sync: u64, lost: Option<&mut Rng>) {
        let Some(InFlight { file, capture }) = self.in_flight.remove(&sync) else { return };
        let Some(Node::File { content, .. }) = self.nodes.get_mut(&file) else { return };
        match lost {
            None => content.settle(&capture),
            Some(rng) => {
                let others = self.in_flight.values_mut().filter(|other| other.file == file);
                content.lose(&capture, others.map(|other| &mut other.capture), rng);
            }
        }
    }

    /// A handle of a file is dropped.
    pub(super) fn close(&mut self, inode: Inode) {
        if let Some(Node::File { handles, .. }) = self.nodes.get_mut(&inode) {
            *handles = handles.saturating_sub(1);
            self.free_if_closed(inode);
        }
    }

    /// The process is gone, and its handles with it.
    pub(super) fn close_all(&mut self) {
        self.in_flight.clear();
        for node in self.nodes.values_mut() {
            if let Node::File { handles, .. } = node {
                *handles = 0;
            }
        }
        for inode in self.nameless.clone() {
            self.free_if_closed(inode);
        }
        self.collect();
    }

    // For tests, from outside.

    /// Unlinks a file for processes and for the disk at once.
    pub(super) fn remove_durably(&mut self, path: &Path) -> io::Result<()> {
        let dir = self.place(path)?.dir;
        self.remove_file(path)?;
        self.settle_dir(dir, self.seq, None);
        Ok(())
    }

    /// The file that the disk has at `path`.
    pub(super) fn lookup_durable(&self, path: &Path) -> io::Result<&Content> {
        let inode = split(path)?.iter().try_fold(ROOT, |dir, name| match self.nodes.get(&dir) {
            Some(Node::Dir { durable, .. }) => durable.get(name).copied().ok_or(Errno::NOENT),
            _ => Err(Errno::NOTDIR),
        })?;
        self.content(inode)
    }

    /// Evicts the clean pages of all files.
    pub(super) fn drop_caches(&mut self) {
        for node in self.nodes.values_mut() {
            if let Node::File { content, .. } = node {
                content.drop_caches();
            }
        }
    }
}

fn assign(names: &mut BTreeMap<String, Inode>, name: &str, inode: Option<Inode>) {
    match inode {
        Some(inode) => names.insert(name.to_owned(), inode),
        None => names.remove(name),
    };
}

/// The names on the way to `path`, from the root; a relative path starts there too.
fn split(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => {}
            Component::ParentDir => {
                names.pop();
            }
            Component::Normal(name) if name.len() > NAME_BYTES_MAX => {
                return Err(Errno::NAMETOOLONG.into());
            }
            Component::Normal(name) => names.push(name.to_str().ok_or(Errno::INVAL)?.to_owned()),
        }
    }
    Ok(names)
}
