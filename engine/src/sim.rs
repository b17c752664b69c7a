//! The engine on the simulated machine, for tests of whoever builds on it.
//!
//! A [`Machine`] runs your server on one core with one seeded disk, and your clients beside it; cut
//! the power, and run it again. All of it is one thread and virtual time: a seed that fails, fails
//! again. For tests without a server, [`open`] a core in a process of a [`World`].
//!
//! ```
//! use kariz_engine::io::sim::{Faults, Sim};
//! use kariz_engine::io::{Conn, Io};
//! use kariz_engine::sim::{Machine, connect};
//! use kariz_engine::{LogConfig, Mark, Shard, TopicPartition};
//! use std::net::SocketAddr;
//!
//! /// Answers each byte, once it is durable, with how many there are.
//! async fn count<I: Io>(shard: Shard<I>, at: SocketAddr) -> std::io::Result<()> {
//!     let name = TopicPartition::new("bytes", 0);
//!     let log = shard.ensure(&name, LogConfig::default()).await.map_err(std::io::Error::other)?;
//!     let serve = |conn: I::Conn| {
//!         let log = log.clone();
//!         async move {
//!             while let Some(chunk) = conn.recv().await? {
//!                 let batch = kariz_engine::Batch::build().record(None, Some(&chunk), &[], None);
//!                 let span = log.append(&batch.done().unwrap()).map_err(std::io::Error::other)?;
//!                 log.reach(Mark::Durable, &span).await.map_err(std::io::Error::other)?;
//!                 conn.send(&[u8::try_from(span.end.0).unwrap()], false).await?;
//!             }
//!             Ok::<_, std::io::Error>(())
//!         }
//!     };
//!     shard.accept(at, 10, serve).await
//! }
//!
//! let at = SocketAddr::from(([127, 0, 0, 1], 7000));
//! let ask = move |io: Sim| async move {
//!     let conn = connect(&io, at).await.unwrap();
//!     conn.send(b"!", false).await.unwrap();
//!     conn.recv().await.unwrap().unwrap()[0]
//! };
//! for seed in 0..10 {
//!     let mut machine = Machine::new(seed, Faults::none(), move |shard| count(shard, at));
//!     assert_eq!(machine.run(ask).done()?, 1);
//!     machine.world().crash();
//!     assert_eq!(machine.run(ask).done()?, 2, "seed {seed}");
//!     machine.shut_down()?;
//!     assert_eq!(machine.run(ask).done()?, 3);
//! }
//! # Ok::<_, std::io::Error>(())
//! ```

use crate::futures::{Either, Signal, either};
use crate::io::Io;
use crate::io::sim::{Faults, Outcome, Sim, SimConn, World};
use crate::partition::Event;
use crate::shard::{RecoveryReport, Settings, Shard};
use crate::types::ShardId;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How a simulated core is opened.
#[derive(Clone)]
pub struct Options {
    /// Bytes of its journal; small ones go round often.
    pub journal_bytes: u64,
    /// Bytes of its files that may wait to be synced before [`Shard::room`] waits.
    pub dirty_bytes_max: u64,
    /// Told of events.
    pub on_event: Rc<dyn Fn(&Event)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_bytes: 256 << 10, dirty_bytes_max: u64::MAX, on_event: Rc::new(|_| {}) }
    }
}

/// Opens the core in `dir` and starts its tasks.
///
/// # Errors
/// Those of the simulated disk.
pub async fn open(
    io: Sim,
    dir: &Path,
    options: Options,
) -> io::Result<(Shard<Sim>, RecoveryReport)> {
    let settings = Settings {
        id: ShardId(0),
        dir: dir.to_owned(),
        journal_bytes: options.journal_bytes,
        dirty_bytes_max: options.dirty_bytes_max,
        retention_check: Duration::from_secs(1),
        producer_expiration_ms: 86_400_000,
    };
    let opened = Shard::open(io, settings, 256, "simulated", options.on_event).await?;
    opened.0.start();
    Ok(opened)
}

/// Ends a core in order, as a shutdown does.
///
/// # Errors
/// Those of the simulated disk: then the next start is a recovery.
pub async fn close(shard: &Shard<Sim>) -> io::Result<()> {
    shard.close().await
}

