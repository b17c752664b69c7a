//! The result for people: few lines, aligned, with units, the verdict last.

use super::{Kind, Phase, Report, Verdict};
use crate::probe::Placement;
use crate::stats::Latency;
use crate::verify::Findings;
use crate::workload::{Rate, Verify};
use std::fmt::{self, Write as _};

/// Reading back takes at least this long where its rate is shown.
const SHORT_NS: u64 = 500_000_000;

/// A count in three digits: `4.81 M`.
#[must_use]
pub fn count(n: u64) -> String {
    three(n, 1, &[(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")], "")
}

/// A time in three digits: `1.23 ms`.
#[must_use]
pub fn time(ns: u64) -> String {
    three(ns, 1, &[(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")], "ns")
}

/// An amount of data in three digits: `1.20 GB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    three(bytes, 1, &[(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")], "B")
}

/// A throughput in three digits: `481 MB/s`.
#[must_use]
pub fn throughput(bytes_per_s: u64) -> String {
    size(bytes_per_s) + "/s"
}

/// `n` in the first unit that it reaches, else in `base`.
fn three(n: u64, one: u64, units: &[(u64, &str)], base: &str) -> String {
    let unit = units.iter().find(|(size, _)| n >= *size);
    let Some((size, name)) = unit else {
        return if base.is_empty() { n.to_string() } else { format!("{n} {base}") };
    };
    let whole = n / size;
    let places: u32 = match whole {
        0..10 => 2,
        10..100 => 1,
        _ => 0,
    };
    let scale = 10_u64.pow(places);
    let scaled = u128::from(n) * u128::from(scale) / u128::from((*size).max(one));
    let (whole, part) = (scaled / u128::from(scale), scaled % u128::from(scale));
    match places {
        0 => format!("{whole} {name}"),
        places => {
            format!("{whole}.{part:0width$} {name}", width = crate::num::index(places.into()))
        }
    }
}

/// Writes the report.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ok = write_report(report, &mut out);
    out
}

fn write_report(r: &Report, out: &mut String) -> fmt::Result {
    head(r, out)?;
    let mut shown: Option<&Phase> = None;
    for phase in &r.phases {
        let same =
            shown.is_some_and(|p| p.workload.name == phase.workload.name && p.kind != phase.kind);
        if !same {
            writeln!(out)?;
            writeln!(out, "{}  {}", phase.workload.name, describe(phase))?;
            writeln!(out, "  {}", phase.contract)?;
            writeln!(
                out,
                "  {:8}{:>13} {:>11} {:>12} {:>9} {:>9} {:>9} {:>9} {:>9}",
                "", "records/s", "bytes/s", "requests/s", "p50", "p90", "p99", "p99.9", "max"
            )?;
        }
        write_phase(phase, out)?;
        shown = Some(phase);
    }
    writeln!(out)?;
    tail(r, out)
}

fn head(r: &Report, out: &mut String) -> fmt::Result {
    let target = match r.target.kind {
        super::TargetKind::Embedded => "an embedded Kariz",
        super::TargetKind::Broker => "the broker",
        super::TargetKind::Raw => "the raw server",
    };
    writeln!(
        out,
        "{} {}  against {target} at {}, run {}",
        r.tool.name, r.tool.version, r.target.address, r.id
    )?;
    let m = &r.machine;
    let vm = if m.is_virtual { ", virtual" } else { "" };
    let cpu = if m.cpu.is_empty() { "unknown CPU" } else { &m.cpu };
    writeln!(out, "machine    {}, {cpu}{vm}, {} of memory", m.kernel, size(m.memory_bytes))?;
    let list = |cores: &[u32]| cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    write!(out, "cores      load on {}", list(&r.load_cores))?;
    if !r.target.server_cores.is_empty() {
        write!(out, ", server on {}", list(&r.target.server_cores))?;
    }
    let (before, after) = (&r.placement.before, &r.placement.after);
    if let (Some(a), Some(b)) = (before.core_to_core_rtt_ns, after.core_to_core_rtt_ns) {
        let placement = before.placement().map_or("", Placement::name);
        write!(out, "; {placement}: {a} ns there and back before, {b} ns after")?;
    }
    writeln!(out)?;
    write!(out, "costs      system call {} ns", before.syscall_ns)?;
    if let Some(wake_up) = before.wake_up_rtt_ns {
        write!(out, ", wake-up there and back {}", time(wake_up))?;
    }
    writeln!(out)?;
    if let Some(fs) = &r.target.file_system {
        writeln!(out, "data on    {fs}")?;
    }
    Ok(())
}

fn describe(phase: &Phase) -> String {
    let w = &phase.workload;
    let plural = |n: u32| if n == 1 { "" } else { "s" };
    let compression = match w.compression {
        crate::workload::codec::Codec::None => String::new(),
        codec => format!(", {codec}"),
    };
    let rate = match w.rate {
        Rate::Max => format!("{} in flight on each", w.depth),
        Rate::RecordsPerSecond(n) => format!("open loop at {} records/s", count(n)),
        Rate::BytesPerSecond(n) => format!("open loop at {}", throughput(n)),
        Rate::RequestsPerSecond(n) => format!("open loop at {} requests/s", count(n)),
    };
    let connections = format!("{} connection{}", phase.connections, plural(phase.connections));
    match phase.kind {
        Kind::Produce => format!(
            "{} B x {} a request{compression}, {connections}, {rate}, {} partition{}",
            w.record_bytes,
            w.batch_records,
            w.partitions,
            plural(w.partitions),
        ),
        Kind::RawProduce => {
            format!("{} B x {} a request, {connections}, {rate}", w.record_bytes, w.batch_records)
        }
        Kind::Fetch => {
            let bytes = size(u64::from(w.fetch_bytes));
            format!("at most {bytes} of a partition a request, {connections}, {rate}")
        }
        Kind::RawFetch => format!("{connections}, {rate}"),
    }
}

fn write_phase(p: &Phase, out: &mut String) -> fmt::Result {
    match &p.verification {
        // Too short to be a figure: it was read to be checked.
        Some(_) if p.elapsed_ns < SHORT_NS => {}
        _ => write_figures(p, out)?,
    }
    p.verification.as_ref().map_or(Ok(()), |findings| verification(p, findings, out))
}

fn write_figures(p: &Phase, out: &mut String) -> fmt::Result {
    row(
        out,
        p.kind.name(),
        [&count(p.records_per_s), &throughput(p.bytes_per_s), &count(p.requests_per_s)],
        &p.response,
    )?;
    if let Some(service) = &p.service {
        row(out, "  service", ["", "", ""], service)?;
    }
    write!(out, "    {} in {}", amount(p), time(p.elapsed_ns))?;
    write!(out, "; load core {} % busy", p.resources.generator_busy_percent())?;
    if let Some(ns) = p.resources.server_cpu_ns_per_request {
        write!(out, "; server {} CPU a request", time(ns))?;
        if let Some(ns) = p.resources.server_cpu_ns_per_1000_records
            && p.workload.batch_records > 1
        {
            write!(out, ", {} a record", time(ns / 1000))?;
        }
    }
    writeln!(out)?;
    for note in &p.notes {
        writeln!(out, "    note: {note}")?;
    }
    for why in &p.invalid {
        writeln!(out, "    invalid: {why}")?;
    }
    Ok(())
}

fn amount(p: &Phase) -> String {
    match p.counts.records {
        0 => format!("{} in {} requests", size(p.counts.bytes), count(p.counts.requests)),
        records => format!("{} records, {}", count(records), size(p.counts.bytes)),
    }
}

fn row(out: &mut String, name: &str, rates: [&str; 3], l: &Latency) -> fmt::Result {
    let cell = |ns: Option<u64>| ns.map_or_else(|| "-".to_owned(), time);
    let [records, bytes, requests] = rates;
    writeln!(
        out,
        "  {name:8}{records:>13} {bytes:>11} {requests:>12} {:>9} {:>9} {:>9} {:>9} {:>9}",
        cell(l.p50_ns),
        cell(l.p90_ns),
        cell(l.p99_ns),
        cell(l.p99_9_ns),
        cell((l.samples > 0).then_some(l.max_ns)),
    )
}

fn verification(p: &Phase, f: &Findings, out: &mut String) -> fmt::Result {
    let how = match p.workload.verify {
        Verify::Full => "every record checked",
        Verify::Batches => "every batch checked",
        Verify::Off => "counted",
    };
    writeln!(
        out,
        "    {how}: {} read, {} acknowledged; lost {}, duplicate {}, reordered {}, corrupt {}",
        f.read, f.acked, f.lost, f.duplicate, f.reordered, f.corrupt
    )?;
    if f.foreign + f.gaps + f.misplaced > 0 {
        writeln!(
            out,
            "    foreign {}, gaps in offsets {}, not where acknowledged {}",
            f.foreign, f.gaps, f.misplaced
        )?;
    }
    f.words.iter().try_for_each(|word| writeln!(out, "    - {word}"))
}

fn tail(r: &Report, out: &mut String) -> fmt::Result {
    for why in &r.failures {
        writeln!(out, "failed     {why}")?;
    }
    for why in &r.invalid {
        writeln!(out, "invalid    {why}")?;
    }
    if let Some(f) = &r.verification {
        let said = if !f.is_clean() {
            format!("{} violations in {} records", f.violations(), f.read)
        } else if f.read < f.acked {
            let Findings { read, acked, .. } = f;
            format!("{read} of {acked} acknowledged records read back, those in order, as sent")
        } else {
            format!("{} records read back, each once, in order, as sent", f.read)
        };
        writeln!(out, "verified   {said}")?;
    }
    let verdict = match r.verdict {
        Verdict::Pass if r.invalid.is_empty() => "PASS",
        Verdict::Pass => "PASS, but not all numbers say what they seem to: see above",
        Verdict::Violated => "VIOLATED",
        Verdict::Failed => "FAILED (it was not done to its end: see above)",
        Verdict::Invalid => "INVALID (the numbers, not the server: see above)",
        Verdict::Interrupted => "INTERRUPTED",
    };
    writeln!(out, "verdict    {verdict}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1.00 k"),
            (12_345, "12.3 k"),
            (999_999, "999 k"),
            (4_812_345, "4.81 M"),
        ] {
            assert_eq!(count(n), text);
        }
        assert_eq!(time(830), "830 ns");
        assert_eq!(time(1_234_567), "1.23 ms");
        assert_eq!(time(10_000_000_000), "10.0 s");
        assert_eq!(throughput(481_000_000), "481 MB/s");
        assert_eq!(size(u64::MAX), "18446744073 GB");
    }
}
