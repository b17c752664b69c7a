//! The rows. Names, ranges and defaults are those of Kafka 4.1 (`LogConfig`, `KafkaConfig`);
//! `write.caching`, `validate` and `replication.factor.strict` are ours.

use super::log_config::CleanupPolicy;
use super::value::Value;
use super::{Apply, BrokerConfig, Effect, Kind, LogConfig, Scope, Setting, Synonym, Unit};
use crate::batch::TimestampType;

const MIB: i64 = 1024 * 1024;
const INT_MAX: i64 = i32::MAX as i64;
const LONG_MAX: &str = "9223372036854775807";
const HOUR_MS: i64 = 3_600_000;
const DAY_MS: &str = "86400000";
const WEEK_MS: &str = "604800000";

const fn int(min: i64) -> Kind {
    Kind::Int(min, INT_MAX)
}

const fn long(min: i64) -> Kind {
    Kind::Long(min, i64::MAX)
}

const fn named(name: &'static str) -> Synonym {
    Synonym { name, factor: 1 }
}

const fn topic(name: &'static str, synonyms: &'static [Synonym], kind: Kind) -> Setting {
    Setting { scope: Scope::Topic(synonyms), ..broker(name, kind) }
}

const fn broker(name: &'static str, kind: Kind) -> Setting {
    Setting {
        name,
        scope: Scope::Broker,
        kind,
        unit: Unit::Plain,
        default: None,
        effect: Effect::Served,
        doc: "",
        apply: Apply::Nowhere,
    }
}

impl Setting {
    const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn bytes(self) -> Self {
        Self { unit: Unit::Bytes, ..self }
    }

    const fn ms(self) -> Self {
        Self { unit: Unit::Ms, ..self }
    }

    const fn says(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }

    const fn stored(self, why: &'static str) -> Self {
        Self { effect: Effect::Stored(why), ..self }
    }

    const fn set(self, apply: fn(&mut LogConfig, &Value)) -> Self {
        Self { apply: Apply::Topic(apply), ..self }
    }

    const fn sets(self, apply: fn(&mut BrokerConfig, &Value)) -> Self {
        Self { apply: Apply::Broker(apply), ..self }
    }
}

const NO_COMPACTION: &str = "nothing is compacted yet";
const NO_TIERS: &str = "there is no tiered storage";
const NO_RECOMPRESSION: &str = "batches are stored as they came";
const ONE_DOMAIN: &str = "all brokers of one process fail together, so there is one replica";
const NOT_THROTTLED: &str = "there is no replication to throttle";
const COMMITS: &str =
    "acks=all and readers wait for the group commit, unless `write.caching` is set";
const NO_GROUPS: &str = "consumer groups are not served yet";
const NO_TRANSACTIONS: &str = "transactions are not served yet";
const ONE_THREAD: &str = "a core is one thread that does everything";

