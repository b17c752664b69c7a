//! What is to be sent: shape, rate, limits.

pub mod batch;
pub mod codec;
pub mod value;

use crate::schedule::Arrival;
use codec::Codec;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;
use value::IDENTITY_BYTES;

/// The most bytes that a batch's records may have. Source: far above Kafka's default
/// `max.message.bytes` of 1 MiB, far below what a length field can say.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Whom the broker waits for before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Acks {
    /// Nobody, and it does not answer.
    #[serde(rename = "0")]
    None,
    /// The leader.
    #[serde(rename = "1")]
    Leader,
    /// All in-sync replicas.
    #[default]
    #[serde(rename = "all")]
    All,
}

impl Acks {
    /// As it stands in a request.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }

    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "0",
            Self::Leader => "1",
            Self::All => "all",
        }
    }
}

impl FromStr for Acks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "0" => Ok(Self::None),
            "1" => Ok(Self::Leader),
            "all" | "-1" => Ok(Self::All),
            _ => Err(format!("`{text}` is none of 0, 1, all")),
        }
    }
}

/// How fast to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rate {
    /// A closed loop: as fast as answers come.
    #[default]
    Max,
    /// An open loop of so many records a second.
    RecordsPerSecond(u64),
    /// An open loop of so many bytes of values a second.
    BytesPerSecond(u64),
    /// An open loop of so many requests a second.
    RequestsPerSecond(u64),
}

impl FromStr for Rate {
    type Err = String;

    /// Reads `max`, `200k`, `1.5M/s`, `500MB/s`, `64MiB/s`, `20kreq/s`.
    fn from_str(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("/s").unwrap_or(text);
        let rate = if body == "max" {
            return Ok(Self::Max);
        } else if let Some(n) = body.strip_suffix("req") {
            Self::RequestsPerSecond(quantity(n)?)
        } else if let Some(n) = body.strip_suffix('B') {
            Self::BytesPerSecond(quantity(n)?)
        } else {
            Self::RecordsPerSecond(quantity(body.strip_suffix("rec").unwrap_or(body))?)
        };
        match rate {
            Self::RecordsPerSecond(0) | Self::BytesPerSecond(0) | Self::RequestsPerSecond(0) => {
                Err("a rate of 0 sends nothing".into())
            }
            rate => Ok(rate),
        }
    }
}

/// Reads a number with a suffix: k, M, G are powers of 1,000, Ki, Mi, Gi of 1,024. A trailing B
/// for bytes is allowed.
///
/// # Errors
/// What is wrong with the text.
pub fn quantity(text: &str) -> Result<u64, String> {
    let body = text.strip_suffix('B').unwrap_or(text);
    let digits = body.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &body[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        other => return Err(format!("`{other}` in `{text}` is none of k M G Ki Mi Gi")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is no number"))?;
    if number < 0.0 || !number.is_finite() {
        return Err(format!("`{text}` is out of range"));
    }
    Ok(crate::num::round(number * unit))
}

/// Reads a duration: `500ms`, `30s`, `2m`, `1h`; a bare number is seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(format!("`{other}` in `{text}` is none of ms s m h")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("`{text}` is no duration"))?;
    Duration::try_from_secs_f64(number * unit).map_err(|_| format!("`{text}` is out of range"))
}

/// How closely records that are read back are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verify {
    /// Not at all: only the lengths of batches, to know where to go on.
    Off,
    /// Each batch's CRC and offsets; the records may be anybody's.
    Batches,
    /// Each record: there, once, in order, as sent.
    #[default]
    Full,
}

/// When a phase ends: at the first of these that is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// After so much time.
    pub duration_ns: Option<u64>,
    /// After so many records (rounded up to whole batches on every connection).
    pub records: Option<u64>,
    /// After so many bytes of values (rounded up likewise).
    pub bytes: Option<u64>,
}

