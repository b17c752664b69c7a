//! The request: as a server reads it in place, and as a client writes it.

use super::Response;
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::messages::{self, Message, enter, i32_since, i64_since, owned};
use crate::view::{Element, View};
use crate::writer::Writer;

/// What a fetch request says beside its topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// The cluster that a follower believes to be in (12+).
    pub cluster_id: Option<&'a str>,
    /// The broker that follows, or -1: a consumer.
    pub replica_id: i32,
    /// How long to wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// The least bytes of records worth an answer.
    pub min_bytes: i32,
    /// The most bytes of records to send, save that one batch is sent whole.
    pub max_bytes: i32,
    /// 0: all records, 1: no records of open or aborted transactions.
    pub isolation_level: i8,
    /// The fetch session (7+), or 0.
    pub session_id: i32,
    /// The session's counter (7+); 0 asks for a session, -1 for none.
    pub session_epoch: i32,
    /// The consumer's rack (11+), or "".
    pub rack_id: &'a str,
}

/// A consumer's, that reads everything and does not wait.
impl Default for RequestHead<'_> {
    fn default() -> Self {
        Self {
            cluster_id: None,
            replica_id: -1,
            max_wait_ms: 0,
            min_bytes: 0,
            max_bytes: i32::MAX,
            isolation_level: 0,
            session_id: 0,
            session_epoch: -1,
            rack_id: "",
        }
    }
}

/// A fetch request, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// What it says beside its topics.
    pub head: RequestHead<'a>,
    /// The topics.
    pub topics: View<'a, TopicView<'a>>,
    /// What is to be taken out of the session (7+).
    pub forgotten_topics: View<'a, ForgottenTopicView<'a>>,
}

/// A topic in a [`RequestView`].
#[derive(Clone, Copy, Debug)]
pub struct TopicView<'a> {
    /// Its name.
    pub name: &'a str,
    /// The partitions.
    pub partitions: View<'a, FetchPartition>,
}

/// A partition to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Its number.
    pub index: i32,
    /// The leader's term as the client knows it (9+), or -1.
    pub current_leader_epoch: i32,
    /// Where to start.
    pub fetch_offset: i64,
    /// The term of the record before that (12+), or -1.
    pub last_fetched_epoch: i32,
    /// A follower's first offset (5+), or -1.
    pub log_start_offset: i64,
    /// The most bytes to send of it.
    pub max_bytes: i32,
}

/// Of partition 0, from its first offset, without limit.
impl Default for FetchPartition {
    fn default() -> Self {
        Self {
            index: 0,
            current_leader_epoch: -1,
            fetch_offset: 0,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            max_bytes: i32::MAX,
        }
    }
}

/// Partitions of a topic that are to be taken out of the session.
#[derive(Clone, Copy, Debug)]
pub struct ForgottenTopicView<'a> {
    /// The topic.
    pub name: &'a str,
    /// The partitions.
    pub partitions: View<'a, i32>,
}

impl<'a> RequestView<'a> {
    /// Reads the whole request at `cursor`, behind the header, without allocating.
    ///
    /// # Errors
    /// Any [`DecodeError`]: close the connection.
    pub fn decode(cursor: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        enter(ApiKey::Fetch, cursor, version)?;
        Self::read(cursor, version)
    }

    fn read(c: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        let mut head = RequestHead {
            replica_id: c.i32()?,
            max_wait_ms: c.i32()?,
            min_bytes: c.i32()?,
            max_bytes: c.i32()?,
            isolation_level: c.i8()?,
            session_id: i32_since(7, 0, c, version)?,
            session_epoch: i32_since(7, -1, c, version)?,
            ..RequestHead::default()
        };
        let topics = View::read(c, version)?;
        let forgotten_topics = if version >= 7 { View::read(c, version)? } else { View::empty() };
        if version >= 11 {
            head.rack_id = c.string()?;
        }
        // Tags are behind everything, so what borrows from `c` is named outside the closure.
        let mut cluster_id = None;
        c.tags(|tag, c| {
            if tag == 0 {
                cluster_id = c.nullable_string()?;
            }
            Ok(())
        })?;
        head.cluster_id = cluster_id;
        Ok(Self { head, topics, forgotten_topics })
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

impl Element<'_> for FetchPartition {
    /// Its number, its offset and its limit.
    const BYTES_MIN: usize = 16;

    #[inline]
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            index: c.i32()?,
            current_leader_epoch: i32_since(9, -1, c, version)?,
            fetch_offset: c.i64()?,
            last_fetched_epoch: i32_since(12, -1, c, version)?,
            log_start_offset: i64_since(5, -1, c, version)?,
            max_bytes: c.i32()?,
        };
        c.end_struct()?;
        Ok(this)
    }
}

