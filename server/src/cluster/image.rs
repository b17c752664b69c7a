//! The image: what the cluster is, as a fold of the records of `__cluster_metadata`.
//!
//! `image = records.fold(empty, apply)`: no I/O, no clock. The same records give the same image on
//! every core, whoever wrote them.
//!
//! A record that is not understood stops the fold, on purpose: to skip it would be to serve a
//! cluster that is not the one its owner means.

use super::names;
use kariz_engine::types::TopicId;
use kariz_protocol::metadata_log::{CONFIG_TOPIC, PartitionChange, Record};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// Why a record cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FoldError {
    #[error("a record names topic {0}, which does not exist")]
    UnknownTopic(TopicId),
    #[error("a record names partition {partition} of `{topic}`, which does not exist")]
    UnknownPartition { topic: Arc<str>, partition: i32 },
    #[error("partition {partition} of `{topic}` is out of order: {expected} comes next")]
    PartitionOrder { topic: Arc<str>, partition: i32, expected: usize },
}

/// The cluster at one offset of its log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    /// The first offset that is not yet in the image.
    end: i64,
    topics: BTreeMap<Arc<str>, TopicImage>,
    names: FxHashMap<TopicId, Arc<str>>,
    /// What metrics call topics, where another could be called so, and their names. Kafka's older
    /// versions let two be called alike.
    in_metrics: BTreeSet<(String, Arc<str>)>,
    /// By resource type and name, then key.
    configs: BTreeMap<(i8, String), BTreeMap<String, String>>,
    brokers: BTreeMap<i32, BrokerImage>,
    features: BTreeMap<String, i16>,
    next_producer_id: i64,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicImage {
    pub(crate) name: Arc<str>,
    pub(crate) id: TopicId,
    partitions: Vec<PartitionImage>,
}

impl TopicImage {
    /// Its partitions, by number.
    pub(crate) fn partitions(&self) -> impl ExactSizeIterator<Item = (i32, &PartitionImage)> {
        self.partitions.iter().enumerate().map(|(i, p)| (crate::num::i32_from(i), p))
    }

    /// Partition `index`, if there is one.
    pub(crate) fn partition(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }
}

/// A partition: who leads it, in which term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionImage {
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    /// -1: nobody.
    pub(crate) leader: i32,
    pub(crate) leader_epoch: i32,
    pub(crate) partition_epoch: i32,
    /// The log directory of each replica, in their order; none if it was made before they were
    /// noted.
    pub(crate) directories: Vec<Uuid>,
}

/// A broker, and where clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BrokerImage {
    pub(crate) epoch: i64,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) rack: Option<String>,
    pub(crate) log_dirs: Vec<Uuid>,
}

impl Image {
    /// The last offset of the log that is in the image, -1 if none is.
    pub(crate) fn offset(&self) -> i64 {
        self.end - 1
    }

