//! The engine: one pinned thread a core, each running a shard, and the ways to reach them.

mod directory;
mod memory;

pub use directory::OpenError;

use crate::io::Io as _;
use crate::io::uring::{SetupError, Uring};
use crate::partition::Event;
use crate::partition::core::OnEvent;
use crate::shard::{Closed, Handle, Job, Mailbox, RecoveryReport, Settings, Shard, take_appends};
use crate::types::{ShardId, TopicPartition};
use crate::verify::{self, VerifyError};
use directory::Directory;
use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How an engine is opened.
///
/// ```
/// use kariz_engine::Config;
///
/// let mut config = Config { cpus: (0..4).collect(), ..Config::default() };
/// config.on_event = std::sync::Arc::new(|event| eprintln!("{event:?}"));
/// ```
#[derive(Clone)]
pub struct Config {
    /// One shard for each entry, pinned to that CPU.
    pub cpus: Vec<usize>,
    /// The broker id of shard `i` is `node_id << 8 | i`.
    pub node_id: i32,
    /// Kafka's cluster id, for a new data directory; `None` makes one up.
    pub cluster_id: Option<String>,
    /// Bytes of each core's journal.
    pub journal_bytes: u64,
    /// How often old segments are looked for. Kafka's `log.retention.check.interval.ms`.
    pub retention_check: Duration,
    /// Silent producers are forgotten after this. Kafka's `producer.id.expiration.ms`.
    pub producer_expiration_ms: i64,
    /// Told of what is worth telling an operator, on the thread of the core it happened on.
    pub on_event: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cpus: vec![0],
            node_id: 1,
            cluster_id: None,
            journal_bytes: 64 << 20,
            retention_check: Duration::from_secs(300),
            producer_expiration_ms: 86_400_000,
            on_event: Arc::new(|_| {}),
        }
    }
}

impl Config {
    /// What it says of core `id`, whose directory is `dir`.
    fn settings(&self, id: ShardId, dir: PathBuf) -> Settings {
        Settings {
            id,
            dir,
            journal_bytes: self.journal_bytes,
            dirty_bytes_max: memory::dirty_bytes_max(self.cpus.len()),
            retention_check: self.retention_check,
            producer_expiration_ms: self.producer_expiration_ms,
        }
    }
}

/// What opening the data directory found.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Each core.
    pub shards: Vec<RecoveryReport>,
}

impl Recovery {
    /// Whether every core had been shut down in order.
    #[must_use]
    pub fn was_clean(&self) -> bool {
        self.shards.iter().all(|shard| shard.was_clean)
    }

    /// Which core each partition was found on.
    #[must_use]
    pub fn owners(&self) -> HashMap<TopicPartition, ShardId, rustc_hash::FxBuildHasher> {
        let of = |s: &RecoveryReport| {
            let shard = s.shard;
            s.partitions.iter().map(move |p| (p.partition.clone(), shard)).collect::<Vec<_>>()
        };
        self.shards.iter().flat_map(of).collect()
    }
}

/// Why the engine did not end in order.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShutdownError {
    /// A core could not make everything durable; it will be recovered at the next start.
    #[error("core {core} was not shut down clean: {1}", core = .0.0)]
    Shard(ShardId, std::io::Error),
    /// A core's thread panicked.
    #[error("the thread of core {core} panicked", core = .0.0)]
    Panicked(ShardId),
}

/// A log engine on a data directory. Clones are the same engine.
///
/// Dropping the last one without [`Engine::shutdown`] is a crash, and as safe as one. It does not
/// wait: the data directory is free, and its files are closed, when the cores' threads have ended.
///
/// ```
/// # use kariz_engine::*;
/// # use std::time::Duration;
/// # let dir = std::env::temp_dir().join(format!("kariz-doc-open-{}", std::process::id()));
/// let engine = Engine::open(&dir, Config { cpus: vec![0, 0], ..Config::default() })?;
/// assert_eq!(engine.shards(), 2);
/// assert!(engine.recovery().was_clean()); // it was new
/// assert!(matches!(Engine::open(&dir, Config::default()), Err(OpenError::Locked(_))));
/// engine.shutdown(Duration::from_secs(1))?;
/// # std::fs::remove_dir_all(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    cores: Cores,
    recovery: Recovery,
    cluster_id: String,
    threads: Mutex<Vec<JoinHandle<std::io::Result<()>>>>,
    outcome: Arc<Outcome>,
}

/// The running cores. They hold their own handles, so they end when they are told to.
struct Cores(Handle);

