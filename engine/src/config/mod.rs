//! Settings: one table of Kafka's names, and everything that follows from it.
//!
//! A setting is one row of [`TABLE`]: its name, what it accepts, its default, what it does here,
//! and where its value goes. The typed structs, the checks of CreateTopics, the answers of
//! DescribeConfigs, the properties file and the documentation all come from the rows.
//!
//! A topic's value is the one set for the topic; else the one of its broker-level synonym; else
//! the default.
//!
//! Settings of Kafka's that have no effect here are accepted and shown, so that tools which set
//! them work; their row says why they have none. A value that would promise what is not kept
//! (`compression.type=zstd`) is refused.

mod broker;
mod describe;
mod log_config;
mod properties;
mod table;
mod value;

#[cfg(test)]
mod tests;

pub use broker::{BrokerConfig, Warning};
pub use describe::{Described, Source, markdown};
pub use log_config::{CleanupPolicy, LogConfig};
pub use properties::{BadEscape, parse_properties};
pub use table::{BROKER_ONLY, TABLE};
pub use value::{Kind, Unit};

use value::Value;

/// A row of the table.
#[derive(Debug)]
pub struct Setting {
    /// Kafka's name, at the level of the topic if topics have it.
    pub name: &'static str,
    /// Who has it.
    pub scope: Scope,
    /// What it accepts.
    pub kind: Kind,
    /// What its numbers count.
    pub unit: Unit,
    /// Its default, as it would be written; `None` is Kafka's null.
    pub default: Option<&'static str>,
    /// Whether it does anything here.
    pub effect: Effect,
    /// What it does.
    pub doc: &'static str,
    apply: Apply,
}

/// Who has a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Topics, with the broker's names for their default; the first that is set counts.
    Topic(&'static [Synonym]),
    /// The broker.
    Broker,
}

/// A broker's name for the default of a topic's setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The name.
    pub name: &'static str,
    /// How many of the topic's units one of its own is: 3,600,000 ms for hours.
    pub factor: i64,
}

/// Whether a setting does anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// As in Kafka.
    Served,
    /// Accepted, stored and shown, without effect, and why.
    Stored(&'static str),
}

/// Where a value goes.
#[derive(Clone, Copy, Debug)]
enum Apply {
    Topic(fn(&mut LogConfig, &Value)),
    Broker(fn(&mut BrokerConfig, &Value)),
    Nowhere,
}

/// Why a setting is refused. Kafka: 40.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such setting.
    #[error("`{name}` is no setting of a topic")]
    Unknown {
        /// The name.
        name: String,
    },
    /// A value that the setting does not accept.
    #[error("`{value}` is no value for `{name}`: expected {expected}")]
    Value {
        /// The name.
        name: String,
        /// The value.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A value of Kafka's that is not served.
    #[error("`{name}={value}` is not served: {why}")]
    Unsupported {
        /// The name.
        name: &'static str,
        /// The value.
        value: String,
        /// Why not, and what to do instead.
        why: &'static str,
    },
    /// Two values that do not go together.
    #[error("`{low}` must not be larger than `{high}`")]
    Conflict {
        /// The setting that is too large.
        low: &'static str,
        /// The one that it passes.
        high: &'static str,
    },
}

/// The topics' setting called `name`.
///
/// # Errors
/// [`ConfigError::Unknown`].
pub fn topic_setting(name: &str) -> Result<&'static Setting, ConfigError> {
    TABLE
        .iter()
        .find(|s| s.name == name && matches!(s.scope, Scope::Topic(_)))
        .ok_or_else(|| ConfigError::Unknown { name: name.to_owned() })
}

impl Setting {
    /// The value that `text` writes, checked.
    fn parse(&self, text: &str) -> Result<Value, ConfigError> {
        self.parse_as(self.name, text, 1)
    }

    /// The value that `text` writes under another name, in units of `factor`.
    fn parse_as(&self, name: &str, text: &str, factor: i64) -> Result<Value, ConfigError> {
        let refused = |expected| ConfigError::Value {
            name: name.to_owned(),
            value: text.to_owned(),
            expected,
        };
        let value = self.kind.parse(text, factor).ok_or_else(|| refused(self.kind.to_string()))?;
        match (self.name, &value) {
            ("compression.type", Value::Text(codec)) if codec != "producer" => {
                Err(ConfigError::Unsupported {
                    name: self.name,
                    value: text.to_owned(),
                    why: "batches are stored as they came; set `compression.type` in the producer",
                })
            }
            ("remote.storage.enable", Value::Bool(true)) => Err(ConfigError::Unsupported {
                name: self.name,
                value: text.to_owned(),
                why: "there is no tiered storage",
            }),
            // As Kafka: a broker keeps records for some time, or for ever.
            ("retention.ms", Value::Number(0)) if name != self.name => {
                Err(refused("-1 (no limit) or at least 1".to_owned()))
            }
            _ => Ok(value),
        }
    }

    /// The broker's names for it: its own, or those for the topics' default.
    pub fn broker_names(&self) -> impl Iterator<Item = Synonym> + '_ {
        let (own, synonyms) = match self.scope {
            Scope::Broker => (Some(Synonym { name: self.name, factor: 1 }), &[][..]),
            Scope::Topic(synonyms) => (None, synonyms),
        };
        own.into_iter().chain(synonyms.iter().copied())
    }
}
