//! The five ways in which Kafka's batches store their records, in pure Rust: compressing here,
//! decompressing for the checker.

use std::io::{Read, Write};

/// Kafka's compression types, with their numbers in a batch's attributes.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As they are.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks in the framing of Java's `SnappyOutputStream`.
    Snappy,
    /// LZ4 frames with independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// Kafka's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why bytes could not be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The batch names no codec that exists.
    #[error("compression type {0} does not exist")]
    Unknown(i16),
    /// The bytes are not of this codec.
    #[error("not {codec}: {why}")]
    Malformed {
        /// The codec that the batch names.
        codec: Codec,
        /// What its decoder says.
        why: String,
    },
    /// More bytes came out than any batch of ours holds.
    #[error("decompresses to more than {0} bytes")]
    TooLarge(usize),
}

/// Java's snappy framing begins so: magic, version 1, compatible with 1.
const SNAPPY_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// Bytes of records in a snappy block. Source: Java's `SnappyOutputStream`, 32 KiB.
const SNAPPY_BLOCK_BYTES: usize = 32 << 10;

impl Codec {
    /// Its number in a batch's attributes.
    #[must_use]
    pub const fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec that a batch's attributes name.
    ///
    /// # Errors
    /// [`CodecError::Unknown`].
    pub const fn from_attributes(attributes: i16) -> Result<Self, CodecError> {
        match attributes & 7 {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            other => Err(CodecError::Unknown(other)),
        }
    }

    fn malformed(self, why: impl ToString) -> CodecError {
        CodecError::Malformed { codec: self, why: why.to_string() }
    }

    /// Appends the compressed form of `records` to `out`.
    ///
    /// # Errors
    /// [`CodecError::Malformed`], which no records of ours cause.
    pub fn compress(self, records: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        match self {
            Self::None => out.extend_from_slice(records),
            Self::Gzip => {
                let mut to = flate2::write::GzEncoder::new(out, flate2::Compression::fast());
                to.write_all(records)
                    .and_then(|()| to.finish().map(drop))
                    .map_err(|e| self.malformed(e))?;
            }
            Self::Snappy => {
                out.extend_from_slice(&SNAPPY_HEADER);
                let mut encoder = snap::raw::Encoder::new();
                for block in records.chunks(SNAPPY_BLOCK_BYTES) {
                    let block = encoder.compress_vec(block).map_err(|e| self.malformed(e))?;
                    let len = u32::try_from(block.len()).map_err(|e| self.malformed(e))?;
                    out.extend_from_slice(&len.to_be_bytes());
                    out.extend_from_slice(&block);
                }
            }
            Self::Lz4 => {
                let mut to = lz4_flex::frame::FrameEncoder::new(out);
                to.write_all(records).map_err(|e| self.malformed(e))?;
                to.finish().map_err(|e| self.malformed(e))?;
            }
            Self::Zstd => {
                let level = ruzstd::encoding::CompressionLevel::Fastest;
                ruzstd::encoding::compress(records, out, level);
            }
        }
        Ok(())
    }

    /// Replaces `out` with the decompressed form of `bytes`, at most `limit` bytes.
    ///
    /// # Errors
    /// Any [`CodecError`].
    pub fn decompress(
        self,
        bytes: &[u8],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        out.clear();
        match self {
            Self::None => out.extend_from_slice(bytes),
            Self::Gzip => self.drain(flate2::read::GzDecoder::new(bytes), limit, out)?,
            Self::Lz4 => self.drain(lz4_flex::frame::FrameDecoder::new(bytes), limit, out)?,
            Self::Zstd => {
                let from = ruzstd::decoding::StreamingDecoder::new(bytes);
                self.drain(from.map_err(|e| self.malformed(e))?, limit, out)?;
            }
            Self::Snappy => match bytes.strip_prefix(&SNAPPY_HEADER) {
                Some(mut rest) => {
                    while let Some((len, after)) = rest.split_first_chunk::<4>() {
                        let len = crate::num::index(u64::from(u32::from_be_bytes(*len)));
                        let block = after.get(..len).ok_or_else(|| self.malformed("cut off"))?;
                        self.snappy_block(block, limit, out)?;
                        rest = &after[len..];
                    }
                    if !rest.is_empty() {
                        return Err(self.malformed("cut off"));
                    }
                }
                // librdkafka and others write one block without Java's framing.
                None => self.snappy_block(bytes, limit, out)?,
            },
        }
        if out.len() > limit { Err(CodecError::TooLarge(limit)) } else { Ok(()) }
    }

    fn drain(self, from: impl Read, limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        from.take(one_more).read_to_end(out).map_err(|e| self.malformed(e)).map(drop)
    }

    fn snappy_block(self, block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let len = snap::raw::decompress_len(block).map_err(|e| self.malformed(e))?;
        if len > limit.saturating_sub(out.len()) {
            return Err(CodecError::TooLarge(limit));
        }
        let at = out.len();
        out.resize(at + len, 0);
        let done = snap::raw::Decoder::new().decompress(block, &mut out[at..]);
        done.map_err(|e| self.malformed(e)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn bytes_survive_every_codec(seed: Vec<u8>, times in 1_usize..2000) {
            let bytes = seed.repeat(times);
            for codec in ALL {
                let (mut small, mut back) = (Vec::new(), vec![1, 2, 3]);
                codec.compress(&bytes, &mut small).unwrap();
                codec.decompress(&small, bytes.len(), &mut back).unwrap();
                prop_assert!(back == bytes, "{codec:?}");
                if !bytes.is_empty() {
                    prop_assert!(codec.decompress(&small, bytes.len() - 1, &mut back).is_err());
                }
                prop_assert_eq!(Codec::from_attributes(codec.id() | 0x10).unwrap(), codec);
            }
        }
    }

    #[test]
    fn what_is_of_no_codec_is_refused() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            assert!(codec.decompress(b"\xffnonsense", 100, &mut Vec::new()).is_err(), "{codec:?}");
        }
        assert!(Codec::from_attributes(5).is_err());
    }
}
