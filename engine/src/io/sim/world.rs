//! A machine that is switched on and off.

use super::executor::{Halt, Tasks};
use super::{Disk, End, Event, Faults, Shared, Sim};
use crate::types::Instant;
use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

/// How long one run may last before it counts as hung, unless a test says otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// What was run for is done.
    Done(T),
    /// No task is ready and none sleeps: they wait for each other.
    Stuck,
    /// The time limit was reached.
    Late,
    /// The machine stopped, as [`World::stop_after`] or a [`Rule`](super::Rule) asked; the disk is
    /// as the next boot will find it.
    Stopped(End),
}

impl<T> Outcome<T> {
    /// What is done.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn done(self) -> T {
        match self {
            Self::Done(value) => value,
            Self::Stuck => panic!("stuck: every task waits, and nothing will wake one"),
            Self::Late => panic!("the time limit of the simulation was reached"),
            Self::Stopped(end) => panic!("the machine stopped: {end:?}"),
        }
    }
}

/// A simulated machine: a disk, and the process that runs on it, if one does.
///
/// When a test panics it prints its seed and the last operations.
///
/// ```
/// use kariz_engine::io::sim::{Faults, World};
/// use kariz_engine::*;
///
/// type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
///
/// async fn write(io: io::sim::Sim) -> Result<Offset> {
///     let (shard, _) = sim::open(io, "/data".as_ref(), sim::Options::default()).await?;
///     let log = shard.create(&TopicPartition::new("orders", 0), LogConfig::default()).await?;
///     let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
///     let span = log.append(&batch)?;
///     log.reach(Mark::Durable, &span).await?;
///     Ok(span.end)
/// }
///
/// async fn look(io: io::sim::Sim) -> Result<Offset> {
///     let (shard, recovery) = sim::open(io, "/data".as_ref(), sim::Options::default()).await?;
///     assert!(!recovery.was_clean);
///     Ok(shard.partition(&TopicPartition::new("orders", 0))?.marks().written)
/// }
///
/// let mut world = World::new(42, Faults::none());
/// let end = world.boot(write).done()?;
/// world.crash();
/// assert_eq!(world.boot(look).done()?, end);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct World {
    seed: u64,
    shared: Shared,
    tasks: Option<Rc<Tasks>>,
    time_limit: Duration,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = if self.tasks.is_some() { "on" } else { "off" };
        write!(f, "World(seed {}, {on})", self.seed)
    }
}

