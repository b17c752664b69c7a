//! Produce requests as bytes to be patched, and the answers to them.
//!
//! ```text
//! frame:   | length i32 | api, version | correlation id i32 | ... acks ... topic | partition i32 |
//!          | length of the batch | the batch | tags |
//! ```
//!
//! The crate `kariz_protocol` writes the frame once; after that only the correlation id, the
//! partition and the batch change, and where batches have one size, nothing else ever does.

use super::{CLIENT_ID, ClientError};
use bytes::{Bytes, BytesMut};
use kariz_protocol::messages::Message;
use kariz_protocol::messages::produce::{RequestEncoder, RequestHead, Response};
use kariz_protocol::writer::Records;
use kariz_protocol::{ApiKey, Cursor, EncodeError, ErrorCode, header};

/// Where a frame has its correlation id: behind length, API and version.
const CORRELATION_AT: usize = 8;

/// A partition number that the encoder writes to show where it stands.
const PROBE: i32 = 0x5a5a_0bad;

/// What all produce requests of a topic have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameShape {
    /// From the length to the partition, both included.
    prefix: Vec<u8>,
    /// Whether lengths are varints and structures end with tags.
    flexible: bool,
    version: i16,
}

impl FrameShape {
    /// Frames in `version` for `topic`.
    ///
    /// # Errors
    /// [`ClientError::Encode`].
    pub fn new(version: i16, topic: &str, acks: i16, timeout_ms: u32) -> Result<Self, ClientError> {
        let mut buf = BytesMut::new();
        let head = RequestHead {
            transactional_id: None,
            acks,
            timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
        };
        let mut encoder = RequestEncoder::begin(&mut buf, version, 0, Some(CLIENT_ID), head, 1);
        encoder.topic(topic, 1);
        encoder.partition(PROBE, Records::Inline(&[0xbb]));
        encoder.finish()?;
        let flexible = ApiKey::Produce.is_flexible(version);
        // Behind the partition: one byte of batch and its length; in flexible versions a byte of
        // length, and the empty tags of partition, topic and request.
        let (length, tags) = if flexible { (1, 3) } else { (4, 0) };
        let behind = length + 1 + tags;
        let end = buf.len().saturating_sub(behind);
        let prefix = buf.get(..end).filter(|p| p.ends_with(&PROBE.to_be_bytes()));
        let wrong = EncodeError::UnsupportedVersion { api: ApiKey::Produce, version };
        Ok(Self { prefix: prefix.ok_or(wrong)?.to_vec(), flexible, version })
    }

    /// The version of the frames.
    #[must_use]
    pub fn version(&self) -> i16 {
        self.version
    }

    /// Bytes of a frame with a batch of `batch_bytes`.
    #[must_use]
    pub fn frame_bytes(&self, batch_bytes: usize) -> usize {
        let (length, tags) =
            if self.flexible { (uvarint_bytes(batch_bytes + 1), 3) } else { (4, 0) };
        self.prefix.len() + length + batch_bytes + tags
    }

    /// Where the batch begins in a frame with a batch of `batch_bytes`.
    #[must_use]
    pub fn batch_at(&self, batch_bytes: usize) -> usize {
        let length = if self.flexible { uvarint_bytes(batch_bytes + 1) } else { 4 };
        self.prefix.len() + length
    }

    /// Writes all of a frame but the batch itself. `frame` has [`FrameShape::frame_bytes`].
    pub fn write(&self, frame: &mut [u8], batch_bytes: usize) {
        let (prefix, rest) = frame.split_at_mut(self.prefix.len());
        prefix.copy_from_slice(&self.prefix);
        let body = u32::try_from(prefix.len() + rest.len() - 4).unwrap_or(u32::MAX);
        prefix[..4].copy_from_slice(&body.to_be_bytes());
        if self.flexible {
            write_uvarint(batch_bytes + 1, rest);
            let tags = rest.len() - 3;
            rest[tags..].fill(0);
        } else {
            let length = u32::try_from(batch_bytes).unwrap_or(u32::MAX);
            rest[..4].copy_from_slice(&length.to_be_bytes());
        }
    }

