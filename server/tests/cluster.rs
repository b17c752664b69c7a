//! What must hold over cores, restarts and crashes.

#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // a test fails by panicking
#![allow(missing_docs)]

mod common;

use common::{Fixture, TempDir, batch, options, sequenced, values};
use kariz_protocol::ErrorCode;
use kariz_protocol::messages::fetch::{self, FetchPartition};
use kariz_protocol::messages::init_producer_id;
use kariz_server::{Options, Server, StartError, check};
use std::collections::BTreeSet;

/// A client of core 0.
fn client(server: &Server) -> common::Client {
    common::Client::connect(server.bootstrap())
}

#[test]
fn what_one_core_makes_the_other_serves() {
    let fixture = Fixture::start(2);
    let (mut zero, mut one) = (fixture.client(0), fixture.client(1));
    for n in 0..8 {
        // Made at one core, used at once at the leader of each partition.
        let name = format!("t{n}");
        let maker = if n % 2 == 0 { &mut zero } else { &mut one };
        assert_eq!(maker.create(&name, 2).error, ErrorCode::None);
        for c in [&mut zero, &mut one] {
            let found = c.metadata(Some(&[&name]), false).topics.remove(0);
            let leaders: BTreeSet<i32> = found.partitions.iter().map(|p| p.leader_id).collect();
            assert_eq!(leaders, BTreeSet::from([256, 257]), "round-robin");
        }
        let found = zero.metadata(Some(&[&name]), false).topics.remove(0);
        for partition in found.partitions {
            let (leader, other) = match partition.leader_id {
                256 => (&mut zero, &mut one),
                _ => (&mut one, &mut zero),
            };
            let answer = leader.produce(&name, partition.index, batch(&["x"]));
            assert_eq!(answer.error, ErrorCode::None);
            // Version 10 on says who leads and where.
            let refused = common::produce_request(-1, &name, partition.index, Some(batch(&["x"])));
            let refused = other.call(10, &refused);
            let answer = &refused.topics[0].partitions[0];
            assert_eq!(answer.error, ErrorCode::NotLeaderOrFollower);
            assert_eq!(answer.current_leader.map(|l| l.leader_id), Some(partition.leader_id));
            assert_eq!(refused.node_endpoints[0].node_id, partition.leader_id);
            let refused = other.fetch(&name, partition.index, 0).head;
            assert_eq!(refused.error, ErrorCode::NotLeaderOrFollower);
            assert_eq!(refused.current_leader.map(|l| l.leader_id), Some(partition.leader_id));
        }
        assert_eq!(one.delete(&name).error, ErrorCode::None);
        assert_eq!(
            zero.metadata(Some(&[&name]), false).topics[0].error,
            ErrorCode::UnknownTopicOrPartition
        );
    }
}

#[test]
fn each_core_is_a_broker() {
    let fixture = Fixture::start(2);
    for core in 0..2 {
        let answer = fixture.client(core).metadata(None, false);
        let brokers: Vec<_> = answer.brokers.iter().map(|b| (b.node_id, b.port)).collect();
        let ports: Vec<_> =
            fixture.server.listening().iter().map(|at| i32::from(at.port())).collect();
        assert_eq!(brokers, [(256, ports[0]), (257, ports[1])]);
        assert!(answer.brokers.iter().all(|b| b.rack.is_some()));
        assert_eq!(answer.controller_id, 256);
    }
}

#[test]
fn producer_ids_are_given_once() {
    let fixture = Fixture::start(2);
    let mut ids = BTreeSet::new();
    for core in [0, 1] {
        let mut c = fixture.client(core);
        for _ in 0..1500 {
            let answer = c.call(4, &init_producer_id::Request::default());
            assert_eq!(answer.error, ErrorCode::None);
            assert!(ids.insert(answer.producer_id), "{} twice", answer.producer_id);
        }
    }
    let last = ids.last().copied().unwrap();
    let Fixture { server, dir } = &fixture;
    server.stop().unwrap();
    let server = Server::start(options(dir.path(), 2)).unwrap();
    let answer = client(&server).call(4, &init_producer_id::Request::default());
    assert!(answer.producer_id > last);
    server.stop().unwrap();
}

