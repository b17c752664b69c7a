//! One line that says how far the run is. On a terminal it is rewritten in place, twice a second
//! at most; elsewhere only what begins is said.

use super::text;
use crate::exec::{Progress, Watcher};
use std::io::{IsTerminal, Write, stderr};

/// Columns of the bar.
const BAR: u64 = 20;

/// The line of one phase.
#[derive(Clone, Debug)]
pub struct Line {
    name: String,
    /// When it will be over, if that is known.
    duration_ns: Option<u64>,
    /// How much it will send, if that is known.
    bytes: Option<u64>,
    on: bool,
    terminal: bool,
}

impl Line {
    /// A line for the phase `name`; it is silent if `quiet`.
    #[must_use]
    pub fn new(name: &str, duration_ns: Option<u64>, bytes: Option<u64>, quiet: bool) -> Self {
        let terminal = stderr().is_terminal();
        let this = Self { name: name.to_owned(), duration_ns, bytes, on: !quiet, terminal };
        if this.on {
            let end = if terminal { "" } else { "\n" };
            this.put(&format!("{name} ...{end}"));
        }
        this
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.on && self.terminal {
            self.put("");
        }
    }

    fn put(&self, text: &str) {
        // There is nobody to tell that the progress cannot be shown.
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        let _shown = write!(stderr(), "{start}{text}").and_then(|()| stderr().flush());
    }

    fn line(&self, p: Progress) -> String {
        let share = |done: u64, all: Option<u64>| {
            all.map(|all| done.min(all).saturating_mul(1000) / all.max(1))
        };
        let done = share(p.elapsed_ns, self.duration_ns).max(share(p.bytes, self.bytes));
        let bar = done.map_or(String::new(), |done| {
            let full = crate::num::index(done * BAR / 1000);
            let rest = crate::num::index(BAR) - full;
            format!(" [{}{}]", "=".repeat(full), " ".repeat(rest))
        });
        let per_s = |n| crate::num::per_second(n, p.elapsed_ns);
        format!(
            "{}{bar} {} s  {} records/s  {}  {} requests/s",
            self.name,
            p.elapsed_ns / 1_000_000_000,
            text::count(per_s(p.records)),
            text::throughput(per_s(p.bytes)),
            text::count(per_s(p.requests)),
        )
    }
}

impl Watcher for Line {
    fn show(&self, progress: Progress) {
        if self.on && self.terminal {
            self.put(&self.line(progress));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        let line = Line {
            name: "produce".into(),
            duration_ns: Some(10_000_000_000),
            bytes: None,
            on: false,
            terminal: false,
        };
        let p = Progress {
            elapsed_ns: 5_000_000_000,
            requests: 500_000,
            records: 5_000_000,
            bytes: 500_000_000,
        };
        assert_eq!(
            line.line(p),
            "produce [==========          ] 5 s  1.00 M records/s  100 MB/s  100 k requests/s"
        );
    }
}
