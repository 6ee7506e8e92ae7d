"""Volumes under whatever users of two hosts do, and deaths of plugins: what must hold always."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qnet.errors import Conflict, NotFound, QnetError
from tests.unit.volume_world import Host, World

NAMES, USERS, HOSTS = st.sampled_from(("aa", "bb")), st.sampled_from(("u1", "u2", "u3")), st.integers(0, 1)


class Volumes(RuleBasedStateMachine):
    """A model beside the plugins: which volumes there are, and who has mounted them where."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name))
        self.there: dict[str, str] = {}  # names, with the ids of what was made
        self.users: dict[tuple[int, str], set[str]] = {}
        self.content: dict[str, int] = {}  # of volumes, by their ids

    def host(self, number: int) -> Host:
        return (self.world.one, self.world.two)[number]

    def mounted(self, name: str) -> bool:
        return any(users for (_, each), users in self.users.items() if each == name)

    @rule(number=HOSTS, name=NAMES)
    def create(self, number: int, name: str) -> None:
        self.host(number).service.create(name, {"size": "1G"})
        made = self.there.setdefault(name, self.world.volume(name).id)
        assert self.world.volume(name).id == made
        self.world.pool.homes[made] = self.content.setdefault(made, len(self.content) + 1)

    @rule(number=HOSTS, name=NAMES, step=st.sampled_from(("prepare", "make", "limit", "fill")))
    def create_half(self, number: int, name: str, step: str) -> None:
        """A create that fails leaves nothing, unless the volume was there."""
        pool = self.world.pool
        pool.fails_at = step
        try:
            self.host(number).service.create(name, {"size": "1G"})
        except QnetError:
            assert name not in self.there
        else:
            assert name in self.there
        pool.fails_at = ""

    @rule(number=HOSTS, name=NAMES, user=USERS)
    def mount(self, number: int, name: str, user: str) -> None:
        try:
            self.host(number).service.mount(name, user)
        except NotFound:
            assert name not in self.there
            return
        self.users.setdefault((number, name), set()).add(user)

    @rule(number=HOSTS, name=NAMES, user=USERS)
    def unmount(self, number: int, name: str, user: str) -> None:
        self.host(number).service.unmount(name, user)
        self.users.get((number, name), set()).discard(user)

    @rule(number=HOSTS, name=NAMES)
    def remove(self, number: int, name: str) -> None:
        try:
            self.host(number).service.remove(name)
        except NotFound:
            assert name not in self.there
        except Conflict:
            assert self.mounted(name)
        else:
            assert not self.mounted(name)
            self.there.pop(name)

    @rule(number=HOSTS, name=NAMES)
    def undelete(self, number: int, name: str) -> None:
        gone = [one.volume.id for one in self.world.one.repository.restorable() if one.volume.name == name]
        try:
            back = self.host(number).service.undelete(name)
        except (NotFound, Conflict):
            assert name in self.there or not gone
        else:
            assert name not in self.there
            self.there[name] = back.id

    @rule(number=HOSTS)
    def compare(self, number: int) -> None:
        """The engine runs whoever has mounted something."""
        host = self.host(number)
        host.running = {
            f"{name}-{user}": name for (at, name), users in self.users.items() if at == number for user in users
        }
        host.compared(2)
        assert all(one.moved for one in host.repository.trash())
        assert {path.rpartition("/")[2] for path in self.world.pool.limits} == set(self.there.values())

    @rule(number=HOSTS)
    def die(self, number: int) -> None:
        """The plugin ends, and another begins."""
        host = self.host(number)
        host.close()
        host.start()

    @rule(number=HOSTS, name=NAMES)
    def lose_a_client(self, number: int, name: str) -> None:
        host = self.host(number)
        if name in self.there:
            host.mounts.dead.add(host.holder.target(self.there[name]))

    @invariant()
    def what_is_there_is_shown(self) -> None:
        for host in (self.world.one, self.world.two):
            assert {one.record.name: one.record.id for one in host.service.all()} == self.there

    @invariant()
    def what_is_used_is_mounted_and_nothing_else(self) -> None:
        for number in (0, 1):
            host = self.host(number)
            used = {self.there[name] for (at, name), users in self.users.items() if at == number and users}
            assert {target.name for target in host.mounts.all()} == used
            assert {held.id: set(held.mounts) for held in host.held.all() if held.mounts} == {
                self.there[name]: users for (at, name), users in self.users.items() if at == number and users
            }

    @invariant()
    def each_volume_has_its_data_and_limit(self) -> None:
        for volume in self.there.values():
            assert self.world.pool.homes[volume] == self.content[volume]
            assert any(path.endswith(volume) for path in self.world.pool.limits)

    def teardown(self) -> None:
        for host in (self.world.one, self.world.two):
            host.close()
        self.world.store.close()
        self.folder.cleanup()


TestVolumes = Volumes.TestCase
TestVolumes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