#[test]
fn a_restart_keeps_everything() {
    let dir = TempDir::new();
    let server = Server::start(options(dir.path(), 1)).unwrap();
    let mut c = client(&server);
    let made = c.create_with("kept", 3, &[("max.message.bytes", "500")]);
    c.create("deleted", 1);
    c.produce("deleted", 0, batch(&["x"]));
    c.produce("kept", 0, batch(&["a", "b"]));
    c.produce("kept", 0, sequenced(&["c"], 7, 0, 0));
    c.delete("deleted");
    let cluster_id = c.metadata(None, false).cluster_id;
    server.stop().unwrap();

    let mut printed = Vec::new();
    let sound = check::run(dir.path(), &mut printed).unwrap();
    assert!(sound, "{}", String::from_utf8_lossy(&printed));

    let server = Server::start(options(dir.path(), 1)).unwrap();
    let mut c = client(&server);
    let all = c.metadata(None, false);
    assert_eq!(all.cluster_id, cluster_id);
    assert_eq!(all.topics.len(), 1);
    assert_eq!((all.topics[0].topic_id, all.topics[0].partitions.len()), (made.topic_id, 3));
    let expected = [(0, "a"), (1, "b"), (2, "c")].map(|(o, v)| (o, v.to_owned()));
    assert_eq!(values(&c.fetch("kept", 0, 0).records.unwrap()), expected);
    // The configs, the producer's state, and the term: the stop was clean.
    let large = "x".repeat(500);
    assert_eq!(c.produce("kept", 0, batch(&[&large])).error, ErrorCode::MessageTooLarge);
    let again = c.produce("kept", 0, sequenced(&["c"], 7, 0, 0));
    assert_eq!((again.error, again.base_offset), (ErrorCode::None, 2));
    assert_eq!(c.offset("kept", 0, -1).leader_epoch, 0);
    server.stop().unwrap();
}

#[test]
fn another_number_of_cores_moves_partitions() {
    let dir = TempDir::new();
    let server = Server::start(options(dir.path(), 2)).unwrap();
    let mut c = client(&server);
    c.create("moves", 4);
    for partition in c.metadata(Some(&["moves"]), false).topics[0].partitions.clone() {
        let core = usize::try_from(partition.leader_id - 256).unwrap();
        let mut leader = common::Client::connect(server.listening()[core]);
        let value = format!("in {}", partition.index);
        assert_eq!(
            leader.produce("moves", partition.index, batch(&[&value])).error,
            ErrorCode::None
        );
    }
    server.stop().unwrap();

    let server = Server::start(options(dir.path(), 1)).unwrap();
    let mut c = client(&server);
    let found = c.metadata(Some(&["moves"]), false);
    assert_eq!(found.brokers.len(), 1);
    for partition in &found.topics[0].partitions {
        assert_eq!((partition.leader_id, &partition.replica_nodes), (256, &vec![256]));
        let records = c.fetch("moves", partition.index, 0).records.unwrap();
        assert_eq!(values(&records), [(0, format!("in {}", partition.index))]);
        assert_eq!(c.produce("moves", partition.index, batch(&["more"])).base_offset, 1);
    }
    server.stop().unwrap();
}

/// What `attempt` returns once it succeeds.
fn soon<T, E: std::fmt::Display>(attempt: impl Fn() -> Result<T, E>) -> T {
    let until = common::now().0 + 10_000;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(common::now().0 < until, "{error}"),
        }
        std::thread::yield_now();
    }
}

/// Dropped and not stopped: a crash, for a process that goes on.
#[test]
fn a_server_that_is_dropped_lets_go_of_its_directory_and_its_ports() {
    let dir = TempDir::new();
    let metrics = Some("127.0.0.1:0".parse().unwrap());
    let first = Server::start(Options { metrics, ..options(dir.path(), 2) }).unwrap();
    let mut c = client(&first);
    assert_eq!(c.create("t", 2).error, ErrorCode::None);
    assert_eq!(c.produce("t", 0, batch(&["kept"])).error, ErrorCode::None);
    let mut ports = first.listening().to_vec();
    ports.extend(first.metrics());
    drop(first);
    // Its threads take a moment.
    let second = soon(|| Server::start(options(dir.path(), 2)));
    for port in ports {
        soon(|| std::net::TcpListener::bind(port));
    }
    // The client of the first is not served by it any more.
    assert!(c.is_closed());
    assert_eq!(
        values(&client(&second).fetch("t", 0, 0).records.unwrap()),
        [(0, "kept".to_owned())]
    );
    second.stop().unwrap();
}

#[test]
fn a_data_directory_has_one_server() {
    let fixture = Fixture::start(1);
    let second = Server::start(options(fixture.dir.path(), 1));
    let Err(error) = second.map(|_| ()) else { panic!("two servers on one directory") };
    assert!(matches!(error, StartError::Open { .. }), "{error}");
    assert_eq!(fixture.client(0).create("t", 1).error, ErrorCode::None);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = TempDir::new();
    let listen = taken.local_addr().unwrap();
    let error =
        Server::start(Options { listen, ..options(dir.path(), 1) }).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
    // Nothing is left running: the directory is free.
    drop(taken);
    Server::start(Options { listen, ..options(dir.path(), 1) }).unwrap().stop().unwrap();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let dir = TempDir::new();
    let start = |key: &str, value: &str| {
        let set = vec![(key.to_owned(), value.to_owned())];
        Server::start(Options { set, ..options(dir.path(), 1) })
            .map(|_| ())
            .unwrap_err()
            .to_string()
    };
    assert!(start("num.partitons", "4").contains("num.partitons"));
    assert!(start("num.partitions", "many").contains("num.partitions"));
    let error =
        Server::start(Options { advertise: Some(":".to_owned()), ..options(dir.path(), 1) });
    assert!(error.is_err());
}

