//! Produce requests that repeat the one before, and their answers.
//!
//! A producer that writes to one partition sends the same bytes again and again, but for the
//! correlation id and the records. Where all else is the same it need not be read again, and the
//! answer is the last one with four numbers changed. For records of 100 B, reading the request and
//! writing the answer are half of what a broker does.

use bytes::BytesMut;

use super::{PartitionResponse, ResponseEncoder};
use crate::cursor::Cursor;
use crate::writer::EncodeError;

/// Where a request's correlation id stands in its frame: behind API key and version.
const CORRELATION_ID: std::ops::Range<usize> = 4..8;

/// All of a request with one partition but its correlation id and its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Up to the length of the records.
    head: Box<[u8]>,
    /// From behind the records.
    tail: Box<[u8]>,
    flexible: bool,
}

impl Pattern {
    /// The pattern of the request in `frame` whose only partition holds `records`, which are a
    /// part of it. `None` if that cannot be told, or is not so.
    #[must_use]
    pub fn of(frame: &[u8], records: &[u8], flexible: bool) -> Option<Self> {
        let behind =
            frame.as_ptr_range().end.addr().checked_sub(records.as_ptr_range().end.addr())?;
        let (before, tail) = frame.split_at_checked(frame.len().checked_sub(behind)?)?;
        let length_and_records = before.len().checked_sub(records.len())?;
        // The length's own bytes: one to five, or always four.
        (1..=5).find_map(|bytes| {
            let head = frame.get(..length_and_records.checked_sub(bytes)?)?;
            let this = Self { head: head.into(), tail: tail.into(), flexible };
            let (_, found) = this.matches(frame)?;
            std::ptr::eq(found, records).then_some(this)
        })
    }

    /// The correlation id and the records of the request in `frame`, if all else in it is as in
    /// this pattern, byte for byte.
    #[inline]
    #[must_use]
    pub fn matches<'f>(&self, frame: &'f [u8]) -> Option<(i32, &'f [u8])> {
        let (head, rest) = frame.split_at_checked(self.head.len())?;
        let id = head.get(CORRELATION_ID)?.first_chunk()?;
        let same = head.get(..CORRELATION_ID.start) == self.head.get(..CORRELATION_ID.start)
            && head.get(CORRELATION_ID.end..) == self.head.get(CORRELATION_ID.end..);
        if !same {
            return None;
        }
        let mut rest = Cursor::over(rest);
        rest.set_flexible(self.flexible);
        let records = rest.nullable_bytes().ok()??;
        let tail = rest.take(rest.remaining()).ok()?;
        (*tail == *self.tail).then_some((i32::from_be_bytes(*id), records))
    }
}

/// The answer to a batch that was appended: all but the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    frame: Box<[u8]>,
    /// Where the base offset stands in it; the other two follow.
    base_offset: usize,
    version: i16,
}

impl Appended {
    /// For partition `index` of `topic`.
    ///
    /// # Errors
    /// Any [`EncodeError`].
    pub fn new(version: i16, topic: &str, index: i32) -> Result<Self, EncodeError> {
        let mut frame = BytesMut::new();
        let mut response = ResponseEncoder::begin(&mut frame, version, 0, 1);
        response.topic(topic, 1);
        // Behind the index and the error.
        let base_offset = response.written().saturating_add(6);
        response.partition(&PartitionResponse { index, ..PartitionResponse::default() });
        response.finish(0, &[])?;
        Ok(Self { frame: frame.to_vec().into(), base_offset, version })
    }

    /// Writes the answer to the end of `out`.
    #[inline]
    pub fn write(
        &self,
        out: &mut BytesMut,
        correlation_id: i32,
        base_offset: i64,
        log_append_time_ms: i64,
        log_start_offset: i64,
    ) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = out.get_mut(start..).unwrap_or_default();
        // Behind the length.
        put(frame, 4, correlation_id.to_be_bytes());
        put(frame, self.base_offset, base_offset.to_be_bytes());
        put(frame, self.base_offset.saturating_add(8), log_append_time_ms.to_be_bytes());
        if self.version >= 5 {
            put(frame, self.base_offset.saturating_add(16), log_start_offset.to_be_bytes());
        }
    }
}

