"""kafka-python: create TOPIC PARTITIONS | write TOPIC CODEC FILE | read TOPIC FROM

The broker is $BOOTSTRAP. FILE holds `key TAB value` lines; `read` assigns every
partition at offset FROM and prints `partition TAB offset TAB key TAB value`.
"""

import os
import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition

BOOTSTRAP = os.environ["BOOTSTRAP"]


def create(topic, partitions):
    admin = KafkaAdminClient(bootstrap_servers=BOOTSTRAP)
    admin.create_topics({topic: {"num_partitions": int(partitions), "replication_factor": 1}})
    admin.close()


def write(topic, codec, path):
    producer = KafkaProducer(
        bootstrap_servers=BOOTSTRAP,
        acks="all",
        enable_idempotence=True,
        compression_type=None if codec == "none" else codec,
        linger_ms=5,
        batch_size=65536,
    )
    with open(path, "rb") as records:
        sent = []
        for line in records:
            key, value = line.rstrip(b"\n").split(b"\t")
            sent.append(producer.send(topic, key=key, value=value))
    producer.flush(timeout=120)
    for future in sent:
        future.get(timeout=1)  # raises what the broker answered
    producer.close(timeout=30)


def read(topic, start):
    consumer = KafkaConsumer(
        bootstrap_servers=BOOTSTRAP, group_id=None, enable_auto_commit=False, check_crcs=True
    )
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    ends = consumer.end_offsets(partitions)
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, int(start))
    while any(consumer.position(p) < ends[p] for p in partitions):
        for partition, records in consumer.poll(timeout_ms=500).items():
            for record in records:
                key = b"NULL" if record.key is None else record.key
                place = b"%d\t%d\t" % (partition.partition, record.offset)
                sys.stdout.buffer.write(place + key + b"\t" + record.value + b"\n")
    consumer.close()


{"create": create, "write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