impl Drop for Cores {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The first thing that ends the engine.
#[derive(Default)]
struct Outcome {
    ended: Mutex<Option<Result<(), String>>>,
    changed: Condvar,
}

impl Outcome {
    fn end(&self, how: Result<(), String>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(how);
        self.changed.notify_all();
    }
}

/// An app that was served has failed.
#[derive(Debug, thiserror::Error)]
#[error("a server failed: {0}")]
pub struct AppError(String);

impl Engine {
    /// Opens the data directory `dir`, which is made if it is not there: takes its lock, recovers
    /// each core's part, and starts one pinned thread a core.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        crate::io::uring::probe().map_err(OpenError::Setup)?;
        // From here: a core's thread would bind it to that core.
        crate::io::uring::start_aside();
        let directory = Arc::new(Directory::open(dir.as_ref(), &config)?);
        let cluster_id = directory.cluster_id().to_owned();
        let shards = u16::try_from(config.cpus.len()).map_err(|_| OpenError::Cores)?;
        let (handle, mailboxes) = Handle::new(shards);
        let cores = Cores(handle);
        let mut threads = Vec::new();
        let mut opening = Vec::new();
        for (i, (cpu, mailbox)) in (0..shards).zip(config.cpus.iter().zip(mailboxes)) {
            let settings = config.settings(ShardId(i), directory.shard(i));
            let start = Start {
                cpu: *cpu,
                settings,
                broker_id: directory.broker_id(i),
                cluster_id: cluster_id.clone(),
                on_event: Arc::clone(&config.on_event),
                handle: cores.0.clone(),
                mailbox,
                directory: Arc::clone(&directory),
            };
            let (opened, wait) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new()
                .name(format!("kariz-core-{i}"))
                .spawn(move || start.run(&opened));
            opening.push(match thread {
                Ok(thread) => {
                    threads.push(thread);
                    Ok((ShardId(i), wait))
                }
                Err(error) => Err(OpenError::Thread(error)),
            });
        }
        let opened = opening.into_iter().map(|started| {
            let (shard, wait) = started?;
            let early = || std::io::Error::other("its thread ended early");
            let report = wait.recv().unwrap_or_else(|_| Err(early()));
            report.map_err(|source| match SetupError::from_io(source) {
                Ok(setup) => OpenError::Setup(setup),
                Err(source) => OpenError::Shard { shard, source },
            })
        });
        let reports = match opened.collect::<Result<Vec<_>, _>>() {
            Ok(reports) => reports,
            Err(error) => {
                // Waited for, so that the directory is free when the caller tries again.
                drop(cores);
                threads.into_iter().for_each(|thread| drop(thread.join()));
                return Err(error);
            }
        };
        Ok(Self(Arc::new(Shared {
            cores,
            recovery: Recovery { shards: reports },
            cluster_id,
            threads: Mutex::new(threads),
            outcome: Arc::default(),
        })))
    }

    /// Checks the data directory `dir`, which no engine has open: reads every segment file from end
    /// to end, compares indexes and checkpoints with them, and writes nothing.
    ///
    /// What a crash left in a journal is not looked at: the report's notes say where that is so.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-verify-{}", std::process::id()));
    /// Engine::open(&dir, Config::default())?.shutdown(Duration::from_secs(1))?;
    /// let report = Engine::verify(&dir)?;
    /// assert!(report.is_sound(), "{:?}", report.faults);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`VerifyError`]: nothing is known. What is wrong in the files is in the report.
    pub fn verify(dir: impl AsRef<Path>) -> Result<verify::Report, VerifyError> {
        verify::verify(dir.as_ref())
    }

    /// What opening found.
    #[must_use]
    pub fn recovery(&self) -> &Recovery {
        &self.0.recovery
    }

    /// The id in `meta.properties`.
    #[must_use]
    pub fn cluster_id(&self) -> &str {
        &self.0.cluster_id
    }