impl World {
    /// A machine with an empty disk, switched off. All that happens on it follows from `seed`,
    /// `faults`, and what is run.
    #[must_use]
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self { seed, shared: Shared::new(seed, faults), tasks: None, time_limit: TIME_LIMIT }
    }

    /// Starts a process and runs it until `main` ends. What it spawned stays where it is: run it
    /// on with [`World::run_for`], or end it with [`World::kill`] or [`World::crash`]. A process
    /// that is still there is killed first.
    ///
    /// # Panics
    /// With what a task panicked with.
    pub fn boot<T, Main>(&mut self, main: impl FnOnce(Sim) -> Main) -> Outcome<T>
    where
        T: 'static,
        Main: Future<Output = T> + 'static,
    {
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        let io = self.start();
        let main = main(io.clone());
        io.tasks.spawn(async move {
            let value = main.await;
            *slot.borrow_mut() = Some(value);
        });
        let until = self.now().0.saturating_add(self.time_limit);
        let halt = self.run(Instant(until), || result.borrow().is_some());
        let value = result.borrow_mut().take();
        match (halt, value) {
            (Outcome::Stopped(end), _) => Outcome::Stopped(end),
            (_, Some(value)) => Outcome::Done(value),
            (Outcome::Late, None) => Outcome::Late,
            (Outcome::Stuck | Outcome::Done(()), None) => Outcome::Stuck,
        }
    }

    /// Starts a process with no task yet: spawn them on its [`Sim`], then run them. A process that
    /// is still there is killed first.
    pub fn start(&mut self) -> Sim {
        self.kill();
        let tasks = Rc::new(Tasks::new());
        self.tasks = Some(Rc::clone(&tasks));
        let mut machine = self.shared.lock();
        machine.start();
        Sim { shared: self.shared.clone(), boot: machine.boot, tasks }
    }

    /// Runs the process for `d`, also if it waits for nothing.
    ///
    /// # Panics
    /// With what a task panicked with.
    pub fn run_for(&mut self, d: Duration) -> Outcome<()> {
        let until = self.now().plus(d);
        match self.run(until, || false) {
            Outcome::Stopped(end) => Outcome::Stopped(end),
            _ => {
                // No alarm rings until then, or the run would have come to it.
                drop(self.shared.lock().clock.advance(until.0));
                Outcome::Done(())
            }
        }
    }

    /// Runs the process until no task is ready and none sleeps.
    ///
    /// # Panics
    /// With what a task panicked with.
    pub fn run_until_idle(&mut self) -> Outcome<()> {
        match self.run(self.now().plus(self.time_limit), || false) {
            Outcome::Stuck => Outcome::Done(()),
            other => other,
        }
    }

    fn run(&mut self, until: Instant, finished: impl Fn() -> bool) -> Outcome<()> {
        let Some(tasks) = self.tasks.clone() else { return Outcome::Stuck };
        match tasks.run(&self.shared, until.0, finished) {
            Halt::Finished => Outcome::Done(()),
            Halt::Idle => Outcome::Stuck,
            Halt::Late => Outcome::Late,
            Halt::Stopped => {
                let end = self.shared.lock().stopped.unwrap_or(End::PowerCut);
                self.end(end);
                Outcome::Stopped(end)
            }
        }
    }

    /// Cuts the power. The process is gone, and the disk has what was durable and, by the seed,
    /// some of what was not. Also without a process: what one left in the page cache is lost.
    pub fn crash(&mut self) {
        self.end(End::PowerCut);
    }

    /// Kills the process. All that it has written is there to read, but no more durable than it
    /// was. Does nothing if there is none.
    pub fn kill(&mut self) {
        if self.tasks.is_some() {
            self.end(End::Killed);
        }
    }

    fn end(&mut self, end: End) {
        // First the machine, then the tasks: what their destructors try comes too late.
        self.shared.lock().end(end);
        if let Some(tasks) = self.tasks.take() {
            tasks.kill();
        }
    }

    /// Stops the machine just before the `n`-th operation from now that could be told apart
    /// afterwards ([`OpKind::is_cut_point`](super::OpKind::is_cut_point)): not one more line of the
    /// process runs. Happens once, to whichever process is there by then.
    ///
    /// Run once to count them ([`World::cut_points`]), then once for each of them.
    pub fn stop_after(&mut self, n: u64, end: End) {
        let mut machine = self.shared.lock();
        machine.stop_at = Some((machine.cut_points.saturating_add(n), end));
    }

    /// How many operations there were at which the machine could have stopped.
    #[must_use]
    pub fn cut_points(&self) -> u64 {
        self.shared.lock().cut_points
    }

    /// The disk, to look at and to damage.
    #[must_use]
    pub fn disk(&self) -> Disk {
        Disk(self.shared.clone())
    }

    /// Replaces what goes wrong from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.shared.lock().faults = faults;
    }

    /// Sets the wall clock forward or back; the monotonic one does not care.
    pub fn step_wall_clock(&mut self, ms: i64) {
        self.shared.lock().clock.step_wall(ms);
    }

    /// How long one run may last, in virtual time; an hour unless set.
    pub fn set_time_limit(&mut self, limit: Duration) {
        self.time_limit = limit;
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Virtual time since the machine was made, over all boots.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant(self.shared.lock().clock.now())
    }

    /// Keeps the last `n` operations from now on; 256 unless set.
    pub fn keep_history(&mut self, n: usize) {
        self.shared.lock().history.keep(n);
    }

    /// The last operations, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Event> {
        self.shared.lock().history.events().cloned().collect()
    }

    /// A hash of every operation so far: kind, file, range, outcome, bytes and time.
    #[must_use]
    pub fn history_hash(&self) -> u64 {
        self.shared.lock().history.hash()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let machine = self.shared.lock();
            eprintln!("simulation of seed {}, its last operations:", self.seed);
            let events = machine.history.events();
            let skipped = events.len().saturating_sub(32);
            for event in events.skip(skipped) {
                eprintln!("{event}");
            }
        }
        // The tasks hold handles of the world that holds the tasks.
        self.kill();
    }
}
