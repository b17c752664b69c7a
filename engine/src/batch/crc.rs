//! CRC-32C, as Kafka computes it over bytes 21.. of a batch.

use crc_fast::{CrcAlgorithm, Digest};

/// The CRC-32C of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // The specialised entry: a `Digest` copies 200 bytes of parameters first, which is felt at 100 B.
    crc_fast::crc32_iscsi(bytes)
}

/// The CRC-32C of `first` followed by `rest`, without joining them.
#[must_use]
pub fn crc32c_of_two(first: &[u8], rest: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(first);
    digest.update(rest);
    u32::try_from(digest.finalize() & 0xffff_ffff).unwrap_or_default()
}
