"""What making, mounting and listing volumes takes, beside the bare commands of GlusterFS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.host import Host
from tests.lab.storage import VOLUME
from tests.lab.unixhttp import call

STORAGE = True
CREATE = Goal("docker volume create -o size=1G ÷ mkdir and gluster volume quota limit-usage", RATIO, "≤", 1.25)
CROWD = Goal("20 creates at once from two hosts ÷ 20 bare ones in a row", RATIO, "≤", 1.5)
FIRST = Goal("first mount of a volume on a host ÷ mount -t glusterfs", RATIO, "≤", 1.2)
NEXT = Goal("mount for another container of the host", "ms", "≤", 30)
LIST = Goal("docker volume ls, 200 volumes", "ms", "≤", 100)
RESTART = Goal("plugin restart to ready, 200 volumes", "s", "≤", 2)
GOALS = (CREATE, CROWD, FIRST, NEXT, LIST, RESTART)
BARE = "/mnt/bare"
MANY = 200


def measure(lab: Lab) -> Iterator[Measured]:
    """Hosts and Gluster servers are the same machines, and share its processors."""
    host, numbers = lab.hosts[0], count()
    host.exec("mkdir", "-p", BARE)
    host.exec("mount", "-t", "glusterfs", f"{host.address}:/{VOLUME}", BARE)
    host.exec("mkdir", "-p", f"{BARE}/bare")
    names: list[str] = []

    def bare() -> None:
        path = f"/bare/{next(numbers)}"
        host.exec("mkdir", BARE + path)
        host.storage.gluster("volume", "quota", VOLUME, "limit-usage", path, "1GB")

    def create(on: Host = host) -> None:
        names.append(f"v{next(numbers)}")
        on.docker("volume", "create", "-d", "sharedfs", "-o", "size=1G", names[-1])

    create()  # switches quota on
    bare()
    found = interleaved(9, ours=lambda: _seconds(create), bare=lambda: _seconds(bare))
    serial = spread(found["bare"])
    yield Measured(CREATE, paired(found, "ours", "bare").median, f"s: {spread(found['ours'])}, bare {serial}")

    with ThreadPoolExecutor(20) as pool:
        took = _seconds(lambda: list(pool.map(lambda number: create(lab.hosts[number % 2]), range(20))))
    yield Measured(CROWD, took / (20 * serial.median), f"{took:.2f} s; 20 times {serial.median:.3f} s")

    yield from _mounts(host, names[0])
    while len(names) < MANY:
        create()
    took_ls = spread(1000 * _seconds(lambda: host.docker("volume", "ls", "-q")) for _ in range(11))
    yield Measured(LIST, took_ls.median, f"ms: {took_ls}")
    restarts = spread(_restart(host) for _ in range(5))
    yield Measured(RESTART, restarts.median, f"s: {restarts}")


def _mounts(host: Host, name: str) -> Iterator[Measured]:
    """By the engine's own calls: what a container's start takes besides is not the plugin's."""
    _ask(host, "Mount", name, "a")
    _, told = call(host.node.volume_socket, "POST", "/VolumeDriver.Path", {"Name": name})
    path = told["Mountpoint"].rpartition("/")[0]
    source = host.exec("findmnt", "-n", "-o", "SOURCE", path).stdout.strip()
    users = [f"m{number}" for number in range(15)]
    more = spread(1000 * _seconds(partial(_ask, host, "Mount", name, user)) for user in users)
    for user in users:
        _ask(host, "Unmount", name, user)
    _ask(host, "Unmount", name, "a")
    host.exec("mkdir", "-p", "/mnt/one")

    def ours() -> float:
        took = _seconds(lambda: _ask(host, "Mount", name, "a"))
        _ask(host, "Unmount", name, "a")
        return took

    def bare() -> float:
        took = _seconds(lambda: host.exec("mount", "-t", "glusterfs", source, "/mnt/one"))
        host.exec("umount", "/mnt/one")
        return took

    found = interleaved(9, ours=ours, bare=bare)
    detail = f"s: {spread(found['ours'])}, bare {spread(found['bare'])}"
    yield Measured(FIRST, paired(found, "ours", "bare").median, detail)
    yield Measured(NEXT, more.median, f"ms: {more}")


def _ask(host: Host, verb: str, name: str, user: str) -> None:
    code, said = call(host.node.volume_socket, "POST", f"/VolumeDriver.{verb}", {"Name": name, "ID": user}, timeout=60)
    if code != 200:
        raise RuntimeError(said)


def _restart(host: Host) -> float:
    host.volume_plugin.stop()
    return _seconds(host.volume_plugin.start)


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
