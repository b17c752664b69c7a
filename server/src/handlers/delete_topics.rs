//! DeleteTopics: by name or by id; answered when no core has them any more.

use super::{Asked, Refusal};
use crate::cluster::control::{TopicError, TopicRef};
use crate::connection::Connection;
use kariz_engine::io::Io;
use kariz_engine::types::TopicId;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::delete_topics::{Request, Response, TopicRequest, TopicResult};
use kariz_protocol::{Cursor, ErrorCode};
use std::rc::Rc;
use uuid::Uuid;

/// Deletes the topics.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    let core = Rc::clone(connection.core());
    asked.later(connection, async move {
        let refs = request.topics.iter().map(topic_ref).collect();
        let results = match core.control().delete_topics(refs).await {
            Ok(results) => results,
            Err(error) => {
                let error = TopicError::new(ErrorCode::KafkaStorageError, error.to_string());
                request.topics.iter().map(|_| Err(error.clone())).collect()
            }
        };
        let topics = request.topics.into_iter().zip(results).map(|(asked, result)| match result {
            Ok(deleted) => TopicResult {
                name: Some(deleted.name),
                topic_id: Uuid::from_bytes(deleted.id.0),
                error: ErrorCode::None,
                error_message: None,
            },
            Err(TopicError { code, message }) => {
                core.metrics.error(code.code());
                TopicResult {
                    name: asked.name,
                    topic_id: asked.topic_id,
                    error: code,
                    error_message: Some(message),
                }
            }
        });
        Response { topics: topics.collect(), throttle_time_ms: 0 }
    });
    Ok(())
}

fn topic_ref(topic: &TopicRequest) -> TopicRef {
    match &topic.name {
        Some(name) => TopicRef::Name(name.clone()),
        None => TopicRef::Id(TopicId(topic.topic_id.into_bytes())),
    }
}
