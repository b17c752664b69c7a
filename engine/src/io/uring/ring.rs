//! The core's own ring: operations in flight, their submission, their completion.
//!
//! A turn ([`Ring::turn`]) submits all that was started since the last one and completes all that
//! is done, with one system call. The pump ([`super::pump::pump`]) runs a turn whenever there is something to
//! do, behind the tasks that are already ready, so that what they start goes down together.
//!
//! **Invariant:** whatever an operation touches (descriptor, memory) is owned by its slot in the
//! slab until the kernel's last completion for it, also when whoever started it is gone.

use super::buffers::{GROUP, Mapping, Pool};
use super::net::Inbox;
use super::op::{Events, Key, OnDrop, Op, Operation, Slot, State, Sync};
use super::setup::refused;
use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;

/// Submissions the kernel takes in one call; more wait for the next.
const SUBMISSIONS: u32 = 256;
/// Completions the kernel can post before it must queue them itself.
const COMPLETIONS: u32 = 4096;
/// Calls of the kernel in one turn at most, before the tasks that it woke run.
const ROUNDS: usize = 4;
/// Workers for what cannot be done without waiting (every fsync): enough to sync the files of a
/// group side by side; they share the core's CPU, so more would not be faster.
const WORKERS: u32 = 8;
/// The user data of submissions whose result nobody needs.
const UNHEEDED: u64 = u64::MAX;
/// How long [`Ring::shut`] waits for the kernel, in seconds; a disk that hangs longer costs the
/// memory lent to it.
const SHUT_SECONDS: u64 = 10;
/// Bytes that one read brings into the page cache.
const LOAD_BYTES: usize = 128 * 1024;

/// What a ring is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Receive buffers, a power of two. 128 of 64 KiB: 8 MiB a core.
    pub(super) buffers: u16,
    /// Whether to use what only newer kernels have, if this one does.
    pub(super) modern: bool,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { buffers: 128, modern: true }
    }
}

/// One core's ring; of that core's thread only.
pub(super) struct Ring {
    /// Before `pool`: fields drop in order, and the kernel must let go of the buffers first.
    uring: RefCell<IoUring>,
    pool: Pool,
    /// Where reads go that only fill the page cache. The kernel writes it, nobody reads it, so
    /// all such reads share it.
    scratch: Mapping,
    ops: RefCell<Slab<Slot>>,
    /// Started, not yet in the submission queue.
    queue: RefCell<VecDeque<squeue::Entry>>,
    /// Completions taken off the ring and not yet handled: a buffer kept for its memory.
    done: RefCell<Vec<cqueue::Entry>>,
    /// Connections whose receive found no buffer.
    starved: RefCell<Vec<Rc<Inbox>>>,
    /// The pump, while it sleeps.
    pump: RefCell<Option<Waker>>,
    eventfd: Arc<OwnedFd>,
    generation: Cell<u32>,
    /// Whether the kernel can limit a receive (Linux 6.17); cleared by its first refusal.
    limits_receive: Cell<bool>,
    /// Set by [`Ring::shut`]: nothing is started any more.
    shut: Cell<bool>,
}

impl Ring {
    /// Sets a ring up for the calling thread, its workers bound to `core`.
    ///
    /// # Errors
    /// What the kernel refused, and what to do about it.
    pub(super) fn new(sizes: Sizes, core: Option<usize>) -> io::Result<Self> {
        let pool = Pool::new(sizes.buffers)?;
        let uring = build(sizes.modern).map_err(|e| refused("io_uring_setup", e))?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let submitter = uring.submitter();
        submitter
            .register_eventfd(eventfd.as_raw_fd())
            .map_err(|e| refused("registering an eventfd", e))?;
        // SAFETY: the entries stay mapped until `pool` drops, after `uring`: see `Ring`.
        unsafe { submitter.register_buf_ring_with_flags(pool.address(), pool.count(), GROUP, 0) }
            .map_err(|e| refused("registering receive buffers (Linux 5.19)", e))?;
        // Workers do not inherit the thread's affinity: unbound they run on other cores' CPUs.
        if let Some(core) = core {
            submitter.register_iowq_aff(&only(core)?).map_err(|e| refused("binding workers", e))?;
        }
        submitter
            .register_iowq_max_workers(&mut [WORKERS, WORKERS])
            .map_err(|e| refused("limiting workers", e))?;
        Ok(Self {
            uring: RefCell::new(uring),
            pool,
            scratch: Mapping::new(LOAD_BYTES)?,
            ops: RefCell::default(),
            queue: RefCell::default(),
            done: RefCell::default(),
            starved: RefCell::default(),
            pump: RefCell::default(),
            eventfd: Arc::new(eventfd),
            generation: Cell::new(0),
            limits_receive: Cell::new(sizes.modern),
            shut: Cell::new(false),
        })
    }

