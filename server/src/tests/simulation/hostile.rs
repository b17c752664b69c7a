//! Clients that are slow, silent or mean no good, for as long as they like: each costs only itself.

use super::{Client, address, produce_request, serve, serve_with};
use bytes::BytesMut;
use kariz_engine::Shard;
use kariz_engine::batch::{Batch, Codec};
use kariz_engine::io::sim::{Faults, Sim, SimConn, World};
use kariz_engine::io::{Conn, Io};
use kariz_engine::types::{Instant, Timestamp};
use kariz_protocol::ErrorCode;
use kariz_protocol::header::encode_request;
use kariz_protocol::messages::{api_versions, fetch, metadata, produce};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::yield_now;

const SECOND: Duration = Duration::from_secs(1);
/// Far above a request's way through the server and back, far below what a slow client takes.
const PROMPT: Duration = Duration::from_millis(10);

/// Waits until the server has closed the connection; returns when.
async fn closed(io: &Sim, conn: &SimConn) -> Instant {
    while let Ok(Some(_)) = conn.recv().await {}
    io.now()
}

/// A small request, answered at once.
async fn is_served(io: &Sim, client: &mut Client) {
    let asked = io.now();
    let answer = client.call(4, &api_versions::Request::default()).await;
    assert_eq!(answer.error, ErrorCode::None);
    let waited = io.now() - asked;
    assert!(waited < PROMPT, "waited {waited:?}");
}

#[test]
fn a_request_of_a_byte_a_second_is_answered_and_nobody_waits_for_it() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            // Shorter than the request takes: what sends is not idle.
            serve_with(io.clone(), &[("connections.max.idle.ms", "10000")]).await;
            let (mut slow, mut other) = (Client::connect(&io).await, Client::connect(&io).await);
            let mut request = BytesMut::new();
            let asked = api_versions::Request {
                client_software_name: "a name of some length".to_owned(),
                ..api_versions::Request::default()
            };
            encode_request(&mut request, 4, 1, Some("slow"), &asked).unwrap();
            assert!(request.len() > 30, "{} bytes", request.len());
            for byte in &request {
                is_served(&io, &mut other).await;
                io.sleep(SECOND).await;
                slow.conn.send(&[*byte], false).await.unwrap();
            }
            let whole = io.now();
            let answer = slow.receive::<api_versions::Request>(4).await;
            assert_eq!(answer.error, ErrorCode::None);
            assert!(io.now() - whole < PROMPT);
        })
        .done();
}

#[test]
fn who_is_silent_for_the_idle_time_is_closed_and_nobody_else() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            serve_with(io.clone(), &[("connections.max.idle.ms", "30000")]).await;
            let mut active = Client::connect(&io).await;
            let mut silent = Client::connect(&io).await;
            // Has begun a request, and says no more.
            let stuck = Client::connect(&io).await;
            is_served(&io, &mut silent).await;
            stuck.conn.send(&[0, 0], false).await.unwrap();
            let since = io.now();
            for _ in 0..6 {
                is_served(&io, &mut active).await;
                io.sleep(29 * SECOND / 6).await;
            }
            is_served(&io, &mut silent).await;
            assert!(io.now() - since < 30 * SECOND);
            let since = [io.now(), since];
            // It is looked every tenth of the time, and the time is told in whole seconds.
            for (conn, since) in [&silent.conn, &stuck.conn].into_iter().zip(since).rev() {
                let waited = loop {
                    let looked = tokio::select! {
                        biased;
                        at = closed(&io, conn) => Some(at),
                        () = io.sleep(5 * SECOND) => None,
                    };
                    is_served(&io, &mut active).await;
                    if let Some(at) = looked {
                        break at - since;
                    }
                };
                assert!(29 * SECOND < waited && waited < 35 * SECOND, "closed after {waited:?}");
            }
            is_served(&io, &mut active).await;
        })
        .done();
}

const HOSTILE: usize = 64;
/// Honest clients, all at once, with so many requests of 900 KB each, one after another.
const GOOD: usize = 8;
const REQUESTS: usize = 3;
/// The longest that any honest request may wait, and so many in turn.
const WAIT_MAX: Duration = Duration::from_secs(10);
const GOOD_MAX: Duration = Duration::from_secs(10 * REQUESTS as u64);

/// What a hostile client sends, again as soon as it is closed.
#[derive(Clone, Copy, Debug)]
struct Attack {
    announced: usize,
    at_once: usize,
    /// So many bytes each time, but never the last byte of all.
    then: Option<(usize, Duration)>,
}

