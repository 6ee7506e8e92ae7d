"""Which hosts can take a request: every filter says why not, so that a refusal and a dry run can tell.

Filters that look at the host alone decide once for all requests of a kind (`suits`); the others for each host that is
looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import msgspec

from scheduler.fleet import NOTHING, Class, Fleet, Kind
from scheduler.model import Machine, Request
from scheduler.rules import Affinity, Spread

GIB = 1 << 30


class Miss(msgspec.Struct, frozen=True):
    """Why a host cannot take a request. `what` belongs to the filter: a link, a rule. `has`: of what is measured, how
    much there is, of `asked`."""

    filter: str
    what: str = ""
    has: float = 0.0
    asked: float = 0.0


def tagged(image: str) -> str:
    """An image's name as engines list it."""
    named = "@" in image or ":" in image.rpartition("/")[2]  # an id is `sha256:` and digits
    return image if named or not image else f"{image}:latest"


def canonical(image: str) -> str:
    """An image's name as engines list it, of any of the ways to write it. Beside a digest, a tag says nothing."""
    for host in ("docker.io/", "index.docker.io/"):
        image = image.removeprefix(host)
    name, at, digest = image.partition("@")
    if at and ":" in name.rpartition("/")[2]:
        image = f"{name.rpartition(':')[0]}@{digest}"
    return tagged(image.removeprefix("library/") if not image.startswith("sha256:") else image)


class Case:
    """A request, and what of the fleet is the same for all hosts that are looked at for it."""

    def __init__(self, fleet: Fleet, request: Request) -> None:
        self.fleet = fleet
        self.request = request
        self.image = tagged(request.image)
        self.hard = tuple(rule for rule in request.constraints if rule.hard)
        self.soft = tuple(rule for rule in request.constraints if not rule.hard)
        self.beside: tuple[tuple[Affinity, Mapping[str, int]], ...] = tuple(
            (rule, fleet.beside(rule, request.tenant)) for rule in request.affinities
        )
        self.standing: tuple[tuple[Spread, Mapping[str, int]], ...] = tuple(
            (rule, fleet.standing(request.tenant, request.group, rule)) for rule in request.spreads
        )

    @cached_property
    def hosts(self) -> Class:
        """The hosts that could take it if they had room."""
        request = self.request
        of_host = (request.hosts, request.parents, request.networks, request.pinned, self.hard)
        kind: Kind = (request.tenant, request.platform, *of_host)
        return self.fleet.suiting(kind, lambda machine: next(_unfit(self, machine), None) is None)

    def suits(self, name: str) -> bool:
        """Whether a host could take it if it had room."""
        machine = self.fleet.machines.get(name)
        return machine is not None and next(_unfit(self, machine), None) is None

    def fits(self, machine: Machine) -> bool:
        """Whether a host that it suits can take it."""
        return next(self.lacks(machine), None) is None

    def misses(self, machine: Machine) -> Iterator[Miss]:
        """All that keeps the request off a host; nothing: it can take it."""
        yield from _unfit(self, machine)
        yield from self.lacks(machine)

    def lacks(self, machine: Machine) -> Iterator[Miss]:
        """What keeps it off a host that it suits."""
        fleet, request, name = self.fleet, self.request, machine.name
        load, policy = fleet.loads.get(name, NOTHING), fleet.policy
        if request.cpus:
            left = machine.cpus * policy.overcommit_cpus - load.cpus
            if left < request.cpus:
                yield Miss("cpus", "", left, request.cpus)
        if request.memory:
            left = machine.memory * policy.overcommit_memory - load.memory
            if left < request.memory:
                yield Miss("memory", "", left, request.memory)
        if machine.pids and machine.pids - load.pids < request.pids:
            yield Miss("pids", "", machine.pids - load.pids, request.pids)
        if request.disk and fleet.vital(name).disk < request.disk:
            yield Miss("disk", "", fleet.vital(name).disk, request.disk)
        for port in request.ports:
            if port in load.ports:
                yield Miss("port", f"{port[1]}/{port[0]}")
        for affinity, found in self.beside:
            if affinity.hard and (name in found) is not affinity.wanted:
                yield Miss("affinity", str(affinity))
        for spread, counts in self.standing:
            if spread.most and counts.get(spread.value(name, machine.labels), 0) >= spread.most:
                yield Miss("spread", f"{spread.label}:max_per={spread.most}")


