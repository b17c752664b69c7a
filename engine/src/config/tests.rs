use super::*;
use crate::batch::{Check, TimestampType};
use proptest::prelude::*;

/// Name, default and, of topics' settings, the broker's names, as Kafka 4.1.1 prints its own table
/// (`LogConfig.main`); without those of ours.
const KAFKA_TOPIC: &str = "\
cleanup.policy|delete|log.cleanup.policy
compression.gzip.level|-1|compression.gzip.level
compression.lz4.level|9|compression.lz4.level
compression.type|producer|compression.type
compression.zstd.level|3|compression.zstd.level
delete.retention.ms|86400000|log.cleaner.delete.retention.ms
file.delete.delay.ms|60000|log.segment.delete.delay.ms
flush.messages|9223372036854775807|log.flush.interval.messages
flush.ms|9223372036854775807|log.flush.interval.ms
follower.replication.throttled.replicas||
index.interval.bytes|4096|log.index.interval.bytes
leader.replication.throttled.replicas||
local.retention.bytes|-2|log.local.retention.bytes
local.retention.ms|-2|log.local.retention.ms
max.compaction.lag.ms|9223372036854775807|log.cleaner.max.compaction.lag.ms
max.message.bytes|1048588|message.max.bytes
message.timestamp.after.max.ms|3600000|log.message.timestamp.after.max.ms
message.timestamp.before.max.ms|9223372036854775807|log.message.timestamp.before.max.ms
message.timestamp.type|CreateTime|log.message.timestamp.type
min.cleanable.dirty.ratio|0.5|log.cleaner.min.cleanable.ratio
min.compaction.lag.ms|0|log.cleaner.min.compaction.lag.ms
min.insync.replicas|1|min.insync.replicas
preallocate|false|log.preallocate
remote.log.copy.disable|false|
remote.log.delete.on.disable|false|
remote.storage.enable|false|
retention.bytes|-1|log.retention.bytes
retention.ms|604800000|log.retention.ms
segment.bytes|1073741824|log.segment.bytes
segment.index.bytes|10485760|log.index.size.max.bytes
segment.jitter.ms|0|log.roll.jitter.ms
segment.ms|604800000|log.roll.ms
unclean.leader.election.enable|false|unclean.leader.election.enable";

fn broker(set: &[(&str, &str)]) -> BrokerConfig {
    BrokerConfig::parse(set.iter().copied()).unwrap().0
}

#[test]
fn the_topics_settings_are_kafkas() {
    let ours: Vec<_> = TABLE
        .iter()
        .filter(|s| matches!(s.scope, Scope::Topic(_)))
        .filter(|s| !["validate", "write.caching"].contains(&s.name))
        .map(|s| {
            let synonym = s.broker_names().next().map_or("", |b| b.name);
            format!("{}|{}|{synonym}", s.name, s.default.unwrap())
        })
        .collect();
    assert_eq!(ours.join("\n"), KAFKA_TOPIC);
}

#[test]
fn every_row_is_sound() {
    let mut names: Vec<_> = TABLE.iter().map(|s| s.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), TABLE.len(), "a name comes twice");
    let broker_names = TABLE.iter().flat_map(Setting::broker_names).map(|s| s.name);
    let mut broker_names: Vec<_> =
        broker_names.chain(BROKER_ONLY.iter().map(|(name, _)| *name)).collect();
    let count = broker_names.len();
    broker_names.sort_unstable();
    broker_names.dedup();
    assert_eq!(broker_names.len(), count, "a broker's name comes twice");
    for setting in TABLE {
        assert!(setting.doc.ends_with('.'), "{} says what it does", setting.name);
        if let Some(default) = setting.default {
            assert!(setting.parse(default).is_ok(), "the default of {}", setting.name);
        }
        let applied = !matches!(setting.apply, Apply::Nowhere);
        let refused = ["compression.type", "remote.storage.enable"].contains(&setting.name);
        assert!(
            applied || refused || matches!(setting.effect, Effect::Stored(_)),
            "{} goes nowhere and does not say why",
            setting.name
        );
        for synonym in setting.broker_names() {
            assert!(synonym.factor > 0);
        }
    }
}