impl Attack {
    /// Stands still once so much of `announced` has come.
    const fn still(announced: usize, at_once: usize) -> Self {
        Self { announced, at_once, then: None }
    }

    const fn then(mut self, bytes: usize, every: Duration) -> Self {
        self.then = Some((bytes, every));
        self
    }

    /// Sends what it does until it is closed.
    async fn strike(self, io: &Sim) {
        let conn = io.connect(address()).await.unwrap();
        let announced = i32::try_from(self.announced).unwrap();
        let _cut_off = conn.send(&announced.to_be_bytes(), false).await;
        let drips = async {
            let _cut_off = conn.send(&vec![0; self.at_once], false).await;
            let mut left = self.announced - self.at_once - 1;
            while let Some((bytes, every)) = self.then {
                io.sleep(every).await;
                let bytes = bytes.min(left);
                left -= bytes;
                if bytes == 0 || conn.send(&vec![0; bytes], false).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            _ = closed(io, &conn) => (),
            () = drips => (),
        }
    }
}

/// Lets as many clients strike, and again once they are closed if `again`; returns how many were
/// closed.
fn strike_all(shard: &Shard<Sim>, io: &Sim, attack: Attack, again: bool) -> Rc<Cell<usize>> {
    let closed_count = Rc::new(Cell::new(0));
    for _ in 0..HOSTILE {
        let (io, count) = (io.clone(), Rc::clone(&closed_count));
        shard.spawn(async move {
            loop {
                attack.strike(&io).await;
                count.set(count.get() + 1);
                if !again {
                    return;
                }
            }
        });
    }
    closed_count
}

/// Produces so many bytes, and returns how long it took.
async fn produce_takes(io: &Sim, client: &mut Client, bytes: usize) -> Duration {
    let request = produce_request(io, -1, 30_000, &"x".repeat(bytes));
    let asked = io.now();
    let answer = client.call(9, &request).await;
    assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
    io.now() - asked
}

#[test]
fn large_requests_are_served_while_64_hold_the_begin_of_theirs() {
    // What all have sent exceeds the budget.
    let attack = Attack::still(90 << 20, 1 << 20);
    for (seed, again) in (1..5).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut world = World::new(seed, Faults::none());
        world
            .boot(move |io| async move {
                let shard = serve(io.clone()).await.shard.clone();
                Client::connect(&io).await.create().await;
                let closed = strike_all(&shard, &io, attack, again);
                io.sleep(SECOND).await;
                let waits: Rc<RefCell<Vec<Duration>>> = Rc::default();
                for _ in 0..GOOD {
                    let (io, waits) = (io.clone(), Rc::clone(&waits));
                    shard.spawn(async move {
                        let mut good = Client::connect(&io).await;
                        for _ in 0..REQUESTS {
                            let waited = produce_takes(&io, &mut good, 900_000).await;
                            waits.borrow_mut().push(waited);
                        }
                    });
                }
                io.sleep(GOOD_MAX).await;
                assert_eq!(waits.borrow().len(), GOOD * REQUESTS, "seed {seed}");
                let longest = *waits.borrow().iter().max().unwrap();
                assert!(longest < WAIT_MAX, "seed {seed}: waited {longest:?}");
                assert!(closed.get() > 0, "nobody was closed");
            })
            .done();
    }
}

/// Produces as [`produce_takes`], but no longer than a minute.
async fn produce_waits(io: &Sim, client: &mut Client, bytes: usize) -> Duration {
    tokio::select! {
        biased;
        waited = produce_takes(io, client, bytes) => waited,
        () = io.sleep(60 * SECOND) => 60 * SECOND,
    }
}

