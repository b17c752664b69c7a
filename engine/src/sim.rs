//! The engine on the simulated machine, for tests of whoever builds on it.
//!
//! One core on one seeded disk: [`open`] it in a process of [`World`](crate::io::sim), use it as on
//! a real machine, cut the power, and open it again.

use crate::io::sim::Sim;
use crate::partition::Event;
use crate::shard::{RecoveryReport, Settings, Shard};
use crate::types::ShardId;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How a simulated core is opened.
pub struct Options {
    /// Bytes of its journal; small ones go round often.
    pub journal_bytes: u64,
    /// Bytes of its files that may wait to be synced before [`Shard::room`] waits.
    pub dirty_bytes_max: u64,
    /// Told of events.
    pub on_event: Rc<dyn Fn(&Event)>,
}

impl Default for Options {
    fn default() -> Self {
        Self { journal_bytes: 256 << 10, dirty_bytes_max: u64::MAX, on_event: Rc::new(|_| {}) }
    }
}

/// Opens the core in `dir` and starts its tasks.
///
/// # Errors
/// Those of the simulated disk.
pub async fn open(
    io: Sim,
    dir: &Path,
    options: Options,
) -> io::Result<(Shard<Sim>, RecoveryReport)> {
    let settings = Settings {
        id: ShardId(0),
        dir: dir.to_owned(),
        journal_bytes: options.journal_bytes,
        dirty_bytes_max: options.dirty_bytes_max,
        retention_check: Duration::from_secs(1),
        producer_expiration_ms: 86_400_000,
    };
    let opened = Shard::open(io, settings, 256, "simulated", options.on_event).await?;
    opened.0.start();
    Ok(opened)
}

/// Ends a core in order, as a shutdown does.
///
/// # Errors
/// Those of the simulated disk: then the next start is a recovery.
pub async fn close(shard: &Shard<Sim>) -> io::Result<()> {
    shard.close().await
}
