//! What it costs to wake a thread that sleeps on another core, and to be woken by it: the least
//! that an append from a thread that is not the core's own can cost.

use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::CpuSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Round trips, of which the first tenth only warms up.
const ROUND_TRIPS: usize = 100_000;

/// Of all round trips.
pub(crate) struct RoundTrip {
    pub(crate) p50: Duration,
}

/// A thread on CPU `here` writes an eventfd and blocks in a read of another one; a thread on CPU
/// `there` does it the other way round.
pub(crate) fn measure(here: usize, there: usize) -> io::Result<RoundTrip> {
    // Now: a thread that ended early would leave the other one asleep.
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let is_allowed = |cpu| cpu < CpuSet::MAX_CPU && allowed.is_set(cpu);
    if let Some(cpu) = [here, there].into_iter().find(|cpu| !is_allowed(*cpu)) {
        return Err(io::Error::other(format!("this process may not run on CPU {cpu}")));
    }
    let ping = eventfd(0, EventfdFlags::CLOEXEC)?;
    let pong = eventfd(0, EventfdFlags::CLOEXEC)?;
    let trips = ROUND_TRIPS + ROUND_TRIPS / 10;
    let mut took = std::thread::scope(|scope| {
        let (ping, pong) = (&ping, &pong);
        let answering = scope.spawn(move || {
            pin(there)?;
            (0..trips).try_for_each(|_| wait(ping).and_then(|()| wake(pong)))
        });
        let asking = scope.spawn(move || {
            pin(here)?;
            (0..trips)
                .map(|_| {
                    let began = now();
                    wake(ping)?;
                    wait(pong)?;
                    Ok(began.elapsed())
                })
                .collect::<io::Result<Vec<Duration>>>()
        });
        let panicked = || io::Error::other("a thread panicked");
        let took = asking.join().map_err(|_| panicked())?;
        answering.join().map_err(|_| panicked())?.and(took)
    })?
    .split_off(ROUND_TRIPS / 10);
    took.sort_unstable();
    Ok(RoundTrip { p50: took[took.len() / 2] })
}

pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn wake(eventfd: &OwnedFd) -> io::Result<()> {
    // Any number but 0 and the greatest one wakes; this one is the same in either byte order.
    rustix::io::write(eventfd, &[1; 8]).map(drop).map_err(Into::into)
}

fn wait(eventfd: &OwnedFd) -> io::Result<()> {
    let mut word = [0; 8];
    rustix::io::read(eventfd, &mut word).map(drop).map_err(Into::into)
}

#[allow(clippy::disallowed_methods)] // A bench measures the machine's time.
fn now() -> Instant {
    Instant::now()
}