/// Requests that were smaller than the honest ones, and all but there, went before them: as soon as
/// one was closed for standing still, the next took its place.
#[test]
fn large_requests_are_served_while_64_that_are_closed_come_back_at_once() {
    const MS: Duration = Duration::from_millis(1);
    let attacks = [
        Attack::still(270_000, 269_999),
        Attack::still(900_000, 899_999),
        Attack::still(2 << 20, (2 << 20) - 1),
        // A byte now and then.
        Attack::still(270_000, 200_000).then(1, 10 * MS),
        Attack::still(90 << 20, 200_000).then(1, 10 * MS),
        // Never slow enough to stand still.
        Attack::still(2 << 20, 200_000).then(64 << 10, 1900 * MS),
        Attack::still(90 << 20, 1 << 20).then(64 << 10, 1900 * MS),
    ];
    // Of one core, and of one of many.
    let limits = ["16777216", "4194304"];
    let cases = limits.into_iter().flat_map(|limit| attacks.map(|attack| (limit, attack)));
    for ((limit, attack), seed) in cases.zip(1..) {
        let mut world = World::new(seed, Faults::none());
        world
            .boot(move |io| async move {
                let set = [("message.max.bytes", "6000000"), ("queued.max.request.bytes", limit)];
                let core = serve_with(io.clone(), &set).await;
                let mut good = Client::connect(&io).await;
                good.create().await;
                let closed = strike_all(&core.shard, &io, attack, true);
                io.sleep(5 * SECOND).await;
                for bytes in [300_000, 5_000_000] {
                    let waited = produce_waits(&io, &mut good, bytes).await;
                    assert!(waited < WAIT_MAX, "{limit}, {attack:?}: {bytes} bytes, {waited:?}");
                }
                // Each was counted once, some before they have noticed.
                let refused = core.metrics.refused.get();
                let closed = u64::try_from(closed.get()).unwrap();
                let open = u64::try_from(HOSTILE).unwrap();
                assert!(closed > 0 && (closed..=closed + open).contains(&refused));
            })
            .done();
    }
}

/// What waits to be answered is no frame any more, but holds memory as well; here each of the
/// hostile requests more than the limit.
#[test]
fn large_requests_are_served_while_64_ask_for_much_and_come_back_at_once() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve_with(io.clone(), &[("queued.max.request.bytes", "4194304")]).await;
            let mut good = Client::connect(&io).await;
            good.create().await;
            for _ in 0..HOSTILE {
                let io = io.clone();
                core.shard.spawn(async move {
                    loop {
                        let mut hostile = Client::connect(&io).await;
                        hostile.send(4, &fetch_of_many(12_000)).await;
                        closed(&io, &hostile.conn).await;
                    }
                });
            }
            io.sleep(5 * SECOND).await;
            let waited = produce_waits(&io, &mut good, 300_000).await;
            assert!(waited < WAIT_MAX, "waited {waited:?}");
        })
        .done();
}

/// Slow, not hostile: there is memory for a third of them at once, and each takes nine seconds.
#[test]
fn large_requests_that_come_slowly_all_get_done() {
    const SLOW: usize = 32;
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            Client::connect(&io).await.create().await;
            let mut request = BytesMut::new();
            let asked = produce_request(&io, -1, 30_000, &"x".repeat(900_000));
            encode_request(&mut request, 9, 1, None, &asked).unwrap();
            let request = request.freeze();
            let answered = Rc::new(Cell::new(0));
            for _ in 0..SLOW {
                let (io, answered, request) = (io.clone(), Rc::clone(&answered), request.clone());
                core.shard.spawn(async move {
                    loop {
                        let conn = io.connect(address()).await.unwrap();
                        for part in request.chunks(10_000) {
                            let _cut_off = conn.send(part, false).await;
                            io.sleep(SECOND / 10).await;
                        }
                        if let Ok(Some(_)) = conn.recv().await {
                            break answered.set(answered.get() + 1);
                        }
                    }
                });
            }
            io.sleep(60 * SECOND).await;
            assert_eq!(answered.get(), SLOW);
        })
        .done();
}

/// What one client's unread answers come to, at the least, before it is not heard any more.
const UNREAD: usize = 16 << 20;

/// A client that asks until the server hears it no more, and reads no answer.
async fn deaf(io: &Sim) -> Client {
    let mut client = Client::connect(io).await;
    let unknown =
        |n| metadata::TopicRequest { name: Some(format!("{n:0249}")), ..Default::default() };
    let request = metadata::Request {
        topics: Some((0..80).map(unknown).collect()),
        allow_auto_topic_creation: false,
        ..metadata::Request::default()
    };
    tokio::select! {
        biased;
        () = async { loop { client.send(9, &request).await } } => (),
        () = io.sleep(SECOND) => (),
    }
    client
}

#[test]
fn who_pipelines_shares_a_commit_while_another_reads_no_answers() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut good = Client::connect(&io).await;
            good.create().await;
            let _deaf = deaf(&io).await;
            assert!(core.in_flight_bytes.get() > UNREAD);
            io.set_faults(Faults { disk_latency: SECOND..2 * SECOND, ..Faults::none() });
            let asked = io.now();
            for n in 0..4 {
                good.send(9, &produce_request(&io, -1, 30_000, &n.to_string())).await;
            }
            for _ in 0..4 {
                let answer = good.receive::<produce::Request>(9).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
            }
            // The first may be in a commit of its own.
            let waited = io.now() - asked;
            assert!(waited < 4 * SECOND, "waited {waited:?}");
        })
        .done();
}