def _unfit(case: Case, machine: Machine) -> Iterator[Miss]:
    """What of a host itself, whatever it holds, keeps a request off it."""
    request = case.request
    if machine.state != "ready":
        yield Miss(machine.state)
    for part in machine.trouble:
        yield Miss("trouble", part)
    if machine.tenants and request.tenant not in machine.tenants:
        yield Miss("tenant", request.tenant)
    if request.hosts and machine.name not in request.hosts:
        yield Miss("host", ", ".join(sorted(request.hosts)))
    if request.platform and request.platform != machine.platform:
        yield Miss("platform", request.platform)
    for parent in sorted(request.parents - machine.parents):
        yield Miss("parent", parent)
    for network in sorted(request.networks):
        there = machine.networks.get(network)
        if there is None or there.tenant != request.tenant:  # another's of the same name is another one
            yield Miss("network", network)
    for volume in sorted(request.pinned - machine.volumes):
        yield Miss("volume", volume)
    for constraint in case.hard:
        if not constraint.holds(machine.name, machine.labels):
            yield Miss("constraint", str(constraint))


PHRASES: Mapping[str, tuple[str, str]] = {
    "drain": ("is drained", "are drained"),
    "down": ("is down", "are down"),
    "trouble": ("has trouble with {}", "have trouble with {}"),
    "tenant": ("is not for tenant {}", "are not for tenant {}"),
    "host": ("is not {}", "are not {}"),
    "platform": ("is not {}", "are not {}"),
    "parent": ("has no parent {}", "have no parent {}"),
    "network": ("does not have network {}", "do not have network {}"),
    "volume": ("does not have volume {}", "do not have volume {}"),
    "constraint": ("fails {}", "fail {}"),
    "cpus": ("lacks CPUs", "lack CPUs"),
    "memory": ("lacks memory", "lack memory"),
    "pids": ("lacks pids", "lack pids"),
    "disk": ("lacks disk", "lack disk"),
    "port": ("has port {} taken", "have port {} taken"),
    "affinity": ("fails {}", "fail {}"),
    "spread": ("is where {} is reached", "are where {} is reached"),
}
MEASURED = {"cpus", "memory", "pids", "disk"}


def said(miss: Miss) -> str:
    """Why one host cannot take it."""
    text = PHRASES[miss.filter][0].format(miss.what)
    return f"{text}: {_of(miss)}" if miss.filter in MEASURED else text


def refusal(case: Case) -> str:
    """Why no host can take it: each filter with the number of hosts that it was the first to drop, and the nearest miss
    of what is measured."""
    counts: dict[tuple[str, str], list[tuple[Miss, str]]] = {}
    for machine in sorted(case.fleet.machines.values(), key=lambda one: one.name):
        miss = next(case.misses(machine), None)
        if miss is not None:
            counts.setdefault((miss.filter, miss.what), []).append((miss, machine.name))
    if not counts:
        return "no host: none is registered" if not case.fleet.machines else "no host: it would be taken now, try again"
    parts = []
    for (kind, what), found in sorted(counts.items(), key=lambda item: -len(item[1])):
        text = f"{len(found)} {PHRASES[kind][len(found) > 1].format(what)}".replace(" is drained", " drained")
        if kind in MEASURED:
            nearest, name = max(found, key=lambda one: one[0].has)
            text += f" (most free: {name} {_of(nearest)})"
        parts.append(
            text.replace(" are drained", " drained").replace(" is down", " down").replace(" are down", " down")
        )
    return f"no host: {', '.join(parts)}"


def _of(miss: Miss) -> str:
    return f"{_amount(miss.filter, max(0.0, miss.has))} of {_amount(miss.filter, miss.asked)} asked"


def _amount(kind: str, value: float) -> str:
    if kind == "cpus":
        return f"{_rounded(value / 1000)} CPUs"
    return f"{_rounded(value / GIB)} GiB" if kind in ("memory", "disk") else f"{value:g}"


def _rounded(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