#[inline]
fn put<const N: usize>(frame: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(room) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *room = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PartitionRequest, Request, RequestView, TopicRequest};
    use super::*;
    use crate::api::ApiKey;
    use crate::header::{RequestHeader, encode_request};
    use bytes::Bytes;
    use proptest::prelude::*;

    /// A request's frame without its length prefix.
    fn frame(version: i16, id: i32, topics: Vec<TopicRequest>, acks: i16) -> Bytes {
        let mut buf = BytesMut::new();
        let request = Request { acks, timeout_ms: 1500, topics, ..Request::default() };
        encode_request(&mut buf, version, id, Some("client"), &request).unwrap();
        buf.freeze().slice(4..)
    }

    fn one(name: &str, index: i32, records: Vec<u8>) -> Vec<TopicRequest> {
        let partition = PartitionRequest { index, records: Some(records.into()) };
        vec![TopicRequest { name: name.to_owned(), partitions: vec![partition] }]
    }

    fn pattern(frame: &Bytes, version: i16) -> Option<Pattern> {
        let mut cursor = Cursor::new(frame);
        RequestHeader::read(&mut cursor).unwrap();
        let request = RequestView::decode(&mut cursor, version).unwrap();
        let topic = request.topics.iter().next()?;
        let partition = topic.partitions.iter().next()?;
        Pattern::of(frame, partition.records?, ApiKey::Produce.is_flexible(version))
    }

    proptest! {
        #[test]
        fn a_request_that_differs_in_its_records_alone_matches(
            version in 3_i16..=11,
            ids in any::<(i32, i32)>(),
            name in "[a-z]{0,20}",
            index in any::<i32>(),
            records in prop::collection::vec(any::<u8>(), 0..40_000),
            next in prop::collection::vec(any::<u8>(), 0..40_000),
        ) {
            let first = frame(version, ids.0, one(&name, index, records), 1);
            let pattern = pattern(&first, version).unwrap();
            let second = frame(version, ids.1, one(&name, index, next.clone()), 1);
            prop_assert_eq!(pattern.matches(&second), Some((ids.1, &next[..])));
        }

        #[test]
        fn whatever_else_differs_is_seen(
            version in 3_i16..=11,
            records in prop::collection::vec(any::<u8>(), 1..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u32,
        ) {
            let first = frame(version, 7, one("topic", 3, records.clone()), 1);
            let pattern = pattern(&first, version).unwrap();
            let mut other = first.to_vec();
            let at = at.index(other.len());
            other[at] ^= 1_u8 << bit;
            let from = first.len() - records.len() - if version >= 9 { 3 } else { 0 };
            let inside = (from..from + records.len()).contains(&at) || CORRELATION_ID.contains(&at);
            prop_assert_eq!(pattern.matches(&other).is_some(), inside, "byte {}", at);
            prop_assert!(pattern.matches(&first[..at]).is_none(), "cut short");
        }

        #[test]
        fn the_answer_is_what_the_encoder_writes(
            version in 3_i16..=11,
            name in "[a-z]{0,200}",
            (index, id) in any::<(i32, i32)>(),
            (base_offset, log_append_time_ms, log_start_offset) in any::<(i64, i64, i64)>(),
        ) {
            let partition = PartitionResponse {
                index, base_offset, log_append_time_ms, log_start_offset,
                ..PartitionResponse::default()
            };
            let mut expected = BytesMut::from(&b"before"[..]);
            let mut response = ResponseEncoder::begin(&mut expected, version, id, 1);
            response.topic(&name, 1);
            response.partition(&partition);
            response.finish(0, &[]).unwrap();
            let mut written = BytesMut::from(&b"before"[..]);
            let answer = Appended::new(version, &name, index).unwrap();
            answer.write(&mut written, id, base_offset, log_append_time_ms, log_start_offset);
            prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn a_second_topic_belongs_to_what_must_be_the_same() {
        for version in 3..=11 {
            let mut topics = one("a", 0, vec![1; 10]);
            topics.extend(one("b", 0, vec![2; 10]));
            let two_topics = frame(version, 1, topics, 1);
            let again = pattern(&two_topics, version);
            // It is in the tail: the same bytes mean the same, its records too.
            let other = {
                let mut topics = one("a", 0, vec![1; 10]);
                topics.extend(one("b", 0, vec![3; 10]));
                frame(version, 1, topics, 1)
            };
            assert!(again.is_none_or(|p| p.matches(&other).is_none()), "version {version}");
        }
    }
}