/// Every setting: the topics', then the broker's own, each in the order of the names.
pub static TABLE: &[Setting] = &[
    topic(
        "cleanup.policy",
        &[named("log.cleanup.policy")],
        Kind::List(&["compact", "delete"]),
    )
    .or("delete")
    .says(
        "`delete`: segments past the retention are deleted. `compact`: keys are required and every \
         record is read; nothing is compacted yet.",
    )
    .set(|c, v| {
        c.cleanup_policy = CleanupPolicy { delete: v.has("delete"), compact: v.has("compact") };
    }),
    topic("compression.gzip.level", &[named("compression.gzip.level")], Kind::Int(-1, 9))
        .or("-1")
        .says("The level at which the broker would compress.")
        .stored(NO_RECOMPRESSION),
    topic("compression.lz4.level", &[named("compression.lz4.level")], Kind::Int(1, 17))
        .or("9")
        .says("The level at which the broker would compress.")
        .stored(NO_RECOMPRESSION),
    topic(
        "compression.type",
        &[named("compression.type")],
        Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
    )
    .or("producer")
    .says("The codec of stored batches. Only `producer` is served: as they came."),
    topic("compression.zstd.level", &[named("compression.zstd.level")], Kind::Int(-131_072, 22))
        .or("3")
        .says("The level at which the broker would compress.")
        .stored(NO_RECOMPRESSION),
    topic("delete.retention.ms", &[named("log.cleaner.delete.retention.ms")], long(0))
        .or(DAY_MS)
        .ms()
        .says("How long compaction keeps a tombstone.")
        .stored(NO_COMPACTION),
    topic("file.delete.delay.ms", &[named("log.segment.delete.delay.ms")], long(0))
        .or("60000")
        .ms()
        .says("How long a deleted segment's file stays.")
        .stored("readers hold the file open, so it can go at once")
        .set(|c, v| c.file_delete_delay_ms = v.i64()),
    topic("flush.messages", &[named("log.flush.interval.messages")], long(1))
        .or(LONG_MAX)
        .says("Records after which the log is synced.")
        .stored(COMMITS),
    topic(
        "flush.ms",
        &[named("log.flush.interval.ms"), named("log.flush.scheduler.interval.ms")],
        long(0),
    )
    .or(LONG_MAX)
    .ms()
    .says("Time after which the log is synced.")
    .stored(COMMITS),
    topic("follower.replication.throttled.replicas", &[], Kind::List(&[]))
        .or("")
        .says("Replicas whose fetching is throttled.")
        .stored(NOT_THROTTLED),
    topic("index.interval.bytes", &[named("log.index.interval.bytes")], int(0))
        .or("4096")
        .bytes()
        .says("Bytes of log between two entries of its index.")
        .set(|c, v| c.index_interval_bytes = v.u32()),
    topic("leader.replication.throttled.replicas", &[], Kind::List(&[]))
        .or("")
        .says("Replicas whose serving is throttled.")
        .stored(NOT_THROTTLED),
    topic("local.retention.bytes", &[named("log.local.retention.bytes")], long(-2))
        .or("-2")
        .bytes()
        .says("Retention of what a remote tier holds as well.")
        .stored(NO_TIERS),
    topic("local.retention.ms", &[named("log.local.retention.ms")], long(-2))
        .or("-2")
        .ms()
        .says("Retention of what a remote tier holds as well.")
        .stored(NO_TIERS),
    topic("max.compaction.lag.ms", &[named("log.cleaner.max.compaction.lag.ms")], long(1))
        .or(LONG_MAX)
        .ms()
        .says("The latest that a record is compacted.")
        .stored(NO_COMPACTION)
        .set(|c, v| c.max_compaction_lag_ms = v.i64()),
    topic("max.message.bytes", &[named("message.max.bytes")], int(0))
        .or("1048588")
        .bytes()
        .says("The largest batch.")
        .set(|c, v| c.max_message_bytes = v.usize()),
    topic(
        "message.timestamp.after.max.ms",
        &[named("log.message.timestamp.after.max.ms")],
        long(0),
    )
    .or("3600000")
    .ms()
    .says("How far ahead of the broker's clock a producer's timestamp may be.")
    .set(|c, v| c.message_timestamp_after_max_ms = v.i64()),
    topic(
        "message.timestamp.before.max.ms",
        &[named("log.message.timestamp.before.max.ms")],
        long(0),
    )
    .or(LONG_MAX)
    .ms()
    .says("How far behind the broker's clock a producer's timestamp may be.")
    .set(|c, v| c.message_timestamp_before_max_ms = v.i64()),
    topic(
        "message.timestamp.type",
        &[named("log.message.timestamp.type")],
        Kind::Choice(&["CreateTime", "LogAppendTime"]),
    )
    .or("CreateTime")
    .says("Whose clock a record's timestamp is read from, the producer's or the broker's.")
    .set(|c, v| {
        c.message_timestamp_type = match v.text() {
            "LogAppendTime" => TimestampType::LogAppendTime,
            _ => TimestampType::CreateTime,
        };
    }),
    topic("min.cleanable.dirty.ratio", &[named("log.cleaner.min.cleanable.ratio")], Kind::Ratio)
        .or("0.5")
        .says("The share of a log not yet compacted at which compaction begins.")
        .stored(NO_COMPACTION),
    topic("min.compaction.lag.ms", &[named("log.cleaner.min.compaction.lag.ms")], long(0))
        .or("0")
        .ms()
        .says("The earliest that a record is compacted.")
        .stored(NO_COMPACTION)
        .set(|c, v| c.min_compaction_lag_ms = v.i64()),
    topic("min.insync.replicas", &[named("min.insync.replicas")], int(1))
        .or("1")
        .says("Replicas that `acks=all` wants; never more than the topic has.")
        .stored(ONE_DOMAIN),
    topic("preallocate", &[named("log.preallocate")], Kind::Bool)
        .or("false")
        .says("Whether a segment's blocks are allocated ahead.")
        .stored("they always are, without making the file longer"),
    topic("remote.log.copy.disable", &[], Kind::Bool)
        .or("false")
        .says("Stops copying to a remote tier.")
        .stored(NO_TIERS),
    topic("remote.log.delete.on.disable", &[], Kind::Bool)
        .or("false")
        .says("Whether a remote tier's copy is deleted with it.")
        .stored(NO_TIERS),
    topic("remote.storage.enable", &[], Kind::Bool)
        .or("false")
        .says("Copies segments to a remote tier. Only `false` is served."),
    topic("retention.bytes", &[named("log.retention.bytes")], long(i64::MIN))
        .or("-1")
        .bytes()
        .says("Bytes of a partition past which its oldest segments are deleted; -1: no limit.")
        .set(|c, v| c.retention_bytes = v.i64()),
    topic(
        "retention.ms",
        &[
            named("log.retention.ms"),
            Synonym { name: "log.retention.minutes", factor: 60_000 },
            Synonym { name: "log.retention.hours", factor: HOUR_MS },
        ],
        long(-1),
    )
    .or(WEEK_MS)
    .ms()
    .says("Age of a segment's newest record past which it is deleted; -1: no limit.")
    .set(|c, v| c.retention_ms = v.i64()),
    topic("segment.bytes", &[named("log.segment.bytes")], int(MIB))
        .or("1073741824")
        .bytes()
        .says("The largest segment file.")
        .set(|c, v| c.segment_bytes = v.u64()),
    topic("segment.index.bytes", &[named("log.index.size.max.bytes")], int(4))
        .or("10485760")
        .bytes()
        .says("The largest index file of a segment.")
        .stored("an index grows with its segment, which bounds it")
        .set(|c, v| c.segment_index_bytes = v.u64()),
    topic(
        "segment.jitter.ms",
        &[
            named("log.roll.jitter.ms"),
            Synonym { name: "log.roll.jitter.hours", factor: HOUR_MS },
        ],
        long(0),
    )
    .or("0")
    .ms()
    .says("The most that is taken off `segment.ms`, at random.")
    .stored("to roll a segment waits for no disk, so rolls need not be spread")
    .set(|c, v| c.segment_jitter_ms = v.i64()),
    topic(
        "segment.ms",
        &[named("log.roll.ms"), Synonym { name: "log.roll.hours", factor: HOUR_MS }],
        long(1),
    )
    .or(WEEK_MS)
    .ms()
    .says("Age past which a segment is closed and a new one begun.")
    .set(|c, v| c.segment_ms = v.i64()),
    topic(
        "unclean.leader.election.enable",
        &[named("unclean.leader.election.enable")],
        Kind::Bool,
    )
    .or("false")
    .says("Whether a replica that lags behind may lead.")
    .stored(ONE_DOMAIN),
    topic("validate", &[named("log.validate")], Kind::Choice(&["opaque", "full"]))
        .or("opaque")
        .says(
            "How much of a batch is checked: its head and CRC (`opaque`), or every record as well \
             (`full`), as Kafka does. Ours.",
        )
        .set(|c, v| c.validates_records = v.text() == "full"),
    topic("write.caching", &[named("log.write.caching")], Kind::Bool)
        .or("false")
        .says(
            "Kafka's own contract: what is in the page cache counts as safe, and a power cut may \
             take back what was acked. Ours.",
        )
        .set(|c, v| c.write_caching = v.bool()),
    broker("auto.create.topics.enable", Kind::Bool)
        .or("true")
        .says("Whether asking for a topic creates it.")
        .sets(|c, v| c.auto_create_topics = v.bool()),
    broker("broker.rack", Kind::Text)
        .says("The rack that clients are told; the machine's name if it is not set.")
        .sets(|c, v| c.rack = Some(v.text().to_owned()).filter(|rack| !rack.is_empty())),
    broker("connections.max.idle.ms", long(i64::MIN))
        .or("600000")
        .ms()
        .says("Time after which a silent connection is closed; negative: never.")
        .sets(|c, v| c.connections_idle_max_ms = v.i64().max(-1)),
    broker("default.replication.factor", Kind::Int(1, 32_767))
        .or("1")
        .says("Replicas of a topic that does not say how many.")
        .stored(ONE_DOMAIN),
    broker("delete.topic.enable", Kind::Bool)
        .or("true")
        .says("Whether topics can be deleted.")
        .sets(|c, v| c.delete_topics = v.bool()),
    broker("fetch.max.bytes", int(1024))
        .or("57671680")
        .bytes()
        .says("The most that is sent in answer to one fetch.")
        .sets(|c, v| c.fetch_bytes_max = v.usize()),
    broker("log.retention.check.interval.ms", long(1))
        .or("300000")
        .ms()
        .says("How often segments past the retention are looked for.")
        .sets(|c, v| c.retention_check_interval_ms = v.i64()),
    broker("max.connections", int(0))
        .or("2147483647")
        .says("The most connections of a core; of all cores, half of the limit on open files.")
        .sets(|c, v| c.connections_max = v.usize()),
    broker("metadata.log.segment.bytes", int(8 * MIB))
        .or("1073741824")
        .bytes()
        .says("The largest segment file of the metadata log.")
        .sets(|c, v| c.metadata_segment_bytes = v.u64()),
    broker("metadata.log.segment.ms", long(1))
        .or(WEEK_MS)
        .ms()
        .says("Age past which a segment of the metadata log is closed.")
        .sets(|c, v| c.metadata_segment_ms = v.i64()),
    // 2^23 - 1: a core's broker id is the node's, shifted by 8 bits.
    broker("node.id", Kind::Int(0, 8_388_607))
        .or("1")
        .says("The node; core `i` is broker `node.id * 256 + i`.")
        .sets(|c, v| c.node_id = v.i32()),
    broker("num.partitions", int(1))
        .or("1")
        .says("Partitions of a topic that does not say how many.")
        .sets(|c, v| c.num_partitions = v.i32()),
    broker("producer.id.expiration.ms", int(1))
        .or(DAY_MS)
        .ms()
        .says("Time after which the sequences of a silent producer are forgotten.")
        .sets(|c, v| c.producer_id_expiration_ms = v.i64()),
    broker("queued.max.request.bytes", long(i64::MIN))
        .or("-1")
        .bytes()
        .says("The most that large requests hold until they are whole, or answered; -1: 16 MiB.")
        .sets(|c, v| {
            let bytes = usize::try_from(v.i64()).ok().filter(|bytes| *bytes > 0);
            c.queued_request_bytes_max = bytes;
        }),
    broker("replication.factor.strict", Kind::Bool)
        .or("false")
        .says("Refuses replication factors above 1, which are accepted and shown as 1. Ours.")
        .sets(|c, v| c.replication_factor_strict = v.bool()),
    broker("socket.request.max.bytes", int(1))
        .or("104857600")
        .bytes()
        .says("The largest request.")
        .sets(|c, v| c.request_bytes_max = v.usize()),
];

