//! The response: as a server writes it around its records, and as a client reads it.

use bytes::{Bytes, BytesMut};

use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::header;
use crate::messages::{LeaderIdAndEpoch, Message, error_code, i32_since, i64_since};
use crate::writer::{Announced, EncodeError, Hole, Records, Writer};

/// What a fetch response says before its topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseHead {
    /// How long the request was held back by a quota, in milliseconds.
    pub throttle_time_ms: i32,
    /// What became of the request as a whole (7+).
    pub error: ErrorCode,
    /// The fetch session (7+), or 0: there is none.
    pub session_id: i32,
}

/// Everything about a partition but its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionHead {
    /// The partition.
    pub index: i32,
    /// Whether it could be read.
    pub error: ErrorCode,
    /// Where what consumers may read ends, or -1.
    pub high_watermark: i64,
    /// Where what is decided (no open transaction) ends, or -1.
    pub last_stable_offset: i64,
    /// Its first offset (5+), or -1.
    pub log_start_offset: i64,
    /// Where a follower's log parts from the leader's (12+).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// The leader to turn to (12+).
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The snapshot to fetch instead (12+).
    pub snapshot_id: Option<SnapshotId>,
    /// The aborted transactions with records here; `None` unless only committed ones were asked.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// A nearer replica to turn to (11+), or -1.
    pub preferred_read_replica: i32,
}

/// Of partition 0, with every number unknown.
impl Default for PartitionHead {
    fn default() -> Self {
        Self {
            index: 0,
            error: ErrorCode::None,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
        }
    }
}

/// The largest term that a follower and the leader share, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The term.
    pub epoch: i32,
    /// Its end on the leader.
    pub end_offset: i64,
}

/// Names a snapshot of the metadata log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotId {
    /// Where the log behind it starts.
    pub end_offset: i64,
    /// The term of the last record in it.
    pub epoch: i32,
}

/// A transaction whose records are to be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// The producer.
    pub producer_id: i64,
    /// The first of its records.
    pub first_offset: i64,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// What it says before its topics.
    pub head: ResponseHead,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionResponse {
    /// Everything but its records.
    pub head: PartitionHead,
    /// Its record batches, of which the last may be cut off: a slice of the frame.
    pub records: Option<Bytes>,
}

impl PartitionHead {
    fn write(&self, w: &mut Writer<'_>, version: i16, records: Records<'_>) {
        w.i32(self.index);
        w.i16(self.error.code());
        w.i64(self.high_watermark);
        w.i64(self.last_stable_offset);
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        w.nullable_array(self.aborted_transactions.as_deref(), |w, aborted| {
            w.i64(aborted.producer_id);
            w.i64(aborted.first_offset);
            w.end_struct();
        });
        if version >= 11 {
            w.i32(self.preferred_read_replica);
        } else {
            w.refuse(self.preferred_read_replica != -1, "preferred_read_replica", version);
        }
        w.records(records);
        w.tags(|tags| {
            if let Some(diverging) = self.diverging_epoch {
                tags.field(0, |w| {
                    w.i32(diverging.epoch);
                    w.i64(diverging.end_offset);
                    w.end_struct();
                });
            }
            if let Some(leader) = self.current_leader {
                tags.field(1, |w| leader.write(w));
            }
            if let Some(snapshot) = self.snapshot_id {
                tags.field(2, |w| {
                    w.i64(snapshot.end_offset);
                    w.i32(snapshot.epoch);
                    w.end_struct();
                });
            }
        });
    }
}

impl PartitionResponse {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut head = PartitionHead {
            index: c.i32()?,
            error: error_code(c)?,
            high_watermark: c.i64()?,
            last_stable_offset: c.i64()?,
            log_start_offset: i64_since(5, -1, c, version)?,
            ..PartitionHead::default()
        };
        head.aborted_transactions = c.nullable_array(16, |c| {
            let aborted = AbortedTransaction { producer_id: c.i64()?, first_offset: c.i64()? };
            c.end_struct()?;
            Ok(aborted)
        })?;
        head.preferred_read_replica = i32_since(11, -1, c, version)?;
        let records = c.nullable_bytes()?;
        let records = records.map(|records| c.share(records));
        c.tags(|tag, c| {
            match tag {
                0 => {
                    let diverging = EpochEndOffset { epoch: c.i32()?, end_offset: c.i64()? };
                    c.end_struct()?;
                    head.diverging_epoch = Some(diverging);
                }
                1 => head.current_leader = Some(LeaderIdAndEpoch::read(c)?),
                2 => {
                    let snapshot = SnapshotId { end_offset: c.i64()?, epoch: c.i32()? };
                    c.end_struct()?;
                    head.snapshot_id = Some(snapshot);
                }
                _ => (),
            }
            Ok(())
        })?;
        Ok(Self { head, records })
    }
}

