//! The owner of the cluster under the local control plane: the one that writes its log.
//!
//! It lives on core 0. Commands run one after another: each is checked against the image, its
//! records appended and made durable, folded, and sent to every core; then it is answered.
//!
//! **Invariant:** what a core has applied is durable, and in the order of the log.

use super::control::{ControlError, Created, Deleted, NewTopic, TopicError, TopicRef};
use super::image::Image;
use super::log::{self, Delta, LogError};
use super::names;
use crate::config::Settings;
use crate::num::i32_from;
use crate::repeats::repeated;
use kariz_engine::io::Io;
use kariz_engine::types::TopicId;
use kariz_engine::{Partition, Shard};
use kariz_protocol::ErrorCode;
use kariz_protocol::metadata_log::{self as records, CONFIG_TOPIC, Record};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use tokio::task::yield_now;
use uuid::Uuid;

/// Producer ids in a block. Source: Kafka's `ProducerIdsBlock.PRODUCER_ID_BLOCK_SIZE`.
const PRODUCER_ID_BLOCK: i64 = 1000;
/// Partitions of one topic. Source: Kafka's QuorumController takes 10,000 records at once.
const PARTITIONS_MAX: i32 = 10_000;
/// Topics of one request. Source: each is two records at least, of the 10,000.
pub(crate) const TOPICS_MAX: usize = 5_000;
/// "The cluster's default", for partitions and replication factor.
const BY_DEFAULT: i32 = -1;

/// Sends what is durable to every core; done when all have applied it.
pub(crate) type Publish = Box<dyn Fn(Arc<Delta>) -> Pin<Box<dyn Future<Output = ()>>>>;

/// The writer of the cluster's log.
pub(crate) struct Owner<I: Io> {
    shard: Shard<I>,
    log: Partition<I>,
    config: Arc<Settings>,
    image: RefCell<Image>,
    publish: Publish,
    /// Held by the command that runs.
    turn: tokio::sync::Mutex<()>,
}

impl<I: Io> Owner<I> {
    /// The owner of the cluster that `log` folds to.
    pub(crate) fn new(
        shard: Shard<I>,
        log: Partition<I>,
        config: Arc<Settings>,
        image: Image,
        publish: Publish,
    ) -> Self {
        let image = RefCell::new(image);
        Self { shard, log, config, image, publish, turn: tokio::sync::Mutex::new(()) }
    }

    /// Creates topics; see [`Control::create_topics`](super::control::Control::create_topics).
    pub(crate) async fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Result<Vec<Result<Created, TopicError>>, ControlError> {
        let _turn = self.turn.lock().await;
        let repeated = repeated(topics.iter().map(|topic| &*topic.name));
        // As Kafka: all or nothing of a request, so that one cannot fill the cluster.
        let asked = |topic: &NewTopic| match (topic.assignments.len(), topic.partitions) {
            (0, BY_DEFAULT) => self.config.num_partitions,
            (0, partitions) => partitions,
            (assigned, _) => i32_from(assigned),
        };
        let all: i64 = topics.iter().map(|topic| i64::from(asked(topic).max(0))).sum();
        let too_many = if topics.len() > TOPICS_MAX {
            Some(format!("{} topics in one request: it may have {TOPICS_MAX}", topics.len()))
        } else if topics.len() > 1 && all > i64::from(PARTITIONS_MAX) {
            Some(format!("{all} partitions in one request: it may have {PARTITIONS_MAX}"))
        } else {
            None
        };
        if let Some(why) = too_many {
            let error = TopicError::new(ErrorCode::PolicyViolation, why);
            return Ok(topics.iter().map(|_| Err(error.clone())).collect());
        }
        let mut placed = self.image.borrow().topics().map(|t| t.partitions().len()).sum();
        let (mut groups, mut results, mut planned) = (Vec::new(), Vec::new(), BTreeMap::new());
        for topic in &topics {
            if repeated.contains(&*topic.name) {
                results.push(Err(named_again()));
                continue;
            }
            let plan = self.plan(topic, placed, &planned);
            results.push(plan.map(|(created, group)| {
                placed += usize::try_from(created.partitions).unwrap_or(0);
                groups.push(group);
                planned.extend(names::in_metrics(&topic.name).map(|called| (called, &*topic.name)));
                created
            }));
            // A request may name thousands.
            yield_now().await;
        }
        if !validate_only && !groups.is_empty() {
            self.commit(groups).await?;
        }
        Ok(results)
    }

