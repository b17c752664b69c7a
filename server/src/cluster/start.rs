//! From the stored log to a cluster that serves: what happens between opening the engine and the
//! first connection.
//!
//! 1. Every core listens, so that the ports are known.
//! 2. Core 0 folds the log, or begins one.
//! 3. The image is brought in line with the machine: brokers are registered, partitions that were
//!    found on another core change leaders, and after a crash every leader epoch is bumped, durable
//!    before the first append.
//! 4. Every core makes or finds its partitions and opens its routes.

use super::image::Image;
use super::local::{self, Local, OWNER, node};
use super::log::{self, LogError};
use super::owner::Owner;
use crate::config::Settings;
use crate::core::Core;
use crate::join::join_all;
use crate::num::i64_from;
use kariz_engine::io::{Io, Listener};
use kariz_engine::types::{LeaderEpoch, ShardId, TopicPartition};
use kariz_engine::{Engine, Handle, Mark, Partition, Shard};
use kariz_protocol::metadata_log::{self as records, Record};
use rustc_hash::FxHashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use uuid::Uuid;

/// The level of metadata.version that a new cluster is written at. Source: Kafka's "4.0".
const METADATA_VERSION: i16 = 25;
/// Records in one batch. Source: Kafka's QuorumController takes 10,000 at once.
const RECORDS_MAX: usize = 10_000;
/// The term of a new log. Source: KRaft's first election.
const FIRST_TERM: i32 = 1;

/// Why the cluster cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("cannot listen on {at}: {error}")]
    Listen { at: SocketAddr, error: io::Error },
    #[error("core {core} would listen on port {base} + {core}, which is no port")]
    Port { base: u16, core: u16 },
    /// A text, for the error itself may not leave its core.
    #[error("__cluster_metadata: {0}")]
    Log(String),
    #[error("a core stopped while the server started")]
    Closed,
}

/// What a core found when the engine opened.
pub(crate) struct CoreFacts {
    directory_id: Uuid,
    partitions: Vec<TopicPartition>,
}

/// What the brokers are called, and where clients reach them.
#[derive(Clone)]
pub(crate) struct Brokers {
    pub(crate) node_id: i32,
    pub(crate) host: String,
    pub(crate) rack: Option<String>,
    /// By core.
    pub(crate) ports: Vec<u16>,
}

impl CoreFacts {
    /// What `shard` found.
    pub(crate) fn of<I: Io>(shard: &Shard<I>) -> Self {
        Self {
            directory_id: Uuid::from_bytes(shard.directory_id().0),
            partitions: shard.partitions().iter().map(|p| p.name().clone()).collect(),
        }
    }
}

impl Brokers {
    /// The broker id of a core.
    fn id(&self, core: u16) -> i32 {
        self.node_id << 8 | i32::from(core)
    }

    fn ids(&self) -> impl Iterator<Item = i32> {
        (0_u16..).zip(&self.ports).map(|(core, _)| self.id(core))
    }
}

/// Listens on every core: core `i` on `base`'s port + i, or on free ones if that is 0.
pub(crate) async fn listen(
    handle: &Handle,
    base: SocketAddr,
) -> Result<Vec<SocketAddr>, ClusterError> {
    let mut bound = Vec::new();
    for core in 0..handle.shards() {
        let port = match base.port() {
            0 => 0,
            port => port.checked_add(core).ok_or(ClusterError::Port { base: port, core })?,
        };
        let at = SocketAddr::new(base.ip(), port);
        let listening = handle.on(ShardId(core), move |shard| async move {
            let listener = shard.io().listen(at)?;
            let bound = listener.local_addr()?;
            node(|node| node.listener = Some(listener));
            Ok(bound)
        });
        let listening = listening.await.map_err(|_| ClusterError::Closed)?;
        bound.push(listening.map_err(|error| ClusterError::Listen { at, error })?);
    }
    Ok(bound)
}

/// Brings the cluster up on all cores; they only have to accept then.
pub(crate) async fn start(
    engine: &Engine,
    config: &Arc<Settings>,
    brokers: Brokers,
) -> Result<(), ClusterError> {
    let handle = engine.handle();
    let facts = gather(&handle).await?;
    let was_clean = engine.recovery().was_clean();
    let (settings, of, to) = (Arc::clone(config), brokers.clone(), handle.clone());
    let image = handle
        .on(OWNER, move |shard| async move {
            let owned = own(&shard, &settings, &of, facts, was_clean).await;
            let (log, image) = owned.map_err(|error| ClusterError::Log(error.to_string()))?;
            let owner = Owner::new(shard, log, settings, image.clone(), local::publish(to));
            node(|node| node.owner = Some(std::rc::Rc::new(owner)));
            Ok::<_, ClusterError>(image)
        })
        .await
        .map_err(|_| ClusterError::Closed)??;
    let cluster_id: Arc<str> = engine.cluster_id().into();
    let opening = (0..handle.shards()).map(|core| {
        let (control, image) = (Local::new(handle.clone()), image.clone());
        let (config, cluster_id) = (Arc::clone(config), Arc::clone(&cluster_id));
        let broker_id = brokers.id(core);
        handle.on(ShardId(core), move |shard| async move {
            let core = Core::new(shard, broker_id, cluster_id, config, image, Box::new(control));
            node(|node| node.core = Some(std::rc::Rc::clone(&core)));
            core.open_all().await;
            core.warn_of_strays();
        })
    });
    let opened = join_all(opening).await;
    opened.into_iter().collect::<Result<(), _>>().map_err(|_| ClusterError::Closed)
}