/// Every row that goes somewhere changes the struct when its value changes.
#[test]
fn every_value_arrives() {
    for setting in TABLE {
        let other = match setting.kind {
            Kind::Bool if setting.default == Some("true") => "false".to_owned(),
            Kind::Bool => "true".to_owned(),
            Kind::Int(min, max) | Kind::Long(min, max) => {
                let default: i64 = setting.default.unwrap().parse().unwrap();
                let other = if default == max { max - 1 } else { default.max(min).max(1) + 1 };
                other.to_string()
            }
            Kind::Ratio => "0.25".to_owned(),
            Kind::Choice(words) => {
                words.iter().find(|w| Some(**w) != setting.default).unwrap().to_string()
            }
            Kind::List([first, ..]) => (*first).to_owned(),
            Kind::List([]) | Kind::Text => "0:1".to_owned(),
        };
        let Ok(value) = setting.parse(&other) else {
            assert!(["compression.type", "remote.storage.enable"].contains(&setting.name));
            continue;
        };
        match setting.apply {
            Apply::Topic(apply) => {
                let mut config = LogConfig::default();
                apply(&mut config, &value);
                assert_ne!(config, LogConfig::default(), "{}={other}", setting.name);
            }
            Apply::Broker(apply) => {
                let mut config = BrokerConfig::default();
                apply(&mut config, &value);
                assert_ne!(config, BrokerConfig::default(), "{}={other}", setting.name);
            }
            Apply::Nowhere => (),
        }
    }
}

#[test]
fn the_defaults_are_kafkas() {
    let c = LogConfig::default();
    assert_eq!(c.segment_bytes, 1 << 30);
    assert_eq!((c.segment_ms, c.retention_ms), (604_800_000, 604_800_000));
    assert_eq!((c.retention_bytes, c.segment_jitter_ms), (-1, 0));
    assert_eq!((c.index_interval_bytes, c.segment_index_bytes), (4096, 10_485_760));
    assert_eq!(c.max_message_bytes, 1_048_588);
    assert_eq!(c.message_timestamp_type, TimestampType::CreateTime);
    assert_eq!(c.message_timestamp_before_max_ms, i64::MAX);
    assert_eq!(c.message_timestamp_after_max_ms, 3_600_000);
    assert!(c.deletes() && !c.is_compacted() && !c.write_caching);
    assert_eq!(c.check(), Check::Opaque);

    let b = BrokerConfig::default();
    assert_eq!((b.node_id, b.rack.as_deref()), (1, None));
    assert_eq!(b.num_partitions, 1);
    assert!(b.auto_create_topics && b.delete_topics && !b.replication_factor_strict);
    assert_eq!((b.request_bytes_max, b.fetch_bytes_max), (104_857_600, 57_671_680));
    assert_eq!((b.connections_max, b.connections_idle_max_ms), (2_147_483_647, 600_000));
    assert_eq!(b.retention_check_interval_ms, 300_000);
    assert_eq!(b.producer_id_expiration_ms, 86_400_000);
    assert_eq!(b.queued_request_bytes_max, None);
    assert_eq!(b.topic([]).unwrap(), c);
}

