//! CreateTopics.

use bytes::BytesMut;
use uuid::Uuid;

use super::{Message, enter, error_code, i32_array, owned, uuid_since};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::header;
use crate::writer::{EncodeError, Writer};

/// The least that a topic takes in a request: three lengths of a byte, and two numbers.
const TOPIC_BYTES_MIN: usize = 9;

/// Asks for topics to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The topics.
    pub topics: Vec<CreatableTopic>,
    /// How long to wait until they are there, in milliseconds.
    pub timeout_ms: i32,
    /// Whether to only check that they could be.
    pub validate_only: bool,
}

/// A topic to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatableTopic {
    /// Its name.
    pub name: String,
    /// The number of partitions; -1 for the broker's default, or if `assignments` says.
    pub num_partitions: i32,
    /// The number of replicas; -1 for the broker's default, or if `assignments` says.
    pub replication_factor: i16,
    /// Which brokers shall keep which partition; empty leaves it to the broker.
    pub assignments: Vec<Assignment>,
    /// Its configuration, where not the default.
    pub configs: Vec<Config>,
}

/// The brokers that shall keep a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition_index: i32,
    /// The brokers, the preferred leader first.
    pub broker_ids: Vec<i32>,
}

/// A configuration value that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Kafka's name for it.
    pub name: String,
    /// The value; `None` is the default.
    pub value: Option<String>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicResult {
    /// Its name.
    pub name: String,
    /// Its id (7+), or nil.
    pub topic_id: Uuid,
    /// Whether it was created.
    pub error: ErrorCode,
    /// Why not, for people.
    pub error_message: Option<String>,
    /// Why `configs` is `None` (5+).
    pub config_error: ErrorCode,
    /// The number of partitions (5+), or -1.
    pub num_partitions: i32,
    /// The number of replicas (5+), or -1.
    pub replication_factor: i16,
    /// Its whole configuration (5+).
    pub configs: Option<Vec<ConfigResult>>,
}

/// A configuration value that a topic has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigResult {
    /// Kafka's name for it.
    pub name: String,
    /// The value; `None` if it is sensitive.
    pub value: Option<String>,
    /// Whether it cannot be changed.
    pub read_only: bool,
    /// Where it comes from: 1 the topic, 4 the broker's file, 5 Kafka's default, ...
    pub config_source: i8,
    /// Whether it is a secret.
    pub is_sensitive: bool,
}

/// Writes a response topic by topic: each is many times as long as it was in the request.
#[derive(Debug)]
pub struct ResponseEncoder<'b> {
    w: Writer<'b>,
    version: i16,
    /// How many are still to come.
    topics: usize,
}

impl<'b> ResponseEncoder<'b> {
    /// Begins a frame at the end of `buf`; [`ResponseEncoder::topic`] is to be called `topics`
    /// times.
    #[must_use]
    pub fn begin(buf: &'b mut BytesMut, version: i16, correlation_id: i32, topics: usize) -> Self {
        let mut w = header::begin_response(buf, ApiKey::CreateTopics, version, correlation_id);
        w.i32(0); // Nothing is held back.
        w.array_len(topics);
        Self { w, version, topics }
    }

    /// Adds a topic.
    pub fn topic(&mut self, topic: &TopicResult) {
        match self.topics.checked_sub(1) {
            Some(topics) => self.topics = topics,
            None => self.w.fail(EncodeError::CountMismatch),
        }
        topic.write(&mut self.w, self.version);
    }

    /// Ends the frame.
    ///
    /// # Errors
    /// Any [`EncodeError`]; the buffer is then as it was.
    pub fn finish(mut self) -> Result<(), EncodeError> {
        if self.topics != 0 {
            self.w.fail(EncodeError::CountMismatch);
        }
        self.w.end_struct();
        self.w.finish().map(drop)
    }
}

/// Kafka's minute, and no topics.
impl Default for Request {
    fn default() -> Self {
        Self { topics: Vec::new(), timeout_ms: 60_000, validate_only: false }
    }
}

