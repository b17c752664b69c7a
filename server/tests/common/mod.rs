//! A server in this process, and a client that speaks to it in whole frames.

#![allow(dead_code, missing_docs, clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};
use kariz_engine::batch::{Batch, BatchBuilder};
use kariz_engine::types::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use kariz_protocol::ErrorCode;
use kariz_protocol::header::{decode_response, encode_request};
use kariz_protocol::messages::{
    Request, create_topics, delete_topics, fetch, list_offsets, metadata, produce,
};
use kariz_server::{Options, Server};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A directory that goes away with the test.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("kariz-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A directory left over costs only room.
        let _left_over = std::fs::remove_dir_all(&self.0);
    }
}

/// Options for `cores` cores in `dir` on free ports. All cores share CPU 0, so that it is there.
pub fn options(dir: &Path, cores: usize) -> Options {
    Options {
        data: dir.to_owned(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        cores: vec![0; cores],
        ..Options::default()
    }
}

/// A server that is stopped, and its directory removed, when the test ends.
pub struct Fixture {
    pub server: Server,
    pub dir: TempDir,
}

impl Fixture {
    pub fn start(cores: usize) -> Self {
        Self::with(cores, &[])
    }

    pub fn with(cores: usize, set: &[(&str, &str)]) -> Self {
        let dir = TempDir::new();
        let set = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let server = Server::start(Options { set, ..options(dir.path(), cores) }).unwrap();
        Self { server, dir }
    }

    /// A client of core `core`.
    pub fn client(&self, core: usize) -> Client {
        Client::connect(self.server.listening()[core])
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let stopped = self.server.stop();
        if !std::thread::panicking() {
            stopped.unwrap();
        }
    }
}

/// One server of one core for all tests of a file, which use topics of their own.
pub fn shared() -> &'static Fixture {
    static SHARED: OnceLock<Fixture> = OnceLock::new();
    SHARED.get_or_init(|| Fixture::start(1))
}

/// A connection that sends a request and waits for its answer.
pub struct Client {
    pub stream: TcpStream,
    correlation_id: i32,
}