    /// The batch in a frame that was written by [`FrameShape::write`].
    pub fn batch_in<'f>(&self, frame: &'f mut [u8]) -> &'f mut [u8] {
        let (length, tags) = if self.flexible {
            let rest = &frame[self.prefix.len()..];
            (1 + rest.iter().take_while(|b| **b >= 0x80).count(), 3)
        } else {
            (4, 0)
        };
        let end = frame.len() - tags;
        &mut frame[self.prefix.len() + length..end]
    }

    /// Sets what differs from request to request.
    pub fn patch(&self, frame: &mut [u8], correlation_id: i32, partition: i32) {
        frame[CORRELATION_AT..CORRELATION_AT + 4].copy_from_slice(&correlation_id.to_be_bytes());
        let end = self.prefix.len();
        frame[end - 4..end].copy_from_slice(&partition.to_be_bytes());
    }
}

fn uvarint_bytes(n: usize) -> usize {
    let bits = (usize::BITS - n.leading_zeros()).max(1);
    usize::try_from(bits.div_ceil(7)).unwrap_or(1)
}

fn write_uvarint(mut n: usize, out: &mut [u8]) {
    for byte in out {
        let low = u8::try_from(n & 0x7f).unwrap_or(0);
        n >>= 7;
        *byte = if n == 0 { low } else { low | 0x80 };
        if n == 0 {
            return;
        }
    }
}

/// What became of one produce request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The request.
    pub correlation_id: i32,
    /// Whether the batch was appended.
    pub error: ErrorCode,
    /// The broker's words, if it refused.
    pub message: Option<String>,
    /// The offset of the batch's first record, or -1.
    pub base_offset: i64,
}

/// Reads answers. Nearly all of them are alike but for two numbers, so they are compared with
/// what a plain success looks like, and only others are decoded field by field.
#[derive(Clone, Debug)]
pub struct AckReader {
    version: i16,
    /// A success to this topic: the bytes between correlation id and partition.
    middle: Vec<u8>,
    /// Bytes of such an answer, without its length.
    bytes: usize,
}

impl AckReader {
    /// Reads answers to requests in `version` for `topic`.
    #[must_use]
    pub fn new(version: i16, topic: &str) -> Self {
        let mut middle = Vec::new();
        let mut bytes = 0;
        if ApiKey::Produce.is_flexible(version) && topic.len() < 127 {
            let low = u8::try_from(topic.len() + 1).unwrap_or(0);
            // Tags of the header, one topic, its name, one partition.
            middle.extend_from_slice(&[0, 2, low]);
            middle.extend_from_slice(topic.as_bytes());
            middle.push(2);
            // Correlation id; then partition, error, offset, time, log start, no record errors,
            // no message, tags, tags of the topic, throttle time, tags.
            bytes = 4 + middle.len() + 4 + 2 + 8 + 8 + 8 + 1 + 1 + 1 + 1 + 4 + 1;
        }
        Self { version, middle, bytes }
    }

    /// Reads an answer, without the length before it.
    ///
    /// # Errors
    /// [`ClientError::Decode`].
    pub fn read(&self, frame: &[u8]) -> Result<Ack, ClientError> {
        match self.plain_success(frame) {
            Some(ack) => Ok(ack),
            None => self.decode(frame),
        }
    }

    fn plain_success(&self, frame: &[u8]) -> Option<Ack> {
        if frame.len() != self.bytes {
            return None;
        }
        let (correlation_id, rest) = frame.split_first_chunk::<4>()?;
        let rest = rest.strip_prefix(&self.middle[..])?;
        let (_partition, rest) = rest.split_first_chunk::<4>()?;
        let (error, rest) = rest.split_first_chunk::<2>()?;
        let (base_offset, rest) = rest.split_first_chunk::<8>()?;
        // Behind time and log start: no record errors (empty or null) and no message.
        let plain =
            *error == [0, 0] && rest.get(16).is_some_and(|n| *n <= 1) && rest.get(17) == Some(&0);
        plain.then_some(Ack {
            correlation_id: i32::from_be_bytes(*correlation_id),
            error: ErrorCode::None,
            message: None,
            base_offset: i64::from_be_bytes(*base_offset),
        })
    }

