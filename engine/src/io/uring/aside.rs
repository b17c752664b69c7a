//! Threads for what would make a core wait: one of each for all cores and any number of files, so
//! that the end of ten thousand partitions is not ten thousand threads.

use std::sync::{OnceLock, mpsc};

type Job = Box<dyn FnOnce() + Send>;

/// Closes files whose room takes long to free.
pub(super) static CLOSING: Aside = Aside::new("kariz-close");
/// Makes files. Not that of [`CLOSING`], which a file of a GiB keeps for half a second.
pub(super) static MAKING: Aside = Aside::new("kariz-make");

/// A thread that does one job after the other, on the CPUs that its starter may run on. It starts
/// when it is first needed.
pub(super) struct Aside {
    name: &'static str,
    /// The way to it, or `None` if it could not be started.
    jobs: OnceLock<Option<mpsc::Sender<Job>>>,
}

impl Aside {
    const fn new(name: &'static str) -> Self {
        Self { name, jobs: OnceLock::new() }
    }

    /// Starts it now.
    pub(super) fn start(&self) {
        self.jobs();
    }

    /// Has `job` done: by the thread, or here if there is none.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(job);
        let left = match self.jobs() {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = left {
            job();
        }
    }

    fn jobs(&self) -> Option<&mpsc::Sender<Job>> {
        let start = || {
            let (sender, jobs) = mpsc::channel::<Job>();
            let thread = std::thread::Builder::new().name(self.name.into());
            thread.spawn(move || jobs.into_iter().for_each(|job| job())).ok().map(|_| sender)
        };
        self.jobs.get_or_init(start).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_done_in_order_and_here_if_there_is_no_thread() {
        let here = std::thread::current().id();
        let none = Aside { name: "none", jobs: OnceLock::from(None) };
        for (aside, is_here) in [(Aside::new("one"), false), (none, true)] {
            let (sender, done) = mpsc::channel();
            for i in 0..100 {
                let sender = sender.clone();
                aside.run(move || sender.send((i, std::thread::current().id())).unwrap());
            }
            for i in 0..100 {
                let (job, by) = done.recv().unwrap();
                assert_eq!((job, by == here), (i, is_here));
            }
        }
    }
}