/// What one workload sends and reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its name in reports.
    pub name: String,
    /// The topic's number of partitions.
    pub partitions: u32,
    /// The topic's replication factor; -1 is the broker's default.
    pub replication_factor: i16,
    /// Configs of the topic, by Kafka's names.
    pub topic_config: Vec<(String, String)>,
    /// Producing connections, and the most that fetch.
    pub connections: u32,
    /// Requests in flight on a connection.
    pub depth: u32,
    /// Whom the broker waits for.
    pub acks: Acks,
    /// Bytes of a record's value.
    pub record_bytes: u32,
    /// Records in a batch; a request is a batch.
    pub batch_records: u32,
    /// How batches are compressed.
    pub compression: Codec,
    /// How many of a hundred filler bytes are zeros.
    pub zero_percent: u8,
    /// Whether producers are idempotent.
    pub idempotent: bool,
    /// How fast to send.
    pub rate: Rate,
    /// How requests of an open loop are spread.
    pub arrival: Arrival,
    /// When producing ends.
    pub limits: Limits,
    /// How closely to look at what is read back.
    pub verify: Verify,
    /// The most bytes of a partition in one fetch response.
    pub fetch_bytes: u32,
    /// How long a request may be unanswered.
    pub timeout_ms: u32,
}

/// Why a workload makes no sense.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// A number that must not be 0 is.
    #[error("{0} must be more than 0")]
    Zero(&'static str),
    /// The value has no room for what identifies it.
    #[error("records of {0} B have no room for their identity: at least {IDENTITY_BYTES} B")]
    RecordTooSmall(u32),
    /// The batch is larger than any broker takes.
    #[error("batches of {bytes} B are too large: at most {BATCH_BYTES_MAX} B")]
    BatchTooLarge {
        /// The bytes of values in a batch.
        bytes: u64,
    },
    /// Nothing would end the run.
    #[error("nothing ends the run: give a duration, a number of records or of bytes")]
    Endless,
    /// More than the buffers of a run may take.
    #[error(
        "{bytes} B of requests in flight do not fit in memory: fewer connections, depth or bytes"
    )]
    InFlightTooLarge {
        /// Connections times depth times batch.
        bytes: u64,
    },
    /// An idempotent producer wants acks=all.
    #[error("an idempotent producer needs acks=all")]
    IdempotentAcks,
    /// Kafka promises order for five requests in flight.
    #[error("an idempotent producer may have at most 5 requests in flight, not {0}")]
    IdempotentDepth(u32),
}

impl Workload {
    /// The most bytes of requests in flight that are prepared in memory.
    const IN_FLIGHT_BYTES_MAX: u64 = 2 << 30;

    /// Bytes of values in a batch.
    #[must_use]
    pub fn batch_bytes(&self) -> u64 {
        u64::from(self.record_bytes) * u64::from(self.batch_records)
    }

    /// Requests a second of an open loop.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn requests_per_second(&self) -> Option<f64> {
        match self.rate {
            Rate::Max => None,
            Rate::RecordsPerSecond(n) => Some(n as f64 / f64::from(self.batch_records)),
            Rate::BytesPerSecond(n) => Some(n as f64 / self.batch_bytes() as f64),
            Rate::RequestsPerSecond(n) => Some(n as f64),
        }
    }

    /// How many batches connection number `connection` sends at most.
    #[must_use]
    pub fn batches_of(&self, connection: u32) -> u64 {
        let by_records = self.limits.records.map(|n| n.div_ceil(u64::from(self.batch_records)));
        let by_bytes = self.limits.bytes.map(|n| n.div_ceil(self.batch_bytes().max(1)));
        let all = by_records.unwrap_or(u64::MAX).min(by_bytes.unwrap_or(u64::MAX));
        if all == u64::MAX {
            return u64::MAX;
        }
        let (each, rest) = (all / u64::from(self.connections), all % u64::from(self.connections));
        each + u64::from(u64::from(connection) < rest)
    }

    /// Checks that it can be run.
    ///
    /// # Errors
    /// Any [`WorkloadError`].
    pub fn check(&self) -> Result<(), WorkloadError> {
        let positive = [
            (Some(self.partitions.into()), "--partitions"),
            (Some(self.connections.into()), "--connections"),
            (Some(self.depth.into()), "--depth"),
            (Some(self.batch_records.into()), "--batch-records"),
            (Some(self.fetch_bytes.into()), "--fetch-bytes"),
            (Some(self.timeout_ms.into()), "--timeout, in whole milliseconds,"),
            (self.limits.duration_ns, "--duration"),
            (self.limits.records, "--records"),
            (self.limits.bytes, "--bytes"),
        ];
        if let Some((_, name)) = positive.into_iter().find(|(n, _)| *n == Some(0_u64)) {
            return Err(WorkloadError::Zero(name));
        }
        if crate::num::index(u64::from(self.record_bytes)) < IDENTITY_BYTES {
            return Err(WorkloadError::RecordTooSmall(self.record_bytes));
        }
        if self.batch_bytes() > BATCH_BYTES_MAX {
            return Err(WorkloadError::BatchTooLarge { bytes: self.batch_bytes() });
        }
        let in_flight = u64::from(self.connections)
            .saturating_mul(u64::from(self.depth))
            .saturating_mul(self.batch_bytes());
        if in_flight > Self::IN_FLIGHT_BYTES_MAX {
            return Err(WorkloadError::InFlightTooLarge { bytes: in_flight });
        }
        if self.limits == Limits::default() {
            return Err(WorkloadError::Endless);
        }
        if self.idempotent && self.acks != Acks::All {
            return Err(WorkloadError::IdempotentAcks);
        }
        // Source: Kafka's ProducerConfig, max.in.flight.requests.per.connection.
        if self.idempotent && self.depth > 5 {
            return Err(WorkloadError::IdempotentDepth(self.depth));
        }
        Ok(())
    }
}

