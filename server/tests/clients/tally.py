"""Runs checks one after another and counts them; shared by the scripts that people call."""

import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import check
import clients


# What a script ends with that cannot check anything on this machine.
CANNOT_RUN = 77


def cannot_run(why):
    """Ends the script: there is no telling whether the checks would pass."""
    print(f"not run: {why}", flush=True)
    sys.exit(CANNOT_RUN)


class Tally:
    """Checks on one broker, in a work directory that is left behind if one of them fails."""

    def __init__(self, fail_fast):
        # An end from outside (a time limit) unwinds too, and so stops what was started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        self.fail_fast = fail_fast
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="kariz-clients-"))
        self.broker = None
        self.passed = 0
        self.failed = 0

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
        if why and (self.fail_fast or self.broker.is_dead()):
            self.finish()

    def finish(self):
        """Says how it all went, and ends the process."""
        if self.failed:
            self.broker.explain()
            print(f"data and logs are left in {self.work}")
        else:
            shutil.rmtree(self.work)
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)
