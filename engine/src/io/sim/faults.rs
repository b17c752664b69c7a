//! What goes wrong: by chance, or exactly where a test says.

use super::rng::{Rng, Stream};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A kind of operation, for [`Rule`]s and the [history](super::Event).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the call of the seam that has its name")]
pub enum OpKind {
    Open,
    List,
    CreateDir,
    Rename,
    RemoveFile,
    RemoveDir,
    SyncDir,
    Read,
    Write,
    SetLen,
    Preallocate,
    Sync,
    Load,
    Listen,
    Connect,
    Accept,
    Recv,
    Send,
    SendFile,
    /// A `sync` or `sync_dir` that comes back, as against its call.
    Synced,
    /// A process starts.
    Boot,
    /// The process ends: killed, or done.
    Kill,
    /// The power fails.
    PowerCut,
}

impl OpKind {
    /// Whether the machine may stop just before such an operation: whether the disk, or what
    /// somebody else knows of it, differs after it.
    #[must_use]
    pub const fn is_cut_point(self) -> bool {
        !matches!(
            self,
            Self::Read
                | Self::List
                | Self::Load
                | Self::Recv
                | Self::Accept
                | Self::Boot
                | Self::Kill
                | Self::PowerCut
        )
    }
}

/// What a [`Rule`] does to the operation that it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with `EIO`. A `sync` fails as on Linux: the pages stay readable, and lost.
    Io,
    /// It fails with `ENOSPC`.
    NoSpace,
    /// It fails with `EDQUOT`.
    Quota,
    /// It fails with `EFBIG`.
    TooLarge,
    /// It fails with `EMFILE`. A `sync_dir` then syncs nothing, and loses nothing.
    Descriptors,
    /// A `write_at` writes only some of its bytes. Nothing, for other operations.
    Short,
    /// The machine loses its power just before the operation.
    PowerCut,
    /// The process dies just before the operation.
    Kill,
}

impl Fault {
    /// The error that the operation returns, if the fault is one.
    pub(super) fn error(self) -> Option<io::Error> {
        let errno = match self {
            Self::Io => Errno::IO,
            Self::NoSpace => Errno::NOSPC,
            Self::Quota => Errno::DQUOT,
            Self::TooLarge => Errno::FBIG,
            Self::Descriptors => Errno::MFILE,
            Self::Short | Self::PowerCut | Self::Kill => return None,
        };
        Some(errno.into())
    }
}

/// Says of a path whether it is meant.
type Names = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A fault for chosen operations: the n-th of a kind, on files of chosen names.
///
/// ```
/// use kariz_engine::io::sim::{Fault, OpKind, Rule};
/// // The third sync of any log fails, once.
/// let rule = Rule::on(OpKind::Sync, Fault::Io).named(|path| path.ends_with(".log")).after(2).times(1);
/// # drop(rule);
/// ```
#[derive(Clone)]
pub struct Rule {
    kind: OpKind,
    fault: Fault,
    names: Option<Names>,
    skip: u64,
    times: u64,
}

impl Rule {
    /// Strikes every operation of `kind`.
    #[must_use]
    pub fn on(kind: OpKind, fault: Fault) -> Self {
        Self { kind, fault, names: None, skip: 0, times: u64::MAX }
    }

    /// Only those on files (directories, addresses) whose full path satisfies `names`. A file keeps
    /// the path by which it was opened.
    #[must_use]
    pub fn named(mut self, names: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.names = Some(Arc::new(names));
        self
    }

    /// Lets the first `n` of them pass.
    #[must_use]
    pub fn after(mut self, n: u64) -> Self {
        self.skip = n;
        self
    }

    /// Strikes `n` times, then no more.
    #[must_use]
    pub fn times(mut self, n: u64) -> Self {
        self.times = n;
        self
    }

    fn strikes(&mut self, kind: OpKind, path: &str) -> bool {
        if self.kind != kind || self.names.as_ref().is_some_and(|names| !names(path)) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let strikes = self.times > 0;
        self.times = self.times.saturating_sub(1);
        strikes
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, fault, names, skip, times } = self;
        let which = if names.is_some() { "of some names" } else { "of every name" };
        write!(f, "{fault:?} on {kind:?} {which}, after {skip}, {times} times")
    }
}

