#!/usr/bin/env python3
"""Real Kafka clients against a running broker: what one writes, it and others read back.

    python3 server/tests/clients/run.py [--records N] [--fail-fast] [CLIENT ...]

Each client writes N records in each codec it knows to a topic of 6 partitions that it
made itself. Then the same set must come back from assigned partitions, each record once,
in the order of sending within its partition, and the stored batches must carry the codec,
whole sequences and no gap. Kafka's DumpLogSegments must accept every segment and index.

Without $BOOTSTRAP this starts $KARIZ (default target/release/kariz) on 2 cores and stops
it at the end. With $BOOTSTRAP the broker there is used, and $DATA_DIR says where its
topics' directories lie (without: the segments are not looked at). Ends with a line
`N passed, N failed`.
"""

import argparse
import os
import pathlib
import random
import re

import broker
import check
import clients
import tally

PARTITIONS = 6
# Distinct keys: enough for every partition to get some from any partitioner.
KEYS = 1000
# From where the second read starts: amid a batch, and below the end of every partition.
MIDDLE = 777


def main():
    options = argparse.ArgumentParser(description="Real Kafka clients against a running broker.")
    options.add_argument("clients", nargs="*", metavar="CLIENT",
                         help="of " + " ".join(c.name for c in clients.ALL) + " (default: all)")
    options.add_argument("--records", type=int, default=100_000)
    options.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    chosen = options.parse_args()
    counted = tally.Tally(chosen.fail_fast)
    with broker.Elsewhere() if os.environ.get("BOOTSTRAP") else broker.Kariz(counted.work) as server:
        counted.broker = server
        run = Run(counted, chosen.records)
        for client in clients.ALL:
            if not chosen.clients or client.name in chosen.clients:
                run.client(client(run.shell))
        if not chosen.clients or "kcat" in chosen.clients:
            counted.check("kcat auto-creation", run.auto_creation)
        if isinstance(server, broker.Kariz):
            counted.check("stop", server.stop)
            counted.check("kariz check", server.verify)
        if server.data:
            counted.check("DumpLogSegments", run.dump_log_segments)
    counted.finish()


class Run:
    """The checks against one broker."""

    def __init__(self, counted, count):
        self.tally = counted
        self.data = counted.broker.data
        self.shell = clients.Shell(counted.broker.bootstrap, counted.work)
        self.segments = {}  # client -> its topics -> their segments' paths, for DumpLogSegments
        self.keyed = keyed_records(count)
        self.unkeyed = [(b"NULL", b"%d" % i) for i in range(count)]
        self.file = counted.work / "records"
        write_records(self.file, self.keyed)

    def client(self, client):
        for codec in client.codecs:
            self.tally.check(f"{client.name} {codec}", self.round_trip, client, codec)

    def round_trip(self, client, codec):
        """One client, one codec: create, write, read from the start and from the middle, walk."""
        # The process id keeps topics of several runs against one broker apart.
        topic = f"{client.name}-{codec}-{os.getpid()}"
        expected = self.keyed if client.keyed else self.unkeyed
        client.create(topic, PARTITIONS)
        client.write(topic, codec, self.file)
        ends = {}
        for reader in client.readers(codec):
            ends = check.records(reader.read(topic, 0), expected, 0, client.keyed)
            middle = check.records(reader.read(topic, MIDDLE), expected, MIDDLE, client.keyed)
            if middle != {p: end for p, end in ends.items() if end > MIDDLE}:
                raise check.Violation(f"read from 0 to {ends}, from {MIDDLE} to {middle}")
        if client.keyed and len(ends) != PARTITIONS:
            raise check.Violation(f"records in partitions {sorted(ends)} only")
        if self.data:
            self.segments.setdefault(client.name, {})[topic] = check.segments(
                self.data, topic, PARTITIONS, codec, client.idempotent, ends)

    def auto_creation(self):
        """A topic that nobody made is there once somebody writes to it."""
        kcat, topic = clients.Kcat(self.shell), f"kcat-auto-{os.getpid()}"
        kcat.write(topic, "none", self.file)
        check.records(kcat.read(topic, 0), self.keyed, 0, True)

    def dump_log_segments(self):
        """Kafka's own dump tool reads every record of every segment and finds no index wrong."""
        for client, topics in self.segments.items():
            # An empty log of Apache Kafka has an index of zeros, over which its tool stumbles.
            files = [path.with_suffix(suffix) for paths in topics.values() for path in paths
                     if path.stat().st_size for suffix in [".log", ".index", ".timeindex"]]
            records, written = self.dump(files), len(topics) * len(self.keyed)
            if records != written:
                raise check.Violation(f"{client}: {records} records of {written}")

    def dump(self, files):
        """How many records DumpLogSegments finds; any complaint of it is a violation."""
        out = clients.Java(self.shell).java(
            "kafka.tools.DumpLogSegments", "--deep-iteration", "--files", ",".join(map(str, files)))
        records = 0
        with open(out, "rb") as lines:
            for line in lines:
                if line.startswith(b"| offset: "):
                    records += 1
                elif not DUMPED.match(line) and not may_be_empty(line):
                    raise check.Violation(f"it says: {line.decode(errors='replace').rstrip()}")
        return records


# All that the dump tool says of sound files; whatever else it says is a complaint.
DUMPED = re.compile(
    rb"Dumping /|Log starting offset: \d+$|baseOffset: \d+ .* isvalid: true$"
    rb"|offset: \d+ position: \d+ *$|timestamp: \d+ offset: \d+ *$")


# An index entry is due once more than so many bytes of log follow the last one. Source:
# Kafka's default `log.index.interval.bytes`.
INDEX_INTERVAL_BYTES = 4096


def may_be_empty(line):
    """Whether the line calls an index empty whose log is too short for its first entry."""
    named = re.fullmatch(rb"(.+\.(?:time)?index) is empty\.\n", line)
    if not named:
        return False
    starts = [at for at, _ in check.batches(pathlib.Path(named[1].decode()).with_suffix(".log"))]
    return starts[-1] <= INDEX_INTERVAL_BYTES


def keyed_records(count):
    """The records that every client sends. Each value alone is worth compressing, so that a
    client which sends small batches uncompressed where that is smaller has no reason to."""
    words = random.Random(20260101)
    return [(b"key-%03d" % words.randrange(KEYS), b"%08d" % i + b" qanat" * words.randrange(12, 24))
            for i in range(count)]


def write_records(path, records):
    """The file that clients take their records from."""
    path.write_bytes(b"".join(b"%s\t%s\n" % record for record in records))


if __name__ == "__main__":
    main()