impl<'a> Element<'a> for ForgottenTopicView<'a> {
    /// The lengths of its name and of its partitions.
    const BYTES_MIN: usize = 2;

    #[inline]
    fn read(c: &mut Cursor<'a>, version: i16) -> Result<Self, DecodeError> {
        let this = Self { name: c.string()?, partitions: View::read(c, version)? };
        c.end_struct()?;
        Ok(this)
    }
}

/// A fetch request of its own, as clients write it. Its fields are those of [`RequestHead`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The cluster that a follower believes to be in (12+).
    pub cluster_id: Option<String>,
    /// The broker that follows, or -1: a consumer.
    pub replica_id: i32,
    /// How long to wait for `min_bytes`, in milliseconds.
    pub max_wait_ms: i32,
    /// The least bytes of records worth an answer.
    pub min_bytes: i32,
    /// The most bytes of records to send, save that one batch is sent whole.
    pub max_bytes: i32,
    /// 0: all records, 1: no records of open or aborted transactions.
    pub isolation_level: i8,
    /// The fetch session (7+), or 0.
    pub session_id: i32,
    /// The session's counter (7+); 0 asks for a session, -1 for none.
    pub session_epoch: i32,
    /// The topics.
    pub topics: Vec<TopicRequest>,
    /// What is to be taken out of the session (7+).
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// The consumer's rack (11+), or "".
    pub rack_id: String,
}

/// A topic in a [`Request`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// Its name.
    pub name: String,
    /// The partitions.
    pub partitions: Vec<FetchPartition>,
}

/// Partitions of a topic that are to be taken out of the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// The topic.
    pub name: String,
    /// The partitions.
    pub partitions: Vec<i32>,
}

impl From<RequestHead<'_>> for Request {
    /// A request without topics.
    fn from(head: RequestHead<'_>) -> Self {
        Self {
            cluster_id: owned(head.cluster_id),
            replica_id: head.replica_id,
            max_wait_ms: head.max_wait_ms,
            min_bytes: head.min_bytes,
            max_bytes: head.max_bytes,
            isolation_level: head.isolation_level,
            session_id: head.session_id,
            session_epoch: head.session_epoch,
            topics: Vec::new(),
            forgotten_topics: Vec::new(),
            rack_id: head.rack_id.to_owned(),
        }
    }
}

impl Default for Request {
    fn default() -> Self {
        RequestHead::default().into()
    }
}

impl messages::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::Fetch;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let RequestView { head, topics, forgotten_topics } = RequestView::read(c, version)?;
        let topic = |topic: TopicView<'_>| TopicRequest {
            name: topic.name.to_owned(),
            partitions: topic.partitions.iter().collect(),
        };
        let forgotten = |topic: ForgottenTopicView<'_>| ForgottenTopic {
            name: topic.name.to_owned(),
            partitions: topic.partitions.iter().collect(),
        };
        Ok(Self {
            topics: topics.iter().map(topic).collect(),
            forgotten_topics: forgotten_topics.iter().map(forgotten).collect(),
            ..head.into()
        })
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.replica_id);
        w.i32(self.max_wait_ms);
        w.i32(self.min_bytes);
        w.i32(self.max_bytes);
        w.i8(self.isolation_level);
        if version >= 7 {
            w.i32(self.session_id);
            w.i32(self.session_epoch);
        }
        w.array(&self.topics, |w, topic| {
            w.string(&topic.name);
            w.array(&topic.partitions, |w, partition| partition.write(w, version));
            w.end_struct();
        });
        if version >= 7 {
            w.array(&self.forgotten_topics, |w, topic| {
                w.string(&topic.name);
                w.i32_array(&topic.partitions);
                w.end_struct();
            });
        } else {
            w.refuse(!self.forgotten_topics.is_empty(), "forgotten_topics", version);
        }
        if version >= 11 {
            w.string(&self.rack_id);
        }
        w.tags(|tags| {
            if let Some(cluster_id) = &self.cluster_id {
                tags.field(0, |w| w.string(cluster_id));
            }
        });
    }
}

impl FetchPartition {
    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.index);
        if version >= 9 {
            w.i32(self.current_leader_epoch);
        }
        w.i64(self.fetch_offset);
        if version >= 12 {
            w.i32(self.last_fetched_epoch);
        } else {
            w.refuse(self.last_fetched_epoch != -1, "last_fetched_epoch", version);
        }
        if version >= 5 {
            w.i64(self.log_start_offset);
        }
        w.i32(self.max_bytes);
        w.end_struct();
    }
}
