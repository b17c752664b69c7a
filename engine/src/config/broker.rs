//! The broker's settings, typed, and the topics' defaults that follow from them.

use super::{Apply, BROKER_ONLY, ConfigError, Effect, LogConfig, Scope, Setting, TABLE, Value};
use std::collections::BTreeMap;

/// The broker's settings, as far as they do something; the names and ranges are in
/// [`TABLE`](super::TABLE).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BrokerConfig {
    /// `node.id`
    pub node_id: i32,
    /// `broker.rack`
    pub rack: Option<String>,
    /// `num.partitions`
    pub num_partitions: i32,
    /// `replication.factor.strict`
    pub replication_factor_strict: bool,
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// `delete.topic.enable`
    pub delete_topics: bool,
    /// `socket.request.max.bytes`
    pub request_bytes_max: usize,
    /// `queued.max.request.bytes`; `None` is no limit of the operator's.
    pub queued_request_bytes_max: Option<usize>,
    /// `max.connections`
    pub connections_max: usize,
    /// `connections.max.idle.ms`; -1 is no limit.
    pub connections_idle_max_ms: i64,
    /// `fetch.max.bytes`
    pub fetch_bytes_max: usize,
    /// `log.retention.check.interval.ms`
    pub retention_check_interval_ms: i64,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: i64,
    /// `metadata.log.segment.bytes`
    pub metadata_segment_bytes: u64,
    /// `metadata.log.segment.ms`
    pub metadata_segment_ms: i64,
    /// The topics' defaults.
    topics: LogConfig,
    /// What was set, by the broker's names.
    pub(super) set: BTreeMap<String, String>,
}

/// Something in a broker's configuration that an operator should be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// A setting of Kafka's without effect here.
    WithoutEffect {
        /// Its name.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// Nothing that is known here; as in Kafka it is passed over, for it may be a plug-in's.
    Unknown {
        /// Its name.
        name: String,
    },
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::WithoutEffect { name, why } => write!(f, "`{name}` has no effect: {why}"),
            Self::Unknown { name } => write!(f, "`{name}` is unknown and passed over"),
        }
    }
}

impl Default for BrokerConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        let mut config = Self {
            node_id: 0,
            rack: None,
            num_partitions: 0,
            replication_factor_strict: false,
            auto_create_topics: false,
            delete_topics: false,
            request_bytes_max: 0,
            queued_request_bytes_max: None,
            connections_max: 0,
            connections_idle_max_ms: 0,
            fetch_bytes_max: 0,
            retention_check_interval_ms: 0,
            producer_id_expiration_ms: 0,
            metadata_segment_bytes: 0,
            metadata_segment_ms: 0,
            topics: LogConfig::default(),
            set: BTreeMap::new(),
        };
        for setting in TABLE.iter().filter(|s| s.scope == Scope::Broker) {
            // A default that its own row refused would leave a zero; a test looks at each.
            if let Some(Ok(value)) = setting.default.map(|text| setting.parse(text)) {
                config.apply(setting, &value);
            }
        }
        config
    }
}

impl BrokerConfig {
    /// Kafka's defaults with `set` instead, by the broker's names; a later pair beats an earlier
    /// one of the same name.
    ///
    /// # Errors
    /// [`ConfigError`], never `Unknown`: that is a warning.
    pub fn parse<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut config = Self::default();
        let set: BTreeMap<&str, &str> = set.into_iter().collect();
        let mut warnings = Vec::new();
        for (&name, &text) in &set {
            let setting = TABLE.iter().find(|s| s.broker_names().any(|b| b.name == name));
            let stored = BROKER_ONLY.iter().find(|(n, _)| *n == name).map(|(_, why)| *why);
            let why = match (setting.map(|s| s.effect), stored) {
                (Some(Effect::Served), _) => None,
                (Some(Effect::Stored(why)), _) | (None, Some(why)) => Some(why),
                (None, None) => {
                    warnings.push(Warning::Unknown { name: name.to_owned() });
                    continue;
                }
            };
            config.set.insert(name.to_owned(), text.trim().to_owned());
            warnings.extend(why.map(|why| Warning::WithoutEffect { name: name.to_owned(), why }));
        }
        for setting in TABLE {
            // All are checked; of a topic's the first that is set counts.
            let mut first = None;
            for synonym in setting.broker_names() {
                if let Some(text) = set.get(synonym.name) {
                    let value = setting.parse_as(synonym.name, text, synonym.factor)?;
                    first.get_or_insert(value);
                }
            }
            if let Some(value) = first {
                config.apply(setting, &value);
            }
        }
        // The defaults must go together as well as a topic's own.
        config.topics = config.topics.with([])?;
        Ok((config, warnings))
    }

    /// The settings of a topic for which `set` was set.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn topic<'a>(
        &self,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<LogConfig, ConfigError> {
        self.topics.clone().with(set)
    }

    /// The settings of the metadata log: no retention by itself, segments of its own size.
    #[must_use]
    pub fn metadata_log(&self) -> LogConfig {
        LogConfig {
            segment_bytes: self.metadata_segment_bytes,
            segment_ms: self.metadata_segment_ms,
            retention_ms: -1,
            retention_bytes: -1,
            write_caching: false,
            ..LogConfig::default()
        }
    }

    fn apply(&mut self, setting: &Setting, value: &Value) {
        match setting.apply {
            Apply::Broker(apply) => apply(self, value),
            Apply::Topic(apply) => apply(&mut self.topics, value),
            Apply::Nowhere => (),
        }
    }
}
