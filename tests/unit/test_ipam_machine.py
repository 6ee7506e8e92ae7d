"""Pools against a model: three hosts, requests, releases, restarts, crashes; never one address for two containers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from qnet.errors import Conflict, Exhausted
from tests.store.memory import MemoryStore
from tests.unit.world import GRACE, Clock, Container, Host, records

SUBNET = "10.77.0.0/28"
ALL = {f"10.77.0.{last}" for last in range(2, 15)}
HOSTS = st.sampled_from(["host1", "host2", "host3"])
LAST = st.integers(2, 14)
WHICH = st.integers(0, 99)  # not drawn from what there is: threads have a hand in that, and Hypothesis draws twice


def pick(found: Iterable[str], which: int) -> str:
    """One of them; empty if there is none."""
    names = sorted(found)
    return names[which % len(names)] if names else ""


class Pools(RuleBasedStateMachine):
    """`live` and `kept` are the model: which container has an address now, and which stopped one it is kept for."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store, self.clock = MemoryStore(), Clock()
        self.hosts = {
            name: Host(name, self.store, self.clock, Path(self.folder.name), seed)
            for seed, name in enumerate(("host1", "host2", "host3"))
        }
        for host in self.hosts.values():
            host.network("web", SUBNET, "10.77.0.1")
        self.boxes: dict[str, tuple[str, Container]] = {}
        self.leaked: dict[str, str] = {}  # address of half a start → host
        self.stale: set[str] = set()  # the same, of an instance of the engine that is gone: may be given again there
        self.number = 0

    def teardown(self) -> None:
        for host in self.hosts.values():
            host.close()
        self.store.close()
        self.folder.cleanup()

    def live(self) -> dict[str, str]:
        return {one.address: name for name, (_, one) in self.boxes.items() if one.address}

    def kept(self) -> dict[str, tuple[str, str]]:
        """Addresses of stopped containers that asked for them and have had them: address → (host, container)."""
        return {
            one.asked: (host, name)
            for name, (host, one) in self.boxes.items()
            if one.asked and one.started and not one.address and one.asked not in self.live()
        }

    def new(self, host: str, asked: str = "") -> Container:
        self.number += 1
        one = Container(f"c{self.number}", asked)
        self.boxes[one.id] = (host, one)
        return one

    def started(self, host: str, one: Container) -> None:
        before, kept = self.live(), self.kept()
        self.hosts[host].sync()
        address = self.hosts[host].start_container("web", one)
        assert address in ALL
        assert address not in before
        assert address not in self.leaked
        self.stale.discard(address)
        assert kept.get(address, (host, one.id)) == (host, one.id)

    @initialize(
        asked=st.lists(st.tuples(HOSTS, LAST), max_size=4, unique_by=lambda pair: pair[1]), more=st.integers(0, 9)
    )
    def populate(self, asked: list[tuple[str, int]], more: int) -> None:
        for host, last in asked:
            self.run_with_address(host, last)
        for number in range(more):
            self.run(f"host{number % 3 + 1}")

    @rule(host=HOSTS)
    def run(self, host: str) -> None:
        one = self.new(host)
        try:
            self.started(host, one)
        except Exhausted:
            assert {*self.live(), *self.kept(), *self.leaked, *self.stale, *self._held()} == ALL
            self.remove_box(one.id)

    @rule(host=HOSTS, last=LAST)
    def run_with_address(self, host: str, last: int) -> None:
        asked = f"10.77.0.{last}"
        one = self.new(host, asked)
        taken = asked in self.live() or asked in self.leaked or asked in self.stale or asked in self._held()
        try:
            self.started(host, one)
        except Conflict:
            assert taken
            self.remove_box(one.id)
        else:
            assert asked == one.address

    @rule(host=HOSTS, last=LAST)
    def half_a_start(self, host: str, last: int) -> None:
        """The engine dies between the request and the endpoint."""
        target = self.hosts[host]
        target.sync()
        try:
            given = target.service.request_address(target.engine.instance, target.engine.networks["web"], "")
        except Exhausted:
            return
        self.leaked[given.partition("/")[0]] = host

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        if name := pick(self.live().values(), which):
            host, one = self.boxes[name]
            self.hosts[host].stop_container(one)

    @rule(which=WHICH)
    def start_again(self, which: int) -> None:
        if not (address := pick(self.kept(), which)):
            return
        host, name = self.kept()[address]
        self.hosts[host].repair_once()
        self.started(host, self.boxes[name][1])
        assert self.boxes[name][1].address == address

    @rule(which=WHICH)
    def remove(self, which: int) -> None:
        if not (name := pick(self.boxes, which)):
            return
        host, one = self.boxes[name]
        if one.address:
            self.hosts[host].stop_container(one)
        self.remove_box(name)
        self.hosts[host].repair_once()
        if one.asked and one.started:
            assert one.asked not in self._held()

    def remove_box(self, name: str) -> None:
        host, _ = self.boxes.pop(name)
        self.hosts[host].engine.containers.pop(name, None)

    @rule(host=HOSTS)
    def crash_plugin(self, host: str) -> None:
        self.hosts[host].crash()

    @rule(host=HOSTS)
    def restart_engine(self, host: str) -> None:
        self.hosts[host].restart_engine()
        self.stale |= {address for address, owner in self.leaked.items() if owner == host}
        self.leaked = {address: owner for address, owner in self.leaked.items() if owner != host}

    @rule(host=HOSTS, which=WHICH)
    def ask_twice(self, host: str, which: int) -> None:
        """What is in use is refused to everyone, its own host too."""
        if not (address := pick(self.live(), which)):
            return
        target = self.hosts[host]
        with pytest.raises(Conflict):
            target.service.request_address(target.engine.instance, target.engine.networks["web"], address)

    @rule(host=HOSTS, last=LAST)
    def late_release(self, host: str, last: int) -> None:
        """A host gives back what it does not have."""
        address = f"10.77.0.{last}"
        owner = self.boxes[self.live()[address]][0] if address in self.live() else ""
        if host != owner and address not in self.leaked and address not in self.stale and address not in self._held():
            target = self.hosts[host]
            target.service.release_address(target.engine.networks["web"], address)

    @rule()
    def repair_all(self) -> None:
        for host in self.hosts.values():
            host.repaired()
            host.repaired()
        self.leaked.clear()
        self.stale.clear()
        assert set(records(self.store, "default", SUBNET)) == {"10.77.0.1", *self.live(), *self.kept()}

    def _held(self) -> set[str]:
        found = records(self.store, "default", SUBNET)
        return {address for address, record in found.items() if record.kind == "held"}

    @invariant()
    def every_live_container_has_its_own_record(self) -> None:
        found = records(self.store, "default", SUBNET)
        live = [one.address for _, one in self.boxes.values() if one.address]
        assert len(live) == len(set(live))
        for name, (host, one) in self.boxes.items():
            if one.address:
                record = found[one.address]
                assert (record.kind, record.host, record.endpoint) == ("endpoint", host, one.endpoint), name
        assert found["10.77.0.1"].kind == "gateway"


TestPools = Pools.TestCase
TestPools.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)

assert GRACE > 0
