"""All hosts and what they hold, in the memory of one process, with the indexes that let a placement look at a few only.

Whoever follows the store tells of changes one by one. Values are replaced, never changed: what was read stays so.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias, TypeVar

from scheduler.model import Container, Load, Machine, Policy, Port, Vitals
from scheduler.rules import Affinity, Spread

CLASSES = 256  # kinds of requests of which it is kept which hosts could ever take them
NOTHING, CALM = Load(), Vitals()
EMPTY: Mapping[str, int] = {}

Kind: TypeAlias = tuple[object, ...]
KeyT = TypeVar("KeyT")
Counts: TypeAlias = dict[str, int]  # plain ones: a Counter takes three times as long
Trait: TypeAlias = tuple[str, ...]  # tenant, subject, value; or tenant, group


class Class:
    """The hosts, by name and in order, that could take one kind of request if they had room; and by the values of
    labels that some request spread over."""

    def __init__(self, suits: Callable[[Machine], bool], machines: Iterable[Machine]) -> None:
        self._suits = suits
        self._values: dict[str, Values] = {}
        self.names: list[str] = sorted(machine.name for machine in machines if suits(machine))

    def by_value(self, spread: Spread, machines: Mapping[str, Machine]) -> Values:
        """Its hosts by their value of a label."""
        found = self._values.get(spread.label)
        if found is None:
            found = self._values[spread.label] = Values(Spread(spread.label))
            for name in self.names:
                found.add(machines[name])
        return found

    def change(self, name: str, old: Machine | None, new: Machine | None) -> None:
        """A host is not what it was."""
        was, now = old is not None and self._suits(old), new is not None and self._suits(new)
        if was:
            _drop(self.names, name)
        if now:
            insort(self.names, name)
        for values in self._values.values():
            if was and old is not None:
                values.drop(old)
            if now and new is not None:
                values.add(new)


class Values:
    """Hosts by their value of a label, in order; `names` are the values in order."""

    def __init__(self, spread: Spread) -> None:
        self._spread = spread
        self.hosts: dict[str, list[str]] = {}
        self.names: list[str] = []

    def add(self, machine: Machine) -> None:
        """A host more."""
        value = self._spread.value(machine.name, machine.labels)
        if value not in self.hosts:
            self.hosts[value] = []
            insort(self.names, value)
        insort(self.hosts[value], machine.name)

    def drop(self, machine: Machine) -> None:
        """A host less."""
        value = self._spread.value(machine.name, machine.labels)
        _drop(self.hosts[value], machine.name)
        if not self.hosts[value]:
            del self.hosts[value]
            _drop(self.names, value)


class Fleet:
    """See the module. Not for several threads at once."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.machines: dict[str, Machine] = {}
        self.vitals: dict[str, Vitals] = {}
        self.loads: dict[str, Load] = {}
        self.containers: dict[str, Container] = {}
        self._ids: dict[str, str] = {}
        """Names of containers by the engines' ids."""
        self._tenants: dict[str, list[int]] = {}
        """What the running containers of each take: CPUs, memory; and how many it has, stopped ones too."""
        self._hosts: dict[Trait, Counts] = {}
        """By what a container is or has, and by its group: how many of those each host has."""
        self._values: dict[tuple[str, str], Counts] = {}
        """By tenant and subject: how many containers have each value."""
        self._standing: dict[tuple[str, str], dict[str, Counts]] = {}
        """By tenant and group, then label: how many containers of the group stand at each value."""
        self._classes: OrderedDict[Kind, Class] = OrderedDict()

    # -- hosts -----------------------------------------------------------------------------------------------

    def set_machine(self, machine: Machine) -> None:
        """A host is there, or is not what it was."""
        old = self.machines.get(machine.name)
        self.machines[machine.name] = machine
        for known in self._classes.values():
            known.change(machine.name, old, machine)
        if old is None or old.labels != machine.labels:
            self._standing.clear()

    def drop_machine(self, name: str) -> None:
        """A host is gone; what it holds is told of by itself."""
        old = self.machines.pop(name, None)
        self.vitals.pop(name, None)
        self._standing.clear()
        for known in self._classes.values() if old else ():
            known.change(name, old, None)

    def set_vitals(self, name: str, vitals: Vitals) -> None:
        """How a host is doing."""
        self.vitals[name] = vitals

    # -- containers ------------------------------------------------------------------------------------------

    def put(self, container: Container) -> None:
        """A container is there, or is not what it was."""
        old = self.containers.get(container.name)
        self.containers[container.name] = container  # never gone in between, for those who look without a lock
        if old is not None:
            self._forget(old)
        if container.id:
            self._ids[container.id] = container.name
        self._count(container, 1)

    def remove(self, name: str) -> None:
        """A container is gone; one that is not known is no error."""
        container = self.containers.pop(name, None)
        if container is not None:
            self._forget(container)

    def _forget(self, container: Container) -> None:
        if self._ids.get(container.id) == container.name:
            del self._ids[container.id]
        self._count(container, -1)

    def by_id(self, prefix: str) -> list[Container]:
        """The container of that id, or those whose ids begin like that."""
        if prefix in self._ids:
            return [self.containers[self._ids[prefix]]]
        return [self.containers[name] for id_, name in self._ids.items() if prefix and id_.startswith(prefix)]

    def load(self, host: str) -> Load:
        """What a host's containers take."""
        return self.loads.get(host, NOTHING)

    def vital(self, host: str) -> Vitals:
        """How a host is doing, as far as is known."""
        return self.vitals.get(host, CALM)

    def taken(self, tenant: str) -> Load:
        """What a tenant's containers take; `running` counts all of them, stopped ones too."""
        cpus, memory, number = self._tenants.get(tenant, (0, 0, 0))
        return Load(cpus, memory, 0, number)

    # -- what placements ask ---------------------------------------------------------------------------------

    def suiting(self, kind: Kind, suits: Callable[[Machine], bool]) -> Class:
        """The hosts that `suits` holds for, which depends on the host alone and is the same for all of a kind."""
        found = self._classes.get(kind)
        if found is None:
            found = self._classes[kind] = Class(suits, self.machines.values())
            if len(self._classes) > CLASSES:
                self._classes.popitem(last=False)
        else:
            self._classes.move_to_end(kind)
        return found

    def beside(self, affinity: Affinity, tenant: str) -> Mapping[str, int]:
        """How many containers of a tenant that an affinity names each host has; whether they are wanted or not."""
        subject = affinity.subject
        if affinity.pattern.exact:
            return self._hosts.get((tenant, subject, affinity.pattern.text), EMPTY)
        found: Counts = {}
        for value in self._values.get((tenant, subject), ()):
            if affinity.pattern.matches(value):
                for host, number in self._hosts[tenant, subject, value].items():
                    found[host] = found.get(host, 0) + number
        return found

    def standing(self, tenant: str, group: str, spread: Spread) -> Mapping[str, int]:
        """How many containers of a tenant's group stand at each value of a label."""
        hosts = self._hosts.get((tenant, group))
        if hosts is None:
            return EMPTY
        labels = self._standing.setdefault((tenant, group), {})
        found = labels.get(spread.label)
        if found is None:
            found = labels[spread.label] = {}
            for host, number in hosts.items():
                value = self._value(spread.label, host)
                found[value] = found.get(value, 0) + number
        return found

    # -- counting --------------------------------------------------------------------------------------------

    def _count(self, container: Container, by: int) -> None:
        host = container.host
        load = self.load(host)
        ports = load.ports
        if container.ports:
            ports = _with_ports(ports, container.ports, by)
        run = by if container.running else 0
        self.loads[host] = Load(
            load.cpus + run * container.cpus,
            load.memory + run * container.memory,
            load.pids + run * container.pids,
            load.running + run,
            ports,
        )
        taken = self._tenants.get(container.tenant)
        if taken is None:
            taken = self._tenants[container.tenant] = [0, 0, 0]
        taken[0] += run * container.cpus
        taken[1] += run * container.memory
        taken[2] += by
        tenant = container.tenant
        for subject, value in _traits(container):
            _add(self._hosts, (tenant, subject, value), host, by)
            _add(self._values, (tenant, subject), value, by)
        if container.group:
            _add(self._hosts, (tenant, container.group), host, by)
            self._count_group(tenant, container.group, host, by)

    def _count_group(self, tenant: str, group: str, host: str, by: int) -> None:
        for label, counts in self._standing.get((tenant, group), {}).items():
            _bump(counts, self._value(label, host), by)
        if (tenant, group) not in self._hosts:
            self._standing.pop((tenant, group), None)

    def _value(self, label: str, host: str) -> str:
        machine = self.machines.get(host)
        return Spread(label).value(host, machine.labels) if machine else ""


def _with_ports(taken: Mapping[Port, int], ports: Iterable[Port], by: int) -> Mapping[Port, int]:
    """How often each port is taken, with some more or less."""
    found = dict(taken)
    for port in ports:
        found[port] = found.get(port, 0) + by
        if not found[port]:
            del found[port]
    return found


def _traits(container: Container) -> list[tuple[str, str]]:
    """What affinities may name a container by, for containers of the same tenant."""
    found = [("container", container.name), ("image", container.image)]
    if container.labels:
        found += container.labels.items()
    if container.volumes:
        found += [("volume", volume) for volume in container.volumes]
    return found


def _add(index: dict[KeyT, Counts], key: KeyT, name: str, by: int) -> None:
    """No key is kept for nothing."""
    counts = index.get(key)
    if counts is None:
        index[key] = {name: by}
        return
    _bump(counts, name, by)
    if not counts:
        del index[key]


def _bump(counts: Counts, name: str, by: int) -> None:
    number = counts.get(name, 0) + by
    if number > 0:
        counts[name] = number
    else:
        del counts[name]


def _drop(names: list[str], name: str) -> None:
    place = bisect_left(names, name)
    if place < len(names) and names[place] == name:
        del names[place]
