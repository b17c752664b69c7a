//! The protocol as a client speaks it: a blocking control connection ([`Control`]) for everything
//! that happens before and after a phase, and ready-made frames for what happens in it.

mod fetch;
mod produce;

pub use fetch::{FetchRequest, FetchResponse, FetchedPartition};
pub use produce::{Ack, AckReader, FrameShape};

use bytes::{Bytes, BytesMut};
use kariz_protocol::header;
use kariz_protocol::messages::{
    Message, Request, api_versions, create_topics, delete_topics, init_producer_id, list_offsets,
    metadata,
};
use kariz_protocol::{ApiKey, DecodeError, EncodeError, ErrorCode};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// What requests call their client.
pub const CLIENT_ID: &str = "kariz-loadgen";

/// The most bytes that an answer to a control request may have.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long a control request may take: creating a topic may wait for a quorum.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the broker could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address cannot be resolved.
    #[error("`{address}` is no HOST:PORT of a broker: {source}")]
    Resolve {
        /// The host and port.
        address: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No connection.
    #[error("no connection to {address}: {source}; is a broker listening there?")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke: {}", said(source))]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The answer is none.
    #[error("the broker's answer cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// The request cannot be said in the version that the broker speaks.
    #[error("the request cannot be written: {0}")]
    Encode(#[from] EncodeError),
    /// An answer to another request.
    #[error("an answer to request {found} came where that to {expected} was due")]
    Correlation {
        /// The request that was sent.
        expected: i32,
        /// The one that was answered.
        found: i32,
    },
    /// An answer of impossible length.
    #[error("an answer of {0} B was announced: does a Kafka broker listen there?")]
    Length(i64),
    /// No common version.
    #[error("the broker speaks {} in versions {min} to {max}: none that this program does", api.name())]
    Version {
        /// The API.
        api: ApiKey,
        /// The broker's least version.
        min: i16,
        /// The broker's greatest.
        max: i16,
    },
    /// The broker does not serve it at all.
    #[error("the broker does not serve {}", .0.name())]
    Unserved(ApiKey),
    /// The broker refused.
    #[error("{what}: {error}{}", behind(message))]
    Refused {
        /// What was asked.
        what: String,
        /// Kafka's code.
        error: ErrorCode,
        /// The broker's words.
        message: String,
    },
    /// A topic did not become usable.
    #[error("topic {topic} did not become ready within {seconds} s: {why}")]
    NotReady {
        /// The topic.
        topic: String,
        /// How long it was waited for.
        seconds: u64,
        /// What was last missing.
        why: String,
    },
}

/// What ended a connection, in words: of a broker's death an end of file may be all that is seen.
pub(crate) fn said(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => "the other side closed it".into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer came in time".into(),
        _ => source.to_string(),
    }
}

/// The broker's own words, to stand behind its error code: many brokers say none.
pub(crate) fn behind(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl ClientError {
    /// Whether the broker refused with an error that may pass by itself.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.is_retriable())
    }

    fn refused(what: impl Into<String>, error: ErrorCode, message: Option<String>) -> Self {
        Self::Refused { what: what.into(), error, message: message.unwrap_or_default() }
    }
}

/// The versions to speak with one broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions(BTreeMap<i16, (i16, i16)>);

impl Versions {
    /// The greatest version of `api` that both sides speak.
    ///
    /// # Errors
    /// [`ClientError::Version`] or [`ClientError::Unserved`].
    pub fn of(&self, api: ApiKey) -> Result<i16, ClientError> {
        let (min, max) = *self.0.get(&api.code()).ok_or(ClientError::Unserved(api))?;
        let served = api.spec().served;
        let version = max.min(*served.end());
        if version < min || version < *served.start() {
            return Err(ClientError::Version { api, min, max });
        }
        Ok(version)
    }
}

/// A topic, as the broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// The address of each partition's leader, by partition.
    pub leaders: Vec<SocketAddr>,
}

/// A control connection: one request, one answer.
#[derive(Debug)]
pub struct Control {
    stream: TcpStream,
    address: SocketAddr,
    versions: Versions,
    next_id: i32,
    buffer: BytesMut,
}

/// Finds the addresses of `host:port`.
///
/// # Errors
/// [`ClientError::Resolve`].
pub fn resolve(address: &str) -> Result<SocketAddr, ClientError> {
    let resolved = address.to_socket_addrs().and_then(|mut all| {
        all.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "it has no addresses"))
    });
    resolved.map_err(|source| ClientError::Resolve { address: address.to_owned(), source })
}

