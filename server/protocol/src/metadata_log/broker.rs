//! Records about brokers, and about the cluster as a whole.

use uuid::Uuid;

use super::{RecordError, uuids, write_uuids};
use crate::cursor::{Cursor, DecodeError};
use crate::writer::Writer;

/// A broker (or one that starts again) is part of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegisterBroker {
    /// The broker's id.
    pub broker_id: i32,
    /// Whether it still migrates from ZooKeeper: false in every cluster that Kafka 4 can run.
    pub is_migrating_zk_broker: bool,
    /// The start of its process.
    pub incarnation_id: Uuid,
    /// The offset of this record, as its session's number.
    pub broker_epoch: i64,
    /// Where it listens.
    pub endpoints: Vec<BrokerEndpoint>,
    /// The features it could run.
    pub features: Vec<BrokerFeature>,
    /// Its rack, if it has one.
    pub rack: Option<String>,
    /// Whether it may not lead partitions.
    pub is_fenced: bool,
    /// Whether it is about to stop.
    pub in_controlled_shutdown: bool,
    /// Its log directories.
    pub log_dirs: Vec<Uuid>,
}

/// Where a broker listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerEndpoint {
    /// The listener's name.
    pub name: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// 0: plaintext, 1: TLS, 2: SASL in plaintext, 3: SASL over TLS.
    pub security_protocol: i16,
}

/// A feature that a broker could run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerFeature {
    /// Its name.
    pub name: String,
    /// The least level.
    pub min_supported_version: i16,
    /// The greatest level.
    pub max_supported_version: i16,
}

impl RegisterBroker {
    pub(super) fn read(c: &mut Cursor<'_>, version: u32) -> Result<Self, DecodeError> {
        let mut this = Self {
            broker_id: c.i32()?,
            is_migrating_zk_broker: version >= 2 && c.bool()?,
            incarnation_id: c.uuid()?,
            broker_epoch: c.i64()?,
            endpoints: c.array(7, BrokerEndpoint::read)?,
            features: c.array(6, BrokerFeature::read)?,
            rack: c.nullable_string()?.map(str::to_owned),
            is_fenced: c.bool()?,
            in_controlled_shutdown: version >= 1 && c.bool()?,
            log_dirs: Vec::new(),
        };
        c.tags(|tag, c| {
            if tag == 0 && version >= 3 {
                this.log_dirs = uuids(c)?;
            }
            Ok(())
        })?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.broker_id);
        w.bool(self.is_migrating_zk_broker);
        w.uuid(self.incarnation_id);
        w.i64(self.broker_epoch);
        w.array(&self.endpoints, |w, endpoint| endpoint.write(w));
        w.array(&self.features, |w, feature| feature.write(w));
        w.nullable_string(self.rack.as_deref());
        w.bool(self.is_fenced);
        w.bool(self.in_controlled_shutdown);
        w.tags(|tags| {
            if !self.log_dirs.is_empty() {
                tags.field(0, |w| write_uuids(w, &self.log_dirs));
            }
        });
    }
}

impl BrokerEndpoint {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            name: c.string()?.to_owned(),
            host: c.string()?.to_owned(),
            port: c.u16()?,
            security_protocol: c.i16()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.string(&self.host);
        w.u16(self.port);
        w.i16(self.security_protocol);
        w.end_struct();
    }
}

impl BrokerFeature {
    fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            name: c.string()?.to_owned(),
            min_supported_version: c.i16()?,
            max_supported_version: c.i16()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.i16(self.min_supported_version);
        w.i16(self.max_supported_version);
        w.end_struct();
    }
}

/// A broker is no longer part of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnregisterBroker {
    /// The broker's id.
    pub broker_id: i32,
    /// Its session's number.
    pub broker_epoch: i64,
}

impl UnregisterBroker {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { broker_id: c.i32()?, broker_epoch: c.i64()? };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.broker_id);
        w.i64(self.broker_epoch);
        w.end_struct();
    }
}

/// Something about a broker changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerRegistrationChange {
    /// The broker's id.
    pub broker_id: i32,
    /// Its session's number.
    pub broker_epoch: i64,
    /// Whether it may not lead partitions from now on; `None`: as before.
    pub is_fenced: Option<bool>,
    /// Whether it is now about to stop; false: as before.
    pub in_controlled_shutdown: bool,
    /// Its log directories from now on; empty: as before.
    pub log_dirs: Vec<Uuid>,
}

impl BrokerRegistrationChange {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, RecordError> {
        let (broker_id, broker_epoch) = (c.i32()?, c.i64()?);
        let (mut fenced, mut shutdown) = (0, 0);
        let mut log_dirs = Vec::new();
        c.tags(|tag, c| {
            match tag {
                0 => fenced = c.i8()?,
                1 => shutdown = c.i8()?,
                2 => log_dirs = uuids(c)?,
                _ => (),
            }
            Ok(())
        })?;
        let bad = |field, value: i8| RecordError::BadValue { field, value: value.into() };
        Ok(Self {
            broker_id,
            broker_epoch,
            is_fenced: match fenced {
                0 => None,
                1 => Some(true),
                -1 => Some(false),
                value => return Err(bad("Fenced", value)),
            },
            in_controlled_shutdown: match shutdown {
                0 => false,
                1 => true,
                value => return Err(bad("InControlledShutdown", value)),
            },
            log_dirs,
        })
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.broker_id);
        w.i64(self.broker_epoch);
        w.tags(|tags| {
            if let Some(fenced) = self.is_fenced {
                tags.field(0, |w| w.i8(if fenced { 1 } else { -1 }));
            }
            if self.in_controlled_shutdown {
                tags.field(1, |w| w.i8(1));
            }
            if !self.log_dirs.is_empty() {
                tags.field(2, |w| write_uuids(w, &self.log_dirs));
            }
        });
    }
}

/// The cluster runs a feature at a level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeatureLevel {
    /// The feature, such as `metadata.version`.
    pub name: String,
    /// The level; 0 turns the feature off.
    pub level: i16,
}

impl FeatureLevel {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { name: c.string()?.to_owned(), level: c.i16()? };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.i16(self.level);
        w.end_struct();
    }
}

/// Producer ids below a number are handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProducerIds {
    /// The broker that got the last block.
    pub broker_id: i32,
    /// Its session's number.
    pub broker_epoch: i64,
    /// The first id of the next block.
    pub next_producer_id: i64,
}

impl ProducerIds {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { broker_id: c.i32()?, broker_epoch: c.i64()?, next_producer_id: c.i64()? };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.broker_id);
        w.i64(self.broker_epoch);
        w.i64(self.next_producer_id);
        w.end_struct();
    }
}
