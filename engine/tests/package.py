#!/usr/bin/env python3
"""Packages the crates as for crates.io, and has a stranger's program use the engine's.

    engine/tests/package.py

`cargo package` builds each of the crates from its archive alone. Then a program in a directory of
its own, outside the workspace, with the unpacked archive of the engine as its dependency, runs the
code of the engine's front page: the first block of Rust in engine/README.md, or the page of code in
engine/src/lib.rs as long as there is no README. The program must end with status 0, and each
comment `// prints: TEXT` in the block promises a line of its output, in this order.

Needs no network once the workspace has been built. Ends with a line `N passed, N failed`.
"""

import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
CRATES = ["kariz-engine", "kariz-protocol", "kariz-server", "kariz-loadgen"]
# As the workspace has it, so that what the tests built need not be built anew.
ENVIRONMENT = dict(os.environ, CARGO_PROFILE_DEV_DEBUG="line-tables-only")

# The front page says which of tokio's parts its code wants; these are what the engine has anyway.
MANIFEST = """
[package]
name = "outside"
edition = "2024"

[dependencies]
kariz-engine = {{ path = "{engine}" }}
tokio = {{ version = "1", features = ["rt", "time", "sync", "net", "macros"] }}

[workspace]
"""


def package():
    """Makes the archives, and builds what is in them."""
    names = [word for crate in CRATES for word in ("-p", crate)]
    # What is not committed yet is packaged too: this also runs at the desk.
    subprocess.run(["cargo", "package", *names, "--locked", "--offline", "--allow-dirty"],
                   cwd=ROOT, env=ENVIRONMENT, check=True)


def front_page():
    """Where the engine's front page is, and the program on it."""
    readme = ROOT / "engine/README.md"
    if readme.exists():
        return readme, program(first_block(readme.read_text(), "```rust"))
    lib = ROOT / "engine/src/lib.rs"
    docs = "\n".join(line[4:] if line.startswith("//! ") else line.removeprefix("//!")
                     for line in lib.read_text().splitlines() if line.startswith("//!"))
    return lib, program(first_block(docs.partition("# A page of code")[2], "```"))


def first_block(text, fence):
    """The code between the first line that starts with `fence` and the next fence."""
    found = re.search(rf"^{fence}[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    if not found:
        sys.exit(f"there is no block of Rust that starts with {fence}")
    return found[1]


def program(block):
    """A `main.rs` of a block, by the rules of rustdoc: `# ` hides a line, and `main` is optional."""
    lines = [re.sub(r"^(\s*)#( |$)", r"\1", line) for line in block.splitlines()]
    code = "\n".join(lines) + "\n"
    if re.search(r"^\s*(async )?fn main\(", code, re.MULTILINE):
        return code
    end = "" if re.search(r"\(\(\)\)\s*$", code) else "Ok(())\n"
    return f"fn main() -> Result<(), Box<dyn std::error::Error>> {{\n{code}{end}}}\n"


def outside(home, code):
    """What the program `code` prints, in `home`, with the packaged engine."""
    with open(ROOT / "Cargo.toml", "rb") as file:
        version = tomllib.load(file)["workspace"]["package"]["version"]
    engine = home / f"kariz-engine-{version}"
    with tarfile.open(TARGET / "package" / f"{engine.name}.crate") as archive:
        archive.extractall(home)
    inner = home / "outside"
    (inner / "src").mkdir(parents=True)
    (inner / "src/main.rs").write_text(code)
    (inner / "Cargo.toml").write_text(MANIFEST.format(engine=engine))
    # The versions that all else is tested with; cargo adds the program itself.
    (inner / "Cargo.lock").write_bytes((engine / "Cargo.lock").read_bytes())
    # A directory of its own: nothing that the workspace has built can help.
    env = dict(ENVIRONMENT, CARGO_TARGET_DIR=str(home / "target"))
    run = subprocess.run(["cargo", "run", "--quiet", "--offline"],
                         cwd=inner, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return run.stdout


def broken_promise(code, printed):
    """The first line that `code` promises and that is not in `printed`, in order."""
    lines = iter(line.strip() for line in printed.splitlines())
    for promise in re.findall(r"// prints: (.*)", code):
        if promise.strip() not in lines:
            return promise.strip()
    return None


def main():
    package()
    where, code = front_page()
    with tempfile.TemporaryDirectory(prefix="kariz-outside-") as home:
        printed = outside(pathlib.Path(home), code)
    print(printed, end="")
    promise = broken_promise(code, printed)
    if promise:
        sys.exit(f"{where.relative_to(ROOT)} promises a line that was not printed: {promise}")
    print(f"{where.relative_to(ROOT)}: the code of the front page runs against the package")
    print(f"{len(CRATES) + 1} passed, 0 failed")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"status {error.returncode}: {' '.join(map(str, error.cmd))}")