    /// Whether no log was folded: a cluster that does not exist yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.features.is_empty()
    }

    /// The topics, by name.
    pub(crate) fn topics(&self) -> impl ExactSizeIterator<Item = &TopicImage> {
        self.topics.values()
    }

    /// The topic called `name`.
    pub(crate) fn topic(&self, name: &str) -> Option<&TopicImage> {
        self.topics.get(name)
    }

    /// The topic with this id.
    pub(crate) fn topic_by_id(&self, id: TopicId) -> Option<&TopicImage> {
        self.topic(self.names.get(&id)?)
    }

    /// A topic that metrics call `name`, a name from [`names::in_metrics`].
    pub(crate) fn topic_in_metrics(&self, name: String) -> Option<&str> {
        // Before all names that are called so.
        let first = (name, Arc::from(""));
        let (name, topic) = self.in_metrics.range(&first..).next()?;
        (*name == first.0).then_some(&**topic)
    }

    /// The brokers, by id.
    pub(crate) fn brokers(&self) -> impl ExactSizeIterator<Item = (i32, &BrokerImage)> {
        self.brokers.iter().map(|(id, broker)| (*id, broker))
    }

    /// The broker `id`.
    pub(crate) fn broker(&self, id: i32) -> Option<&BrokerImage> {
        self.brokers.get(&id)
    }

    /// Whom clients should send changes to: any broker will do, so the first.
    pub(crate) fn controller_id(&self) -> i32 {
        self.brokers.keys().next().copied().unwrap_or(-1)
    }

    /// Finalized features and their levels.
    pub(crate) fn features(&self) -> impl Iterator<Item = (&str, i16)> {
        self.features.iter().map(|(name, level)| (name.as_str(), *level))
    }

    /// What is set for the topic called `name`.
    pub(crate) fn topic_configs(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let set = self.configs.get(&(CONFIG_TOPIC, name.to_owned()));
        set.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The first producer id that is in no block.
    pub(crate) fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Applies the records of one batch, which ends before offset `end`.
    ///
    /// # Errors
    /// [`FoldError`]; the records before the one at fault have been applied.
    pub(crate) fn apply(&mut self, records: &[Record], end: i64) -> Result<(), FoldError> {
        for record in records {
            self.apply_one(record)?;
        }
        self.end = end;
        Ok(())
    }

    /// Moves past what holds no records for the image.
    pub(crate) fn skip_to(&mut self, end: i64) {
        self.end = end;
    }

    fn apply_one(&mut self, record: &Record) -> Result<(), FoldError> {
        match record {
            Record::FeatureLevel(r) => {
                // KAFKA-18979: kraft.version is not a feature of the image.
                if r.name != "kraft.version" {
                    match r.level {
                        0 => drop(self.features.remove(&r.name)),
                        level => drop(self.features.insert(r.name.clone(), level)),
                    }
                }
            }
            Record::RegisterBroker(r) => {
                let at = r.endpoints.first();
                let broker = BrokerImage {
                    epoch: r.broker_epoch,
                    host: at.map(|at| at.host.clone()).unwrap_or_default(),
                    port: at.map_or(0, |at| at.port),
                    rack: r.rack.clone(),
                    log_dirs: r.log_dirs.clone(),
                };
                self.brokers.insert(r.broker_id, broker);
            }
            Record::UnregisterBroker(r) => drop(self.brokers.remove(&r.broker_id)),
            Record::Topic(r) => {
                let (name, id) =
                    (Arc::<str>::from(r.name.as_str()), TopicId(r.topic_id.into_bytes()));
                self.names.insert(id, Arc::clone(&name));
                let in_metrics = names::in_metrics(&name);
                self.in_metrics.extend(in_metrics.map(|called| (called, Arc::clone(&name))));
                let topic = TopicImage { name: Arc::clone(&name), id, partitions: Vec::new() };
                self.topics.insert(name, topic);
            }
            Record::RemoveTopic(r) => {
                let id = TopicId(r.topic_id.into_bytes());
                let name = self.names.remove(&id).ok_or(FoldError::UnknownTopic(id))?;
                self.topics.remove(&name);
                self.configs.remove(&(CONFIG_TOPIC, name.to_string()));
                if let Some(called) = names::in_metrics(&name) {
                    self.in_metrics.remove(&(called, name));
                }
            }
            Record::Partition(r) => {
                let topic = self.topic_mut(TopicId(r.topic_id.into_bytes()))?;
                let expected = topic.partitions.len();
                if usize::try_from(r.partition_id) != Ok(expected) {
                    let (topic, partition) = (Arc::clone(&topic.name), r.partition_id);
                    return Err(FoldError::PartitionOrder { topic, partition, expected });
                }
                topic.partitions.push(PartitionImage {
                    replicas: r.replicas.clone(),
                    isr: r.isr.clone(),
                    leader: r.leader,
                    leader_epoch: r.leader_epoch,
                    partition_epoch: r.partition_epoch,
                    directories: r.directories.clone(),
                });
            }
            Record::PartitionChange(r) => {
                let topic = self.topic_mut(TopicId(r.topic_id.into_bytes()))?;
                let name = Arc::clone(&topic.name);
                let partition = usize::try_from(r.partition_id)
                    .ok()
                    .and_then(|index| topic.partitions.get_mut(index))
                    .ok_or(FoldError::UnknownPartition {
                        topic: name,
                        partition: r.partition_id,
                    })?;
                partition.change(r);
            }
            Record::Config(r) => {
                let of = (r.resource_type, r.resource_name.clone());
                match &r.value {
                    Some(value) => {
                        let configs = self.configs.entry(of).or_default();
                        configs.insert(r.name.clone(), value.clone());
                    }
                    None => {
                        if let Some(configs) = self.configs.get_mut(&of) {
                            configs.remove(&r.name);
                        }
                    }
                }
            }
            Record::ProducerIds(r) => self.next_producer_id = r.next_producer_id,
            // Fencing of brokers: nothing here looks at it yet.
            Record::BrokerRegistrationChange(_) | Record::NoOp => (),
        }
        Ok(())
    }

    fn topic_mut(&mut self, id: TopicId) -> Result<&mut TopicImage, FoldError> {
        let name = self.names.get(&id).ok_or(FoldError::UnknownTopic(id))?;
        self.topics.get_mut(name).ok_or(FoldError::UnknownTopic(id))
    }
}

impl PartitionImage {
    /// As Kafka's `PartitionRegistration.merge`: what is absent stays; a leader, even the same,
    /// begins a new term; any change begins a new partition epoch.
    fn change(&mut self, r: &PartitionChange) {
        if let Some(isr) = &r.isr {
            self.isr.clone_from(isr);
        }
        if let Some(replicas) = &r.replicas {
            self.replicas.clone_from(replicas);
        }
        if let Some(directories) = &r.directories {
            self.directories.clone_from(directories);
        }
        if let Some(leader) = r.leader {
            self.leader = leader;
            self.leader_epoch += 1;
        }
        self.partition_epoch += 1;
    }
}

#[cfg(test)]
mod tests;
