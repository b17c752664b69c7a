#!/usr/bin/env python3
"""A disk that really is full: an ext4 file system of 256 MiB, filled to the last block by producing.

    python3 server/tests/clients/full_disk.py [--fail-fast]

Produce is refused with KAFKA_STORAGE_ERROR and the log says why; fetch goes on; with room it takes
records again, also if it was killed before. Whatever happens, each partition holds exactly what was
acknowledged: nothing is lost, and nothing that was refused appears. The program is $KARIZ. Needs
root, to mount an image; without, it ends with status 77. Ends with a line `N passed, N failed`.
"""

import argparse
import contextlib
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import time

import broker
import check
import kill
import tally

IMAGE_BYTES, FILLER_BYTES = 256 << 20, 10 << 20
FREE_BYTES = 16 << 20
JOURNAL_BYTES = 64 << 20  # each core's, once it has grown
TOPIC, PARTITIONS = "filled", 2  # one on each core
NONE, KAFKA_STORAGE_ERROR = 0, 56
PRODUCE, FETCH, LIST_OFFSETS, METADATA, CREATE_TOPICS = 0, 1, 2, 3, 19
FETCH_BYTES = 8 << 20
ROOM_SECONDS = 20


def main():
    options = argparse.ArgumentParser(description="A disk that really is full.")
    options.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    counted = tally.Tally(options.parse_args().fail_fast)
    server = broker.Kariz(counted.work, f"127.0.0.1:{kill.two_free_ports()}")
    server.data = counted.work / "disk/data"
    counted.broker = server
    with small_disk(counted.work), server:
        disk = Disk(server)
        counted.check("create", disk.create)
        for number, kills in enumerate([False, True, False]):
            counted.check(f"full {number}", disk.fill)
            if kills:
                counted.check("killed", disk.kill)
            counted.check(f"room {number}", disk.make_room)
        counted.check("stop", server.stop)
        counted.check("kariz check", server.verify)
        server.start()
        counted.check("read again", disk.read)
        counted.check("stop again", server.stop)
    counted.finish()


@contextlib.contextmanager
def small_disk(work):
    """Mounts a file system of its own at `work`/disk."""
    at, image = work / "disk", work / "image"
    at.mkdir()
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, at], check=False).returncode:
        tally.cannot_run("it needs root, and loop devices")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def allocate(path, length):
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, length)


