//! Metadata: brokers, topics, leaders. Read from the core's image; a topic that is missing may be
//! created on the way.

use super::{Asked, Refusal};
use crate::cluster::control::NewTopic;
use crate::cluster::image::{Image, TopicImage};
use crate::cluster::names;
use crate::connection::Connection;
use crate::core::Core;
use kariz_engine::io::Io;
use kariz_engine::types::TopicId;
use kariz_protocol::messages::Message;
use kariz_protocol::messages::metadata::{
    Broker, Partition, Request, Response, Topic, TopicRequest,
};
use kariz_protocol::{Cursor, ErrorCode};
use std::rc::Rc;
use uuid::Uuid;

/// The first version in which a client says itself whether topics may be created.
const AUTO_CREATE_FLAG_FROM: i16 = 4;

/// Answers from the image, creating topics first if the client and the configuration allow it.
pub(super) fn handle<I: Io>(
    connection: &Connection<I>,
    cursor: &mut Cursor<'_>,
    asked: Asked,
) -> Result<(), Refusal> {
    let mut request = Request::decode(cursor, asked.version)?;
    if let Some(topics) = &mut request.topics {
        keep_once(topics);
    }
    let core = connection.core();
    let allowed = request.allow_auto_topic_creation || asked.version < AUTO_CREATE_FLAG_FROM;
    let missing = if allowed && core.config.auto_create_topics {
        missing_topics(&core.image.borrow(), &request)
    } else {
        Vec::new()
    };
    if missing.is_empty() {
        let response = describe(core, &request);
        return asked.answer(connection, &response);
    }
    let core = Rc::clone(core);
    asked.later(connection, async move {
        let topics = missing.into_iter().map(NewTopic::by_default).collect();
        // Whatever became of it, the image has it; a race with another client is no error here.
        if let Err(error) = core.control().create_topics(topics, false).await {
            tracing::warn!(%error, "topics could not be created automatically");
        }
        describe(&core, &request)
    });
    Ok(())
}

/// Leaves each topic once: the answer is then as long as the topics that exist, and the request,
/// make it. As Kafka: where there are ids, names are not looked at.
fn keep_once(topics: &mut Vec<TopicRequest>) {
    if topics.iter().any(|topic| !topic.topic_id.is_nil()) {
        topics.retain_mut(|topic| {
            topic.name = None;
            !topic.topic_id.is_nil()
        });
    }
    // Not hashed: the client chooses the names, and could choose those that collide.
    topics.sort_unstable_by(|a, b| (a.topic_id, &a.name).cmp(&(b.topic_id, &b.name)));
    topics.dedup();
}

/// The names that are asked for, could be topics, and are none.
fn missing_topics(image: &Image, request: &Request) -> Vec<String> {
    let named = request.topics.iter().flatten().filter_map(|topic| topic.name.as_ref());
    named
        .filter(|name| image.topic(name).is_none() && names::check(name).is_ok())
        .cloned()
        .collect()
}

fn describe<I: Io>(core: &Core<I>, request: &Request) -> Response {
    let image = core.image.borrow();
    let brokers = image.brokers().map(|(node_id, broker)| Broker {
        node_id,
        host: broker.host.clone(),
        port: i32::from(broker.port),
        rack: broker.rack.clone(),
    });
    let topics: Vec<Topic> = match &request.topics {
        None => image.topics().map(found).collect(),
        Some(asked) => asked.iter().map(|topic| look_up(&image, topic)).collect(),
    };
    for topic in &topics {
        if topic.error != ErrorCode::None {
            core.metrics.error(topic.error.code());
        }
    }
    Response {
        brokers: brokers.collect(),
        cluster_id: Some(core.cluster_id.to_string()),
        controller_id: image.controller_id(),
        topics,
        ..Response::default()
    }
}

fn look_up(image: &Image, asked: &TopicRequest) -> Topic {
    let id = TopicId(asked.topic_id.into_bytes());
    let error = |error| Topic {
        error,
        name: asked.name.clone(),
        topic_id: asked.topic_id,
        ..Topic::default()
    };
    match &asked.name {
        None => image.topic_by_id(id).map_or_else(|| error(ErrorCode::UnknownTopicId), found),
        Some(name) => match image.topic(name) {
            Some(topic) => found(topic),
            None if names::check(name).is_err() => error(ErrorCode::InvalidTopicException),
            None => error(ErrorCode::UnknownTopicOrPartition),
        },
    }
}

fn found(topic: &TopicImage) -> Topic {
    let partitions = topic.partitions().map(|(index, partition)| Partition {
        error: if partition.leader < 0 { ErrorCode::LeaderNotAvailable } else { ErrorCode::None },
        index,
        leader_id: partition.leader,
        leader_epoch: partition.leader_epoch,
        replica_nodes: partition.replicas.clone(),
        isr_nodes: partition.isr.clone(),
        offline_replicas: Vec::new(),
    });
    Topic {
        error: ErrorCode::None,
        name: Some(topic.name.to_string()),
        topic_id: Uuid::from_bytes(topic.id.0),
        is_internal: names::is_internal(&topic.name),
        partitions: partitions.collect(),
        ..Topic::default()
    }
}