impl Control {
    /// Connects to a broker and asks what it speaks.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn connect(address: SocketAddr) -> Result<Self, ClientError> {
        let stream = TcpStream::connect_timeout(&address, CONTROL_TIMEOUT)
            .map_err(|source| ClientError::Connect { address, source })?;
        let set = stream
            .set_nodelay(true)
            .and_then(|()| stream.set_read_timeout(Some(CONTROL_TIMEOUT)))
            .and_then(|()| stream.set_write_timeout(Some(CONTROL_TIMEOUT)));
        set.map_err(|source| ClientError::Io { address, source })?;
        let mut this = Self {
            stream,
            address,
            versions: Versions::default(),
            next_id: 0,
            buffer: BytesMut::new(),
        };
        // Version 0 is what every broker answers.
        let answer: api_versions::Response = this.call_in(0, &api_versions::Request::default())?;
        if !answer.error.is_none() {
            return Err(ClientError::refused("ApiVersions", answer.error, None));
        }
        let ranges = answer.api_keys.iter().map(|v| (v.api_key, (v.min_version, v.max_version)));
        this.versions = Versions(ranges.collect());
        Ok(this)
    }

    /// What the broker speaks.
    #[must_use]
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request in the greatest common version and waits for its answer.
    ///
    /// # Errors
    /// Any [`ClientError`] but `Refused`: errors inside the answer are the caller's to see.
    pub fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, ClientError> {
        self.call_in(self.versions.of(R::API)?, request)
    }

    fn call_in<R: Request>(
        &mut self,
        version: i16,
        request: &R,
    ) -> Result<R::Response, ClientError> {
        let expected = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.buffer.clear();
        header::encode_request(&mut self.buffer, version, expected, Some(CLIENT_ID), request)?;
        let address = self.address;
        let io = |source| ClientError::Io { address, source };
        self.stream.write_all(&self.buffer).map_err(io)?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(io)?;
        let length = i32::from_be_bytes(length);
        let len = usize::try_from(length).unwrap_or(usize::MAX);
        if len > ANSWER_BYTES_MAX {
            return Err(ClientError::Length(i64::from(length)));
        }
        let mut frame = vec![0; len];
        self.stream.read_exact(&mut frame).map_err(io)?;
        let frame = Bytes::from(frame);
        let mut cursor = kariz_protocol::Cursor::new(&frame);
        let found = header::read_response_header(&mut cursor, R::API, version)?;
        if found != expected {
            return Err(ClientError::Correlation { expected, found });
        }
        Ok(R::Response::decode(&mut cursor, version)?)
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// Any [`ClientError`]; `Refused` if it exists.
    pub fn create_topic(
        &mut self,
        name: &str,
        partitions: u32,
        replication_factor: i16,
        configs: &[(String, String)],
    ) -> Result<(), ClientError> {
        let config = |(name, value): &(String, String)| create_topics::Config {
            name: name.clone(),
            value: Some(value.clone()),
        };
        let topic = create_topics::CreatableTopic {
            name: name.to_owned(),
            num_partitions: crate::num::as_i32(partitions),
            replication_factor,
            assignments: Vec::new(),
            configs: configs.iter().map(config).collect(),
        };
        let request = create_topics::Request {
            topics: vec![topic],
            timeout_ms: timeout_ms(),
            validate_only: false,
        };
        let answer = self.call(&request)?;
        let result = answer.topics.into_iter().next();
        match result {
            Some(topic) if topic.error.is_none() => Ok(()),
            Some(topic) => Err(ClientError::refused(
                format!("topic {name} cannot be created"),
                topic.error,
                topic.error_message,
            )),
            None => Err(ClientError::refused(
                format!("the answer to creating topic {name} names no topic"),
                ErrorCode::UnknownServerError,
                None,
            )),
        }
    }

    /// Deletes a topic.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn delete_topic(&mut self, name: &str) -> Result<(), ClientError> {
        let topic = delete_topics::TopicRequest { name: Some(name.into()), ..Default::default() };
        let request = delete_topics::Request { topics: vec![topic], timeout_ms: timeout_ms() };
        let answer = self.call(&request)?;
        match answer.topics.into_iter().find(|t| !t.error.is_none()) {
            None => Ok(()),
            Some(t) => Err(ClientError::refused(
                format!("topic {name} cannot be deleted"),
                t.error,
                t.error_message,
            )),
        }
    }

    /// Where the topic's partitions are led.
    ///
    /// # Errors
    /// Any [`ClientError`]; a retriable `Refused` while a partition has no leader.
    pub fn topic(&mut self, name: &str) -> Result<Topic, ClientError> {
        let topic = metadata::TopicRequest { name: Some(name.into()), ..Default::default() };
        let request = metadata::Request {
            topics: Some(vec![topic]),
            allow_auto_topic_creation: false,
            ..Default::default()
        };
        let answer = self.call(&request)?;
        let what = || format!("topic {name}");
        let unknown = || ClientError::refused(what(), ErrorCode::UnknownTopicOrPartition, None);
        let topic = answer.topics.into_iter().next().ok_or_else(unknown)?;
        if !topic.error.is_none() {
            return Err(ClientError::refused(what(), topic.error, None));
        }
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|p| p.index);
        let mut leaders = Vec::with_capacity(partitions.len());
        for (index, partition) in (0..).zip(&partitions) {
            let broker = answer.brokers.iter().find(|b| b.node_id == partition.leader_id);
            let broker = broker.filter(|_| partition.index == index).ok_or_else(|| {
                ClientError::refused(
                    format!("partition {index} of topic {name}"),
                    ErrorCode::LeaderNotAvailable,
                    None,
                )
            })?;
            leaders.push(resolve(&format!("{}:{}", broker.host, broker.port))?);
        }
        if leaders.is_empty() {
            return Err(unknown());
        }
        Ok(Topic { name: name.to_owned(), leaders })
    }

    /// The partition's first (`list_offsets::EARLIEST`) or next (`LATEST`) offset, of a leader.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn offset(&mut self, topic: &str, partition: i32, at: i64) -> Result<i64, ClientError> {
        let request = list_offsets::Request {
            replica_id: -1,
            isolation_level: 0,
            topics: vec![list_offsets::TopicRequest {
                name: topic.to_owned(),
                partitions: vec![list_offsets::PartitionRequest {
                    index: partition,
                    current_leader_epoch: -1,
                    timestamp: at,
                }],
            }],
            timeout_ms: timeout_ms(),
        };
        let answer = self.call(&request)?;
        let found = answer.topics.into_iter().flat_map(|t| t.partitions).next();
        match found {
            Some(p) if p.error.is_none() => Ok(p.offset),
            other => Err(ClientError::refused(
                format!("offsets of partition {partition} of topic {topic}"),
                other.map_or(ErrorCode::UnknownServerError, |p| p.error),
                None,
            )),
        }
    }

    /// A new producer id and its epoch; waits while the broker is not ready to give one.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn init_producer_id(&mut self) -> Result<(i64, i16), ClientError> {
        let mut backoff = Backoff::new(CONTROL_TIMEOUT);
        loop {
            match self.try_init_producer_id() {
                Err(error) if error.is_retriable() && backoff.wait() => {}
                result => return result,
            }
        }
    }

    fn try_init_producer_id(&mut self) -> Result<(i64, i16), ClientError> {
        let request = init_producer_id::Request {
            transactional_id: None,
            transaction_timeout_ms: timeout_ms(),
            producer_id: -1,
            producer_epoch: -1,
        };
        let answer = self.call(&request)?;
        if answer.error.is_none() {
            Ok((answer.producer_id, answer.producer_epoch))
        } else {
            Err(ClientError::refused("a producer id", answer.error, None))
        }
    }
}

