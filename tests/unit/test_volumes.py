"""The volume plugin's service on fakes: one store, hosts with a plugin each, one pool."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from plugins.volume import model
from plugins.volume.directories import place
from plugins.volume.meter import METRICS, TRAFFIC, Meter
from plugins.volume.ports import Rates, Usage
from qnet import schema
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, QnetError, Unavailable
from qnet.schema import TenantRecord, VolumeRecord
from qnet.store.base import Put, Txn
from qnet.tenants import Change
from tests.unit.volume_world import GIB, POOL, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for host in (world.one, world.two):
        host.close()
    world.store.close()


# -- what is asked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1M", 1 << 20),
        ("10G", 10 * GIB),
        ("10GiB", 10 * GIB),
        ("10gb", 10**10),
        ("1.5g", 3 * GIB // 2),
        ("2097152", 1 << 21),
    ],
)
def test_sizes_are_binary_but_for_those_in_bytes_of_a_thousand(text: str, size: int) -> None:
    assert model.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "-1", "1e400", "10X", "0", "1K", "9P", "1" * 400, "\uff11G", "1G\n", "nan", " 1G"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="a size from 1M to 8P"):
        model.parse_size(text)


@pytest.mark.parametrize("size", [1 << 20, 3 * GIB, 10**10, 1 << 40])
def test_a_size_is_shown_as_it_can_be_typed(size: int) -> None:
    assert model.parse_size(model.show_size(size)) == size


NO_NAMES = [
    "",
    "..",
    "a/b",
    "../../etc/x",
    "-o",
    "a b;c",
    "a\nb",
    "x" * 129,
    "é",
    ".hidden",
    "a..b",
    "a\0",
    "x" * 65536,
]


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: ascii(name[:20]))
def test_names_that_engines_let_through_are_refused(world: World, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: world.one.service.create(name, {}),
        lambda: world.one.service.mount(name, "1"),
        lambda: world.one.service.unmount(name, "1"),
        lambda: world.one.service.remove(name),
        lambda: world.one.service.inspect(name),
        lambda: world.one.service.undelete(name),
        lambda: world.one.service.resize(name, GIB),
    ]
    for call in calls:
        with pytest.raises(InvalidRequest, match="is no name of a volume"):
            call()
    assert world.pool.steps == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"sise": "1G"},
            "-o sise: no such option; there are: size, inodes, tenant, pool, mode, uid, gid, retain,",
        ),
        ({"size": "-1"}, "-o size=-1: a size"),
        ({"inodes": "0"}, "-o inodes=0: a number from 1"),
        ({"bps": "1k"}, "-o bps=1k: bytes per second from 64K to 12.5GB, such as 20M"),
        ({"read_iops": "1.5"}, "-o read_iops=1.5: a number from 1 to 200000"),
        ({"mode": "999"}, "-o mode=999: permissions"),
        ({"uid": "-1"}, "-o uid=-1: a number"),
        ({"strict": "yes"}, "-o strict=yes: true or false"),
        ({"retain": "ever"}, "-o retain=ever: what becomes of the data: delete, trash, keep"),
        ({"tenant": "No"}, "'No' is no tenant"),
        ({"tenant": "nobody"}, "nobody"),
        ({"pool": "other"}, "there is no pool other; there are: main"),
        ({"from": "none"}, "-o from=none: tenant default has no such volume"),
        ({"from": "a", "uid": "5"}, "-o uid together with -o from: a copy has the permissions"),
    ],
)
def test_options_that_make_no_sense_make_nothing(world: World, options: dict[str, str], says: str) -> None:
    with pytest.raises(QnetError, match=says):
        world.one.service.create("data", options)
    assert world.pool.steps == []
    assert world.one.repository.shown() == []


# -- life ----------------------------------------------------------------------------------------------------


def test_a_volume_is_there_for_all_hosts(world: World) -> None:
    world.one.service.create("data", {"size": "1G", "inodes": "500", "mode": "770", "uid": "5"})
    made = world.volume()
    assert (made.size, made.inodes, made.mode, made.uid, made.ready) == (GIB, 500, "0770", 5, True)
    assert world.pool.limits == {place(made): (GIB, 500)}
    assert world.two.service.mount("data", "m1") == f"/mounts/{made.id}/data"
    assert world.two.service.inspect("data").usage == Usage(0, GIB)


def test_a_create_is_repeated_without_harm_and_names_what_differs(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    for options in ({"size": "1024M"}, {}, None, {"retain": "trash"}):
        world.two.service.create("data", options)
    with pytest.raises(Conflict, match="exists with size=1G, not 2G: qnet volume resize data SIZE changes it"):
        world.two.service.create("data", {"size": "2G"})
    with pytest.raises(Conflict, match="belongs to another tenant"):
        world.two.service.create("data", {"tenant": "shop"})
    assert len(world.pool.homes) == 1


@pytest.mark.parametrize("step", ["prepare", "make", "limit", "fill"])
def test_a_create_that_fails_leaves_nothing(world: World, step: str) -> None:
    real = getattr(world.pool, step)

    def fail(*args: Any) -> None:
        real(*args)
        raise Unavailable("no glusterd")

    setattr(world.pool, step, fail)
    with pytest.raises(Unavailable, match="no glusterd"):
        world.one.service.create("data", {"size": "1G"})
    setattr(world.pool, step, real)
    assert world.one.repository.shown() == []
    world.one.compared(2)
    assert (world.pool.homes, world.pool.trash, world.pool.limits) == ({}, {}, {})
    assert world.one.repository.trash() == []
    world.one.service.create("data", {"size": "1G"})


def test_a_create_that_a_crash_cut_off_is_finished_by_who_asks(world: World) -> None:
    record = VolumeRecord(name="data", id="abc", tenant="default", pool="main", since="", size=GIB)
    assert world.one.repository.add(record, TenantRecord(name="default", since=""))
    world.two.service.mount("data", "m1")
    assert world.volume().ready
    assert world.pool.limits == {place(record): (GIB, 0)}


def test_a_volume_without_a_limit_gets_none_below_what_it_has(world: World) -> None:
    world.one.service.create("data", {})
    world.pool.homes[world.volume().id] = 3 << 20
    assert world.one.service.inspect("data").usage is None
    with pytest.raises(InvalidRequest, match="has 3,145,728 bytes, more than 2M"):
        world.one.service.resize("data", 2 << 20)
    assert world.one.service.resize("data", 4 << 20).size == 4 << 20


def test_one_strict_volume_makes_its_pool_strict(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    assert not world.pool.strict
    world.two.service.create("exact", {"size": "1G", "strict": "true"})
    assert world.pool.strict
    with pytest.raises(Conflict, match="volume exact exists with strict=True, not false"):
        world.two.service.create("exact", {"strict": "false"})


def test_a_copy_goes_on_by_itself(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    world.pool.homes[world.volume().id] = 77
    with pytest.raises(NotFound, match="-o from=data: tenant shop has no such volume"):
        world.two.service.create("copy", {"from": "data", "tenant": "shop"})
    world.pool.homes[world.volume().id] = 2 << 20
    with pytest.raises(InvalidRequest, match="volume data has 2,097,152 bytes, more than 1M"):
        world.two.service.create("copy", {"from": "data", "size": "1M"})
    world.pool.homes[world.volume().id] = 77
    world.two.service.create("copy", {"from": "data", "size": "2G"})
    copy = world.volume("copy")
    assert (world.pool.homes[copy.id], copy.source, copy.source_id) == (77, "data", "")
    world.one.service.create("copy", {"from": "data"})
    world.one.service.remove("data")
    assert world.one.service.resize("copy", 3 * GIB).ready
    assert world.pool.homes[copy.id] == 77


def test_a_copy_of_what_was_removed_meanwhile_is_none(world: World) -> None:
    world.one.service.create("data", {})
    cut = VolumeRecord(
        name="copy", id="abc", tenant="default", pool="main", since="", source="data", source_id="another"
    )
    assert world.one.repository.add(cut, TenantRecord(name="default", since=""))
    with pytest.raises(NotFound, match="volume data, which copy was to be a copy of, was removed"):
        world.two.service.mount("copy", "m1")


def test_a_lock_of_a_host_that_died_is_waited_for(world: World) -> None:
    lease = world.store.grant(60)
    world.store.txn(Txn((), (Put(schema.volume_lock_key("main"), b"host9", lease),)))
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(world.one.service.create, "data", {})
        time.sleep(0.1)
        assert not doing.done()
        assert world.pool.steps == []
        world.store.revoke(lease)  # as its time runs out
        doing.result(5)
    assert world.volume().ready


def test_a_resize_goes_both_ways_but_not_below_what_is_there(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    volume = world.volume()
    world.pool.homes[volume.id] = 3 << 20
    assert world.two.service.resize("data", 2 * GIB).size == 2 * GIB
    assert world.one.service.resize("data", 4 << 20).ready
    assert world.pool.limits[place(volume)] == (4 << 20, 0)
    with pytest.raises(InvalidRequest, match="has 3,145,728 bytes, more than 2M"):
        world.one.service.resize("data", 2 << 20)
    world.pool.answers = False
    with pytest.raises(Unavailable, match="does not answer"):
        world.one.service.resize("data", GIB)
    assert world.volume().size == 4 << 20


def test_a_tenants_volumes_fit_its_limit_together(world: World) -> None:
    world.tenants.change("shop", Change(max_volumes=10 << 20))
    with pytest.raises(InvalidRequest, match="tenant shop has a limit for its volumes: give volume a a size"):
        world.one.service.create("a", {"tenant": "shop"})
    world.one.service.create("a", {"tenant": "shop", "size": "6M"})
    world.one.service.create("other", {"size": "1G"})
    for refused in (
        lambda: world.two.service.create("b", {"tenant": "shop", "size": "5M"}),
        lambda: world.two.service.resize("a", 11 << 20),
    ):
        with pytest.raises(Exhausted, match="tenant shop has volumes of"):
            refused()
    world.two.service.resize("a", 10 << 20)
    world.two.service.resize("a", 2 << 20)
    world.two.service.create("b", {"tenant": "shop", "size": "8M"})
    world.one.service.remove("b")
    world.one.service.create("c", {"tenant": "shop", "size": "8M"})
    with pytest.raises(Exhausted):
        world.one.service.undelete("b")


def test_hosts_that_create_at_once_do_not_go_beyond_it_together(world: World) -> None:
    world.tenants.change("shop", Change(max_volumes=5 << 20))

    def create(number: int) -> bool:
        try:
            (world.one, world.two)[number % 2].service.create(f"v{number}", {"tenant": "shop", "size": "1M"})
        except Exhausted:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(create, range(12))) == 5
    assert sum(one.size for one in world.one.repository.shown()) == 5 << 20


def test_a_tenant_with_volumes_stays(world: World) -> None:
    world.one.service.create("data", {"tenant": "shop"})
    for change in (lambda: world.tenants.remove("shop"), lambda: world.tenants.rename("shop", "store")):
        with pytest.raises(Conflict, match="while it has volume data"):
            change()
    world.tenants.change("shop", Change(vlan=200))  # what its frames carry is nothing to its volumes
    world.one.service.remove("data")
    world.tenants.remove("shop")
    with pytest.raises(NotFound, match="tenant shop does not exist"):
        world.one.service.undelete("data")


# -- mounts --------------------------------------------------------------------------------------------------


def test_one_client_serves_all_users_of_a_host(world: World) -> None:
    world.one.service.create("data", {})
    for user in ("a", "b", "b"):  # an engine repeats itself
        world.one.service.mount("data", user)
    target = world.one.holder.target(world.volume().id)
    assert world.one.mounts.made == 1
    world.one.service.unmount("data", "b")
    world.one.service.unmount("data", "b")
    world.one.service.unmount("data", "never")
    assert target in world.one.mounts.there
    world.one.service.unmount("data", "a")
    assert world.one.mounts.there == {}
    assert world.store.range(schema.VOLUME_MOUNTS).kvs == ()
    assert world.one.held.all() == ()


def test_a_mount_that_fails_holds_nothing(world: World) -> None:
    world.one.service.create("data", {})
    world.one.mounts.fails = True
    with pytest.raises(Unavailable, match="cannot mount"):
        world.one.service.mount("data", "a")
    assert world.one.held.all() == ()
    world.two.service.remove("data")


def test_counts_outlive_the_plugin(world: World) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    world.one.service.mount("data", "b")
    world.one.close()
    world.one.start()
    world.one.service.unmount("data", "a")
    assert world.one.mounts.there
    world.one.service.unmount("data", "b")
    assert world.one.mounts.there == {}


def test_what_somebody_else_still_uses_is_not_unmounted(world: World) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    (device,) = world.one.mounts.there.values()
    world.one.mounts.used[device] = [4711]
    world.one.service.unmount("data", "a")
    assert world.one.mounts.there
    with pytest.raises(Conflict, match="in use on host1"):
        world.two.service.remove("data")
    world.one.mounts.used.clear()
    world.one.compared(2)
    assert world.one.mounts.there == {}
    world.two.service.remove("data")


def test_an_engine_that_was_killed_unmounts_nothing_so_repair_does(world: World) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    world.one.running["web"] = "data"
    world.one.compared(3)
    assert world.one.mounts.there
    world.one.running.clear()
    world.one.compared()
    assert world.one.mounts.there  # seen once
    world.one.compared()
    assert world.one.mounts.there == {}


def test_a_start_that_takes_long_keeps_its_volume(world: World) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    world.one.starting = frozenset({"c1"})
    world.one.compared(4)
    assert world.one.mounts.there
    world.one.starting = frozenset()
    world.one.compared(2)
    assert world.one.mounts.there == {}


def test_a_dead_client_is_replaced_and_who_had_it_is_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    world.one.running["web"] = "data"
    target = world.one.holder.target(world.volume().id)
    world.one.mounts.dead.add(target)
    world.one.compared()
    assert target in world.one.mounts.clients()
    assert "the client of volume data is dead; to be restarted: web" in caplog.text


# -- removal -------------------------------------------------------------------------------------------------


def test_a_volume_that_a_host_has_is_not_removed(world: World) -> None:
    world.one.service.create("data", {})
    world.one.service.mount("data", "a")
    world.one.running["web"] = "data"
    world.heard(world.one, lambda: bool(world.one.repository.mounted("data")))
    world.one.compared()
    with pytest.raises(Conflict, match="volume data is in use on host1 by web"):
        world.two.service.remove("data")


@pytest.mark.parametrize(("retain", "left"), [("delete", 0), ("trash", 1), ("keep", 1)])
def test_what_is_removed_is_kept_as_was_asked(world: World, retain: str, left: int) -> None:
    world.one.service.create("data", {"size": "1G", "retain": retain})
    world.one.service.remove("data")
    with pytest.raises(NotFound):
        world.one.service.inspect("data")
    world.one.compared(2)
    assert (world.pool.homes, len(world.pool.trash), world.pool.limits) == ({}, left, {})
    world.clock.passed += timedelta(days=8).total_seconds()
    world.two.compared()
    assert len(world.pool.trash) == (retain == "keep")


def test_a_limited_volume_has_a_lane_that_follows_its_limits(world: World) -> None:
    world.one.service.create("data", {"bps": "10M", "read_iops": "100"})
    volume = world.volume()
    world.one.service.mount("data", "a")
    assert world.one.lanes.there == {volume.id: Rates(10 << 20, 100, 1.0)}
    assert set(world.one.mounts.namespaces.values()) == {f"lane-{volume.id}"}
    world.heard(world.one, lambda: bool(world.one.repository.mounted("data")))
    assert world.two.service.limit("data", 1 << 20, None) == []
    world.heard(world.one, lambda: world.one.repository.copy("data") == world.volume())
    world.two.repository.note_health("main", world.pool.health(POOL))
    world.heard(world.one, lambda: world.one.repository.health("main") is not None)
    world.one.compared()
    assert world.one.lanes.there == {volume.id: Rates(1 << 20, 100, 2.0)}
    world.one.service.unmount("data", "a")
    assert world.one.lanes.there == {}


def test_limits_of_a_volume_that_was_mounted_without_any_hold_from_the_next_mount(world: World) -> None:
    world.one.service.create("data", None)
    world.one.service.mount("data", "a")
    world.heard(world.two, lambda: bool(world.two.repository.mounted("data")))
    assert world.two.service.limit("data", None, 50) == ["host1"]
    assert world.two.service.limit("data", None, 0) == []  # as it is mounted
    assert world.two.service.limit("data", None, 50) == ["host1"]
    world.one.compared()
    world.one.service.mount("data", "b")
    assert world.one.lanes.there == {}
    world.one.service.unmount("data", "a")
    world.one.service.unmount("data", "b")
    world.one.service.mount("data", "c")
    assert [rates.read_iops for rates in world.one.lanes.there.values()] == [50]


def test_a_lane_that_nobody_needs_goes(world: World) -> None:
    world.one.lanes.open("0123", Rates(1, 1, 1.0))
    world.one.compared()
    assert world.one.lanes.there == {}


@pytest.mark.parametrize("finds", ["repair", "mount"])
def test_who_has_a_dead_clients_mount_is_told_until_it_is_started_again(world: World, finds: str) -> None:
    one = world.one
    one.service.create("data", None)
    one.service.mount("data", "a")
    volume = world.volume()
    target = one.holder.target(volume.id)
    one.running, one.processes = {"web": "data", "late": "data"}, {"web": 7, "late": 8}
    one.mounts.dead.add(target)
    if finds == "mount":
        one.service.mount("data", "b")
    one.mounts.seen = {7: "0:1", 8: "0:2"}
    world.heard(world.one, lambda: bool(one.repository.mounted("data")))
    one.compared()
    world.heard(world.two, lambda: any(each.restart for _, each in world.two.repository.mounted("data")))
    ((_, mount),) = world.two.repository.mounted("data")
    assert (mount.restart, mount.containers) == (("web",), ("late", "web"))
    one.mounts.seen[7] = "0:2"
    world.heard(one, lambda: one.repository.mounted("data")[0][1].restart == ("web",))
    one.compared()
    world.heard(world.two, lambda: not any(each.restart for _, each in world.two.repository.mounted("data")))
    assert not one.held.all()[0].died


@pytest.mark.parametrize("again", [False, True])
def test_a_volume_that_is_removed_while_it_is_made_leaves_nothing(world: World, again: bool) -> None:
    """Nor does it take one of that name away that was made meanwhile."""
    hold, made = world.one.locks.hold, list[str]()

    @contextmanager
    def late(pool: str) -> Iterator[None]:
        world.one.locks.hold = hold  # type: ignore[method-assign]
        world.two.service.remove("data")
        world.two.compared(2)
        if again:
            world.two.service.create("data", {"size": "2G"})
            made.append(world.two.repository.get("data").id)
        with hold(pool):
            yield

    world.one.locks.hold = late  # type: ignore[method-assign]
    with pytest.raises(NotFound, match=r"removed meanwhile|there is no volume data"):
        world.one.service.create("data", {"size": "1G"})
    world.one.compared(2)
    assert list(world.pool.homes) == made
    assert [one.record.id for one in world.one.service.all()] == made


def test_a_create_that_fails_leaves_what_another_host_has_made_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove = world.one.repository.remove

    def late(*words: Any) -> Any:
        world.two.service.create("data", {"size": "1G"})
        return remove(*words)

    monkeypatch.setattr(world.one.repository, "remove", late)
    world.pool.fails = Unavailable("no")
    with pytest.raises(Unavailable, match="no"):
        world.one.service.create("data", {"size": "1G"})
    world.one.compared(2)
    assert world.volume().ready
    assert world.pool.homes == {world.volume().id: 0}


def served(world: World, action: Callable[[], object]) -> object:
    """What comes of an action on the first host, which is no Gluster server, while the second one compares."""
    world.one.enforcer.server = False
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(action)
        while not doing.done():
            world.two.compared()
            time.sleep(0.01)
        return doing.result()


def test_a_host_that_is_no_server_has_volumes_made_and_changed_by_one_that_is(world: World) -> None:
    served(world, lambda: world.one.service.create("data", {"size": "1G"}))
    volume = world.volume()
    assert (volume.ready, volume.asked) == (True, False)
    assert world.pool.limits == {place(volume): (GIB, 0)}
    world.one.service.mount("data", "a")
    world.one.service.unmount("data", "a")
    served(world, lambda: world.one.service.resize("data", 2 * GIB))
    assert world.pool.limits == {place(volume): (2 * GIB, 0)}
    world.one.service.remove("data")
    world.one.compared(2)  # leaves it to the other
    world.two.compared(2)
    assert world.pool.limits == {}
    served(world, lambda: world.one.service.undelete("data"))
    assert world.pool.limits == {place(volume): (2 * GIB, 0)}
    world.clock.passed += 100
    before = list(world.pool.steps)
    world.one.compared(20)  # nor does it look how the pool is
    assert world.pool.steps == before


def test_what_a_server_met_is_told_where_it_was_asked_for(world: World) -> None:
    world.pool.fails_at = "limit"
    with pytest.raises(Unavailable, match=r"^limit$"):
        served(world, lambda: world.one.service.create("data", {"size": "1G"}))
    world.pool.fails_at = ""
    world.two.compared(2)
    assert world.one.service.all() == []
    assert (world.pool.homes, world.pool.trash) == ({}, {})


def test_without_any_server_a_create_ends_and_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.volume.making.WAITING", 0.2)
    world.one.enforcer.server = False
    with pytest.raises(Unavailable, match="this host is no Gluster server, and none on which sharedfs runs"):
        world.one.service.create("data", {"size": "1G"})
    world.two.compared(2)
    assert world.one.service.all() == []
    assert world.pool.homes == {}


def test_the_size_asked_for_last_is_the_one_in_force(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    hold = world.one.locks.hold

    @contextmanager
    def late(pool: str) -> Iterator[None]:
        world.one.locks.hold = hold  # type: ignore[method-assign]
        world.two.service.resize("data", 3 * GIB)
        with hold(pool):
            yield

    world.one.locks.hold = late  # type: ignore[method-assign]
    world.one.service.resize("data", 2 * GIB)
    assert world.volume().size == 3 * GIB
    assert world.pool.limits == {place(world.volume()): (3 * GIB, 0)}


def test_nothing_is_cleared_while_a_server_would_miss_it(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    volume = world.volume()
    world.one.service.remove("data")
    world.pool.gone = ["gl2"]
    world.one.compared(2)
    assert (world.pool.limits, world.pool.trash) == ({place(volume): (GIB, 0)}, {})
    world.pool.gone = []
    world.one.compared(2)
    assert (world.pool.limits, world.pool.trash) == ({}, {volume.id: 0})


@pytest.mark.parametrize("cleared", [False, True])
def test_the_latest_of_a_name_comes_back(world: World, cleared: bool) -> None:
    for content in (7, 9):
        world.one.service.create("data", {"size": "1G"})
        volume = world.volume()
        world.pool.homes[volume.id] = content
        world.clock.passed += 5
        world.one.service.remove("data")
    if cleared:
        world.one.compared(2)
    back = world.two.service.undelete("data")
    assert (back.id, back.ready, back.restored) == (volume.id, True, False)
    assert world.pool.homes[volume.id] == 9
    assert world.pool.limits[place(volume)] == (GIB, 0)
    world.one.compared(2)
    assert volume.id in world.pool.homes
    with pytest.raises(Conflict, match="there is one of that name"):
        world.two.service.undelete("data")


def test_who_is_about_to_clear_the_trash_leaves_what_was_undeleted(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    volume = world.volume()
    world.one.service.remove("data")
    (seen,) = world.one.repository.trash()
    world.two.service.undelete("data")
    world.one.maker.clear(seen)
    assert volume.id in world.pool.homes
    assert world.pool.limits == {place(volume): (GIB, 0)}


def test_nothing_comes_back_that_was_not_removed(world: World) -> None:
    with pytest.raises(NotFound, match="no volume data in the trash"):
        world.one.service.undelete("data")


def test_one_host_looks_how_a_pool_is_and_all_tell(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plugins.volume.repair.CHANCE", 1.0)
    world.one.service.create("data", {"size": "1G"})
    world.one.service.mount("data", "a")
    world.pool.homes[world.volume().id] = 5
    world.clock.passed += 100
    for host in (world.one, world.two):
        host.repair.once()
        world.heard(host, lambda host=host: host.repository.health("main") is not None)  # type: ignore[misc]
    assert world.pool.steps.count("health") == 1
    health = world.two.service.inspect("data").health
    assert health is not None
    assert (health.host, health.state, health.bricks_up) == ("host1", "partial", 5)
    told = {
        sample.name: sample.value
        for m in Meter(world.one.repository, world.one.service, "host1").collect()
        for sample in m.samples
    }
    assert list(told) == [*METRICS, *(f"{name}_total" for name in TRAFFIC)]
    looked = datetime.fromisoformat(health.at).timestamp()
    assert list(told.values()) == [1, 5, GIB, 0, 6, 5, 3, 10 * GIB, 20 * GIB, looked, 11, 22, 3, 4]
    world.clock.passed += 100
    world.two.repair.once()
    assert world.pool.steps.count("health") == 2


def test_without_the_store_what_was_known_is_shown(world: World) -> None:
    world.one.service.create("data", {"size": "1G"})
    world.heard(world.one, lambda: len(world.one.repository._volumes) == 1)

    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("etcd is unreachable")

    world.store.range = world.store.get = away  # type: ignore[method-assign,assignment]
    assert [shown.record.name for shown in world.one.service.all()] == ["data"]
    assert world.one.service.inspect("data").record.size == GIB
