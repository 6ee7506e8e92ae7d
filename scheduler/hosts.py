"""Hosts as operators see and steer them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from qnet import schema
from qnet.errors import Conflict, InvalidRequest
from qnet.store.base import Delete, Op, Store, Txn
from qnet.store.recipes import cas_update
from scheduler.commit import Desk
from scheduler.model import Orders, State
from scheduler.rules import LABEL
from scheduler.view import LEDGERS, MACHINES, ORDERS, VITALS, View, key

LONGEST = 128


class HostView(msgspec.Struct, frozen=True):
    """A host: what it is, what of it is promised, how busy it is. CPUs in thousandths, memory and disk in bytes."""

    name: str
    state: State
    engine: str
    platform: str
    labels: Mapping[str, str]
    trouble: tuple[str, ...]
    cpus: int
    memory: int
    pids: int
    taken_cpus: int
    taken_memory: int
    running: int
    containers: int
    usage: float
    usage_minutes: float
    usage_hours: float
    disk_free: int
    images: tuple[str, ...]
    networks: tuple[str, ...]
    parents: tuple[str, ...]
    volumes: tuple[str, ...]
    tenants: tuple[str, ...]
    failures: int
    url: str
    since: str


class HostChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`state`: `ready` or `drain`. `labels`: over those of the host's settings; an empty text takes one away, null
    gives back what the settings say."""

    state: str | None = None
    labels: Mapping[str, str | None] = {}


class Hosts:
    """See the module."""

    def __init__(self, store: Store, view: View, desk: Desk) -> None:
        self._store = store
        self._view = view
        self._desk = desk

    def all(self) -> list[HostView]:
        """All hosts by name."""
        counts: dict[str, int] = {}
        for container in self._view.containers():
            counts[container.host] = counts.get(container.host, 0) + 1
        names = sorted(machine.name for machine in self._view.machines())
        return [self._of(name, counts.get(name, 0)) for name in names]

    def get(self, name: str) -> HostView:
        """One host. Raises NotFound."""
        return self._of(name, sum(one.host == name for one in self._view.containers()))

    def change(self, name: str, wanted: HostChange) -> HostView:
        """Drain a host, make it ready again, label it. Raises NotFound, InvalidRequest, Conflict."""
        self._view.machine(name)
        if wanted.state not in (None, "ready", "drain"):
            raise InvalidRequest(f"state {str(wanted.state)[:32]!r}: ready or drain")
        for label, text in wanted.labels.items():
            if not LABEL.fullmatch(label) or len(text or "") > LONGEST:
                raise InvalidRequest(f"label {label[:64]!r}: letters, digits and ._/-, value up to {LONGEST} of any")

        def changed(found: object) -> bytes:
            value = getattr(found, "value", b"")
            before = schema.decode(value, Orders, name) if value else Orders()
            labels = {**before.labels, **wanted.labels}
            kept = {label: text for label, text in labels.items() if text is not None}
            state = wanted.state or before.state
            return schema.encode(Orders(state="drain" if state == "drain" else "ready", labels=kept))

        self._view.catch_up(cas_update(self._store, key(ORDERS, name), changed))
        return self.get(name)

    def forget(self, name: str) -> int:
        """Forget a host that is gone for good, with its containers: their addresses are free. Returns how many.

        Raises:
            NotFound: it is not known.
            Conflict: it is not down.
        """
        if self._view.machine(name).state != "down":
            raise Conflict(f"host {name} is not down: stop its agent first")
        mine = [container for container in self._view.containers() if container.host == name]
        for container in mine:
            self._desk.remove(container, hold=container.hold > 0)
        kinds = (MACHINES, VITALS, ORDERS, LEDGERS)
        ops: tuple[Op, ...] = tuple(Delete(key(kind, name)) for kind in kinds)
        self._view.catch_up(self._store.txn(Txn((), ops)).revision)
        return len(mine)

    def _of(self, name: str, containers: int) -> HostView:
        machine, load, vitals = self._view.machine(name), self._view.load(name), self._view.vitals(name)
        return HostView(
            name=name,
            state=machine.state,
            engine=machine.engine,
            platform=machine.platform,
            labels=machine.labels,
            trouble=machine.trouble,
            cpus=machine.cpus,
            memory=machine.memory,
            pids=machine.pids,
            taken_cpus=load.cpus,
            taken_memory=load.memory,
            running=load.running,
            containers=containers,
            usage=vitals.now,
            usage_minutes=vitals.minutes,
            usage_hours=vitals.hours,
            disk_free=vitals.disk,
            images=tuple(sorted(vitals.images)),
            networks=tuple(sorted(machine.networks)),
            parents=tuple(sorted(machine.parents)),
            volumes=tuple(sorted(machine.volumes)),
            tenants=tuple(sorted(machine.tenants)),
            failures=vitals.failures,
            url=machine.url,
            since=machine.since,
        )
