//! The result for programs: integers with their unit in the name, no floats, no NaN.

use super::Report;
use std::io::{self, Write};

/// Writes the report as JSON.
///
/// # Errors
/// As writing to `out`.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}
