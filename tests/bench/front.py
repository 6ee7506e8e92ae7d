"""What the front costs: a run, many runs, a gigabyte, idle streams, lists; beside the same straight on engines."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import fleet_runs
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab import certificates
from tests.lab.cluster import Lab
from tests.lab.commands import run
from tests.lab.engine import client, client_env
from tests.lab.host import Host
from tests.lab.model import PROJECT
from tests.lab.unixhttp import call

PLACEMENT = True
RUN = Goal("docker run --rm through the front ÷ straight on the engine, medians", RATIO, "≤", 1.08)
RATE = Goal("200 containers, 8 at a time, over 3 hosts: through the front ÷ straight docker run", RATIO, "≥", 0.93)
MOVED = Goal("1 GB through docker cp, save and attach ÷ straight, the slowest of the three", "of the rate", "≥", 0.7)
GROWN = Goal("growth of the front's memory meanwhile", "MB", "≤", 50)
IDLE = Goal("memory of a front with 1,000 idle logs -f and events streams", "MB", "≤", 150)
PING = Goal("/_ping meanwhile, 99th percentile", "ms", "≤", 20)
SEEN = Goal("a start or stop seen in docker ps of the front, 99th percentile", "ms", "≤", 100)
LISTED = Goal("docker ps with 10,000 containers known ÷ one engine's time per container listed", RATIO, "≤", 1.0)
GOALS = (RUN, RATE, MOVED, GROWN, IDLE, PING, SEEN, LISTED)
RUNS, STREAMS, PINGS, MOVES = 61, 1000, 300, 3
GIGABYTE, MEGABYTE = 10**9, 1 << 20
HOSTS, EACH, PORT = 49, 200, 9500
BIG = "busybox-with-a-gigabyte"


def measure(lab: Lab) -> Iterator[Measured]:
    """Clients are on host1, whose front they use. Fronts need no placement service: its replicas are stopped, as three
    of each for three hosts share two cores here; but for one, by which this asks what is known."""
    fleet_runs.api(lab.hosts[0], "POST", "/v1/networks", fleet_runs.NETWORK)
    for host in lab.hosts[1:]:
        host.scheduler.stop()
    yield runs(lab)
    yield rates(lab)
    yield from moved(lab)
    yield from idle(lab)
    yield seen(lab)
    yield listed(lab)


def docker(socket_: Path, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The docker command, its output thrown away unless it is asked for."""
    argv = [client(), "-H", f"unix://{socket_}", *words]
    chosen = {"stdout": subprocess.DEVNULL, "check": True, "timeout": 300, "env": client_env(), **options}
    return subprocess.run(argv, **chosen)  # type: ignore[call-overload,no-any-return]  # noqa: PLW1510 - it is in there


def seconds(socket_: Path, *words: str, **options: object) -> float:
    began = time.perf_counter()
    docker(socket_, *words, **options)
    return time.perf_counter() - began


def runs(lab: Lab) -> Measured:
    """On hosts in turn, as the front chooses them. The commands' output is read to its end: without any, `subprocess`
    looks for the end of a command every 50 ms only, a tenth of what is measured."""
    front, words = lab.hosts[0].gateway.socket, ("run", "--rm", "--network", "web", "busybox", "true")
    read = {"stdout": subprocess.PIPE}
    turn = iter(range(10**6))
    found = interleaved(
        RUNS,
        front=lambda: seconds(front, *words, **read),
        straight=lambda: seconds(lab.hosts[next(turn) % 3].docker_socket, *words, **read),
    )
    through, straight = spread(found["front"]), spread(found["straight"])
    detail = f"s: front {through}, straight {straight}; pair by pair {paired(found, 'front', 'straight')}"
    return Measured(RUN, through.median / straight.median, detail)


def rates(lab: Lab) -> Measured:
    """By the fronts of all hosts in turn."""

    def make(number: int, name: str) -> None:
        front = lab.hosts[number % 3].gateway.socket
        docker(front, "run", "-d", "--network", "web", "--name", name, "busybox", "sleep", "1d")

    through, straight = fleet_runs.beside(lab, make)
    return Measured(RATE, through.median / straight.median, f"per s: front {through}, straight {straight}")