impl Default for Workload {
    /// 100 B records, 64 in a batch, acks=all, ten seconds as fast as answers come.
    fn default() -> Self {
        Self {
            name: "throughput".into(),
            partitions: 4,
            replication_factor: -1,
            topic_config: Vec::new(),
            connections: 8,
            depth: 8,
            acks: Acks::All,
            record_bytes: 100,
            batch_records: 64,
            compression: Codec::None,
            zero_percent: 0,
            idempotent: false,
            rate: Rate::Max,
            arrival: Arrival::Uniform,
            limits: Limits { duration_ns: Some(10_000_000_000), ..Limits::default() },
            verify: Verify::Full,
            fetch_bytes: 1 << 20,
            timeout_ms: 30_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_sizes_are_read() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("200k/s".parse(), Ok(Rate::RecordsPerSecond(200_000)));
        assert_eq!("1.5M".parse(), Ok(Rate::RecordsPerSecond(1_500_000)));
        assert_eq!("500MB/s".parse(), Ok(Rate::BytesPerSecond(500_000_000)));
        assert_eq!("1MiB".parse(), Ok(Rate::BytesPerSecond(1 << 20)));
        assert_eq!("20kreq/s".parse(), Ok(Rate::RequestsPerSecond(20_000)));
        for bad in ["", "fast", "-3", "5x", "0", "0req", "infB"] {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
        assert_eq!(quantity("4GiB"), Ok(4 << 30));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("5 parsecs").is_err() && duration("-1s").is_err());
    }

    #[test]
    fn batches_are_shared_out_without_remainder() {
        let limits = Limits { records: Some(1_000), ..Limits::default() };
        let w = Workload { batch_records: 10, connections: 7, limits, ..Workload::default() };
        assert_eq!((0..7).map(|c| w.batches_of(c)).sum::<u64>(), 100);
        let endless = Workload::default();
        assert_eq!(endless.batches_of(0), u64::MAX);
    }

    #[test]
    fn nonsense_is_refused() {
        let good = Workload::default();
        assert_eq!(good.check(), Ok(()));
        let bad = Workload { record_bytes: 35, ..good.clone() };
        assert_eq!(bad.check(), Err(WorkloadError::RecordTooSmall(35)));
        let bad = Workload { limits: Limits::default(), ..good.clone() };
        assert_eq!(bad.check(), Err(WorkloadError::Endless));
        let bad = Workload { idempotent: true, depth: 6, ..good.clone() };
        assert_eq!(bad.check(), Err(WorkloadError::IdempotentDepth(6)));
        let bad = Workload { depth: 0, ..good.clone() };
        assert_eq!(bad.check(), Err(WorkloadError::Zero("--depth")));
        let zero = |limits| Workload { limits, ..good.clone() }.check();
        let (second, none) = (Some(1_000_000_000), Limits::default());
        for (limits, name) in [
            (Limits { duration_ns: Some(0), ..none }, "--duration"),
            (Limits { duration_ns: second, records: Some(0), ..none }, "--records"),
            (Limits { duration_ns: second, bytes: Some(0), ..none }, "--bytes"),
        ] {
            assert_eq!(zero(limits), Err(WorkloadError::Zero(name)));
        }
    }
}
