//! FindCoordinator: which broker looks after a group or a transactional id.
//!
//! Up to version 3 a request has one key and the response one answer, without the key; from 4 on
//! both are lists. Here they are lists always.

use super::{Message, error_code, owned};
use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::Writer;

/// A key that is a consumer group.
pub const KEY_TYPE_GROUP: i8 = 0;
/// A key that is a transactional id (1+).
pub const KEY_TYPE_TRANSACTION: i8 = 1;
/// A key that is a partition of a share group (6+).
pub const KEY_TYPE_SHARE: i8 = 2;

/// The first version with lists.
const LISTS_FROM: i16 = 4;

/// Asks for coordinators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// What the keys are: [`KEY_TYPE_GROUP`], ... (1+; else groups).
    pub key_type: i8,
    /// The keys: exactly one up to version 3.
    pub keys: Vec<String>,
}

/// The coordinators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// How long the request was held back by a quota, in milliseconds (1+).
    pub throttle_time_ms: i32,
    /// An answer a key: exactly one up to version 3.
    pub coordinators: Vec<Coordinator>,
}

/// The coordinator of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    /// The key (4+; else "").
    pub key: String,
    /// The broker, or -1.
    pub node_id: i32,
    /// Host name or address to connect to.
    pub host: String,
    /// Port to connect to, or -1.
    pub port: i32,
    /// Whether it was found.
    pub error: ErrorCode,
    /// Why not, for people (1+).
    pub error_message: Option<String>,
}

/// Of no key, and not found.
impl Default for Coordinator {
    fn default() -> Self {
        Self {
            key: String::new(),
            node_id: -1,
            host: String::new(),
            port: -1,
            error: ErrorCode::None,
            error_message: None,
        }
    }
}

impl super::Request for Request {
    type Response = Response;
}

impl Message for Request {
    const API: ApiKey = ApiKey::FindCoordinator;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let mut this = Self::default();
        if version < LISTS_FROM {
            this.keys = vec![c.string()?.to_owned()];
        }
        if version >= 1 {
            this.key_type = c.i8()?;
        }
        if version >= LISTS_FROM {
            this.keys = c.array(1, |c| c.string().map(str::to_owned))?;
        }
        c.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        if version < LISTS_FROM {
            w.refuse(self.keys.len() != 1, "keys", version);
            w.string(self.keys.first().map_or("", String::as_str));
        }
        if version >= 1 {
            w.i8(self.key_type);
        } else {
            w.refuse(self.key_type != KEY_TYPE_GROUP, "key_type", version);
        }
        if version >= LISTS_FROM {
            w.array(&self.keys, |w, key| w.string(key));
        }
        w.end_struct();
    }
}

impl Message for Response {
    const API: ApiKey = ApiKey::FindCoordinator;

    fn read(c: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        let throttle_time_ms = if version >= 1 { c.i32()? } else { 0 };
        let coordinators = if version >= LISTS_FROM {
            c.array(13, |c| {
                let coordinator = Coordinator {
                    key: c.string()?.to_owned(),
                    node_id: c.i32()?,
                    host: c.string()?.to_owned(),
                    port: c.i32()?,
                    error: error_code(c)?,
                    error_message: owned(c.nullable_string()?),
                };
                c.end_struct()?;
                Ok(coordinator)
            })?
        } else {
            vec![Coordinator {
                key: String::new(),
                error: error_code(c)?,
                error_message: if version >= 1 { owned(c.nullable_string()?) } else { None },
                node_id: c.i32()?,
                host: c.string()?.to_owned(),
                port: c.i32()?,
            }]
        };
        c.end_struct()?;
        Ok(Self { throttle_time_ms, coordinators })
    }

    fn write(&self, w: &mut Writer<'_>, version: i16) {
        if version >= 1 {
            w.i32(self.throttle_time_ms);
        }
        if version >= LISTS_FROM {
            w.array(&self.coordinators, |w, coordinator| {
                w.string(&coordinator.key);
                w.i32(coordinator.node_id);
                w.string(&coordinator.host);
                w.i32(coordinator.port);
                w.i16(coordinator.error.code());
                w.nullable_string(coordinator.error_message.as_deref());
                w.end_struct();
            });
        } else {
            w.refuse(self.coordinators.len() != 1, "coordinators", version);
            for coordinator in &self.coordinators {
                w.i16(coordinator.error.code());
                if version >= 1 {
                    w.nullable_string(coordinator.error_message.as_deref());
                }
                w.i32(coordinator.node_id);
                w.string(&coordinator.host);
                w.i32(coordinator.port);
            }
        }
        w.end_struct();
    }
}
