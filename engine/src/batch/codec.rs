//! Compression: what Kafka's five codecs hold, in pure Rust, bounded.
//!
//! A batch of 100 bytes can inflate to gigabytes, so every decoder writes into a buffer that
//! grows with what has really been decoded and never past the caller's bound.

use super::header::Codec;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::encoding::CompressionLevel;
use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(test)]
mod tests;

/// Marks snappy-java's framing; two version numbers follow, then blocks behind their lengths.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// The two version numbers that snappy-java writes, both 1.
const XERIAL_VERSIONS: &[u8; 8] = &[0, 0, 0, 1, 0, 0, 0, 1];
/// Bytes in a block. Source: snappy-java's default.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// Raw snappy makes at most 64 bytes of 3. A block that claims more lies.
const SNAPPY_RATIO_MAX: usize = 22;
/// The window that every zstd decoder should have. Source: RFC 8878, section 3.1.1.1.2.
const ZSTD_WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// The first allocation for a stream that does not say how long it is.
const FIRST_BYTES: usize = 8 * 1024;

/// Why compressed bytes could not be inflated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// They hold more than is accepted.
    #[error("the {codec:?} data inflates to more than {max_bytes} bytes")]
    TooLarge {
        /// The codec.
        codec: Codec,
        /// The bound.
        max_bytes: usize,
    },
    /// They are not what the codec writes.
    #[error("the {codec:?} data does not decode: {reason}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// What the decoder said.
        reason: Box<str>,
    },
}

/// The most plain bytes that one byte of `codec` stands for, by its format.
const fn ratio_max(codec: Codec) -> u64 {
    match codec {
        Codec::None => 1,
        // A copy of 258 bytes in two bits. Source: RFC 1951, sections 3.2.5 and 3.2.7.
        Codec::Gzip => 1032,
        Codec::Snappy => SNAPPY_RATIO_MAX as u64,
        // A byte adds at most 255 to the length of a copy.
        Codec::Lz4 => 255,
        // A block of 128 KiB that repeats one byte has 4. Source: RFC 8878, section 3.1.1.2.
        Codec::Zstd => 32 * 1024,
    }
}

/// The most plain bytes that any `bytes` bytes inflate to.
pub(super) const fn plain_bytes_max(codec: Codec, bytes: usize) -> u64 {
    ratio_max(codec).saturating_mul(bytes as u64)
}

/// The plain bytes of `body`, at most `max_bytes` of them; borrowed where nothing is compressed.
pub(super) fn inflate(
    codec: Codec,
    body: &[u8],
    max_bytes: usize,
) -> Result<Cow<'_, [u8]>, InflateError> {
    let out = match codec {
        Codec::None if body.len() > max_bytes => Err(Stop::TooLarge),
        Codec::None => return Ok(Cow::Borrowed(body)),
        Codec::Gzip => drain(MultiGzDecoder::new(body), Vec::new(), max_bytes),
        Codec::Snappy => unsnap(body, max_bytes),
        Codec::Lz4 => drain(FrameDecoder::new(body), Vec::new(), max_bytes),
        // The decoder asserts its own invariants. A batch that found a hole in them must cost its
        // sender an error and not everybody the core.
        Codec::Zstd => catch_unwind(AssertUnwindSafe(|| unzstd(body, max_bytes)))
            .unwrap_or_else(|_| Err(Stop::damaged("the decoder gave up"))),
    };
    out.map(Cow::Owned).map_err(|stop| match stop {
        Stop::TooLarge => InflateError::TooLarge { codec, max_bytes },
        Stop::Damaged(reason) => InflateError::Damaged { codec, reason },
    })
}

/// [`InflateError`] before it knows its codec.
enum Stop {
    TooLarge,
    Damaged(Box<str>),
}

impl Stop {
    fn damaged(reason: impl ToString) -> Self {
        Self::Damaged(reason.to_string().into())
    }
}