impl ResponseHead {
    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.throttle_time_ms);
        if version >= 7 {
            w.i16(self.error.code());
            w.i32(self.session_id);
        } else {
            w.refuse(self.session_id != 0, "session_id", version);
        }
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::Fetch;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let head = ResponseHead {
            throttle_time_ms: c.i32()?,
            error: if version >= 7 { error_code(c)? } else { ErrorCode::None },
            session_id: i32_since(7, 0, c, version)?,
        };
        let topics = c.array(2, |c| {
            let topic = TopicResponse {
                name: c.string()?.to_owned(),
                partitions: c.array(24, |c| PartitionResponse::read(c, version))?,
            };
            c.end_struct()?;
            Ok(topic)
        })?;
        c.end_struct()?;
        Ok(Self { head, topics })
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        self.head.write(w, version);
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| {
                let records = partition.records.as_deref().map_or(Records::Null, Records::Inline);
                partition.head.write(w, version, records);
            });
            w.end_struct();
        });
        w.end_struct();
    }
}

/// Writes a fetch response partition by partition.
///
/// With [`Records::Hole`] the buffer receives everything but the records, and
/// [`segments`](crate::writer::segments) tells in which order to send what:
///
/// ```
/// use kariz_protocol::messages::fetch::{PartitionHead, ResponseEncoder, ResponseHead};
/// use kariz_protocol::writer::{Records, Segment, segments};
/// let mut buf = bytes::BytesMut::new();
/// let mut response = ResponseEncoder::begin(&mut buf, 12, 7, ResponseHead::default(), 1);
/// response.topic("t", 1);
/// response.partition(&PartitionHead::default(), Records::Hole(4096));
/// let holes = response.finish().unwrap();
/// let order: Vec<_> = segments(&buf, &holes).collect();
/// assert!(matches!(order[..], [Segment::Bytes(_), Segment::Hole { index: 0, len: 4096 }, Segment::Bytes(_)]));
/// ```
#[derive(Debug)]
pub struct ResponseEncoder<'b> {
    w: Writer<'b>,
    version: i16,
    announced: Announced,
}

impl<'b> ResponseEncoder<'b> {
    /// Begins a frame at the end of `buf`; [`ResponseEncoder::topic`] is to be called `topics`
    /// times.
    #[must_use]
    pub fn begin(
        buf: &'b mut BytesMut,
        version: i16,
        correlation_id: i32,
        head: ResponseHead,
        topics: usize,
    ) -> Self {
        let mut w = header::begin_response(buf, ApiKey::Fetch, version, correlation_id);
        head.write(&mut w, version);
        let announced = Announced::topics(&mut w, topics);
        Self { w, version, announced }
    }

    /// Begins a topic; [`ResponseEncoder::partition`] is to be called `partitions` times.
    pub fn topic(&mut self, name: &str, partitions: usize) {
        self.w.string(name);
        self.announced.topic(&mut self.w, partitions);
    }

    /// Adds a partition to the topic.
    pub fn partition(&mut self, head: &PartitionHead, records: Records<'_>) {
        head.write(&mut self.w, self.version, records);
        self.announced.partition(&mut self.w);
    }

    /// Ends the frame, whose length counts the holes. Returns them in the order of the partitions
    /// that have one; their places count from the start of the buffer.
    ///
    /// # Errors
    /// Any [`EncodeError`]; the buffer is then as it was.
    pub fn finish(mut self) -> Result<Vec<Hole>, EncodeError> {
        self.announced.end(&mut self.w);
        self.w.end_struct();
        self.w.finish()
    }
}
