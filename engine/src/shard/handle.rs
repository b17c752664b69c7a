//! Reaching a core from any thread: programs on plain tokio, control traffic between cores. A server
//! that runs on the cores needs nothing of this on its data path.

use super::owners::Owners;
use super::remote::{Queue, RemoteAppend};
use super::{NotHere, Shard};
use crate::batch::Batch;
use crate::io::uring::Uring;
use crate::metrics::Snapshot;
use crate::partition::{
    AppendError, Mark, Partition, ReachError, ReadError, Slice, Span, Want, Written,
};
use crate::types::{Offset, ShardId, TopicPartition};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// The engine has shut down, or was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine has shut down")]
pub struct Closed;

/// Why what was asked from another thread was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandleError {
    /// The engine has shut down, or did so before it answered.
    #[error("the engine has shut down; what was not answered may have been written")]
    Closed,
    /// There is no such partition: create it, on the core where it is to live.
    #[error("there is no partition {0}")]
    Unknown(TopicPartition),
    /// It was not appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// It was appended, and did not come as far as was asked.
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// It was not read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl HandleError {
    /// Whether the records of an append may be in the log after all.
    #[must_use]
    pub fn written(&self) -> Written {
        match self {
            Self::Closed => Written::Maybe,
            Self::Reach(error) => error.written(),
            Self::Unknown(_) | Self::Append(_) | Self::Read(_) => Written::No,
        }
    }
}

impl From<Closed> for HandleError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// What a core is sent.
pub(crate) enum Job {
    /// Something to do there.
    Run(Box<dyn FnOnce(Shard) + Send>),
    /// The end, once the apps have ended or the time is over.
    Stop(Duration),
    /// The end at once, as in a crash.
    Abandon,
}

/// What a core takes from other threads.
pub(crate) struct Mailbox {
    pub(crate) jobs: mpsc::UnboundedReceiver<Job>,
    pub(crate) appends: mpsc::UnboundedReceiver<RemoteAppend>,
}

/// A way to every core of an engine. Cheap to clone, and at home on any thread.
#[derive(Clone, Default)]
pub struct Handle(Arc<Cores>);

#[derive(Default)]
struct Cores {
    cores: Vec<Core>,
    owners: Owners,
}

struct Core {
    jobs: mpsc::UnboundedSender<Job>,
    appends: Queue,
}

impl Handle {
    /// A way to `cores` cores, and what each of them takes from.
    pub(crate) fn new(cores: u16) -> (Self, Vec<Mailbox>) {
        let core = |_| {
            let (jobs, taken) = mpsc::unbounded_channel();
            let (queue, appends) = Queue::new();
            (Core { jobs, appends: queue }, Mailbox { jobs: taken, appends })
        };
        let (cores, mailboxes) = (0..cores).map(core).unzip();
        (Self(Arc::new(Cores { cores, owners: Owners::default() })), mailboxes)
    }

