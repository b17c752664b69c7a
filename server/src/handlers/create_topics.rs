//! CreateTopics: hands the topics to the cluster's owner and answers when every core knows them.

use super::{Asked, Refusal};
use crate::cluster::control::{Created, NewTopic, TopicError};
use crate::cluster::owner::TOPICS_MAX;
use crate::connection::Connection;
use crate::core::Core;
use bytes::BytesMut;
use kariz_engine::io::Io;
use kariz_protocol::header::RequestHeader;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::create_topics::{
    ConfigResult, CreatableTopic, Request, ResponseEncoder, TopicResult,
};
use kariz_protocol::{ApiKey, Cursor, ErrorCode};
use std::rc::Rc;
use tokio::task::yield_now;
use uuid::Uuid;

/// The first version whose answer has a topic's configs. Source: KIP-525.
const CONFIGS_FROM: i16 = 5;

/// What a topic of a request holds beside its bytes, at most: some 1.2 KiB of settings in the answer,
/// in a buffer that doubles as it grows and is copied then.
const HELD_BYTES: usize = 4 * 1024;

/// What the answer to the request in `frame` will hold.
pub(crate) fn will_hold(frame: &[u8]) -> usize {
    let mut cursor = Cursor::over(frame);
    let header = RequestHeader::read(&mut cursor).ok();
    // What cannot be read holds nothing; nor do topics that are too many have settings.
    let topics = header.and_then(|h| Request::announced(&mut cursor, h.version).ok());
    topics.unwrap_or(0).min(TOPICS_MAX) * HELD_BYTES
}

/// Creates the topics, or only says whether they could be.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let request = Request::decode(cursor, asked.version)?;
    let core = Rc::clone(connection.core());
    asked.later_written(connection, ApiKey::CreateTopics, async move {
        let names: Vec<String> = request.topics.iter().map(|topic| topic.name.clone()).collect();
        let topics = request.topics.into_iter().map(new_topic).collect();
        let outcome = core.control().create_topics(topics, request.validate_only).await;
        let results = match outcome {
            Ok(results) => results,
            Err(error) => {
                let error = TopicError::new(ErrorCode::KafkaStorageError, error.to_string());
                names.iter().map(|_| Err(error.clone())).collect()
            }
        };
        let Asked { version, correlation_id, .. } = asked;
        let mut buf = BytesMut::new();
        let mut answer = ResponseEncoder::begin(&mut buf, version, correlation_id, names.len());
        for (name, result) in names.into_iter().zip(results) {
            answer.topic(&match result {
                Ok(created) => describe(&core, name, created, version, request.validate_only),
                Err(TopicError { code, message }) => {
                    core.metrics.error(code.code());
                    TopicResult {
                        name,
                        error: code,
                        error_message: Some(message),
                        ..TopicResult::default()
                    }
                }
            });
            // A request may name thousands.
            yield_now().await;
        }
        answer.finish()?;
        Ok(buf)
    });
    Ok(())
}

fn new_topic(topic: CreatableTopic) -> NewTopic {
    let assignments = topic.assignments.into_iter().map(|a| (a.partition_index, a.broker_ids));
    NewTopic {
        name: topic.name,
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: assignments.collect(),
        configs: topic.configs.into_iter().map(|config| (config.name, config.value)).collect(),
    }
}

fn describe<I: Io>(
    core: &Core<I>,
    name: String,
    created: Created,
    version: i16,
    validate_only: bool,
) -> TopicResult {
    let mut configs = None;
    if version >= CONFIGS_FROM {
        let set = created.configs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        // The owner has found nothing wrong with them.
        let entries = core.config.describe_topic(set).unwrap_or_default();
        let entries = entries.into_iter().map(|config| ConfigResult {
            name: config.name.to_owned(),
            value: config.value,
            read_only: false,
            config_source: config.source.id(),
            is_sensitive: false,
        });
        configs = Some(entries.collect());
    }
    TopicResult {
        name,
        // As Kafka: a topic that was only validated has no id.
        topic_id: if validate_only { Uuid::nil() } else { Uuid::from_bytes(created.id.0) },
        num_partitions: created.partitions,
        replication_factor: created.replication_factor,
        configs,
        ..TopicResult::default()
    }
}