fn timeout_ms() -> i32 {
    i32::try_from(CONTROL_TIMEOUT.as_millis()).unwrap_or(i32::MAX)
}

/// Waits until the topic has `partitions` (or any number, if `None`) partitions whose leaders
/// answer for them; returns it with the first and the next offset of each partition.
///
/// # Errors
/// Any [`ClientError`]; [`ClientError::NotReady`] after 30 s.
pub fn settle(
    control: &mut Control,
    name: &str,
    partitions: Option<u32>,
) -> Result<(Topic, Vec<(i64, i64)>), ClientError> {
    let mut backoff = Backoff::new(CONTROL_TIMEOUT);
    loop {
        let why = match try_settle(control, name, partitions) {
            Ok(settled) => return Ok(settled),
            Err(error) if error.is_retriable() => error.to_string(),
            Err(error) => return Err(error),
        };
        if !backoff.wait() {
            let seconds = CONTROL_TIMEOUT.as_secs();
            return Err(ClientError::NotReady { topic: name.to_owned(), seconds, why });
        }
    }
}

fn try_settle(
    control: &mut Control,
    name: &str,
    partitions: Option<u32>,
) -> Result<(Topic, Vec<(i64, i64)>), ClientError> {
    let topic = control.topic(name)?;
    let found = u32::try_from(topic.leaders.len()).unwrap_or(u32::MAX);
    if partitions.is_some_and(|wanted| wanted != found) {
        return Err(ClientError::refused(
            format!("topic {name} has {found} partitions"),
            ErrorCode::UnknownTopicOrPartition,
            None,
        ));
    }
    let mut brokers: BTreeMap<SocketAddr, Control> = BTreeMap::new();
    let mut offsets = Vec::with_capacity(topic.leaders.len());
    for (partition, leader) in (0..).zip(&topic.leaders) {
        if !brokers.contains_key(leader) {
            brokers.insert(*leader, Control::connect(*leader)?);
        }
        let Some(broker) = brokers.get_mut(leader) else { continue };
        let first = broker.offset(name, partition, list_offsets::EARLIEST)?;
        let next = broker.offset(name, partition, list_offsets::LATEST)?;
        offsets.push((first, next));
    }
    Ok((topic, offsets))
}

/// Waits between attempts on a control thread: 10 ms at first, then doubling to a second.
#[derive(Debug)]
pub struct Backoff {
    left: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits at most `all` in sum.
    #[must_use]
    pub fn new(all: Duration) -> Self {
        Self { left: all, next: Duration::from_millis(10) }
    }

    /// Waits; `false`: the time is up.
    pub fn wait(&mut self) -> bool {
        if self.left.is_zero() {
            return false;
        }
        let pause = self.next.min(self.left);
        std::thread::park_timeout(pause);
        self.left = self.left.saturating_sub(pause);
        self.next = (self.next * 2).min(Duration::from_secs(1));
        true
    }
}