    /// Deletes topics; see [`Control::delete_topics`](super::control::Control::delete_topics).
    pub(crate) async fn delete_topics(
        &self,
        topics: Vec<TopicRef>,
    ) -> Result<Vec<Result<Deleted, TopicError>>, ControlError> {
        let _turn = self.turn.lock().await;
        let named = repeated(topics.iter());
        let find = |topic| {
            if named.contains(topic) { Err(named_again()) } else { self.find(topic) }
        };
        let mut deleted: Vec<Result<Deleted, TopicError>> = topics.iter().map(find).collect();
        // By its name and by its id.
        let found = repeated(deleted.iter().flatten().map(|found| found.id));
        for one in &mut deleted {
            if one.as_ref().is_ok_and(|one| found.contains(&one.id)) {
                *one = Err(named_again());
            }
        }
        let remove = |one: &Deleted| {
            let topic_id = Uuid::from_bytes(one.id.0);
            Record::RemoveTopic(records::RemoveTopic { topic_id })
        };
        let group: Vec<Record> = deleted.iter().flatten().map(remove).collect();
        if !group.is_empty() {
            self.commit(vec![group]).await?;
        }
        Ok(deleted)
    }

    /// Sets producer ids aside; see [`Control::producer_ids`](super::control::Control::producer_ids).
    pub(crate) async fn producer_ids(&self, broker_id: i32) -> Result<Range<i64>, ControlError> {
        let _turn = self.turn.lock().await;
        let (first, broker_epoch) = {
            let image = self.image.borrow();
            let epoch = image.broker(broker_id).map_or(-1, |broker| broker.epoch);
            (image.next_producer_id(), epoch)
        };
        let next_producer_id = first + PRODUCER_ID_BLOCK;
        let record = records::ProducerIds { broker_id, broker_epoch, next_producer_id };
        self.commit(vec![vec![Record::ProducerIds(record)]]).await?;
        Ok(first..next_producer_id)
    }

    /// Makes `groups` durable, one batch each, and has every core apply them. If that fails, what is
    /// durable all the same is applied: the next start will find it.
    async fn commit(&self, groups: Vec<Vec<Record>>) -> Result<(), ControlError> {
        let failed = |error: LogError| ControlError::Log(error.to_string());
        let (delta, done) = log::append(&self.log, self.shard.io(), groups).await;
        delta.apply(&mut self.image.borrow_mut()).map_err(failed)?;
        if !delta.batches.is_empty() {
            (self.publish)(Arc::new(delta)).await;
        }
        done.map_err(failed)
    }

    fn find(&self, topic: &TopicRef) -> Result<Deleted, TopicError> {
        if !self.config.delete_topics {
            let why = "delete.topic.enable is false";
            return Err(TopicError::new(ErrorCode::TopicDeletionDisabled, why));
        }
        let image = self.image.borrow();
        let (found, code) = match topic {
            TopicRef::Name(name) => (image.topic(name), ErrorCode::UnknownTopicOrPartition),
            TopicRef::Id(id) => (image.topic_by_id(*id), ErrorCode::UnknownTopicId),
        };
        let found = found.ok_or_else(|| TopicError::new(code, "there is no such topic"))?;
        Ok(Deleted { name: found.name.to_string(), id: found.id })
    }

    /// Checks a topic, and says what it will be and the records that make it. `placed` partitions
    /// exist before it, and the topics `planned`, by what metrics call them, are made with it.
    fn plan(
        &self,
        topic: &NewTopic,
        placed: usize,
        planned: &BTreeMap<String, &str>,
    ) -> Result<(Created, Vec<Record>), TopicError> {
        let error = |code, why: String| Err(TopicError::new(code, why));
        if let Err(why) = names::check(&topic.name) {
            return error(ErrorCode::InvalidTopicException, why.to_string());
        }
        let image = self.image.borrow();
        if image.topic(&topic.name).is_some() {
            let why = format!("topic `{}` exists already", topic.name);
            return error(ErrorCode::TopicAlreadyExists, why);
        }
        let other = names::in_metrics(&topic.name).and_then(|called| {
            planned.get(&called).copied().or_else(|| image.topic_in_metrics(called))
        });
        if let Some(other) = other {
            let why =
                format!("topic `{}` collides with `{other}`: metrics name both alike", topic.name);
            return error(ErrorCode::InvalidTopicException, why);
        }
        let leaders = self.place(&image, topic, placed)?;
        let configs = self.check_configs(topic)?;
        let id = self.new_topic_id(&image);
        let topic_id = Uuid::from_bytes(id.0);
        let name = topic.name.clone();
        let mut group = vec![Record::Topic(records::Topic { name: name.clone(), topic_id })];
        group.extend(configs.iter().map(|(key, value)| {
            Record::Config(records::Config {
                resource_type: CONFIG_TOPIC,
                resource_name: name.clone(),
                name: key.clone(),
                value: Some(value.clone()),
            })
        }));
        group.extend((0..).zip(&leaders).map(|(partition_id, leader)| {
            Record::Partition(records::Partition {
                partition_id,
                topic_id,
                replicas: vec![*leader],
                isr: vec![*leader],
                leader: *leader,
                leader_epoch: 0,
                partition_epoch: 0,
                directories: image.broker(*leader).map_or_else(Vec::new, |b| b.log_dirs.clone()),
                ..records::Partition::default()
            })
        }));
        let partitions = i32_from(leaders.len());
        Ok((Created { id, partitions, replication_factor: 1, configs }, group))
    }

