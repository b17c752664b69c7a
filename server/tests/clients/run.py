#!/usr/bin/env python3
"""Real Kafka clients against a running broker: what one writes, it and others read back.

    python3 server/tests/clients/run.py [--records N] [CLIENT ...]

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
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import check
import clients

KARIZ = os.environ.get("KARIZ") or pathlib.Path(__file__).resolve().parents[3] / "target/release/kariz"
PARTITIONS = 6
# Distinct keys: enough for every partition to get some from any partitioner.
KEYS = 1000
# From where the second read starts: amid a batch, and below the end of every partition.
MIDDLE = 777
READY_SECONDS = 30
STOP_SECONDS = 30


def main():
    options = argparse.ArgumentParser(description="Real Kafka clients against a running broker.")
    options.add_argument("clients", nargs="*", metavar="CLIENT",
                         help="of " + " ".join(c.name for c in clients.ALL) + " (default: all)")
    options.add_argument("--records", type=int, default=100_000)
    options.add_argument("--keep", action="store_true", help="leave data and logs behind")
    chosen = options.parse_args()
    # An end from outside (a time limit) unwinds too, and so stops what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    work = pathlib.Path(tempfile.mkdtemp(prefix="kariz-clients-"))
    with Broker(work) as broker:
        run = Run(broker, work, chosen.records)
        for client in clients.ALL:
            if not chosen.clients or client.name in chosen.clients:
                run.client(client(run.shell))
        if not chosen.clients or "kcat" in chosen.clients:
            run.check("kcat auto-creation", run.auto_creation)
        run.check("stop", broker.stop)
        if broker.process:
            run.check("kariz check", broker.check)
        if broker.data:
            run.check("DumpLogSegments", run.dump_log_segments)
    if run.failed:
        broker.explain()
    if run.failed or chosen.keep:
        print(f"data and logs are left in {work}")
    else:
        shutil.rmtree(work)
    print(f"{run.passed} passed, {run.failed} failed")
    sys.exit(1 if run.failed else 0)


class Broker:
    """The broker of $BOOTSTRAP, or one of ours, alive between `with` and `stop`."""

    def __init__(self, work):
        self.work = work
        self.process = None
        self.bootstrap = os.environ.get("BOOTSTRAP")
        data = os.environ.get("DATA_DIR")
        self.data = pathlib.Path(data) if data else None

    def __enter__(self):
        if self.bootstrap:
            return self
        self.data = self.work / "data"
        with open(self.work / "server.log", "wb") as log:
            self.process = subprocess.Popen(
                [KARIZ, "serve", "--data", self.data, "--listen", "127.0.0.1:0", "--cores", "0,1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        line = b""
        if select.select([self.process.stdout], [], [], READY_SECONDS)[0]:
            line = self.process.stdout.readline()
        ready = re.fullmatch(rb"kariz ready bootstrap=(\S+) cores=2 pid=\d+\n", line)
        if not ready:
            self.__exit__()
            self.explain()
            sys.exit(f"no ready line within {READY_SECONDS} s, but {line!r}")
        self.bootstrap = ready[1].decode()
        return self

    def stop(self):
        """Asks our broker to end: it must do so in good time, with status 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_SECONDS)
        if status != 0:
            raise check.Violation(f"the server ended with status {status}")

    def check(self):
        """Our own verdict on the stopped server's directory."""
        done = subprocess.run([KARIZ, "check", self.data], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
        if done.returncode != 0:
            raise check.Violation(f"status {done.returncode}: {done.stdout[-2000:].decode()}")

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def explain(self):
        """The end of what our broker said."""
        log = self.work / "server.log"
        if log.exists():
            print("server.log ends:", *log.read_text(errors="replace").splitlines()[-60:], sep="\n  ")


class Run:
    """The checks against one broker, and their count."""

    def __init__(self, broker, work, count):
        self.broker = broker
        self.shell = clients.Shell(broker.bootstrap, work)
        self.work = work
        self.passed = 0
        self.failed = 0
        self.segments = {}  # client -> its topics -> their segments' paths, for DumpLogSegments
        self.keyed = keyed_records(count)
        self.unkeyed = [(b"NULL", b"%d" % i) for i in range(count)]
        self.file = work / "records"
        self.file.write_bytes(b"".join(b"%s\t%s\n" % record for record in self.keyed))

    def check(self, name, body, *arguments):
        """Runs one check, prints how it went and how long it took, and counts it."""
        began = time.monotonic()
        try:
            body(*arguments)
        except (check.Violation, clients.Failed, OSError, subprocess.SubprocessError, ValueError) as error:
            self.failed += 1
            result, why = "FAILED", f": {type(error).__name__}: {error}"
        else:
            self.passed += 1
            result, why = "ok    ", ""
        print(f"{result} {name:24} {time.monotonic() - began:6.1f} s{why}", flush=True)

    def client(self, client):
        for codec in client.codecs:
            self.check(f"{client.name} {codec}", self.round_trip, client, codec)

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
        if self.broker.data:
            self.segments.setdefault(client.name, {})[topic] = check.segments(
                self.broker.data, topic, PARTITIONS, codec, client.idempotent, ends)

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
                elif not DUMPED.match(line):
                    raise check.Violation(f"it says: {line.decode(errors='replace').rstrip()}")
        return records


# All that the dump tool says of sound files; whatever else it says is a complaint.
DUMPED = re.compile(
    rb"Dumping /|Log starting offset: \d+$|baseOffset: \d+ .* isvalid: true$"
    rb"|offset: \d+ position: \d+ *$|timestamp: \d+ offset: \d+ *$")


def keyed_records(count):
    """The records that every client sends. Each value alone is worth compressing, so that a
    client which sends small batches uncompressed where that is smaller has no reason to."""
    words = random.Random(20260101)
    return [(b"key-%03d" % words.randrange(KEYS), b"%08d" % i + b" qanat" * words.randrange(12, 24))
            for i in range(count)]


if __name__ == "__main__":
    main()
