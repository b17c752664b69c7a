//! One load core: an epoll loop over its connections. Nothing in it blocks or allocates as long as
//! all goes well.

use super::ExecError;
use crate::clock::Clock;
use crate::stats::Recorder;
use rustix::event::{Timespec, epoll};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Events taken from the kernel in one call.
const EVENTS: usize = 128;

/// How often connections are asked whether an answer is overdue.
const OVERDUE_CHECK_NS: u64 = 500_000_000;

/// The longest sleep of a core that does not spin: bounds how late a stop is noticed.
const SLEEP_NS_MAX: u64 = 50_000_000;

/// A moment in the loop, as connections see it.
pub(super) struct Turn<'t, 'h> {
    /// The time when the turn (or the reading of this connection) began.
    pub(super) now_ns: u64,
    /// For what must be timed closer.
    pub(super) clock: &'t Clock,
    /// Where numbers go.
    pub(super) recorder: &'t mut Recorder<'h>,
    /// Whether nothing new is to be begun.
    pub(super) stopping: bool,
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing was due.
    #[default]
    Nothing,
    /// Something left.
    Something,
    /// The connection is a new one.
    Reconnected,
}

/// One connection with what is to be done on it.
pub(super) trait Lane {
    /// The connection; non-blocking.
    fn socket(&self) -> &TcpStream;

    /// The clock starts.
    fn begin(&mut self, start_ns: u64);

    /// Takes what has arrived.
    fn receive(&mut self, turn: &mut Turn<'_, '_>) -> Result<(), ExecError>;

    /// Sends what is due.
    fn send(&mut self, turn: &mut Turn<'_, '_>) -> Result<Sent, ExecError>;

    /// Whether bytes wait for the socket to take more.
    fn is_blocked(&self) -> bool;

    /// When something is to be sent although nothing arrives.
    fn due_ns(&self) -> Option<u64>;

    /// Whether nothing is left to do.
    fn is_done(&self, stopping: bool) -> bool;

    /// When the oldest unanswered request was sent, and how long it may take.
    fn waiting_since(&self) -> Option<(u64, u64)>;
}

/// When and how a loop runs.
pub(super) struct Loop<'a> {
    pub(super) clock: &'a Clock,
    pub(super) start_ns: u64,
    /// When nothing new is to be begun.
    pub(super) end_ns: u64,
    /// Whether to look for work instead of sleeping.
    pub(super) spin: bool,
    /// The user wants to stop.
    pub(super) stop: &'a AtomicBool,
    /// Another core has failed.
    pub(super) failed: &'a AtomicBool,
}

/// What a loop did.
#[derive(Debug, Default)]
pub(super) struct Ran {
    /// Time in turns that had something to do.
    pub(super) busy_ns: u64,
    /// When the last answer came.
    pub(super) last_answer_ns: u64,
    /// Lanes that could not go on.
    pub(super) broken: Vec<Broken>,
}

/// A connection that ended before it was done.
#[derive(Debug)]
pub struct Broken {
    /// When, from the start of the phase.
    pub at_ns: u64,
    /// Why.
    pub why: ExecError,
}

/// A lane, and how the loop sees it.
struct Seat<'l, L> {
    lane: &'l mut L,
    /// Whether it is watched for room to write.
    blocked: bool,
    /// Whether it is over, although it is not done.
    broken: bool,
}

impl<L: Lane> Seat<'_, L> {
    fn due_ns(&self) -> Option<u64> {
        self.lane.due_ns().filter(|_| !self.broken)
    }

    fn is_done(&self, stopping: bool) -> bool {
        self.broken || self.lane.is_done(stopping)
    }

    /// Why it is to be given up, if an answer should have come before `now_ns`.
    fn overdue(&self, now_ns: u64) -> Option<ExecError> {
        let (since_ns, allowed_ns) = self.lane.waiting_since()?;
        (!self.broken && now_ns.saturating_sub(since_ns) > allowed_ns).then(|| {
            let address = self.lane.socket().peer_addr().ok();
            ExecError::NoAnswer { address, ms: allowed_ns / 1_000_000 }
        })
    }
}