    fn decode(&self, frame: &[u8]) -> Result<Ack, ClientError> {
        let frame = Bytes::copy_from_slice(frame);
        let mut cursor = Cursor::new(&frame);
        let correlation_id =
            header::read_response_header(&mut cursor, ApiKey::Produce, self.version)?;
        let response = Response::decode(&mut cursor, self.version)?;
        let partition = response.topics.into_iter().flat_map(|t| t.partitions).next();
        Ok(match partition {
            Some(p) => Ack {
                correlation_id,
                error: p.error,
                message: p.error_message,
                base_offset: p.base_offset,
            },
            None => Ack {
                correlation_id,
                error: ErrorCode::UnknownServerError,
                message: Some("the answer names no partition".into()),
                base_offset: -1,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kariz_protocol::messages::produce::{
        PartitionResponse, Request, RequestView, TopicResponse,
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_are_those_of_the_encoder(
            version in 3_i16..=11, topic in "[a-z]{1,60}", batch in proptest::collection::vec(any::<u8>(), 1..40_000),
            correlation_id: i32, partition: i32,
        ) {
            let shape = FrameShape::new(version, &topic, -1, 5_000).unwrap();
            let mut frame = vec![0xee; shape.frame_bytes(batch.len())];
            shape.write(&mut frame, batch.len());
            shape.patch(&mut frame, correlation_id, partition);
            let at = shape.batch_at(batch.len());
            frame[at..at + batch.len()].copy_from_slice(&batch);
            prop_assert_eq!(&*shape.batch_in(&mut frame), &batch[..]);

            let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
            prop_assert_eq!(usize::try_from(length).unwrap(), frame.len() - 4);
            let body = Bytes::from(frame).slice(4..);
            let mut cursor = Cursor::new(&body);
            let head = header::RequestHeader::read(&mut cursor).unwrap();
            prop_assert_eq!((head.correlation_id, head.version), (correlation_id, version));
            prop_assert_eq!(head.client_id, Some(CLIENT_ID));
            RequestView::decode(&mut cursor, version).unwrap();
            let mut cursor = Cursor::new(&body);
            header::RequestHeader::read(&mut cursor).unwrap();
            let request = Request::decode(&mut cursor, version).unwrap();
            prop_assert_eq!((request.acks, request.timeout_ms), (-1, 5_000));
            prop_assert_eq!(&request.topics[0].name, &topic);
            prop_assert_eq!(request.topics[0].partitions[0].index, partition);
            prop_assert_eq!(request.topics[0].partitions[0].records.as_deref(), Some(&batch[..]));
            prop_assert_eq!(cursor.remaining(), 0);
        }

        #[test]
        fn answers_are_read_in_every_version(
            version in 3_i16..=11, topic in "[a-z]{1,60}", correlation_id: i32,
            index in 0_i32..100, base_offset: i64, log_start_offset: i64, refused: bool,
        ) {
            let error = if refused { ErrorCode::NotLeaderOrFollower } else { ErrorCode::None };
            let partition = PartitionResponse {
                index, error, base_offset, log_start_offset: if version < 5 { -1 } else { log_start_offset },
                ..PartitionResponse::default()
            };
            let topics = vec![TopicResponse { name: topic.clone(), partitions: vec![partition] }];
            let response = Response { topics, ..Response::default() };
            let mut buf = BytesMut::new();
            header::encode_response(&mut buf, version, correlation_id, &response).unwrap();
            let reader = AckReader::new(version, &topic);
            let ack = Ack { correlation_id, error, message: None, base_offset };
            prop_assert_eq!(reader.plain_success(&buf[4..]).is_some(), version >= 9 && !refused);
            prop_assert_eq!(reader.read(&buf[4..]).unwrap(), ack);
        }
    }
}
