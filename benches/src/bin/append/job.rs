//! One measurement: what to append, and a clock beside it. It runs in a process of its own.
//!
//! The program in `benches/rivals` has this file too: all that is compared does the same job under
//! the same clock.

use clap::{Args, ValueEnum};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Payloads that take turns: one and the same would stay in the CPU's first cache.
const PAYLOADS: usize = 64;

/// System calls whose mean is what one costs.
const SYSCALLS: u32 = 100_000;

/// When an append counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// In the page cache.
    PageCache,
    /// In the page cache, and on the disk soon after, whoever waits for it.
    Behind,
    /// On the disk: synced before the next group begins.
    Durable,
}

/// What to append.
#[derive(Clone, Debug, Args)]
pub(crate) struct Job {
    /// Who appends
    #[arg(long)]
    pub(crate) subject: String,
    /// Bytes of a batch; to a log that knows none it is a record with a payload of as many
    #[arg(long)]
    pub(crate) batch_bytes: usize,
    /// Batches that are appended in one turn, or made durable by one sync
    #[arg(long)]
    pub(crate) group: usize,
    /// When a group is done
    #[arg(long, value_enum)]
    pub(crate) durability: Durability,
    /// Bytes to append in all ...
    #[arg(long)]
    pub(crate) bytes: u64,
    /// ... if that takes no longer
    #[arg(long)]
    pub(crate) seconds: f64,
    /// Bytes of a segment file
    #[arg(long)]
    pub(crate) segment_bytes: u32,
    /// A directory of its own, which is there and empty
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The CPU for all threads of the process
    #[arg(long)]
    pub(crate) cpu: usize,
}

/// What came of it.
pub(crate) struct Done {
    batches: u64,
    took: Duration,
    cpu: Duration,
    syscall: Duration,
    counts: Vec<(&'static str, u64)>,
}

impl Job {
    /// Binds this process, and all threads that it starts from here, to the job's CPU.
    pub(crate) fn pin(&self) -> io::Result<()> {
        let mut set = rustix::thread::CpuSet::new();
        if self.cpu >= rustix::thread::CpuSet::MAX_CPU {
            return Err(io::Error::other(format!("there is no CPU {}", self.cpu)));
        }
        set.set(self.cpu);
        Ok(rustix::thread::sched_setaffinity(None, &set)?)
    }

    /// What is appended, in turns: `len` bytes each that no codec would shorten.
    pub(crate) fn payloads(len: usize) -> Vec<Vec<u8>> {
        let mut state = 1_u64;
        let mut byte = || {
            // The constants of Knuth's MMIX generator; its upper bits are the random ones.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..PAYLOADS).map(|_| std::iter::repeat_with(&mut byte).take(len).collect()).collect()
    }

    /// Starts the clock, once all is on the disk that was made in preparation: files of zeros would
    /// weigh on the first sync.
    pub(crate) fn start(&self) -> Meter {
        rustix::fs::sync();
        let syscall = syscall();
        Meter {
            group: self.group as u64,
            left: self.bytes / self.batch_bytes.max(1) as u64,
            seconds: Duration::from_secs_f64(self.seconds),
            batches: 0,
            syscall,
            cpu: cpu(),
            began: now(),
        }
    }
}

/// Says how much more there is to do.
pub(crate) struct Meter {
    group: u64,
    left: u64,
    seconds: Duration,
    batches: u64,
    syscall: Duration,
    cpu: Duration,
    began: Instant,
}

impl Meter {
    /// The numbers of the next group's batches, counted from 0; `None` if it is enough.
    pub(crate) fn next(&mut self) -> Option<std::ops::Range<u64>> {
        let first = self.batches;
        let count = self.group.min(self.left);
        if count == 0 || self.began.elapsed() >= self.seconds {
            return None;
        }
        self.left -= count;
        self.batches += count;
        Some(first..self.batches)
    }

    /// Stops the clock. `counts` are what else is worth knowing, by name.
    pub(crate) fn end(self) -> Done {
        let took = self.began.elapsed();
        let cpu = cpu().saturating_sub(self.cpu);
        Done { batches: self.batches, took, cpu, syscall: self.syscall, counts: Vec::new() }
    }
}

impl Done {
    /// With what else is worth knowing, by name.
    #[allow(dead_code)] // Not all programs with this file have something to add.
    pub(crate) fn with(mut self, counts: Vec<(&'static str, u64)>) -> Self {
        self.counts = counts;
        self
    }

    /// In one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        let Self { batches, took, cpu, syscall, counts } = self;
        let ns = |d: &Duration| d.as_nanos();
        let mut text = format!(
            r#"{{"batches":{batches},"took_ns":{},"cpu_ns":{},"syscall_ns":{},"counts":{{"#,
            ns(took),
            ns(cpu),
            ns(syscall)
        );
        for (i, (name, count)) in counts.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Into a string: it cannot fail.
            let _written = write!(text, r#"{comma}"{name}":{count}"#);
        }
        text + "}}"
    }
}

/// Which payload batch `number` has.
pub(crate) fn turn(number: u64) -> usize {
    usize::try_from(number % PAYLOADS as u64).unwrap_or(0)
}

/// What the cheapest system call costs, here and now.
fn syscall() -> Duration {
    let began = now();
    for _ in 0..SYSCALLS {
        std::hint::black_box(rustix::process::getppid());
    }
    began.elapsed() / SYSCALLS
}

/// The CPU time of all threads of this process, those that the kernel runs for it included.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let part = |n: i64| u64::try_from(n).unwrap_or(0);
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

#[allow(clippy::disallowed_methods)] // A bench measures the machine's time.
fn now() -> Instant {
    Instant::now()
}
