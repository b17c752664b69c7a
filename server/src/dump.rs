//! `kariz dump FILE`: the batches of a segment, one a line.

use kariz_engine::batch::Codec;
use kariz_engine::verify::{WalkError, walk};
use std::io::{self, Write};
use std::path::Path;

/// Prints the batches of `file`; `false` if it ends in something that is none, or a CRC is wrong.
///
/// # Errors
/// When the file cannot be read or `out` cannot be written.
pub fn run(file: &Path, out: &mut impl Write) -> Result<bool, Box<dyn std::error::Error>> {
    let (mut sound, mut written) = (true, io::Result::Ok(()));
    let walked = walk(file, |position, batch| {
        let (h, crc_ok) = (batch.header, batch.check_crc().is_ok());
        sound &= crc_ok;
        if written.is_ok() {
            written = writeln!(
                out,
                "offsets {}..{} count {} codec {} timestamps {}..{} ({:?}) producer {} epoch {} \
                 sequence {}..{} leader epoch {} transactional {} control {} crc {} position {} \
                 size {}",
                h.base_offset(),
                h.last_offset(),
                h.count(),
                h.codec().map_or("unknown", codec_name),
                h.base_timestamp().0,
                h.max_timestamp().0,
                h.timestamp_type(),
                h.producer_id().0,
                h.producer_epoch().0,
                h.base_sequence().0,
                h.last_sequence().0,
                h.leader_epoch(),
                h.is_transactional(),
                h.is_control(),
                if crc_ok { "ok" } else { "WRONG" },
                position,
                batch.bytes.len(),
            );
        }
    });
    written?;
    match walked {
        Ok(_) => Ok(sound),
        Err(fault @ WalkError::Fault { .. }) => {
            writeln!(out, "{}: {fault}", file.display())?;
            Ok(false)
        }
        Err(WalkError::Io(error)) => Err(format!("{}: {error}", file.display()).into()),
    }
}

/// Kafka's name for a codec.
fn codec_name(codec: Codec) -> &'static str {
    match codec {
        Codec::None => "none",
        Codec::Gzip => "gzip",
        Codec::Snappy => "snappy",
        Codec::Lz4 => "lz4",
        Codec::Zstd => "zstd",
    }
}
