"""confluent-kafka: create TOPIC PARTITIONS | write TOPIC CODEC FILE | read TOPIC FROM

The broker is $BOOTSTRAP. FILE holds `key TAB value` lines; `read` assigns every
partition at offset FROM and prints `partition TAB offset TAB key TAB value`.
"""

import os
import sys

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

BOOTSTRAP = {"bootstrap.servers": os.environ["BOOTSTRAP"]}


def create(topic, partitions):
    new = NewTopic(topic, num_partitions=int(partitions), replication_factor=1)
    admin = AdminClient(BOOTSTRAP)  # must outlive its futures
    admin.create_topics([new])[topic].result(timeout=30)


def write(topic, codec, path):
    failures = []

    def delivered(error, _message):
        if error is not None:
            failures.append(error)

    producer = Producer(
        BOOTSTRAP
        | {
            "enable.idempotence": True,
            "compression.codec": codec,
            "linger.ms": 5,
            "queue.buffering.max.messages": 200_000,
        }
    )
    with open(path, "rb") as records:
        for line in records:
            key, value = line.rstrip(b"\n").split(b"\t")
            producer.produce(topic, key=key, value=value, on_delivery=delivered)
            producer.poll(0)
    unsent = producer.flush(120)
    if unsent or failures:
        sys.exit(f"{unsent} records without an answer, {len(failures)} refused: {failures[:3]}")


def read(topic, start):
    # librdkafka wants a group id; nothing joins or commits under it.
    consumer = Consumer(
        BOOTSTRAP
        | {
            "group.id": "assigned-only",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "check.crcs": True,
            "isolation.level": "read_committed",
        }
    )
    partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, int(start)) for p in sorted(partitions)])
    unfinished = set(partitions)
    while unfinished:
        for message in consumer.consume(10_000, timeout=0.5):
            error = message.error()
            if error is None:
                key = b"NULL" if message.key() is None else message.key()
                place = b"%d\t%d\t" % (message.partition(), message.offset())
                sys.stdout.buffer.write(place + key + b"\t" + message.value() + b"\n")
            elif error.code() == KafkaError._PARTITION_EOF:
                unfinished.discard(message.partition())
            else:
                raise KafkaException(error)
    consumer.close()


{"create": create, "write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
