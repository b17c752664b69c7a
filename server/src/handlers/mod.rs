//! One module an API: reads the request, asks the core, puts the answer into the connection's
//! queue.

mod api_versions;
pub(crate) mod create_topics;
mod delete_topics;
pub(crate) mod fetch;
mod find_coordinator;
mod inflation;
mod init_producer_id;
mod list_offsets;
mod metadata;
pub(crate) mod produce;

use crate::connection::{Answer, Connection};
use bytes::{Bytes, BytesMut};
use kariz_engine::io::Io;
use kariz_engine::types::Instant;
use kariz_protocol::frame::FrameError;
use kariz_protocol::header::{HeaderError, RequestHeader, encode_response};
use kariz_protocol::messages::Message;
use kariz_protocol::{ApiKey, Cursor, DecodeError, EncodeError, ErrorCode};
use std::future::Future;
use std::rc::Rc;

/// Why a connection must close. What was asked before is still answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("bad request: {0}")]
    Request(#[from] DecodeError),
    #[error("{} version {version} is not served: see the answer to ApiVersions", .api.name())]
    Version { api: ApiKey, version: i16 },
    #[error("a request of {bytes} bytes to {}: it may have {max}", .api.name())]
    TooLarge { api: ApiKey, bytes: usize, max: usize },
    #[error("a produce that names {named} topics and partitions: it may name {max}")]
    TooMany { named: usize, max: usize },
    /// The client asked for no answer, so that this is the only way to tell it.
    #[error("a produce with acks=0 failed: {}", .0.name())]
    Unacknowledged(ErrorCode),
    #[error("an answer could not be written: {0}")]
    Answer(#[from] EncodeError),
}

/// What every handler needs to answer.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    /// When the request was received.
    pub(crate) arrived: Instant,
    /// Bytes of the request.
    pub(crate) bytes: usize,
}

impl Asked {
    /// Answers at once.
    fn answer<I: Io, M: Message>(self, to: &Connection<I>, response: &M) -> Result<(), Refusal> {
        let mut buf = BytesMut::new();
        encode_response(&mut buf, self.version, self.correlation_id, response)?;
        to.push(M::API, self.arrived, self.bytes, Answer::Ready(buf.freeze()));
        Ok(())
    }

    /// Answers with what `work` finds, which begins when all requests before are answered.
    fn later<I: Io, M: Message>(self, to: &Connection<I>, work: impl Future<Output = M> + 'static) {
        self.later_written(to, M::API, async move {
            let (response, mut buf) = (work.await, BytesMut::new());
            encode_response(&mut buf, self.version, self.correlation_id, &response)?;
            Ok(buf)
        });
    }

    /// As [`Asked::later`], with the whole frame of the answer.
    fn later_written<I: Io>(
        self,
        to: &Connection<I>,
        api: ApiKey,
        work: impl Future<Output = Result<BytesMut, EncodeError>> + 'static,
    ) {
        let answer = async move {
            let written = work.await.unwrap_or_else(|error| {
                tracing::error!(api = api.name(), %error, "an answer could not be written");
                BytesMut::new()
            });
            written.freeze()
        };
        to.push(api, self.arrived, self.bytes, Answer::Later(Box::pin(answer)));
    }
}

/// Handles one request, whose `frame`, a part of `chunk`, arrived at `arrived`: queues its answer,
/// or what that waits for.
///
/// # Errors
/// Any [`Refusal`]: the connection must close.
pub(crate) fn handle<I: Io>(
    connection: &Rc<Connection<I>>,
    chunk: &Bytes,
    frame: &[u8],
    arrived: Instant,
) -> Result<(), Refusal> {
    if produce::repeat(connection, chunk, frame, arrived)? {
        return Ok(());
    }
    let mut cursor = Cursor::within(chunk, frame);
    let RequestHeader { api, version, correlation_id, .. } = RequestHeader::read(&mut cursor)?;
    let (bytes, max) = (frame.len(), api.request_bytes_max());
    if bytes > max {
        return Err(Refusal::TooLarge { api, bytes, max });
    }
    let asked = Asked { version, correlation_id, arrived, bytes };
    if !api.serves(version) {
        return match api {
            ApiKey::ApiVersions => api_versions::refuse(connection, asked),
            _ => Err(Refusal::Version { api, version }),
        };
    }
    let cursor = &mut cursor;
    match api {
        ApiKey::Produce => produce::handle(connection, frame, cursor, asked),
        ApiKey::Fetch => fetch::handle(connection, cursor, asked),
        ApiKey::ListOffsets => list_offsets::handle(connection, cursor, asked),
        ApiKey::Metadata => metadata::handle(connection, cursor, asked),
        ApiKey::FindCoordinator => find_coordinator::handle(connection, cursor, asked),
        ApiKey::ApiVersions => api_versions::handle(connection, cursor, asked),
        ApiKey::CreateTopics => create_topics::handle(connection, cursor, asked),
        ApiKey::DeleteTopics => delete_topics::handle(connection, cursor, asked),
        ApiKey::InitProducerId => init_producer_id::handle(connection, cursor, asked),
    }
}
