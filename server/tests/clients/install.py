"""Installs the clients and cargo's tools, pinned, into $KARIZ_CI_CACHE (default ~/.cache/kariz-ci).

Each lies in a directory named after a hash of what defines it, so a second run finds it
and an edited pin makes a new one. `python3 install.py` alone fills the cache;
`python3 install.py cargo_deny` installs only that, and its last line says where.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("KARIZ_CI_CACHE") or pathlib.Path.home() / ".cache/kariz-ci")


def python():
    """The interpreter of an environment with kafka-python and confluent-kafka."""

    def build(home):
        call("python3", "-m", "venv", home)
        call(home / "bin/python", "-m", "pip", "install", "--quiet",
             "--disable-pip-version-check", "--only-binary=:all:",
             "-r", HERE / "python/requirements.txt")

    return cached("python", ["python/requirements.txt"], build) / "bin/python"


def node_modules():
    """The directory with kafkajs and its codecs, for NODE_PATH."""

    def build(home):
        for name in ["package.json", "package-lock.json"]:
            shutil.copy(HERE / "kafkajs" / name, home)
        call("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=home)

    return cached("kafkajs", ["kafkajs/package.json", "kafkajs/package-lock.json"], build) / "node_modules"


def franz_go():
    """The compiled franz-go client."""
    inputs = ["franz-go/main.go", "franz-go/go.mod", "franz-go/go.sum"]

    def build(home):
        call("go", "build", "-o", home / "franz-go", ".", cwd=HERE / "franz-go")

    return cached("franz-go", inputs, build) / "franz-go"


def java():
    """The class path of Kafka's tools and of our program for Kafka's client."""

    def build(home):
        call("mvn", "-q", "-B", "-f", HERE / "java/pom.xml", "dependency:copy-dependencies",
             f"-DoutputDirectory={home}/libs", "-DincludeScope=runtime")
        call("javac", "-cp", f"{home}/libs/*", "-d", home / "client", HERE / "java/Client.java")
        # A directory on the class path keeps the JVM from archiving classes.
        call("jar", "--create", "--file", home / "libs/client.jar", "-C", home / "client", ".")

    return cached("java", ["java/pom.xml", "java/Client.java", "install.py"], build) / "libs/*"


def kcat():
    """kcat."""
    return debian("kcat", "kcat")


def curl():
    """curl, for the transcript of the engine's example `http`."""
    return debian("curl", "curl")


def redis():
    """redis-cli and redis-benchmark, and a server to compare with, for that of `resp`."""
    debian("redis-server", "redis-server")
    return debian("redis-cli", "redis-tools")


def debian(program, package):
    """`program`, from Debian if the machine has none."""
    if not shutil.which(program):
        # At this runlevel no service is started: it would hold a port that a test wants.
        quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        call("apt-get", "update", "-qq", env=quiet)
        call("apt-get", "install", "-y", "-qq", "--no-install-recommends", package, env=quiet)
    return program


def cargo_deny():
    """cargo-deny: licences, sources, advisories."""
    return cargo("cargo-deny", "0.20.2")


def cargo_public_api():
    """cargo-public-api. 0.52.0 reads the JSON of rustdoc 1.95, whose format is 57."""
    return cargo("cargo-public-api", "0.52.0")


def cargo(name, version):
    """The program of the crate `name`."""

    def build(home):
        # Unoptimised: a minute where optimised takes many, for what then runs a second.
        call("cargo", "install", "--quiet", "--locked", "--debug", "--no-track", "--version", version,
             "--root", home, "--target-dir", home / "build", name,
             env=dict(os.environ, CARGO_PROFILE_DEV_DEBUG="0"))
        shutil.rmtree(home / "build")

    return cached(name, [], build, version) / "bin" / name


def cached(name, inputs, build, pin=""):
    """The directory that `build` filled from `inputs` and `pin`, now or in an earlier run."""
    digest = hashlib.sha256(pin.encode())
    for path in inputs:
        digest.update((HERE / path).read_bytes())
    home = CACHE / f"{name}-{digest.hexdigest()[:12]}"
    # An environment of Python cannot be moved once made, so a mark says that all of it is there.
    if not (home / ".complete").exists():
        print(f"installing {name} into {home}", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        build(home)
        (home / ".complete").touch()
    return home


def call(*command, **options):
    subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, **options)


if __name__ == "__main__":
    everything = [kcat, curl, redis, python, node_modules, franz_go, java, cargo_deny, cargo_public_api]
    for install in everything:
        if len(sys.argv) == 1 or install.__name__ in sys.argv[1:]:
            print(install.__name__, install(), flush=True)
