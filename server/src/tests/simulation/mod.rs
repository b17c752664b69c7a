//! The server on the simulated machine: the same connections, handlers and control plane, on a
//! disk that loses what it may, from a seed.

mod create;
mod failed;
mod hostile;
mod rot;

use crate::accept;
use crate::cluster::control::{Answer, Control, Created, Deleted, NewTopic, TopicError, TopicRef};
use crate::cluster::image::Image;
use crate::cluster::owner::{Owner, Publish};
use crate::cluster::start::{Brokers, CoreFacts, own};
use crate::config::Settings;
use crate::core::Core;
use bytes::{Bytes, BytesMut};
use kariz_engine::batch::{Batch, announced_bytes};
use kariz_engine::io::sim::{End, Fault, Faults, OpKind, Outcome, Rule, Sim, SimConn, World};
use kariz_engine::io::{Conn, Io};
use kariz_engine::{Partition, Shard, sim};
use kariz_protocol::ErrorCode;
use kariz_protocol::frame::FrameCutter;
use kariz_protocol::header::{decode_response, encode_request};
use kariz_protocol::messages::{
    Request, create_topics, fetch, init_producer_id, list_offsets, produce,
};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Boots of one machine in one run.
const BOOTS: i32 = 4;
/// Batches that a client sends in one boot, and how many of them before it waits for an answer.
const BATCHES: usize = 40;
const DEPTH: usize = 4;

/// The control plane of a machine with one core.
struct Alone(Rc<Owner<Sim>>);

impl Control for Alone {
    fn create_topics(
        &self,
        topics: Vec<NewTopic>,
        validate_only: bool,
    ) -> Answer<Vec<Result<Created, TopicError>>> {
        let owner = Rc::clone(&self.0);
        Box::pin(async move { owner.create_topics(topics, validate_only).await })
    }

    fn delete_topics(&self, topics: Vec<TopicRef>) -> Answer<Vec<Result<Deleted, TopicError>>> {
        let owner = Rc::clone(&self.0);
        Box::pin(async move { owner.delete_topics(topics).await })
    }

    fn producer_ids(&self, broker: i32) -> Answer<Range<i64>> {
        let owner = Rc::clone(&self.0);
        Box::pin(async move { owner.producer_ids(broker).await })
    }
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9092))
}

/// One core that has opened the cluster's log with these settings, and what the log says.
async fn start(
    io: Sim,
    set: &[(&str, &str)],
) -> (Shard<Sim>, Arc<Settings>, Partition<Sim>, Image) {
    let set: Vec<_> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let opened = sim::open(io, Path::new("/data"), sim::Options::default()).await;
    let (shard, report) = opened.unwrap();
    let config = Arc::new(Settings::new(None, &set, 1).unwrap());
    let brokers =
        Brokers { node_id: 1, host: "localhost".to_owned(), rack: None, ports: vec![9092] };
    let facts = vec![CoreFacts::of(&shard)];
    let (log, image) = own(&shard, &config, &brokers, facts, report.was_clean).await.unwrap();
    (shard, config, log, image)
}

/// Starts the server; it accepts when this returns.
async fn serve(io: Sim) -> Rc<Core<Sim>> {
    serve_with(io, &[]).await
}

/// As [`serve`], with these settings.
async fn serve_with(io: Sim, set: &[(&str, &str)]) -> Rc<Core<Sim>> {
    let (shard, config, log, image) = start(io, set).await;
    let served: Rc<OnceCell<Rc<Core<Sim>>>> = Rc::default();
    let to = Rc::clone(&served);
    let publish: Publish = Box::new(move |delta| {
        let core = Rc::clone(to.get().unwrap());
        Box::pin(async move { core.apply(&delta).await.unwrap() })
    });
    let owner = Owner::new(shard.clone(), log, Arc::clone(&config), image.clone(), publish);
    let control = Box::new(Alone(Rc::new(owner)));
    let core = Core::new(shard.clone(), 256, "simulated".into(), config, image, control);
    core.open_all().await;
    assert!(served.set(Rc::clone(&core)).is_ok());
    let listener = shard.io().listen(address()).unwrap();
    let accepting = Rc::clone(&core);
    shard.spawn(async move {
        accept::serve(accepting, listener).await.unwrap();
    });
    core
}

