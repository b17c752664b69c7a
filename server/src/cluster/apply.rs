//! What a core does with records that have become durable: folds them, makes and deletes its
//! partitions, and opens the routes to them.

use super::image::{PartitionImage, TopicImage};
use super::log::{Delta, LogError};
use crate::core::Core;
use crate::join::join_all;
use crate::routes::{Place, Topic};
use kariz_engine::CreateError;
use kariz_engine::io::Io;
use kariz_engine::types::{LeaderEpoch, TopicId, TopicPartition};
use kariz_protocol::metadata_log::Record;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Mutex;
use uuid::Uuid;

/// Partitions that are made at once: each waits for the disk, none for another.
const AT_ONCE: usize = 64;

/// Partitions that the disk did not let a core make: once it has room they must not wait for a
/// restart, for their topic is there.
#[derive(Default)]
pub(crate) struct Unmade {
    partitions: RefCell<BTreeSet<(TopicId, i32)>>,
    /// Tried last.
    last: Cell<(TopicId, i32)>,
    /// Held by who makes partitions: two would be in each other's way.
    making: Mutex<()>,
}

impl Unmade {
    /// The one behind that which was asked for last, or the first.
    fn next(&self) -> Option<(TopicId, i32)> {
        let partitions = self.partitions.borrow();
        let mut behind = partitions.range((Excluded(self.last.get()), Unbounded));
        let next = behind.next().or(partitions.first()).copied()?;
        self.last.set(next);
        Some(next)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.borrow().is_empty()
    }

    fn forget(&self, topic: TopicId) {
        self.partitions.borrow_mut().retain(|(of, _)| *of != topic);
    }
}

impl<I: Io> Core<I> {
    /// Applies `delta`; done when every request sees it.
    pub(crate) async fn apply(self: &Rc<Self>, delta: &Delta) -> Result<(), LogError> {
        let _making = self.unmade.making.lock().await;
        let (mut removed, mut changed) = (Vec::new(), BTreeSet::new());
        for record in delta.records() {
            let topic_id = match record {
                Record::RemoveTopic(r) => {
                    removed.push(TopicId(r.topic_id.into_bytes()));
                    continue;
                }
                Record::Topic(r) => r.topic_id,
                Record::Partition(r) => r.topic_id,
                Record::PartitionChange(r) => r.topic_id,
                _ => continue,
            };
            changed.insert(TopicId(topic_id.into_bytes()));
        }
        let removed: Vec<Arc<str>> = {
            let image = self.image.borrow();
            removed
                .iter()
                .filter_map(|id| Some(Arc::clone(&image.topic_by_id(*id)?.name)))
                .collect()
        };
        // Closed before they go: nobody may append to what is about to be deleted.
        let closed: Vec<_> = removed.iter().filter_map(|name| self.routes.remove(name)).collect();
        delta.apply(&mut self.image.borrow_mut())?;
        let doomed: Vec<TopicPartition> = closed
            .iter()
            .flat_map(|topic| {
                let indexes = (0..).zip(&topic.places);
                // Of those elsewhere this core may know that they were here once.
                indexes.map(|(index, _)| TopicPartition::new(Arc::clone(&topic.name), index))
            })
            .collect();
        for some in doomed.chunks(AT_ONCE) {
            join_all(some.iter().map(|name| self.delete(name))).await;
        }
        for id in changed {
            let topic = self.image.borrow().topic_by_id(id).cloned();
            if let Some(topic) = topic {
                self.open(&topic).await;
            }
        }
        Ok(())
    }

    /// Makes or finds this core's partitions of every topic in the image. For the start.
    pub(crate) async fn open_all(self: &Rc<Self>) {
        let topics: Vec<TopicImage> = self.image.borrow().topics().cloned().collect();
        for some in topics.chunks(AT_ONCE) {
            join_all(some.iter().map(|topic| self.open(topic))).await;
        }
    }

