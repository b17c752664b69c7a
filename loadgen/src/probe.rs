//! What this machine is, and what a system call, a wake-up and a cache line's way from core to
//! core cost here and now: the host may move a virtual machine's CPUs while it runs.

use crate::clock::Clock;
use crate::exec::cores;
use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Round trips of one measurement; the least of [`REPEATS`] medians counts.
const ROUND_TRIPS: u64 = 2_000;
const WAKE_UPS: u64 = 200;
const REPEATS: usize = 5;

/// Two virtual CPUs whose cache lines take longer than this for a round trip are far from each
/// other. Measured: pairs are at some 130 ns or above 250 ns.
const FAR_NS: u64 = 200;

/// Costs at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// A cache line to the other core and back; `None` on a single core.
    pub core_to_core_rtt_ns: Option<u64>,
    /// The cheapest system call.
    pub syscall_ns: u64,
    /// Waking a thread that sleeps on the other core, and being woken by it.
    pub wake_up_rtt_ns: Option<u64>,
}

/// How far two cores are from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// They share a cache.
    Near,
    /// They do not.
    Far,
}

impl Placement {
    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }
}

impl Probe {
    /// Measures between a server's and a load's core; some 20 ms.
    #[must_use]
    pub fn measure(server_core: u32, load_core: u32) -> Self {
        let clock = Clock::start();
        let two = server_core != load_core;
        Self {
            core_to_core_rtt_ns: two.then(|| best(|| core_to_core(&clock, server_core, load_core))),
            syscall_ns: best(|| syscall(&clock)),
            wake_up_rtt_ns: two
                .then(|| best(|| wake_up(&clock, server_core, load_core).unwrap_or(u64::MAX)))
                .filter(|ns| *ns < u64::MAX),
        }
    }

    /// Near or far.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        let rtt = self.core_to_core_rtt_ns?;
        Some(if rtt > FAR_NS { Placement::Far } else { Placement::Near })
    }
}

/// The least of some measurements: what the machine can do when nothing else runs.
fn best(mut measure: impl FnMut() -> u64) -> u64 {
    (0..REPEATS).map(|_| measure()).min().unwrap_or(0)
}

fn core_to_core(clock: &Clock, here: u32, there: u32) -> u64 {
    let ball = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let ball = &ball;
        scope.spawn(move || {
            // Unpinned it measures something else, but ends all the same.
            let _pinned = cores::pin(&[there]);
            for n in 0..ROUND_TRIPS {
                spin_until(ball, 2 * n + 1);
                ball.store(2 * n + 2, Ordering::Release);
            }
        });
        let player = scope.spawn(move || {
            let _pinned = cores::pin(&[here]);
            let mut began_ns = 0;
            for n in 0..ROUND_TRIPS {
                // The first half is for both to arrive and get warm.
                if n == ROUND_TRIPS / 2 {
                    began_ns = clock.now_ns();
                }
                ball.store(2 * n + 1, Ordering::Release);
                spin_until(ball, 2 * n + 2);
            }
            (clock.now_ns() - began_ns) / (ROUND_TRIPS - ROUND_TRIPS / 2)
        });
        player.join().unwrap_or(u64::MAX)
    })
}

fn spin_until(ball: &AtomicU64, value: u64) {
    let mut spins = 0_u32;
    while ball.load(Ordering::Acquire) != value {
        std::hint::spin_loop();
        spins += 1;
        // Both may be on one core, if they could not be pinned.
        if spins.is_multiple_of(1 << 16) {
            std::thread::yield_now();
        }
    }
}

fn syscall(clock: &Clock) -> u64 {
    let began_ns = clock.now_ns();
    for _ in 0..ROUND_TRIPS {
        std::hint::black_box(rustix::process::getppid());
    }
    (clock.now_ns() - began_ns) / ROUND_TRIPS
}

fn wake_up(clock: &Clock, here: u32, there: u32) -> rustix::io::Result<u64> {
    let ping = eventfd(0, EventfdFlags::empty())?;
    let pong = eventfd(0, EventfdFlags::empty())?;
    // Any number but 0 and the greatest one wakes; this one is the same in either byte order.
    let one = [1_u8; 8];
    std::thread::scope(|scope| {
        let (ping, pong) = (&ping, &pong);
        scope.spawn(move || {
            let _pinned = cores::pin(&[there]);
            let mut word = [0; 8];
            for _ in 0..WAKE_UPS {
                if rustix::io::read(ping, &mut word).is_err()
                    || rustix::io::write(pong, &one).is_err()
                {
                    return;
                }
            }
        });
        let player = scope.spawn(move || {
            let _pinned = cores::pin(&[here]);
            let mut word = [0; 8];
            let began_ns = clock.now_ns();
            for _ in 0..WAKE_UPS {
                rustix::io::write(ping, &one)?;
                rustix::io::read(pong, &mut word)?;
            }
            Ok((clock.now_ns() - began_ns) / WAKE_UPS)
        });
        player.join().unwrap_or(Ok(u64::MAX))
    })
}