/// Settings of Kafka's brokers that are known here and do nothing, and why.
pub static BROKER_ONLY: &[(&str, &str)] = &[
    ("advertised.listeners", "use the option --advertise"),
    ("background.threads", ONE_THREAD),
    ("broker.id", "it follows from `node.id` and the core"),
    ("controller.listener.names", "this process is its own controller"),
    ("controller.quorum.bootstrap.servers", "this process is its own controller"),
    ("controller.quorum.voters", "this process is its own controller"),
    ("group.consumer.heartbeat.interval.ms", NO_GROUPS),
    ("group.consumer.session.timeout.ms", NO_GROUPS),
    ("group.coordinator.rebalance.protocols", NO_GROUPS),
    ("group.initial.rebalance.delay.ms", NO_GROUPS),
    ("group.max.session.timeout.ms", NO_GROUPS),
    ("group.max.size", NO_GROUPS),
    ("group.min.session.timeout.ms", NO_GROUPS),
    ("inter.broker.listener.name", "there is one listener a core"),
    ("listener.security.protocol.map", "there is one plaintext listener a core"),
    ("listeners", "use the option that says where to listen"),
    ("log.cleaner.enable", NO_COMPACTION),
    ("log.cleaner.threads", ONE_THREAD),
    ("log.dir", "use the option that names the data directory"),
    ("log.dirs", "use the option that names the data directory"),
    ("log.flush.offset.checkpoint.interval.ms", "the journal moves the recovery points"),
    ("max.connections.per.ip", "connections are counted by core"),
    ("max.incremental.fetch.session.cache.slots", "fetch sessions are not used"),
    ("num.io.threads", ONE_THREAD),
    ("num.network.threads", ONE_THREAD),
    ("num.recovery.threads.per.data.dir", ONE_THREAD),
    ("offset.metadata.max.bytes", NO_GROUPS),
    ("offsets.retention.minutes", NO_GROUPS),
    ("offsets.topic.num.partitions", NO_GROUPS),
    ("offsets.topic.replication.factor", ONE_DOMAIN),
    ("offsets.topic.segment.bytes", NO_GROUPS),
    ("process.roles", "this process is broker and controller"),
    ("queued.max.requests", "a connection's requests are bounded one by one"),
    ("replica.lag.time.max.ms", ONE_DOMAIN),
    ("request.timeout.ms", "this process asks no other broker"),
    ("share.coordinator.state.topic.min.isr", ONE_DOMAIN),
    ("share.coordinator.state.topic.replication.factor", ONE_DOMAIN),
    ("socket.listen.backlog.size", "the kernel's own bound is used"),
    ("socket.receive.buffer.bytes", "the kernel sizes socket buffers"),
    ("socket.send.buffer.bytes", "the kernel sizes socket buffers"),
    ("transaction.max.timeout.ms", NO_TRANSACTIONS),
    ("transaction.state.log.min.isr", ONE_DOMAIN),
    ("transaction.state.log.num.partitions", NO_TRANSACTIONS),
    ("transaction.state.log.replication.factor", ONE_DOMAIN),
    ("transactional.id.expiration.ms", NO_TRANSACTIONS),
];