/// Without a name, and everything left to the broker.
impl Default for CreatableTopic {
    fn default() -> Self {
        Self {
            name: String::new(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: Vec::new(),
        }
    }
}

/// Without a name, and everything unknown.
impl Default for TopicResult {
    fn default() -> Self {
        Self {
            name: String::new(),
            topic_id: Uuid::nil(),
            error: ErrorCode::None,
            error_message: None,
            config_error: ErrorCode::None,
            num_partitions: -1,
            replication_factor: -1,
            configs: None,
        }
    }
}

impl Request {
    /// How many topics the request behind `cursor` announces, without reading them.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    pub fn announced(cursor: &mut Cursor<'_>, version: i16) -> Result<usize, DecodeError> {
        enter(Self::API, cursor, version)?;
        cursor.array_len(TOPIC_BYTES_MIN)
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::CreateTopics;

    fn read(c: &mut Cursor<'_>, _: i16) -> Result<Self, DecodeError> {
        let this = Self {
            topics: c.array(TOPIC_BYTES_MIN, CreatableTopic::read)?,
            timeout_ms: c.i32()?,
            validate_only: c.bool()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, _: i16) {
        w.array(&self.topics, |w, topic| topic.write(w));
        w.i32(self.timeout_ms);
        w.bool(self.validate_only);
        w.end_struct();
    }
}

impl CreatableTopic {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            name: c.string()?.to_owned(),
            num_partitions: c.i32()?,
            replication_factor: c.i16()?,
            assignments: c.array(5, |c| {
                let assignment =
                    Assignment { partition_index: c.i32()?, broker_ids: i32_array(c)? };
                c.end_struct()?;
                Ok(assignment)
            })?,
            configs: c.array(2, |c| {
                let config =
                    Config { name: c.string()?.to_owned(), value: owned(c.nullable_string()?) };
                c.end_struct()?;
                Ok(config)
            })?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.i32(self.num_partitions);
        w.i16(self.replication_factor);
        w.array(&self.assignments, |w, assignment| {
            w.i32(assignment.partition_index);
            w.i32_array(&assignment.broker_ids);
            w.end_struct();
        });
        w.array(&self.configs, |w, config| {
            w.string(&config.name);
            w.nullable_string(config.value.as_deref());
            w.end_struct();
        });
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::CreateTopics;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            throttle_time_ms: c.i32()?,
            topics: c.array(4, |c| TopicResult::read(c, version))?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.throttle_time_ms);
        w.array(&self.topics, |w, topic| topic.write(w, version));
        w.end_struct();
    }
}

impl TopicResult {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut this = Self {
            name: c.string()?.to_owned(),
            topic_id: uuid_since(7, c, version)?,
            error: error_code(c)?,
            error_message: owned(c.nullable_string()?),
            ..Self::default()
        };
        if version >= 5 {
            this.num_partitions = c.i32()?;
            this.replication_factor = c.i16()?;
            this.configs = c.nullable_array(5, ConfigResult::read)?;
        }
        c.tags(|tag, c| {
            if tag == 0 {
                this.config_error = error_code(c)?;
            }
            Ok(())
        })?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.string(&self.name);
        if version >= 7 {
            w.uuid(self.topic_id);
        }
        w.i16(self.error.code());
        w.nullable_string(self.error_message.as_deref());
        if version >= 5 {
            w.i32(self.num_partitions);
            w.i16(self.replication_factor);
            w.nullable_array(self.configs.as_deref(), |w, config| config.write(w));
        }
        w.tags(|tags| {
            if !self.config_error.is_none() {
                tags.field(0, |w| w.i16(self.config_error.code()));
            }
        });
    }
}

impl ConfigResult {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            name: c.string()?.to_owned(),
            value: owned(c.nullable_string()?),
            read_only: c.bool()?,
            config_source: c.i8()?,
            is_sensitive: c.bool()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.nullable_string(self.value.as_deref());
        w.bool(self.read_only);
        w.i8(self.config_source);
        w.bool(self.is_sensitive);
        w.end_struct();
    }
}
