//! Records about topics, their partitions and configuration.

use uuid::Uuid;

use super::{RecordError, uuids, write_uuids};
use crate::cursor::{Cursor, DecodeError};
use crate::writer::Writer;

/// A topic is created; its partitions follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, never used again.
    pub topic_id: Uuid,
}

impl Topic {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { name: c.string()?.to_owned(), topic_id: c.uuid()? };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.string(&self.name);
        w.uuid(self.topic_id);
        w.end_struct();
    }
}

/// A topic is deleted, with its partitions and configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveTopic {
    /// The topic.
    pub topic_id: Uuid,
}

impl RemoveTopic {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { topic_id: c.uuid()? };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.uuid(self.topic_id);
        w.end_struct();
    }
}

/// Whether a partition's leader has all that was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaderRecoveryState {
    /// It was in sync when it was elected, or has recovered since.
    #[default]
    Recovered,
    /// It was not, and has yet to truncate.
    Recovering,
}

impl LeaderRecoveryState {
    fn from_code(value: i8) -> Result<Self, RecordError> {
        match value {
            0 => Ok(Self::Recovered),
            1 => Ok(Self::Recovering),
            _ => Err(RecordError::BadValue { field: "LeaderRecoveryState", value: value.into() }),
        }
    }

    fn code(self) -> i8 {
        match self {
            Self::Recovered => 0,
            Self::Recovering => 1,
        }
    }
}

/// A partition is created, or its whole state stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number.
    pub partition_id: i32,
    /// Its topic.
    pub topic_id: Uuid,
    /// The brokers that keep it, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of them in sync.
    pub isr: Vec<i32>,
    /// Those of them to be removed.
    pub removing_replicas: Vec<i32>,
    /// Those of them just added.
    pub adding_replicas: Vec<i32>,
    /// The broker that leads it, or -1.
    pub leader: i32,
    /// Whether the leader has all that was acknowledged.
    pub leader_recovery_state: LeaderRecoveryState,
    /// The leader's term.
    pub leader_epoch: i32,
    /// Counts every change to the partition.
    pub partition_epoch: i32,
    /// The log directory of each replica, in their order (1+).
    pub directories: Vec<Uuid>,
    /// Replicas out of sync that may lead all the same (2+).
    pub eligible_leader_replicas: Option<Vec<i32>>,
    /// The last of them that were known (2+).
    pub last_known_elr: Option<Vec<i32>>,
}

/// Of no topic, without replicas, and every number unknown.
impl Default for Partition {
    fn default() -> Self {
        Self {
            partition_id: -1,
            topic_id: Uuid::nil(),
            replicas: Vec::new(),
            isr: Vec::new(),
            removing_replicas: Vec::new(),
            adding_replicas: Vec::new(),
            leader: -1,
            leader_recovery_state: LeaderRecoveryState::Recovered,
            leader_epoch: -1,
            partition_epoch: -1,
            directories: Vec::new(),
            eligible_leader_replicas: None,
            last_known_elr: None,
        }
    }
}

impl Partition {
    pub(super) fn read(c: &mut Cursor<'_>, version: u32) -> Result<Self, RecordError> {
        let mut this = Self {
            partition_id: c.i32()?,
            topic_id: c.uuid()?,
            replicas: c.array(4, Cursor::i32)?,
            isr: c.array(4, Cursor::i32)?,
            removing_replicas: c.array(4, Cursor::i32)?,
            adding_replicas: c.array(4, Cursor::i32)?,
            leader: c.i32()?,
            leader_epoch: c.i32()?,
            partition_epoch: c.i32()?,
            directories: if version >= 1 { uuids(c)? } else { Vec::new() },
            ..Self::default()
        };
        let mut recovery = 0;
        c.tags(|tag, c| {
            match tag {
                0 => recovery = c.i8()?,
                1 if version >= 2 => this.eligible_leader_replicas = nullable_i32s(c)?,
                2 if version >= 2 => this.last_known_elr = nullable_i32s(c)?,
                _ => (),
            }
            Ok(())
        })?;
        this.leader_recovery_state = LeaderRecoveryState::from_code(recovery)?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.partition_id);
        w.uuid(self.topic_id);
        w.i32_array(&self.replicas);
        w.i32_array(&self.isr);
        w.i32_array(&self.removing_replicas);
        w.i32_array(&self.adding_replicas);
        w.i32(self.leader);
        w.i32(self.leader_epoch);
        w.i32(self.partition_epoch);
        write_uuids(w, &self.directories);
        w.tags(|tags| {
            if self.leader_recovery_state != LeaderRecoveryState::Recovered {
                tags.field(0, |w| w.i8(self.leader_recovery_state.code()));
            }
            if let Some(replicas) = &self.eligible_leader_replicas {
                tags.field(1, |w| w.i32_array(replicas));
            }
            if let Some(replicas) = &self.last_known_elr {
                tags.field(2, |w| w.i32_array(replicas));
            }
        });
    }
}

