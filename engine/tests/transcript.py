#!/usr/bin/env python3
"""Runs the shell sessions of documents, and compares what comes with what they say.

    engine/tests/transcript.py target/release engine/examples/http/README.md ...

A session is all the blocks ```console of a document, one after another, in one bash, in a directory
of its own that is gone afterwards. Programs and examples of the given build come first in the PATH.
`$ ` begins a command, `> ` continues it, and what follows up to the next one is what it prints, on
standard output or error. In that `...` stands for anything in a line, and alone on a line for any
number of lines. A command that shall print nothing must succeed; of others the status is not looked
at. What a session leaves running is killed.

Ends with a line `N passed, N failed`, of commands; the first that fails ends its session.
"""

import difflib
import os
import pathlib
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time

# Seconds for one command.
LIMIT = 60
# Runs what comes on descriptor FD, each ended by a zero byte; after each, a mark and the status.
LOOP = r"""
while IFS= read -r -d '' command <&FD; do
    eval "$command" FD<&-
    printf '%s %d\n' "$1" $?
done
"""


def commands(text):
    """The commands of a document, each with its line, and what it is to print."""
    found, in_block, continues = [], False, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            in_block, continues = line.strip() == "```console", False
        elif in_block and line.startswith("$ "):
            found.append((number, [line[2:]], []))
            continues = True
        elif in_block and continues and (line + " ").startswith("> "):
            found[-1][1].append(line[2:])
        elif in_block:
            if not found:
                raise SystemExit(f"line {number}: a block begins with a command, `$ ...`")
            found[-1][2].append(line)
            continues = False
    return [(number, "\n".join(command), expected) for number, command, expected in found]


def matches(expected, printed):
    """Whether the lines `printed` are those `expected`."""
    pattern = ""
    for line in expected:
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += "[^\n]*?".join(re.escape(part) for part in line.split("...")) + "\n"
    return re.fullmatch(pattern, "".join(line + "\n" for line in printed)) is not None


class Session:
    """A bash in `directory`, with `path` first in its PATH."""

    def __init__(self, directory, path):
        self.mark = f"mark-{os.urandom(8).hex()}"
        reads, self.write = os.pipe()
        # Of what the desk has set, only what a stranger has as well.
        environment = {"PATH": path + ":" + os.environ["PATH"], "HOME": directory, "LC_ALL": "C.UTF-8"}
        # A process group of its own, so that it can be ended with all that it has started.
        self.bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", LOOP.replace("FD", str(reads)), "bash", self.mark],
            cwd=directory, env=environment, pass_fds=[reads], start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        os.close(reads)
        self.output = b""

    def run(self, command):
        """What it prints, and its status: None if it does not end."""
        os.write(self.write, command.encode() + b"\0")
        mark = re.compile(rb"%s (\d+)\n" % self.mark.encode())
        until = time.monotonic() + LIMIT
        with selectors.DefaultSelector() as selector:
            selector.register(self.bash.stdout, selectors.EVENT_READ)
            while not (found := mark.search(self.output)):
                more = b""
                if selector.select(max(0, until - time.monotonic())):
                    more = os.read(self.bash.stdout.fileno(), 65536)
                if not more:
                    return self.output.decode(errors="replace").splitlines(), None
                self.output += more
        printed, self.output = self.output[:found.start()], self.output[found.end():]
        return printed.decode(errors="replace").splitlines(), int(found[1])

    def end(self):
        os.close(self.write)
        os.killpg(self.bash.pid, signal.SIGKILL)
        self.bash.wait()
        self.bash.stdout.close()


def check(document, path):
    """Runs a document's session; how many commands did what it says, and how many did not."""
    found = commands(document.read_text())
    if not found:
        print(f"{document}: no block ```console with a command")
        return 0, 1
    with tempfile.TemporaryDirectory(prefix="transcript-") as directory:
        session = Session(directory, path)
        try:
            for done, (number, command, expected) in enumerate(found):
                printed, status = session.run(command)
                if status is not None and matches(expected, printed) and (expected or status == 0):
                    continue
                ended = f"status {status}" if status is not None else f"no end within {LIMIT} s, or the end of the shell"
                print(f"{document}:{number}: $ {command}\n({ended})")
                print("\n".join(difflib.unified_diff(expected, printed, "expected", "printed", lineterm="")))
                return done, 1
            return len(found), 0
        finally:
            session.end()


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    passed = failed = 0
    for document in sys.argv[2:]:
        good, bad = check(pathlib.Path(document), f"{build}:{build / 'examples'}")
        print(f"{document}: {good} commands did what it says")
        passed, failed = passed + good, failed + bad
    print(f"{passed} passed, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
