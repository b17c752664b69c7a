//! Why a run is not done to its end.

use crate::client::ClientError;
use crate::embedded::EmbeddedError;
use crate::exec::ExecError;
use crate::verify::ledger::LedgerError;
use crate::workload::WorkloadError;
use std::io;
use std::path::PathBuf;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The flags contradict each other.
    #[error("{0}")]
    Usage(String),
    /// The workload makes no sense.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// The broker cannot be talked to.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A phase failed.
    #[error("{phase}: {error}")]
    Exec {
        /// What was done.
        phase: String,
        /// What went wrong.
        error: ExecError,
    },
    /// The warm-up was not done to its end.
    #[error("warm-up, {0}")]
    WarmUp(String),
    /// A topic of the run is still there.
    #[error("topic {topic} could not be deleted and is left behind: {error}")]
    LeftBehind {
        /// Which.
        topic: String,
        /// Why.
        error: ClientError,
    },
    /// The embedded server failed.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// The ledger failed.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A file or directory could not be written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A CPU that the load cannot come from.
    #[error("no thread can run on CPU {cpu}: {error}; see --cores")]
    Cpu {
        /// Which.
        cpu: u32,
        /// Why.
        error: io::Error,
    },
    /// Something of the process itself.
    #[error("{what}: {error}")]
    Process {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
}

impl JobError {
    /// The process's exit code: 2 if other flags help, else 1.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Workload(_) | Self::Cpu { .. } => 2,
            _ => 1,
        }
    }
}
