"""The broker under test: a process of ours, or whatever answers at $BOOTSTRAP."""

import os
import pathlib
import re
import select
import signal
import subprocess
import sys

from check import Violation

KARIZ = pathlib.Path(os.environ.get("KARIZ")
                     or pathlib.Path(__file__).resolve().parents[3] / "target/release/kariz")
READY_SECONDS = 30
STOP_SECONDS = 30
# `kariz check` reads every batch of a run: hundreds of megabytes.
CHECK_SECONDS = 120


class Kariz:
    """Our server on 2 cores, its data and log in `work`; killed, if need be, at the end of `with`."""

    def __init__(self, work, listen="127.0.0.1:0"):
        self.log = work / "server.log"
        self.data = work / "data"
        self.bootstrap = listen
        self.process = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.kill()

    def command(self):
        return [KARIZ, "serve", "--data", self.data, "--listen", self.bootstrap, "--cores", "0,1"]

    def start(self):
        """Starts it, again on the same ports if it ran before and they were given."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        line = b""
        if select.select([self.process.stdout], [], [], READY_SECONDS)[0]:
            line = self.process.stdout.readline()
        ready = re.fullmatch(rb"kariz ready bootstrap=(\S+) cores=2 pid=\d+\n", line)
        if not ready:
            self.kill()
            self.explain()
            sys.exit(f"no ready line within {READY_SECONDS} s, but {line!r}")
        self.bootstrap = ready[1].decode()

    def is_dead(self):
        return self.process.poll() is not None

    def kill(self):
        """SIGKILL: what its own code can do about its end is nothing."""
        if not self.is_dead():
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """Asks it to end, which must happen in good time and with status 0."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(STOP_SECONDS)
        if status != 0:
            raise Violation(f"the server ended with status {status}")

    def verify(self):
        """Its own verdict on its directory, once it is stopped."""
        done = subprocess.run([KARIZ, "check", self.data], stdin=subprocess.DEVNULL, timeout=CHECK_SECONDS,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            raise Violation(f"status {done.returncode}: {done.stdout[-2000:].decode(errors='replace')}")

    def explain(self):
        """The end of what it said."""
        said = self.log.read_text(errors="replace").splitlines()[-60:]
        print("server.log ends:", *said, sep="\n  ", flush=True)


class Elsewhere:
    """A broker that somebody else started, and will stop."""

    def __init__(self):
        self.bootstrap = os.environ["BOOTSTRAP"]
        data = os.environ.get("DATA_DIR")
        self.data = pathlib.Path(data) if data else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def is_dead(self):
        return False

    def explain(self):
        pass