/// Appends all that `from` yields to `out`, which grows by doubling up to `max_bytes`.
fn drain(mut from: impl Read, mut out: Vec<u8>, max_bytes: usize) -> Result<Vec<u8>, Stop> {
    let mut filled = out.len();
    loop {
        if filled == out.len() {
            // One byte past the bound tells a stream that ends there from one that goes on.
            let room = out.len().saturating_mul(2).max(FIRST_BYTES);
            out.resize(room.min(max_bytes.saturating_add(1)), 0);
        }
        match from.read(out.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Stop::damaged(e)),
        }
        if filled > max_bytes {
            return Err(Stop::TooLarge);
        }
    }
    out.truncate(filled);
    Ok(out)
}

fn unsnap(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, Stop> {
    let mut out = Vec::new();
    let Some(framed) = body.strip_prefix(XERIAL_MAGIC) else {
        unsnap_block(body, &mut out, max_bytes)?;
        return Ok(out);
    };
    let mut rest = framed
        .get(XERIAL_VERSIONS.len()..)
        .ok_or_else(|| Stop::damaged("the framing ends in its head"))?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(Stop::damaged)?;
        let Some((block, after)) = after.split_at_checked(length) else {
            return Err(Stop::damaged("a block ends after the data"));
        };
        unsnap_block(block, &mut out, max_bytes)?;
        rest = after;
    }
    if rest.is_empty() { Ok(out) } else { Err(Stop::damaged("the data ends in a block's length")) }
}

fn unsnap_block(block: &[u8], out: &mut Vec<u8>, max_bytes: usize) -> Result<(), Stop> {
    let claimed = snap::raw::decompress_len(block).map_err(Stop::damaged)?;
    let before = out.len();
    let after = before.checked_add(claimed).filter(|after| *after <= max_bytes);
    let after = after.ok_or(Stop::TooLarge)?;
    if claimed > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
        return Err(Stop::damaged("a block claims more than it can hold"));
    }
    out.resize(after, 0);
    let into = out.get_mut(before..).unwrap_or_default();
    let written = snap::raw::Decoder::new().decompress(block, into).map_err(Stop::damaged)?;
    out.truncate(before + written);
    Ok(())
}

fn unzstd(mut body: &[u8], max_bytes: usize) -> Result<Vec<u8>, Stop> {
    let window = u64::try_from(max_bytes.max(ZSTD_WINDOW_BYTES)).map_err(Stop::damaged)?;
    let mut out = Vec::new();
    // As RFC 8878: frames one after another, some of which hold nothing and are skipped.
    while !body.is_empty() {
        let mut frame = match StreamingDecoder::new_with_max_window_size(&mut body, window) {
            Ok(frame) => frame,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                let length = usize::try_from(length).map_err(Stop::damaged)?;
                body = body
                    .get(length..)
                    .ok_or_else(|| Stop::damaged("a frame to skip ends after the data"))?;
                continue;
            }
            Err(e) => return Err(Stop::damaged(e)),
        };
        out = drain(&mut frame, out, max_bytes)?;
        let decoder = frame.into_frame_decoder();
        let stored = decoder.get_checksum_from_data();
        if stored.is_some() && stored != decoder.get_calculated_checksum() {
            return Err(Stop::damaged("a frame's checksum is wrong"));
        }
    }
    Ok(out)
}

/// `plain` as `codec` compresses it, in the form that Kafka's Java clients write and read.
pub(super) fn deflate(codec: Codec, plain: &[u8]) -> io::Result<Vec<u8>> {
    match codec {
        Codec::None => Ok(plain.to_vec()),
        Codec::Gzip => {
            let mut out = GzEncoder::new(Vec::new(), flate2::Compression::default());
            out.write_all(plain)?;
            out.finish()
        }
        Codec::Snappy => {
            let mut out = [&XERIAL_MAGIC[..], XERIAL_VERSIONS].concat();
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(XERIAL_BLOCK_BYTES) {
                let block = encoder.compress_vec(block)?;
                let length = u32::try_from(block.len()).map_err(io::Error::other)?;
                out.extend(length.to_be_bytes());
                out.extend(block);
            }
            Ok(out)
        }
        Codec::Lz4 => {
            // Java's reader knows independent blocks only.
            let info =
                FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
            let mut out = FrameEncoder::with_frame_info(info, Vec::new());
            out.write_all(plain)?;
            out.finish().map_err(io::Error::other)
        }
        Codec::Zstd => Ok(ruzstd::encoding::compress_to_vec(plain, CompressionLevel::Fastest)),
    }
}
