//! Where results go: files, and standard output.

use super::JobError;
use crate::cli::{self, Cli};
use crate::report::{Report, hlog, json, text};
use rustix::fs::Access;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// The directory of the result's files; made if it is not there. Asked for before the run, whose
/// minutes would be for nothing if nobody could write to it.
///
/// # Errors
/// [`JobError::File`].
pub(super) fn directory(cli: &Cli) -> Result<PathBuf, JobError> {
    let dir = cli.out.clone().unwrap_or_else(|| {
        if Path::new("target").is_dir() {
            PathBuf::from("target/kariz-loadgen")
        } else {
            PathBuf::from("kariz-loadgen-result")
        }
    });
    let usable = fs::create_dir_all(&dir)
        .and_then(|()| Ok(rustix::fs::access(&dir, Access::WRITE_OK | Access::EXEC_OK)?));
    match usable {
        Ok(()) => Ok(dir),
        Err(error) => Err(JobError::File { path: dir, error }),
    }
}

/// Prints the report and writes its files to `dir`.
///
/// # Errors
/// [`JobError::File`]; the report is printed all the same.
pub(super) fn publish(cli: &Cli, report: &Report, dir: &Path) -> Result<(), JobError> {
    let file = |name: &str, write: &dyn Fn(&mut BufWriter<fs::File>) -> io::Result<()>| {
        let path = dir.join(name);
        let written = fs::File::create(&path).and_then(|file| {
            let mut out = BufWriter::new(file);
            write(&mut out)?;
            out.flush()
        });
        written.map_err(|error| JobError::File { path, error })
    };
    let written = file("result.json", &|out| json::write(report, out))
        .and_then(|()| file("latency.hlog", &|out| hlog::write(report, out)));
    let mut out = io::stdout().lock();
    let printed = match cli.format {
        cli::Format::Json => json::write(report, &mut out),
        cli::Format::Text => {
            let text = text::render(report);
            let files = match &written {
                Ok(()) => format!("files      {}/{{result.json,latency.hlog}}\n", dir.display()),
                Err(_) => String::new(),
            };
            // The verdict stays the last line.
            let at = text.rfind("verdict ").unwrap_or(text.len());
            write!(out, "{}{files}{}", &text[..at], &text[at..])
        }
    };
    // A closed pipe is not worth a failure: the files are there.
    let _printed = printed;
    if cli.format == cli::Format::Json {
        // Who reads the other output is a program.
        report.failures.iter().for_each(|why| eprintln!("kariz-loadgen: {why}"));
    }
    written
}
