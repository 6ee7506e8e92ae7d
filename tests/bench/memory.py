"""How much memory the plugin of one host has."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench.crew import Crew
from tests.bench.model import Goal, Measured
from tests.bench.networks import QNET, QNET_SUBNET, make_networks
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints
from tests.lab.host import Host

IDLE = Goal("plugin's resident memory, idle", "MB", "≤", 100)
LARGE = Goal("plugin's resident memory with 60,000 addresses in the cluster", "MB", "≤", 180)
GOALS = (IDLE, LARGE)
ADDRESSES = 60_000
SETTLE = 3.0
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Memory:
    """Of all processes of one plugin, in MB: what is theirs in proportion (PSS), resident, and at its highest."""

    pss: float
    rss: float
    peak: float

    def __str__(self) -> str:
        return f"PSS {self.pss:.1f} MB; RSS {self.rss:.1f} MB (pages that its processes share count twice); " + (
            f"highest RSS {self.peak:.1f} MB"
        )


def measure(lab: Lab) -> Iterator[Measured]:
    """The other hosts' plugins are stopped: pages shared with them would make this one look smaller. So would those of
    another lab on this machine; RSS is the upper bound."""
    host = lab.hosts[0]
    for other in lab.hosts[1:]:
        other.stop_plugin()
    time.sleep(SETTLE)
    idle = memory_of(host)
    yield Measured(IDLE, idle.pss, str(idle))

    with Crew([host], "fill", endpoint=endpoints(host.members)[0]) as filler:
        filler.order(pool=QNET_SUBNET, count=ADDRESSES, own=host.name)
    make_networks([host])
    for _ in range(5):
        host.docker("run", "--rm", "--network", QNET, "busybox", "true")
    time.sleep(SETTLE)
    large = memory_of(host)
    yield Measured(LARGE, large.pss, f"{large}; idle {idle.pss:.1f} MB")


def memory_of(host: Host) -> Memory:
    """Sum over the plugin's processes."""
    pids = _family(host.plugin.pid or 0)
    found = [(Path(f"/proc/{pid}/smaps_rollup").read_text(), Path(f"/proc/{pid}/status").read_text()) for pid in pids]
    return Memory(
        sum(_field(rollup, "Pss") for rollup, _ in found),
        sum(_field(rollup, "Rss") for rollup, _ in found),
        sum(_field(status, "VmHWM") for _, status in found),
    )


def resident() -> float:
    """This process's PSS, in MB."""
    return _field(Path("/proc/self/smaps_rollup").read_text(), "Pss")


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def _field(text: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"the kernel does not tell {name}")
    return int(found[1]) * 1024 / MEGABYTE
