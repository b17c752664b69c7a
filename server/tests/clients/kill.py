#!/usr/bin/env python3
"""kill -9 under real clients: what they wrote is there, each record once, in order.

    python3 server/tests/clients/kill.py [--records N] [--kills N] [--seed N] [CLIENT ...]

An idempotent producer writes N records while $KARIZ (default target/release/kariz) is
killed at seeded points of the topic's growth and started again on the same directory and
ports. The client sees broken connections and a new leader epoch, retries by itself and
must end without an error; then all it sent must be there exactly once. At the end the
server stops in good order and `kariz check` finds nothing wrong. Ends with a line
`N passed, N failed`.
"""

import argparse
import concurrent.futures
import random
import socket
import time

import broker
import check
import clients
import run
import tally

IDEMPOTENT = [clients.FranzGo, clients.Java, clients.Confluent, clients.KafkaPython]
# How long the log may stand still before a kill is given up.
STALL_SECONDS = 60


def main():
    options = argparse.ArgumentParser(description="kill -9 under real clients.")
    options.add_argument("clients", nargs="*", metavar="CLIENT",
                         help="of " + " ".join(c.name for c in IDEMPOTENT) + " (default: all)")
    options.add_argument("--records", type=int, default=200_000)
    options.add_argument("--kills", type=int, default=3)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    chosen = options.parse_args()
    counted = tally.Tally(chosen.fail_fast)
    records = run.keyed_records(chosen.records)
    file = counted.work / "records"
    run.write_records(file, records)
    chance = random.Random(chosen.seed)
    with broker.Kariz(counted.work, f"127.0.0.1:{two_free_ports()}") as server:
        counted.broker = server
        shell = clients.Shell(server.bootstrap, counted.work)
        for client in IDEMPOTENT:
            points = sorted(chance.uniform(0.02, 0.9) for _ in range(chosen.kills))
            if not chosen.clients or client.name in chosen.clients:
                print(f"{client.name}: kills at {[f'{p:.0%}' for p in points]}, seed {chosen.seed}", flush=True)
                counted.check(f"{client.name} killed", survive, server, client(shell), file, records, points)
        counted.check("stop", server.stop)
        counted.check("kariz check", server.verify)
    counted.finish()


def survive(server, client, file, records, points):
    """Writes while the server is killed at `points`, shares of the file's size, and reads back."""
    topic = f"killed-{client.name}"
    client.create(topic, run.PARTITIONS)
    size, kills = file.stat().st_size, 0
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(client.write, topic, "none", file)
        for point in points:
            if grown(server.data, topic, point * size, writing):
                server.kill()
                kills += 1
                server.start()
        writing.result()
    if kills == 0:
        raise check.Violation("all was written before the first kill: nothing was tested")
    ends = check.records(client.read(topic, 0), records, 0, True)
    check.segments(server.data, topic, run.PARTITIONS, "none", True, ends)


def grown(data, topic, size, writing):
    """Waits until the topic's logs hold `size` bytes; false if its writer ends before that."""
    deadline = time.monotonic() + STALL_SECONDS
    while time.monotonic() < deadline:
        if sum(path.stat().st_size for path in data.glob(f"broker-*/{topic}-*/*.log")) >= size:
            return not writing.done()
        if writing.done():
            return False
    raise check.Violation(f"the log did not grow to {size:.0f} bytes in {STALL_SECONDS} s")


def two_free_ports():
    """The first of two neighbouring ports that nobody listens on: core 0's and core 1's."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


if __name__ == "__main__":
    main()