def moved(lab: Lab) -> Iterator[Measured]:
    """A container and an image on host2, for a client of host1's front, and of host2's engine."""
    host, front = lab.hosts[1], lab.hosts[0].gateway
    here = host.docker_socket
    docker(
        here, "run", "--network", "none", "--name", "big", "busybox", "sh", "-c", f"head -c {GIGABYTE} /dev/zero > /big"
    )
    docker(here, "commit", "big", BIG)
    fleet_runs.wait(
        lambda: any(one["name"] == "big" for one in fleet_runs.api(lab.hosts[0], "GET", "/v1/containers?all=1"))
    )
    attach = (
        "run",
        "--rm",
        "--network",
        "none",
        "-e",
        "constraint:host==host2",
        "busybox",
        "head",
        "-c",
        str(GIGABYTE),
        "/dev/zero",
    )
    before, ratios, details = memory(front.pid), [], []
    with watched(front.pid) as most:
        for what, words in (("cp", ("cp", "big:/big", "-")), ("save", ("save", BIG)), ("attach", attach)):
            found = interleaved(
                MOVES,
                front=lambda words=words: seconds(front.socket, *words),
                straight=lambda words=words: seconds(here, *words),
            )
            ratio = spread(found["straight"]).median / spread(found["front"]).median
            ratios.append(ratio)
            details.append(
                f"{what} {ratio:.2f} ({spread(found['front']).median:.1f} s, {spread(found['straight']).median:.1f} s)"
            )
    docker(here, "rm", "-f", "big")
    docker(here, "rmi", "-f", BIG)
    yield Measured(MOVED, min(ratios), ", ".join(details))
    yield Measured(
        GROWN, (max(most) - before) / MEGABYTE, f"MB: from {before / MEGABYTE:.0f} to {max(most) / MEGABYTE:.0f}"
    )


def idle(lab: Lab) -> Iterator[Measured]:
    """Half of them follow logs of containers on all hosts, half events."""
    front = lab.hosts[0].gateway
    names = []
    for number, host in enumerate(lab.hosts):
        docker(
            host.docker_socket, "run", "-d", "--network", "none", "--name", f"quiet{number}", "busybox", "sleep", "1d"
        )
        names.append(f"quiet{number}")
    fleet_runs.wait(lambda: len(fleet_runs.api(lab.hosts[0], "GET", "/v1/containers")) == len(names))
    with ExitStack() as streams:
        for number in range(STREAMS):
            stream = streams.enter_context(socket.socket(socket.AF_UNIX))
            stream.connect(str(front.socket))
            path = f"/containers/{names[number % 3]}/logs?follow=1&stdout=1" if number % 2 else "/events"
            stream.sendall(f"GET /v1.41{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            stream.settimeout(30)
            if not stream.recv(64).startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"{path} was refused")
        time.sleep(2)
        times = sorted(timed(lambda: call(front.socket, "GET", "/_ping")) for _ in range(PINGS))
        used = memory(front.pid) / MEGABYTE
    yield Measured(IDLE, used, f"PSS; {STREAMS // 2} of each")
    late = 1000 * times[int(0.99 * PINGS)]
    yield Measured(
        PING, late, f"ms: median {1000 * times[PINGS // 2]:.1f}, slowest {1000 * times[-1]:.1f}; {PINGS} calls"
    )
    for host in lab.hosts:
        docker(host.docker_socket, "rm", "-f", *host.docker("ps", "-aq").stdout.split())


def seen(lab: Lab) -> Measured:
    """From when another host's engine says that it is done until the front lists it so."""
    host, front, times = lab.hosts[1], lab.hosts[0].gateway.socket, []
    docker(host.docker_socket, "create", "--network", "none", "--name", "seen", "busybox", "sleep", "1d")
    for _ in range(fleet_runs.CHANGES):
        for path, running in (("start", True), ("kill", False)):
            call(host.docker_socket, "POST", f"/containers/seen/{path}")
            if not running:
                call(host.docker_socket, "POST", "/containers/seen/wait")
            began = time.perf_counter()
            while bool(call(front, "GET", "/v1.41/containers/json")[1]) is not running:
                pass
            times.append(time.perf_counter() - began)
    docker(host.docker_socket, "rm", "-f", "seen")
    times.sort()
    late = 1000 * times[int(0.99 * len(times))]
    return Measured(
        SEEN,
        late,
        f"ms: median {1000 * times[len(times) // 2]:.1f}, slowest {1000 * times[-1]:.1f}; {len(times)} changes",
    )


