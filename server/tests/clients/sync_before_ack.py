#!/usr/bin/env python3
"""The kernel's view of a run: no answer to a produce with acks=all left before a sync that covers it.

    python3 server/tests/clients/sync_before_ack.py [--seconds N]

A killed process leaves its page cache behind, so no kill shows what a power cut would take. This
does: the kernel traces the server's system calls and its rings' operations while load generators
produce, each on one connection to a topic of one partition, with one to sixteen requests in flight.
Then the trace is held, in its order, against the journals as they are found (engine/FORMAT.md):

    answers that a connection has begun to send <= batches of its partition that are durable

A batch is durable once the journal's entry that carries it had been written before an fsync of the
journal was submitted that has completed without an error. The programs are $KARIZ and
$KARIZ_LOADGEN. Needs root and tracefs; without, it ends with status 77. Ends with a line
`N passed, N failed`.
"""

import argparse
import base64
import collections
import json
import os
import pathlib
import re
import struct
import subprocess
import time

import broker
import check
import kill_rounds
import tally

TRACING = pathlib.Path("/sys/kernel/tracing")
BUFFER_KIB = 128 << 10  # for each CPU; some 300 bytes an event, ten events a request
# Requests in flight of each load; one at a time is what shows a wrong order best.
DEPTHS = [1, 1, 4, 16]
# Groups stay below what is synced in its own file (256 KiB), all entries below a journal (64 MiB).
RATE, BATCH_RECORDS, RECORD_BYTES = "1kreq/s", 3, 100
SENDS = ["sendto", "sendmsg", "write", "writev", "sendfile64"]
WRITES = ["pwritev", "pwritev2", "pwrite64"]
# What a ring may do unheeded: none of it writes a journal or sends an answer.
UNHEEDED = {"READ", "RECV", "POLL_ADD", "ASYNC_CANCEL", "TIMEOUT", "NOP"}
LINE = re.compile(r".*-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (.*)")
# Numbers below ten come without the 0x.
ENTER = re.compile(r"sys_(\w+)\(\w+: (?:0x)?([0-9a-f]+)(?:.*\bpos(?:_l)?: (?:0x)?([0-9a-f]+))?")
EXIT = re.compile(r"sys_(\w+) -> (?:0x)?([0-9a-f]+)")
RING = re.compile(r"io_uring_(\w+): ring (\S+), req \S+, user_data (\w+), (?:opcode|fd|result) ([-\w]+)")
# Of a journal's entry: magic, CRC, journal, sequence, bytes of its items, their number. Of an item:
# topic, partition, kind, leader epoch, base and end offset, segment, position, bytes that follow.
ENTRY, ITEM, SECTOR_BYTES = struct.Struct(">4sIQQII"), struct.Struct(">16siB3xiqqqII"), 512


def main():
    options = argparse.ArgumentParser(description="Traces that a sync comes before each answer.")
    options.add_argument("--seconds", type=float, default=3)
    chosen = options.parse_args()
    counted = tally.Tally(True)
    with broker.Kariz(counted.work) as server:
        counted.broker = server
        counted.check("sync before ack", trace_load, server, counted.work, chosen.seconds)
    counted.finish()


def trace_load(server, work, seconds):
    with Trace(server.process.pid) as trace:
        loads = [Load(server, work, number, depth, seconds) for number, depth in enumerate(DEPTHS)]
        time.sleep(seconds / 2)
        snapshot, files = time.monotonic(), descriptors(server.process.pid)
        peers = {load: peer_descriptors(files, load.process.pid) for load in loads}
        for load in loads:
            load.wait()
        events = trace.events()
    server.stop()
    entries = {fd: journal(pathlib.Path(path).read_bytes())
               for fd, path in files.items() if path.endswith("/kariz.journal")}
    topics, answer_bytes = {}, {}
    for load in loads:
        # Of its connections at that time, the one that carried the load.
        opens = [max((e.fd for e in events if e.kind == "open" and e.fd[0] == fd and e.fd[1] <= snapshot),
                     default=(fd, 0)) for fd in peers[load]]
        sent = {c: sum(e.result for e in events if e.kind == "send" and e.fd == c) for c in opens}
        connection, answers = max(sent, key=sent.get, default=None), load.answers()
        if not answers or not sent or sent[connection] % answers:
            raise check.Violation(f"{load.topic}: {answers} answers, bytes on its connections: {sent}")
        topics[connection], answer_bytes[connection] = topic_id(server.data, load.topic), sent[connection] // answers
    syncs, answers = covered(events, entries, topics, answer_bytes)
    print(f"       {answers} answers on {len(topics)} connections, each behind one of {syncs} syncs of "
          f"{len(entries)} journals", flush=True)


