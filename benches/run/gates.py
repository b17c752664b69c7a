#!/usr/bin/env python3
"""Measures Kariz against its yardsticks, in turns, and writes a directory of results.

    benches/run/gates.py --host NAME [--rows ROW,...] [--rounds 5] [--kafka DIR]

Server on core 0, load on core 1. Every measurement has a fresh server and directory and warms up
with as much as it then measures. A row is measured twice: in a closed loop, and at 60 % of the
yardstick's rate (if that is `bare`) for the server's CPU time a request; the smaller share counts.
Rounds go A B, B A, A B, ...; a round counts if the two cores were as near to each other all
through it.

Rows named kafka-... need --kafka DIR, where kafka-peer.sh keeps Apache Kafka's programs. Needs
the release binaries: cargo build --release --workspace. Directories count from the top of the
tree. The row `idle` drops the page cache, as root.
"""

import argparse
import collections
import datetime
import json
import os
import pathlib
import re
import selectors
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
import urllib.request

TOP = pathlib.Path(__file__).resolve().parents[2]
# And the next one for Kafka's controller, the one after it for Kariz's metrics.
PORT = 27092
METRICS = f"127.0.0.1:{PORT + 2}"
SERVER_CORE, LOAD_CORE = "0", "1"
# Above this round trip between the two cores they are far from each other.
FAR_NS = 200
# A rate that both sides can hold, so that their cost is compared and not where they saturate.
PACED = 0.6
# Consumers that wait while a server is idle; what is on disk when it starts again, and how often.
IDLE_CONSUMERS = 100
RESTART_BYTES = "5GB"
RESTARTS = 3
# What the JVM needs to have compiled what it runs.
KAFKA_WARM_UP = "60s"


class Failed(Exception):
    """Something could not be measured."""


# --- Servers ---------------------------------------------------------------------------------