    /// How many cores there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        u16::try_from(self.0.cores.len()).unwrap_or(u16::MAX)
    }

    /// Which core `partition` lives on.
    #[must_use]
    pub fn owner(&self, partition: &TopicPartition) -> Option<ShardId> {
        self.owners().of(partition)
    }

    pub(super) fn owners(&self) -> &Owners {
        &self.0.owners
    }

    /// Appends `batch` and waits until that is as safe as `until` says. Calls that overlap are
    /// appended in the order in which they were first polled, as long as one task makes them; they
    /// wait when the core is 64 MiB behind.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-append-{}", std::process::id()));
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let engine = Engine::open(&dir, Config::default())?;
    /// # let (handle, name) = (engine.handle(), TopicPartition::new("t", 0));
    /// # let t = name.clone();
    /// # let make = |shard: Shard| async move { shard.ensure(&t, LogConfig::default()).await.map(drop) };
    /// # handle.on(ShardId(0), make).await??;
    /// let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// let span = handle.append(&name, batch.clone(), Mark::Durable).await?;
    /// assert_eq!(span.base, Offset(0));
    ///
    /// let error = handle.append(&TopicPartition::new("nowhere", 0), batch, Mark::High).await;
    /// assert_eq!(error.unwrap_err().written(), Written::No);
    /// # engine.shutdown(Duration::from_secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HandleError`]. Dropped before its end, it may have appended.
    pub async fn append(
        &self,
        partition: &TopicPartition,
        batch: Batch,
        until: Mark,
    ) -> Result<Span, HandleError> {
        let unknown = || HandleError::Unknown(partition.clone());
        let owner = self.owner(partition).ok_or_else(unknown)?;
        let core = self.0.cores.get(usize::from(owner.0)).ok_or(Closed)?;
        core.appends.append(partition, batch, until).await
    }

    /// Reads as [`Partition::read`] does; the pages of the slice are in memory when it comes.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-read-{}", std::process::id()));
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let engine = Engine::open(&dir, Config::default())?;
    /// # let (handle, name) = (engine.handle(), TopicPartition::new("t", 0));
    /// # let t = name.clone();
    /// # let make = |shard: Shard| async move { shard.ensure(&t, LogConfig::default()).await.map(drop) };
    /// # handle.on(ShardId(0), make).await??;
    /// # let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
    /// # handle.append(&name, batch, Mark::Appended).await?;
    /// let want = Want { max_bytes: 1 << 20, min_bytes: 1, wait: Duration::from_secs(60) };
    /// let slice = handle.read(&name, Offset(0), want).await?;
    /// assert_eq!(slice.batches()?.len(), 1);
    /// # engine.shutdown(Duration::from_secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`HandleError`].
    pub async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        want: Want,
    ) -> Result<Slice<Uring>, HandleError> {
        let unknown = || HandleError::Unknown(partition.clone());
        let owner = self.owner(partition).ok_or_else(unknown)?;
        let name = partition.clone();
        self.on(owner, move |shard| async move {
            let here: Partition = match shard.partition(&name) {
                Ok(here) => here,
                Err(NotHere::Unknown | NotHere::Elsewhere(_)) => {
                    return Err(HandleError::Unknown(name));
                }
            };
            Ok(here.read(from, want).await?)
        })
        .await?
    }

    /// Runs `f` on core `shard` and waits for what it returns.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-on-{}", std::process::id()));
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let engine = Engine::open(&dir, Config::default())?;
    /// # let (handle, name) = (engine.handle(), TopicPartition::new("t", 0));
    /// # let t = name.clone();
    /// # let make = |shard: Shard| async move { shard.ensure(&t, LogConfig::default()).await.map(drop) };
    /// # handle.on(ShardId(0), make).await??;
    /// let there = name.clone();
    /// let marks = handle.on(ShardId(0), |shard| async move {
    ///     shard.partition(&there).map(|log| log.marks())
    /// });
    /// assert_eq!(marks.await??.written, Offset(0));
    /// # engine.shutdown(Duration::from_secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`] if the engine has shut down or was dropped, or is before `f` has ended.
    pub async fn on<F, Fut, T>(&self, shard: ShardId, f: F) -> Result<T, Closed>
    where
        F: FnOnce(Shard) -> Fut + Send + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.send(
            shard,
            Box::new(move |shard: Shard| {
                shard.clone().spawn(async move {
                    // Whoever asked may have gone.
                    let _gone = answer.send(f(shard).await);
                });
            }),
        )?;
        answered.await.map_err(|_| Closed)
    }

    /// What each core has counted since the engine was opened, in their order.
    ///
    /// Waits for every core, for its counters are plain cells that only it can read: an append
    /// counts without an atomic. The cores' moments are not the same one.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-metrics-{}", std::process::id()));
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// # let engine = Engine::open(&dir, Config::default())?;
    /// # let (handle, name) = (engine.handle(), TopicPartition::new("t", 0));
    /// # let t = name.clone();
    /// # let make = |shard: Shard| async move { shard.ensure(&t, LogConfig::default()).await.map(drop) };
    /// # handle.on(ShardId(0), make).await??;
    /// let cores = handle.metrics().await?;
    /// let mut text = String::new();
    /// metrics::prometheus(&cores, &mut text);
    /// assert!(text.contains("kariz_appends_total{core=\"0\"} 0"));
    /// # engine.shutdown(Duration::from_secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`] if the engine has shut down or was dropped.
    pub async fn metrics(&self) -> Result<Vec<Snapshot>, Closed> {
        let mut snapshots = Vec::new();
        for shard in 0..self.shards() {
            let asked = self.on(ShardId(shard), |shard| async move { shard.snapshot() });
            snapshots.push(asked.await?);
        }
        Ok(snapshots)
    }

    pub(crate) fn send(
        &self,
        shard: ShardId,
        job: Box<dyn FnOnce(Shard) + Send>,
    ) -> Result<(), Closed> {
        let core = self.0.cores.get(usize::from(shard.0)).ok_or(Closed)?;
        core.jobs.send(Job::Run(job)).map_err(|_| Closed)
    }

    pub(crate) fn stop(&self, grace: Duration) {
        self.send_all(|| Job::Stop(grace));
    }

    pub(crate) fn abandon(&self) {
        self.send_all(|| Job::Abandon);
    }

    fn send_all(&self, job: impl Fn() -> Job) {
        for core in &self.0.cores {
            // A core that has ended already is what is wanted.
            let _ended = core.jobs.send(job());
        }
    }
}
