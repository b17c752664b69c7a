//! What a setting accepts, and the value it then has.

use std::fmt;

/// What a setting accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A 32-bit number in a range, both ends included.
    Int(i64, i64),
    /// A 64-bit number in a range, both ends included.
    Long(i64, i64),
    /// A number from 0 to 1.
    Ratio,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Some of these words, or any if there are none here; separated by commas.
    List(&'static [&'static str]),
    /// Any text.
    Text,
}

/// What the numbers of a setting count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nothing, or things that the name says.
    Plain,
    /// Bytes.
    Bytes,
    /// Milliseconds.
    Ms,
}

/// A value that was accepted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Number(i64),
    Ratio(f64),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// The value that `text` writes in units of `factor`, if it is accepted.
    pub(super) fn parse(self, text: &str, factor: i64) -> Option<Value> {
        let text = text.trim();
        match self {
            Self::Bool if text.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
            Self::Bool if text.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
            Self::Bool => None,
            Self::Int(min, max) | Self::Long(min, max) => {
                let n: i64 = text.parse().ok()?;
                // As Kafka: any negative number of hours is "no limit", not -3,600,000 ms.
                let n = if factor > 1 && n < 0 { -1 } else { n.checked_mul(factor)? };
                (min..=max).contains(&n).then_some(Value::Number(n))
            }
            Self::Ratio => {
                let ratio = text.parse().ok()?;
                (0.0..=1.0).contains(&ratio).then_some(Value::Ratio(ratio))
            }
            Self::Choice(words) => words.contains(&text).then(|| Value::Text(text.to_owned())),
            Self::List(words) => {
                let items: Vec<_> =
                    text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect();
                let known = words.is_empty() || items.iter().all(|item| words.contains(item));
                known.then(|| Value::List(items.into_iter().map(str::to_owned).collect()))
            }
            Self::Text => Some(Value::Text(text.to_owned())),
        }
    }

    /// Kafka's number for the type, in DescribeConfigs.
    #[must_use]
    pub const fn type_id(self) -> i8 {
        match self {
            Self::Bool => 1,
            Self::Choice(_) | Self::Text => 2,
            Self::Int(..) => 3,
            Self::Long(..) => 5,
            Self::Ratio => 6,
            Self::List(_) => 7,
        }
    }
}

impl fmt::Display for Kind {
    /// As in "expected ...".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bool => f.write_str("true or false"),
            Self::Int(min, max) | Self::Long(min, max) => match (min, max) {
                (i64::MIN, i64::MAX) => f.write_str("a number"),
                (i64::MIN, max) => write!(f, "a number up to {max}"),
                (min, i64::MAX) => write!(f, "a number from {min}"),
                (min, max) => write!(f, "a number from {min} to {max}"),
            },
            Self::Ratio => f.write_str("a number from 0 to 1"),
            Self::Choice(words) => write!(f, "{}", words.join(", ")),
            Self::List([]) => f.write_str("words separated by commas"),
            Self::List(words) => write!(f, "any of {}, separated by commas", words.join(", ")),
            Self::Text => f.write_str("a text"),
        }
    }
}

/// The value as the type that its row asks for. The table is the only caller, and a test walks
/// it: a row whose kind is another gets the type's zero there, and the test fails.
impl Value {
    pub(super) fn bool(&self) -> bool {
        matches!(self, Self::Bool(true))
    }

    pub(super) fn i64(&self) -> i64 {
        if let Self::Number(n) = self { *n } else { 0 }
    }

    pub(super) fn i32(&self) -> i32 {
        let n = self.i64();
        i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX })
    }

    pub(super) fn u32(&self) -> u32 {
        u32::try_from(self.i64()).unwrap_or_default()
    }

    pub(super) fn u64(&self) -> u64 {
        u64::try_from(self.i64()).unwrap_or_default()
    }

    pub(super) fn usize(&self) -> usize {
        usize::try_from(self.i64()).unwrap_or_default()
    }

    pub(super) fn text(&self) -> &str {
        if let Self::Text(text) = self { text } else { "" }
    }

    pub(super) fn has(&self, item: &str) -> bool {
        matches!(self, Self::List(items) if items.iter().any(|i| i == item))
    }
}
