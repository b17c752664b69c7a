//! Cuts a stream of received chunks into frames.
//!
//! `frame:  | length: i32 | that many bytes |`
//!
//! A frame inside one chunk is a slice of it. One that spans chunks is joined in a buffer that
//! begins with a few KiB and grows with the bytes that arrive, never with the length that
//! was announced: sixty connections that announce 90 MiB each and send nothing cost next to nothing.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of the length before a frame.
pub const PREFIX_BYTES: usize = 4;

/// Kafka's default `socket.request.max.bytes`.
pub const FRAME_BYTES_MAX_DEFAULT: usize = 104_857_600;

/// Bytes reserved at most for a frame of which the first byte has arrived. Source: Kafka's default
/// `batch.size`, 16 KiB, and what stands around it.
const RESERVED_BYTES: usize = 20 * 1024;

/// Why the stream cannot go on: where the next frame starts is unknown. Close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length below zero.
    #[error("a frame of {length} bytes was announced: is the peer speaking Kafka?")]
    Negative {
        /// The length announced.
        length: i32,
    },
    /// A length above the limit.
    #[error("a frame of {length} bytes was announced: socket.request.max.bytes is {limit}")]
    TooLarge {
        /// The length announced.
        length: usize,
        /// The limit.
        limit: usize,
    },
}

/// The state of one stream between two chunks.
#[derive(Debug)]
pub struct FrameCutter {
    /// The greatest length that is accepted.
    limit: usize,
    /// The first bytes of a length prefix that spans chunks.
    prefix: [u8; PREFIX_BYTES],
    /// How many of `prefix` have arrived, below 4.
    prefix_len: usize,
    /// The length of the frame being received, once its prefix is complete.
    length: Option<usize>,
    /// What of that frame came in earlier chunks.
    partial: BytesMut,
}

impl FrameCutter {
    /// Starts at the beginning of a stream whose frames have at most `limit` bytes, prefix not
    /// counted.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            length: None,
            partial: BytesMut::new(),
        }
    }

    /// Takes the next frame off the front of `chunk`, without its length prefix. `None`: the
    /// chunk is used up (and may be dropped; what was left is copied), bring the next one.
    ///
    /// # Errors
    /// Any [`FrameError`], again on every further call.
    #[inline]
    pub fn cut(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        if let Some(length) = self.whole(chunk)?.map(<[u8]>::len) {
            chunk.advance(PREFIX_BYTES);
            return Ok(Some(chunk.split_to(length)));
        }
        self.join(chunk)
    }

    /// The next frame, if it begins and ends in `stream`, which is what follows the last frame in
    /// its chunk. Nothing is cut: [`PREFIX_BYTES`] and the frame are to be skipped. So a frame
    /// costs no share of the chunk, which is felt at 100 B.
    ///
    /// # Errors
    /// Any [`FrameError`].
    #[inline]
    pub fn whole<'c>(&self, stream: &'c [u8]) -> Result<Option<&'c [u8]>, FrameError> {
        let between_frames = self.length.is_none() && self.prefix_len == 0;
        let Some((prefix, rest)) = stream.split_first_chunk().filter(|_| between_frames) else {
            return Ok(None);
        };
        let length = self.checked(i32::from_be_bytes(*prefix))?;
        Ok(rest.get(..length))
    }

    /// As [`FrameCutter::cut`], for a frame that may span chunks.
    fn join(&mut self, chunk: &mut Bytes) -> Result<Option<Bytes>, FrameError> {
        let length = match self.length {
            Some(length) => length,
            None => match self.take_prefix(chunk)? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        let missing = length.saturating_sub(self.partial.len());
        if chunk.len() < missing {
            self.length = Some(length);
            if self.partial.is_empty() && !chunk.is_empty() {
                // A frame of ordinary size is joined without growing.
                self.partial.reserve(length.min(RESERVED_BYTES));
            }
            // Doubles as it grows: at most twice what has arrived, never what was announced.
            self.partial.extend_from_slice(chunk);
            chunk.clear();
            return Ok(None);
        }
        self.length = None;
        let rest = chunk.split_to(missing);
        if self.partial.is_empty() {
            return Ok(Some(rest));
        }
        self.partial.extend_from_slice(&rest);
        Ok(Some(std::mem::take(&mut self.partial).freeze()))
    }

    /// Bytes of an unfinished frame that are held here.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }

    /// Bytes of it that are still to come; 0 between frames.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.length.unwrap_or_default().saturating_sub(self.partial.len())
    }

    fn take_prefix(&mut self, chunk: &mut Bytes) -> Result<Option<usize>, FrameError> {
        let room = self.prefix.get_mut(self.prefix_len..).unwrap_or_default();
        let arrived = room.len().min(chunk.len());
        for (to, from) in room.iter_mut().zip(chunk.iter()) {
            *to = *from;
        }
        if arrived < room.len() {
            self.prefix_len = self.prefix_len.saturating_add(arrived);
            chunk.clear();
            return Ok(None);
        }
        let length = self.checked(i32::from_be_bytes(self.prefix))?;
        chunk.advance(arrived);
        self.prefix_len = 0;
        Ok(Some(length))
    }

    #[inline]
    fn checked(&self, length: i32) -> Result<usize, FrameError> {
        match usize::try_from(length) {
            Err(_) => Err(FrameError::Negative { length }),
            Ok(length) if length > self.limit => {
                Err(FrameError::TooLarge { length, limit: self.limit })
            }
            Ok(length) => Ok(length),
        }
    }
}

#[cfg(test)]
mod tests;
