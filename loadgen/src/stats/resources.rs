//! What the run cost: CPU time of the generator's threads, of the server, of others.

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fs;

/// CPU time that the calling thread has used.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    clock_ns(ClockId::ThreadCPUTime)
}

/// CPU time that this process has used, over all of its threads.
#[must_use]
pub fn process_cpu_ns() -> u64 {
    clock_ns(ClockId::ProcessCPUTime)
}

fn clock_ns(id: ClockId) -> u64 {
    let t = clock_gettime(id);
    let seconds = u64::try_from(t.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(t.tv_nsec).unwrap_or(0))
}

/// CPU time that another process has used, over all of its threads, those that ended and the
/// kernel's workers for it included; `None` if it is gone. Resolution: a clock tick, 10 ms.
#[must_use]
pub fn cpu_ns_of(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<u64> {
    // The command's name may hold anything; it ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
    Some((user + system).saturating_mul(1_000_000_000 / ticks_per_second))
}

/// Ticks of all CPUs so far: (all, stolen by the host).
#[must_use]
pub fn machine_ticks() -> Option<(u64, u64)> {
    parse_machine(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_machine(stat: &str) -> Option<(u64, u64)> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal; guest time is in user already.
    let ticks: Vec<u64> =
        line.split_ascii_whitespace().take(8).filter_map(|n| n.parse().ok()).collect();
    Some((ticks.iter().sum(), *ticks.get(7)?))
}

/// What one load thread spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// The CPU it was pinned to, if it was.
    pub core: Option<u32>,
    /// CPU time, looking for work included.
    pub cpu_ns: u64,
    /// Time in turns of its loop that had something to do.
    pub busy_ns: u64,
    /// How long it ran.
    pub elapsed_ns: u64,
}

/// What a phase cost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// The generator's load threads.
    pub generator: Vec<Thread>,
    /// CPU time of the server, if it is known which process that is.
    pub server_cpu_ns: Option<u64>,
    /// The same for each answered request.
    pub server_cpu_ns_per_request: Option<u64>,
    /// The same for a thousand records.
    pub server_cpu_ns_per_1000_records: Option<u64>,
    /// CPU time that the host gave to others, in 1/10,000 of all.
    pub steal_per_10000: Option<u64>,
}

impl Resources {
    /// How busy the busiest load thread was, in percent.
    #[must_use]
    pub fn generator_busy_percent(&self) -> u64 {
        let busy = |t: &Thread| t.busy_ns.saturating_mul(100) / t.elapsed_ns.max(1);
        self.generator.iter().map(busy).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_any_name_is_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 50 25 0 0 20 0 9 0 5 6 7";
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        assert_eq!(parse_stat(stat), Some(75 * tick));
        assert_eq!(parse_stat("nonsense"), None);
        assert!(cpu_ns_of(std::process::id()).is_some());
        assert!(process_cpu_ns() > 0 && thread_cpu_ns() > 0);
    }

    #[test]
    fn stolen_time_is_read() {
        let stat = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3\n";
        assert_eq!(parse_machine(stat), Some((36, 8)));
        assert!(machine_ticks().is_some());
    }
}
