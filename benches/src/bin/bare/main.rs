//! `bare`: a server without a protocol, the ceiling that every result is a share of.
//!
//! It does what any server of a log must do with the same bytes on the same connections, and
//! nothing else: no protocol, no checks, no offsets. One turn of its loop:
//!
//! ```text
//! one io_uring_enter      sends the last turn's answers, receives from every connection
//!  -> ring                multishot receives into lent buffers
//!  -> connection          cuts frames by their length, for the correlation id
//!  -> file                one pwritev a file of all that came; the buffers go back
//!  -> commit (--flush)    one fdatasync a group; the next group gathers meanwhile
//!  -> answers             canned bytes, or (--send-file) a piece of a file by sendfile
//! ```
//!
//! What comes is appended as it comes, length prefixes and heads included, a buffer a slice: more
//! bytes than a server has to store, but no copy and no slice a request.
//!
//! # Why it is built so
//!
//! Server CPU a request, medians of three to five runs of 2 s taken in turns, 64 connections; two
//! vCPUs of a shared host, other work on them, so only the ratios mean anything. Small: 190-byte
//! frames, 16 in flight; large: 16,600-byte frames, 16 in flight.
//!
//! | Choice | Taken | Instead |
//! |---|---|---|
//! | answers through the ring, or one `send` a connection | small 430 ns | 489 ns |
//! | multishot receive, or a receive at a time | small 366 ns, large 6.6 us | 389 ns, 10.3 us |
//! | 64 lent buffers of 64 KiB (16 or 32 KiB; 16, 32 or 256 of them) | large 6.6 us | 6.9 to 8.8 us; small within the noise |
//! | sleep at once, or look 1,000 times first | one connection, one in flight 14.8 us | 16.0 us, but p50 10.9 us instead of 15.2 |
//!
//! A large request is two copies (out of the socket, into the page cache: two thirds of its time),
//! a small one the way of TCP. `--spins` is off: it buys latency with CPU, and CPU is compared.

// The ring and its buffers are shared with the kernel: see `ring`, where all of it is.
#![allow(unsafe_code)]

mod answers;
mod commit;
mod connection;
mod file;
mod ring;
mod server;

use clap::Parser;
use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

/// A server without a protocol: the ceiling of what this machine and its kernel can do.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where the data files are; what an earlier run left there is removed
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The core to run on
    #[arg(long, default_value_t = 0)]
    core: usize,
    /// Answer when durable
    #[arg(long, conflicts_with = "send_file")]
    flush: bool,
    /// Answer every request with a piece of a file
    #[arg(long)]
    send_file: bool,
    /// Bytes of an answer of --send-file
    #[arg(long, default_value_t = 1 << 20)]
    bytes: u32,
    /// Bytes of the file of --send-file
    #[arg(long, default_value_t = 1 << 30)]
    file_bytes: u64,
    /// In pieces of so many bytes the file of --send-file is written: as what comes in one turn is
    /// appended to a log. The smaller, the more the page cache has to look up for an answer
    #[arg(long, default_value_t = 1 << 20)]
    append_bytes: u32,
    /// Files to append to: connection i appends to file i mod N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    partitions: u16,
    /// Roll a file at this length
    #[arg(long, default_value_t = 1 << 30)]
    segment_bytes: u64,
    /// Remove the oldest files past this
    #[arg(long, default_value_t = 2 << 30)]
    keep_bytes: u64,
    /// Look for work so many times before sleeping: less latency for more CPU
    #[arg(long, default_value_t = 0)]
    spins: u32,
    /// Lent receive buffers, a power of two
    #[arg(long, default_value_t = 64)]
    buffers: u16,
    /// Bytes of a lent receive buffer
    #[arg(long, default_value_t = 64 << 10)]
    buffer_bytes: u32,
}

fn main() -> ExitCode {
    match serve(&Args::parse()) {
        Ok(never) => match never {},
        Err((doing, error)) => {
            eprintln!("bare: {doing}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves until an error, which it returns with what it was doing.
fn serve(args: &Args) -> Result<Infallible, (String, io::Error)> {
    let during = |doing: String| move |error| (doing, error);
    let in_dir = || during(format!("making files in {}", args.data.display()));

    let mut core = rustix::thread::CpuSet::new();
    core.set(args.core);
    rustix::thread::sched_setaffinity(None, &core)
        .map_err(|e| (format!("running on core {}", args.core), e.into()))?;
    let ring = ring::Ring::leak(args.core, args.buffers, args.buffer_bytes)
        .map_err(during("making a ring".to_owned()))?;

    let limits = file::Limits { segment_bytes: args.segment_bytes, keep_bytes: args.keep_bytes };
    let files = || file::Files::create(&args.data, usize::from(args.partitions), limits);
    let service = if args.send_file {
        prepare(args).map(server::Service::File)
    } else if args.flush {
        files().and_then(|files| {
            Ok(server::Service::Durable(files, commit::Commits::create(&args.data)?))
        })
    } else {
        files().map(server::Service::Written)
    }
    .map_err(in_dir())?;

    let ready = TcpListener::bind(args.listen).and_then(|listener| {
        println!("bare ready {} pid={}", listener.local_addr()?, std::process::id());
        io::stdout().flush()?;
        Ok(listener)
    });
    let listener = ready.map_err(during(format!("listening on {}", args.listen)))?;
    server::run(ring, &listener, service, args.spins).map_err(during("serving".to_owned()))
}

/// Makes the file of `--send-file`: written, so it is in the page cache.
fn prepare(args: &Args) -> io::Result<answers::Source> {
    let Args { file_bytes, bytes: answer_bytes, append_bytes, .. } = *args;
    if u64::from(answer_bytes) > file_bytes {
        return Err(io::Error::other("an answer (--bytes) is longer than its file (--file-bytes)"));
    }
    std::fs::create_dir_all(&args.data)?;
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(args.data.join("answers.bare"))?;
    let mut left = file_bytes;
    let mut piece = vec![0_u8; append_bytes.max(1) as usize];
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        file.write_all(&piece[..len])?;
        left -= len as u64;
        piece.iter_mut().for_each(|b| *b = b.wrapping_add(1));
    }
    Ok(answers::Source { file: Rc::new(file.into()), file_bytes, answer_bytes })
}
