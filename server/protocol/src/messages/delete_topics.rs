//! DeleteTopics.

use uuid::Uuid;

use super::{Message, error_code, owned, uuid_since};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// Asks for topics to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The topics.
    pub topics: Vec<TopicRequest>,
    /// How long to wait until they are gone, in milliseconds.
    pub timeout_ms: i32,
}

/// A topic to delete, by name or by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// Its name; may be missing from version 6 on.
    pub name: Option<String>,
    /// Its id (6+), or nil.
    pub topic_id: Uuid,
}

/// What became of the topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// How long the request was held back by a quota, in milliseconds.
    pub throttle_time_ms: i32,
    /// The topics, as in the request.
    pub topics: Vec<TopicResult>,
}

/// What became of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicResult {
    /// Its name; may be missing from version 6 on.
    pub name: Option<String>,
    /// Its id (6+), or nil.
    pub topic_id: Uuid,
    /// Whether it was deleted.
    pub error: ErrorCode,
    /// Why not, for people (5+).
    pub error_message: Option<String>,
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::DeleteTopics;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let topics = if version >= 6 {
            c.array(17, |c| {
                let topic = TopicRequest { name: owned(c.nullable_string()?), topic_id: c.uuid()? };
                c.end_struct()?;
                Ok(topic)
            })?
        } else {
            // Names, not structs: no tags behind them.
            c.array(1, |c| {
                Ok(TopicRequest { name: Some(c.string()?.to_owned()), topic_id: Uuid::nil() })
            })?
        };
        let this = Self { topics, timeout_ms: c.i32()? };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.array(&self.topics, |w, topic| {
            if version >= 6 {
                w.nullable_string(topic.name.as_deref());
                w.uuid(topic.topic_id);
                w.end_struct();
            } else {
                let by_id = topic.name.is_none() || !topic.topic_id.is_nil();
                w.refuse(by_id, "topic_id", version);
                w.string(topic.name.as_deref().unwrap_or_default());
            }
        });
        w.i32(self.timeout_ms);
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::DeleteTopics;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            throttle_time_ms: c.i32()?,
            topics: c.array(3, |c| {
                let topic = TopicResult {
                    name: if version >= 6 {
                        owned(c.nullable_string()?)
                    } else {
                        Some(c.string()?.to_owned())
                    },
                    topic_id: uuid_since(6, c, version)?,
                    error: error_code(c)?,
                    error_message: if version >= 5 { owned(c.nullable_string()?) } else { None },
                };
                c.end_struct()?;
                Ok(topic)
            })?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.throttle_time_ms);
        w.array(&self.topics, |w, topic| {
            if version >= 6 {
                w.nullable_string(topic.name.as_deref());
                w.uuid(topic.topic_id);
            } else {
                w.refuse(topic.name.is_none(), "topic_id", version);
                w.string(topic.name.as_deref().unwrap_or_default());
            }
            w.i16(topic.error.code());
            if version >= 5 {
                w.nullable_string(topic.error_message.as_deref());
            }
            w.end_struct();
        });
        w.end_struct();
    }
}
