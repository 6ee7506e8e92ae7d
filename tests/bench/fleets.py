"""Simulated hosts and requests for the figures of placement."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from scheduler.model import Machine, Request
from scheduler.rules import parse

HOSTS, RACK, SWITCH = 5_000, 40, 400
GIB = 1 << 30
GROUP = 40  # containers that are spread together, or keep apart
KINDS = ("plain", "constraint", "spread", "at most one", "apart", "volume")
MIX = ("plain", "plain", "plain", "plain", "constraint", "constraint", "spread", "at most one", "apart", "volume")
RULES: Mapping[str, Mapping[str, str]] = {
    "constraint": {"qnet.constraint": "disk==ssd,rack!=r1*"},
    "spread": {"qnet.spread": "rack,host"},
    "at most one": {"qnet.spread": "host:max_per=1"},
}


def machines() -> Iterator[Machine]:
    """Hosts of 64 CPUs and 256 GiB; one of ten has a volume that the others have not."""
    for number in range(HOSTS):
        labels = {"rack": f"r{number // RACK}", "switch": f"s{number // SWITCH}", "disk": ("hdd", "ssd")[number % 2]}
        yield Machine(
            name=f"host{number:04}",
            cpus=64_000,
            memory=256 * GIB,
            labels=labels,
            parents=frozenset({"eth1"}),
            volumes=frozenset({"local"} if number % 10 == 0 else ()),
        )


def request(number: int, kind: str, prefix: str = "c") -> Request:
    """One of a kind: half a CPU and a GiB."""
    app = f"{prefix}{number // GROUP}"
    labels = {"app": app}
    rules = parse({"qnet.affinity": f"app!={app}"} if kind == "apart" else RULES.get(kind, {}))
    return Request(
        name=f"{prefix}{number}",
        image=f"image{number % 50}",
        cpus=500,
        memory=GIB,
        parents=frozenset({"eth1"}),
        pinned=frozenset({"local"} if kind == "volume" else ()),
        labels=labels,
        group=app if kind in ("spread", "at most one") else "",
        constraints=rules.constraints,
        affinities=rules.affinities,
        spreads=rules.spreads,
    )


def requests(count: int, kinds: Sequence[str], prefix: str = "c") -> list[Request]:
    """So many, of these kinds in turn."""
    return [request(number, kinds[number % len(kinds)], prefix) for number in range(count)]