#[test]
fn answers_of_a_connection_that_is_closed_are_counted_no_more() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve_with(io.clone(), &[("connections.max.idle.ms", "10000")]).await;
            // Nothing of it moves any more, so that it is closed with all its answers.
            let _deaf = deaf(&io).await;
            assert!(core.in_flight_bytes.get() > UNREAD);
            io.sleep(15 * SECOND).await;
            assert_eq!((core.connections.len(), core.in_flight_bytes.get()), (0, 0));
        })
        .done();
}

/// A fetch of so many partitions that waits for a minute.
fn fetch_of_many(count: usize) -> fetch::Request {
    let topic = fetch::TopicRequest {
        name: "t".to_owned(),
        partitions: vec![fetch::FetchPartition::default(); count],
    };
    let (max_wait_ms, min_bytes) = (60_000, 1);
    fetch::Request { max_wait_ms, min_bytes, topics: vec![topic], ..Default::default() }
}

#[test]
fn what_a_request_has_claimed_is_not_counted_as_in_flight_as_well() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            client.create().await;
            // One waits at the head, one behind it.
            client.send(4, &fetch_of_many(1)).await;
            client.send(4, &fetch_of_many(2_000)).await;
            io.sleep(SECOND).await;
            assert!(core.budget.used_bytes() > 2_000 * 16 * 20);
            let in_flight = core.in_flight_bytes.get();
            assert!((1..1_000).contains(&in_flight), "{in_flight} bytes");
            for _ in 0..2 {
                client.receive::<fetch::Request>(4).await;
            }
            assert_eq!((core.budget.used_bytes(), core.in_flight_bytes.get()), (0, 0));
        })
        .done();
}

#[test]
fn a_produce_that_wants_no_answer_gives_back_what_it_has_claimed() {
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve(io.clone()).await;
            let mut client = Client::connect(&io).await;
            client.create().await;
            let mut request = produce_request(&io, 0, 1000, "x");
            let one = request.topics[0].partitions[0].clone();
            request.topics[0].partitions = vec![one; 3_000];
            client.send(9, &request).await;
            io.sleep(SECOND).await;
            assert_eq!(core.budget.used_bytes(), 0);
            assert_eq!(client.offset_of(-1, -1, 1000).await.offset, 3_000);
        })
        .done();
}

/// A produce of one batch that inflates to so many bytes, to topic `t`.
fn inflating(bytes: usize) -> produce::Request {
    let value = vec![b'0'; bytes];
    let batch = Batch::build().record(None, Some(&value), &[], Timestamp(1)).compress(Codec::Gzip);
    let records = Some(batch.done().unwrap().wire().clone());
    let partition = produce::PartitionRequest { index: 0, records };
    let topic = produce::TopicRequest { name: "t".to_owned(), partitions: vec![partition] };
    produce::Request { acks: 1, timeout_ms: 1000, topics: vec![topic], ..Default::default() }
}

#[test]
fn others_have_their_turn_between_two_requests_that_inflate_much() {
    const REQUESTS: usize = 8;
    let mut world = World::new(1, Faults::none());
    world
        .boot(|io| async move {
            let core = serve_with(io.clone(), &[("log.validate", "full")]).await;
            let mut client = Client::connect(&io).await;
            client.create().await;
            let mut requests = BytesMut::new();
            let request = inflating(2 << 20);
            for _ in 0..REQUESTS {
                let mut frame = BytesMut::new();
                encode_request(&mut frame, 9, 1, None, &request).unwrap();
                requests.extend_from_slice(&frame);
            }
            // In one piece, as it is received.
            assert!(requests.len() < 64 * 1024, "{} bytes", requests.len());
            let seen: Rc<RefCell<Vec<u64>>> = Rc::default();
            let is_answered = Rc::new(Cell::new(false));
            let (notes, done) = (Rc::clone(&seen), Rc::clone(&is_answered));
            io.spawn(async move {
                while !done.get() {
                    notes.borrow_mut().push(core.shard.metrics().appends.get());
                    yield_now().await;
                }
            });
            client.conn.send(&requests, false).await.unwrap();
            for _ in 0..REQUESTS {
                let answer = client.receive::<produce::Request>(9).await;
                assert_eq!(answer.topics[0].partitions[0].error, ErrorCode::None);
            }
            is_answered.set(true);
            let seen = seen.borrow();
            let steps = seen.windows(2).map(|pair| pair[1] - pair[0]);
            assert_eq!(steps.max(), Some(1));
        })
        .done();
}
