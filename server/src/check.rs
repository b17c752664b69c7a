//! `kariz check DIR`: whether every batch and every index of a stopped data directory is sound.
//!
//! The engine checks what it keeps. The cluster's own log says which partitions there are, on which
//! core, and of which topic: that is checked here.

mod cluster;

use kariz_engine::{Engine, verify};
use std::io::Write;
use std::path::Path;

/// Checks all below `dir`, prints what is wrong and a summary; `false` if anything is.
///
/// # Errors
/// When `dir` is in use, holds no broker's directory, or cannot be listed.
pub fn run(dir: &Path, out: &mut impl Write) -> Result<bool, Box<dyn std::error::Error>> {
    // Between the two checks as well no server is to begin.
    let _held = verify::hold(dir)?;
    let mut report = Engine::verify(dir)?;
    cluster::check(dir, &mut report)?;
    for finding in report.notes.iter().chain(&report.faults) {
        writeln!(out, "{finding}")?;
    }
    writeln!(
        out,
        "{} brokers, {} partitions, {} segments, {} batches, {} bytes: {}",
        report.cores,
        report.partitions,
        report.segments,
        report.batches,
        report.bytes,
        match report.faults.len() {
            0 => "sound".to_owned(),
            n => format!("{n} faults"),
        }
    )?;
    Ok(report.is_sound())
}
