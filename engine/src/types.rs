//! Identifiers and quantities. Imports nothing of the engine; everything else imports it.
//!
//! Every bound in the engine is exclusive; only a batch's `last_offset` is inclusive.

use std::fmt;
use std::ops::Sub;
use std::sync::Arc;
use std::time::Duration;

/// A record's place in its partition, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub i64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);

    /// Past the last offset of any partition.
    pub const MAX: Self = Self(i64::MAX);

    /// The offset `records` further on.
    #[must_use]
    pub const fn plus(self, records: i64) -> Self {
        Self(self.0.saturating_add(records))
    }

    /// How many offsets lie in `earlier..self`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A leader's term in a partition. A batch carries the term in which it was appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderEpoch(pub i32);

impl fmt::Display for LeaderEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Wall-clock time in milliseconds since 1970, as Kafka counts it; -1 is "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// Kafka's "no timestamp".
    pub const NONE: Self = Self(-1);
}

/// Monotonic time since the process (or the simulation) began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub Duration);

impl Instant {
    /// The moment `d` later.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(d))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A producer's identity; -1 where a batch has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub i64);

impl ProducerId {
    /// Kafka's "no producer id".
    pub const NONE: Self = Self(-1);
}

/// A producer's term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerEpoch(pub i16);

/// A producer's counter in one partition; wraps from `i32::MAX` to 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub i32);

impl Sequence {
    /// The sequence `n` records later.
    #[must_use]
    pub fn plus(self, n: i32) -> Self {
        let sum = (i64::from(self.0) + i64::from(n)) & i64::from(i32::MAX);
        Self(i32::try_from(sum).unwrap_or(0))
    }
}

/// A topic's unique id; a topic created again under its old name has a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    /// As Kafka writes it in `partition.metadata`: base64url without padding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let value = u128::from_be_bytes(self.0);
        // 128 bits are 21 whole digits of six bits and two bits more.
        for digit in 0..22_u32 {
            let six = if digit < 21 { value >> (122 - 6 * digit) } else { value << 4 } & 63;
            let six = usize::try_from(six).unwrap_or(0);
            write!(f, "{}", char::from(ALPHABET[six]))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for TopicId {
    type Err = BadTopicId;

    fn from_str(text: &str) -> Result<Self, BadTopicId> {
        let bad = || BadTopicId(text.to_owned());
        if text.len() != 22 {
            return Err(bad());
        }
        let mut value: u128 = 0;
        for (digit, c) in text.bytes().enumerate() {
            let six = match c {
                b'A'..=b'Z' => c - b'A',
                b'a'..=b'z' => c - b'a' + 26,
                b'0'..=b'9' => c - b'0' + 52,
                b'-' => 62,
                b'_' => 63,
                _ => return Err(bad()),
            };
            value = if digit < 21 {
                value << 6 | u128::from(six)
            } else {
                value << 2 | u128::from(six >> 4)
            };
        }
        Ok(Self(value.to_be_bytes()))
    }
}

/// A text that is no base64url of 16 bytes.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a topic id: expected 22 characters of base64url")]
pub struct BadTopicId(String);

/// One core's place in the engine, counted from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// A partition's name: its topic and its number in it.
///
/// ```
/// use kariz_engine::TopicPartition;
///
/// let orders = TopicPartition::new("orders", 0);
/// assert_eq!(orders.to_string(), "orders-0"); // as its directory is called
/// assert_eq!(TopicPartition::from_dir_name("orders-0"), Some(orders));
/// assert!(TopicPartition::new("../orders", 0).check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

/// Characters of the longest topic name. Source: Kafka; with `-` and a partition number it still
/// is a file name of at most 255 bytes.
const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Why a partition cannot be called so. Its name becomes a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No character.
    #[error("a topic's name must not be empty")]
    Empty,
    /// A directory of another meaning.
    #[error("a topic cannot be called `.` or `..`: it becomes a directory")]
    Dots,
    /// More characters than Kafka takes.
    #[error("a topic's name has at most {TOPIC_NAME_BYTES_MAX} characters")]
    TooLong,
    /// A character that Kafka does not take.
    #[error("a topic's name has only letters, digits, `.`, `_` and `-`")]
    Character,
    /// A number below 0.
    #[error("partitions are numbered from 0, not {0}")]
    Partition(i32),
}

/// Checks the name of a topic, by Kafka's rules.
///
/// # Errors
/// [`NameError`], but `Partition`.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match name {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        name if name.len() > TOPIC_NAME_BYTES_MAX => Err(NameError::TooLong),
        name if !name.bytes().all(allowed) => Err(NameError::Character),
        _ => Ok(()),
    }
}

impl TopicPartition {
    /// Names partition `partition` of `topic`.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// Whether a partition can be called so.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn check(&self) -> Result<(), NameError> {
        check_topic(&self.topic)?;
        if self.partition < 0 { Err(NameError::Partition(self.partition)) } else { Ok(()) }
    }

    /// The partition whose directory is called `name`, if one can be.
    #[must_use]
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (topic, partition) = name.rsplit_once('-')?;
        let canonical = partition.bytes().all(|b| b.is_ascii_digit());
        let partition = partition.parse().ok().filter(|_| canonical && !topic.is_empty())?;
        Some(Self::new(topic, partition))
    }
}

impl fmt::Display for TopicPartition {
    /// As its directory is called: `topic-partition`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_id_survives_its_text() {
        for id in [[0; 16], [255; 16], *b"0123456789abcdef"] {
            let text = TopicId(id).to_string();
            assert_eq!(text.len(), 22);
            assert_eq!(text.parse::<TopicId>().unwrap(), TopicId(id));
        }
        // Kafka's own `Uuid.METADATA_TOPIC_ID`, most significant 0 and least significant 1.
        assert_eq!(TopicId(1_u128.to_be_bytes()).to_string(), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert!("short".parse::<TopicId>().is_err());
    }

    #[test]
    fn a_sequence_wraps_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(3), Sequence(1));
    }

    #[test]
    fn only_names_that_are_safe_as_directories_pass() {
        for good in ["a", "A.b_c-9", "...", &"x".repeat(249)] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "../x", "a b", "\u{e4}", "a\0", &"x".repeat(250)] {
            assert!(check_topic(bad).is_err(), "{bad}");
            assert!(TopicPartition::new(bad, 0).check().is_err(), "{bad}");
        }
        assert_eq!(TopicPartition::new("a", -1).check(), Err(NameError::Partition(-1)));
        assert_eq!(TopicPartition::new("a", 0).check(), Ok(()));
    }

    #[test]
    fn directory_names_are_read_back() {
        let p = TopicPartition::new("a-b.c", 12);
        assert_eq!(TopicPartition::from_dir_name(&p.to_string()), Some(p));
        for bad in ["x", "-1", "a-", "a--1", "a-+1", "a-1.deleted"] {
            assert!(
                TopicPartition::from_dir_name(bad).is_none_or(|p| p.to_string() == bad),
                "{bad}"
            );
        }
    }
}