    /// Who leads each partition of a new topic.
    fn place(
        &self,
        image: &Image,
        topic: &NewTopic,
        placed: usize,
    ) -> Result<Vec<i32>, TopicError> {
        let error = |code, why: &str| Err(TopicError::new(code, why));
        if !topic.assignments.is_empty() {
            let both =
                topic.partitions != BY_DEFAULT || i32::from(topic.replication_factor) != BY_DEFAULT;
            if both {
                let why = "give either assignments, or partitions and replication factor";
                return error(ErrorCode::InvalidRequest, why);
            }
            return assigned(image, topic);
        }
        let partitions = match topic.partitions {
            BY_DEFAULT => self.config.num_partitions,
            n if n < 1 => {
                let why = "a topic has at least one partition (-1: num.partitions)";
                return error(ErrorCode::InvalidPartitions, why);
            }
            n if n > PARTITIONS_MAX => {
                let why = format!("a topic has at most {PARTITIONS_MAX} partitions");
                return error(ErrorCode::PolicyViolation, &why);
            }
            n => n,
        };
        match i32::from(topic.replication_factor) {
            BY_DEFAULT | 1 => (),
            n if n < 1 => {
                let why = "the replication factor is at least 1 (-1: the cluster's default)";
                return error(ErrorCode::InvalidReplicationFactor, why);
            }
            _ if self.config.replication_factor_strict => {
                let why = "all brokers here share one machine, so a topic has one replica \
                           (replication.factor.strict=true refuses to pretend)";
                return error(ErrorCode::InvalidReplicationFactor, why);
            }
            asked => {
                let name = &*topic.name;
                tracing::info!(topic = name, asked, "one failure domain: replication factor is 1");
            }
        }
        let brokers: Vec<i32> = image.brokers().map(|(id, _)| id).collect();
        let partitions = usize::try_from(partitions).unwrap_or(0);
        // Round-robin over the cores, from where the last topic ended.
        let start = placed.checked_rem(brokers.len()).unwrap_or(0);
        Ok(brokers.into_iter().cycle().skip(start).take(partitions).collect())
    }

    /// What is set for the topic.
    fn check_configs(&self, topic: &NewTopic) -> Result<BTreeMap<String, String>, TopicError> {
        let error = |why: String| TopicError::new(ErrorCode::InvalidConfig, why);
        // As Kafka: of what is named twice, what was said last.
        let mut values = BTreeMap::new();
        for (key, value) in &topic.configs {
            let value = value.clone().ok_or_else(|| error(format!("`{key}` has no value")))?;
            values.insert(key.clone(), value);
        }
        let set = values.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        self.config.log_config(set).map_err(|e| error(e.to_string()))?;
        Ok(values)
    }

    fn new_topic_id(&self, image: &Image) -> TopicId {
        loop {
            let (high, low) = (self.shard.io().random(), self.shard.io().random());
            let bits = u128::from(high) << 64 | u128::from(low);
            let id = TopicId(
                uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().into_bytes(),
            );
            // As Kafka: an id that begins with a dash confuses command lines.
            if !id.to_string().starts_with('-') && image.topic_by_id(id).is_none() {
                return id;
            }
        }
    }
}

/// The error of each topic that a request names again: as Kafka, nothing is done to it at all.
fn named_again() -> TopicError {
    TopicError::new(ErrorCode::InvalidRequest, "the topic is named more than once")
}

/// The leaders that the client chose: the first of each list, for there is one replica.
fn assigned(image: &Image, topic: &NewTopic) -> Result<Vec<i32>, TopicError> {
    let error = |why: String| TopicError::new(ErrorCode::InvalidReplicaAssignment, why);
    let mut sorted: Vec<_> = topic.assignments.iter().collect();
    sorted.sort_by_key(|(partition, _)| *partition);
    if sorted.len() > usize::try_from(PARTITIONS_MAX).unwrap_or(0) {
        let why = format!("a topic has at most {PARTITIONS_MAX} partitions");
        return Err(TopicError::new(ErrorCode::PolicyViolation, why));
    }
    let mut leaders = Vec::with_capacity(sorted.len());
    for (expected, (partition, brokers)) in (0..).zip(sorted) {
        if *partition != expected {
            return Err(error(format!("partition {partition} where {expected} comes next")));
        }
        let mut unique = brokers.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != brokers.len() {
            return Err(error(format!("partition {partition} names a broker twice")));
        }
        if let Some(unknown) = brokers.iter().find(|id| image.broker(**id).is_none()) {
            return Err(error(format!(
                "partition {partition} names broker {unknown}: there is none"
            )));
        }
        let leader = brokers.first().copied();
        leaders
            .push(leader.ok_or_else(|| error(format!("partition {partition} names no broker")))?);
    }
    Ok(leaders)
}