/// A client that may send several requests before it receives.
struct Client {
    conn: SimConn,
    cutter: FrameCutter,
    chunk: Bytes,
    next: i32,
}

impl Client {
    async fn connect(io: &Sim) -> Self {
        let conn = io.connect(address()).await.unwrap();
        Self { conn, cutter: FrameCutter::new(1 << 30), chunk: Bytes::new(), next: 0 }
    }

    async fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut buf = BytesMut::new();
        self.next += 1;
        encode_request(&mut buf, version, self.next, None, request).unwrap();
        self.conn.send(&buf, false).await.unwrap();
    }

    async fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        loop {
            if let Some(frame) = self.cutter.cut(&mut self.chunk).unwrap() {
                return decode_response(&frame, version).unwrap().1;
            }
            self.chunk = self.conn.recv().await.unwrap().unwrap();
        }
    }

    async fn call<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request).await;
        self.receive::<R>(version).await
    }

    /// Everything in the partition, by offset.
    async fn read_all(&mut self) -> BTreeMap<i64, String> {
        let mut found = BTreeMap::new();
        loop {
            let next = found.last_key_value().map_or(0, |(last, _)| last + 1);
            let wanted = fetch::FetchPartition { fetch_offset: next, ..Default::default() };
            let topic = fetch::TopicRequest { name: "t".to_owned(), partitions: vec![wanted] };
            let request = fetch::Request { topics: vec![topic], ..fetch::Request::default() };
            let mut answer = self.call(12, &request).await.topics.remove(0).partitions.remove(0);
            assert_eq!(answer.head.error, ErrorCode::None);
            let records = answer.records.take().unwrap();
            let mut at = 0;
            while let Some(len) = announced_bytes(&records[at..]) {
                let batch = Batch::from_stored(records.slice(at..at + len)).unwrap();
                for record in batch.records(1 << 20).unwrap().iter() {
                    let record = record.unwrap();
                    let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    found.insert(record.offset.0, value);
                }
                at += len;
            }
            if at == 0 {
                return found;
            }
        }
    }

    /// The first error and the number of bytes of a fetch by one who believes in a leader epoch.
    async fn fetch(&mut self, fetch_offset: i64, current_leader_epoch: i32) -> (ErrorCode, usize) {
        let wanted =
            fetch::FetchPartition { fetch_offset, current_leader_epoch, ..Default::default() };
        let topic = fetch::TopicRequest { name: "t".to_owned(), partitions: vec![wanted] };
        let request = fetch::Request { topics: vec![topic], ..fetch::Request::default() };
        let answer = self.call(12, &request).await.topics.remove(0).partitions.remove(0);
        (answer.head.error, answer.records.map_or(0, |records| records.len()))
    }

    /// Looks an offset up, -1 for the log end, and waits so many milliseconds for what is not durable.
    async fn offset_of(
        &mut self,
        timestamp: i64,
        current_leader_epoch: i32,
        timeout_ms: i32,
    ) -> list_offsets::PartitionResponse {
        let wanted = list_offsets::PartitionRequest { index: 0, current_leader_epoch, timestamp };
        let topic = list_offsets::TopicRequest { name: "t".to_owned(), partitions: vec![wanted] };
        let request =
            list_offsets::Request { topics: vec![topic], timeout_ms, ..Default::default() };
        self.call(10, &request).await.topics.remove(0).partitions.remove(0)
    }

    async fn create(&mut self) {
        self.create_called("t").await;
    }

    async fn create_called(&mut self, name: &str) {
        let topic = create_topics::CreatableTopic {
            name: name.to_owned(),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        };
        let request =
            create_topics::Request { topics: vec![topic], timeout_ms: 1000, validate_only: false };
        let made = self.call(7, &request).await.topics[0].error;
        assert!(matches!(made, ErrorCode::None | ErrorCode::TopicAlreadyExists), "{made:?}");
    }
}

