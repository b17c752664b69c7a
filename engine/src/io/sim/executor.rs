//! Tasks: ready ones run in the order in which they were woken, and time moves when none is ready.

use super::machine::{Shared, Stopped};
use rustc_hash::FxHashMap;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Polls in a row without a pause after which time moves all the same: tasks that wake each other
/// until a deadline comes are slow on a real machine too.
const SPIN_POLLS: u64 = 10_000;

/// So many times `SPIN_POLLS`, with no alarm set: nothing will ever change.
const SPINS_MAX: u64 = 100;

type Task = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that are ready, in order.
#[derive(Default)]
struct Ready(Mutex<VecDeque<u64>>);

impl Ready {
    fn push(&self, task: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(task);
    }

    fn pop(&self) -> Option<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

/// Wakes one task. Wakers must be `Send`, tasks are not: so it knows only the task's number.
struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.push(self.task);
        }
    }
}

struct Slot {
    /// None while it is being polled.
    task: Option<Task>,
    waker: Arc<TaskWaker>,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Halt {
    /// What it ran for is there.
    Finished,
    /// No task is ready, and no alarm is set.
    Idle,
    /// Time is up.
    Late,
    /// The machine stopped.
    Stopped,
}

/// The tasks of one process.
pub(super) struct Tasks {
    slots: RefCell<FxHashMap<u64, Slot>>,
    ready: Arc<Ready>,
    next: Cell<u64>,
    dead: Cell<bool>,
}

impl Tasks {
    pub(super) fn new() -> Self {
        Self {
            slots: RefCell::default(),
            ready: Arc::default(),
            next: Cell::new(0),
            dead: Cell::new(false),
        }
    }

    /// Runs `task` behind all that are ready; not at all if the process is dead.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if self.dead.get() {
            return;
        }
        let number = self.next.get();
        self.next.set(number + 1);
        let ready = Arc::clone(&self.ready);
        let waker = Arc::new(TaskWaker { task: number, queued: AtomicBool::new(true), ready });
        let task: Option<Task> = Some(Box::pin(task));
        self.slots.borrow_mut().insert(number, Slot { task, waker });
        self.ready.push(number);
    }

    /// Drops every task, and takes no more. In the order in which they were spawned: what their
    /// destructors do belongs to the history.
    pub(super) fn kill(&self) {
        self.dead.set(true);
        let mut slots: Vec<_> = self.slots.borrow_mut().drain().collect();
        slots.sort_unstable_by_key(|(number, _)| *number);
        slots.into_iter().for_each(drop);
    }

    /// Runs until `finished`, or until machine time `until`.
    ///
    /// # Panics
    /// With what a task panicked with.
    pub(super) fn run(
        &self,
        shared: &Shared,
        until: Duration,
        finished: impl Fn() -> bool,
    ) -> Halt {
        let mut polls = 0;
        let mut spins = 0;
        loop {
            if finished() {
                return Halt::Finished;
            }
            if polls < SPIN_POLLS
                && let Some(number) = self.ready.pop()
            {
                polls += 1;
                match self.poll(number) {
                    Ok(()) => continue,
                    Err(payload) if payload.is::<Stopped>() => return Halt::Stopped,
                    Err(payload) => resume_unwind(payload),
                }
            }
            let woken = {
                let mut machine = shared.lock();
                match machine.clock.next_alarm() {
                    Some(at) if at <= until => {
                        let alarms = machine.clock.advance(at);
                        machine.ring(alarms)
                    }
                    Some(_) => return Halt::Late,
                    None if polls >= SPIN_POLLS && spins < SPINS_MAX => {
                        spins += 1;
                        Vec::new()
                    }
                    None => return Halt::Idle,
                }
            };
            polls = 0;
            woken.into_iter().for_each(Waker::wake);
        }
    }

    fn poll(&self, number: u64) -> Result<(), Box<dyn Any + Send>> {
        let (mut task, waker) = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(&number) else { return Ok(()) };
            slot.waker.queued.store(false, Ordering::Relaxed);
            let Some(task) = slot.task.take() else { return Ok(()) };
            (task, Waker::from(Arc::clone(&slot.waker)))
        };
        let mut cx = Context::from_waker(&waker);
        // What the task shares with others may be half changed when the machine stops under it;
        // but then it all dies, as with a real one.
        let polled = catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            if let Some(slot) = self.slots.borrow_mut().get_mut(&number) {
                slot.task = Some(task);
            }
            return Ok(());
        }
        let slot = self.slots.borrow_mut().remove(&number);
        // Destructors run here, with nothing borrowed: they may spawn.
        drop((task, slot));
        polled.map(|_| ())
    }
}
