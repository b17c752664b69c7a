//! Produce: appends records to partitions.
//!
//! A server reads a [`RequestView`], which borrows from the frame and allocates nothing, and
//! writes its answer with a [`ResponseEncoder`] as the partitions' results come in. A client
//! writes with a [`RequestEncoder`] and reads an owned [`Response`]. What [`repeat`]s is read and
//! written without any of them.

pub mod repeat;

use bytes::{Bytes, BytesMut};

use super::{LeaderIdAndEpoch, Message, NodeEndpoint, enter, error_code, i64_since, owned};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError, share};
use crate::error_code::ErrorCode;
use crate::header::{self, RequestHeader};
use crate::view::{Element, View};
use crate::writer::{Announced, EncodeError, Hole, Records, Writer};

/// What a produce request says before its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The producer's transactional id, if it has one.
    pub transactional_id: Option<&'a str>,
    /// Whom to wait for: 0 nobody (and no response at all), 1 the leader, -1 all in-sync replicas.
    pub acks: i16,
    /// How long to wait for them, in milliseconds.
    pub timeout_ms: i32,
}

/// A produce request, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// What it says before its topics.
    pub head: RequestHead<'a>,
    /// The topics.
    pub topics: View<'a, TopicView<'a>>,
}

/// A topic in a [`RequestView`].
#[derive(Clone, Copy, Debug)]
pub struct TopicView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The partitions.
    pub partitions: View<'a, PartitionView<'a>>,
}

/// A partition in a [`RequestView`].
#[derive(Clone, Copy, Debug)]
pub struct PartitionView<'a> {
    /// Its number.
    pub index: i32,
    /// The record batches, not looked into.
    pub records: Option<&'a [u8]>,
    /// What `records` is a part of.
    frame: Option<&'a Bytes>,
}

impl PartitionView<'_> {
    /// The record batches as a slice of the frame that outlives the view. No bytes are copied.
    #[must_use]
    pub fn share_records(&self) -> Option<Bytes> {
        self.records.map(|records| share(self.frame, records))
    }
}

impl<'a> RequestView<'a> {
    /// Reads the whole request at `cursor`, behind the header, without allocating.
    ///
    /// # Errors
    /// Any [`DecodeError`]: close the connection.
    #[inline]
    pub fn decode(cursor: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        enter(ApiKey::Produce, cursor, version)?;
        Self::read(cursor, version)
    }

    #[inline]
    fn read(c: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            head: RequestHead {
                transactional_id: c.nullable_string()?,
                acks: c.i16()?,
                timeout_ms: c.i32()?,
            },
            topics: View::read(c, version)?,
        };
        c.end_struct()?;
        Ok(this)
    }
}

impl<'a> Element<'a> for TopicView<'a> {
    /// The lengths of its name and of its partitions.
    const BYTES_MIN: usize = 2;

    #[inline]
    fn read(c: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        let this = Self { name: c.string()?, partitions: View::read(c, version)? };
        c.end_struct()?;
        Ok(this)
    }
}

impl<'a> Element<'a> for PartitionView<'a> {
    /// Its number and the length of its records.
    const BYTES_MIN: usize = 5;

    #[inline]
    fn read(c: &mut Cursor<'a>, _: i16) -> Result<Self, DecodeError> {
        let this = Self { index: c.i32()?, records: c.nullable_bytes()?, frame: c.frame() };
        c.end_struct()?;
        Ok(this)
    }
}

/// Writes a produce request partition by partition.
#[derive(Debug)]
pub struct RequestEncoder<'b> {
    w: Writer<'b>,
    announced: Announced,
}

impl<'b> RequestEncoder<'b> {
    /// Begins a frame at the end of `buf`; [`RequestEncoder::topic`] is to be called `topics`
    /// times.
    #[must_use]
    pub fn begin(
        buf: &'b mut BytesMut,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
        head: RequestHead<'_>,
        topics: usize,
    ) -> Self {
        let header = RequestHeader { api: ApiKey::Produce, version, correlation_id, client_id };
        Self::fields(header::begin_request(buf, header), head, topics)
    }

    fn fields(mut w: Writer<'b>, head: RequestHead<'_>, topics: usize) -> Self {
        w.nullable_string(head.transactional_id);
        w.i16(head.acks);
        w.i32(head.timeout_ms);
        let announced = Announced::topics(&mut w, topics);
        Self { w, announced }
    }

