#!/usr/bin/env python3
"""Rounds of kill -9 under the load generator, which keeps a ledger of what was acknowledged.

    python3 server/tests/clients/kill_rounds.py [--rounds N] [--seed N] [--fail-fast]

Each round loads a new topic, kills the server at a random moment, now and then once more while
it recovers, and starts it on the same directory and ports. Then every acknowledged record must
be there, at its offset, once: of this round, and of an earlier one drawn by lot. The server
stops in good order and `kariz check` finds nothing wrong; the next round goes on there. Some
rounds ask for acks=all, some use a topic with write.caching=true: a kill of the process takes
nothing of either. The programs are $KARIZ and $KARIZ_LOADGEN (default: those in
target/release). Ends with a line `N passed, N failed`.
"""

import argparse
import json
import os
import random
import subprocess
import time

import broker
import check
import kill
import tally

LOADGEN = os.environ.get("KARIZ_LOADGEN") or broker.KARIZ.parent / "kariz-loadgen"
# How long until something is acknowledged, and for whatever else the load generator does.
LOAD_SECONDS = 30
# From the first acknowledgements to the kill; and from a start to the kill amid its recovery.
KILL_SECONDS_MAX = 0.8
RECOVERY_SECONDS_MAX = 0.1
CONTRACTS = [
    ["--acks", "all"],
    ["--acks", "all", "--idempotent"],
    ["--acks", "1", "--topic-config", "write.caching=true"],
    ["--acks", "all", "--topic-config", "write.caching=true", "--idempotent"],
]


def main():
    options = argparse.ArgumentParser(description="Rounds of kill -9 under the load generator.")
    options.add_argument("--rounds", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--fail-fast", action="store_true", help="end at the first failure")
    chosen = options.parse_args()
    counted = tally.Tally(chosen.fail_fast)
    chance = random.Random(chosen.seed)
    print(f"{chosen.rounds} rounds, seed {chosen.seed}", flush=True)
    with broker.Kariz(counted.work, f"127.0.0.1:{kill.two_free_ports()}") as server:
        counted.broker = server
        rounds = Rounds(server, counted.work, chance)
        for number in range(chosen.rounds):
            counted.check(f"round {number}", rounds.one, number)
    print(f"{rounds.acked} records acknowledged, {rounds.kills} kills, "
          f"{rounds.amid_recovery} of them amid a recovery", flush=True)
    counted.finish()


class Rounds:
    """What the rounds on one data directory share."""

    def __init__(self, server, work, chance):
        self.server = server
        self.work = work
        self.chance = chance
        self.ledgers = []
        self.acked = self.kills = self.amid_recovery = 0

    def one(self, number):
        ledger = self.work / f"ledger-{number}"
        self.kill_under_load(f"round-{number}", ledger)
        if self.chance.random() < 0.3:
            self.kill_amid_recovery()
        self.server.start()
        acked = self.verify(ledger)
        if acked == 0:
            raise check.Violation("nothing was acknowledged before the kill: nothing was tested")
        self.acked += acked
        if self.ledgers:
            self.verify(self.chance.choice(self.ledgers))
        self.ledgers.append(ledger)
        self.server.stop()
        self.server.verify()
        self.server.start()

    def load(self, topic, ledger):
        """The command of a load that no other round has."""
        pick = self.chance
        return [
            "produce", "-t", topic, "--ledger", ledger, "-d", f"{LOAD_SECONDS}s",
            "-c", pick.choice([1, 4, 16]), "-p", pick.choice([1, 3, 8]),
            "--depth", pick.choice([1, 5]), "--batch-records", pick.choice([1, 7, 64]),
            "--record-size", pick.choice([100, 1024]), "--rate", "20MB/s",
            "--compression", pick.choice(["none", "lz4"]),
            # The smallest segments that a topic may have, so that kills meet rolls.
            "--topic-config", f"segment.bytes={pick.choice([1 << 20, 1 << 30])}",
            *pick.choice(CONTRACTS)]

    def kill_under_load(self, topic, ledger):
        command = self.load(topic, ledger)
        print("      ", *command[5:], flush=True)
        after = self.chance.uniform(0, KILL_SECONDS_MAX)
        with open(self.work / "load.log", "wb") as log:
            load = subprocess.Popen(self.command(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + LOAD_SECONDS
                # The first line is the ledger's head.
                while not ledger.exists() or ledger.read_bytes().count(b"\n") < 2:
                    if load.poll() is not None or time.monotonic() > deadline:
                        raise check.Violation(f"nothing was acknowledged: {self.said('load.log')}")
                    time.sleep(0.001)
                time.sleep(after)
                if load.poll() is not None:
                    raise check.Violation(f"the load ended before the kill: {self.said('load.log')}")
                self.server.kill()
                self.kills += 1
                # It sees its connections break, writes its ledger to the end, and ends.
                load.wait(LOAD_SECONDS)
            finally:
                if load.poll() is None:
                    load.kill()
                    load.wait()
        # To have lost its broker is a failure, which is what 1 says.
        if load.returncode != 1 or "connections broke" not in self.said("load.log"):
            raise check.Violation(f"the load did not see the kill: {self.said('load.log')}")

    def kill_amid_recovery(self):
        with open(self.server.log, "ab") as log:
            process = subprocess.Popen(self.server.command(), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=log)
            try:
                time.sleep(self.chance.uniform(0, RECOVERY_SECONDS_MAX))
                if process.poll() is not None:
                    raise check.Violation(f"a start ended with status {process.returncode}")
            finally:
                process.kill()
                process.wait()
        self.kills += 1
        self.amid_recovery += 1

    def verify(self, ledger):
        """Has every record of a ledger looked for; returns how many were acknowledged."""
        topic = json.loads(ledger.open().readline())["topic"]
        with open(self.work / "verify.log", "wb") as log:
            done = subprocess.run(self.command(["verify", "--ledger", ledger]), timeout=LOAD_SECONDS,
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # 14 says that a busy machine spoiled the figures, which nobody reads here.
        if done.returncode not in (0, 14):
            raise check.Violation(f"{topic}: status {done.returncode}: {self.said('verify.log')}")
        found = json.loads((self.work / "out/result.json").read_text())["verification"]
        if found["read"] < found["acked"]:
            raise check.Violation(f"{topic}: {found['acked']} acknowledged, {found['read']} read")
        return found["acked"]

    def command(self, words):
        words = [*words, "-b", self.server.bootstrap, "--quiet", "--sleep", "--out", self.work / "out"]
        return [LOADGEN, *map(str, words)]

    def said(self, name):
        return (self.work / name).read_text(errors="replace")[-3000:]


if __name__ == "__main__":
    main()
