//! Conversions between lengths that cannot fail on the machines this engine runs on.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("kariz-engine maps file positions to usize: it needs a 64-bit target");

/// A length or position as an index.
#[allow(clippy::cast_possible_truncation)] // usize is 64 bits wide, see above
pub(crate) const fn index(n: u64) -> usize {
    n as usize
}

/// A length below 4 GiB (Kafka's positions and sizes are 31 bits wide), saturating above.
pub(crate) fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