class Disk:
    """What was acknowledged, and the files that take room."""

    def __init__(self, server):
        self.server = server
        self.fillers = [server.data.parent / f"filler-{i}" for i in range(4)]
        self.acked = [[] for _ in range(PARTITIONS)]  # the values, by offset
        self.chance = random.Random(1)

    def create(self):
        name = string(TOPIC)
        body = struct.pack(">i", 1) + name + struct.pack(">ihiiib", PARTITIONS, 1, 0, 0, 30_000, 0)
        answer = call(self.server.bootstrap, CREATE_TOPICS, 2, body)
        code, = struct.unpack_from(">h", answer, 8 + len(name))
        if code != NONE:
            raise check.Violation(f"creating the topic: error {code}")
        # What a journal still takes would be somebody else's room.
        deadline = time.monotonic() + ROOM_SECONDS
        while sorted(f.stat().st_size for f in self.server.data.glob("broker-*/kariz.journal")) != 2 * [JOURNAL_BYTES]:
            if time.monotonic() > deadline:
                raise check.Violation(f"the journals have not grown to {JOURNAL_BYTES} bytes")
            time.sleep(0.01)
        for filler in self.fillers:
            allocate(filler, FILLER_BYTES)
        allocate(self.server.data.parent / "ballast", shutil.disk_usage(self.server.data).free - FREE_BYTES)

    def fill(self):
        """Writes until each partition has refused ten small batches, one after the other."""
        said = self.server.log.stat().st_size
        for partition, leader in enumerate(self.leaders()):
            for size in [1 << 18, 1 << 15, 1 << 12]:
                refused = 0
                while refused < 10:
                    code = self.produce(leader, partition, size)
                    refused = refused + 1 if code == KAFKA_STORAGE_ERROR else 0
        with open(self.server.log) as log:
            log.seek(said)
            said = log.read()
        for partition in range(PARTITIONS):
            if not any("refused" in line and "No space left" in line and f"{TOPIC}-{partition}" in line
                       for line in said.splitlines()):
                raise check.Violation(f"the log does not say why {TOPIC}-{partition} takes nothing:\n{said}")
        self.read()

    def kill(self):
        """A start needs a little room itself: without, it says so, and no harm is done."""
        self.server.kill()
        said = self.server.log.stat().st_size
        with open(self.server.log, "ab") as log:
            process = subprocess.Popen(self.server.command(), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, stderr=log)
        is_ready = process.stdout.readline() != b""
        process.kill()
        status = process.wait()
        if not is_ready and (status != 1 or b"No space left" not in self.server.log.read_bytes()[said:]):
            raise check.Violation(f"a start without room ended with status {status}, and did not say why")
        print("       without room it", "starts" if is_ready else "refuses to start", flush=True)
        self.fillers.pop().unlink()
        self.server.start()

    def make_room(self):
        """With a filler gone, each partition takes records again, by itself."""
        self.fillers.pop().unlink()
        deadline = time.monotonic() + ROOM_SECONDS
        for partition, leader in enumerate(self.leaders()):
            for _ in range(20):
                while self.produce(leader, partition, 1 << 14) != NONE:
                    if time.monotonic() > deadline:
                        left = shutil.disk_usage(self.server.data).free
                        raise check.Violation(f"partition {partition} takes nothing {ROOM_SECONDS} s after there was "
                                              f"room; now {left} bytes are free")
                    time.sleep(0.01)
        self.read()

    def produce(self, leader, partition, size):
        """One record of so many bytes with acks=all; returns the error code."""
        value = self.chance.randbytes(size)
        records = batch(value)
        body = struct.pack(">hhii", -1, -1, 30_000, 1) + string(TOPIC) + struct.pack(">iii", 1, partition, len(records))
        answer = call(leader, PRODUCE, 3, body + records)
        code, base = struct.unpack_from(">hq", answer, 4 + len(string(TOPIC)) + 8)
        if code not in (NONE, KAFKA_STORAGE_ERROR):
            raise check.Violation(f"produce to partition {partition}: error {code}")
        if code == NONE:
            if base != len(self.acked[partition]):
                raise check.Violation(f"partition {partition}: offset {base}, expected {len(self.acked[partition])}")
            self.acked[partition].append(value)
        return code

    def read(self):
        """Each partition holds what was acknowledged, and nothing else."""
        for partition, leader in enumerate(self.leaders()):
            expected, offset = self.acked[partition], 0
            for base, value in fetch(leader, partition):
                if base != offset or offset >= len(expected) or value != expected[offset]:
                    raise check.Violation(f"partition {partition} offset {base}: not what was acknowledged at {offset}")
                offset += 1
            if offset != len(expected):
                raise check.Violation(f"partition {partition}: {offset} records of {len(expected)}")

    def leaders(self):
        """The address of each partition's leader."""
        answer = Fields(call(self.server.bootstrap, METADATA, 1, struct.pack(">i", 1) + string(TOPIC)))
        nodes = {}
        for _ in range(answer.take(">i")):
            node, host, port = answer.take(">i"), answer.string(), answer.take(">i")
            nodes[node], _rack = f"{host}:{port}", answer.string()
        answer.take(">i")  # the controller
        leaders = [None] * PARTITIONS
        for _ in range(answer.take(">i")):
            code, _name, _internal = answer.take(">h"), answer.string(), answer.take(">b")
            for _ in range(answer.take(">i")):
                code, partition, leader = answer.take(">h"), answer.take(">i"), answer.take(">i")
                for _ in range(2):  # replicas, and those in sync
                    for _ in range(answer.take(">i")):
                        answer.take(">i")
                if code != NONE:
                    raise check.Violation(f"partition {partition}: error {code}")
                leaders[partition] = nodes[leader]
        return leaders


