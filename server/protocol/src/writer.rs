//! Writes Kafka's primitive types to the end of a buffer, and frames around them.
//!
//! ```text
//! | length: i32 | header | fields ... | records: not here, a hole of n bytes | fields ... |
//! ```
//!
//! An error sticks: after it nothing more is written, and [`Writer::finish`] takes the unfinished
//! frame back out of the buffer. So a message writes its fields one after another and only its
//! caller looks at the result.
//!
//! A **hole** stands for bytes that the sender has elsewhere (a range of a file): the writer
//! counts it in every length, and [`segments`] says where it goes.

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::api::ApiKey;
use crate::cursor::STRING_BYTES_MAX;

/// Bytes of a frame's length prefix.
const PREFIX_BYTES: usize = 4;

/// Why a message cannot be written; the buffer is as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// A version that this crate does not write.
    #[error("{} version {version} is not served: negotiate with ApiVersions", .api.name())]
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
    /// A field whose value the version has no place for.
    #[error("version {version} cannot carry `{field}`: use a later version or leave it unset")]
    NotInVersion {
        /// The field.
        field: &'static str,
        /// The version asked for.
        version: i16,
    },
    /// A string over [`STRING_BYTES_MAX`].
    #[error("a string of {length} bytes: at most {STRING_BYTES_MAX} are allowed")]
    StringTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// An array, bytes or a whole frame of more than 2^31 - 1.
    #[error("a length of {length} does not fit Kafka's 32 bits")]
    TooLong {
        /// The length.
        length: usize,
    },
    /// Not as many topics or partitions were written as had been announced.
    #[error("the number of topics or partitions written is not the number announced")]
    CountMismatch,
}

/// Bytes to be sent at one place of a frame but not in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Where they go: before the byte of the buffer at this index.
    pub at: usize,
    /// How many they are.
    pub len: usize,
}

/// The records of a partition, as a message is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records<'a> {
    /// No records field; brokers answer with empty records instead, which old clients expect.
    Null,
    /// Records that are copied into the frame.
    Inline(&'a [u8]),
    /// So many bytes that the sender adds itself: a [`Hole`].
    Hole(usize),
}

/// One stretch of a frame on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment<'a> {
    /// Bytes to be sent as they are.
    Bytes(&'a [u8]),
    /// The bytes of the hole with this index go here.
    Hole {
        /// Which of the holes, in the order they were written.
        index: usize,
        /// How many bytes it stands for.
        len: usize,
    },
}

/// The frame in `bytes` (or several, one behind another) as an alternation of bytes and holes, in
/// the order they are to be sent. Stretches of no bytes are left out.
pub fn segments<'a>(bytes: &'a [u8], holes: &'a [Hole]) -> impl Iterator<Item = Segment<'a>> {
    let starts = std::iter::once(0).chain(holes.iter().map(|hole| hole.at));
    let ends = holes.iter().map(|hole| hole.at).chain(std::iter::once(bytes.len()));
    let stretches = starts.zip(ends).map(|(from, to)| bytes.get(from..to).unwrap_or_default());
    let holes = holes.iter().map(Some).chain(std::iter::once(None)).enumerate();
    stretches
        .zip(holes)
        .flat_map(|(stretch, (index, hole))| {
            let hole = hole.map(|hole| Segment::Hole { index, len: hole.len });
            [Some(Segment::Bytes(stretch)), hole]
        })
        .flatten()
        .filter(|segment| !matches!(segment, Segment::Bytes([]) | Segment::Hole { len: 0, .. }))
}

/// Appends fields to a buffer.
#[derive(Debug)]
pub struct Writer<'b> {
    buf: &'b mut BytesMut,
    /// Where this message starts in `buf`.
    start: usize,
    framed: bool,
    flexible: bool,
    holes: Vec<Hole>,
    error: Option<EncodeError>,
}

impl<'b> Writer<'b> {
    /// Begins a message without a length prefix at the end of `buf`.
    #[must_use]
    pub fn plain(buf: &'b mut BytesMut) -> Self {
        let start = buf.len();
        Self { buf, start, framed: false, flexible: false, holes: Vec::new(), error: None }
    }

    /// Begins a frame at the end of `buf`; [`Writer::finish`] fills its length in.
    #[inline]
    #[must_use]
    pub fn frame(buf: &'b mut BytesMut) -> Self {
        let start = buf.len();
        buf.put_i32(0);
        Self { buf, start, framed: true, flexible: false, holes: Vec::new(), error: None }
    }

