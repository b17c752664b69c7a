//! The control plane, as handlers see it: what may be asked of the cluster's owner.

use kariz_engine::config::Source;
use kariz_engine::types::TopicId;
use kariz_protocol::ErrorCode;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

/// An answer from the owner, which may be on another core.
pub(crate) type Answer<T> = Pin<Box<dyn Future<Output = Result<T, ControlError>>>>;

/// Whoever may change the cluster. Every answer comes after **all** cores have applied the change.
pub(crate) trait Control {
    /// Creates topics, or only checks whether they could be; one result a topic, in order.
    fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Answer<Vec<Result<Created, TopicError>>>;

    /// Deletes topics; one result a topic, in order.
    fn delete_topics(&self, topics: Vec<TopicRef>) -> Answer<Vec<Result<Deleted, TopicError>>>;

    /// Sets a block of producer ids aside for `broker`.
    fn producer_ids(&self, broker: i32) -> Answer<Range<i64>>;
}

/// Why the owner could do nothing at all.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// It is stopping, or has not started.
    #[error("the cluster's owner is not running: the server is starting or stopping")]
    Closed,
    /// The metadata log does not take the change.
    #[error("the metadata log could not be written: {0}")]
    Log(String),
}

/// A topic to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    /// -1: `num.partitions`.
    pub(crate) partitions: i32,
    /// Stored as 1 whatever it is: there is one failure domain.
    pub(crate) replication_factor: i16,
    /// Partition and brokers; empty: chosen by the owner.
    pub(crate) assignments: Vec<(i32, Vec<i32>)>,
    pub(crate) configs: Vec<(String, Option<String>)>,
}

impl NewTopic {
    /// A topic with the cluster's defaults, as auto-creation makes it.
    pub(crate) fn by_default(name: String) -> Self {
        Self { name, partitions: -1, replication_factor: -1, ..Self::default() }
    }
}

/// A topic that was made, or could be.
#[derive(Clone, Debug)]
pub(crate) struct Created {
    pub(crate) id: TopicId,
    pub(crate) partitions: i32,
    pub(crate) replication_factor: i16,
    /// What is set for it.
    pub(crate) configs: BTreeMap<String, String>,
}

/// A topic's setting, its value and where that comes from.
#[derive(Clone, Debug)]
pub(crate) struct ConfigEntry {
    pub(crate) name: &'static str,
    pub(crate) value: Option<String>,
    pub(crate) source: Source,
}

/// A topic to be deleted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicRef {
    Name(String),
    Id(TopicId),
}

/// A topic that was deleted.
#[derive(Clone, Debug)]
pub(crate) struct Deleted {
    pub(crate) name: String,
    pub(crate) id: TopicId,
}

/// Why a topic was not made or not deleted.
#[derive(Clone, Debug)]
pub(crate) struct TopicError {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
}

impl TopicError {
    /// An error with a message for people.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