fn produce_request(io: &Sim, acks: i16, timeout_ms: i32, value: &str) -> produce::Request {
    let batch = Batch::build().record(None, Some(value.as_bytes()), &[], io.timestamp()).done();
    let records = Some(batch.unwrap().wire().clone());
    let partition = produce::PartitionRequest { index: 0, records };
    let topic = produce::TopicRequest { name: "t".to_owned(), partitions: vec![partition] };
    produce::Request { acks, timeout_ms, topics: vec![topic], ..Default::default() }
}

/// What clients were told, over all boots: the offsets of acknowledged values.
type Acked = Rc<RefCell<BTreeMap<i64, String>>>;

/// One boot: starts the server, checks what it has kept, and sends more.
async fn run(io: Sim, boot: i32, acked: Acked, epochs: Rc<RefCell<Vec<i32>>>) {
    serve(io.clone()).await;
    let mut client = Client::connect(&io).await;
    client.create().await;

    let found = client.read_all().await;
    for (offset, value) in &*acked.borrow() {
        assert_eq!(found.get(offset), Some(value), "acknowledged at offset {offset}");
    }
    assert!(found.keys().copied().eq(0..i64::try_from(found.len()).unwrap()), "no gaps");
    let epoch = client.offset_of(-1, -1, 30_000).await.leader_epoch;
    assert!(epochs.borrow().last().is_none_or(|last| *last < epoch), "a new term after a crash");
    epochs.borrow_mut().push(epoch);
    // Who believes in another term is told so.
    let terms = [
        (epoch - 1, if epoch > 0 { ErrorCode::FencedLeaderEpoch } else { ErrorCode::None }),
        (epoch, ErrorCode::None),
        (epoch + 1, ErrorCode::UnknownLeaderEpoch),
    ];
    for (term, error) in terms {
        assert_eq!(client.fetch(0, term).await.0, error, "term {term} in {epoch}");
        assert_eq!(client.offset_of(-1, term, 30_000).await.error, error, "term {term} in {epoch}");
    }

    let mut waiting = std::collections::VecDeque::new();
    for n in 0..BATCHES + DEPTH {
        if n < BATCHES {
            // Some within the journal's small entries, some with files of their own.
            let fill = if n % 10 == 9 { 300_000 } else { 10 };
            let value = format!("{boot}.{n}.{}", "x".repeat(fill));
            client.send(9, &produce_request(&io, -1, 30_000, &value)).await;
            waiting.push_back(value);
        }
        if n >= DEPTH {
            let answer = client.receive::<produce::Request>(9).await;
            let answer = &answer.topics[0].partitions[0];
            assert_eq!(answer.error, ErrorCode::None);
            acked.borrow_mut().insert(answer.base_offset, waiting.pop_front().unwrap());
        }
    }
}

/// Boots a machine again and again, each time ended in the middle; returns how it went.
fn machine(seed: u64) -> u64 {
    let mut world = World::new(seed, Faults::none());
    let (acked, epochs) = (Acked::default(), Rc::default());
    for boot in 0..BOOTS {
        // Anywhere from the first write of the start to the last of the produces.
        let at =
            seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(13 * boot.unsigned_abs()) % 400;
        let end = if (seed + u64::from(boot.unsigned_abs())).is_multiple_of(3) {
            End::Killed
        } else {
            End::PowerCut
        };
        if boot < BOOTS - 1 {
            world.stop_after(at, end);
        }
        let (to, noted) = (Rc::clone(&acked), Rc::clone(&epochs));
        match world.boot(move |io| run(io, boot, to, noted)) {
            Outcome::Stopped(_) => (),
            Outcome::Done(()) => world.crash(),
            other => panic!("seed {seed}, boot {boot}: {}", matches!(other, Outcome::Late)),
        }
    }
    assert!(acked.borrow().len() >= BATCHES, "seed {seed}: the last boot was not ended early");
    world.history_hash()
}