impl Loop<'_> {
    /// Runs until all lanes are done. One that breaks ends alone: what the others do is still
    /// worth its numbers, and where a broker is killed on purpose, its acknowledgements.
    ///
    /// # Errors
    /// [`ExecError::Poll`].
    pub(super) fn run<L: Lane>(
        &self,
        lanes: &mut [L],
        mut recorder: Recorder<'_>,
    ) -> Result<Ran, ExecError> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut seats: Vec<_> =
            lanes.iter_mut().map(|lane| Seat { lane, blocked: false, broken: false }).collect();
        for (i, seat) in seats.iter_mut().enumerate() {
            seat.lane.begin(self.start_ns);
            watch(&poll, seat.lane.socket(), i, Watch::New { writable: false })?;
        }
        let mut events = Vec::with_capacity(EVENTS);
        let mut ran = Ran::default();
        let mut overdue_check_ns = self.start_ns + OVERDUE_CHECK_NS;
        let mut first_round = true;
        loop {
            let now_ns = self.clock.now_ns();
            let stopping = now_ns >= self.end_ns || self.stop.load(Ordering::Relaxed);
            if self.failed.load(Ordering::Relaxed) || seats.iter().all(|s| s.is_done(stopping)) {
                recorder.show();
                ran.last_answer_ns = recorder.finish();
                return Ok(ran);
            }
            recorder.tick(now_ns);
            let mut turn = Turn { now_ns, clock: self.clock, recorder: &mut recorder, stopping };
            events.clear();
            let timeout = self.timeout(&seats, now_ns, first_round);
            match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // Not before: a core that sleeps in the call above is not busy.
            let busy_from_ns = self.clock.now_ns();
            turn.now_ns = busy_from_ns;
            let mut worked = !events.is_empty();
            for event in &events {
                let i = crate::num::index(event.data.u64());
                let Some(seat) = seats.get_mut(i) else { continue };
                let flags = event.flags;
                if flags != epoll::EventFlags::OUT
                    && let Err(why) = seat.lane.receive(&mut turn)
                {
                    self.give_up(&poll, seat, why, turn.now_ns, &mut ran);
                }
                worked |= self.send(&poll, seat, i, &mut turn, &mut ran)?;
            }
            if worked {
                turn.now_ns = self.clock.now_ns();
            }
            for (i, seat) in seats.iter_mut().enumerate() {
                if first_round || seat.due_ns().is_some_and(|due| due <= turn.now_ns) {
                    worked |= self.send(&poll, seat, i, &mut turn, &mut ran)?;
                }
            }
            first_round = false;
            if worked {
                recorder.show();
                ran.busy_ns += self.clock.now_ns().saturating_sub(busy_from_ns);
            }
            if now_ns >= overdue_check_ns {
                overdue_check_ns = now_ns + OVERDUE_CHECK_NS;
                for seat in &mut seats {
                    if let Some(why) = seat.overdue(now_ns) {
                        self.give_up(&poll, seat, why, now_ns, &mut ran);
                    }
                }
            }
        }
    }

    fn send<L: Lane>(
        &self,
        poll: &OwnedFd,
        seat: &mut Seat<'_, L>,
        i: usize,
        turn: &mut Turn<'_, '_>,
        ran: &mut Ran,
    ) -> Result<bool, ExecError> {
        if seat.broken {
            return Ok(false);
        }
        let sent = match seat.lane.send(turn) {
            Ok(sent) => sent,
            Err(why) => {
                self.give_up(poll, seat, why, turn.now_ns, ran);
                return Ok(true);
            }
        };
        let writable = seat.lane.is_blocked();
        if sent == Sent::Reconnected {
            // The old socket is closed and so no longer watched.
            watch(poll, seat.lane.socket(), i, Watch::New { writable })?;
        } else if writable != seat.blocked {
            watch(poll, seat.lane.socket(), i, Watch::Again { writable })?;
        }
        seat.blocked = writable;
        Ok(sent != Sent::Nothing)
    }

    /// Ends a lane that cannot go on.
    fn give_up<L: Lane>(
        &self,
        poll: &OwnedFd,
        seat: &mut Seat<'_, L>,
        why: ExecError,
        now_ns: u64,
        ran: &mut Ran,
    ) {
        seat.broken = true;
        ran.broken.push(Broken { at_ns: now_ns.saturating_sub(self.start_ns), why });
        // An end of file would be told of in every turn. A socket that took the place of a watched
        // one is not watched yet, and that is as well.
        let _unwatched = epoll::delete(poll, seat.lane.socket());
    }

    /// How long to wait for events.
    fn timeout<L: Lane>(&self, seats: &[Seat<'_, L>], now_ns: u64, first: bool) -> Timespec {
        if self.spin || first {
            return Timespec { tv_sec: 0, tv_nsec: 0 };
        }
        let due = seats.iter().filter_map(Seat::due_ns).min().unwrap_or(u64::MAX);
        let due = due.min(if now_ns < self.end_ns { self.end_ns } else { u64::MAX });
        let wait_ns = due.saturating_sub(now_ns).min(SLEEP_NS_MAX);
        Timespec { tv_sec: 0, tv_nsec: i64::try_from(wait_ns).unwrap_or(0) }
    }
}

/// How a socket is to be watched.
#[derive(Clone, Copy)]
enum Watch {
    New { writable: bool },
    Again { writable: bool },
}

fn watch(poll: &OwnedFd, socket: &TcpStream, i: usize, how: Watch) -> Result<(), ExecError> {
    let (Watch::New { writable } | Watch::Again { writable }) = how;
    let mut flags = epoll::EventFlags::IN;
    flags.set(epoll::EventFlags::OUT, writable);
    let data = epoll::EventData::new_u64(u64::try_from(i).unwrap_or(u64::MAX));
    match how {
        Watch::New { .. } => epoll::add(poll, socket, data, flags)?,
        Watch::Again { .. } => epoll::modify(poll, socket, data, flags)?,
    }
    Ok(())
}
