//! Metadata: which brokers there are, and which of them lead which partitions.

use uuid::Uuid;

use super::{
    Message, NO_AUTHORIZED_OPERATIONS, error_code, i32_array, i32_since, owned, uuid_since,
};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// Asks for topics, and always for the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The topics; `None` asks for all of them. Version 0 knows no empty list.
    pub topics: Option<Vec<TopicRequest>>,
    /// Whether a missing topic may be created, if the broker is configured to (4+; else true).
    pub allow_auto_topic_creation: bool,
    /// Whether to list what the client may do with the cluster (8-10).
    pub include_cluster_authorized_operations: bool,
    /// Whether to list what the client may do with each topic (8+).
    pub include_topic_authorized_operations: bool,
}

/// A topic asked for, by name or by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicRequest {
    /// Its id (10+), or nil.
    pub topic_id: Uuid,
    /// Its name; may be missing from version 10 on.
    pub name: Option<String>,
}

/// The cluster as the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// How long the request was held back by a quota, in milliseconds (3+).
    pub throttle_time_ms: i32,
    /// The brokers.
    pub brokers: Vec<Broker>,
    /// The cluster's id (2+).
    pub cluster_id: Option<String>,
    /// A broker that takes requests for the controller (1+), or -1.
    pub controller_id: i32,
    /// The topics asked for.
    pub topics: Vec<Topic>,
    /// What the client may do with the cluster, a bit an operation (8-10).
    pub cluster_authorized_operations: i32,
    /// What became of the request as a whole (13+).
    pub error: ErrorCode,
}

/// A broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    pub node_id: i32,
    /// Host name or address to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: i32,
    /// Its rack, if it has one (1+).
    pub rack: Option<String>,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// What became of the question for it.
    pub error: ErrorCode,
    /// Its name; `None` (12+) if an id was asked for that is not known.
    pub name: Option<String>,
    /// Its id (10+), or nil.
    pub topic_id: Uuid,
    /// Whether it is one of Kafka's own (1+).
    pub is_internal: bool,
    /// Its partitions.
    pub partitions: Vec<Partition>,
    /// What the client may do with it, a bit an operation (8+).
    pub authorized_operations: i32,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// What is wrong with it, if something is.
    pub error: ErrorCode,
    /// Its number.
    pub index: i32,
    /// The broker that leads it, or -1.
    pub leader_id: i32,
    /// The leader's term (7+), or -1.
    pub leader_epoch: i32,
    /// The brokers that keep it.
    pub replica_nodes: Vec<i32>,
    /// Those of them in sync with the leader.
    pub isr_nodes: Vec<i32>,
    /// Those of them that are away (5+).
    pub offline_replicas: Vec<i32>,
}

/// All topics, as a client asks that starts.
impl Default for Request {
    fn default() -> Self {
        Self {
            topics: None,
            allow_auto_topic_creation: true,
            include_cluster_authorized_operations: false,
            include_topic_authorized_operations: false,
        }
    }
}