    /// Makes all that was written to `file` durable.
    pub(super) fn sync(self: &Rc<Self>, file: Arc<OwnedFd>, what: Sync) -> Operation {
        let flags = match what {
            Sync::Data => types::FsyncFlags::DATASYNC,
            Sync::All => types::FsyncFlags::empty(),
        };
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build();
        self.start(entry, file, OnDrop::Leave)
    }

    /// Reads `len` bytes at `at`, or fewer, into the page cache; the result is how many.
    pub(super) fn load(self: &Rc<Self>, file: Arc<OwnedFd>, at: u64, len: u64) -> Operation {
        let len = len.min(LOAD_BYTES as u64);
        let (fd, len) = (types::Fd(file.as_raw_fd()), u32::try_from(len).unwrap_or(0));
        let entry = opcode::Read::new(fd, self.scratch.start(), len).offset(at).build();
        self.start(entry, file, OnDrop::Leave)
    }

    /// Waits for any of the poll(2) `events` on `fd`, or its end.
    pub(super) fn poll(self: &Rc<Self>, fd: &Arc<OwnedFd>, events: Events) -> Operation {
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events.bits()).build();
        self.start(entry, Arc::clone(fd), OnDrop::Cancel)
    }

    /// Begins to receive from `inbox`'s connection: until some `limit` bytes came, it ends, or
    /// [`Ring::cancel`].
    pub(super) fn receive(&self, inbox: &Rc<Inbox>, limit: usize) -> Option<Key> {
        if self.shut.get() {
            return None;
        }
        let mut entry = opcode::RecvMulti::new(types::Fd(inbox.fd().as_raw_fd()), GROUP).build();
        if self.limits_receive.get() {
            limit_receive(&mut entry, u32::try_from(limit).unwrap_or(u32::MAX));
        }
        let key = self.insert(Op::Receive(Rc::clone(inbox)));
        self.push(entry.user_data(key.user_data()));
        Some(key)
    }

    /// Asks for the end of an operation; its last completion still comes.
    pub(super) fn cancel(&self, key: Key) {
        self.push(opcode::AsyncCancel::new(key.user_data()).build().user_data(UNHEEDED));
    }

    /// Starts an operation that completes once. `entry` refers to no memory but the ring's own
    /// and no descriptor but `holds`.
    fn start(
        self: &Rc<Self>,
        entry: squeue::Entry,
        holds: Arc<OwnedFd>,
        on_drop: OnDrop,
    ) -> Operation {
        let state = if self.shut.get() {
            State::Done(-Errno::CANCELED.raw_os_error())
        } else {
            State::Waiting(None)
        };
        let key = self.insert(Op::Once { state, _holds: holds });
        if !self.shut.get() {
            self.push(entry.user_data(key.user_data()));
        }
        Operation::new(Rc::clone(self), key, on_drop)
    }

    /// What is in flight.
    pub(super) fn ops(&self) -> &RefCell<Slab<Slot>> {
        &self.ops
    }

    /// What the kernel signals when there is work, if [`Ring::signal`] is on.
    pub(super) fn eventfd(&self) -> &Arc<OwnedFd> {
        &self.eventfd
    }

    /// Whom the next submission wakes.
    pub(super) fn wake_for_work(&self, waker: &Waker) {
        let mut pump = self.pump.borrow_mut();
        if !pump.as_ref().is_some_and(|p| p.will_wake(waker)) {
            *pump = Some(waker.clone());
        }
    }

    fn insert(&self, op: Op) -> Key {
        let generation = self.generation.get();
        self.generation.set(generation.wrapping_add(1));
        let slot = self.ops.borrow_mut().insert(Slot { generation, op });
        Key::new(slot, generation)
    }

    fn push(&self, entry: squeue::Entry) {
        self.queue.borrow_mut().push_back(entry);
        let pump = self.pump.borrow_mut().take();
        if let Some(pump) = pump {
            pump.wake();
        }
    }

    /// Submits what was started, completes what is done.
    ///
    /// # Errors
    /// The ring is broken and the core cannot go on.
    pub(super) fn turn(&self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            self.pool.refill();
            self.submit()?;
            self.reap();
            if self.queue.borrow().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a turn would find something to do. No system call.
    pub(super) fn has_work(&self) -> bool {
        if !self.queue.borrow().is_empty() {
            return true;
        }
        let mut uring = self.uring.borrow_mut();
        let pending = {
            let submissions = uring.submission();
            submissions.taskrun() || submissions.cq_overflow() || !submissions.is_empty()
        };
        pending || !uring.completion().is_empty()
    }

    /// Whether the kernel signals the eventfd.
    pub(super) fn signal(&self, on: bool) {
        // The kernel flags pending work with a relaxed atomic before it looks at our flag. On
        // x86 that is a full barrier; elsewhere the two could pass each other, so there the
        // signal is always on and costs an idle turn now and then.
        if cfg!(target_arch = "x86_64") {
            let mut uring = self.uring.borrow_mut();
            let completions = uring.completion();
            if on {
                completions.enable_eventfd()
            } else {
                completions.disable_eventfd()
            }
            // Our flag must be out before `has_work` looks for the kernel's.
            fence(Ordering::SeqCst);
        }
    }

    /// One call of the kernel, if there is reason for one.
    fn submit(&self) -> io::Result<()> {
        let mut uring = self.uring.borrow_mut();
        {
            let mut queue = self.queue.borrow_mut();
            let mut submissions = uring.submission();
            while let Some(entry) = queue.front() {
                // SAFETY: all an entry refers to is a descriptor held by its slot in `ops`, which
                // lives until the last completion, and the pool, which outlives the ring.
                if unsafe { submissions.push(entry) }.is_err() {
                    break;
                }
                queue.pop_front();
            }
            if submissions.is_empty() && !submissions.taskrun() && !submissions.cq_overflow() {
                return Ok(());
            }
        }
        match uring.submit() {
            Ok(_) => Ok(()),
            // Interrupted, or too many completions wait for us: reap, then go on.
            Err(e)
                if matches!(e.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Handles all completions that are there.
    fn reap(&self) {
        let mut done = self.done.take();
        done.extend(self.uring.borrow_mut().completion());
        for entry in done.drain(..) {
            self.complete(&entry);
        }
        self.done.replace(done);
        if !self.starved.borrow().is_empty() && self.pool.refill() {
            for inbox in self.starved.take() {
                inbox.resume(self);
            }
        }
    }

    fn complete(&self, entry: &cqueue::Entry) {
        if entry.user_data() == UNHEEDED {
            return;
        }
        let key = Key::of(entry.user_data());
        let result = entry.result();
        let last = !cqueue::more(entry.flags());
        // What is woken or dropped may come back to `ops`: only after its borrow has ended.
        let mut ops = self.ops.borrow_mut();
        let Some(slot) = ops.get_mut(key.slot()).filter(|s| s.generation == key.generation())
        else {
            debug_assert!(false, "a completion for no operation: {entry:?}");
            return;
        };
        match &mut slot.op {
            Op::Once { state: State::Abandoned, .. } => {
                let slot = ops.remove(key.slot());
                drop(ops);
                drop(slot);
            }
            Op::Once { state, .. } => {
                let before = std::mem::replace(state, State::Done(result));
                drop(ops);
                if let State::Waiting(Some(waker)) = before {
                    waker.wake();
                }
            }
            Op::Receive(inbox) => {
                let inbox = Rc::clone(inbox);
                let slot = last.then(|| ops.remove(key.slot()));
                drop(ops);
                drop(slot);
                self.received(&inbox, result, cqueue::buffer_select(entry.flags()), last);
            }
        }
    }

    fn received(&self, inbox: &Rc<Inbox>, result: i32, buffer: Option<u16>, last: bool) {
        let got = match (usize::try_from(result), buffer) {
            (Ok(len), Some(id)) if len > 0 => Ok(self.pool.take(id, len)),
            (outcome, buffer) => {
                if let Some(id) = buffer {
                    self.pool.untake(id);
                }
                match outcome {
                    Ok(_) => Ok(Bytes::new()),
                    Err(_) => Err(Errno::from_raw_os_error(result.wrapping_neg())),
                }
            }
        };
        match got {
            // Before Linux 6.17: again, without a limit.
            Err(Errno::INVAL) if self.limits_receive.replace(false) => {
                inbox.received(self, Err(Errno::INTR), last);
            }
            Err(Errno::NOBUFS) => {
                self.pool.ran_out();
                self.starved.borrow_mut().push(Rc::clone(inbox));
                inbox.received(self, Err(Errno::NOBUFS), last);
            }
            got => inbox.received(self, got, last),
        }
    }

    /// Ends everything and waits until the kernel has let go of all that was lent to it. False:
    /// it has not, so the ring must not be dropped.
    pub(super) fn shut(&self) -> bool {
        self.shut.set(true);
        let ops: Vec<_> = {
            let ops = self.ops.borrow();
            let keys = ops.iter().map(|(slot, s)| (slot, s.generation));
            keys.map(|(slot, generation)| Key::new(slot, generation)).collect()
        };
        ops.into_iter().for_each(|key| self.cancel(key));
        let wait = types::Timespec::new().sec(1);
        let wait = types::SubmitArgs::new().timespec(&wait);
        for _ in 0..SHUT_SECONDS {
            while self.has_work() {
                if self.turn().is_err() {
                    return false;
                }
            }
            if !self.in_flight() {
                return true;
            }
            // An error is the timeout, or an interruption: both are counted.
            drop(self.uring.borrow_mut().submitter().submit_with_args(1, &wait));
        }
        false
    }

    /// Whether the kernel has an operation.
    fn in_flight(&self) -> bool {
        let done = |slot: &Slot| matches!(slot.op, Op::Once { state: State::Done(_), .. });
        self.ops.borrow().iter().any(|(_, slot)| !done(slot))
    }
}

thread_local! {
    /// The ring of the core that this thread is.
    static CURRENT: RefCell<Weak<Ring>> = const { RefCell::new(Weak::new()) };
}

impl Ring {
    /// The calling thread's ring.
    ///
    /// # Errors
    /// The thread is no core.
    pub(super) fn current() -> io::Result<Rc<Self>> {
        let why = "this thread runs no core: only within `Uring::run` can one wait for a disk";
        CURRENT.with_borrow(Weak::upgrade).ok_or_else(|| io::Error::other(why))
    }
}

/// Makes a ring the calling thread's, until dropped; then shuts it.
pub(super) struct Home(Rc<Ring>);

impl Home {
    pub(super) fn new(ring: Rc<Ring>) -> io::Result<Self> {
        if Ring::current().is_ok() {
            return Err(io::Error::other("this thread runs a core already"));
        }
        CURRENT.set(Rc::downgrade(&ring));
        Ok(Self(ring))
    }

    pub(super) fn ring(&self) -> &Rc<Ring> {
        &self.0
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        CURRENT.set(Weak::new());
        if !self.0.shut() {
            // The kernel still has memory and descriptors of ours: they are its for good.
            std::mem::forget(Rc::clone(&self.0));
        }
    }
}

/// A ring; from Linux 6.1 on one that defers its work to our turns, if `modern`.
fn build(modern: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(COMPLETIONS).setup_submit_all();
    let plain = builder.clone();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
    match modern.then(|| builder.build(SUBMISSIONS)) {
        Some(Err(e)) if e.raw_os_error() == Some(libc::EINVAL) => plain.build(SUBMISSIONS),
        Some(built) => built,
        None => plain.build(SUBMISSIONS),
    }
}

/// Lets a multishot receive end after `bytes` bytes (`sqe->optlen`). Without it a receive goes on
/// for 32 buffers before it can be cancelled.
fn limit_receive(entry: &mut squeue::Entry, bytes: u32) {
    const { assert!(size_of::<squeue::Entry>() == 64 && align_of::<squeue::Entry>() >= 4) };
    let words: *mut [u32; 16] = ptr::from_mut(entry).cast();
    // SAFETY: an entry is the kernel's `io_uring_sqe`, `repr(C)`, of the size and alignment just
    // asserted; all its bits are plain integers, and it is borrowed exclusively.
    let words = unsafe { &mut *words };
    words[11] = bytes; // the crate has no setter for byte 44, `optlen`
}

/// The CPU set of `core` alone.
fn only(core: usize) -> io::Result<libc::cpu_set_t> {
    if core >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        return Err(io::Error::other(format!("core {core} is past the kernel's CPU_SETSIZE")));
    }
    // SAFETY: a set is an array of integers, for which zeros are a value: the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `core` was checked to lie in the set; the call only sets its bit.
    unsafe { libc::CPU_SET(core, &mut set) };
    Ok(set)
}