/// Something about a partition changes; what is `None` stays as it was.
///
/// Any change adds 1 to the partition epoch. A `leader`, even the same one, adds 1 to the leader
/// epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionChange {
    /// Its number.
    pub partition_id: i32,
    /// Its topic.
    pub topic_id: Uuid,
    /// The replicas in sync.
    pub isr: Option<Vec<i32>>,
    /// The broker that leads it; -1: none does.
    pub leader: Option<i32>,
    /// The brokers that keep it, the preferred leader first.
    pub replicas: Option<Vec<i32>>,
    /// Those of them to be removed.
    pub removing_replicas: Option<Vec<i32>>,
    /// Those of them just added.
    pub adding_replicas: Option<Vec<i32>>,
    /// Whether the leader has all that was acknowledged.
    pub leader_recovery_state: Option<LeaderRecoveryState>,
    /// Replicas out of sync that may lead all the same.
    pub eligible_leader_replicas: Option<Vec<i32>>,
    /// The last of them that were known.
    pub last_known_elr: Option<Vec<i32>>,
    /// The log directory of each replica, in their order.
    pub directories: Option<Vec<Uuid>>,
}

/// "As before" in [`PartitionChange`]'s leader on the wire.
const LEADER_UNCHANGED: i32 = -2;
/// "As before" in [`PartitionChange`]'s recovery state on the wire.
const RECOVERY_UNCHANGED: i8 = -1;

impl PartitionChange {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, RecordError> {
        let mut this = Self { partition_id: c.i32()?, topic_id: c.uuid()?, ..Self::default() };
        let mut recovery = RECOVERY_UNCHANGED;
        c.tags(|tag, c| {
            match tag {
                0 => this.isr = nullable_i32s(c)?,
                1 => this.leader = Some(c.i32()?).filter(|leader| *leader != LEADER_UNCHANGED),
                2 => this.replicas = nullable_i32s(c)?,
                3 => this.removing_replicas = nullable_i32s(c)?,
                4 => this.adding_replicas = nullable_i32s(c)?,
                5 => recovery = c.i8()?,
                6 => this.eligible_leader_replicas = nullable_i32s(c)?,
                7 => this.last_known_elr = nullable_i32s(c)?,
                8 => this.directories = c.nullable_array(16, Cursor::uuid)?,
                _ => (),
            }
            Ok(())
        })?;
        if recovery != RECOVERY_UNCHANGED {
            this.leader_recovery_state = Some(LeaderRecoveryState::from_code(recovery)?);
        }
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.partition_id);
        w.uuid(self.topic_id);
        w.tags(|tags| {
            if let Some(replicas) = &self.isr {
                tags.field(0, |w| w.i32_array(replicas));
            }
            if let Some(leader) = self.leader {
                tags.field(1, |w| w.i32(leader));
            }
            if let Some(replicas) = &self.replicas {
                tags.field(2, |w| w.i32_array(replicas));
            }
            if let Some(replicas) = &self.removing_replicas {
                tags.field(3, |w| w.i32_array(replicas));
            }
            if let Some(replicas) = &self.adding_replicas {
                tags.field(4, |w| w.i32_array(replicas));
            }
            if let Some(state) = self.leader_recovery_state {
                tags.field(5, |w| w.i8(state.code()));
            }
            if let Some(replicas) = &self.eligible_leader_replicas {
                tags.field(6, |w| w.i32_array(replicas));
            }
            if let Some(replicas) = &self.last_known_elr {
                tags.field(7, |w| w.i32_array(replicas));
            }
            if let Some(directories) = &self.directories {
                tags.field(8, |w| write_uuids(w, directories));
            }
        });
    }
}

/// A configuration of a topic.
pub const CONFIG_TOPIC: i8 = 2;
/// A configuration of a broker, or with an empty name of all brokers.
pub const CONFIG_BROKER: i8 = 4;
/// A configuration of a subscription to clients' metrics.
pub const CONFIG_CLIENT_METRICS: i8 = 16;
/// A configuration of a consumer group.
pub const CONFIG_GROUP: i8 = 32;

/// A configuration value is set or deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What is configured: [`CONFIG_TOPIC`], ...
    pub resource_type: i8,
    /// Its name.
    pub resource_name: String,
    /// Kafka's name for the value.
    pub name: String,
    /// The value; `None` deletes it.
    pub value: Option<String>,
}

impl Config {
    pub(super) fn read(c: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            resource_type: c.i8()?,
            resource_name: c.string()?.to_owned(),
            name: c.string()?.to_owned(),
            value: c.nullable_string()?.map(str::to_owned),
        };
        c.end_struct()?;
        Ok(this)
    }

    pub(super) fn write(&self, w: &mut Writer<'_>) {
        w.i8(self.resource_type);
        w.string(&self.resource_name);
        w.string(&self.name);
        w.nullable_string(self.value.as_deref());
        w.end_struct();
    }
}

fn nullable_i32s(c: &mut Cursor<'_>) -> Result<Option<Vec<i32>>, DecodeError> {
    c.nullable_array(4, Cursor::i32)
}