    /// How many cores there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.0.cores.0.shards()
    }

    /// A way to every core.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.0.cores.0.clone()
    }

    /// Runs `app` on every core. Call it again for another protocol: they share the partitions.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-serve-{}", std::process::id()));
    /// let engine = Engine::open(&dir, Config::default())?;
    /// engine.serve(|shard| async move {
    ///     let name = TopicPartition::new("lines", shard.id().0.into());
    ///     let _log = shard.ensure(&name, LogConfig::default()).await?;
    ///     // Here a server would `accept`.
    ///     shard.stopping().await;
    ///     Ok::<(), CreateError>(())
    /// })?;
    /// # engine.shutdown(Duration::from_secs(60))?;
    /// engine.wait()?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`] once the engine has shut down.
    pub fn serve<F, Fut, E>(&self, app: F) -> Result<(), Closed>
    where
        F: Fn(Shard) -> Fut + Clone + Send + 'static,
        Fut: Future<Output = Result<(), E>> + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        for shard in 0..self.shards() {
            let (app, outcome) = (app.clone(), Arc::clone(&self.0.outcome));
            self.0.cores.0.send(
                ShardId(shard),
                Box::new(move |shard: Shard| {
                    let running = shard.guard();
                    shard.clone().spawn(async move {
                        if let Err(error) = app(shard).await {
                            outcome.end(Err(error.to_string()));
                        }
                        drop(running);
                    });
                }),
            )?;
        }
        Ok(())
    }

    /// Waits until the engine shuts down, or an app fails. Not for a core that fails alone, by a panic
    /// or its disk: [`Config::on_event`] tells of its disk, and [`Engine::shutdown`] of both.
    ///
    /// ```
    /// # use kariz_engine::*;
    /// # use std::time::Duration;
    /// # let dir = std::env::temp_dir().join(format!("kariz-doc-wait-{}", std::process::id()));
    /// let engine = Engine::open(&dir, Config::default())?;
    /// engine.serve(|_| async { Err::<(), _>(std::io::Error::other("the port is taken")) })?;
    /// assert_eq!(engine.wait().unwrap_err().to_string(), "a server failed: the port is taken");
    /// # engine.shutdown(Duration::from_secs(1))?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The first app's error.
    pub fn wait(&self) -> Result<(), AppError> {
        let outcome = &self.0.outcome;
        let mut ended = outcome.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*ended {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(AppError(why.clone())),
                None => {
                    ended = outcome.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Ends in order: tells the apps ([`Shard::stopping`]) and waits for them up to `grace`, makes
    /// everything durable, notes that no recovery is needed, joins the threads, and gives the data
    /// directory's lock back, whoever still holds a clone of this engine. Not from a core: its thread
    /// would wait for itself.
    ///
    /// # Errors
    /// [`ShutdownError`]: the first core that did not end in order.
    pub fn shutdown(&self, grace: Duration) -> Result<(), ShutdownError> {
        self.0.cores.0.stop(grace);
        // Held until all have ended: who shuts down a second time waits too.
        let mut threads = self.0.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut first = Ok(());
        for (i, thread) in (0..).zip(threads.drain(..)) {
            let ended = match thread.join() {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(ShutdownError::Shard(ShardId(i), error)),
                Err(_) => Err(ShutdownError::Panicked(ShardId(i))),
            };
            first = first.and(ended);
        }
        self.0.outcome.end(Ok(()));
        first
    }
}

/// What a core's thread begins with.
struct Start {
    cpu: usize,
    settings: Settings,
    broker_id: i32,
    cluster_id: String,
    on_event: Arc<dyn Fn(&Event) + Send + Sync>,
    handle: Handle,
    mailbox: Mailbox,
    /// Locked until the last core has ended, however the engine ends.
    directory: Arc<Directory>,
}

type Opened = std::sync::mpsc::SyncSender<std::io::Result<RecoveryReport>>;

impl Start {
    fn run(self, opened: &Opened) -> std::io::Result<()> {
        let Self { cpu, settings, broker_id, cluster_id, on_event, handle, mut mailbox, directory } =
            self;
        let failed = opened.clone();
        let told = opened.clone();
        let ran = Uring::run(Some(cpu), move |io| async move {
            let on_event: OnEvent = Rc::new(move |event: &Event| on_event(event));
            let (shard, report) =
                Shard::open(io, settings, broker_id, &cluster_id, on_event).await?;
            shard.set_handle(handle);
            shard.start();
            shard.spawn(take_appends(shard.clone(), mailbox.appends));
            // Whoever opens the engine waits for this, or has given up.
            let _gone = told.send(Ok(report));
            while let Some(job) = mailbox.jobs.recv().await {
                match job {
                    Job::Run(job) => job(shard.clone()),
                    Job::Abandon => return Ok(()),
                    Job::Stop(grace) => {
                        shard.stop();
                        let until = shard.io().now().plus(grace);
                        shard.apps_ended(until).await;
                        return shard.close().await;
                    }
                }
            }
            Ok(())
        });
        drop(directory);
        match ran {
            Ok(ended) => {
                if let Err(error) = &ended {
                    let _gone =
                        failed.try_send(Err(std::io::Error::new(error.kind(), error.to_string())));
                }
                ended
            }
            Err(error) => {
                let copy = std::io::Error::new(error.kind(), error.to_string());
                let _gone = failed.try_send(Err(error));
                Err(copy)
            }
        }
    }
}
