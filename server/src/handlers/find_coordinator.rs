//! FindCoordinator: there is no coordinator yet, neither of groups nor of transactions.
//!
//! It is advertised all the same: librdkafka sends LZ4 only to brokers that advertise it.

use super::{Asked, Refusal};
use crate::connection::Connection;
use kariz_engine::io::Io;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::find_coordinator::{Coordinator, Request, Response};
use kariz_protocol::{Cursor, ErrorCode};

/// Answers every key with COORDINATOR_NOT_AVAILABLE.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    let error = ErrorCode::CoordinatorNotAvailable;
    // Repeated for each of many keys it would be most of the answer; Kafka says it for none of them.
    let message = "this broker coordinates no groups and no transactions";
    let message = (request.keys.len() == 1).then(|| message.to_owned());
    let coordinators = request.keys.into_iter().map(|key| {
        connection.core().metrics.error(error.code());
        Coordinator { key, error, error_message: message.clone(), ..Coordinator::default() }
    });
    let response = Response { coordinators: coordinators.collect(), throttle_time_ms: 0 };
    asked.answer(connection, &response)
}