Event = collections.namedtuple("Event", "kind fd key result")
# open    fd: (descriptor, when)
# write   fd: descriptor          key: position in the file
# sync    fd: descriptor          key: (ring, number)
# synced                          key: (ring, number)         result: 0 or an error
# send    fd: as of `open`                                    result: bytes


def covered(events, entries, topics, answer_bytes):
    """Walks a trace, and raises a violation at the first answer that left too early. Returns the
    numbers of syncs and of answers. `entries`: of each journal's descriptor, by position, what
    each entry says: [(topic, end offset)]. `topics` and `answer_bytes`: of each connection."""
    # Where a journal came round, or its zeros were written first, what was found came last.
    last = {(e.fd, e.key): i for i, e in enumerate(events) if e.kind == "write" and e.key in entries.get(e.fd, ())}
    written = collections.defaultdict(list)
    durable, out, done = collections.Counter(), collections.Counter(), collections.Counter()
    covers, syncs = {}, 0
    for index, event in enumerate(events):
        if event.kind == "write" and last.get((event.fd, event.key)) == index:
            written[event.fd] += entries[event.fd][event.key]
        elif event.kind == "sync" and event.fd in entries:
            covers[event.key] = event.fd, len(written[event.fd])
        elif event.kind == "synced" and event.key in covers:
            fd, count = covers.pop(event.key)
            if event.result == 0:
                syncs += 1
                for topic, end in written[fd][done[fd]:count]:
                    durable[topic] = max(durable[topic], end)
                done[fd] = max(done[fd], count)
        elif event.kind == "send" and event.fd in topics:
            out[event.fd] += event.result
            answers = -(-out[event.fd] // answer_bytes[event.fd])
            batches = durable[topics[event.fd]] // BATCH_RECORDS
            if answers > batches:
                raise check.Violation(f"connection {event.fd}: answer {answers} left when {batches} batches were "
                                      f"durable, after {syncs} syncs")
    return syncs, sum(out[c] // answer_bytes[c] for c in topics)


class Trace:
    """What the kernel notes of one process, in an instance of tracefs of its own."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        if not (TRACING / "instances").is_dir():
            subprocess.run(["mount", "-t", "tracefs", "nodev", TRACING], stderr=subprocess.PIPE)
        if os.geteuid() != 0 or not (TRACING / "events/io_uring").is_dir():
            tally.cannot_run(f"it needs root, and tracefs with io_uring and syscall events at {TRACING}")
        self.at = TRACING / f"instances/kariz-{os.getpid()}"
        self.at.mkdir()
        self.set("trace_clock", "mono")
        self.set("buffer_size_kb", BUFFER_KIB)
        threads = " || ".join(f"common_pid == {t.name}" for t in pathlib.Path(f"/proc/{self.pid}/task").iterdir())
        for call in [*SENDS, *WRITES, "accept4"]:
            for edge in ["enter", "exit"]:
                self.set(f"events/syscalls/sys_{edge}_{call}/filter", threads)
                self.set(f"events/syscalls/sys_{edge}_{call}/enable", 1)
        self.set("events/io_uring/io_uring_submit_req/filter", threads)
        for event in ["submit_req", "file_get", "complete"]:  # of these some come from a ring's workers
            self.set(f"events/io_uring/io_uring_{event}/enable", 1)
        return self

    def __exit__(self, *_):
        self.at.rmdir()

    def set(self, file, value):
        (self.at / file).write_text(str(value))

    def events(self):
        self.set("tracing_on", 0)
        lost = [line for cpu in self.at.glob("per_cpu/cpu*/stats") for line in cpu.read_text().splitlines()
                if re.match(r"(overrun|dropped events): [1-9]", line)]
        if lost:
            raise check.Violation(f"the kernel dropped events: {lost}")
        with open(self.at / "trace") as lines:
            return parse(lines)


def parse(lines):
    """The events of a trace, in its order; a send counts from when it begins."""
    events, open_call, opened, syncs = [], {}, {}, {}
    for line in lines:
        found = LINE.match(line)
        if not found:
            continue
        thread, at, what = found[1], float(found[2]), found[3]
        if ring := RING.match(what):
            key = ring[2], ring[3]
            if ring[1] == "submit_req" and ring[4] == "FSYNC":
                syncs[key] = len(events)
                events.append(Event("sync", None, key, None))
            elif ring[1] == "submit_req" and ring[4] not in UNHEEDED:
                raise check.Violation(f"what the ring does cannot be judged: {line}")
            elif ring[1] == "file_get" and key in syncs:
                events[syncs[key]] = Event("sync", int(ring[4]), key, None)
            elif ring[1] == "complete" and syncs.pop(key, None) is not None:
                events.append(Event("synced", None, key, int(ring[4])))
        elif call := ENTER.match(what):
            open_call[thread] = len(events), call
            if call[1] in SENDS:
                fd = int(call[2], 16)
                events.append(Event("send", (fd, opened.get(fd, 0)), None, 0))
        elif (done := EXIT.match(what)) and thread in open_call:
            begun, call = open_call.pop(thread)
            result = int(done[2], 16)
            if result >> 63:
                continue  # an error
            if call[1] in SENDS:
                events[begun] = events[begun]._replace(result=result)
            elif call[1] == "accept4":
                opened[result] = at
                events.append(Event("open", (result, at), None, None))
            else:
                events.append(Event("write", int(call[2], 16), int(call[3], 16), result))
    return events


class Load:
    """A load generator with a topic and a connection of its own."""

    def __init__(self, server, work, number, depth, seconds):
        self.topic, self.out, self.log = f"traced-{number}", work / f"out-{number}", work / f"load-{number}.log"
        words = ["produce", "-b", server.bootstrap, "-t", self.topic, "-c", 1, "-p", 1, "--depth", depth,
                 "--acks", "all", "--rate", RATE, "--batch-records", BATCH_RECORDS, "--record-size", RECORD_BYTES,
                 "-d", f"{seconds}s", "--warm-up", "off", "--sleep", "--quiet", "--out", self.out]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([kill_rounds.LOADGEN, *map(str, words)], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def wait(self):
        if self.process.wait(kill_rounds.LOAD_SECONDS) not in (0, 14):  # 14: a busy machine
            raise check.Violation(f"{self.topic}: {self.log.read_text()[-2000:]}")

    def answers(self):
        phase, = json.loads((self.out / "result.json").read_text())["phases"]
        return phase["counts"]["records"] // BATCH_RECORDS


def descriptors(pid):
    return {int(fd.name): os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir()}


def peer_descriptors(files, pid):
    """Those of `files` that are the other ends of the connections of process `pid`."""
    rows = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    theirs = set(descriptors(pid).values())
    ends = {(row[2], row[1]) for row in rows if f"socket:[{row[9]}]" in theirs}
    ours = {f"socket:[{row[9]}]" for row in rows if (row[1], row[2]) in ends}
    return [fd for fd, path in files.items() if path in ours]


def topic_id(data, topic):
    path, = data.glob(f"broker-*/{topic}-0/partition.metadata")
    return base64.urlsafe_b64decode(re.search(r"topic_id: (\S+)", path.read_text())[1] + "==")


def journal(found):
    """The entries of a journal: by position, [(topic, end offset)] of the bytes that each carries."""
    entries = {}
    for at in range(0, len(found) - ENTRY.size, SECTOR_BYTES):
        if found[at:at + 4] == b"KZJE":
            length, item = ENTRY.unpack_from(found, at)[4], at + ENTRY.size
            entries[at] = []
            while item + ITEM.size <= at + ENTRY.size + length:
                topic, _, kind, _, _, end, _, _, count = ITEM.unpack_from(found, item)
                if kind == 0:
                    entries[at].append((topic, end))
                item += ITEM.size + count
    return entries


if __name__ == "__main__":
    main()