    /// From here on, lengths are varints and structs end in tagged fields (or neither).
    #[inline]
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Ends the message: fills in the length of a frame, holes included.
    ///
    /// # Errors
    /// The first error since the message began. The buffer is then as it was before.
    #[inline]
    pub fn finish(mut self) -> Result<Vec<Hole>, EncodeError> {
        if self.framed && self.error.is_none() {
            let written = self.buf.len().saturating_sub(self.start).saturating_sub(PREFIX_BYTES);
            let length = self.holes.iter().fold(written, |sum, hole| sum.saturating_add(hole.len));
            let prefix = self.i32_length(length).to_be_bytes();
            let room = self.buf.get_mut(self.start..).and_then(<[u8]>::first_chunk_mut);
            if let Some(room) = room {
                *room = prefix;
            }
        }
        match self.error {
            None => Ok(self.holes),
            Some(error) => {
                self.buf.truncate(self.start);
                Err(error)
            }
        }
    }

    /// Bytes of the message so far, holes not counted.
    pub(crate) fn written(&self) -> usize {
        self.buf.len().saturating_sub(self.start)
    }

    /// Makes the whole message fail with `error`, unless it has failed before.
    pub fn fail(&mut self, error: EncodeError) {
        self.error.get_or_insert(error);
    }

    /// Fails if a field is set (`is_set`) that `version` has no place for.
    pub fn refuse(&mut self, is_set: bool, field: &'static str, version: i16) {
        if is_set {
            self.fail(EncodeError::NotInVersion { field, version });
        }
    }

    /// Bytes as they are: fields of fixed length that were put together elsewhere.
    #[inline]
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.buf.extend_from_slice(bytes);
        }
    }

    /// A signed byte.
    #[inline]
    pub fn i8(&mut self, value: i8) {
        self.put(&value.to_be_bytes());
    }

    /// A signed 16-bit number.
    #[inline]
    pub fn i16(&mut self, value: i16) {
        self.put(&value.to_be_bytes());
    }

    /// An unsigned 16-bit number.
    #[inline]
    pub fn u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// A signed 32-bit number.
    #[inline]
    pub fn i32(&mut self, value: i32) {
        self.put(&value.to_be_bytes());
    }

    /// A signed 64-bit number.
    #[inline]
    pub fn i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    /// A boolean, 1 or 0.
    #[inline]
    pub fn bool(&mut self, value: bool) {
        self.i8(i8::from(value));
    }

    /// Sixteen bytes of an id.
    #[inline]
    pub fn uuid(&mut self, value: Uuid) {
        self.put(value.as_bytes());
    }

    /// An unsigned varint.
    #[inline]
    pub fn uvarint(&mut self, value: u32) {
        match u8::try_from(value) {
            Ok(byte) if byte < 0x80 => self.put(&[byte]),
            _ => {
                let (bytes, len) = uvarint(value);
                self.put(bytes.get(..len).unwrap_or_default());
            }
        }
    }

    #[inline]
    fn i32_length(&mut self, length: usize) -> i32 {
        i32::try_from(length).unwrap_or_else(|_| {
            self.fail(EncodeError::TooLong { length });
            0
        })
    }

    /// The length of an array or of bytes; `None` is null.
    #[inline]
    fn length(&mut self, length: Option<usize>) {
        let length = length.map_or(-1, |length| self.i32_length(length));
        if self.flexible {
            // From -1 (null) to 2^31 - 1, so that one more is in 0..=2^31.
            self.uvarint(u32::try_from(i64::from(length).saturating_add(1)).unwrap_or(0));
        } else {
            self.i32(length);
        }
    }

    /// A string, or null.
    #[inline]
    pub fn nullable_string(&mut self, value: Option<&str>) {
        let length = value.map_or(0, str::len);
        let short = i16::try_from(length).unwrap_or_else(|_| {
            self.fail(EncodeError::StringTooLong { length });
            0
        });
        match (value, self.flexible) {
            (None, true) => self.uvarint(0),
            (None, false) => self.i16(-1),
            (Some(_), true) => self.length(Some(length)),
            (Some(_), false) => self.i16(short),
        }
        self.put(value.unwrap_or_default().as_bytes());
    }

    /// A string.
    #[inline]
    pub fn string(&mut self, value: &str) {
        self.nullable_string(Some(value));
    }

    /// Bytes, or null.
    pub fn nullable_bytes(&mut self, value: Option<&[u8]>) {
        self.length(value.map(<[u8]>::len));
        self.put(value.unwrap_or_default());
    }

    /// Records: in the frame, or as a hole in it.
    pub fn records(&mut self, records: Records<'_>) {
        match records {
            Records::Null => self.length(None),
            Records::Inline(bytes) => self.nullable_bytes(Some(bytes)),
            Records::Hole(len) => {
                self.length(Some(len));
                if self.error.is_none() {
                    self.holes.push(Hole { at: self.buf.len(), len });
                }
            }
        }
    }

    /// The number of elements of an array that is written next.
    #[inline]
    pub fn array_len(&mut self, count: usize) {
        self.length(Some(count));
    }

    /// An array whose elements `write` writes.
    #[inline]
    pub fn array<T>(&mut self, elements: &[T], write: impl FnMut(&mut Self, &T)) {
        self.nullable_array(Some(elements), write);
    }

    /// An array whose elements `write` writes, or null.
    #[inline]
    pub fn nullable_array<T>(
        &mut self,
        elements: Option<&[T]>,
        mut write: impl FnMut(&mut Self, &T),
    ) {
        self.length(elements.map(<[T]>::len));
        for element in elements.unwrap_or_default() {
            write(self, element);
        }
    }

    /// An array of 32-bit numbers.
    pub fn i32_array(&mut self, elements: &[i32]) {
        self.array(elements, |w, element| w.i32(*element));
    }

    /// The end of a struct, with the tagged fields that `fields` writes, in ascending order.
    /// Nothing is written, and `fields` not called, where the message has no tagged fields.
    #[inline]
    pub fn tags(&mut self, fields: impl FnOnce(&mut TagWriter<'_, 'b>)) {
        if !self.flexible {
            return;
        }
        let count_at = self.buf.len();
        self.i8(0);
        let mut tags = TagWriter { writer: self, count: 0 };
        fields(&mut tags);
        let count = tags.count;
        if self.error.is_none()
            && let Some(byte) = self.buf.get_mut(count_at)
        {
            *byte = count;
        }
    }

    /// The end of a struct without tagged fields.
    #[inline]
    pub fn end_struct(&mut self) {
        if self.flexible {
            self.i8(0);
        }
    }
}