async fn gather(handle: &Handle) -> Result<Vec<CoreFacts>, ClusterError> {
    let asking = (0..handle.shards())
        .map(|core| handle.on(ShardId(core), |shard| async move { CoreFacts::of(&shard) }));
    let facts: Result<Vec<_>, _> = join_all(asking).await.into_iter().collect();
    facts.map_err(|_| ClusterError::Closed)
}

/// Opens the log, folds it, begins a term and brings the image in line with the machine.
pub(crate) async fn own<I: Io>(
    shard: &Shard<I>,
    config: &Settings,
    brokers: &Brokers,
    facts: Vec<CoreFacts>,
    was_clean: bool,
) -> Result<(Partition<I>, Image), LogError> {
    let name = log::partition_name();
    let log = match shard.partition(&name) {
        Ok(log) => log,
        Err(_) => {
            let epoch = LeaderEpoch(0);
            shard.create_as(&name, log::ID, epoch, config.metadata_log()).await?
        }
    };
    log.configure(config.metadata_log());
    let (mut image, term) = log::fold(&log).await?;
    let term = LeaderEpoch(term.map_or(FIRST_TERM, |term| term.0 + 1));
    let began = log::begin_term(&log, shard.io(), term, brokers.id(0))?;
    let mut groups = Vec::new();
    if image.is_empty() {
        let name = "metadata.version".to_owned();
        let level = records::FeatureLevel { name, level: METADATA_VERSION };
        groups.push(vec![Record::FeatureLevel(level)]);
    }
    // What stands before it is one record a group.
    let next = began.end.plus(i64_from(groups.len()));
    groups.push(register(&image, brokers, &facts, shard.io(), next.0));
    let changes = changes(&image, brokers, &facts, was_clean);
    groups.extend(changes.chunks(RECORDS_MAX).map(<[Record]>::to_vec));
    let (delta, done) = log::append(&log, shard.io(), groups).await;
    done?;
    log.reach(Mark::High, &began).await.map_err(LogError::from)?;
    delta.apply(&mut image)?;
    Ok((log, image))
}

/// The records that make the brokers those of this start; the first lies at offset `next`.
fn register<I: Io>(
    image: &Image,
    brokers: &Brokers,
    facts: &[CoreFacts],
    io: &I,
    next: i64,
) -> Vec<Record> {
    let mut group = Vec::new();
    for ((core, port), facts) in (0_u16..).zip(&brokers.ports).zip(facts) {
        let bits = u128::from(io.random()) << 64 | u128::from(io.random());
        group.push(Record::RegisterBroker(records::RegisterBroker {
            broker_id: brokers.id(core),
            incarnation_id: Uuid::from_u128(bits),
            broker_epoch: next + i64::from(core),
            endpoints: vec![records::BrokerEndpoint {
                name: "PLAINTEXT".to_owned(),
                host: brokers.host.clone(),
                port: *port,
                security_protocol: 0,
            }],
            rack: brokers.rack.clone(),
            is_fenced: false,
            log_dirs: vec![facts.directory_id],
            ..records::RegisterBroker::default()
        }));
    }
    let ours: Vec<i32> = brokers.ids().collect();
    for (broker_id, broker) in image.brokers().filter(|(id, _)| !ours.contains(id)) {
        let broker_epoch = broker.epoch;
        group.push(Record::UnregisterBroker(records::UnregisterBroker { broker_id, broker_epoch }));
    }
    group
}

/// The changes that the image needs: where a partition lies on another core, or in another log
/// directory, than it says; and after a crash a new term everywhere. One that lies nowhere keeps
/// the directory that it was in: it is lost, or was never made.
fn changes(image: &Image, brokers: &Brokers, facts: &[CoreFacts], was_clean: bool) -> Vec<Record> {
    let mut found: FxHashMap<&TopicPartition, (i32, Uuid)> = FxHashMap::default();
    for (core, facts) in (0_u16..).zip(facts) {
        let at = (brokers.id(core), facts.directory_id);
        found.extend(facts.partitions.iter().map(|name| (name, at)));
    }
    let ours: Vec<i32> = brokers.ids().collect();
    // Partitions that are nowhere go where there is room, in turn.
    let mut next = ours.iter().cycle();
    let mut changes = Vec::new();
    for topic in image.topics() {
        for (partition_id, partition) in topic.partitions() {
            let name = TopicPartition::new(Arc::clone(&topic.name), partition_id);
            let found = found.get(&name);
            let leader = match found {
                Some((leader, _)) => *leader,
                None if ours.contains(&partition.leader) => partition.leader,
                None => next.next().copied().unwrap_or(partition.leader),
            };
            let moved = leader != partition.leader;
            let directories = found.map(|(_, directory)| vec![*directory]);
            let directories = directories.filter(|now| *now != partition.directories);
            if moved || directories.is_some() || !was_clean {
                changes.push(Record::PartitionChange(records::PartitionChange {
                    partition_id,
                    topic_id: Uuid::from_bytes(topic.id.0),
                    leader: (moved || !was_clean).then_some(leader),
                    replicas: moved.then(|| vec![leader]),
                    isr: moved.then(|| vec![leader]),
                    directories,
                    ..records::PartitionChange::default()
                }));
            }
        }
    }
    changes
}

impl<I: Io> Core<I> {
    /// Names the partitions on this core that the image does not know. They are left alone: only
    /// the log says what may be deleted.
    fn warn_of_strays(&self) {
        let image = self.image.borrow();
        for partition in self.shard.partitions() {
            let name = partition.name();
            let known = image.topic(&name.topic).and_then(|topic| topic.partition(name.partition));
            if &*name.topic != log::NAME && known.is_none_or(|p| p.leader != self.broker_id) {
                tracing::warn!(partition = %name, "a stray: no topic of the cluster; left alone");
            }
        }
    }
}
