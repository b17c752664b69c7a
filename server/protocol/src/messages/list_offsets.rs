//! ListOffsets: a partition's first or last offset, or one by time.

use super::{Message, error_code, i32_since};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// Asks for the end: high watermark, or last stable offset if only committed records count.
pub const LATEST: i64 = -1;
/// Asks for the first offset.
pub const EARLIEST: i64 = -2;
/// Asks for the record with the greatest timestamp (7+).
pub const MAX_TIMESTAMP: i64 = -3;
/// Asks for the first offset kept on the broker itself (8+).
pub const EARLIEST_LOCAL: i64 = -4;
/// Asks for the last offset in tiered storage (9+).
pub const LATEST_TIERED: i64 = -5;

/// Asks for offsets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The broker that follows, or -1: a client.
    pub replica_id: i32,
    /// 0: all records count, 1: none of open transactions (2+).
    pub isolation_level: i8,
    /// The topics.
    pub topics: Vec<TopicRequest>,
    /// How long to wait for tiered storage, in milliseconds (10+).
    pub timeout_ms: i32,
}

/// A topic in a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// Its name.
    pub name: String,
    /// The partitions.
    pub partitions: Vec<PartitionRequest>,
}

/// A partition in a [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionRequest {
    /// Its number.
    pub index: i32,
    /// The leader's term as the client knows it (4+), or -1.
    pub current_leader_epoch: i32,
    /// Asks for the first record from this time on, in milliseconds since 1970, or for one of
    /// [`LATEST`], [`EARLIEST`], ...
    pub timestamp: i64,
}

/// The offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// How long the request was held back by a quota, in milliseconds (2+).
    pub throttle_time_ms: i32,
    /// The topics.
    pub topics: Vec<TopicResponse>,
}

/// A topic in a [`Response`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicResponse {
    /// Its name.
    pub name: String,
    /// The partitions.
    pub partitions: Vec<PartitionResponse>,
}

/// A partition in a [`Response`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionResponse {
    /// Its number.
    pub index: i32,
    /// What became of the question.
    pub error: ErrorCode,
    /// The time of the record found, in milliseconds since 1970, or -1.
    pub timestamp: i64,
    /// The offset, or -1: there is none.
    pub offset: i64,
    /// The term of the record there (4+), or -1.
    pub leader_epoch: i32,
}

/// A client's, without topics.
impl Default for Request {
    fn default() -> Self {
        Self { replica_id: -1, isolation_level: 0, topics: Vec::new(), timeout_ms: 0 }
    }
}

/// Of partition 0, with every number unknown.
impl Default for PartitionResponse {
    fn default() -> Self {
        Self { index: 0, error: ErrorCode::None, timestamp: -1, offset: -1, leader_epoch: -1 }
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::ListOffsets;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            replica_id: c.i32()?,
            isolation_level: if version >= 2 { c.i8()? } else { 0 },
            topics: c.array(2, |c| {
                let topic = TopicRequest {
                    name: c.string()?.to_owned(),
                    partitions: c.array(12, |c| {
                        let partition = PartitionRequest {
                            index: c.i32()?,
                            current_leader_epoch: i32_since(4, -1, c, version)?,
                            timestamp: c.i64()?,
                        };
                        c.end_struct()?;
                        Ok(partition)
                    })?,
                };
                c.end_struct()?;
                Ok(topic)
            })?,
            timeout_ms: i32_since(10, 0, c, version)?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.replica_id);
        if version >= 2 {
            w.i8(self.isolation_level);
        } else {
            w.refuse(self.isolation_level != 0, "isolation_level", version);
        }
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| {
                w.i32(partition.index);
                if version >= 4 {
                    w.i32(partition.current_leader_epoch);
                }
                w.i64(partition.timestamp);
                w.end_struct();
            });
            w.end_struct();
        });
        if version >= 10 {
            w.i32(self.timeout_ms);
        }
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::ListOffsets;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            throttle_time_ms: i32_since(2, 0, c, version)?,
            topics: c.array(2, |c| {
                let topic = TopicResponse {
                    name: c.string()?.to_owned(),
                    partitions: c.array(22, |c| {
                        let partition = PartitionResponse {
                            index: c.i32()?,
                            error: error_code(c)?,
                            timestamp: c.i64()?,
                            offset: c.i64()?,
                            leader_epoch: i32_since(4, -1, c, version)?,
                        };
                        c.end_struct()?;
                        Ok(partition)
                    })?,
                };
                c.end_struct()?;
                Ok(topic)
            })?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        if version >= 2 {
            w.i32(self.throttle_time_ms);
        }
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| {
                w.i32(partition.index);
                w.i16(partition.error.code());
                w.i64(partition.timestamp);
                w.i64(partition.offset);
                if version >= 4 {
                    w.i32(partition.leader_epoch);
                }
                w.end_struct();
            });
            w.end_struct();
        });
        w.end_struct();
    }
}
