//! Compressed records, which are inflated where every record of a batch is read: as many in a request
//! as one batch may hold. A batch of 2 KB may be a bomb, and a request may have thousands.

use crate::errors;
use bytes::Bytes;
use kariz_engine::batch::{Batch, Check, Fault, Header, InflateError, RecordFault};
use kariz_protocol::ErrorCode;

/// What the batches of one request were inflated to, or may have been.
#[derive(Default)]
pub(super) struct Inflation {
    bytes: usize,
}

/// Why a batch of a request is not accepted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unaccepted {
    /// By itself.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// For the batches before it.
    #[error("the compressed batches of the request inflate to more than {max_bytes} bytes in all")]
    Together { max_bytes: usize },
}

impl Unaccepted {
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::Fault(why) => errors::fault(why),
            Self::Together { .. } => ErrorCode::MessageTooLarge,
        }
    }
}

impl Inflation {
    /// Takes `records` as the next batch of the request.
    pub(super) fn parse(&mut self, records: Bytes, check: Check) -> Result<Batch, Unaccepted> {
        let max_bytes = match check {
            Check::Full { inflated_bytes_max } if is_compressed(&records) => inflated_bytes_max,
            // As long as they are on the wire, and a frame has a bound.
            Check::Full { .. } | Check::Opaque => return Ok(Batch::parse(records, check)?),
        };
        let left = max_bytes.saturating_sub(self.bytes);
        if left == 0 {
            return Err(Unaccepted::Together { max_bytes });
        }
        let parsed = Batch::parse(records, Check::Full { inflated_bytes_max: left });
        self.bytes += match &parsed {
            Ok(batch) => batch.inflated_bytes(),
            // How far a codec came is not known: some decode a whole window before they say.
            Err(Fault::Records(_)) => left,
            Err(_) => 0,
        };
        parsed.map_err(|fault| match fault {
            Fault::Records(RecordFault::Inflate(InflateError::TooLarge { .. }))
                if left < max_bytes =>
            {
                Unaccepted::Together { max_bytes }
            }
            fault => Unaccepted::Fault(fault),
        })
    }

    /// Bytes, at most.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Whether `records` say that they are compressed.
fn is_compressed(records: &[u8]) -> bool {
    Header::read(records).is_some_and(Header::is_compressed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kariz_engine::batch::Codec;
    use kariz_engine::types::Timestamp;

    const MAX: usize = 100_000;
    const FULL: Check = Check::Full { inflated_bytes_max: MAX };

    fn records(bytes: usize, codec: Codec) -> Bytes {
        let value = vec![0; bytes];
        let batch = Batch::build().record(None, Some(&value), &[], Timestamp(1)).compress(codec);
        batch.done().unwrap().wire().clone()
    }

    fn is_together(parsed: &Result<Batch, Unaccepted>) -> bool {
        matches!(parsed, Err(Unaccepted::Together { max_bytes: MAX }))
    }

    #[test]
    fn the_batches_of_a_request_share_what_one_may_inflate_to() {
        let mut request = Inflation::default();
        for codec in [Codec::Zstd, Codec::Gzip] {
            assert!(request.parse(records(MAX / 2 - 100, codec), FULL).is_ok());
        }
        assert!((MAX - 200..MAX).contains(&request.bytes()), "{}", request.bytes());
        let last = request.parse(records(1_000, Codec::Lz4), FULL);
        assert!(is_together(&last), "{last:?}");
        assert_eq!(last.map_err(|why| why.code()).unwrap_err(), ErrorCode::MessageTooLarge);
        // Nothing is inflated any more, however little; what is not compressed, or not read, is
        // taken as ever.
        assert_eq!(request.bytes(), MAX);
        assert!(is_together(&request.parse(records(1, Codec::Zstd), FULL)));
        assert!(request.parse(records(2 * MAX / 3, Codec::None), FULL).is_ok());
        assert!(request.parse(records(2 * MAX, Codec::Zstd), Check::Opaque).is_ok());
        assert_eq!(request.bytes(), MAX);
    }

    #[test]
    fn a_bomb_leaves_nothing_for_the_rest_and_is_told_what_it_is() {
        let mut request = Inflation::default();
        let why = request.parse(records(2 * MAX, Codec::Zstd), FULL).unwrap_err();
        let own = Fault::Records(RecordFault::Inflate(InflateError::TooLarge {
            codec: Codec::Zstd,
            max_bytes: MAX,
        }));
        assert!(matches!(&why, Unaccepted::Fault(fault) if *fault == own), "{why:?}");
        assert_eq!((why.code(), request.bytes()), (ErrorCode::MessageTooLarge, MAX));
        assert!(is_together(&request.parse(records(1, Codec::Zstd), FULL)));
    }
}
