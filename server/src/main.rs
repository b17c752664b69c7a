//! The command line: parse, run, exit code. All the rest is in the library.

use clap::{Args, Parser, Subcommand};
use kariz_server::{Options, Server, check, dump};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tracing_subscriber::EnvFilter;

/// Kariz: a Kafka-compatible log storage engine for Linux.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves Kafka clients until SIGTERM, SIGINT or SIGHUP.
    Serve(Serve),
    /// Verifies every batch and index of a data directory whose server is stopped.
    Check {
        /// The data directory.
        dir: PathBuf,
    },
    /// Prints every setting: what it accepts, its default, what it does.
    Settings,
    /// Prints the batches of a segment file, one a line.
    Dump {
        /// A `.log` file.
        file: PathBuf,
    },
}

#[derive(Args)]
struct Serve {
    /// Where everything is stored; made if it is not there.
    #[arg(long, default_value = "./kariz-data")]
    data: PathBuf,
    /// Where the first core listens; core i listens on this port + i (port 0: free ports).
    #[arg(long, default_value = "127.0.0.1:9092")]
    listen: SocketAddr,
    /// The CPUs to run on, one broker each, such as 0,2-3. Default: all that the process may use.
    #[arg(long, value_parser = parse_cores)]
    cores: Option<Cores>,
    /// What clients are told to connect to, HOST or HOST:PORT; core i is told PORT + i.
    #[arg(long)]
    advertise: Option<String>,
    /// A Java properties file with Kafka's keys.
    #[arg(long)]
    config: Option<PathBuf>,
    /// A key of the properties file, over what the file says. May be given again.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_pair)]
    set: Vec<(String, String)>,
    /// Where to serve /metrics for Prometheus (port 0: a free one, which the log names). Default:
    /// nowhere.
    #[arg(long, value_name = "ADDR:PORT")]
    metrics: Option<SocketAddr>,
}

/// CPU numbers, each once.
#[derive(Clone)]
struct Cores(Vec<usize>);

/// Reads `0,2-3`.
fn parse_cores(text: &str) -> Result<Cores, String> {
    let number = |t: &str| t.trim().parse::<usize>().map_err(|_| format!("`{t}` is no CPU number"));
    let mut cores = Vec::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last >= 4096 {
            return Err(format!("`{part}` is no range of CPUs"));
        }
        cores.extend(first..=last);
    }
    let mut sorted = cores.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair.first() == pair.get(1)) {
        return Err(format!("`{text}` names a CPU twice"));
    }
    Ok(Cores(cores))
}

/// What is logged.
const LOG: &str = "KARIZ_LOG";

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = std::env::var_os(LOG).unwrap_or_else(|| "info".into());
    let filter = filter.to_string_lossy();
    let filter = match EnvFilter::try_new(&filter) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("kariz: {LOG}={filter} is no log filter ({error}); try {LOG}=debug");
            return ExitCode::from(2);
        }
    };
    // A line that cannot be written would be complained of on standard error, by a panic if that is
    // closed: in the thread that was to stop the server, or on a core.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .log_internal_errors(false)
        .init();
    let done = match cli.command {
        Command::Serve(serve) => run(serve).map(|()| true),
        Command::Settings => Ok(print(&kariz_engine::config::markdown()).is_ok()),
        Command::Check { dir } => check::run(&dir, &mut io::stdout().lock()),
        Command::Dump { file } => dump::run(&file, &mut io::stdout().lock()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kariz: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Raises the soft limit on open files to the hard one, as the JVM does: the soft one is as low as
/// it is for programs that use select(2).
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        Ok(()) => tracing::debug!(from = ?limit.current, to = ?limit.maximum, "open files"),
        Err(error) => tracing::warn!(%error, "the limit on open files could not be raised"),
    }
}

/// Writes to standard output, which may be a pipe that nobody reads.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whether whoever started this had it ignore SIGHUP, as `nohup` does: to handle the signal would be
/// to end at it after all.
fn is_to_outlive_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 << (signal_hook::consts::SIGHUP - 1) != 0)
}

/// Serves until a signal comes or the server fails.
fn run(serve: Serve) -> Result<(), Box<dyn std::error::Error>> {
    // Before the server shares them out.
    raise_open_files();
    // Before the cores' threads start, so that none of them is interrupted.
    let mut stops = vec![signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT];
    if !is_to_outlive_its_terminal() {
        stops.push(signal_hook::consts::SIGHUP);
    }
    let mut signals = signal_hook::iterator::Signals::new(stops)?;
    // A file past RLIMIT_FSIZE is a full disk (EFBIG), not the end of the process.
    let past_limit = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, past_limit)?;
    let server = Server::start(Options {
        data: serve.data,
        listen: serve.listen,
        cores: serve.cores.map(|cores| cores.0).unwrap_or_default(),
        advertise: serve.advertise,
        config: serve.config,
        set: serve.set,
        metrics: serve.metrics,
    })?;
    if let Some(at) = server.metrics() {
        // With port 0 nobody else knows.
        tracing::info!("metrics are at http://{at}/metrics");
    }
    let (bootstrap, cores, pid) = (server.bootstrap(), server.cores(), std::process::id());
    if let Err(error) =
        print(&format!("kariz ready bootstrap={bootstrap} cores={cores} pid={pid}\n"))
    {
        tracing::warn!(%error, %bootstrap, cores, pid, "ready, and standard output cannot be written");
    }
    let stopper = server.clone();
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            tracing::info!(signal, "stopping");
            if let Err(error) = stopper.stop() {
                tracing::error!(%error, "the stop was not clean");
            }
        }
    });
    server.wait()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read() {
        assert_eq!(parse_cores("0,2-4").map(|c| c.0), Ok(vec![0, 2, 3, 4]));
        for bad in ["", "a", "3-2", "1,1", "0-2,1", "0-99999999"] {
            assert!(parse_cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