    /// Tries again to make what could not be made, until the disk refuses one.
    pub(crate) async fn make_unmade(self: &Rc<Self>) {
        // Each time from the next one on: one that is refused for good is in nobody's way.
        while let Some((id, index)) = self.unmade.next() {
            let _making = self.unmade.making.lock().await;
            let topic = self.image.borrow().topic_by_id(id).cloned();
            let Some((topic, partition)) =
                topic.as_ref().and_then(|t| Some((t, t.partition(index)?)))
            else {
                self.unmade.forget(id);
                continue;
            };
            if !matches!(self.place(topic, index, partition).await, Place::Here(_)) {
                return;
            }
            self.open(topic).await;
        }
    }

    /// Makes or finds this core's partitions of `topic`, and opens the route to it.
    async fn open(&self, topic: &TopicImage) {
        let partitions: Vec<_> = topic.partitions().collect();
        let mut places = Vec::with_capacity(partitions.len());
        for some in partitions.chunks(AT_ONCE) {
            let opening =
                some.iter().map(|(index, partition)| self.place(topic, *index, partition));
            places.extend(join_all(opening).await);
        }
        self.routes.insert(Topic::new(Arc::clone(&topic.name), places));
    }

    async fn place(&self, topic: &TopicImage, index: i32, image: &PartitionImage) -> Place<I> {
        if image.leader != self.broker_id {
            return Place::Elsewhere;
        }
        let name = TopicPartition::new(Arc::clone(&topic.name), index);
        let epoch = LeaderEpoch(image.leader_epoch);
        let configs = self.config.log_config(self.image.borrow().topic_configs(&topic.name));
        let config = match configs {
            Ok(config) => config,
            Err(error) => {
                tracing::error!(partition = %name, %error, "its configs are not valid");
                return Place::Offline;
            }
        };
        if let Ok(partition) = self.shard.partition(&name) {
            if partition.topic_id() == topic.id {
                partition.configure(config);
                partition.lead(epoch);
                self.unmade.partitions.borrow_mut().remove(&(topic.id, index));
                return Place::Here(partition);
            }
            // Left over from a topic of the same name that was deleted; or its metadata is damaged,
            // and these are the records.
            match self.shard.set_aside(&name).await {
                Ok(aside) => tracing::error!(
                    partition = %name, id = %partition.topic_id(), expected = %topic.id,
                    aside = %aside.unwrap_or_default().display(),
                    "of another topic of that name: set aside"
                ),
                Err(error) => {
                    tracing::error!(partition = %name, %error, "could not be set aside");
                    return Place::Offline;
                }
            }
        }
        if let Some(lost) = self.lost_directory(image) {
            let here = Uuid::from_bytes(self.shard.directory_id().0);
            tracing::error!(
                partition = %name, directory = %lost, %here,
                "its log directory is not there: put it back, or delete the topic"
            );
            return Place::Offline;
        }
        match self.shard.create_as(&name, topic.id, epoch, config).await {
            Ok(partition) => {
                if self.unmade.partitions.borrow_mut().remove(&(topic.id, index)) {
                    tracing::info!(partition = %name, "created, later than its topic");
                }
                Place::Here(partition)
            }
            Err(error) => {
                let mut unmade = self.unmade.partitions.borrow_mut();
                let is_told = match error {
                    CreateError::Io { .. } => !unmade.insert((topic.id, index)),
                    // That does not pass.
                    _ => {
                        unmade.remove(&(topic.id, index));
                        false
                    }
                };
                // Of what is tried again every second it is told once.
                if !is_told {
                    tracing::error!(partition = %name, %error, "could not be created");
                }
                Place::Offline
            }
        }
    }

    /// The log directory that the partition was put in, if it is not this core's.
    fn lost_directory(&self, image: &PartitionImage) -> Option<Uuid> {
        let here = Uuid::from_bytes(self.shard.directory_id().0);
        image.directories.first().copied().filter(|directory| *directory != here)
    }

    async fn delete(&self, name: &TopicPartition) {
        if let Err(error) = self.shard.delete(name).await {
            tracing::error!(partition = %name, %error, "its files could not be removed");
        }
    }
}
