//! Conversions that cannot fail here, said once.

/// A rate: how many a second, of `count` in `elapsed_ns`. 0 if no time passed.
#[must_use]
pub fn per_second(count: u64, elapsed_ns: u64) -> u64 {
    let rate = u128::from(count) * 1_000_000_000 / u128::from(elapsed_ns.max(1));
    if elapsed_ns == 0 { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) }
}

/// A count as an index. Saturates where a pointer has 32 bits.
#[must_use]
pub fn index(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// A non-negative float as an integer; what is no number is 0.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub fn round(x: f64) -> u64 {
    x.round() as u64
}

/// A partition's number as Kafka writes it. Counts of partitions are checked to fit.
#[must_use]
pub fn as_i32(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The next number of a fixed, well-mixed series (SplitMix64). `state` is its only state.
pub fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
