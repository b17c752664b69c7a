//! The records inside a batch, as views into its bytes.
//!
//! ```text
//! record:  length | attributes i8 | timestamp delta | offset delta | key | value | headers
//! key, value, header value:  length, -1 for null | bytes       header key:  length | UTF-8
//! headers:  count | key, value | ...                           lengths, deltas, counts: varints
//! ```

use super::codec::{InflateError, inflate};
use super::header::{Header, TimestampType};
use super::varint::{take_i32, take_i64};
use crate::types::{Offset, Timestamp};
use std::borrow::Cow;

#[cfg(test)]
mod tests;

/// Why the records of a batch cannot be read. `index` counts them from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// The codec's number means nothing.
    #[error("compression codec {0} is unknown")]
    Codec(i16),
    /// The records could not be inflated.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// The bytes end inside a record.
    #[error("record {index} of {count} ends after the batch")]
    Cut {
        /// Which record.
        index: i32,
        /// How many the batch says it holds.
        count: i32,
    },
    /// A field makes no sense, or the fields do not add up to the record's length.
    #[error("record {index} is malformed: its {field}")]
    Malformed {
        /// Which record.
        index: i32,
        /// The field that is wrong.
        field: &'static str,
    },
    /// Offsets that do not rise, or leave the batch.
    #[error("record {index} has offset delta {delta} in a batch whose last is {last}")]
    OffsetDelta {
        /// Which record.
        index: i32,
        /// Its offset delta.
        delta: i32,
        /// The batch's last offset delta.
        last: i32,
    },
    /// Bytes after the last record.
    #[error("{extra} bytes follow the last record")]
    More {
        /// How many.
        extra: usize,
    },
}

/// The records of one batch, inflated if need be.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    header: &'a Header,
    plain: Cow<'a, [u8]>,
}

impl<'a> Records<'a> {
    /// The records in `body`, which follows `header`; at most `max_bytes` of them once inflated.
    ///
    /// # Errors
    /// [`RecordFault::Codec`], [`RecordFault::Inflate`].
    pub fn new(header: &'a Header, body: &'a [u8], max_bytes: usize) -> Result<Self, RecordFault> {
        let codec = header.codec();
        let codec = codec.ok_or(RecordFault::Codec(header.attributes() & 7))?;
        Ok(Self { header, plain: inflate(codec, body, max_bytes)? })
    }

    /// The records in order. Ends after the first fault.
    #[must_use]
    pub fn iter(&self) -> RecordIter<'_> {
        RecordIter { header: self.header, rest: &self.plain, index: 0, delta: -1 }
    }

    /// The records one after another, no longer compressed.
    #[must_use]
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }
}

impl<'a> IntoIterator for &'a Records<'_> {
    type Item = Result<Record<'a>, RecordFault>;
    type IntoIter = RecordIter<'a>;

    fn into_iter(self) -> RecordIter<'a> {
        self.iter()
    }
}

/// One record; its bytes lie in the [`Records`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its place in the partition.
    pub offset: Offset,
    /// The producer's time, or the broker's under `LogAppendTime`.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone to compaction.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

/// Iterates over [`Records`].
#[derive(Clone, Debug)]
pub struct RecordIter<'a> {
    header: &'a Header,
    rest: &'a [u8],
    /// Records passed; the batch's count once it has ended.
    index: i32,
    delta: i32,
}

impl<'a> RecordIter<'a> {
    fn take(&mut self) -> Result<Record<'a>, RecordFault> {
        let index = self.index;
        let malformed = |field| RecordFault::Malformed { index, field };
        let cut = RecordFault::Cut { index, count: self.header.count() };

        let length = take_i32(&mut self.rest).ok_or_else(|| cut.clone())?;
        let length = usize::try_from(length).map_err(|_| malformed("length"))?;
        let (mut body, rest) = self.rest.split_at_checked(length).ok_or(cut)?;
        self.rest = rest;

        let (_attributes, after) = body.split_first().ok_or_else(|| malformed("attributes"))?;
        body = after;
        let elapsed = take_i64(&mut body).ok_or_else(|| malformed("timestamp delta"))?;
        let delta = take_i32(&mut body).ok_or_else(|| malformed("offset delta"))?;
        let key = take_bytes(&mut body).ok_or_else(|| malformed("key"))?;
        let value = take_bytes(&mut body).ok_or_else(|| malformed("value"))?;
        let headers = Headers::take(&mut body).ok_or_else(|| malformed("headers"))?;
        if !body.is_empty() {
            return Err(malformed("length"));
        }
        let last = self.header.last_offset_delta();
        if delta <= self.delta || delta > last {
            return Err(RecordFault::OffsetDelta { index, delta, last });
        }
        self.delta = delta;

        let timestamp = match self.header.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp(),
            // Wraps as Kafka's does: a reader must pass a stored record, however odd its time.
            TimestampType::CreateTime => {
                Timestamp(self.header.base_timestamp().0.wrapping_add(elapsed))
            }
        };
        let offset = self.header.base_offset().plus(i64::from(delta));
        Ok(Record { offset, timestamp, key, value, headers })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, RecordFault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.header.count() {
            let extra = std::mem::take(&mut self.rest).len();
            return (extra > 0).then_some(Err(RecordFault::More { extra }));
        }
        let record = self.take();
        if record.is_ok() {
            self.index += 1;
        } else {
            (self.index, self.rest) = (i32::MAX, &[]);
        }
        Some(record)
    }
}

impl std::iter::FusedIterator for RecordIter<'_> {}

/// The headers of a record, in order; a key may come more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    rest: &'a [u8],
    left: i32,
}

impl<'a> Headers<'a> {
    /// Takes the headers off `body`, each of them looked at once, so that iterating cannot fail.
    fn take(body: &mut &'a [u8]) -> Option<Self> {
        let count = take_i32(body)?;
        if count < 0 {
            return None;
        }
        let start = *body;
        for _ in 0..count {
            take_header(body)?;
        }
        let rest = start.get(..start.len() - body.len())?;
        Some(Self { rest, left: count })
    }

    /// How many headers are left.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::try_from(self.left).unwrap_or_default()
    }

    /// Whether none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.left <= 0
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        self.left -= 1;
        take_header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl ExactSizeIterator for Headers<'_> {}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<(&'a str, Option<&'a [u8]>)> {
    let key = std::str::from_utf8(take_bytes(bytes)??).ok()?;
    Some((key, take_bytes(bytes)?))
}

/// Takes bytes behind their length. Outer `None`: malformed, inner: null.
#[allow(clippy::option_option, reason = "malformed, null and bytes are three things")]
fn take_bytes<'a>(from: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take_i32(from)?;
    if length < 0 {
        // Kafka writes -1 and takes any negative length for null.
        return Some(None);
    }
    let (bytes, rest) = from.split_at_checked(usize::try_from(length).ok()?)?;
    *from = rest;
    Some(Some(bytes))
}
