"""Two hosts on one trunk. What a run leaves that was killed, the next one removes, or `python -m tests.vm.cluster`."""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab.commands import run
from tests.lab.model import PROJECT, LabError
from tests.vm import image, rootfs
from tests.vm.host import CODE, Host
from tests.vm.segment import Segment

# each clone has names of its own, short ones: a socket's path holds 107 characters
_MARK = hashlib.sha256(str(PROJECT).encode()).hexdigest()[:4]
FOLDER = Path(f"/var/tmp/qnet-vm-{_MARK}")
SEGMENT = Segment(f"qvm-{_MARK}")
TENANTS = {"shop": 100, "lab": 200}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The hosts and their wires."""

    hosts: list[Host]
    segment: Segment

    def on_all(self, action: Callable[[Host], object]) -> None:
        """Does something on all hosts at once; raises the first error."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            list(pool.map(action, self.hosts))

    def qnet(self, *args: str) -> None:
        """Runs the qnet command outside of the machines, which is ten times faster."""
        settings = f'QNET_ETCD_ENDPOINTS=["{rootfs.ETCD}"]'
        run(self.segment.inside(["env", settings, str(PROJECT / ".venv/bin/qnet"), *args]), timeout=60)


def remove() -> None:
    """Removes every trace; does nothing on a clean machine."""
    SEGMENT.remove()
    shutil.rmtree(FOLDER, ignore_errors=True)


def leftovers() -> list[str]:
    """What is on the machine of it; empty after `remove`."""
    return [*SEGMENT.leftovers(), *([str(FOLDER)] if FOLDER.exists() else [])]


@contextlib.contextmanager
def up(count: int = 2) -> Iterator[Cluster]:
    """Boots the hosts, with etcd, plugins, engines, an image and the tenants; they are gone at the end."""
    image.build()
    for folder in CODE:  # in the machines, Python would take many seconds for it at each first start
        compileall.compile_dir(PROJECT / folder, quiet=1)
    with (image.HERE / "running").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise LabError("this clone's virtual machines are up already") from taken
        remove()
        hosts = [Host(FOLDER, SEGMENT, index + 1) for index in range(count)]
        try:
            FOLDER.mkdir(parents=True)
            SEGMENT.create()
            cluster = Cluster(hosts, SEGMENT)
            for host in hosts:
                host.power_on()
            cluster.on_all(Host.wait)
            cluster.on_all(Host.install)
            hosts[0].start_etcd()
            cluster.on_all(Host.start_daemons)
            cluster.on_all(Host.load_image)
            for tenant, vlan in TENANTS.items():
                cluster.qnet("tenant", "create", tenant, "--vlan", str(vlan))
            yield cluster
        finally:
            for host in hosts:
                host.power_off()
            remove()


if __name__ == "__main__":
    remove()
