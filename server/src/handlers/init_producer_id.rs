//! InitProducerId: an id for an idempotent producer, from the block of this core.

use super::{Asked, Refusal};
use crate::connection::Connection;
use kariz_engine::io::Io;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::init_producer_id::{Request, Response};
use kariz_protocol::{Cursor, ErrorCode};
use std::rc::Rc;

/// The first epoch of a new producer id.
const FIRST_EPOCH: i16 = 0;

/// Answers with a new producer id, or refuses a transactional one.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    let core = Rc::clone(connection.core());
    if let Some(id) = &request.transactional_id {
        // An empty id is invalid in Kafka, too; any other would need a coordinator.
        let error = if id.is_empty() {
            ErrorCode::InvalidRequest
        } else {
            ErrorCode::CoordinatorNotAvailable
        };
        core.metrics.error(error.code());
        return asked.answer(connection, &Response { error, ..Response::default() });
    }
    asked.later(connection, async move {
        match core.next_producer_id().await {
            Ok(producer_id) => {
                Response { producer_id, producer_epoch: FIRST_EPOCH, ..Response::default() }
            }
            Err(error) => {
                tracing::warn!(%error, "no block of producer ids");
                let error = ErrorCode::CoordinatorLoadInProgress;
                core.metrics.error(error.code());
                Response { error, ..Response::default() }
            }
        }
    });
    Ok(())
}
