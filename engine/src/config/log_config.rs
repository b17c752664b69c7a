//! A topic's settings, typed.

use super::{Apply, ConfigError, Scope, Setting, TABLE, topic_setting};
use crate::batch::{Check, TimestampBounds, TimestampType};

/// The most that the records of one batch may inflate to where they are read: far more than any
/// sensible batch, far less than a bomb.
const INFLATED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What happens to old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Segments past the retention are deleted.
    pub delete: bool,
    /// Only the last record of each key is kept.
    pub compact: bool,
}

/// A topic's settings, as far as they do something; the names and ranges are in
/// [`TABLE`](super::TABLE).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogConfig {
    /// `segment.bytes`
    pub segment_bytes: u64,
    /// `segment.ms`
    pub segment_ms: i64,
    /// `segment.jitter.ms`
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`
    pub index_interval_bytes: u32,
    /// `retention.ms`; -1 is no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative is no limit.
    pub retention_bytes: i64,
    /// `file.delete.delay.ms`
    pub file_delete_delay_ms: i64,
    /// `max.message.bytes`
    pub max_message_bytes: usize,
    /// `message.timestamp.type`
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`
    pub message_timestamp_after_max_ms: i64,
    /// `cleanup.policy`
    pub cleanup_policy: CleanupPolicy,
    /// `write.caching`
    pub write_caching: bool,
    /// `validate`: every record is read before a batch is accepted.
    pub validates_records: bool,
    /// `min.compaction.lag.ms`
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`
    pub max_compaction_lag_ms: i64,
}

impl Default for LogConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        let mut config = Self {
            segment_bytes: 0,
            segment_ms: 0,
            segment_jitter_ms: 0,
            segment_index_bytes: 0,
            index_interval_bytes: 0,
            retention_ms: 0,
            retention_bytes: 0,
            file_delete_delay_ms: 0,
            max_message_bytes: 0,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: 0,
            message_timestamp_after_max_ms: 0,
            cleanup_policy: CleanupPolicy { delete: false, compact: false },
            write_caching: false,
            validates_records: false,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: 0,
        };
        for setting in TABLE.iter().filter(|s| matches!(s.scope, Scope::Topic(_))) {
            // A default that its own row refused would leave a zero; a test looks at each.
            if let Some(Ok(value)) = setting.default.map(|text| setting.parse(text)) {
                config.apply(setting, &value);
            }
        }
        config
    }
}

impl LogConfig {
    /// Kafka's defaults with `set` instead, by the topics' names.
    ///
    /// ```
    /// use kariz_engine::LogConfig;
    ///
    /// let config = LogConfig::parse([("retention.ms", "-1"), ("write.caching", "true")])?;
    /// assert!(config.retention_ms < 0 && config.write_caching);
    /// let error = LogConfig::parse([("retention.days", "7")]).unwrap_err();
    /// assert_eq!(error.to_string(), "`retention.days` is no setting of a topic");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse<'a>(
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        Self::default().with(set)
    }

    /// These settings with `set` instead, by the topics' names.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn with<'a>(
        mut self,
        set: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        for (name, value) in set {
            let setting = topic_setting(name)?;
            let value = setting.parse(value)?;
            self.apply(setting, &value);
        }
        if self.min_compaction_lag_ms > self.max_compaction_lag_ms {
            let (low, high) = ("min.compaction.lag.ms", "max.compaction.lag.ms");
            return Err(ConfigError::Conflict { low, high });
        }
        Ok(self)
    }

    pub(super) fn apply(&mut self, setting: &Setting, value: &super::Value) {
        if let Apply::Topic(apply) = setting.apply {
            apply(self, value);
        }
    }

    /// How far a producer's timestamps may lie from the broker's clock.
    #[must_use]
    pub fn timestamp_bounds(&self) -> TimestampBounds {
        TimestampBounds {
            before_max_ms: self.message_timestamp_before_max_ms,
            after_max_ms: self.message_timestamp_after_max_ms,
        }
    }

    /// How much of a batch is looked at. Compaction needs keys, so a compacted topic has every
    /// record read, whatever `validate` says.
    #[must_use]
    pub fn check(&self) -> Check {
        if self.validates_records || self.is_compacted() {
            let inflated_bytes_max = self.max_message_bytes.max(INFLATED_BYTES_MAX);
            Check::Full { inflated_bytes_max }
        } else {
            Check::Opaque
        }
    }

    /// Whether only the last record of each key is kept, and so every record must have one.
    #[must_use]
    pub fn is_compacted(&self) -> bool {
        self.cleanup_policy.compact
    }

    /// Whether segments past the retention are deleted.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.cleanup_policy.delete
    }
}
