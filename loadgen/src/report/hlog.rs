//! The response times of each second as an HdrHistogram interval log: what its viewers and
//! processors read. Values are nanoseconds; the tag of a line names its phase.

use super::Report;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{
    IntervalLogWriterBuilder, IntervalLogWriterError, Tag,
};
use hdrhistogram::serialization::{Deserializer, V2DeflateSerializer};
use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

/// The log's column of maxima is in milliseconds, as is usual.
const NS_PER_MS: f64 = 1e6;

/// Writes the interval log of all phases.
///
/// # Errors
/// As writing to `out`, or `InvalidData` if a row's histogram is none.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let began = UNIX_EPOCH + Duration::from_nanos(report.started_unix_ns);
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("[{} run {}]", report.tool.name, report.id))
        .with_start_time(began)
        .with_base_time(began)
        .with_max_value_divisor(NS_PER_MS)
        .begin_log_with(out, &mut serializer)?;
    for (number, phase) in (1..).zip(&report.phases) {
        // Tags end at a comma and lines at a newline; names may hold anything.
        let name: String = phase.workload.name.chars().map(plain).collect();
        let tag = format!("{number}-{name}-{}", phase.kind.name());
        let tag = Tag::new(&tag).ok_or_else(|| invalid("a tag"))?;
        for row in phase.series.iter().filter(|row| !row.histogram.is_empty()) {
            let histogram: Histogram<u64> = Deserializer::new()
                .deserialize(&mut &row.histogram[..])
                .map_err(|_| invalid("a histogram"))?;
            let start = Duration::from_nanos(phase.start_ns.saturating_add(row.start_ns));
            let duration = Duration::from_nanos(row.duration_ns);
            log.write_histogram(&histogram, start, duration, Some(tag)).map_err(|e| match e {
                IntervalLogWriterError::SerializeError(_) => invalid("a histogram"),
                IntervalLogWriterError::IoError(error) => error,
            })?;
        }
    }
    Ok(())
}

fn plain(c: char) -> char {
    if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} of the series cannot be written"))
}
