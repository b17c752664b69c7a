//! What stands before a message: in a request API, version, correlation id and client id, in a
//! response the correlation id.
//!
//! ```text
//! request:   | api key: i16 | version: i16 | correlation id: i32 | client id: i16 string | tags? |
//! response:  | correlation id: i32 | tags? |
//! ```
//!
//! The tags are there from an API's first flexible version on (request header 2, response header
//! 1), but never in a response to ApiVersions. The client id keeps its 16-bit length always.

use bytes::{Bytes, BytesMut};

use crate::api::ApiKey;
use crate::cursor::{Cursor, DecodeError};
use crate::messages::{Message, Request};
use crate::writer::{EncodeError, Writer};

/// Why a request's header was refused. Nothing can be answered: close the connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The API is not one that is advertised.
    #[error("API {api_key} (version {version}) is not served: see the answer to ApiVersions")]
    UnknownApi {
        /// Its number.
        api_key: i16,
        /// The version asked for.
        version: i16,
    },
    /// The bytes are no header.
    #[error("bad request header: {0}")]
    Malformed(#[from] DecodeError),
}

/// The header of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader<'a> {
    /// What is asked.
    pub api: ApiKey,
    /// In which version; not checked, see [`ApiKey::serves`].
    pub version: i16,
    /// Stands in the response, too.
    pub correlation_id: i32,
    /// The client's name for itself.
    pub client_id: Option<&'a str>,
}

impl<'a> RequestHeader<'a> {
    /// Reads the header at the start of a request's frame, also of a version that is not served:
    /// ApiVersions must be answered even then.
    ///
    /// # Errors
    /// Any [`HeaderError`].
    #[inline]
    pub fn read(cursor: &mut Cursor<'a>) -> Result<Self, HeaderError> {
        let api_key = cursor.i16()?;
        let version = cursor.i16()?;
        let correlation_id = cursor.i32()?;
        let api = ApiKey::from_code(api_key).ok_or(HeaderError::UnknownApi { api_key, version })?;
        cursor.set_flexible(false);
        let client_id = cursor.nullable_string()?;
        cursor.set_flexible(api.is_flexible(version));
        cursor.end_struct()?;
        Ok(Self { api, version, correlation_id, client_id })
    }

    /// Writes the header. Fields that follow are in the encoding of the message's version.
    pub fn write(&self, w: &mut Writer<'_>) {
        w.i16(self.api.code());
        w.i16(self.version);
        w.i32(self.correlation_id);
        w.set_flexible(false);
        w.nullable_string(self.client_id);
        w.set_flexible(self.api.is_flexible(self.version));
        w.end_struct();
    }
}

/// The correlation id of a response, by which a client finds the request that it answers (and so
/// the API and version that [`decode_response`] needs).
///
/// # Errors
/// [`DecodeError::Truncated`].
pub fn correlation_id(frame: &[u8]) -> Result<i32, DecodeError> {
    Cursor::over(frame).i32()
}

/// Reads a response's header; returns the correlation id.
///
/// # Errors
/// Any [`DecodeError`].
pub fn read_response_header(
    cursor: &mut Cursor<'_>,
    api: ApiKey,
    version: i16,
) -> Result<i32, DecodeError> {
    let correlation_id = cursor.i32()?;
    cursor.set_flexible(api.response_header_version(version) > 0);
    cursor.end_struct()?;
    Ok(correlation_id)
}

/// Writes a response's header. Fields that follow are in the encoding of the message's version.
#[inline]
pub fn write_response_header(w: &mut Writer<'_>, api: ApiKey, version: i16, correlation_id: i32) {
    w.i32(correlation_id);
    w.set_flexible(api.response_header_version(version) > 0);
    w.end_struct();
    w.set_flexible(api.is_flexible(version));
}

/// Begins a request's frame at the end of `buf`, with its header.
pub(crate) fn begin_request<'b>(buf: &'b mut BytesMut, header: RequestHeader<'_>) -> Writer<'b> {
    let RequestHeader { api, version, .. } = header;
    let mut w = Writer::frame(buf);
    if !api.serves(version) {
        w.fail(EncodeError::UnsupportedVersion { api, version });
    }
    header.write(&mut w);
    w
}

/// Begins a response's frame at the end of `buf`, with its header.
#[inline]
pub(crate) fn begin_response(
    buf: &mut BytesMut,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
) -> Writer<'_> {
    let mut w = Writer::frame(buf);
    if !api.serves(version) {
        w.fail(EncodeError::UnsupportedVersion { api, version });
    }
    write_response_header(&mut w, api, version, correlation_id);
    w
}

/// Appends a whole request to `buf`: length, header and body.
///
/// # Errors
/// Any [`EncodeError`]; `buf` is then as it was.
pub fn encode_request<R: Request>(
    buf: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) -> Result<(), EncodeError> {
    let header = RequestHeader { api: R::API, version, correlation_id, client_id };
    let mut w = begin_request(buf, header);
    request.write(&mut w, version);
    w.finish().map(drop)
}

/// Appends a whole response to `buf`: length, header and body.
///
/// # Errors
/// Any [`EncodeError`]; `buf` is then as it was.
pub fn encode_response<M: Message>(
    buf: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    response: &M,
) -> Result<(), EncodeError> {
    let mut w = begin_response(buf, M::API, version, correlation_id);
    response.write(&mut w, version);
    w.finish().map(drop)
}

/// Reads a response's frame, without its length prefix: the correlation id and the body. Every
/// byte must belong to it.
///
/// # Errors
/// Any [`DecodeError`].
pub fn decode_response<M: Message>(frame: &Bytes, version: i16) -> Result<(i32, M), DecodeError> {
    let mut cursor = Cursor::new(frame);
    let correlation_id = read_response_header(&mut cursor, M::API, version)?;
    let body = M::decode(&mut cursor, version)?;
    cursor.finish()?;
    Ok((correlation_id, body))
}

#[cfg(test)]
mod tests;
