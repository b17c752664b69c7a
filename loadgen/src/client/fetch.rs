//! Fetch requests, and the answers to them read where they lie.

use super::{CLIENT_ID, ClientError};
use bytes::BytesMut;
use kariz_protocol::messages::fetch::{FetchPartition, Request, RequestHead, TopicRequest};
use kariz_protocol::{ApiKey, Cursor, DecodeError, ErrorCode, header};

/// A fetch request for one partition, written anew for each use into one buffer.
#[derive(Clone, Debug)]
pub struct FetchRequest {
    version: i16,
    request: Request,
}

impl FetchRequest {
    /// Requests in `version` for partitions of `topic`, `max_bytes` at a time.
    #[must_use]
    pub fn new(version: i16, topic: &str, max_bytes: u32, max_wait_ms: u32) -> Self {
        let max_bytes = i32::try_from(max_bytes).unwrap_or(i32::MAX);
        let head = RequestHead {
            max_wait_ms: i32::try_from(max_wait_ms).unwrap_or(i32::MAX),
            min_bytes: 1,
            max_bytes,
            ..RequestHead::default()
        };
        let partition = FetchPartition { max_bytes, ..FetchPartition::default() };
        let topic = TopicRequest { name: topic.to_owned(), partitions: vec![partition] };
        Self { version, request: Request { topics: vec![topic], ..head.into() } }
    }

    /// Appends the frame of a request for `partition` from `offset` on.
    ///
    /// # Errors
    /// [`ClientError::Encode`].
    pub fn write(
        &mut self,
        buf: &mut BytesMut,
        correlation_id: i32,
        partition: i32,
        offset: i64,
    ) -> Result<(), ClientError> {
        for p in self.request.topics.iter_mut().flat_map(|t| &mut t.partitions) {
            p.index = partition;
            p.fetch_offset = offset;
        }
        let Self { version, request } = self;
        Ok(header::encode_request(buf, *version, correlation_id, Some(CLIENT_ID), request)?)
    }
}

/// A fetch response's frame, without its length.
#[derive(Clone, Copy, Debug)]
pub struct FetchResponse<'a> {
    frame: &'a [u8],
    version: i16,
}

/// What a fetch response says of the one partition that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchedPartition<'a> {
    /// The request that it answers.
    pub correlation_id: i32,
    /// The partition, or -1 if none is named.
    pub partition: i32,
    /// Whether it could be read.
    pub error: ErrorCode,
    /// Where what consumers may read ends.
    pub high_watermark: i64,
    /// The batches, of which the last may be cut off.
    pub records: &'a [u8],
}

impl<'a> FetchResponse<'a> {
    /// A response in `version`.
    #[must_use]
    pub fn new(frame: &'a [u8], version: i16) -> Self {
        Self { frame, version }
    }

    /// Reads it, without copying the records: the crate's own reader would, or keep the buffer.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn read(&self) -> Result<FetchedPartition<'a>, DecodeError> {
        let mut cursor = Cursor::over(self.frame);
        let c = &mut cursor;
        let version = self.version;
        let correlation_id = header::read_response_header(c, ApiKey::Fetch, version)?;
        c.set_flexible(ApiKey::Fetch.is_flexible(version));
        let mut fetched = FetchedPartition {
            correlation_id,
            partition: -1,
            error: ErrorCode::None,
            high_watermark: -1,
            records: &[],
        };
        c.i32()?; // throttle time
        if version >= 7 {
            fetched.error = ErrorCode::from_code(c.i16()?);
            c.i32()?; // session
        }
        for _ in 0..c.array_len(2)? {
            c.string()?;
            for _ in 0..c.array_len(24)? {
                Self::partition(c, version, &mut fetched)?;
            }
            c.end_struct()?;
        }
        Ok(fetched)
    }

    fn partition(
        c: &mut Cursor<'a>,
        version: i16,
        fetched: &mut FetchedPartition<'a>,
    ) -> Result<(), DecodeError> {
        fetched.partition = c.i32()?;
        fetched.error = ErrorCode::from_code(c.i16()?);
        fetched.high_watermark = c.i64()?;
        c.i64()?; // last stable offset
        if version >= 5 {
            c.i64()?; // log start
        }
        for _ in 0..c.nullable_array_len(16)?.unwrap_or(0) {
            c.i64()?; // producer of an aborted transaction
            c.i64()?; // its first offset
            c.end_struct()?;
        }
        if version >= 11 {
            c.i32()?; // preferred replica
        }
        fetched.records = c.nullable_bytes()?.unwrap_or_default();
        c.end_struct()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kariz_protocol::messages::Message;
    use kariz_protocol::messages::fetch::{
        AbortedTransaction, PartitionHead, PartitionResponse, Response, TopicResponse,
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_are_read_in_every_version(
            version in 4_i16..=12, correlation_id: i32, index in 0_i32..100,
            high_watermark: i64, records: Option<Vec<u8>>, aborted in 0_i64..3, refused: bool,
        ) {
            let error = if refused { ErrorCode::OffsetOutOfRange } else { ErrorCode::None };
            let head = PartitionHead {
                index, error, high_watermark,
                aborted_transactions: Some((0..aborted)
                    .map(|n| AbortedTransaction { producer_id: n, first_offset: n }).collect()),
                ..PartitionHead::default()
            };
            let partition = PartitionResponse { head, records: records.clone().map(Bytes::from) };
            let topic = TopicResponse { name: "topic".into(), partitions: vec![partition] };
            let response = Response { topics: vec![topic], ..Response::default() };
            let mut buf = BytesMut::new();
            header::encode_response(&mut buf, version, correlation_id, &response).unwrap();
            let read = FetchResponse::new(&buf[4..], version).read().unwrap();
            prop_assert_eq!(read, FetchedPartition {
                correlation_id, partition: index, error, high_watermark,
                records: records.as_deref().unwrap_or_default(),
            });
            for end in 4..buf.len() {
                let _no_panic = FetchResponse::new(&buf[4..end], version).read().is_ok();
            }
        }
    }

    #[test]
    fn requests_name_partition_and_offset() {
        let mut request = FetchRequest::new(12, "t", 1 << 20, 100);
        let mut buf = BytesMut::new();
        request.write(&mut buf, 1, 2, 3).unwrap();
        buf.clear();
        request.write(&mut buf, 7, 5, 99).unwrap();
        let frame = buf.freeze().slice(4..);
        let mut cursor = Cursor::new(&frame);
        assert_eq!(header::RequestHeader::read(&mut cursor).unwrap().correlation_id, 7);
        let read = Request::decode(&mut cursor, 12).unwrap();
        let partition = read.topics[0].partitions[0];
        assert_eq!((partition.index, partition.fetch_offset), (5, 99));
        assert_eq!((read.max_bytes, partition.max_bytes), (1 << 20, 1 << 20));
    }
}