/// How the machine misbehaves. Probabilities are per operation, from 0 to 1.
#[derive(Clone, Debug)]
pub struct Faults {
    /// `read_at`, `load` and `send_file` fail with `EIO`.
    pub read_error: f64,
    /// `write_at`, `set_len` and `preallocate` fail with `EIO`; nothing was done.
    pub write_error: f64,
    /// `write_at` writes a part of what it was given.
    pub short_write: f64,
    /// `sync` and `sync_dir` fail with `EIO`: what they covered stays readable, and is lost.
    pub sync_error: f64,
    /// A `send` finds the connection reset by its peer.
    pub connection_reset: f64,
    /// What was written and is about to be overwritten, unsynced, had already reached the disk.
    pub writeback: f64,
    /// Room on the disk, in bytes; more is `ENOSPC`. Blocks of 4 KiB are counted.
    pub capacity_bytes: u64,
    /// The longest file, in bytes; more is `EFBIG`. It also bounds the simulation's memory.
    pub file_bytes_max: u64,
    /// What one socket direction holds, in bytes: sent and not yet received.
    pub socket_bytes: usize,
    /// How long a `sync`, a `sync_dir` or a `load` takes.
    pub disk_latency: Range<Duration>,
    /// How long bytes, and connections, are on their way.
    pub net_latency: Range<Duration>,
    /// Faults at chosen places, tried in this order before chance.
    pub rules: Vec<Rule>,
}

impl Faults {
    /// A machine on which nothing fails. Its latencies still vary with the seed, and a power cut
    /// still takes what was not synced.
    #[must_use]
    pub fn none() -> Self {
        Self {
            read_error: 0.0,
            write_error: 0.0,
            short_write: 0.0,
            sync_error: 0.0,
            connection_reset: 0.0,
            writeback: 0.25,
            capacity_bytes: 1 << 40,
            file_bytes_max: 1 << 30,
            socket_bytes: 64 * 1024,
            // Of the order of `fdatasync` on an NVMe disk, and of a local network.
            disk_latency: Duration::from_micros(50)..Duration::from_micros(500),
            net_latency: Duration::from_micros(5)..Duration::from_micros(100),
            rules: Vec::new(),
        }
    }

    /// A machine on which everything fails now and then, differently for every seed: each fault is
    /// off for half the seeds, because a fault that is always on hides what lies behind it.
    #[must_use]
    pub fn swarm(seed: u64) -> Self {
        let mut rng = Rng::new(seed, Stream::Faults);
        let mut pick = |often: f64| {
            let scale = [0.0, 0.0, 0.1, 1.0][rng.index(4)];
            often * scale
        };
        let mut faults = Self {
            read_error: pick(0.01),
            write_error: pick(0.01),
            short_write: pick(0.3),
            sync_error: pick(0.05),
            connection_reset: pick(0.01),
            ..Self::none()
        };
        if rng.coin() {
            faults.socket_bytes = 1 + rng.index(4096);
        }
        if rng.coin() {
            // Slow and uneven: what is issued first often ends last.
            faults.disk_latency = Duration::ZERO..Duration::from_millis(20);
            faults.net_latency = Duration::ZERO..Duration::from_millis(5);
        }
        faults
    }

    /// With `rule` as the last of the rules.
    #[must_use]
    pub fn with(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// What happens to an operation of `kind` on `path`.
    pub(super) fn strike(&mut self, rng: &mut Rng, kind: OpKind, path: &str) -> Option<Fault> {
        for rule in &mut self.rules {
            if rule.strikes(kind, path) {
                return Some(rule.fault);
            }
        }
        let (chance, fault) = match kind {
            OpKind::Read | OpKind::Load | OpKind::SendFile => (self.read_error, Fault::Io),
            OpKind::SetLen | OpKind::Preallocate => (self.write_error, Fault::Io),
            OpKind::Sync | OpKind::SyncDir => (self.sync_error, Fault::Io),
            OpKind::Write if rng.chance(self.write_error) => (1.0, Fault::Io),
            OpKind::Write => (self.short_write, Fault::Short),
            _ => return None,
        };
        rng.chance(chance).then_some(fault)
    }
}

impl Default for Faults {
    /// As [`Faults::none`].
    fn default() -> Self {
        Self::none()
    }
}