    /// Begins a topic; [`RequestEncoder::partition`] is to be called `partitions` times.
    pub fn topic(&mut self, name: &str, partitions: usize) {
        self.w.string(name);
        self.announced.topic(&mut self.w, partitions);
    }

    /// Adds a partition to the topic.
    pub fn partition(&mut self, index: i32, records: Records<'_>) {
        self.w.i32(index);
        self.w.records(records);
        self.w.end_struct();
        self.announced.partition(&mut self.w);
    }

    /// Ends the frame. Returns the holes, if records are to be sent from elsewhere.
    ///
    /// # Errors
    /// Any [`EncodeError`]; the buffer is then as it was.
    pub fn finish(mut self) -> Result<Vec<Hole>, EncodeError> {
        self.announced.end(&mut self.w);
        self.w.end_struct();
        self.w.finish()
    }
}

/// A produce request of its own: for tests and tools; see [`RequestView`], [`RequestEncoder`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The producer's transactional id, if it has one.
    pub transactional_id: Option<String>,
    /// Whom to wait for: 0 nobody (and no response at all), 1 the leader, -1 all in-sync replicas.
    pub acks: i16,
    /// How long to wait for them, in milliseconds.
    pub timeout_ms: i32,
    /// The topics.
    pub topics: Vec<TopicRequest>,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionRequest {
    /// Its number.
    pub index: i32,
    /// The record batches.
    pub records: Option<Bytes>,
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::Produce;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let RequestView { head, topics } = RequestView::read(c, version)?;
        let partition = |partition: PartitionView<'_>| PartitionRequest {
            index: partition.index,
            records: partition.share_records(),
        };
        let topic = |topic: TopicView<'_>| TopicRequest {
            name: topic.name.to_owned(),
            partitions: topic.partitions.iter().map(partition).collect(),
        };
        Ok(Self {
            transactional_id: owned(head.transactional_id),
            acks: head.acks,
            timeout_ms: head.timeout_ms,
            topics: topics.iter().map(topic).collect(),
        })
    }

    fn write(&self, w: &mut Writer<'_>, _: i16) {
        w.nullable_string(self.transactional_id.as_deref());
        w.i16(self.acks);
        w.i32(self.timeout_ms);
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| {
                w.i32(partition.index);
                w.nullable_bytes(partition.records.as_deref());
                w.end_struct();
            });
            w.end_struct();
        });
        w.end_struct();
    }
}

/// What became of a produce request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// The topics, as in the request.
    pub topics: Vec<TopicResponse>,
    /// How long the request was held back by a quota, in milliseconds.
    pub throttle_time_ms: i32,
    /// Where the leaders named in the partitions listen (10+).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// A topic in a [`Response`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicResponse {
    /// Its name.
    pub name: String,
    /// The partitions.
    pub partitions: Vec<PartitionResponse>,
}

/// What became of one partition's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionResponse {
    /// The partition.
    pub index: i32,
    /// Whether they were appended.
    pub error: ErrorCode,
    /// The offset of the first of them, or -1.
    pub base_offset: i64,
    /// The broker's time at the append in milliseconds, if the topic has LogAppendTime, else -1.
    pub log_append_time_ms: i64,
    /// The partition's first offset (5+), or -1.
    pub log_start_offset: i64,
    /// The records that made the broker refuse the batch (8+).
    pub record_errors: Vec<RecordError>,
    /// Why it was refused, for people (8+).
    pub error_message: Option<String>,
    /// The leader to turn to (10+).
    pub current_leader: Option<LeaderIdAndEpoch>,
}

/// A record that made the broker refuse its batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordError {
    /// Its place in the batch, from 0.
    pub batch_index: i32,
    /// What is wrong with it, for people.
    pub message: Option<String>,
}

