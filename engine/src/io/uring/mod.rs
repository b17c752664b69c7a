//! Production: one pinned thread a core.
//!
//! The runtime (tasks, timers) is tokio-uring's. What must wait for disk or network goes through
//! a second, private ring, set up for one thread (`SINGLE_ISSUER`, `DEFER_TASKRUN`): its pump is
//! a task that the ring's eventfd wakes. What the kernel does at once (a `pwrite` into the page
//! cache, a `sendfile` to a socket with room) is a plain system call and not the ring's.
//!
//! Needs Linux 6.0; uses what 6.1 (deferred work) and 6.17 (limited receives) have more.

#![allow(unsafe_code)] // the one place in the engine: each block proves its one operation

mod aside;
mod buffers;
mod file;
mod net;
mod op;
mod pump;
mod ring;
mod setup;
#[cfg(test)]
mod tests;

pub use file::File;
pub(crate) use file::start_aside;
pub use net::{Conn, Listener};
pub use setup::SetupError;
pub(crate) use setup::probe;

use super::{Entry, Io, OpenMode, is_out_of_descriptors};
use crate::types::{Instant, Timestamp};
use op::Sync;
use pump::pump;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use ring::{Home, Ring, Sizes};
use setup::refused;
use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::future::{self, Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Submissions of tokio-uring's own ring, which carries none of ours.
const RUNTIME_SUBMISSIONS: u32 = 8;

/// Between tries to open a directory that is to be synced, while there is no descriptor for it.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often that is tried again: others may be done with theirs by then.
const OPEN_TRIES: u32 = 50;

/// Disk, network, clock and tasks of the core that runs on this thread.
#[derive(Clone)]
pub struct Uring {
    core: Rc<Core>,
}

struct Core {
    ring: Rc<Ring>,
    random: RefCell<StdRng>,
    /// Why the core cannot go on, if so; and the task to tell.
    failure: RefCell<Option<Failure>>,
    main: RefCell<Option<Waker>>,
}

enum Failure {
    /// A task's panic, to go on in [`Uring::run`].
    Panic(Box<dyn Any + Send>),
    /// The ring's.
    Ring(io::Error),
}

impl Uring {
    /// Makes this thread a core, pinned to CPU `core` if there is one, and runs `f` on it to its
    /// end; tasks that it leaves are dropped.
    ///
    /// # Errors
    /// What the system refused, by name: the CPU, io_uring (a [`SetupError`] in it); or the ring
    /// broke.
    ///
    /// # Panics
    /// Panics of tasks go on here: a core without one of its tasks is not to be trusted.
    pub fn run<T, F>(core: Option<usize>, f: impl FnOnce(Self) -> F) -> io::Result<T>
    where
        F: Future<Output = T>,
    {
        Self::run_with(Sizes::default(), core, f)
    }

    fn run_with<T, F>(sizes: Sizes, core: Option<usize>, f: impl FnOnce(Self) -> F) -> io::Result<T>
    where
        F: Future<Output = T>,
    {
        started(); // time begins no later than here
        if let Some(id) = core {
            let possible = id < usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
            if !possible || !core_affinity::set_for_current(core_affinity::CoreId { id }) {
                let why = "is it online, and in this process's CPU set?";
                return Err(io::Error::other(format!("cannot pin a thread to CPU {id}: {why}")));
            }
        }
        // Dropped in the opposite order: the tasks, and only then the ring they used.
        let ring = Home::new(Rc::new(Ring::new(sizes, core)?))?;
        let mut builder = tokio_uring::builder();
        let runtime = tokio_uring::Runtime::new(builder.entries(RUNTIME_SUBMISSIONS))
            .map_err(|e| refused("starting the runtime", e))?;
        let io = Self {
            core: Rc::new(Core {
                ring: Rc::clone(ring.ring()),
                random: RefCell::new(StdRng::from_os_rng()),
                failure: RefCell::default(),
                main: RefCell::default(),
            }),
        };
        let outcome = runtime.block_on(io.main(f));
        drop(runtime);
        match outcome {
            Ok(done) => Ok(done),
            Err(Failure::Ring(e)) => Err(e),
            Err(Failure::Panic(panic)) => resume_unwind(panic),
        }
    }

    /// Runs `f` until it ends or the core fails.
    async fn main<T, F>(self, f: impl FnOnce(Self) -> F) -> Result<T, Failure>
    where
        F: Future<Output = T>,
    {
        let (pumped, ring) = (self.clone(), Rc::clone(&self.core.ring));
        self.spawn(async move { pumped.core.fail(Failure::Ring(pump(ring).await)) });
        let mut main = pin!(f(self.clone()));
        poll_fn(|cx| {
            if let Some(failure) = self.core.failure.take() {
                return Poll::Ready(Err(failure));
            }
            self.core.main.replace(Some(cx.waker().clone()));
            main.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

impl Core {
    fn fail(&self, failure: Failure) {
        self.failure.replace(Some(failure));
        if let Some(main) = self.main.take() {
            main.wake();
        }
    }
}

/// When the clock of this process began.
#[allow(clippy::disallowed_methods)] // the seam itself
fn started() -> std::time::Instant {
    static STARTED: OnceLock<std::time::Instant> = OnceLock::new();
    *STARTED.get_or_init(std::time::Instant::now)
}

impl Io for Uring {
    type File = File;
    type Listener = Listener;
    type Conn = Conn;

    fn now(&self) -> Instant {
        Instant(started().elapsed())
    }

    #[allow(clippy::disallowed_methods)] // the seam itself
    fn timestamp(&self) -> Timestamp {
        let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ms = since_1970.map_or(0, |d| d.as_millis());
        Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u64 {
        self.core.random.borrow_mut().next_u64()
    }

    fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + 'static {
        let at = started().checked_add(at.0);
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => future::pending().await, // past the end of time
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let core = Rc::downgrade(&self.core);
        // Not joined: a panic is passed on, and what is left at the end is dropped.
        drop(tokio_uring::spawn(async move {
            let mut task = pin!(task);
            let caught =
                poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(|()| None),
                    Err(panic) => Poll::Ready(Some(panic)),
                });
            if let (Some(panic), Some(core)) = (caught.await, core.upgrade()) {
                core.fail(Failure::Panic(panic));
            }
        }));
    }

    fn open(&self, path: &Path, how: OpenMode) -> io::Result<File> {
        File::open(path, how)
    }

    fn create(
        &self,
        path: &Path,
        allocate: u64,
    ) -> impl Future<Output = io::Result<File>> + 'static {
        let path = path.to_owned();
        async move { File::create(&path, allocate).await }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(Entry { name, is_dir: entry.file_type()?.is_dir() });
            }
        }
        entries.sort_unstable();
        Ok(entries)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(dir)
    }

    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + 'static {
        let open = |dir: &Path| File::open_dir(dir).and_then(|dir| dir.start_sync(Sync::All));
        let (mut begun, io, dir) = (open(dir), self.clone(), dir.to_owned());
        async move {
            // Whoever waits for this takes an error for the disk's, and gives the partition up.
            for _ in 0..OPEN_TRIES {
                if !begun.as_ref().is_err_and(is_out_of_descriptors) {
                    break;
                }
                io.sleep(OPEN_AGAIN_AFTER).await;
                begun = open(&dir);
            }
            begun?.await.map(drop)
        }
    }

    fn listen(&self, at: SocketAddr) -> io::Result<Listener> {
        Listener::new(Rc::clone(&self.core.ring), at)
    }
}
