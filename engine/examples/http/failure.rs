//! What goes wrong, and what is answered then.

use super::codec::answer;
use super::ndjson::string;
use kariz_engine::batch::{BuildError, RecordFault};
use kariz_engine::*;
use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

pub(super) type Result<T> = std::result::Result<T, Failure>;

/// Why a connection ends.
pub(super) enum Failure {
    /// With a last answer.
    Refused(Refusal),
    /// Without one.
    Gone,
}

/// An answer other than 200.
pub(super) struct Refusal {
    status: u16,
    why: String,
    /// Where to ask instead.
    location: Option<String>,
    /// Of an append that failed: whether the records may be there.
    written: Option<Written>,
}

impl Failure {
    pub(super) fn new(status: u16, why: impl Display) -> Self {
        Self::Refused(Refusal { status, why: why.to_string(), location: None, written: None })
    }

    /// Core `i` listens on the port of `first` + i.
    pub(super) fn moved(first: SocketAddr, core: ShardId, target: &str) -> Self {
        let at = SocketAddr::new(first.ip(), first.port() + core.0);
        let location = format!("http://{at}{target}");
        let why = "the partition is on another core".to_owned();
        Self::Refused(Refusal { status: 307, why, location: Some(location), written: None })
    }

    fn append(status: u16, why: impl Display, written: Written) -> Self {
        let why = why.to_string();
        Self::Refused(Refusal { status, why, location: None, written: Some(written) })
    }

    /// The same of a batch before which `others` of its body were appended, which may stay.
    pub(super) fn after(self, others: usize) -> Self {
        match self {
            Self::Refused(Refusal { why, .. }) if others > 0 => {
                Self::append(503, why, Written::Maybe)
            }
            same => same,
        }
    }
}

impl From<io::Error> for Failure {
    /// Of the connection.
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        use AppendError::{Deleted, Failed, Full, LargerThanSegment, TooLarge};
        match error {
            TooLarge { .. } | LargerThanSegment { .. } => Self::new(413, error),
            Full => Self::append(507, error, Written::No),
            Deleted => Self::new(404, error),
            Failed(_) | AppendError::Closed => Self::append(503, error, Written::No),
            _ => Self::new(400, error),
        }
    }
}

impl From<ReachError> for Failure {
    fn from(error: ReachError) -> Self {
        let status = if matches!(error, ReachError::Full) { 507 } else { 503 };
        let written = error.written();
        Self::append(status, error, written)
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let status = match error {
            ReadError::OutOfRange { .. } => 416,
            ReadError::Deleted => 404,
            _ => 503,
        };
        Self::new(status, error)
    }
}

impl From<RecordFault> for Failure {
    fn from(fault: RecordFault) -> Self {
        Self::new(503, fault)
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        Self::new(400, error)
    }
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        match &error {
            CreateError::Name(_) => Self::new(400, error),
            CreateError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::append(507, error, Written::No)
            }
            _ => Self::append(503, error, Written::No),
        }
    }
}

impl Refusal {
    /// What it says, as a line of NDJSON.
    pub(super) fn line(&self) -> String {
        let written = match self.written {
            None => "",
            Some(Written::No) => r#","written":"no""#,
            Some(Written::Maybe) => r#","written":"maybe""#,
        };
        format!("{{\"error\":{}{written}}}\n", string(&self.why))
    }

    pub(super) fn answer(&self) -> String {
        let reason = match self.status {
            307 => "Temporary Redirect",
            400 => "Bad Request",
            404 => "Not Found",
            405 => "Method Not Allowed",
            411 => "Length Required",
            413 => "Content Too Large",
            416 => "Range Not Satisfiable",
            431 => "Request Header Fields Too Large",
            501 => "Not Implemented",
            505 => "HTTP Version Not Supported",
            507 => "Insufficient Storage",
            _ => "Service Unavailable",
        };
        let mut headers = "Connection: close\r\n".to_owned();
        if let Some(location) = &self.location {
            headers += &format!("Location: {location}\r\n");
        }
        if self.status == 405 {
            headers += "Allow: GET, POST\r\n";
        }
        answer(&format!("{} {reason}", self.status), &headers, &self.line())
    }
}