/// Writes the tagged fields of one struct.
#[derive(Debug)]
pub struct TagWriter<'w, 'b> {
    writer: &'w mut Writer<'b>,
    /// Fields so far. Kafka's structs have a dozen at most, so that the count is one byte.
    count: u8,
}

impl<'b> TagWriter<'_, 'b> {
    /// Writes field `tag`, whose content `write` writes.
    pub fn field(&mut self, tag: u8, write: impl FnOnce(&mut Writer<'b>)) {
        debug_assert!(self.count < 127 && tag < 128);
        let w = &mut *self.writer;
        self.count = self.count.saturating_add(1);
        w.uvarint(u32::from(tag));
        let content_at = w.buf.len();
        write(w);
        if w.error.is_some() {
            return;
        }
        // The size stands before the content but is known after it: move the content on.
        let size = w.buf.len().saturating_sub(content_at);
        let size = w.i32_length(size);
        let (size, size_len) = uvarint(size.unsigned_abs());
        let content_end = w.buf.len();
        w.put(size.get(..size_len).unwrap_or_default());
        if let Some(content) = w.buf.get_mut(content_at..) {
            let content_len = content_end.saturating_sub(content_at);
            content.rotate_left(content_len);
        }
    }
}

/// A varint's bytes, and how many of them count.
fn uvarint(mut value: u32) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let mut len = 0_usize;
    for byte in &mut bytes {
        len = len.saturating_add(1);
        // Seven bits fit a byte.
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            *byte = low;
            break;
        }
        *byte = low | 0x80;
    }
    (bytes, len)
}

/// Checks that a message written topic by topic, partition by partition, has as many of both as
/// was announced before them.
#[derive(Debug)]
pub(crate) struct Announced {
    topics: usize,
    partitions: usize,
}

impl Announced {
    /// Announces `topics`, and writes their number.
    #[inline]
    pub(crate) fn topics(w: &mut Writer<'_>, topics: usize) -> Self {
        w.array_len(topics);
        Self { topics, partitions: 0 }
    }

    /// A topic was begun; its `partitions` follow.
    #[inline]
    pub(crate) fn topic(&mut self, w: &mut Writer<'_>, partitions: usize) {
        match (self.partitions, self.topics.checked_sub(1)) {
            (0, Some(topics)) => self.topics = topics,
            _ => w.fail(EncodeError::CountMismatch),
        }
        self.partitions = partitions;
        w.array_len(partitions);
        if partitions == 0 {
            w.end_struct();
        }
    }

    /// A partition was written.
    #[inline]
    pub(crate) fn partition(&mut self, w: &mut Writer<'_>) {
        match self.partitions.checked_sub(1) {
            None => w.fail(EncodeError::CountMismatch),
            Some(partitions) => {
                self.partitions = partitions;
                if partitions == 0 {
                    w.end_struct();
                }
            }
        }
    }

    /// No more topics follow.
    #[inline]
    pub(crate) fn end(&self, w: &mut Writer<'_>) {
        if self.topics != 0 || self.partitions != 0 {
            w.fail(EncodeError::CountMismatch);
        }
    }
}

#[cfg(test)]
mod tests;
