//! The result: a table, and all that went into it as JSON.

use crate::cases::{CEILING, MISSING, Row, Subject};
use crate::job::Durability;
use crate::rounds::{Measured, Outcome, durability};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a subject did in all rounds of a row.
struct Cell {
    /// Batches a second: the median, the least and the most.
    rate: [f64; 3],
    /// Of the ceiling's rate: the median of the rounds' shares.
    share: f64,
    /// Of that of the ceiling that is synced behind, if the row has one.
    share_behind: Option<f64>,
    cpu_ns: f64,
    counts: Vec<(String, f64)>,
}

fn cell(outcome: &Outcome, which: usize) -> Option<Cell> {
    let Outcome { row, rounds } = outcome;
    let good: Vec<&Measured> = rounds.get(which)?.iter().flatten().collect();
    let rates = sorted(good.iter().map(|m| m.rate()));
    let share = |ceiling: &Vec<Result<Measured, String>>| {
        let both = rounds[which].iter().zip(ceiling);
        let both = both.filter_map(|(m, c)| Some((m.as_ref().ok()?, c.as_ref().ok()?)));
        median(&sorted(both.map(|(m, c)| m.rate() / c.rate())))
    };
    let is_behind = |s: &Subject| s.name == CEILING && s.durability == Durability::Behind;
    let behind = row.subjects.iter().position(is_behind);
    let count = |name: &String| {
        let of = |m: &&Measured| m.counts.get(name).copied().unwrap_or(0) as f64;
        (name.clone(), median(&sorted(good.iter().map(of))))
    };
    Some(Cell {
        rate: [median(&rates), *rates.first()?, *rates.last()?],
        share: share(rounds.first()?),
        share_behind: behind.map(|at| share(&rounds[at])),
        cpu_ns: median(&sorted(good.iter().map(|m| m.cpu_ns_a_batch()))),
        counts: good.first()?.counts.keys().map(count).collect(),
    })
}

fn sorted(of: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all
}

/// The middle one, or the mean of the middle two.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    match (sorted.get(middle), middle.checked_sub(1).and_then(|low| sorted.get(low))) {
        (Some(high), Some(low)) if sorted.len().is_multiple_of(2) => f64::midpoint(*low, *high),
        (Some(one), _) => *one,
        (None, _) => f64::NAN,
    }
}

/// The result as text: Markdown, as it goes into a directory of results.
pub(crate) fn text(command: &str, environment: &Value, outcomes: &[Outcome]) -> String {
    let said = |name: &str| environment[name].as_str().unwrap_or("unknown").to_owned();
    let machine = &environment["machine"];
    let mut out =
        format!("# Append\n\n`{command}` at {}", said("commit").get(..12).unwrap_or("unknown"));
    if environment["clean"] != true {
        out += " (with changes that are not committed)";
    }
    let (kernel, cpu) = (machine["kernel"].as_str(), machine["cpu"].as_str());
    let facts = format!(
        "\n\n{}, {}, {} CPUs; {}, write cache {}.\n\n",
        kernel.unwrap_or("unknown"),
        cpu.unwrap_or("unknown"),
        machine["cpus"],
        said("file_system"),
        said("write_cache"),
    );
    out += &facts;
    out += "Rates are medians, with the least and the most; a share is the median over rounds of \
            this rate to that of `pwritev` in the same round, and to that of `pwritev` synced \
            behind. CPU is that of all threads of the process, all of which run on one CPU. Bytes \
            are those of the batches, or payloads.\n\n\
            | Row | Who | Batches/s | Least, most | MB/s | Share | Of it synced behind | CPU, ns/batch | Counted |\n\
            |---|---|---|---|---|---|---|---|---|\n";
    for outcome in outcomes {
        for line in lines(outcome) {
            out += &line;
        }
    }
    out += "\nHow each does it:\n\n";
    let mut told = Vec::new();
    for subject in outcomes.iter().flat_map(|o| &o.row.subjects) {
        let line =
            format!("- {}, {}: {}.\n", subject.name, durability(subject.durability), subject.says);
        if !told.contains(&line) {
            out += &line;
            told.push(line);
        }
    }
    let all = || outcomes.iter().flat_map(|o| o.rounds.iter().flatten().flatten());
    let syscalls = sorted(all().map(|m| m.syscall_ns as f64));
    let loads = sorted(all().map(|m| m.loadavg));
    let stolen = all().map(|m| m.stolen_percent).fold(0.0, f64::max);
    let ends = |sorted: &[f64]| match sorted {
        [first, .., last] => [*first, *last],
        _ => [median(sorted); 2],
    };
    let ([fast, slow], [quiet, busy]) = (ends(&syscalls), ends(&loads));
    // Into a string: it cannot fail.
    let _written = write!(
        out,
        "\nA system call took {:.0} ns ({fast:.0} to {slow:.0}). The host took at most {stolen:.1} % \
         of the CPUs during a measurement; the load average was {quiet:.1} to {busy:.1}, of which 1 \
         is this program's own.\n",
        median(&syscalls),
    );
    out
}