#[test]
fn a_topic_is_checked_by_name_and_value() {
    let refused = |name, value| LogConfig::parse([(name, value)]).unwrap_err();
    let unknown = ConfigError::Unknown { name: "segment.byte".into() };
    assert_eq!(refused("segment.byte", "1"), unknown);
    // A broker's name is no topic's.
    assert!(matches!(refused("log.retention.ms", "1"), ConfigError::Unknown { .. }));
    assert!(matches!(refused("num.partitions", "1"), ConfigError::Unknown { .. }));
    for (name, value) in [
        ("segment.bytes", "1048575"),
        ("segment.bytes", "2147483648"),
        ("segment.bytes", "1g"),
        ("segment.bytes", ""),
        ("retention.ms", "-2"),
        ("retention.ms", "9223372036854775808"),
        ("message.timestamp.type", "createtime"),
        ("cleanup.policy", "delete,squash"),
        ("write.caching", "yes"),
        ("min.cleanable.dirty.ratio", "1.5"),
        ("min.cleanable.dirty.ratio", "NaN"),
        ("compression.type", "brotli"),
        ("min.insync.replicas", "0"),
    ] {
        let ConfigError::Value { name: n, value: v, expected } = refused(name, value) else {
            panic!("{name}={value}");
        };
        assert_eq!((n.as_str(), v.as_str()), (name, value));
        assert!(!expected.is_empty());
    }
    assert_eq!(
        refused("segment.bytes", "0").to_string(),
        "`0` is no value for `segment.bytes`: expected a number from 1048576 to 2147483647"
    );
    for (name, value) in [("compression.type", "zstd"), ("remote.storage.enable", "true")] {
        assert!(matches!(refused(name, value), ConfigError::Unsupported { .. }), "{name}");
    }
    let lags = [("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "9")];
    assert!(matches!(LogConfig::parse(lags), Err(ConfigError::Conflict { .. })));
}

#[test]
fn a_compacted_topic_has_its_records_read() {
    let full = Check::Full { inflated_bytes_max: 64 << 20 };
    let c = LogConfig::parse([("cleanup.policy", " compact , delete")]).unwrap();
    assert!(c.is_compacted() && c.deletes());
    assert_eq!(c.check(), full);
    let c = LogConfig::parse([("cleanup.policy", "compact"), ("validate", "opaque")]).unwrap();
    assert!(!c.deletes());
    assert_eq!(c.check(), full);
    assert_eq!(LogConfig::parse([("validate", "full")]).unwrap().check(), full);
    // What is accepted uncompressed is accepted here.
    let c = LogConfig::parse([("validate", "full"), ("max.message.bytes", "100000000")]).unwrap();
    assert_eq!(c.check(), Check::Full { inflated_bytes_max: 100_000_000 });
}

#[test]
fn a_topics_default_follows_the_brokers_synonyms() {
    let b = broker(&[("log.segment.bytes", "2097152"), ("log.retention.hours", "2")]);
    let c = b.topic([]).unwrap();
    assert_eq!((c.segment_bytes, c.retention_ms), (2_097_152, 7_200_000));
    let c = b.topic([("segment.bytes", "4194304")]).unwrap();
    assert_eq!((c.segment_bytes, c.retention_ms), (4_194_304, 7_200_000));
    // Finer units first, wherever they stand.
    let hours = ("log.retention.hours", "2");
    let minutes = ("log.retention.minutes", "3");
    let ms = ("log.retention.ms", "4");
    let retention = |set: &[_]| broker(set).topic([]).unwrap().retention_ms;
    assert_eq!(retention(&[hours, minutes]), 180_000);
    assert_eq!(retention(&[ms, hours, minutes]), 4);
    assert_eq!(retention(&[("log.retention.hours", "-1")]), -1);
    assert_eq!(retention(&[("log.retention.minutes", "-7")]), -1);
    for zero in ["log.retention.ms", "log.retention.hours"] {
        assert!(BrokerConfig::parse([(zero, "0")]).is_err());
    }
    assert_eq!(LogConfig::parse([("retention.ms", "0")]).unwrap().retention_ms, 0);
    assert_eq!(broker(&[("log.roll.hours", "1")]).topic([]).unwrap().segment_ms, 3_600_000);
}

#[test]
fn a_brokers_file_is_checked_and_what_does_nothing_is_told() {
    let (b, warnings) = BrokerConfig::parse([
        ("node.id", "7"),
        ("node.id", "8"),
        ("num.io.threads", "8"),
        ("log.flush.interval.messages", "1"),
        ("confluent.balancer", "x"),
        ("broker.rack", "r1"),
        ("queued.max.request.bytes", "1000"),
    ])
    .unwrap();
    assert_eq!((b.node_id, b.rack.as_deref()), (8, Some("r1")));
    assert_eq!(b.queued_request_bytes_max, Some(1000));
    let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(told[0], "`confluent.balancer` is unknown and passed over");
    assert!(told[1].starts_with("`log.flush.interval.messages` has no effect: "));
    assert!(told[2].starts_with("`num.io.threads` has no effect: "));
    let error = BrokerConfig::parse([("log.retention.hours", "x")]).unwrap_err();
    assert!(error.to_string().contains("`log.retention.hours`"), "{error}");
    assert!(BrokerConfig::parse([("num.partitions", "0")]).is_err());
    // Even one that another name overrides.
    let both = [("log.retention.ms", "5"), ("log.retention.hours", "x")];
    assert!(BrokerConfig::parse(both).is_err());
    assert!(BrokerConfig::parse([("compression.type", "lz4")]).is_err());
}

#[test]
fn the_file_that_comes_with_kafka_names_nothing_unknown() {
    // `config/server.properties` of Kafka 4.1.
    let file = [
        ("process.roles", "broker,controller"),
        ("node.id", "1"),
        ("controller.quorum.bootstrap.servers", "localhost:9093"),
        ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("advertised.listeners", "PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093"),
        ("controller.listener.names", "CONTROLLER"),
        ("listener.security.protocol.map", "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"),
        ("num.network.threads", "3"),
        ("num.io.threads", "8"),
        ("socket.send.buffer.bytes", "102400"),
        ("socket.receive.buffer.bytes", "102400"),
        ("socket.request.max.bytes", "104857600"),
        ("log.dirs", "/tmp/kraft-combined-logs"),
        ("num.partitions", "1"),
        ("num.recovery.threads.per.data.dir", "1"),
        ("offsets.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.replication.factor", "1"),
        ("share.coordinator.state.topic.min.isr", "1"),
        ("transaction.state.log.replication.factor", "1"),
        ("transaction.state.log.min.isr", "1"),
        ("log.retention.hours", "168"),
        ("log.segment.bytes", "1073741824"),
        ("log.retention.check.interval.ms", "300000"),
    ];
    let (_, warnings) = BrokerConfig::parse(file).unwrap();
    let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert!(told.iter().all(|told| !told.contains("is unknown")), "{told:#?}");
}

#[test]
fn a_topic_is_described_with_the_source_of_each_value() {
    let b = broker(&[("log.retention.hours", "2"), ("log.segment.bytes", "2097152")]);
    let all = b.describe_topic([("retention.ms", "5"), ("cleanup.policy", "compact")]).unwrap();
    assert_eq!(all.len(), TABLE.iter().filter(|s| matches!(s.scope, Scope::Topic(_))).count());
    let one = |name| all.iter().find(|d| d.name == name).unwrap();
    let retention = one("retention.ms");
    assert_eq!((retention.value.as_deref(), retention.source), (Some("5"), Source::Topic));
    let synonyms: Vec<_> =
        retention.synonyms.iter().map(|(n, v, s)| (*n, v.as_deref().unwrap(), *s)).collect();
    assert_eq!(
        synonyms,
        [
            ("retention.ms", "5", Source::Topic),
            ("log.retention.hours", "7200000", Source::StaticBroker),
            ("log.retention.hours", "604800000", Source::Default),
        ]
    );
    let segment = one("segment.bytes");
    assert_eq!((segment.value.as_deref(), segment.source), (Some("2097152"), Source::StaticBroker));
    let index = one("index.interval.bytes");
    assert_eq!((index.value.as_deref(), index.source), (Some("4096"), Source::Default));
    assert!(b.describe_topic([("nope", "5")]).is_err());
    assert!(b.describe_topic([("retention.ms", "-5")]).is_err());
}

#[test]
fn the_broker_is_described_under_all_its_names() {
    let b = broker(&[("log.retention.minutes", "3"), ("num.partitions", "4")]);
    let all = b.describe();
    let one = |name: &str| {
        let d = all.iter().find(|d| d.name == name).unwrap();
        (d.value.as_deref(), d.source)
    };
    assert_eq!(one("num.partitions"), (Some("4"), Source::StaticBroker));
    assert_eq!(one("log.retention.ms"), (None, Source::Default));
    assert_eq!(one("log.retention.minutes"), (Some("3"), Source::StaticBroker));
    assert_eq!(one("log.retention.hours"), (Some("168"), Source::Default));
    assert_eq!(one("log.segment.bytes"), (Some("1073741824"), Source::Default));
    assert_eq!(one("broker.rack"), (None, Source::Default));
    assert!(all.windows(2).all(|w| w[0].name < w[1].name));
}

#[test]
fn the_page_has_a_row_for_each_setting() {
    let page = markdown();
    for setting in TABLE {
        assert!(page.contains(&format!("\n| `{}` | ", setting.name)), "{}", setting.name);
    }
    let columns = |line: &str| line.matches('|').count();
    assert!(page.lines().filter(|l| l.starts_with('|')).all(|l| [3, 5].contains(&columns(l))));
}

#[test]
fn properties_are_read_as_java_reads_them() {
    let text = "# comment\n\
                ! another = one\n\
                \n\
                a=1\r\n\
                \t b : 2 \r\
                c 3\n\
                d\n\
                e==5\n\
                f\\=\\:\\ g = x y \n\
                long = one, \\\n    two, \\\r\n\tthree\\\\\n\
                blank = x\\\n\n\
                esc=\\t\\n\\u0041\\uD83D\\uDE00\\q\n\
                last=\\";
    let read = parse_properties(text).unwrap();
    let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        read,
        [
            ("a", "1"),
            ("b", "2 "),
            ("c", "3"),
            ("d", ""),
            ("e", "=5"),
            ("f=: g", "x y "),
            ("long", "one, two, three\\"),
            ("blank", "x"),
            ("esc", "\t\nA\u{1f600}q"),
            ("last", ""),
        ]
    );
    for bad in ["ok=1\na=\\u12", "\na=\\u12g4", "\\u=\n"] {
        assert!(parse_properties(bad).is_err(), "{bad:?}");
    }
    assert_eq!(parse_properties("ok=1\na=\\u+123").unwrap_err(), BadEscape { line: 2 });
}

proptest! {
    #[test]
    fn any_text_is_properties_or_a_bad_escape(text: String) {
        let _pairs_or_not = parse_properties(&text).is_ok();
    }

    #[test]
    fn escaped_pairs_are_read_back(pairs in prop::collection::vec(("\\PC{1,20}", "\\PC{0,20}"), 0..8)) {
        let escape = |text: &str| -> String {
            text.chars().flat_map(|c| if c.is_alphanumeric() { vec![c] } else { vec!['\\', c] }).collect()
        };
        // `\t`, `\n`, `\u` and the like are letters, which are not escaped here.
        let file: String =
            pairs.iter().map(|(k, v)| format!("{} = {}\n", escape(k), escape(v))).collect();
        prop_assert_eq!(parse_properties(&file).unwrap(), pairs);
    }

    #[test]
    fn any_value_is_accepted_or_refused(text in "\\PC{0,12}|-?[0-9]{1,21}", row in 0..TABLE.len()) {
        let setting = &TABLE[row];
        for synonym in setting.broker_names() {
            if let Ok(Value::Number(n)) = setting.parse_as(synonym.name, &text, synonym.factor) {
                let written: i64 = text.trim().parse().unwrap();
                let scaled = written.checked_mul(synonym.factor);
                prop_assert!(scaled == Some(n) || (written < 0 && n == -1));
            }
        }
    }
}
