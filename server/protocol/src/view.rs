//! Arrays left where they are in the frame, so that reading a request allocates nothing.
//!
//! **Invariant:** a [`View`] has read all its elements once, when it was made; what it reads again
//! while it is iterated cannot fail. The first is kept, so that an array of one, which is what a
//! request mostly holds, is read once only.

use crate::cursor::{Cursor, DecodeError};

/// What a [`View`] holds: something that is read from a cursor without allocating.
pub trait Element<'a>: Copy {
    /// The least bytes it can take in any version.
    const BYTES_MIN: usize;

    /// Reads one element.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    fn read(cursor: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError>;
}

/// A 32-bit number, such as a partition in a list of partitions.
impl Element<'_> for i32 {
    const BYTES_MIN: usize = 4;

    #[inline]
    fn read(cursor: &mut Cursor<'_>, _: i16) -> Result<Self, DecodeError> {
        cursor.i32()
    }
}

/// An array left where it is in the frame. It has been walked once, so iterating it, which reads
/// the elements again, cannot fail.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    first: Option<T>,
    /// At the second element.
    rest: Cursor<'a>,
    count: usize,
    version: i16,
}

impl<'a, T: Element<'a>> View<'a, T> {
    /// An array without elements, for a version that lacks the field.
    #[must_use]
    pub fn empty() -> Self {
        Self { first: None, rest: Cursor::over(&[]), count: 0, version: 0 }
    }

    /// Walks the array at `cursor`, to its end, and remembers where it started.
    ///
    /// # Errors
    /// As [`Cursor::array_len`], and those of the elements.
    #[inline]
    pub fn read(cursor: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        let count = cursor.array_len(T::BYTES_MIN)?;
        let first = if count > 0 { Some(T::read(cursor, version)?) } else { None };
        let rest = *cursor;
        for _ in 1..count {
            T::read(cursor, version)?;
        }
        Ok(Self { first, rest, count, version })
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The elements, in the order of the message.
    #[inline]
    #[must_use]
    pub fn iter(&self) -> ViewIter<'a, T> {
        ViewIter { view: *self }
    }
}

impl<'a, T: Element<'a>> IntoIterator for View<'a, T> {
    type Item = T;
    type IntoIter = ViewIter<'a, T>;

    fn into_iter(self) -> ViewIter<'a, T> {
        ViewIter { view: self }
    }
}

impl<'a, T: Element<'a>> IntoIterator for &View<'a, T> {
    type Item = T;
    type IntoIter = ViewIter<'a, T>;

    fn into_iter(self) -> ViewIter<'a, T> {
        self.iter()
    }
}

impl<'a, T: Element<'a> + std::fmt::Debug> std::fmt::Debug for View<'a, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The elements of a [`View`], read one by one.
pub struct ViewIter<'a, T> {
    view: View<'a, T>,
}

impl<'a, T: Element<'a>> Iterator for ViewIter<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.view.count = self.view.count.checked_sub(1)?;
        if let Some(first) = self.view.first.take() {
            return Some(first);
        }
        let element = T::read(&mut self.view.rest, self.view.version);
        debug_assert!(element.is_ok(), "pair: `View::read` has read it before");
        element.ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.view.count, Some(self.view.count))
    }
}

impl<'a, T: Element<'a>> ExactSizeIterator for ViewIter<'a, T> {}
