//! Which CPUs there are, and who runs on which.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// The CPUs that this process may use, ascending.
#[must_use]
pub fn available() -> Vec<u32> {
    let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let all: Vec<u32> = (0..)
        .zip(0..CpuSet::MAX_CPU)
        .filter(|(_, cpu)| set.is_set(*cpu))
        .map(|(number, _)| number)
        .collect();
    if all.is_empty() { vec![0] } else { all }
}

/// Lets the calling thread, and threads that it starts, run on these CPUs only.
///
/// # Errors
/// As `sched_setaffinity(2)`: none of them exists or is allowed.
pub fn pin(cpus: &[u32]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        let cpu = crate::num::index(u64::from(*cpu));
        if cpu < CpuSet::MAX_CPU {
            set.set(cpu);
        }
    }
    Ok(sched_setaffinity(None, &set)?)
}

/// Halves CPUs: the first half for the server, the second for the load. A single CPU is shared.
#[must_use]
pub fn halves(cpus: &[u32]) -> (Vec<u32>, Vec<u32>) {
    if cpus.len() < 2 {
        return (cpus.to_vec(), cpus.to_vec());
    }
    let (server, load) = cpus.split_at(cpus.len() / 2);
    (server.to_vec(), load.to_vec())
}

/// Reads a list of CPUs: `0,2-3`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse(text: &str) -> Result<Vec<u32>, String> {
    let number = |t: &str| t.trim().parse::<u32>().map_err(|_| format!("`{t}` is no CPU number"));
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last >= 4096 {
            return Err(format!("`{part}` is no range of CPUs"));
        }
        cpus.extend(first..=last);
    }
    let mut seen = cpus.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() < cpus.len() {
        return Err(format!("`{text}` names a CPU twice"));
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(parse("0,2-4"), Ok(vec![0, 2, 3, 4]));
        for bad in ["", "x", "3-1", "0,0", "0-2,1", "1-99999"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores_are_halved() {
        assert_eq!(halves(&[0]), (vec![0], vec![0]));
        assert_eq!(halves(&[0, 1]), (vec![0], vec![1]));
        assert_eq!(halves(&[0, 1, 2]), (vec![0], vec![1, 2]));
        assert!(!available().is_empty());
    }
}
