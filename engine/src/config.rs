//! temporary until the table is there
use crate::batch::{TimestampBounds, TimestampType};
#[derive(Clone, Debug)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: i64,
    pub index_interval_bytes: u32,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub max_message_bytes: usize,
    pub message_timestamp_type: TimestampType,
    pub write_caching: bool,
}
impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, segment_ms: 604_800_000, index_interval_bytes: 4096, retention_ms: 604_800_000, retention_bytes: -1, max_message_bytes: 1_048_588, message_timestamp_type: TimestampType::CreateTime, write_caching: false }
    }
}
impl LogConfig {
    pub fn timestamp_bounds(&self) -> TimestampBounds { TimestampBounds { before_max_ms: i64::MAX, after_max_ms: 3_600_000 } }
    pub fn is_compacted(&self) -> bool { false }
    pub fn deletes(&self) -> bool { true }
}
