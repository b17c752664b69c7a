//! The records of `__cluster_metadata`, Kafka's own: what a control plane writes and brokers fold.
//!
//! ```text
//! value:  | frame = 1: uvarint | key: uvarint | version: uvarint | fields ... | tags |
//! ```
//!
//! Every record has varint lengths and tagged fields from version 0 on. Records are written in the
//! version of metadata.version 25 (Kafka 4.0), and read in that and all before it. A key or
//! version that is not known is an error on purpose: who skips a record no longer has the
//! cluster's state. Source: Kafka 4.1's schemas in `metadata/src/main/resources/common/metadata`.

mod broker;
mod control;
mod topic;

pub use broker::{
    BrokerEndpoint, BrokerFeature, BrokerRegistrationChange, FeatureLevel, ProducerIds,
    RegisterBroker, UnregisterBroker,
};
pub use control::{LEADER_CHANGE_KEY, LeaderChange, Voter, control_record_type};
pub use topic::{
    CONFIG_BROKER, CONFIG_CLIENT_METRICS, CONFIG_GROUP, CONFIG_TOPIC, Config, LeaderRecoveryState,
    Partition, PartitionChange, RemoveTopic, Topic,
};

use bytes::BytesMut;
use uuid::Uuid;

use crate::cursor::{Cursor, DecodeError};
use crate::writer::{EncodeError, Writer};

/// The one framing there is. Source: Kafka's `AbstractApiMessageSerde`.
const FRAME_VERSION: u32 = 1;

/// Why a value is not a record: stop folding.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A framing of a later Kafka.
    #[error("metadata record with frame version {version}: only {FRAME_VERSION} is known")]
    UnknownFrame {
        /// The frame version.
        version: u32,
    },
    /// A record of a later Kafka, or of a kind that is not served.
    #[error("metadata record {key} version {version} is not known: lower metadata.version")]
    UnknownRecord {
        /// The kind of record.
        key: u32,
        /// Its version.
        version: u32,
    },
    /// A field has a value without a meaning.
    #[error("{value} is no value of the metadata record field `{field}`")]
    BadValue {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// The bytes are not the fields.
    #[error("bad metadata record: {0}")]
    Malformed(#[from] DecodeError),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A broker (or one that starts again) is part of the cluster.
    RegisterBroker(RegisterBroker),
    /// A broker is no longer part of the cluster.
    UnregisterBroker(UnregisterBroker),
    /// A topic is created; its partitions follow.
    Topic(Topic),
    /// A partition is created, or its whole state stated.
    Partition(Partition),
    /// A configuration value is set or deleted.
    Config(Config),
    /// Something about a partition changes.
    PartitionChange(PartitionChange),
    /// A topic is deleted, with its partitions and configuration.
    RemoveTopic(RemoveTopic),
    /// The cluster runs a feature at a level.
    FeatureLevel(FeatureLevel),
    /// Producer ids below a number are handed out.
    ProducerIds(ProducerIds),
    /// Something about a broker changes.
    BrokerRegistrationChange(BrokerRegistrationChange),
    /// Nothing: keeps the high watermark moving.
    NoOp,
}

impl Record {
    /// Reads a record's value.
    ///
    /// # Errors
    /// Any [`RecordError`]. Bytes behind the fields are one, as for Kafka.
    pub fn decode(value: &[u8]) -> Result<Self, RecordError> {
        let mut c = Cursor::over(value);
        c.set_flexible(true);
        let version = c.uvarint()?;
        if version != FRAME_VERSION {
            return Err(RecordError::UnknownFrame { version });
        }
        let (key, version) = (c.uvarint()?, c.uvarint()?);
        let c = &mut c;
        let record = match (key, version) {
            (0, 0..=3) => Self::RegisterBroker(RegisterBroker::read(c, version)?),
            (1, 0) => Self::UnregisterBroker(UnregisterBroker::read(c)?),
            (2, 0) => Self::Topic(Topic::read(c)?),
            (3, 0..=2) => Self::Partition(Partition::read(c, version)?),
            (4, 0) => Self::Config(Config::read(c)?),
            (5, 0..=2) => Self::PartitionChange(PartitionChange::read(c)?),
            (9, 0) => Self::RemoveTopic(RemoveTopic::read(c)?),
            (12, 0) => Self::FeatureLevel(FeatureLevel::read(c)?),
            (15, 0) => Self::ProducerIds(ProducerIds::read(c)?),
            (17, 0..=2) => Self::BrokerRegistrationChange(BrokerRegistrationChange::read(c)?),
            (20, 0) => {
                c.end_struct()?;
                Self::NoOp
            }
            (key, version) => return Err(RecordError::UnknownRecord { key, version }),
        };
        c.finish()?;
        Ok(record)
    }

    /// The kind of record, and the version in which it is written.
    #[must_use]
    pub const fn key_and_version(&self) -> (u32, u32) {
        match self {
            Self::RegisterBroker(_) => (0, 3),
            Self::UnregisterBroker(_) => (1, 0),
            Self::Topic(_) => (2, 0),
            Self::Partition(_) => (3, 2),
            Self::Config(_) => (4, 0),
            Self::PartitionChange(_) => (5, 2),
            Self::RemoveTopic(_) => (9, 0),
            Self::FeatureLevel(_) => (12, 0),
            Self::ProducerIds(_) => (15, 0),
            Self::BrokerRegistrationChange(_) => (17, 2),
            Self::NoOp => (20, 0),
        }
    }

    /// Appends the record's value to `buf`.
    ///
    /// # Errors
    /// Any [`EncodeError`]; `buf` is then as it was.
    pub fn encode(&self, buf: &mut BytesMut) -> Result<(), EncodeError> {
        let mut w = Writer::plain(buf);
        w.set_flexible(true);
        let (key, version) = self.key_and_version();
        w.uvarint(FRAME_VERSION);
        w.uvarint(key);
        w.uvarint(version);
        match self {
            Self::RegisterBroker(record) => record.write(&mut w),
            Self::UnregisterBroker(record) => record.write(&mut w),
            Self::Topic(record) => record.write(&mut w),
            Self::Partition(record) => record.write(&mut w),
            Self::Config(record) => record.write(&mut w),
            Self::PartitionChange(record) => record.write(&mut w),
            Self::RemoveTopic(record) => record.write(&mut w),
            Self::FeatureLevel(record) => record.write(&mut w),
            Self::ProducerIds(record) => record.write(&mut w),
            Self::BrokerRegistrationChange(record) => record.write(&mut w),
            Self::NoOp => w.end_struct(),
        }
        w.finish().map(drop)
    }
}

fn uuids(c: &mut Cursor<'_>) -> Result<Vec<Uuid>, DecodeError> {
    c.array(16, Cursor::uuid)
}

fn write_uuids(w: &mut Writer<'_>, ids: &[Uuid]) {
    w.array(ids, |w, id| w.uuid(*id));
}

#[cfg(test)]
mod tests;
