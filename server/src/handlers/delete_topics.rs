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
        let refs: Vec<_> = request.topics.iter().map(topic_ref).collect();
        let named: Vec<_> = refs.iter().filter_map(|topic| topic.as_ref().ok().cloned()).collect();
        let count = named.len();
        let results = match core.control().delete_topics(named).await {
            Ok(results) => results,
            Err(error) => {
                let error = TopicError::new(ErrorCode::KafkaStorageError, error.to_string());
                vec![Err(error); count]
            }
        };
        let mut results = results.into_iter();
        let results = refs.into_iter().map_while(|topic| match topic {
            Ok(_) => results.next(),
            Err(refused) => Some(Err(refused)),
        });
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

fn topic_ref(topic: &TopicRequest) -> Result<TopicRef, TopicError> {
    match &topic.name {
        // As Kafka: the two may mean two topics.
        Some(_) if !topic.topic_id.is_nil() => {
            let why = "a topic is named by its name or by its id, not by both".to_owned();
            Err(TopicError::new(ErrorCode::InvalidRequest, why))
        }
        Some(name) => Ok(TopicRef::Name(name.clone())),
        None => Ok(TopicRef::Id(TopicId(topic.topic_id.into_bytes()))),
    }
}