#[test]
fn what_is_acknowledged_survives_every_end() {
    for seed in 0..20 {
        // Printed only if the test fails.
        println!("seed {seed}");
        machine(seed);
    }
}

#[test]
fn what_is_not_durable_in_time_is_neither_acknowledged_nor_shown() {
    let disk_latency = Duration::from_secs(1)..Duration::from_secs(2);
    let mut world = World::new(1, Faults { disk_latency, ..Faults::none() });
    world
        .boot(|io| async move {
            serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            client.create().await;
            let answer = client.call(9, &produce_request(&io, -1, 100, "late")).await;
            assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::RequestTimedOut);
            let answer = client.call(9, &produce_request(&io, 1, 100, "written")).await;
            let answer = &answer.topics[0].partitions[0];
            assert_eq!((answer.error, answer.base_offset), (ErrorCode::None, 1));
            // Between the high watermark and the log end there is nothing yet; behind it, an error.
            for (offset, error) in
                [(0, ErrorCode::None), (2, ErrorCode::None), (3, ErrorCode::OffsetOutOfRange)]
            {
                assert_eq!(client.fetch(offset, -1).await, (error, 0), "offset {offset}");
            }
            assert_eq!(client.offset_of(-1, -1, 10).await.error, ErrorCode::RequestTimedOut);
            let end = client.offset_of(-1, -1, 30_000).await;
            assert_eq!((end.error, end.offset), (ErrorCode::None, 2));
            let found: Vec<_> = client.read_all().await.into_values().collect();
            assert_eq!(found, ["late", "written"]);
        })
        .done();
}

/// The page cache takes what the disk does not, but whoever reads is to be no further behind than
/// the disk, and the kernel must not be the one who stops the core.
#[test]
fn a_producer_is_not_heard_while_the_disk_is_behind_and_all_others_are() {
    let disk_latency = Duration::from_secs(1)..Duration::from_secs(2);
    let mut world = World::new(1, Faults { disk_latency, ..Faults::none() });
    world
        .boot(|io| async move {
            let shard = serve(io.clone()).await.shard.clone();
            let (mut producer, mut other) =
                (Client::connect(&io).await, Client::connect(&io).await);
            producer.create().await;
            let before = shard.metrics().append_bytes.get();
            let is_answered = Rc::new(Cell::new(false));
            let (done, machine) = (Rc::clone(&is_answered), io.clone());
            shard.spawn(async move {
                let value = "x".repeat(300_000);
                for _ in 0..BATCHES {
                    producer.send(9, &produce_request(&machine, 1, 30_000, &value)).await;
                }
                for n in 0..BATCHES {
                    let answer = producer.receive::<produce::Request>(9).await;
                    let answer = &answer.topics[0].partitions[0];
                    let wanted = (ErrorCode::None, i64::try_from(n).unwrap());
                    assert_eq!((answer.error, answer.base_offset), wanted);
                }
                done.set(true);
            });
            io.sleep(Duration::from_millis(500)).await;
            let appended = shard.metrics().append_bytes.get() - before;
            assert!((4 << 20..5 << 20).contains(&appended), "{appended} bytes, and none durable");
            assert!(!shard.has_room());
            assert_eq!(shard.metrics().held.get(), 1);
            let asked = io.now();
            assert_eq!(other.fetch(0, -1).await, (ErrorCode::None, 0));
            let waited = io.now() - asked;
            assert!(waited < Duration::from_secs(1), "a reader waited {waited:?}");
            while !is_answered.get() {
                io.sleep(Duration::from_secs(1)).await;
            }
        })
        .done();
}

