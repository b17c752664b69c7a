//! Reads Kafka's primitive types from one frame, never past its end.
//!
//! A [`Cursor`] borrows: strings are `&str` into the frame, record bytes are slices of it. The
//! two encodings of strings, bytes and arrays (a fixed-width length, or `length + 1` as an
//! unsigned varint from a message's first "flexible" version on) differ only here: a message
//! says once which one it uses, and reads its fields the same way in both.
//!
//! **Invariant:** nothing is allocated for a length that the bytes still in the frame cannot
//! hold. An array of `n` elements is refused unless `n` times the least size of an element is
//! there, so a decoded message is at most a constant times larger than its bytes.

use bytes::Bytes;
use uuid::Uuid;

use crate::api::ApiKey;

/// Bytes of the longest string. Source: Kafka refuses longer ones in both encodings.
pub const STRING_BYTES_MAX: usize = 32_767;

/// Why bytes are not the message they should be. `at` counts from the start of the frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The frame ends inside a field.
    #[error("a field at byte {at} needs {needed} bytes, but the message ends after {left}")]
    Truncated {
        /// Where the field starts.
        at: usize,
        /// Bytes it needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A length below -1, which means null.
    #[error("the length at byte {at} is {length}: only -1 (null) may be negative")]
    NegativeLength {
        /// Where the length stands.
        at: usize,
        /// What it says.
        length: i64,
    },
    /// A null where the field has no null.
    #[error("the field at byte {at} is null, but must not be")]
    Null {
        /// Where the field starts.
        at: usize,
    },
    /// More elements than the rest of the frame can hold.
    #[error("the array at byte {at} announces {count} elements, but only {room} fit in the rest")]
    ArrayTooLong {
        /// Where the array's length stands.
        at: usize,
        /// Elements announced.
        count: usize,
        /// Elements that could follow.
        room: usize,
    },
    /// A string over [`STRING_BYTES_MAX`].
    #[error("the string at byte {at} has {length} bytes: at most {STRING_BYTES_MAX} are allowed")]
    StringTooLong {
        /// Where the string's length stands.
        at: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// A string that is not UTF-8.
    #[error("the string at byte {at} is not UTF-8")]
    BadUtf8 {
        /// Where its text starts.
        at: usize,
    },
    /// A varint of more than 32 bits.
    #[error("the varint at byte {at} does not fit 32 bits")]
    BadVarint {
        /// Where it starts.
        at: usize,
    },
    /// Bytes after the last field.
    #[error("{left} bytes follow the last field, at byte {at}")]
    TrailingBytes {
        /// Where the last field ends.
        at: usize,
        /// Bytes left over.
        left: usize,
    },
    /// A version that this crate does not read.
    #[error("{} version {version} is not served: negotiate with ApiVersions", .api.name())]
    UnsupportedVersion {
        /// The API.
        api: ApiKey,
        /// The version asked for.
        version: i16,
    },
}

/// A place in a frame, and how the message there writes its lengths. Copying it marks the place.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    /// What is still to be read; a part of `frame`, if there is one.
    rest: &'a [u8],
    /// Where `rest` ends, counted from the start of the frame.
    end: usize,
    /// The frame, or the chunk around it.
    frame: Option<&'a Bytes>,
    flexible: bool,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `frame`. Byte fields are read as slices of it, without a copy.
    #[must_use]
    pub fn new(frame: &'a Bytes) -> Self {
        Self { rest: frame, end: frame.len(), frame: Some(frame), flexible: false }
    }

    /// Starts at the first byte of `frame`, which is a part of `chunk`: byte fields are read as
    /// slices of that, without a copy.
    #[must_use]
    pub fn within(chunk: &'a Bytes, frame: &'a [u8]) -> Self {
        Self { rest: frame, end: frame.len(), frame: Some(chunk), flexible: false }
    }

    /// Starts at the first of `bytes`, which nobody shares: byte fields are copied out.
    #[must_use]
    pub fn over(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, end: bytes.len(), frame: None, flexible: false }
    }

    /// From here on, lengths are varints and structs end in tagged fields (or neither).
    #[inline]
    pub fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    /// Whether lengths are varints and structs end in tagged fields.
    #[must_use]
    pub fn is_flexible(&self) -> bool {
        self.flexible
    }

    /// Where the cursor stands, counted from the start of the frame.
    #[must_use]
    #[inline]
    pub fn at(&self) -> usize {
        self.end.saturating_sub(self.rest.len())
    }

    /// Bytes still to be read.
    #[must_use]
    #[inline]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that everything has been read.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`].
    pub fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { at: self.at(), left }),
        }
    }

    #[cold]
    fn truncated(&self, needed: usize) -> DecodeError {
        DecodeError::Truncated { at: self.at(), needed, left: self.rest.len() }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.truncated(n))?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.truncated(N))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// A signed byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    /// A signed 16-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    /// An unsigned 16-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.fixed().map(u16::from_be_bytes)
    }

    /// A signed 32-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    /// A signed 64-bit number.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A boolean: as in Kafka, any byte but 0 is true.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.i8().map(|byte| byte != 0)
    }

    /// Sixteen bytes of an id; all zeros is "none".
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    #[inline]
    pub fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        self.fixed().map(Uuid::from_bytes)
    }

    /// An unsigned varint of at most 32 bits: seven bits a byte, the least significant first.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadVarint`].
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32, DecodeError> {
        // Nearly all are lengths of names, tags, and numbers of tags: one byte.
        match self.rest.split_first() {
            Some((byte, rest)) if *byte < 0x80 => {
                self.rest = rest;
                Ok(u32::from(*byte))
            }
            _ => self.long_uvarint(),
        }
    }

    fn long_uvarint(&mut self) -> Result<u32, DecodeError> {
        let at = self.at();
        let mut value = 0_u32;
        for shift in [0_u32, 7, 14, 21, 28] {
            let [byte] = self.fixed()?;
            if shift == 28 && byte > 0x0f {
                return Err(DecodeError::BadVarint { at });
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint { at })
    }

    /// `length + 1` as a varint; `None` is null.
    #[inline]
    fn compact_length(&mut self) -> Result<Option<usize>, DecodeError> {
        let at = self.at();
        match self.uvarint()?.checked_sub(1) {
            None => Ok(None),
            Some(n) => usize::try_from(n).map(Some).map_err(|_| DecodeError::BadVarint { at }),
        }
    }

    #[inline]
    fn signed_length(at: usize, length: i64) -> Result<Option<usize>, DecodeError> {
        match length {
            -1 => Ok(None),
            n => usize::try_from(n)
                .map(Some)
                .map_err(|_| DecodeError::NegativeLength { at, length: n }),
        }
    }

    /// The length of an array or of bytes; `None` is null.
    #[inline]
    fn length(&mut self) -> Result<Option<usize>, DecodeError> {
        if self.flexible {
            return self.compact_length();
        }
        let at = self.at();
        let length = self.i32()?;
        Self::signed_length(at, i64::from(length))
    }

    /// A string, or `None` for null.
    ///
    /// # Errors
    /// As [`Cursor::string`], without [`DecodeError::Null`].
    #[inline]
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let at = self.at();
        let length = if self.flexible {
            self.compact_length()?
        } else {
            let length = self.i16()?;
            Self::signed_length(at, i64::from(length))?
        };
        let Some(length) = length else { return Ok(None) };
        if length > STRING_BYTES_MAX {
            return Err(DecodeError::StringTooLong { at, length });
        }
        let at = self.at();
        let text = self.take(length)?;
        std::str::from_utf8(text).map(Some).map_err(|_| DecodeError::BadUtf8 { at })
    }

    /// A string.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Null`], [`DecodeError::NegativeLength`],
    /// [`DecodeError::StringTooLong`], [`DecodeError::BadUtf8`], [`DecodeError::BadVarint`].
    #[inline]
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let at = self.at();
        self.nullable_string()?.ok_or(DecodeError::Null { at })
    }

    /// Bytes (records, too), or `None` for null.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::NegativeLength`], [`DecodeError::BadVarint`].
    #[inline]
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.length()? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// `part`, which this cursor has read, as bytes that outlive it: a slice of the frame, or a
    /// copy if the cursor is over unshared bytes.
    #[inline]
    pub(crate) fn share(&self, part: &'a [u8]) -> Bytes {
        share(self.frame, part)
    }

    /// The frame that byte fields are slices of.
    #[inline]
    pub(crate) fn frame(&self) -> Option<&'a Bytes> {
        self.frame
    }

    /// The number of elements of an array that follows, or `None` for null. `element_bytes_min`
    /// is the least an element can take in any version.
    ///
    /// # Errors
    /// As [`Cursor::array_len`], without [`DecodeError::Null`].
    #[inline]
    pub fn nullable_array_len(
        &mut self,
        element_bytes_min: usize,
    ) -> Result<Option<usize>, DecodeError> {
        let at = self.at();
        let Some(count) = self.length()? else { return Ok(None) };
        let room = self.rest.len().checked_div(element_bytes_min).unwrap_or(self.rest.len());
        if count > room {
            return Err(DecodeError::ArrayTooLong { at, count, room });
        }
        Ok(Some(count))
    }

    /// The number of elements of an array that follows.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::Null`], [`DecodeError::NegativeLength`],
    /// [`DecodeError::ArrayTooLong`], [`DecodeError::BadVarint`].
    #[inline]
    pub fn array_len(&mut self, element_bytes_min: usize) -> Result<usize, DecodeError> {
        let at = self.at();
        self.nullable_array_len(element_bytes_min)?.ok_or(DecodeError::Null { at })
    }

    /// An array of what `read` reads, or `None` for null.
    ///
    /// # Errors
    /// As [`Cursor::nullable_array_len`], and those of `read`.
    pub fn nullable_array<T>(
        &mut self,
        element_bytes_min: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let Some(count) = self.nullable_array_len(element_bytes_min)? else { return Ok(None) };
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(Some(elements))
    }

    /// An array of what `read` reads.
    ///
    /// # Errors
    /// As [`Cursor::array_len`], and those of `read`.
    pub fn array<T>(
        &mut self,
        element_bytes_min: usize,
        read: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let at = self.at();
        self.nullable_array(element_bytes_min, read)?.ok_or(DecodeError::Null { at })
    }

    /// The end of a struct: its tagged fields, if the message has any. `field` reads those that
    /// it knows from a cursor that ends where the field does, and leaves others alone.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::ArrayTooLong`], [`DecodeError::BadVarint`],
    /// [`DecodeError::TrailingBytes`] (a known field is longer than what was read of it), and
    /// those of `field`.
    pub fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let length = self.uvarint()?;
            // A length beyond usize is beyond the frame.
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let start = self.at();
            let body = self.take(length)?;
            let mut inner = Self { rest: body, end: self.at(), ..*self };
            field(tag, &mut inner)?;
            if inner.at() != start {
                inner.finish()?;
            }
        }
        Ok(())
    }

    /// The end of a struct of which no tagged field is known.
    ///
    /// # Errors
    /// As [`Cursor::tags`].
    #[inline]
    pub fn end_struct(&mut self) -> Result<(), DecodeError> {
        match self.rest.split_first() {
            _ if !self.flexible => Ok(()),
            Some((0, rest)) => {
                self.rest = rest;
                Ok(())
            }
            _ => self.tags(|_, _| Ok(())),
        }
    }
}

/// `part` of `frame` as bytes of their own; a copy if there is no frame.
#[inline]
pub(crate) fn share(frame: Option<&Bytes>, part: &[u8]) -> Bytes {
    match frame {
        Some(frame) if !part.is_empty() => frame.slice_ref(part),
        _ => Bytes::copy_from_slice(part),
    }
}

#[cfg(test)]
mod tests;