/// The machine, as far as it matters for a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel name and release.
    pub kernel: String,
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: u32,
    /// Whether a hypervisor says it is there.
    pub is_virtual: bool,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// What sets the CPU's frequency, or "unknown" as in most virtual machines.
    pub governor: String,
    /// What the clock is read from.
    pub clock_source: String,
    /// Transparent huge pages.
    pub huge_pages: String,
    /// Mitigations against flaws of the CPU that cost time at system calls.
    pub mitigations: Vec<String>,
}

impl Machine {
    /// Reads it from /proc and /sys. What is not there is empty.
    #[must_use]
    pub fn read() -> Self {
        let uname = rustix::system::uname();
        let kernel =
            format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy());
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_owned())
        };
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
        let kib = total.and_then(|t| t.trim().strip_suffix(" kB")).and_then(|t| t.parse().ok());
        Self {
            kernel,
            cpu: field("model name").unwrap_or_default(),
            cpus: u32::try_from(cores::available().len()).unwrap_or(0),
            is_virtual: field("flags").is_some_and(|f| f.split(' ').any(|f| f == "hypervisor")),
            memory_bytes: kib.unwrap_or(0_u64) * 1024,
            governor: sys("devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .unwrap_or_else(|| "unknown".into()),
            clock_source: sys("devices/system/clocksource/clocksource0/current_clocksource")
                .unwrap_or_default(),
            huge_pages: sys("kernel/mm/transparent_hugepage/enabled")
                .and_then(|t| Some(t.split_once('[')?.1.split_once(']')?.0.to_owned()))
                .unwrap_or_default(),
            mitigations: mitigations(),
        }
    }
}

fn sys(path: &str) -> Option<String> {
    Some(fs::read_to_string(Path::new("/sys").join(path)).ok()?.trim().to_owned())
}

fn mitigations() -> Vec<String> {
    let Ok(dir) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut found: Vec<String> = dir
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let how = text.trim().strip_prefix("Mitigation: ")?;
            Some(format!("{}: {how}", entry.file_name().to_string_lossy()))
        })
        .collect();
    found.sort();
    found
}

/// The file system that a directory is on: type and mount options.
#[must_use]
pub fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    mounted(&fs::read_to_string("/proc/self/mounts").ok()?, &dir)
}

fn mounted(mounts: &str, dir: &Path) -> Option<String> {
    let mount = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(1)?;
        dir.starts_with(at).then_some((at.len(), fields.next()?, fields.next()?))
    });
    // The longest; of equals the last, for it is mounted over the others.
    let (_, kind, options) = mount.max_by_key(|(len, ..)| *len)?;
    Some(format!("{kind} {options}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\nb /data xfs rw,noatime 0 0\nc /data-2 tmpfs rw 0 0\n";
        let at = |dir: &str| mounted(mounts, Path::new(dir));
        assert_eq!(at("/data/x").as_deref(), Some("xfs rw,noatime"));
        assert_eq!(at("/home").as_deref(), Some("ext4 rw"));
        assert_eq!(at("/data-2").as_deref(), Some("tmpfs rw"));
        assert!(file_system(Path::new(".")).is_some());
    }

    #[test]
    fn this_machine_can_be_measured() {
        let machine = Machine::read();
        assert!(machine.kernel.starts_with("Linux ") && machine.cpus > 0);
        let cpus = cores::available();
        let (first, last) = (cpus[0], *cpus.last().unwrap());
        let probe = Probe::measure(first, last);
        assert!(probe.syscall_ns < 1_000_000);
        assert_eq!(probe.core_to_core_rtt_ns.is_some(), first != last);
    }

    #[test]
    fn far_is_beyond_200_ns() {
        let at = |rtt| Probe { core_to_core_rtt_ns: Some(rtt), ..Probe::default() }.placement();
        assert_eq!((at(127), at(260)), (Some(Placement::Near), Some(Placement::Far)));
    }
}