/// Connects to `at`, as clients do, for as long as nobody listens there yet: up to 10 s.
///
/// # Errors
/// As [`Sim::connect`].
pub async fn connect(io: &Sim, at: SocketAddr) -> io::Result<SimConn> {
    let until = io.now().plus(Duration::from_secs(10));
    loop {
        match io.connect(at).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && io.now() < until => {
                io.sleep(Duration::from_millis(1)).await;
            }
            connected => return connected,
        }
    }
}

/// Runs `app` as a task, counted until it ends; waits for it to fail, and says why.
fn serve<E: std::error::Error + 'static>(
    shard: &Shard<Sim>,
    app: impl Future<Output = Result<(), E>> + 'static,
) -> impl Future<Output = String> {
    let (failed, running) = (Rc::new((RefCell::default(), Signal::default())), shard.guard());
    let its = Rc::clone(&failed);
    shard.spawn(async move {
        if let Err(error) = app.await {
            *its.0.borrow_mut() = format!("the app has failed: {error}");
            its.1.set();
        }
        drop(running);
    });
    async move {
        failed.1.wait().await;
        failed.0.take()
    }
}

/// Where a [`Machine`] keeps its log.
const DIR: &str = "/data";
/// How long a shutdown may take in virtual time. The grace of its connections is a part of it.
const SHUTDOWN_MAX: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(1);

/// A simulated machine on which one core runs a server, again and again on the same disk.
pub struct Machine<A> {
    world: World,
    app: A,
    options: Options,
    running: Option<(Sim, Shard<Sim>)>,
}

impl<A, Fut, E> Machine<A>
where
    A: Fn(Shard<Sim>) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: std::error::Error + 'static,
{
    /// A machine with an empty disk. All that happens on it follows from `seed`, `faults`, and what
    /// `app` (as for [`Engine::serve`](crate::Engine::serve)) and its clients do.
    pub fn new(seed: u64, faults: Faults, app: A) -> Self {
        let world = World::new(seed, faults);
        Self { world, app, options: Options::default(), running: None }
    }

    /// Opens the core otherwise from the next run on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Starts a process: opens the core, serves, and runs `client` to its end. The process is there
    /// until the next run, or the next thing that is done to the [`World`]; one that is still there
    /// is killed first. A client begins with [`connect`].
    ///
    /// # Errors
    /// The outcome is one if the core could not be opened, or `app` failed.
    ///
    /// # Panics
    /// With what a task panicked with.
    pub fn run<T, Client>(&mut self, client: impl FnOnce(Sim) -> Client) -> Outcome<io::Result<T>>
    where
        T: 'static,
        Client: Future<Output = T> + 'static,
    {
        let opened = Rc::new(RefCell::new(None));
        let (slot, app, options) = (Rc::clone(&opened), self.app.clone(), self.options.clone());
        self.running = None;
        let outcome = self.world.boot(|io| {
            let client = client(io.clone());
            async move {
                let (shard, _) = open(io.clone(), Path::new(DIR), options).await?;
                *slot.borrow_mut() = Some((io, shard.clone()));
                let failed = serve(&shard, app(shard.clone()));
                match either(client, failed).await {
                    Either::Left(done) => Ok(done),
                    Either::Right(why) => Err(io::Error::other(why)),
                }
            }
        });
        self.running = opened.take();
        outcome
    }

    /// Ends the process in order, as [`Engine::shutdown`](crate::Engine::shutdown) does.
    ///
    /// # Errors
    /// Those of the simulated disk; also if no process is there, or its end takes a minute.
    pub fn shut_down(&mut self) -> io::Result<()> {
        let Some((io, shard)) = self.running.take() else {
            return Err(io::Error::other("no process is there"));
        };
        let ended = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&ended);
        let until = self.world.now().plus(SHUTDOWN_MAX);
        io.spawn(async move {
            shard.stop();
            shard.apps_ended(shard.io().now().plus(GRACE)).await;
            let closed = shard.close().await;
            *slot.borrow_mut() = Some(closed);
        });
        while ended.borrow().is_none() && self.world.now() < until {
            if let Outcome::Stopped(end) = self.world.run_for(Duration::from_millis(1)) {
                return Err(io::Error::other(format!("the machine stopped: {end:?}")));
            }
        }
        let ended = ended.take();
        self.world.kill();
        ended.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The machine itself: its power, its disk, its faults, its history.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }
}