/// Of partition 0, with every number unknown.
impl Default for PartitionResponse {
    fn default() -> Self {
        Self {
            index: 0,
            error: ErrorCode::None,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

impl PartitionResponse {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut this = Self {
            index: c.i32()?,
            error: error_code(c)?,
            base_offset: c.i64()?,
            log_append_time_ms: c.i64()?,
            log_start_offset: i64_since(5, -1, c, version)?,
            ..Self::default()
        };
        if version >= 8 {
            this.record_errors = c.array(5, |c| {
                let error =
                    RecordError { batch_index: c.i32()?, message: owned(c.nullable_string()?) };
                c.end_struct()?;
                Ok(error)
            })?;
            this.error_message = owned(c.nullable_string()?);
        }
        c.tags(|tag, c| {
            if tag == 0 && version >= 10 {
                this.current_leader = Some(LeaderIdAndEpoch::read(c)?);
            }
            Ok(())
        })?;
        Ok(this)
    }

    #[inline]
    fn write(&self, w: &mut Writer<'_>, version: i16) {
        let [i, j, k, l] = self.index.to_be_bytes();
        let [e, f] = self.error.code().to_be_bytes();
        w.put(&[i, j, k, l, e, f]);
        w.i64(self.base_offset);
        w.i64(self.log_append_time_ms);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        if version >= 8 {
            w.array(&self.record_errors, |w, error| {
                w.i32(error.batch_index);
                w.nullable_string(error.message.as_deref());
                w.end_struct();
            });
            w.nullable_string(self.error_message.as_deref());
        }
        w.tags(|tags| {
            if let Some(leader) = self.current_leader
                && version >= 10
            {
                tags.field(0, |w| leader.write(w));
            }
        });
    }
}

/// Writes a produce response partition by partition.
#[derive(Debug)]
pub struct ResponseEncoder<'b> {
    w: Writer<'b>,
    version: i16,
    announced: Announced,
}

impl<'b> ResponseEncoder<'b> {
    /// Begins a frame at the end of `buf`; [`ResponseEncoder::topic`] is to be called `topics`
    /// times.
    #[inline]
    #[must_use]
    pub fn begin(buf: &'b mut BytesMut, version: i16, correlation_id: i32, topics: usize) -> Self {
        let mut w = header::begin_response(buf, ApiKey::Produce, version, correlation_id);
        let announced = Announced::topics(&mut w, topics);
        Self { w, version, announced }
    }

    /// Bytes of the frame so far.
    fn written(&self) -> usize {
        self.w.written()
    }

    /// Begins a topic; [`ResponseEncoder::partition`] is to be called `partitions` times.
    #[inline]
    pub fn topic(&mut self, name: &str, partitions: usize) {
        self.w.string(name);
        self.announced.topic(&mut self.w, partitions);
    }

    /// Adds a partition to the topic.
    #[inline]
    pub fn partition(&mut self, partition: &PartitionResponse) {
        partition.write(&mut self.w, self.version);
        self.announced.partition(&mut self.w);
    }

    /// Ends the frame. `node_endpoints` says where the leaders named in partitions listen (10+).
    ///
    /// # Errors
    /// Any [`EncodeError`]; the buffer is then as it was.
    #[inline]
    pub fn finish(
        mut self,
        throttle_time_ms: i32,
        node_endpoints: &[NodeEndpoint],
    ) -> Result<(), EncodeError> {
        self.announced.end(&mut self.w);
        write_response_end(&mut self.w, self.version, throttle_time_ms, node_endpoints);
        self.w.finish().map(drop)
    }
}

fn write_response_end(
    w: &mut Writer<'_>,
    version: i16,
    throttle_time_ms: i32,
    node_endpoints: &[NodeEndpoint],
) {
    w.i32(throttle_time_ms);
    w.tags(|tags| {
        if version >= 10 {
            NodeEndpoint::write_tag(node_endpoints, 0, tags);
        }
    });
}

impl Message for Response {
    const API: ApiKey = ApiKey::Produce;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let topics = c.array(2, |c| {
            let topic = TopicResponse {
                name: c.string()?.to_owned(),
                partitions: c.array(22, |c| PartitionResponse::read(c, version))?,
            };
            c.end_struct()?;
            Ok(topic)
        })?;
        let mut this = Self { topics, throttle_time_ms: c.i32()?, node_endpoints: Vec::new() };
        c.tags(|tag, c| {
            if tag == 0 && version >= 10 {
                this.node_endpoints = c.array(NodeEndpoint::BYTES_MIN, NodeEndpoint::read)?;
            }
            Ok(())
        })?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| partition.write(w, version));
            w.end_struct();
        });
        write_response_end(w, version, self.throttle_time_ms, &self.node_endpoints);
    }
}
