//! The data directory: its lock, its cluster id, and a directory a core.
//!
//! ```text
//! DATA/.lock             held while a process uses the directory
//! DATA/broker-256/       core 0: a Kafka log directory of its own
//! DATA/broker-257/       core 1
//! ```

use super::Config;
use crate::io::uring::{SetupError, Uring};
use crate::partition::core::OnEvent;
use crate::shard::{CLEAN_SHUTDOWN, Shard, adopt};
use crate::types::{ShardId, TopicPartition};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Why an engine was not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no io_uring for it, and no other way. Nothing was written, unless only a later core
    /// got none.
    #[error(transparent)]
    Setup(SetupError),
    /// Another process has the directory.
    #[error("{0} is in use by another process: stop that one, or choose another directory")]
    Locked(PathBuf),
    /// The directory cannot be used.
    #[error("{path}: {source}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory belongs to another cluster.
    #[error("{path} belongs to cluster {found}, not {wanted}")]
    OtherCluster {
        /// Which directory.
        path: PathBuf,
        /// What its `meta.properties` says.
        found: String,
        /// What was asked for.
        wanted: String,
    },
    /// The first core's directory is gone, and with it what the cluster is.
    #[error("{missing} is not there, but {other} has been used: put it back")]
    Missing {
        /// The first core's directory.
        missing: PathBuf,
        /// One that shows that there was one.
        other: PathBuf,
    },
    /// One shard a core: from 1 to 256 of them.
    #[error("an engine runs on 1 to 256 cores")]
    Cores,
    /// Node ids are 0 to 2^23 - 1, for a broker id is `node id << 8 | core`.
    #[error("node id {0} is out of range 0..=8388607")]
    NodeId(i32),
    /// A core did not open.
    #[error("core {}: {source}", shard.0)]
    Shard {
        /// Which one.
        shard: ShardId,
        /// Why.
        source: io::Error,
    },
    /// A core's thread was not started.
    #[error("a core's thread could not be started: {0}")]
    Thread(io::Error),
}

/// A locked data directory.
pub(super) struct Directory {
    path: PathBuf,
    node_id: i32,
    cluster_id: String,
    _lock: File,
}

impl Directory {
    pub(super) fn open(path: &Path, config: &Config) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Directory { path: path.to_owned(), source };
        if config.cpus.is_empty() || config.cpus.len() > 256 {
            return Err(OpenError::Cores);
        }
        if !(0..1 << 23).contains(&config.node_id) {
            return Err(OpenError::NodeId(config.node_id));
        }
        fs::create_dir_all(path).map_err(fail)?;
        let lock = File::create(path.join(".lock")).map_err(fail)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(path.to_owned())),
            Err(e) => return Err(fail(e.into())),
        }
        let found = brokers(path).map_err(fail)?;
        let known = found.iter().find_map(|(_, dir)| property(dir, "cluster.id"));
        if let (Some(found), Some(wanted)) = (&known, &config.cluster_id)
            && found != wanted
        {
            let (path, found, wanted) = (path.to_owned(), found.clone(), wanted.clone());
            return Err(OpenError::OtherCluster { path, found, wanted });
        }
        let cluster_id = known
            .or_else(|| config.cluster_id.clone())
            .unwrap_or_else(|| crate::types::TopicId(rand::random()).to_string());
        let directory =
            Self { path: path.to_owned(), node_id: config.node_id, cluster_id, _lock: lock };
        directory.adopt_others(&found, config).map_err(fail)?;
        let missing = directory.shard(0);
        let mut others = found.into_iter().map(|(_, other)| other);
        match others.find(|other| !missing.is_dir() && has_served(other)) {
            Some(other) => Err(OpenError::Missing { missing, other }),
            None => Ok(directory),
        }
    }

    pub(super) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub(super) fn broker_id(&self, shard: u16) -> i32 {
        self.node_id << 8 | i32::from(shard)
    }

    pub(super) fn shard(&self, shard: u16) -> PathBuf {
        self.path.join(format!("broker-{}", self.broker_id(shard)))
    }

    /// Moves the partitions of cores that are no more to those that are.
    fn adopt_others(&self, found: &[(i32, PathBuf)], config: &Config) -> io::Result<()> {
        let shards = u16::try_from(config.cpus.len()).unwrap_or(u16::MAX);
        let mine: Vec<(i32, PathBuf)> =
            (0..shards).map(|i| (self.broker_id(i), self.shard(i))).collect();
        for (id, dir) in found {
            if mine.iter().any(|(broker, _)| broker == id) {
                continue;
            }
            let settings = config.settings(ShardId(0), dir.clone());
            let (cluster_id, id, mine) = (self.cluster_id.clone(), *id, mine.clone());
            let on_event = std::sync::Arc::clone(&config.on_event);
            // A thread of its own: a runtime is its thread's.
            let moved = std::thread::scope(|scope| {
                scope
                    .spawn(move || {
                        Uring::run(None, move |io| async move {
                            let on_event: OnEvent = Rc::new(move |event| on_event(event));
                            let opened = Shard::open(
                                io.clone(),
                                settings.clone(),
                                id,
                                &cluster_id,
                                on_event,
                            );
                            let (shard, _) = opened.await?;
                            shard.close().await?;
                            drop(shard);
                            adopt(&io, &settings.dir, &mine).await
                        })?
                    })
                    .join()
            });
            moved.unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))?;
        }
        Ok(())
    }
}

/// Whether the core's directory `dir` is more than what a killed first start leaves.
fn has_served(dir: &Path) -> bool {
    let served =
        |name: &str| name == CLEAN_SHUTDOWN || TopicPartition::from_dir_name(name).is_some();
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_str().is_some_and(served))
}

/// The cores' directories in `path`, by broker id.
fn brokers(path: &Path) -> io::Result<Vec<(i32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|n| n.strip_prefix("broker-")).and_then(|n| n.parse().ok());
        found.extend(id.map(|id| (id, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// A property of the log directory `dir`.
fn property(dir: &Path, name: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join("meta.properties")).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().to_owned())
}