fn lines(outcome: &Outcome) -> Vec<String> {
    let Outcome { row, rounds } = outcome;
    let mut lines = Vec::new();
    for (which, (subject, measured)) in row.subjects.iter().zip(rounds).enumerate() {
        let who = match subject.durability {
            Durability::Behind => format!("{}, {}", subject.name, durability(subject.durability)),
            _ => subject.name.to_owned(),
        };
        let start = format!("| {} | {who} |", row.name());
        let failed = measured.iter().find_map(|m| m.as_ref().err());
        lines.push(match (cell(outcome, which), failed) {
            (Some(cell), _) => {
                let [median, least, most] = cell.rate;
                let behind = cell.share_behind.map_or(String::new(), |share| format!("{share:.3}"));
                let counts: Vec<_> =
                    cell.counts.iter().map(|(n, c)| format!("{n} {c:.0}")).collect();
                format!(
                    "{start} {} | {}, {} | {:.1} | {:.3} | {behind} | {} | {} |\n",
                    thousands(median),
                    thousands(least),
                    thousands(most),
                    median * row.batch_bytes as f64 / 1e6,
                    cell.share,
                    thousands(cell.cpu_ns),
                    counts.join(", "),
                )
            }
            (None, why) => {
                let why = why.map_or("no round", |why| why.lines().next().unwrap_or_default());
                format!("{start} not measured: {why} | | | | | | |\n")
            }
        });
    }
    if row.subjects.iter().any(|s| s.is_rival) {
        lines.extend(missing(row));
    }
    lines
}

fn missing(row: &Row) -> impl Iterator<Item = String> {
    let wanted = if row.is_durable() { Durability::Durable } else { Durability::PageCache };
    let name = row.name();
    MISSING
        .iter()
        .filter(move |(_, durability, _)| *durability == wanted)
        .map(move |(who, _, why)| format!("| {name} | {who} | cannot: {why} | | | | | | |\n"))
}

/// With a comma between thousands.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The result as JSON, with every measurement.
pub(crate) fn json(command: &str, environment: &Value, outcomes: &[Outcome]) -> Value {
    let row = |outcome: &Outcome| {
        let Outcome { row, rounds } = outcome;
        let of = |which: usize| {
            let (subject, measured, cell) =
                (&row.subjects[which], &rounds[which], cell(outcome, which));
            json!({
                "name": subject.name,
                "durability": durability(subject.durability),
                "says": subject.says,
                "batches_per_s": cell.as_ref().map(|c| c.rate[0]),
                "share": cell.as_ref().map(|c| c.share),
                "share_of_synced_behind": cell.as_ref().and_then(|c| c.share_behind),
                "cpu_ns_per_batch": cell.as_ref().map(|c| c.cpu_ns),
                "rounds": measured.iter().map(|m| match m {
                    Ok(measured) => json!(measured),
                    Err(why) => json!({ "failed": why }),
                }).collect::<Vec<_>>(),
            })
        };
        json!({
            "name": row.name(),
            "batch_bytes": row.batch_bytes,
            "group": row.group,
            "subjects": (0..rounds.len()).map(of).collect::<Vec<_>>(),
        })
    };
    let missing = |(name, of, why): &(&str, Durability, &str)| json!({ "name": name, "durability": durability(*of), "why": why });
    json!({
        "command": command,
        "environment": environment,
        "rows": outcomes.iter().map(row).collect::<Vec<_>>(),
        "missing": MISSING.iter().map(missing).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(took_ns: u64) -> Result<Measured, String> {
        let counts = [("writes".to_owned(), took_ns)].into();
        Ok(Measured { batches: 1_000, took_ns, cpu_ns: 500, counts, ..Measured::default() })
    }

    #[test]
    fn a_share_is_taken_within_a_round_and_what_failed_is_in_none() {
        let ceiling = vec![measured(100), measured(400), measured(400), measured(1)];
        let synced = vec![measured(200), measured(800), measured(800), measured(1)];
        let mine = vec![measured(200), measured(400), measured(1_600), Err("no room".to_owned())];
        let row = crate::cases::rows(100, false).swap_remove(0);
        let cell = cell(&Outcome { row, rounds: vec![ceiling, synced, mine] }, 2).unwrap();
        // Of the rounds 0.5, 1 and 0.25.
        assert_eq!((cell.share, cell.share_behind), (0.5, Some(1.0)));
        assert_eq!(cell.rate, [2.5e9, 6.25e8, 5e9]);
        assert_eq!((cell.cpu_ns, cell.counts), (0.5, vec![("writes".to_owned(), 400.0)]));
    }

    #[test]
    fn an_even_number_has_two_middle_ones() {
        assert_eq!((median(&[1.0, 2.0, 9.0]), median(&[1.0, 2.0, 4.0, 9.0])), (2.0, 3.0));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn thousands_have_commas() {
        assert_eq!(
            [1.0, 999.4, 1000.0, 1_234_567.0].map(thousands),
            ["1", "999", "1,000", "1,234,567"]
        );
    }
}