#[test]
fn a_client_that_wants_no_answer_hears_of_a_full_disk_by_the_end_of_its_connection() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut other = Client::connect(&io).await;
            other.create().await;
            let mut client = Client::connect(&io).await;
            for n in 0..3 {
                client.send(9, &produce_request(&io, 0, 1000, &n.to_string())).await;
            }
            // Answered in its turn, behind three that have no answer.
            assert_eq!(client.offset_of(-1, -1, 30_000).await.offset, 3);
            assert_eq!(core.connections.len(), 2);
            let full = Rule::on(OpKind::Write, Fault::NoSpace)
                .named(|path| path.contains("t-0") && path.ends_with(".log"));
            io.set_faults(Faults::none().with(full));
            client.send(9, &produce_request(&io, 0, 1000, "lost")).await;
            let waiting = client.conn.recv();
            let told = tokio::select! {
                biased;
                told = waiting => Some(told.unwrap()),
                () = io.sleep(Duration::from_secs(1)) => None,
            };
            assert!(matches!(told, Some(None)), "not closed");
            io.set_faults(Faults::none());
            assert_eq!(other.read_all().await.into_values().collect::<Vec<_>>(), ["0", "1", "2"]);
        })
        .done();
}

#[test]
fn a_fetch_does_not_wait_for_more_than_it_may_be_sent() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            serve_with(io.clone(), &[("fetch.max.bytes", "2048")]).await;
            let mut client = Client::connect(&io).await;
            for name in ["t", "u"] {
                client.create_called(name).await;
                let mut request = produce_request(&io, -1, 1000, &"x".repeat(1000));
                request.topics[0].name = name.to_owned();
                for _ in 0..3 {
                    client.call(9, &request).await;
                }
            }
            let wanted = fetch::FetchPartition { max_bytes: 1 << 20, ..Default::default() };
            let topic = fetch::TopicRequest { name: "t".to_owned(), partitions: vec![wanted] };
            // By the request's own limit, then by the broker's; then the second partition's batch
            // is past what the first one left.
            let mut two = topic.clone();
            two.partitions[0].fetch_offset = 2;
            for (topics, max_bytes, sent) in [
                (vec![topic.clone()], 1500, 1500),
                (vec![topic.clone()], 1 << 20, 2048),
                (vec![two, fetch::TopicRequest { name: "u".to_owned(), ..topic }], 1500, 1070),
            ] {
                let request = fetch::Request {
                    topics,
                    max_wait_ms: 5000,
                    min_bytes: 1 << 22,
                    max_bytes,
                    ..Default::default()
                };
                let asked = io.now();
                let mut answer = client.call(12, &request).await;
                let records = answer.topics.remove(0).partitions.remove(0).records.unwrap();
                assert_eq!(records.len(), sent);
                let waited = io.now() - asked;
                assert!(waited < Duration::from_secs(1), "waited {waited:?}");
            }
        })
        .done();
}

#[test]
fn without_room_for_a_block_of_producer_ids_a_producer_is_told_to_try_again() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            let cluster = |path: &str| path.contains("__cluster_metadata");
            let full = Rule::on(OpKind::Write, Fault::NoSpace).named(cluster);
            io.set_faults(Faults::none().with(full));
            let request = init_producer_id::Request::default();
            for _ in 0..2 {
                let refused = client.call(4, &request).await;
                let wanted = (ErrorCode::CoordinatorLoadInProgress, -1);
                assert_eq!((refused.error, refused.producer_id), wanted);
            }
            io.set_faults(Faults::none());
            let mut ids = Vec::new();
            for _ in 0..2 {
                let given = client.call(4, &request).await;
                assert_eq!((given.error, given.producer_epoch), (ErrorCode::None, 0));
                ids.push(given.producer_id);
            }
            assert!(ids[0] >= 0 && ids[1] > ids[0], "{ids:?}");
        })
        .done();
}

#[test]
fn a_seed_is_a_history() {
    assert_eq!(machine(7), machine(7));
}
