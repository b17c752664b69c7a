//! When each request is due. An open loop keeps its schedule whatever the broker does: latency
//! counts from the moment a request was due, so that a stall is felt by everybody who would have
//! come in it.

use crate::num;

/// How requests of an open loop are spread in time.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Arrival {
    /// At equal distances.
    #[default]
    Uniform,
    /// Independent of each other: exponentially distributed distances, seeded.
    Poisson,
}

/// The due times of one connection's requests, in nanoseconds of the run's clock.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// When the first request is due, or the phase starts.
    start_ns: u64,
    /// The mean distance of two requests in 2^-20 ns; 0: everything is due at once.
    interval: u128,
    /// How many requests have been taken.
    taken: u64,
    poisson: Option<Poisson>,
}

/// The state of a Poisson process.
#[derive(Clone, Debug)]
struct Poisson {
    state: u64,
    next_ns: f64,
}

impl Schedule {
    /// A closed loop: the next request is always due.
    #[must_use]
    pub fn closed() -> Self {
        Self { start_ns: 0, interval: 0, taken: 0, poisson: None }
    }

    /// An open loop of `per_second` requests over all of `connections`, of which this one is
    /// number `connection`: together they are spread evenly.
    #[must_use]
    pub fn open(
        per_second: f64,
        arrival: Arrival,
        connection: u32,
        connections: u32,
        start_ns: u64,
        seed: u64,
    ) -> Self {
        let connections = f64::from(connections.max(1));
        let apart_ns = 1e9 / per_second.max(1e-6);
        let interval_ns = apart_ns * connections;
        let poisson = match arrival {
            Arrival::Uniform => None,
            Arrival::Poisson => {
                let mut p = Poisson { state: seed ^ (u64::from(connection) << 32), next_ns: 0.0 };
                p.advance(interval_ns);
                Some(p)
            }
        };
        let phase_ns = match arrival {
            Arrival::Uniform => num::round(apart_ns * f64::from(connection)),
            Arrival::Poisson => 0,
        };
        Self {
            start_ns: start_ns.saturating_add(phase_ns),
            interval: u128::from(num::round(interval_ns * 1_048_576.0)).max(1),
            taken: 0,
            poisson,
        }
    }

    /// Whether requests have due times of their own.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.interval != 0
    }

    /// When the next request is due; of a closed loop, 0.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        match &self.poisson {
            Some(p) => self.start_ns.saturating_add(num::round(p.next_ns)),
            None => {
                // From the count, not from the previous time: no rounding adds up.
                let passed = (u128::from(self.taken) * self.interval) >> 20;
                self.start_ns.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
            }
        }
    }

    /// Takes the next request if it is due, and returns when it was: now, in a closed loop.
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        if !self.is_open() {
            self.taken += 1;
            return Some(now_ns);
        }
        let due_ns = self.due_ns();
        if due_ns > now_ns {
            return None;
        }
        self.taken += 1;
        #[expect(clippy::cast_precision_loss, reason = "a mean distance")]
        let interval_ns = self.interval as f64 / 1_048_576.0;
        if let Some(p) = &mut self.poisson {
            p.advance(interval_ns);
        }
        Some(due_ns)
    }
}

impl Poisson {
    fn advance(&mut self, mean_ns: f64) {
        // 53 random bits are a float in [0, 1); the logarithm wants (0, 1].
        #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
        let uniform = (num::random(&mut self.state) >> 11) as f64 / (1_u64 << 53) as f64;
        self.next_ns -= (1.0 - uniform).ln() * mean_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn due_times_never_go_back_and_the_rate_is_kept(
            per_second in 1.0_f64..5e6, connections in 1_u32..70, poisson: bool, seed: u64,
        ) {
            let arrival = if poisson { Arrival::Poisson } else { Arrival::Uniform };
            let mut total = 0_u64;
            let span_ns = num::round(4_000.0 / per_second * 1e9);
            for connection in 0..connections {
                let mut s =
                    Schedule::open(per_second, arrival, connection, connections, 1_000, seed);
                let mut last = 0;
                while let Some(due) = s.take(1_000 + span_ns) {
                    prop_assert!(due >= last && due >= 1_000);
                    last = due;
                    total += 1;
                }
                prop_assert!(s.due_ns() > 1_000 + span_ns);
            }
            // 4,000 are due; a Poisson count differs by 5 deviations once in millions.
            let slack = if poisson { 320 } else { 2 };
            prop_assert!(total.abs_diff(4_000) <= slack, "{total}");
        }
    }

    #[test]
    fn uniform_requests_of_all_connections_interleave() {
        let schedules: Vec<_> =
            (0..4).map(|c| Schedule::open(1_000.0, Arrival::Uniform, c, 4, 0, 0)).collect();
        let due: Vec<_> = schedules.iter().map(Schedule::due_ns).collect();
        assert_eq!(due, [0, 1_000_000, 2_000_000, 3_000_000]);
    }

    #[test]
    fn a_day_of_requests_keeps_its_pace() {
        let mut s = Schedule::open(3.0, Arrival::Uniform, 0, 1, 0, 0);
        s.taken = 3 * 86_400;
        assert!(s.due_ns().abs_diff(86_400 * 1_000_000_000) < 1_000_000);
    }

    #[test]
    fn a_closed_loop_is_always_due_now() {
        let mut s = Schedule::closed();
        assert_eq!((s.take(5), s.take(9), s.due_ns()), (Some(5), Some(9), 0));
    }
}
