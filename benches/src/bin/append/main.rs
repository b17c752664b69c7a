//! `append`: what an append costs in the engine, without a network, on one core; beside the page
//! cache it goes to, and beside other durable logs from crates.io.
//!
//! ```text
//! cargo build --release -p kariz-benches --bin append
//! cargo build --release --manifest-path benches/rivals/Cargo.toml
//! target/release/append --rounds 5 --out results/DATE-HOST-append
//! ```
//!
//! # What is compared
//!
//! - **The same bytes.** For Kariz a batch of 100 B is a RecordBatch of one record with 100 B on the
//!   wire, 61 of them its head: what comes from a client and goes to the disk. The others get
//!   payloads of 100 B, and what they add to one (20 to 64 B) is not counted, for anybody.
//! - **The same durability.** In the page cache, with a turn of the core's loop after each 64
//!   batches, or 256 KiB; or durable, with one sync for a group of so many, before the next one
//!   begins.
//! - **The same place.** One directory, one CPU for all threads of the process, segment files of one
//!   size. `pwritev` into such files, preallocated, is the ceiling. Who also brings to the disk what
//!   it wrote pays for that on the same CPU, and so there is a second one, synced behind.
//! - **In turns.** Each measurement is a process of its own, right behind one that did the same and
//!   is not counted: memory that the host has yet to give costs ten times as much. Each round begins
//!   with another subject, and every second one goes backwards.
//!
//! Batches are made before the clock starts, and `kariz-parse` has each parsed as well. The rivals
//! compute their checksums as they append; Kariz checks the client's when it parses.
//!
//! With `--handle` it measures something else: appends from a tokio runtime on another core, beside
//! what waking a core and being woken by it takes.

mod cases;
mod ceiling;
mod eventfd;
mod handle;
mod job;
mod kariz;
mod machine;
mod report;
mod rounds;

use clap::{Parser, Subcommand};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures appends: the engine's, the page cache's, and other logs'
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    one: Option<One>,
    #[command(flatten)]
    args: Args,
}

#[derive(Subcommand)]
enum One {
    /// One measurement, in this process
    #[command(hide = true)]
    One(job::Job),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure appends from another core instead: the partition's is CPU 0, the other CPU 1
    #[arg(long)]
    handle: bool,
    /// Where files are made and removed
    #[arg(long, value_name = "DIR", default_value = "target/append")]
    data: PathBuf,
    /// A new directory for the result
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How often everything is measured
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Sizes of batches
    #[arg(long, value_name = "BYTES,...", value_delimiter = ',', default_values_t = [100, 1 << 10, 64 << 10])]
    sizes: Vec<usize>,
    /// Bytes that a measurement appends: fewer than the kernel lets be dirty before it makes a
    /// writer wait
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// Seconds after which it ends, if it has not appended them by then
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Bytes of a segment file
    #[arg(long, default_value_t = 256 << 20)]
    segment_bytes: u32,
    /// Rows of the page cache only
    #[arg(long, conflicts_with = "durable")]
    cached: bool,
    /// Durable rows only
    #[arg(long)]
    durable: bool,
    /// Without other logs
    #[arg(long)]
    alone: bool,
    /// The program with the other logs
    #[arg(long, value_name = "FILE", default_value = "benches/rivals/target/release/rivals")]
    rivals: PathBuf,
    /// The CPU to append on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
}

fn main() -> ExitCode {
    let Cli { one, args } = Cli::parse();
    let done = match one {
        Some(One::One(job)) => run_one(&job),
        None if args.handle => run_handle(&args),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("append: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_one(job: &job::Job) -> io::Result<()> {
    job.pin()?;
    let done = if job.subject == cases::CEILING { ceiling::run(job) } else { kariz::run(job) };
    println!("{}", done?.to_json());
    Ok(())
}

fn run_handle(args: &Args) -> io::Result<()> {
    std::fs::create_dir_all(&args.data)?;
    let mut environment = machine::environment(&args.data);
    let before = machine::probe(0);
    let measured = handle::run(&args.data, args.rounds)?;
    environment["probes"] = serde_json::json!({ "before": before, "after": machine::probe(0) });
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let all = serde_json::json!({
        "command": command, "environment": environment, "handle": measured,
    });
    match &args.out {
        Some(out) => {
            std::fs::create_dir(out)?;
            std::fs::write(out.join("summary.json"), format!("{all:#}\n"))
        }
        None => {
            println!("{all:#}");
            Ok(())
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    if let Some(out) = &args.out {
        std::fs::create_dir(out)
            .map_err(|e| io::Error::new(e.kind(), format!("making {}: {e}", out.display())))?;
    }
    if !args.alone && !args.rivals.exists() {
        return Err(io::Error::other(format!(
            "{} is not there: cargo build --release --manifest-path benches/rivals/Cargo.toml, or \
             go on --alone",
            args.rivals.display()
        )));
    }
    std::fs::create_dir_all(&args.data)?;
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    let mut environment = machine::environment(&args.data);
    let before = machine::probe(args.cpu);
    let rows = args.sizes.iter().flat_map(|bytes| cases::rows(*bytes, !args.alone));
    let wanted = rows.filter(|row| if row.is_durable() { !args.cached } else { !args.durable });
    let outcomes: Vec<_> = wanted.map(|row| rounds::measure(args, row)).collect();
    environment["probes"] =
        serde_json::json!({ "before": before, "after": machine::probe(args.cpu) });

    let text = report::text(&command, &environment, &outcomes);
    let json = report::json(&command, &environment, &outcomes);
    println!("{text}");
    match &args.out {
        Some(out) => {
            std::fs::write(out.join("README.md"), text)?;
            std::fs::write(out.join("summary.json"), format!("{json:#}\n"))?;
        }
        None => println!("{json:#}"),
    }
    Ok(())
}
