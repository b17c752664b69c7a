//! InitProducerId: a producer's identity and term, for idempotence and transactions.

use super::{Message, error_code, i64_since, owned};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// Asks for an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The producer's transactional id, if it has one.
    pub transactional_id: Option<String>,
    /// When to abort a transaction that its producer left open, in milliseconds.
    pub transaction_timeout_ms: i32,
    /// The identity that the producer has (3+), or -1.
    pub producer_id: i64,
    /// The term that it has (3+), or -1.
    pub producer_epoch: i16,
}

/// The identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// How long the request was held back by a quota, in milliseconds.
    pub throttle_time_ms: i32,
    /// What became of the request.
    pub error: ErrorCode,
    /// The producer's id, or -1.
    pub producer_id: i64,
    /// Its term, or -1.
    pub producer_epoch: i16,
}

/// An idempotent producer's that starts.
impl Default for Request {
    fn default() -> Self {
        Self {
            transactional_id: None,
            transaction_timeout_ms: i32::MAX,
            producer_id: -1,
            producer_epoch: -1,
        }
    }
}

impl Default for Response {
    fn default() -> Self {
        Self { throttle_time_ms: 0, error: ErrorCode::None, producer_id: -1, producer_epoch: -1 }
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::InitProducerId;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let this = Self {
            transactional_id: owned(c.nullable_string()?),
            transaction_timeout_ms: c.i32()?,
            producer_id: i64_since(3, -1, c, version)?,
            producer_epoch: if version >= 3 { c.i16()? } else { -1 },
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        w.nullable_string(self.transactional_id.as_deref());
        w.i32(self.transaction_timeout_ms);
        if version >= 3 {
            w.i64(self.producer_id);
            w.i16(self.producer_epoch);
        } else {
            w.refuse(self.producer_id != -1, "producer_id", version);
            w.refuse(self.producer_epoch != -1, "producer_epoch", version);
        }
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::InitProducerId;

    fn read(c: &mut Cursor<'_>, _: i16) -> Result<Self, DecodeError> {
        let this = Self {
            throttle_time_ms: c.i32()?,
            error: error_code(c)?,
            producer_id: c.i64()?,
            producer_epoch: c.i16()?,
        };
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, _: i16) {
        w.i32(self.throttle_time_ms);
        w.i16(self.error.code());
        w.i64(self.producer_id);
        w.i16(self.producer_epoch);
        w.end_struct();
    }
}