def fetch(leader, partition):
    """Yields (offset, value) of a partition from offset 0 to its high watermark."""
    offset = 0
    while True:
        body = struct.pack(">iiiibi", -1, 0, 1, FETCH_BYTES, 0, 1) + string(TOPIC)
        answer = Fields(call(leader, FETCH, 4, body + struct.pack(">iiqi", 1, partition, offset, FETCH_BYTES)))
        answer.take(">ii")  # throttle time, topics
        answer.string()
        _one, _partition, code, high, _stable, aborted, length = answer.take(">iihqqii")
        if code != NONE or aborted > 0:
            raise check.Violation(f"fetch of partition {partition} from {offset}: error {code}")
        records = answer.rest[:length]
        if not records:
            if offset != high:
                raise check.Violation(f"partition {partition}: nothing at {offset}, the high watermark is {high}")
            return
        at = 0
        while at + check.HEADER.size < len(records):
            base, size = struct.unpack_from(">qi", records, at)
            end = at + check.UNCOUNTED + size
            if end > len(records):
                break  # cut off by the limit
            yield base, value_of(records[at + check.HEADER.size:end])
            at, offset = end, base + 1


class Fields:
    """What is left of an answer."""

    def __init__(self, rest):
        self.rest = rest

    def take(self, form):
        found = struct.unpack_from(form, self.rest)
        self.rest = self.rest[struct.calcsize(form):]
        return found[0] if len(found) == 1 else found

    def string(self):
        length = max(self.take(">h"), 0)
        text, self.rest = self.rest[:length], self.rest[length:]
        return text.decode()


CONNECTIONS = {}


def call(address, api, version, body):
    """One request and its answer, on a connection that is kept while the server lives."""
    host, port = address.rsplit(":", 1)
    request = struct.pack(">hhih", api, version, 1, -1) + body
    for attempt in range(2):
        try:
            if address not in CONNECTIONS:
                CONNECTIONS[address] = socket.create_connection((host, int(port)), 60)
            CONNECTIONS[address].sendall(struct.pack(">i", len(request)) + request)
            length, _correlation = struct.unpack(">ii", exactly(CONNECTIONS[address], 8))
            return exactly(CONNECTIONS[address], length - 4)
        except (ConnectionError, EOFError):
            # It was of a server that has been killed since; a second time it is an error.
            CONNECTIONS.pop(address).close()
            if attempt == 1:
                raise check.Violation(f"{address} closed the connection on API {api}") from None


def exactly(connection, length):
    parts = []
    while length:
        part = connection.recv(min(length, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def string(text):
    return struct.pack(">h", len(text)) + text.encode()


def varint(number):
    """A positive number, in Kafka's zigzag varints."""
    number, out = number << 1, b""
    while number > 0x7f:
        out, number = out + bytes([number & 0x7f | 0x80]), number >> 7
    return out + bytes([number])


def batch(value):
    """A batch of one record without a key."""
    record = b"\0\0\0\1" + varint(len(value)) + value + b"\0"
    record = varint(len(record)) + record
    body = struct.pack(">hiqqqhii", 0, 0, 0, 0, -1, -1, -1, 1) + record
    return struct.pack(">qiibI", 0, len(body) + 9, -1, 2, crc32c(body)) + body


def value_of(record):
    """The value of the one record that `batch` makes."""
    rest = memoryview(record)
    for field in range(6):  # length, attributes, both deltas, no key, the value's length
        number = shift = 0
        while True:
            byte, rest = rest[0], rest[1:]
            number, shift = number | (byte & 0x7f) << shift, shift + 7
            if byte < 0x80:
                break
    return bytes(rest[:number >> 1])


def crc_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC = list(crc_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


if __name__ == "__main__":
    main()