#[test]
fn settings_come_from_a_file_and_from_options() {
    let dir = TempDir::new();
    let file = dir.path().join("server.properties");
    std::fs::write(&file, "# Kafka's keys\nnum.partitions=3\nauto.create.topics.enable = false\nmessage.max.bytes: 600\n").unwrap();
    let set =
        vec![("num.partitions".to_owned(), "5".to_owned()), ("node.id".to_owned(), "0".to_owned())];
    let advertise = Some("kafka.example:1000".to_owned());
    let data = dir.path().join("data");
    let server =
        Server::start(Options { config: Some(file), set, advertise, ..options(&data, 2) }).unwrap();
    let mut c = client(&server);
    let metadata = c.metadata(Some(&["no"]), true);
    assert_eq!(metadata.topics[0].error, ErrorCode::UnknownTopicOrPartition);
    let brokers: Vec<_> =
        metadata.brokers.iter().map(|b| (b.node_id, b.host.as_str(), b.port)).collect();
    assert_eq!(brokers, [(0, "kafka.example", 1000), (1, "kafka.example", 1001)]);
    let made = c.create("t", -1);
    assert_eq!(made.num_partitions, 5);
    let configs = made.configs.unwrap();
    let max = configs.iter().find(|c| c.name == "max.message.bytes").unwrap();
    assert_eq!((max.value.as_deref(), max.config_source), (Some("600"), 4));
    server.stop().unwrap();
}

#[test]
fn a_strict_replication_factor_is_not_pretended() {
    let fixture = Fixture::with(
        1,
        &[("replication.factor.strict", "true"), ("delete.topic.enable", "false")],
    );
    let mut c = fixture.client(0);
    let topic = |replication_factor| kariz_protocol::messages::create_topics::Request {
        topics: vec![kariz_protocol::messages::create_topics::CreatableTopic {
            name: "t".to_owned(),
            num_partitions: 1,
            replication_factor,
            ..Default::default()
        }],
        timeout_ms: 1000,
        validate_only: false,
    };
    assert_eq!(c.call(7, &topic(3)).topics[0].error, ErrorCode::InvalidReplicationFactor);
    assert_eq!(c.call(7, &topic(1)).topics[0].error, ErrorCode::None);
    assert_eq!(c.delete("t").error, ErrorCode::TopicDeletionDisabled);
}

#[test]
fn metrics_are_served() {
    use std::io::{Read, Write};
    let dir = TempDir::new();
    let metrics = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(Options { metrics, ..options(dir.path(), 2) }).unwrap();
    let mut c = client(&server);
    c.create("t", 1);
    // Parked, once what is sent behind it on another connection is answered.
    let mut waits = common::fetch_request("t", FetchPartition::default());
    (waits.min_bytes, waits.max_wait_ms) = (1, 600_000);
    c.send(12, &waits);
    let mut other = client(&server);
    other.metadata(None, false);
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(server.metrics().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = get("/metrics");
    for expected in [
        "HTTP/1.1 200",
        "kariz_connections{core=\"0\"} 2\n",
        "kariz_connections{core=\"1\"} 0\n",
        "kariz_waiters{core=\"0\"} 1\n",
        "kariz_waiters{core=\"1\"} 0\n",
        "kariz_request_seconds_count{core=\"0\",api=\"CreateTopics\"} 1\n",
        "kariz_log_bytes{core=\"0\",topic=\"t\",partition=\"0\"} 0\n",
        "kariz_commit_seconds_bucket{core=\"0\",le=\"+Inf\"}",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(get("/").starts_with("HTTP/1.1 404"));
    server.stop().unwrap();
}

#[test]
fn a_stop_answers_who_waits() {
    let fixture = Fixture::start(1);
    let mut c = fixture.client(0);
    c.create("t", 1);
    let mut request = common::fetch_request("t", FetchPartition::default());
    (request.min_bytes, request.max_wait_ms) = (1, 600_000);
    let id = c.send(12, &request);
    // Handled, and so parked, once what was sent behind it on another connection is answered.
    fixture.client(0).metadata(None, false);
    let stopping = {
        let server = fixture.server.clone();
        std::thread::spawn(move || server.stop())
    };
    let answer = c.receive::<fetch::Request>(12, id);
    assert_eq!(answer.topics[0].partitions[0].head.error, ErrorCode::None);
    assert!(c.is_closed());
    stopping.join().unwrap().unwrap();
}
