"""The clients under test: how each creates a topic, writes a file of records, reads a topic.

`write` gets the path of a file of `key TAB value` lines, `read` returns lines of
`partition TAB offset TAB key TAB value` (a null key as `NULL`) from ASSIGNED partitions
at an explicit offset: no client here joins a group.
"""

import os
import pathlib
import signal
import subprocess

import install
from check import CODECS

HERE = pathlib.Path(__file__).parent
# One command of one client; 100,000 records take each of them seconds.
COMMAND_SECONDS = 300


class Failed(Exception):
    """A client's command that ended badly, with what it said."""


class Shell:
    """Runs clients' commands against one bootstrap address, their output in `work`."""

    def __init__(self, bootstrap, work):
        self.bootstrap = bootstrap
        self.work = work

    def run(self, *command, stdin=os.devnull, env=None):
        """The path of the command's standard output."""
        out, err = self.work / "stdout", self.work / "stderr"
        command = [str(word) for word in command]
        env = dict(os.environ, BOOTSTRAP=self.bootstrap, **(env or {}))
        with open(stdin, "rb") as stdin, open(out, "wb") as stdout, open(err, "wb") as stderr:
            process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr, env=env,
                                       start_new_session=True)
            try:
                code = process.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                code = f"none after {COMMAND_SECONDS} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if code != 0:
            said = err.read_text(errors="replace").splitlines()[-20:]
            raise Failed("\n    ".join([" ".join(command)[:1000], f"exit status {code}", *said]))
        return out


class Client:
    """A program with the verbs create, write and read (its file says what they take)."""

    name = ""
    codecs = CODECS
    keyed = True
    idempotent = True

    def __init__(self, shell):
        self.shell = shell

    def readers(self, _codec):
        """The clients that must read what this one wrote with that codec."""
        return [self]

    def program(self, *verb):
        raise NotImplementedError

    def create(self, topic, partitions):
        self.program("create", topic, partitions)

    def write(self, topic, codec, records):
        self.program("write", topic, codec, records)

    def read(self, topic, start):
        return open(self.program("read", topic, start), "rb")


class KafkaPython(Client):
    name = "kafka-python"

    def program(self, *verb):
        return self.shell.run(install.python(), HERE / "python/kafka_python.py", *verb)


class Confluent(Client):
    name = "confluent-kafka"

    def program(self, *verb):
        return self.shell.run(install.python(), HERE / "python/confluent.py", *verb)


class FranzGo(Client):
    name = "franz-go"

    def program(self, *verb):
        return self.shell.run(install.franz_go(), *verb)


class KafkaJs(Client):
    """Writes only: kafkajs reads in groups and no other way."""

    name = "kafkajs"

    def readers(self, _codec):
        return [Kcat(self.shell), KafkaPython(self.shell)]

    def program(self, *verb):
        modules = {"NODE_PATH": str(install.node_modules())}
        return self.shell.run("node", HERE / "kafkajs/client.js", *verb, env=modules)


class Kcat(Client):
    """kcat has no admin part: its topics are made by confluent-kafka, librdkafka's other face."""

    name = "kcat"

    def create(self, topic, partitions):
        Confluent(self.shell).create(topic, partitions)

    def write(self, topic, codec, records):
        self.kcat("-P", "-t", topic, "-X", f"compression.codec={codec}", "-K", "\t", "-l", records,
                  "-X", "enable.idempotence=true")

    def read(self, topic, start):
        out = self.kcat("-C", "-t", topic, "-o", start, "-e", "-q", "-Z", "-f", "%p\t%o\t%k\t%s\n",
                        "-X", "check.crcs=true")
        return open(out, "rb")

    def kcat(self, *options):
        return self.shell.run(install.kcat(), "-b", self.shell.bootstrap, *options)


class Java(Client):
    """Apache Kafka's client library."""

    name = "kafka-clients"

    def program(self, *verb):
        return self.java("Client", *verb)

    def java(self, *words, stdin=os.devnull):
        # The tools are short-lived: compile fast rather than well, and keep from a program's first
        # run the classes that take most of the time of a start.
        classes = self.shell.work / f"{words[0]}.jsa"
        archive = "SharedArchiveFile" if classes.exists() else "ArchiveClassesAtExit"
        return self.shell.run("java", f"-XX:{archive}={classes}", "-Xlog:disable",
                              "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m",
                              f"-Dlog4j2.configurationFile={HERE}/java/log4j2.yaml",
                              "-cp", install.java(), *words, stdin=stdin)


class KafkaConsole(Java):
    """Kafka's command line: kafka-topics, kafka-console-producer, -consumer, kafka-get-offsets."""

    name = "kafka-console"

    def create(self, topic, partitions):
        self.tool("TopicCommand", "--create", "--topic", topic,
                  "--partitions", partitions, "--replication-factor", 1)

    def write(self, topic, codec, records):
        self.tool("ConsoleProducer", "--topic", topic, "--compression-codec", codec,
                  "--property", "parse.key=true", stdin=records)

    def read(self, topic, start):
        ends = self.tool("GetOffsetShell", "--topic", topic).read_text().split()
        for _, partition, end in (line.rsplit(":", 2) for line in ends):
            if int(end) > start:
                yield from self.read_partition(topic, partition, start, int(end) - start)

    def read_partition(self, topic, partition, start, count):
        shown = (word for name in ["partition", "offset", "key"]
                 for word in ["--property", f"print.{name}=true"])
        out = self.tool("consumer.ConsoleConsumer", "--topic", topic, "--partition", partition,
                        "--offset", start or "earliest", "--max-messages", count, *shown)
        with open(out, "rb") as lines:
            for line in lines:
                yield line.replace(b"Partition:", b"", 1).replace(b"Offset:", b"", 1)

    def tool(self, name, *options, stdin=os.devnull):
        return self.java(f"org.apache.kafka.tools.{name}",
                         "--bootstrap-server", self.shell.bootstrap, *options, stdin=stdin)


class KafkaPerf(KafkaConsole):
    """kafka-producer-perf-test: null keys, the value is the record's number."""

    name = "kafka-perf"
    keyed = False

    def readers(self, _codec):
        return [Java(self.shell)]

    def write(self, topic, codec, records):
        with open(records, "rb") as lines:
            count = sum(1 for _ in lines)
        self.java("org.apache.kafka.tools.ProducerPerformance", "--topic", topic,
                  "--num-records", count, "--throughput", -1, "--payload-monotonic",
                  "--producer-props", f"bootstrap.servers={self.shell.bootstrap}",
                  f"compression.type={codec}", "acks=all")


ALL = [Kcat, KafkaPython, Confluent, FranzGo, KafkaJs, Java, KafkaConsole, KafkaPerf]
