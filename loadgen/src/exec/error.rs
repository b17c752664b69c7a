//! Why a phase fails.

use crate::client::{ClientError, behind, said};
use crate::verify::ledger::LedgerError;
use crate::workload::codec::{Codec, CodecError};
use kariz_protocol::ErrorCode;
use std::io;
use std::net::SocketAddr;

/// Why a phase could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// Before or beside the load: asking a broker for something.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No connection.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// A connection broke.
    #[error("{}", said(source))]
    Lost {
        /// What the system says.
        source: io::Error,
    },
    /// An answer of impossible length.
    #[error("an answer of {0} B was announced")]
    Frame(i32),
    /// An answer to another request than the oldest.
    #[error("request {found} was answered where the answer to {expected} was due")]
    Correlation {
        /// The oldest request.
        expected: i32,
        /// The one answered.
        found: i32,
    },
    /// An answer to nothing.
    #[error("an answer to request {0} came, and none is waited for")]
    Unasked(i32),
    /// The broker refused.
    #[error("the broker refused a request: {error}{}", behind(message))]
    Refused {
        /// Kafka's code.
        error: ErrorCode,
        /// The broker's words.
        message: String,
    },
    /// The broker refused again and again.
    #[error("a request was still refused after {attempts} attempts: {error}{}", behind(message))]
    Retries {
        /// How often it was sent.
        attempts: u32,
        /// Kafka's code, the last time.
        error: ErrorCode,
        /// The broker's words.
        message: String,
    },
    /// No answer.
    #[error("no answer within {ms} ms from {}", address.map_or("?".into(), |a| a.to_string()))]
    NoAnswer {
        /// Who does not answer.
        address: Option<SocketAddr>,
        /// How long it was waited for.
        ms: u64,
    },
    /// The partitions of one connection are now led by different brokers.
    #[error("the partitions of a connection have moved to different brokers: run it again")]
    MovedApart,
    /// Compression failed.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Compression made records much larger.
    #[error("{0} made a batch larger by more than an eighth")]
    Incompressible(Codec),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The system refused something of the loop.
    #[error("the event loop failed: {0}")]
    Poll(#[from] rustix::io::Errno),
    /// A thread could not be started or pinned.
    #[error("a load thread could not be started: {0}")]
    Thread(io::Error),
}