class Server:
    """A kind of server: how it is started, on an empty directory, and what it is called."""

    name = warm_up = None
    ready = r"bootstrap=(?P<address>\S+).* pid=(?P<pid>\d+)"

    def start(self, options, keep=False):
        self.data = options.data / self.name
        if not keep:
            shutil.rmtree(self.data, ignore_errors=True)
        self.log = open(options.data / f"{self.name}.log", "a")
        began = time.monotonic()
        self.process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *map(str, self.argv(options))], text=True,
            stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, **self.env()})
        line = self.process.stdout.readline()
        self.start_s = time.monotonic() - began
        found = re.search(self.ready, line)
        if not found:
            self.process.kill()
            raise Failed(f"{self.name} is not ready: {line!r}; see {self.log.name}")
        self.address = found.groupdict().get("address", f"127.0.0.1:{PORT}")
        self.pid = int(found["pid"])
        return self

    def env(self):
        return {}

    def stop(self, how=signal.SIGTERM, keep=False):
        os.kill(self.pid, how)
        self.process.wait(timeout=60)
        # Kafka is not our child: its script started it and ended.
        while self.status("State") not in (None, "Z (zombie)"):
            time.sleep(0.05)
        # The kernel closes what an io_uring held some time after its process has ended.
        while not is_free(self.address):
            time.sleep(0.05)
        self.process.stdout.close()
        self.log.close()
        if not keep:
            shutil.rmtree(self.data, ignore_errors=True)

    def status(self, field):
        try:
            text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return re.search(rf"^{field}:\s*(.*)$", text, re.M)[1]

    def cpu_s(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_free(address):
    host, port = address.split(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


class Bare(Server):
    """The ceiling; `flags` say which."""

    name, ready = "bare", r"ready (?P<address>\S+) pid=(?P<pid>\d+)"

    def __init__(self, *flags):
        self.flags = flags

    def argv(self, options):
        # It removes nothing while it is measured, as the others: a file's pages are cheaper when
        # another file has just given them back.
        return [options.bin / "bare", "--core", SERVER_CORE, "--listen", f"127.0.0.1:{PORT}",
                "--data", self.data, "--keep-bytes", 1 << 40, *self.flags]


class Kariz(Server):
    name = "kariz"

    def argv(self, options):
        return [options.bin / "kariz", "serve", "--cores", SERVER_CORE, "--data", self.data,
                "--listen", f"127.0.0.1:{PORT}", "--metrics", METRICS]

    def lags(self):
        """How many commits' groups were durable within so many seconds of their first write."""
        with urllib.request.urlopen(f"http://{METRICS}/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(r'^kariz_high_watermark_lag_seconds_bucket\{.*le="([^"]+)"\} (\d+)$',
                           text, re.M)
        return {float(bound): int(below) for bound, below in found}


def lag_p99_ms(before, after):
    """The histogram tells powers of two apart; between them as Prometheus has it, in proportion."""
    within = [(bound, below - before.get(bound, 0)) for bound, below in sorted(after.items())]
    rank, low, fewer = 0.99 * within[-1][1], 0, 0
    for bound, below in within:
        if below and below >= rank:
            return round(1e3 * (low + (bound - low) * (rank - fewer) / (below - fewer)), 1)
        low, fewer = bound, below
    return None


class Kafka(Server):
    name, ready, warm_up = "kafka", r"^(?P<pid>\d+)$", KAFKA_WARM_UP

    def argv(self, options):
        if not options.kafka:
            raise Failed("rows named kafka-... need --kafka DIR")
        return [pathlib.Path(__file__).with_name("kafka-peer.sh"), options.kafka, PORT]

    def env(self):
        return {"KAFKA_CPUS": SERVER_CORE, "KAFKA_DATA": str(self.data)}


# --- Rows ------------------------------------------------------------------------------------


class Row:
    """A workload on Kariz and on its yardstick, and the number that is compared."""

    def __init__(self, name, says, yardstick, load, metric="requests_per_s", cached=False,
                 durable=False):
        self.name, self.says, self.yardstick, self.metric = name, says, yardstick, metric
        self.load = [str(flag) for flag in load]
        self.cached, self.durable = cached, durable

    def topic_config(self, server):
        """The row's contract as that server calls it."""
        config = []
        if self.cached and isinstance(server, Kariz):
            config.append("write.caching=true")
        if self.durable and isinstance(server, Kafka):
            config.append("flush.messages=1")
        return [flag for pair in config for flag in ("--topic-config", pair)]


def produce(record_bytes, batch_records, connections, depth, acks, partitions=1):
    return ["--record-size", record_bytes, "--batch-records", batch_records, "--connections",
            connections, "--depth", depth, "--acks", acks, "--partitions", partitions]


FETCH_BYTES = 1 << 20


def fetch():
    return ["--fetch-bytes", FETCH_BYTES, *produce(1024, 16, 16, 2, 1, 16)]


# `bare` sends from a file as long as the logs together, appended to in pieces as they are: of what
# comes in one turn, two batches of the row's load. Larger pieces lie in fewer, larger parts in the
# page cache, and cost less to send; what they would save is the row `fetch-whole`.
SEND_FILE, APPENDED_BYTES = ("--send-file", "--file-bytes", 2_000_000_000), 33_178

# What `bare` receives in one turn of 64 of its buffers is no longer in the CPU's cache when it is
# written: with a quarter it takes in a tenth more of large batches, and 3 % less of small ones.
FEW_BUFFERS = ("--buffers", 16)

SMALL, BATCH, LARGE = (100, 1, 64, 16), (100, 64, 64, 16), (1024, 16, 64, 16)

ROWS = [
    Row("small", "acks=1, write.caching, 100 B x 1", Bare(), produce(*SMALL, 1), cached=True),
    Row("large", "acks=1, write.caching, 1 KiB x 16", Bare(*FEW_BUFFERS), produce(*LARGE, 1),
        cached=True),
    Row("fetch", "fetch, 1 MiB a request", Bare(*SEND_FILE, "--append-bytes", APPENDED_BYTES),
        fetch(), "bytes_per_s", cached=True),
    Row("fetch-whole", "fetch, 1 MiB a request, of a file written in such pieces",
        Bare(*SEND_FILE), fetch(), "bytes_per_s", cached=True),
    Row("small-flushed", "acks=1, default contract, 100 B x 1", Bare("--flush"),
        produce(*SMALL, 1), durable=True),
    Row("large-flushed", "acks=1, default contract, 1 KiB x 16", Bare("--flush", *FEW_BUFFERS),
        produce(*LARGE, 1), durable=True),
    *(Row(f"alone-{n}", f"acks=all, 1 KiB, one in flight, {n} connections with a partition each",
          Bare("--flush", "--partitions", n), produce(1024, 1, n, 1, "all", n), "p50_ns",
          durable=True)
      for n in (1, 16, 64)),
    Row("kafka-small", "acks=1, page cache, 100 B x 1", Kafka(), produce(*SMALL, 1), cached=True),
    Row("kafka-batch", "acks=1, page cache, 100 B x 64", Kafka(), produce(*BATCH, 1), cached=True),
    Row("kafka-large", "acks=1, page cache, 1 KiB x 16", Kafka(), produce(*LARGE, 1), cached=True),
    Row("kafka-durable-small", "acks=all, flush.messages=1, 100 B x 1, 16 connections", Kafka(),
        produce(100, 1, 16, 1, "all"), durable=True),
    Row("kafka-durable-large", "acks=all, flush.messages=1, 1 KiB x 16", Kafka(),
        produce(*LARGE, "all"), durable=True),
    Row("kafka-fetch", "fetch, 1 MiB a request", Kafka(), fetch(), "bytes_per_s", cached=True),
]

# Where a phase's numbers are, and whether more is better.
METRICS_OF = {
    "requests_per_s": (lambda p: p["requests_per_s"], True),
    "bytes_per_s": (lambda p: p["bytes_per_s"], True),
    "p50_ns": (lambda p: p["response"]["p50_ns"], False),
    # Of the server, for each request, or when fetching for each MiB.
    "cpu_ns": (lambda p: p["cpu_ns"], False),
}


# --- Measuring -------------------------------------------------------------------------------


def load(options, server, mode, out, flags):
    """Runs the load generator once. Returns its last phase, with what it cost the server."""
    argv = ["taskset", "-c", LOAD_CORE, options.bin / "kariz-loadgen", mode, "--quiet",
            "--brokers", server.address, "--server-pid", server.pid, "--cores", LOAD_CORE,
            "--server-cores", SERVER_CORE, "--verify", "off", "--out", out, *flags]
    if isinstance(server, Bare):
        argv.append("--raw")
    done = subprocess.run([str(a) for a in argv], capture_output=True, text=True)
    # 14: it says itself why its numbers are worth little, and so does the summary.
    if done.returncode not in (0, 14):
        raise Failed(f"{' '.join(map(str, argv))}\n{done.stdout[-1000:]}{done.stderr[-1000:]}")
    result = json.loads((out / "result.json").read_text())
    phase = result["phases"][-1]
    counts = phase["counts"]
    # A fetch's unit of work is a byte, for how many come in an answer is the server's choice.
    unit = counts["bytes"] / 2**20 if "fetch" in phase["kind"] else counts["requests"]
    phase["cpu_ns"] = phase["resources"]["server_cpu_ns"] / unit
    phase["invalid"] += result["invalid"]
    placement = result["placement"]
    phase["ping_pong_ns"] = [placement[when]["core_to_core_rtt_ns"] for when in ("before", "after")]
    return phase


def measure(options, out, row, server, rate=None):
    """A fresh server, warmed up, under the row's load: the phase that counts, in short."""
    scratch = options.data / "warm-up"
    ends = ["--duration", f"{options.seconds}s"]
    server.start(options)
    lag = None
    try:
        config = row.topic_config(server)
        pace = ["--rate", f"{rate:.0f}req/s"] if rate else []
        if row.metric == "bytes_per_s":
            if not isinstance(server, Bare):
                written = ["--bytes", options.bytes, *row.load, *config]
                load(options, server, "produce", scratch, ["--topic", "load", *written])
                # What a server still writes back is no part of what a fetch costs.
                os.sync()
                if server.warm_up:
                    warm = ["--topic", "load", "--duration", server.warm_up, *row.load]
                    load(options, server, "fetch", scratch, warm)
            flags = ["--topic", "load", *row.load]
            load(options, server, "fetch", scratch, [*flags, "--duration", "3s"])
            phase = load(options, server, "fetch", out, [*flags, "--duration", "5s", *pace])
        else:
            flags = [*row.load, "--bytes", options.bytes, *ends, *pace]
            warm = [*row.load, "--duration", server.warm_up] if server.warm_up else flags
            load(options, server, "produce", scratch, ["--topic", "warm-up", *warm, *config])
            before = server.lags() if isinstance(server, Kariz) else {}
            phase = load(options, server, "produce", out, ["--topic", "load", *flags, *config])
            lag = lag_p99_ms(before, server.lags()) if isinstance(server, Kariz) else None
        rss = server.status("VmRSS")
    finally:
        server.stop()
    short = {name: of(phase) for name, (of, _) in METRICS_OF.items()}
    short |= {key: phase[key] for key in ("records_per_s", "ping_pong_ns", "notes", "invalid")}
    return short | {"rss": rss, "lag_p99_ms": lag, "loadavg": os.getloadavg()[0]}


def rounds(options, out, row, label, rate=None):
    """Both servers in turns. A round counts if the cores' placement was the same all through."""
    done = []
    for turn in range(1, options.rounds + 1):
        this = {}
        pair = [row.yardstick, Kariz()]
        for server in pair if turn % 2 else reversed(pair):
            raw = out / "raw" / f"{row.name}-{label}-{turn}-{server.name}"
            this[server.name] = measure(options, raw, row, server, rate)
            shown = {key: round(this[server.name][key]) for key in METRICS_OF}
            print(f"  {label} {turn} {server.name:6}", shown, flush=True)
        trips = [ns for one in this.values() for ns in one["ping_pong_ns"] if ns]
        # Near the limit the same place can be measured on either side of it.
        moved = min(trips) <= FAR_NS < max(trips) and max(trips) > 1.5 * min(trips)
        done.append(this | {"counts": not moved})
    return done


def compare(done, metric, row):
    """The medians (yardstick, Kariz), and the share: above 1, Kariz is better. `None` if no round
    counts."""
    counting = [r for r in done if r["counts"]]
    if not counting:
        return None, None
    medians = [statistics.median(r[name][metric] for r in counting)
               for name in (row.yardstick.name, "kariz")]
    more_is_better = METRICS_OF[metric][1]
    return medians, medians[1] / medians[0] if more_is_better else medians[0] / medians[1]


def measure_row(options, out, row):
    closed = rounds(options, out, row, "closed")
    medians, share = compare(closed, row.metric, row)
    entry = {"says": row.says, "yardstick": row.yardstick.name, "metric": row.metric,
             "closed": closed, "medians": medians, "share": share}
    if row.metric == "p50_ns" or not share:
        return entry
    paced = closed
    # Not against Kafka, whose rate is what is compared.
    if isinstance(row.yardstick, Bare):
        request = FETCH_BYTES if row.metric == "bytes_per_s" else 1
        entry["paced_rate"] = medians[0] * PACED / request
        entry["paced"] = paced = rounds(options, out, row, "paced", entry["paced_rate"])
    entry["cpu_medians"], entry["cpu_share"] = compare(paced, "cpu_ns", row)
    return entry


class Consumers:
    """Consumers that wait for records that never come: each fetches from the end of partition 0,
    for Kafka's default `fetch.max.wait.ms`, and again."""

    def __init__(self, address, topic, count):
        host, port = address.split(":")
        self.topic = topic.encode()
        self.selector = selectors.DefaultSelector()
        for _ in range(count):
            connection = socket.create_connection((host, int(port)))
            # Twice: the first answer tells where the log ends.
            end = self.fetch(connection, 0)
            self.send(connection, end)
            self.selector.register(connection, selectors.EVENT_READ, end)

    def send(self, connection, offset):
        name = struct.pack(">h", len(self.topic)) + self.topic
        body = (struct.pack(">hhih4s", 1, 4, 0, 4, b"idle")
                + struct.pack(">iiiibi", -1, 500, 1, 1 << 20, 0, 1) + name
                + struct.pack(">iiqi", 1, 0, offset, 1 << 20))
        connection.sendall(struct.pack(">i", len(body)) + body)

    def fetch(self, connection, offset):
        """The high watermark."""
        self.send(connection, offset)
        return self.answer(connection)

    def answer(self, connection):
        left = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
        frame = connection.recv(left, socket.MSG_WAITALL)
        # Correlation id, throttle, one topic, its name, one partition, its index, the error.
        error, end = struct.unpack_from(">hq", frame, 4 + 4 + 4 + 2 + len(self.topic) + 4 + 4)
        if error:
            raise Failed(f"a fetch was answered with error {error}")
        return end

    def wait(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for key, _ in self.selector.select(until - time.monotonic()):
                self.answer(key.fileobj)
                self.send(key.fileobj, key.data)

    def close(self):
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()


def measure_idle(options):
    """What a server costs that has nothing to do, and how soon it serves."""
    entry = {}
    for server in [Kariz(), Bare()] + ([Kafka()] if options.kafka else []):
        starts = []
        for _ in range(options.rounds):
            starts.append(server.start(options).start_s)
            server.stop()
        server.start(options)
        one = entry[server.name] = {"start_empty_s": starts, "rss": server.status("VmRSS")}
        if isinstance(server, Bare):
            server.stop()
            continue
        topic = ["--topic", "load", *produce(*LARGE, 1)]
        load(options, server, "produce", options.data / "warm-up", [*topic, "--bytes", "1MB"])
        consumers = Consumers(server.address, "load", IDLE_CONSUMERS)
        consumers.wait(3)
        began = server.cpu_s()
        consumers.wait(10)
        one |= {"consumers": IDLE_CONSUMERS, "cpu_percent": (server.cpu_s() - began) * 10,
                "rss_with_consumers": server.status("VmRSS")}
        consumers.close()
        server.stop()
        if isinstance(server, Kariz):
            one |= measure_restarts(options, server)
    return entry


def measure_restarts(options, server):
    """How soon a server serves that has much on its disk, after each kind of end."""
    server.start(options)
    written = ["--topic", "load", "--bytes", RESTART_BYTES, "--duration", "60s",
               *produce(*LARGE, 1, 16), "--topic-config", "write.caching=true"]
    load(options, server, "produce", options.data / "warm-up", written)
    one = {"bytes_on_disk": RESTART_BYTES, "start_after_kill_s": [],
           "start_after_kill_without_cache_s": []}
    more = ["--topic", "load", "--bytes", "500MB", *produce(*LARGE, 1, 16)]
    for after, drop in (("start_after_kill_s", False), ("start_after_kill_without_cache_s", True)):
        for _ in range(RESTARTS):
            load(options, server, "produce", options.data / "warm-up", more)
            server.stop(signal.SIGKILL, keep=True)
            if drop:
                os.sync()
                pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
            one[after].append(server.start(options, keep=True).start_s)
    server.stop(keep=True)
    one["start_after_stop_s"] = server.start(options, keep=True).start_s
    server.stop()
    return one


# --- The directory of results ----------------------------------------------------------------


def output(*argv):
    return subprocess.run(argv, capture_output=True, text=True, cwd=TOP).stdout.strip()


def read(path):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return None


# How the kernel's parameters begin that bear on speed. The others are the machine's own affair.
SPEED = ("mitigations nospec spec pti nopti kpti retbleed mds tsx l1tf mmio_stale_data srbds nohz isolcpus "
         "rcu_nocb irqaffinity threadirqs preempt nosmt maxcpus nr_cpus intel_ amd_ cpufreq cpuidle "
         "processor. idle clocksource tsc hpet transparent_hugepage hugepage numa init_on_ iommu "
         "swiotlb nvme. psi").split()


def environment(options):
    words = (read("/proc/cmdline") or "").split(" -- ")[0].split()
    cpu = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo") or "")
    source = output("findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "--target", str(options.data))
    disk = f"/sys/class/block/{pathlib.Path(source.split()[0]).name}" if source else ""
    mitigations = sorted(pathlib.Path("/sys/devices/system/cpu/vulnerabilities").glob("*"))
    return {
        "commit": output("git", "rev-parse", "HEAD"),
        "clean": not output("git", "status", "--porcelain", "--untracked-files=no"),
        "rustc": output("rustc", "--version"),
        "kernel": output("uname", "-srvm"),
        "command_line": " ".join(word for word in words if word.startswith(tuple(SPEED))),
        "cpu": cpu and cpu[1], "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "mitigations": {file.name: read(file) for file in mitigations},
        "file_system": source,
        "write_cache": read(f"{disk}/queue/write_cache"),
        "scheduler": read(f"{disk}/queue/scheduler"),
        "transparent_hugepages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "dirty_ratio": read("/proc/sys/vm/dirty_ratio"),
        "dirty_background_ratio": read("/proc/sys/vm/dirty_background_ratio"),
        "tcp_congestion_control": read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "java": output("java", "-version") if options.kafka else None,
    }


def table(summary):
    env = summary["environment"]
    yield f"# Gates\n\n`{' '.join(summary['command'])}` at {env['commit'][:12]}"
    yield "\n" if env["clean"] else " (with changes that are not committed)\n"
    yield ("\nMedians are of the yardstick and of Kariz; a share above 1 says that Kariz is better."
           " CPU is the server's, a request or a MiB fetched.\n\n"
           "| Row | Yardstick | Metric | Medians | Share | CPU, ns | Share | Smaller |\n"
           "|---|---|---|---|---|---|---|---|\n")
    for name, row in summary["rows"].items():
        if name == "idle":
            continue
        if not row.get("share"):
            yield f"| {name} | | | not measured | | | | |\n"
            continue
        medians = "{:,.0f}, {:,.0f}".format(*row["medians"])
        cpu, shares = "", [row["share"]]
        if row.get("cpu_share"):
            cpu = "{:,.0f}, {:,.0f}".format(*row["cpu_medians"])
            shares.append(row["cpu_share"])
        yield (f"| {name}: {row['says']} | {row['yardstick']} | {row['metric']} | {medians} | "
               f"{row['share']:.3f} | {cpu} | {'' if not cpu else f'{shares[1]:.3f}'} | "
               f"{min(shares):.3f} |\n")
    for name, row in summary["rows"].items():
        if name.endswith("-flushed") and "closed" in row:
            bounds = {part: [one["kariz"]["lag_p99_ms"] for one in row[part]]
                      for part in ("closed", "paced") if part in row}
            yield (f"\n{name}: the p99 of the lag of the high watermark, over commits, is "
                   f"{bounds} ms (a round each).\n")
    if idle := summary["rows"].get("idle"):
        yield f"\nIdle, and start-up:\n\n```json\n{json.dumps(idle, indent=1)}\n```\n"
    measured = [side for row in summary["rows"].values() for part in ("closed", "paced")
                for one in row.get(part, []) for side in one.values() if isinstance(side, dict)]
    said = collections.defaultdict(list)
    for side in measured:
        # A phase is told by its name before the run as a whole is.
        for why in {re.sub("^(produce|fetch): ", "", why) for why in side["invalid"]}:
            said[re.sub(r"[\d.]+ (?:[mun]?s|%)", "_", why)].append(why)
    if said:
        yield (f"\nWhat the load generator says against its numbers, in so many of {len(measured)} "
               "measurements, with the worst of each:\n\n")
        for whys in sorted(said.values(), key=len, reverse=True):
            worst = max(whys, key=lambda why: [ns(n) for n in re.findall(NUMBER, why)])
            yield f"- {len(whys)}: {worst}\n"


NUMBER = r"([\d.]+) ([mun]?s|%)"


def ns(number):
    value, unit = number
    return float(value) * {"us": 1e3, "ms": 1e6, "s": 1e9}.get(unit, 1)


def main():
    names = [row.name for row in ROWS] + ["idle"]
    default = [name for name in names if not name.startswith("kafka")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="what this machine is called in the results")
    parser.add_argument("--what", default="gates", help="what the run is called there")
    parser.add_argument("--rows", default=",".join(default), help=f"of {','.join(names)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bytes", default="2GB", help="what a measurement writes")
    parser.add_argument("--seconds", type=int, default=15,
                        help="after which it ends, if it has not written them by then")
    parser.add_argument("--kafka", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--bin", type=pathlib.Path, default="target/release")
    parser.add_argument("--data", type=pathlib.Path, default="target/gates")
    parser.add_argument("--results", type=pathlib.Path, default="results")
    options = parser.parse_args()
    # What is written down names no directory of this machine.
    os.chdir(TOP)
    rows = options.rows.split(",")
    if unknown := set(rows) - set(names):
        parser.error(f"no such rows: {unknown}")
    options.data.mkdir(parents=True, exist_ok=True)
    out = options.results / f"{datetime.date.today()}-{options.host}-{options.what}"
    (out / "raw").mkdir(parents=True)

    summary = {"command": sys.argv, "environment": environment(options), "rows": {}}
    failed = 0
    for row in rows:
        print(row, flush=True)
        try:
            if row == "idle":
                summary["rows"][row] = measure_idle(options)
            else:
                spec = next(r for r in ROWS if r.name == row)
                summary["rows"][row] = measure_row(options, out, spec)
        except Failed as error:
            summary["rows"][row] = {"failed": str(error)}
            failed += 1
            print(f"  FAILED: {error}", flush=True)
        # After each row, so that what was measured is kept whatever happens to the next.
        (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        (out / "README.md").write_text("".join(table(summary)))
    print((out / "README.md").read_text())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
