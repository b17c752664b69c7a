//! The machine: all that tasks share, behind one lock.
//!
//! Files are `Send`, so the lock is a real one; one thread runs a simulation, so it never waits.
//! Nothing of the application (a task, a waker's code) runs while it is held.

use super::clock::{Alarm, Clock, Sync, Synced};
use super::faults::{Fault, Faults, OpKind};
use super::history::{Event, History};
use super::net::Net;
use super::rng::{Rng, Stream};
use super::volume::Volume;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

/// How a process ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The power failed: what was not durable is lost, or torn, or not.
    PowerCut,
    /// The process was killed: the page cache outlives it.
    Killed,
}

/// What unwinds the application's stack when the machine stops in the middle of it.
pub(super) struct Stopped;

/// Everything but the tasks.
#[derive(Debug)]
pub(super) struct Machine {
    /// Which process this is; handles of earlier ones are dead.
    pub(super) boot: u64,
    pub(super) clock: Clock,
    pub(super) app_rng: Rng,
    pub(super) rng: Rng,
    pub(super) crash_rng: Rng,
    pub(super) faults: Faults,
    pub(super) disk: Volume,
    pub(super) net: Net,
    pub(super) history: History,
    /// Operations at which the machine could have stopped, so far.
    pub(super) cut_points: u64,
    /// The cut point at which it will stop.
    pub(super) stop_at: Option<(u64, End)>,
    /// It has stopped; nothing works until the next boot.
    pub(super) stopped: Option<End>,
}

/// What an operation is about, for faults and history.
pub(super) struct Op<'a> {
    pub(super) kind: OpKind,
    pub(super) path: &'a Arc<str>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Machine {
    /// Notes how `op` ended.
    pub(super) fn note<T>(
        &mut self,
        op: &Op<'_>,
        result: &io::Result<T>,
        done: impl FnOnce(&T) -> (u64, u64),
    ) {
        let (outcome, digest) = match result {
            Ok(value) => {
                let (n, digest) = done(value);
                (Ok(n), digest)
            }
            Err(error) => (Err(error.raw_os_error().unwrap_or(-1)), 0),
        };
        let path = Arc::clone(op.path);
        let at = self.clock.now();
        let (kind, offset, len) = (op.kind, op.offset, op.len);
        self.history.note(Event { at, kind, path, offset, len, outcome, digest });
    }

    /// Ends the process: the next one finds no connection, no open file and no alarm of this one.
    pub(super) fn end(&mut self, end: End) {
        self.boot += 1;
        self.stopped = Some(end);
        self.net = Net::default();
        for alarm in self.clock.boot() {
            // A sync that is on its way outlives who called it, and nobody hears of its error.
            if let (Alarm::Sync(sync), End::Killed) = (alarm, end) {
                self.end_sync(&sync);
            }
        }
        self.disk.close_all();
        let kind = match end {
            End::PowerCut => {
                self.disk.power_cut(&mut self.crash_rng);
                OpKind::PowerCut
            }
            End::Killed => OpKind::Kill,
        };
        self.note(&Op { kind, path: &Arc::from(""), offset: 0, len: 0 }, &Ok(()), |()| (0, 0));
    }

    /// Starts a process on what the last one left.
    pub(super) fn start(&mut self) {
        self.stopped = None;
        drop(self.clock.boot());
        let op = Op { kind: OpKind::Boot, path: &Arc::from(""), offset: 0, len: 0 };
        self.note(&op, &Ok(()), |()| (0, 0));
    }

    /// The disk ends a sync.
    fn end_sync(&mut self, sync: &Sync) {
        let lost = sync.fails.then_some(&mut self.rng);
        match sync.what {
            Synced::File(number) => self.disk.end_sync(number, lost),
            Synced::Dir { dir, until } => self.disk.settle_dir(dir, until, lost),
        }
    }

    /// The disk begins a sync: when it will have ended it.
    pub(super) fn begin_sync(&mut self, what: Synced, fails: bool) -> Duration {
        let at = self.clock.now() + self.rng.duration(&self.faults.disk_latency);
        // Set before whoever waits sets his: it rings first.
        self.clock.set(at, Alarm::Sync(Sync { what, fails }));
        at
    }

    /// The alarms ring: whom they wake.
    pub(super) fn ring(&mut self, alarms: impl Iterator<Item = Alarm>) -> Vec<Waker> {
        alarms
            .filter_map(|alarm| match alarm {
                Alarm::Task(waker) => Some(waker),
                Alarm::Pipe(pipe) => self.net.arrived(pipe),
                Alarm::Sync(sync) => {
                    self.end_sync(&sync);
                    None
                }
            })
            .collect()
    }
}

/// The machine as its users hold it.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Machine>>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    /// A machine with an empty disk, switched off.
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
        Self(Arc::new(Mutex::new(Machine {
            boot: 0,
            clock: Clock::default(),
            app_rng: Rng::new(seed, Stream::App),
            rng: Rng::new(seed, Stream::Machine),
            crash_rng: Rng::new(seed, Stream::Crash),
            disk: Volume::new(),
            net: Net::default(),
            history: History::default(),
            faults,
            cut_points: 0,
            stop_at: None,
            stopped: Some(End::PowerCut),
        })))
    }

    /// The machine. A panic elsewhere does not make it wrong: the application's code never runs
    /// under the lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an operation of process `boot`: the machine, and the fault that strikes.
    ///
    /// Where the machine stops, this unwinds the application's stack, so that not one more line of
    /// it runs; destructors do, and find that every operation fails.
    ///
    /// # Errors
    /// `EIO` for a process that is dead.
    pub(super) fn begin(
        &self,
        boot: u64,
        kind: OpKind,
        path: &str,
    ) -> io::Result<(MutexGuard<'_, Machine>, Option<Fault>)> {
        let mut guard = self.lock();
        let machine = &mut *guard;
        if machine.boot != boot || machine.stopped.is_some() {
            return Err(Errno::IO.into());
        }
        let fault = machine.faults.strike(&mut machine.rng, kind, path);
        if kind.is_cut_point() {
            machine.cut_points += 1;
            if let Some((at, end)) = machine.stop_at
                && machine.cut_points >= at
            {
                machine.stopped = Some(end);
                machine.stop_at = None;
            }
        }
        match fault {
            Some(Fault::PowerCut) => machine.stopped = Some(End::PowerCut),
            Some(Fault::Kill) => machine.stopped = Some(End::Killed),
            _ => {}
        }
        if machine.stopped.is_some() {
            drop(guard);
            // `resume_unwind` does not call the panic hook: this is no panic of anybody's.
            resume_unwind(Box::new(Stopped));
        }
        Ok((guard, fault))
    }
}
