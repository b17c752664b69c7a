//! Kariz's storage engine: partitions pinned to cores, on Kafka's own file formats.
//!
//! A partition lives on one core. A batch that comes in is checked, gets its offset, and is staged;
//! the turn of the core's loop ends in one write a partition into the page cache; a group commit
//! makes all that gathered on the core durable with one journal entry and one sync. A reader gets a
//! pinned range of a segment file, to send from there.
//!
//! More, a page each: [the way of one append and of one read](guide::architecture),
//! [durability in one table](guide::durability), [coming from RocksDB, Kafka's log or a
//! file](guide::coming_from), and [every byte on disk and what each crash leaves](guide::format).
//!
//! # The map
//!
//! Each module imports only from those above it.
//!
//! | module | knows |
//! |---|---|
//! | [`types`] | offsets, epochs, names: newtypes |
//! | `num`, `futures` | conversions, and the few combinators needed; no runtime |
//! | [`batch`] | RecordBatch v2: a view, its checks, the stamp, its records, a builder |
//! | [`config`] | the table of settings, by Kafka's names |
//! | [`metrics`] | what a core counts |
//! | [`io`] | the one seam to disk, network, clock: `uring` for real, `sim` for tests |
//! | `checkpoint` | Kafka's text files of offsets, and replacing a small file whole |
//! | `journal` | the circle of entries, its replay |
//! | `producer` | sequences of idempotent producers, their snapshots |
//! | `log` | segments: staging, append, roll, read, truncate, retain; `recover` is a decision table |
//! | `partition` | watermarks, waiters, reads; what one core's partitions share; its backlog |
//! | `shard` | one core: group commit, checkpoints, retention, opening and closing, its mailbox |
//! | [`verify`] | the offline check of a stopped data directory; plain files, outside the seam |
//! | [`sim`] | opening a core on the simulated machine |
//! | `engine` | threads, and the data directory |
//! | [`guide`] | no code: the pages in `docs/` |
//!
//! # Invariants
//!
//! - `log start <= last stable <= high watermark <= floor <= written <= staged`, always. Readers see
//!   what is below the high watermark, so nobody reads what a power cut can take back (but where a
//!   topic says `write.caching=true`, and then the page cache is the floor).
//! - Staged bytes are seen by nobody. A write that fails takes back its offsets, its producers'
//!   sequences and its waits.
//! - Every ack is behind the sync that covers it. A sync that failed is never tried again; what it
//!   covered is never acked.
//! - The logs, and the journal below its own CRCs, are the evidence; all else on disk is a cache.
//! - A borrow never crosses an await, and nothing on the data path is shared between cores.
//!
//! # A page of code
//!
//! From any thread, here under tokio; a server runs on the cores themselves ([`Engine::serve`]).
//!
//! ```
//! use kariz_engine::{Batch, Config, Engine, LogConfig, Mark, Offset, ShardId, TopicPartition, Want};
//! use std::time::Duration;
//! # let dir = std::env::temp_dir().join(format!("kariz-doc-{}", std::process::id()));
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # runtime.block_on(async {
//! let engine = Engine::open(&dir, Config::default())?;
//! let (handle, orders) = (engine.handle(), TopicPartition::new("orders", 0));
//! let name = orders.clone();
//! let create = |shard: kariz_engine::Shard| async move {
//!     shard.create(&name, LogConfig::default()).await.map(drop)
//! };
//! handle.on(ShardId(0), create).await??;
//!
//! let batch = Batch::build().record(None, Some(b"one coffee"), &[], None).done()?;
//! let span = handle.append(&orders, batch, Mark::Durable).await?;
//! assert_eq!((span.base, span.end), (Offset(0), Offset(1)));
//!
//! let want = Want { max_bytes: 1 << 20, min_bytes: 1, wait: Duration::from_secs(1) };
//! let batches = handle.read(&orders, span.base, want).await?.batches()?;
//! let records = batches[0].records(1 << 20)?;
//! assert_eq!(records.iter().next().unwrap()?.value, Some(&b"one coffee"[..]));
//! engine.shutdown(Duration::from_secs(1))?;
//! # std::fs::remove_dir_all(&dir)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

pub mod batch;
mod checkpoint;
pub mod config;
mod engine;
mod futures;
pub mod guide;
pub mod io;
mod journal;
mod log;
pub mod metrics;
mod num;
mod partition;
mod producer;
mod shard;
pub mod sim;
pub mod types;
pub mod verify;

pub use batch::Batch;
pub use config::LogConfig;
pub use engine::{AppError, Config, Engine, OpenError, Recovery, ShutdownError};
pub use io::uring::SetupError;
pub use log::TruncateError;
pub use partition::{
    AppendError, Event, Found, Mark, Marks, Partition, Reach, ReachError, ReadError, Slice, Span,
    Tail, TrimError, Want, Written,
};
pub use producer::ProducerError;
pub use shard::{
    Closed, CreateError, Handle, HandleError, NotHere, PartitionRecovery, RecoveryReport, Shard,
};
pub use types::{
    Instant, LeaderEpoch, NameError, Offset, ProducerEpoch, ProducerId, Sequence, ShardId,
    Timestamp, TopicId, TopicPartition,
};
pub use verify::VerifyError;

/// The code in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
