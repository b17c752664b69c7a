//! Virtual time: it stands still while a task is ready, and jumps to the next alarm when none is.

use super::machine::Shared;
use super::volume::Inode;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Wall-clock time at which every simulation begins, in ms since 1970: 2026-01-01T00:00:00Z.
const WALL_START_MS: i64 = 1_767_225_600_000;

/// What happens when an alarm rings.
#[derive(Debug)]
pub(super) enum Alarm {
    /// A task that sleeps wakes.
    Task(Waker),
    /// Bytes arrive in this pipe.
    Pipe(u64),
    /// The disk ends a sync, whether or not somebody still waits for it.
    Sync(Sync),
}

/// A sync on its way.
#[derive(Debug)]
pub(super) struct Sync {
    pub(super) what: Synced,
    /// It ends badly: what it covers is lost.
    pub(super) fails: bool,
}

/// What a sync covers.
#[derive(Debug)]
pub(super) enum Synced {
    /// The content of a file, as captured under this number.
    File(u64),
    /// The names in directory `dir` that were changed up to the moment `until`.
    Dir { dir: Inode, until: u64 },
}

/// An alarm's key: when it rings, and its number among those that ring at that moment.
pub(super) type AlarmKey = (Duration, u64);

/// The machine's clocks and alarms. Time counts from the machine's making, over all boots.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: Duration,
    booted: Duration,
    wall_step_ms: i64,
    alarms: BTreeMap<AlarmKey, Alarm>,
    set: u64,
}

impl Clock {
    /// Time since the machine was made.
    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// Time since the last boot: what a process sees.
    pub(super) fn uptime(&self) -> Duration {
        self.now.saturating_sub(self.booted)
    }

    /// The moment at which a process's clock shows `uptime`.
    pub(super) fn at_uptime(&self, uptime: Duration) -> Duration {
        self.booted.saturating_add(uptime)
    }

    /// Wall-clock time in ms since 1970.
    pub(super) fn wall_ms(&self) -> i64 {
        let since = i64::try_from(self.now.as_millis()).unwrap_or(i64::MAX);
        WALL_START_MS.saturating_add(since).saturating_add(self.wall_step_ms)
    }

    /// Sets the wall clock forward or back.
    pub(super) fn step_wall(&mut self, ms: i64) {
        self.wall_step_ms = self.wall_step_ms.saturating_add(ms);
    }

    /// Starts a process's clock, and takes the alarms of the last process.
    pub(super) fn boot(&mut self) -> impl Iterator<Item = Alarm> + use<> {
        self.booted = self.now;
        std::mem::take(&mut self.alarms).into_values()
    }

    /// Rings `alarm` at `at`; alarms of one moment ring in the order in which they were set.
    pub(super) fn set(&mut self, at: Duration, alarm: Alarm) -> AlarmKey {
        self.set += 1;
        self.alarms.insert((at, self.set), alarm);
        (at, self.set)
    }

    /// Replaces whom an alarm wakes, if it has not rung yet.
    fn replace(&mut self, key: AlarmKey, waker: &Waker) -> bool {
        let Some(alarm) = self.alarms.get_mut(&key) else { return false };
        *alarm = Alarm::Task(waker.clone());
        true
    }

    /// Takes an alarm back.
    fn unset(&mut self, key: AlarmKey) {
        self.alarms.remove(&key);
    }

    /// When the next alarm rings.
    pub(super) fn next_alarm(&self) -> Option<Duration> {
        self.alarms.first_key_value().map(|((at, _), _)| *at)
    }

    /// Moves time to `to`, never back, and takes the alarms that ring until then, in order.
    pub(super) fn advance(&mut self, to: Duration) -> impl Iterator<Item = Alarm> + use<> {
        self.now = self.now.max(to);
        let later = self.alarms.split_off(&(self.now, u64::MAX));
        std::mem::replace(&mut self.alarms, later).into_values()
    }
}

/// A wait until a moment of machine time.
#[derive(Debug)]
pub(super) struct Sleep {
    shared: Shared,
    boot: u64,
    at: Duration,
    alarm: Option<AlarmKey>,
}

impl Sleep {
    pub(super) fn new(shared: Shared, boot: u64, at: Duration) -> Self {
        Self { shared, boot, at, alarm: None }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut machine = this.shared.lock();
        if machine.boot != this.boot {
            return Poll::Pending; // The process this sleeper belonged to is dead.
        }
        if machine.clock.now() >= this.at {
            if let Some(key) = this.alarm.take() {
                machine.clock.unset(key);
            }
            return Poll::Ready(());
        }
        if !this.alarm.is_some_and(|key| machine.clock.replace(key, cx.waker())) {
            this.alarm = Some(machine.clock.set(this.at, Alarm::Task(cx.waker().clone())));
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(key) = self.alarm {
            let mut machine = self.shared.lock();
            if machine.boot == self.boot {
                machine.clock.unset(key);
            }
        }
    }
}
