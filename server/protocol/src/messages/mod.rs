//! The messages: one module an API, each with a `Request` and a `Response`.
//!
//! A message is read by [`Message::decode`] and written by
//! [`encode_request`](crate::header::encode_request) or
//! [`encode_response`](crate::header::encode_response), which add length and header. Fields that
//! a version lacks read as their defaults. Writing drops those that Kafka's schemas call
//! ignorable, and refuses to drop one whose loss would change what is asked.
//!
//! Produce and Fetch, the two hot ones, can also be read without allocating (`RequestView`) and
//! written partition by partition (`RequestEncoder`, `ResponseEncoder`); CreateTopics' long answer
//! can be written topic by topic.

pub mod api_versions;
pub mod create_topics;
pub mod delete_topics;
pub mod fetch;
pub mod find_coordinator;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod produce;

use uuid::Uuid;

use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::error_code::ErrorCode;
use crate::writer::{TagWriter, Writer};

/// The body of a request or of a response.
pub trait Message: Sized {
    /// The API it belongs to.
    const API: ApiKey;

    /// Reads the fields. The cursor's encoding is that of `version`, which is served.
    ///
    /// # Errors
    /// Any [`DecodeError`].
    fn read(cursor: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError>;

    /// Writes the fields. The writer's encoding is that of `version`, which is served.
    fn write(&self, w: &mut Writer<'_>, version: i16);

    /// Reads the message at `cursor`, behind the header. What follows it is left unread: Kafka
    /// does not look there either.
    ///
    /// # Errors
    /// Any [`DecodeError`]: close the connection.
    fn decode(cursor: &mut Cursor<'_>, version: i16) -> Result<Self, DecodeError> {
        enter(Self::API, cursor, version)?;
        Self::read(cursor, version)
    }
}

/// The body of a request.
pub trait Request: Message {
    /// What answers it.
    type Response: Message;
}

/// Checks that `version` is served and sets the cursor to its encoding.
#[inline]
pub(crate) fn enter(api: ApiKey, cursor: &mut Cursor<'_>, version: i16) -> Result<(), DecodeError> {
    if !api.serves(version) {
        return Err(DecodeError::UnsupportedVersion { api, version });
    }
    cursor.set_flexible(api.is_flexible(version));
    Ok(())
}

/// "No bits known" where operations that a client may do could be listed.
pub const NO_AUTHORIZED_OPERATIONS: i32 = i32::MIN;

/// Where the leader of a partition is now, told to who asked the wrong broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// The leader's broker id, or -1.
    pub leader_id: i32,
    /// Its term, or -1.
    pub leader_epoch: i32,
}

impl LeaderIdAndEpoch {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self { leader_id: cursor.i32()?, leader_epoch: cursor.i32()? };
        cursor.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.leader_id);
        w.i32(self.leader_epoch);
        w.end_struct();
    }
}

/// Where a broker listens, told along with a [`LeaderIdAndEpoch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// The broker's id.
    pub node_id: i32,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: i32,
    /// Rack, if it has one.
    pub rack: Option<String>,
}

impl NodeEndpoint {
    /// Two numbers, a string and a nullable string, each of at least one byte.
    const BYTES_MIN: usize = 10;

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, DecodeError> {
        let this = Self {
            node_id: cursor.i32()?,
            host: cursor.string()?.to_owned(),
            port: cursor.i32()?,
            rack: owned(cursor.nullable_string()?),
        };
        cursor.end_struct()?;
        Ok(this)
    }

    fn write(&self, w: &mut Writer<'_>) {
        w.i32(self.node_id);
        w.string(&self.host);
        w.i32(self.port);
        w.nullable_string(self.rack.as_deref());
        w.end_struct();
    }

    fn write_tag(endpoints: &[Self], tag: u8, tags: &mut TagWriter<'_, '_>) {
        if !endpoints.is_empty() {
            tags.field(tag, |w| w.array(endpoints, |w, endpoint| endpoint.write(w)));
        }
    }
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn error_code(cursor: &mut Cursor<'_>) -> Result<ErrorCode, DecodeError> {
    cursor.i16().map(ErrorCode::from_code)
}

fn i32_array(cursor: &mut Cursor<'_>) -> Result<Vec<i32>, DecodeError> {
    cursor.array(4, Cursor::i32)
}

/// The id if `version` has the field, else "none".
fn uuid_since(since: i16, cursor: &mut Cursor<'_>, version: i16) -> Result<Uuid, DecodeError> {
    if version >= since { cursor.uuid() } else { Ok(Uuid::nil()) }
}

/// The number if `version` has the field, else `default`.
fn i32_since(
    since: i16,
    default: i32,
    cursor: &mut Cursor<'_>,
    version: i16,
) -> Result<i32, DecodeError> {
    if version >= since { cursor.i32() } else { Ok(default) }
}

/// The number if `version` has the field, else `default`.
fn i64_since(
    since: i16,
    default: i64,
    cursor: &mut Cursor<'_>,
    version: i16,
) -> Result<i64, DecodeError> {
    if version >= since { cursor.i64() } else { Ok(default) }
}
