//! Conversions between widths, saturating: lengths in memory against Kafka's signed numbers.

/// A length as Kafka's 32 bits.
pub(crate) fn i32_from(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// A length as Kafka's 64 bits.
pub(crate) fn i64_from(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

/// A length as a counter's 64 bits.
pub(crate) fn u64_from(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A limit from the wire as a length; a negative one is none at all.
pub(crate) fn usize_from(n: i32) -> usize {
    usize::try_from(n).unwrap_or(0)
}

/// Milliseconds from the wire as a duration; a negative number is no time.
pub(crate) fn millis(ms: i32) -> std::time::Duration {
    std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// The CPUs that this process may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect(),
        // Without the list there is at least the CPU that this runs on.
        Err(_) => vec![0],
    }
}