impl Client {
    pub fn connect(at: SocketAddr) -> Self {
        let stream = TcpStream::connect(at).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, correlation_id: 0 }
    }

    /// Sends `request`; returns the correlation id to expect.
    pub fn send<R: Request>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation_id += 1;
        let mut buf = BytesMut::new();
        encode_request(&mut buf, version, self.correlation_id, Some("test"), request).unwrap();
        self.stream.write_all(&buf).unwrap();
        self.correlation_id
    }

    /// Receives one frame, without its length.
    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Receives the answer to `request`, sent as `correlation_id`.
    pub fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let frame = self.receive_frame().unwrap();
        let (id, response) = decode_response(&frame, version).unwrap();
        assert_eq!(id, correlation_id, "answers come in the order of their requests");
        response
    }

    pub fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        let id = self.send(version, request);
        self.receive::<R>(version, id)
    }

    /// Whether the server closes the connection without a byte.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    pub fn create(&mut self, name: &str, partitions: i32) -> create_topics::TopicResult {
        self.create_with(name, partitions, &[])
    }

    pub fn create_with(
        &mut self,
        name: &str,
        num_partitions: i32,
        configs: &[(&str, &str)],
    ) -> create_topics::TopicResult {
        let configs = configs.iter().map(|(name, value)| create_topics::Config {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
        });
        let topic = create_topics::CreatableTopic {
            name: name.to_owned(),
            num_partitions,
            replication_factor: 1,
            configs: configs.collect(),
            ..create_topics::CreatableTopic::default()
        };
        let request = create_topics::Request {
            topics: vec![topic],
            timeout_ms: 30_000,
            validate_only: false,
        };
        self.call(7, &request).topics.remove(0)
    }

    pub fn delete(&mut self, name: &str) -> delete_topics::TopicResult {
        let topic =
            delete_topics::TopicRequest { name: Some(name.to_owned()), ..Default::default() };
        let request = delete_topics::Request { topics: vec![topic], timeout_ms: 30_000 };
        self.call(6, &request).topics.remove(0)
    }

    pub fn metadata(&mut self, names: Option<&[&str]>, create: bool) -> metadata::Response {
        let topics = names.map(|names| {
            let named = |name: &&str| metadata::TopicRequest {
                name: Some((*name).to_owned()),
                ..metadata::TopicRequest::default()
            };
            names.iter().map(named).collect()
        });
        let request = metadata::Request {
            topics,
            allow_auto_topic_creation: create,
            ..metadata::Request::default()
        };
        self.call(12, &request)
    }

    /// Produces with acks=all.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: Bytes,
    ) -> produce::PartitionResponse {
        self.produce_as(9, -1, topic, partition, Some(records))
    }

    pub fn produce_as(
        &mut self,
        version: i16,
        acks: i16,
        topic: &str,
        partition: i32,
        records: Option<Bytes>,
    ) -> produce::PartitionResponse {
        let request = produce_request(acks, topic, partition, records);
        let mut response = self.call(version, &request);
        assert_eq!(response.topics[0].name, topic);
        let answer = response.topics.remove(0).partitions.remove(0);
        assert_eq!(answer.index, partition);
        answer
    }

    /// Fetches one partition, without waiting.
    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> fetch::PartitionResponse {
        let wanted = fetch::FetchPartition {
            index: partition,
            fetch_offset: offset,
            ..fetch::FetchPartition::default()
        };
        self.fetch_as(12, topic, wanted)
    }

    pub fn fetch_as(
        &mut self,
        version: i16,
        topic: &str,
        wanted: fetch::FetchPartition,
    ) -> fetch::PartitionResponse {
        let request = fetch_request(topic, wanted);
        let mut response = self.call(version, &request);
        assert_eq!(response.head.error, ErrorCode::None);
        response.topics.remove(0).partitions.remove(0)
    }

    /// Looks an offset up: by time, or -1, -2, ... .
    pub fn offset(
        &mut self,
        topic: &str,
        partition: i32,
        at: i64,
    ) -> list_offsets::PartitionResponse {
        self.offset_as(10, topic, partition, at, -1)
    }

    pub fn offset_as(
        &mut self,
        version: i16,
        topic: &str,
        index: i32,
        timestamp: i64,
        current_leader_epoch: i32,
    ) -> list_offsets::PartitionResponse {
        let wanted = list_offsets::PartitionRequest { index, current_leader_epoch, timestamp };
        let topics =
            vec![list_offsets::TopicRequest { name: topic.to_owned(), partitions: vec![wanted] }];
        let timeout_ms = if version >= 10 { 30_000 } else { 0 };
        let request = list_offsets::Request { topics, timeout_ms, ..Default::default() };
        self.call(version, &request).topics.remove(0).partitions.remove(0)
    }
}

pub fn produce_request(
    acks: i16,
    topic: &str,
    index: i32,
    records: Option<Bytes>,
) -> produce::Request {
    produce::Request {
        acks,
        timeout_ms: 30_000,
        topics: vec![produce::TopicRequest {
            name: topic.to_owned(),
            partitions: vec![produce::PartitionRequest { index, records }],
        }],
        ..produce::Request::default()
    }
}

pub fn fetch_request(topic: &str, wanted: fetch::FetchPartition) -> fetch::Request {
    fetch::Request {
        topics: vec![fetch::TopicRequest { name: topic.to_owned(), partitions: vec![wanted] }],
        ..fetch::Request::default()
    }
}

/// A batch of these values, at this moment.
pub fn batch(values: &[&str]) -> Bytes {
    wire(builder(values))
}

pub fn wire(builder: BatchBuilder) -> Bytes {
    builder.done().unwrap().wire().clone()
}

pub fn builder(values: &[&str]) -> BatchBuilder {
    let mut builder = Batch::build();
    for value in values {
        builder.add(None, Some(value.as_bytes()), &[], now());
    }
    builder
}

/// A batch of an idempotent producer.
pub fn sequenced(values: &[&str], id: i64, epoch: i16, first: i32) -> Bytes {
    wire(builder(values).producer(ProducerId(id), ProducerEpoch(epoch), Sequence(first)))
}

#[expect(clippy::disallowed_methods, reason = "the server under test runs on the real clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_millis()).unwrap())
}

/// The values of all records in `records`, and their offsets.
pub fn values(records: &Bytes) -> Vec<(i64, String)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(len) = kariz_engine::batch::announced_bytes(&records[at..]) {
        let Some(bytes) = records.get(at..at + len) else { break };
        let batch = Batch::from_stored(Bytes::copy_from_slice(bytes)).unwrap();
        for record in batch.records(1 << 20).unwrap().iter() {
            let record = record.unwrap();
            let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
            found.push((record.offset.0, value));
        }
        at += len;
    }
    found
}