def listed(lab: Lab) -> Measured:
    """One real engine with 200 containers, and 49 hosts that list the same with other ids."""
    host = lab.hosts[0]
    for number in range(EACH):
        docker(host.docker_socket, "create", "--network", "web", "--name", f"l{number}", "busybox", "sleep", "1d")
    real = call(host.docker_socket, "GET", "/v1.41/containers/json?all=1", timeout=60)[1]
    with many_hosts(lab, real):
        path = "/v1.41/containers/json?all=1"
        found = interleaved(
            9,
            front=lambda: timed(lambda: call(host.gateway.socket, "GET", path, timeout=60)),
            engine=lambda: timed(lambda: call(host.docker_socket, "GET", path, timeout=60)),
        )
        number = len(call(host.gateway.socket, "GET", path, timeout=60)[1])
    docker(host.docker_socket, "rm", "-f", *host.docker("ps", "-aq").stdout.split())
    through, engine = spread(found["front"]).median, spread(found["engine"]).median
    detail = f"µs each: front {1e6 * through / number:.0f} of {number:,}, engine {1e6 * engine / EACH:.0f} of {EACH}"
    return Measured(LISTED, (through / number) / (engine / EACH), detail)


@contextmanager
def many_hosts(lab: Lab, real: list[dict[str, object]]) -> Iterator[None]:
    """49 hosts more, which one process on host1 answers for; the store knows them, not their containers."""
    host = lab.hosts[0]
    cert, key = certificates.make(lab.layout, "host", "many", [host.address])
    ports = {}
    for number in range(HOSTS):
        ids = [f"{number:03d}{str(one['Id'])[3:]}" for one in real]
        ports[PORT + number] = [
            {**one, "Id": id_, "Names": [f"/h{number}-{id_[:9]}"]} for one, id_ in zip(real, ids, strict=True)
        ]
    argv = host.namespaces.argv([str(PROJECT / ".venv/bin/python"), "-m", "tests.bench.many_hosts"], str(PROJECT))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        config = {"address": host.address, "cert": str(cert), "key": str(key), "ports": ports}
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
        process.stdout.readline()
        for number in range(HOSTS):
            machine = {
                "name": f"many{number}",
                "cpus": 2000,
                "memory": 1 << 34,
                "url": f"{host.address}:{PORT + number}",
                "api": "1.41",
            }
            put(host, f"machines/many{number}", json.dumps(machine))
            put(host, f"alive/many{number}", "x")
        total = (HOSTS + 1) * EACH
        path = "/v1.41/containers/json?all=1"
        fleet_runs.wait(lambda: len(call(host.gateway.socket, "GET", path, timeout=60)[1]) == total)
        try:
            yield
        finally:
            for number in range(HOSTS):
                etcdctl(host, "del", f"/qnet/v1/placement/alive/many{number}")
                etcdctl(host, "del", f"/qnet/v1/placement/machines/many{number}")
            process.stdin.close()


def put(host: Host, key: str, value: str) -> None:
    etcdctl(host, "put", f"/qnet/v1/placement/{key}", value)


def etcdctl(host: Host, *words: str) -> None:
    run(
        host.namespaces.argv(["etcdctl", "--endpoints", f"http://{host.address}:2379", *words], str(PROJECT)),
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
    )


def timed(what: Callable[[], object]) -> float:
    began = time.perf_counter()
    what()
    return time.perf_counter() - began


def memory(pid: int | None) -> int:
    """Bytes that a process has to itself, and its share of the rest."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


@contextmanager
def watched(pid: int | None) -> Iterator[list[int]]:
    """How much it has, every now and then."""
    found, over = [memory(pid)], threading.Event()

    def watch() -> None:
        while not over.wait(0.3):
            found.append(memory(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()