impl Default for Response {
    fn default() -> Self {
        Self {
            throttle_time_ms: 0,
            brokers: Vec::new(),
            cluster_id: None,
            controller_id: -1,
            topics: Vec::new(),
            cluster_authorized_operations: NO_AUTHORIZED_OPERATIONS,
            error: ErrorCode::None,
        }
    }
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            error: ErrorCode::None,
            name: None,
            topic_id: Uuid::nil(),
            is_internal: false,
            partitions: Vec::new(),
            authorized_operations: NO_AUTHORIZED_OPERATIONS,
        }
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::Metadata;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        // Of a topic there is at least its name: two bytes of length, or one and no tags.
        let mut topics = c.nullable_array(2, |c| {
            let topic = TopicRequest {
                topic_id: uuid_since(10, c, version)?,
                name: if version >= 10 {
                    owned(c.nullable_string()?)
                } else {
                    Some(c.string()?.to_owned())
                },
            };
            c.end_struct()?;
            Ok(topic)
        })?;
        if version == 0 {
            topics = topics.filter(|topics| !topics.is_empty());
        }
        let this = Self {
            topics,
            allow_auto_topic_creation: if version >= 4 { c.bool()? } else { true },
            include_cluster_authorized_operations: (8..=10).contains(&version) && c.bool()?,
            include_topic_authorized_operations: version >= 8 && c.bool()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        match (&self.topics, version) {
            (None, 0) => w.array_len(0),
            (topics, _) => {
                w.refuse(version == 0 && topics.as_ref().is_some_and(Vec::is_empty), "topics", 0);
                w.nullable_array(topics.as_deref(), |w, topic| {
                    if version >= 10 {
                        w.uuid(topic.topic_id);
                        w.nullable_string(topic.name.as_deref());
                    } else {
                        w.refuse(topic.name.is_none(), "topic_id", version);
                        w.string(topic.name.as_deref().unwrap_or_default());
                    }
                    w.end_struct();
                });
            }
        }
        if version >= 4 {
            w.bool(self.allow_auto_topic_creation);
        } else {
            w.refuse(!self.allow_auto_topic_creation, "allow_auto_topic_creation", version);
        }
        if (8..=10).contains(&version) {
            w.bool(self.include_cluster_authorized_operations);
        } else {
            let set = self.include_cluster_authorized_operations;
            w.refuse(set, "include_cluster_authorized_operations", version);
        }
        if version >= 8 {
            w.bool(self.include_topic_authorized_operations);
        } else {
            let set = self.include_topic_authorized_operations;
            w.refuse(set, "include_topic_authorized_operations", version);
        }
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::Metadata;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            throttle_time_ms: i32_since(3, 0, c, version)?,
            brokers: c.array(9, |c| Broker::read(c, version))?,
            cluster_id: if version >= 2 { owned(c.nullable_string()?) } else { None },
            controller_id: i32_since(1, -1, c, version)?,
            topics: c.array(4, |c| Topic::read(c, version))?,
            cluster_authorized_operations: if (8..=10).contains(&version) {
                c.i32()?
            } else {
                NO_AUTHORIZED_OPERATIONS
            },
            error: if version >= 13 { error_code(c)? } else { ErrorCode::None },
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        if version >= 3 {
            w.i32(self.throttle_time_ms);
        }
        w.array(&self.brokers, |w, broker| broker.write(w, version));
        if version >= 2 {
            w.nullable_string(self.cluster_id.as_deref());
        }
        if version >= 1 {
            w.i32(self.controller_id);
        }
        w.array(&self.topics, |w, topic| topic.write(w, version));
        if (8..=10).contains(&version) {
            w.i32(self.cluster_authorized_operations);
        }
        if version >= 13 {
            w.i16(self.error.code());
        }
        w.end_struct();
    }
}

impl Broker {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            node_id: c.i32()?,
            host: c.string()?.to_owned(),
            port: c.i32()?,
            rack: if version >= 1 { owned(c.nullable_string()?) } else { None },
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i32(self.node_id);
        w.string(&self.host);
        w.i32(self.port);
        if version >= 1 {
            w.nullable_string(self.rack.as_deref());
        }
        w.end_struct();
    }
}

impl Topic {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            error: error_code(c)?,
            name: if version >= 12 {
                owned(c.nullable_string()?)
            } else {
                Some(c.string()?.to_owned())
            },
            topic_id: uuid_since(10, c, version)?,
            is_internal: version >= 1 && c.bool()?,
            partitions: c.array(12, |c| Partition::read(c, version))?,
            authorized_operations: i32_since(8, NO_AUTHORIZED_OPERATIONS, c, version)?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i16(self.error.code());
        if version >= 12 {
            w.nullable_string(self.name.as_deref());
        } else {
            w.refuse(self.name.is_none(), "topic_id", version);
            w.string(self.name.as_deref().unwrap_or_default());
        }
        if version >= 10 {
            w.uuid(self.topic_id);
        }
        if version >= 1 {
            w.bool(self.is_internal);
        }
        w.array(&self.partitions, |w, partition| partition.write(w, version));
        if version >= 8 {
            w.i32(self.authorized_operations);
        }
        w.end_struct();
    }
}

impl Partition {
    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            error: error_code(c)?,
            index: c.i32()?,
            leader_id: c.i32()?,
            leader_epoch: i32_since(7, -1, c, version)?,
            replica_nodes: i32_array(c)?,
            isr_nodes: i32_array(c)?,
            offline_replicas: if version >= 5 { i32_array(c)? } else { Vec::new() },
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.i16(self.error.code());
        w.i32(self.index);
        w.i32(self.leader_id);
        if version >= 7 {
            w.i32(self.leader_epoch);
        }
        w.i32_array(&self.replica_nodes);
        w.i32_array(&self.isr_nodes);
        if version >= 5 {
            w.i32_array(&self.offline_replicas);
        }
        w.end_struct();
    }
}
