"""Containers through the placement service beside the same straight on engines, and how soon it knows of changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from typing import Any

from tests.bench.model import RATIO, Goal, Measured, Spread, interleaved, spread
from tests.lab.cluster import Lab
from tests.lab.host import Host
from tests.lab.unixhttp import call

PLACEMENT = True
RATE = Goal("200 containers, 8 at a time, over 3 hosts: through the service ÷ straight docker run", RATIO, "≥", 0.93)
SEEN = Goal("a container's start or stop visible in the list of all, 99th percentile", "ms", "≤", 100)
GOALS = (RATE, SEEN)
CONTAINERS, WARM, AT_ONCE, ROUNDS, CHANGES = 200, 24, 8, 5, 100
NETWORK = {"name": "web", "subnets": [{"Subnet": "10.77.0.0/20"}], "options": {"parent": "eth1"}}


def measure(lab: Lab) -> Iterator[Measured]:
    """The service is called by its REST API, engines by the docker command."""
    api(lab.hosts[0], "POST", "/v1/networks", NETWORK)
    placed, straight = beside(lab, service_run(lab))
    detail = f"per s: through the service {placed}, straight {straight}"
    yield Measured(RATE, placed.median / straight.median, detail)
    seen = sorted(changes(lab))
    late = seen[int(0.99 * len(seen))]
    yield Measured(SEEN, 1000 * late, f"ms: median {1000 * seen[len(seen) // 2]:.1f}, slowest {1000 * seen[-1]:.1f}")


def beside(lab: Lab, make: Callable[[int, str], None]) -> tuple[Spread, Spread]:
    """Containers made per second so, and straight. Before, some that do not count: whoever comes first is slower."""
    turn = count()

    def rate(how: Callable[[int, str], None], number: int = CONTAINERS) -> float:
        name, began = f"r{next(turn)}", time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as crew:
            list(crew.map(lambda one: how(one, f"{name}-{one}"), range(number)))
        took = time.perf_counter() - began
        remove_all(lab)
        return number / took

    ways = {"so": partial(rate, make), "straight": partial(rate, docker_run(lab))}
    for way in ways.values():
        way(WARM)
    found = interleaved(ROUNDS, **ways)
    return spread(found["so"]), spread(found["straight"])


def docker_run(lab: Lab) -> Callable[[int, str], None]:
    """On each host in turn."""

    def make(number: int, name: str) -> None:
        lab.hosts[number % 3].docker("run", "-d", "--network", "web", "--name", name, "busybox", "sleep", "1d")

    return make


def service_run(lab: Lab) -> Callable[[int, str], None]:
    """By the replicas in turn, who choose the hosts."""
    body = {"container": {"Image": "busybox", "Cmd": ["sleep", "1d"]}, "networks": [{"name": "web"}]}

    def make(number: int, name: str) -> None:
        api(lab.hosts[number % 3], "POST", "/v1/runs", {**body, "name": name})

    return make


def remove_all(lab: Lab) -> None:
    """Everything is gone, for engines and replicas."""
    for host in lab.hosts:
        ids = host.docker("ps", "-aq").stdout.split()
        if ids:
            host.docker("rm", "-f", *ids, timeout=300)
    while api(lab.hosts[0], "GET", "/v1/containers?all=1"):
        time.sleep(0.2)


def changes(lab: Lab) -> Iterator[float]:
    """Seconds from when an engine says that it is done until another host's replica lists it so."""
    host, other = lab.hosts[1], lab.hosts[0]
    host.docker("create", "--network", "web", "--name", "seen", "busybox", "sleep", "1d")
    for _ in range(CHANGES):
        for path, running in (("start", True), ("kill", False)):
            call(host.docker_socket, "POST", f"/containers/seen/{path}")
            if not running:
                call(host.docker_socket, "POST", "/containers/seen/wait")
            began = time.perf_counter()
            while bool(api(other, "GET", "/v1/containers")) is not running:
                pass
            yield time.perf_counter() - began
            time.sleep(0.2)
    host.docker("rm", "-f", "seen")


def api(host: Host, method: str, path: str, body: object = None) -> Any:
    """A call that must be answered well."""
    status, found = call(host.scheduler.socket, method, path, body, timeout=120)
    if status >= 400:
        raise RuntimeError(f"{method} {path}: {status} {found}")
    return found


def wait(known: Callable[[], bool], patience: float = 60.0) -> None:
    """Until something is known."""
    deadline = time.monotonic() + patience
    while not known():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not known within {patience:g} s")
        time.sleep(0.1)
