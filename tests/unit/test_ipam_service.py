"""What the IPAM driver answers, on an in-process store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from plugins.ipam.admin import Admin
from plugins.ipam.journal import Entry
from qnet import schema
from qnet.addresses.model import IPAddress
from qnet.addresses.openpool import OpenPool, Stored
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, Unavailable
from qnet.schema import AddressRecord, PoolRecord
from qnet.store.base import Put, RangeResult, Txn
from qnet.tenants import Change
from tests.store.memory import MemoryStore
from tests.unit.world import GRACE, Clock, Container, Host, records

SUBNET = "10.77.0.0/24"


class World:
    """Two hosts on one store."""

    def __init__(self, folder: Path) -> None:
        self.store, self.clock = MemoryStore(), Clock()
        self.one = Host("host1", self.store, self.clock, folder, 1)
        self.two = Host("host2", self.store, self.clock, folder, 2)

    def pools(self) -> list[str]:
        return [kv.key for kv in self.store.range(schema.POOLS).kvs]

    def macs(self) -> list[str]:
        return [kv.key for kv in self.store.range(schema.ROOT + "macs/").kvs]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.one.close()
    made.two.close()
    made.store.close()


def test_pool_lives_from_first_to_last_network(world: World) -> None:
    world.one.network("a", SUBNET, "10.77.0.1")
    world.two.network("a", SUBNET, "10.77.0.1")
    world.one.network("b", SUBNET, "10.77.0.1")
    world.one.remove_network("a")
    world.two.remove_network("a")
    assert records(world.store, "default", SUBNET)["10.77.0.1"].kind == "gateway"
    world.one.remove_network("b")
    assert world.store.count(schema.ROOT) == 0


def test_gateway_is_the_pools(world: World) -> None:
    world.one.network("a", SUBNET, "10.77.0.254")
    assert world.two.engine.gateways == {}
    world.two.network("a", SUBNET)
    assert world.two.engine.gateways["a"] == "10.77.0.254"


def test_gateway_that_nobody_names_is_the_first_free(world: World) -> None:
    world.one.network("a", "10.78.0.0/24")
    assert world.one.engine.gateways["a"] == "10.78.0.1"


def test_gateway_cannot_be_a_containers(world: World) -> None:
    pool = world.one.network("a", SUBNET, "10.77.0.1")
    with pytest.raises(Conflict, match=r"10\.77\.0\.1 .* is taken: it is the pool's gateway"):
        world.one.service.request_address("e", pool, "10.77.0.1")
    given = world.one.service.request_address("e", pool, "10.77.0.9")
    with pytest.raises(Conflict, match=r"10\.77\.0\.9"):
        world.two.network("b", SUBNET, "10.77.0.9")
    assert given == "10.77.0.9/24"


def test_overlap_is_refused_and_named(world: World) -> None:
    world.one.network("a", SUBNET)
    with pytest.raises(Conflict, match=r"10\.77\.0\.128/25 overlaps pool 10\.77\.0\.0/24 of tenant default"):
        world.two.network("b", "10.77.0.128/25")
    with pytest.raises(Conflict, match=r"10\.77\.0\.0/16 overlaps pool 10\.77\.0\.0/24"):
        world.two.network("b", "10.77.0.0/16")


class Between:
    """A store in which something happens right after the first range is read."""

    def __init__(self, store: MemoryStore, happens: Callable[[], object]) -> None:
        self._store, self._happens = store, [happens]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def range(self, prefix: str) -> RangeResult:
        result = self._store.range(prefix)
        while self._happens:
            self._happens.pop()()
        return result


def test_overlap_is_refused_when_both_ask_at_once(world: World) -> None:
    world.one.uses._store = Between(world.store, lambda: world.two.network("b", "10.77.0.128/25"))
    with pytest.raises(Conflict, match=r"overlaps pool 10\.77\.0\.128/25"):
        world.one.network("a", SUBNET)
    assert len(world.pools()) == 1


def test_gateway_stays_when_another_host_comes_at_the_last_moment(world: World) -> None:
    world.one.network("a", SUBNET, "10.77.0.1")
    world.one.uses.shared._store = Between(world.store, lambda: world.two.network("b", SUBNET, "10.77.0.1"))
    world.one.remove_network("a")
    assert records(world.store, "default", SUBNET)["10.77.0.1"].kind == "gateway"


def test_gateway_goes_when_the_last_two_hosts_leave_at_the_same_moment(world: World) -> None:
    for host in (world.one, world.two):
        host.network("a", SUBNET, "10.77.0.1")
    world.one.uses.shared._store = Between(world.store, lambda: world.two.remove_network("a"))
    world.one.remove_network("a")
    assert world.store.count(schema.ROOT) == 0


def test_gateway_that_a_crash_left_is_dropped(world: World) -> None:
    """An earlier release deleted the use and the addresses in two transactions."""
    world.one.network("a", SUBNET, "10.77.0.1")
    del world.one.engine.networks["a"]
    world.store.delete(schema.use_key("default", SUBNET, "host1"))
    world.one.crash()
    world.one.repair_once()
    assert world.store.count(schema.ROOT) == 0


def test_pool_that_holds_nothing_is_collected(world: World) -> None:
    empty = PoolRecord(tenant="default", subnet=SUBNET, since="")
    kept = PoolRecord(tenant="default", subnet="10.78.0.0/24", since="", kept=True)
    for record in (empty, kept):
        world.store.put(schema.pool_key("default", record.subnet), schema.encode(record))
    world.one.repair_once()
    assert world.pools() == [schema.pool_key("default", "10.78.0.0/24")]


def test_kept_pool_keeps_its_gateway_from_containers_and_through_networks(world: World) -> None:
    admin = Admin(world.store, 60, lambda: "")
    made = admin.create_pool("default", ip_network("10.77.0.0/29"), ip_address("10.77.0.6"), ())
    pool = str(world.one.service.request_pool("e", "10.77.0.0/29", "", {}, False))
    given = {world.one.service.request_address("e", pool, "").partition("/")[0] for _ in range(5)}
    assert "10.77.0.6" not in given
    assert world.one.service.request_gateway("e", pool, "") == "10.77.0.6/29"
    for address in (*given, "10.77.0.6"):
        world.one.service.release_address(pool, address)
    world.one.service.release_pool(pool)
    assert set(records(world.store, "default", "10.77.0.0/29")) == {"10.77.0.6"}
    admin.remove_pool(made)
    assert world.pools() == []


def test_lost_use_is_written_anew(world: World) -> None:
    world.one.network("a", SUBNET, "10.77.0.1")
    world.store.delete(schema.use_key("default", SUBNET, "host1"))
    world.store.delete(schema.address_key("default", SUBNET, "10.77.0.1"))
    world.one.repaired()
    use, _ = world.one.repository.use("default", SUBNET)
    assert use is not None
    assert (use.networks, use.shared) == (1, {"10.77.0.1": 1})
    assert records(world.store, "default", SUBNET)["10.77.0.1"].kind == "gateway"


def test_network_that_is_removed_while_its_use_is_corrected_leaves_no_gateway(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.one.network("a", SUBNET, "10.77.0.1")
    use, _ = world.one.uses._repository.use("default", SUBNET)
    assert use is not None
    write = world.one.uses.shared.write_use

    def late(*words: Any) -> bool:
        monkeypatch.undo()
        world.one.remove_network("a")
        return write(*words)

    monkeypatch.setattr(world.one.uses.shared, "write_use", late)
    world.one.uses.correct("default", ip_network(SUBNET), use, ["10.77.0.1"])
    assert world.store.count(schema.ROOT) == 0


def test_two_tenants_may_have_one_subnet(world: World) -> None:
    for tenant in ("shop", "lab"):
        world.one.tenant(tenant)
    world.one.network("a", SUBNET, tenant="shop")
    world.one.network("b", SUBNET, tenant="lab")
    first, second = Container("c1", "10.77.0.9"), Container("c2", "10.77.0.9")
    assert world.one.start_container("a", first) == world.one.start_container("b", second)
    assert len(world.macs()) == 2


def test_carved_subnets_differ_and_avoid_routes(world: World) -> None:
    world.one.uses._routes = lambda: [ip_network(f"10.200.{third}.0/24") for third in range(1, 16)]
    pool = world.one.network("a", "")
    assert pool == "default/10.200.0.0/24"
    carved = {world.two.network(f"n{number}", "") for number in range(15)}
    assert len(carved) == 15
    assert pool not in carved


def test_carving_needs_a_supernet(world: World) -> None:
    world.one.tenant("poor")
    with pytest.raises(InvalidRequest, match="tenant poor has no IPv4 supernet"):
        world.one.network("a", "", tenant="poor")


def test_full_pool_says_who_has_it(world: World) -> None:
    for host in (world.one, world.two):
        host.network("a", "10.77.0.0/28", "10.77.0.1")
    for number in range(13):
        host = (world.one, world.two)[number % 2]
        host.start_container("a", Container(f"c{number}"))
    with pytest.raises(Exception, match="full") as refusal:
        world.two.start_container("a", Container("late"))
    assert str(refusal.value) == (
        "pool 10.77.0.0/28 of tenant default is full: 13 of 13 addresses in use (host1 7, host2 6)"
    )


def test_range_and_exclusions_limit_what_is_handed_out_only(world: World) -> None:
    service = world.one.service
    options = {"exclude": "10.77.0.129-10.77.0.200, 10.77.0.250"}
    pool = str(service.request_pool("e", SUBNET, "10.77.0.128/25", options, False))
    whole = str(world.two.service.request_pool("e", SUBNET, "", {}, False))
    given = {service.request_address("e", pool, "").partition("/")[0] for _ in range(54)}
    assert given == {f"10.77.0.{last}" for last in (128, *range(201, 250), *range(251, 255))}
    with pytest.raises(Exception, match=r"range 10\.77\.0\.128/25 of pool .* is full: 54 of 54"):
        service.request_address("e", pool, "")
    assert service.request_address("e", pool, "10.77.0.130") == "10.77.0.130/24"
    with pytest.raises(Conflict):
        world.two.service.request_address("e", whole, "10.77.0.130")


def test_released_address_rests(world: World) -> None:
    """On its own host even before the watch tells."""
    pool = world.one.network("a", "10.77.0.0/29", "10.77.0.1")
    first = [world.one.service.request_address("e", pool, "") for _ in range(3)]
    world.store.hold(True)
    world.one.service.release_address(pool, first[0].partition("/")[0])
    rest = [world.one.service.request_address("e", pool, "") for _ in range(2)]
    assert first[0] not in rest
    world.store.hold(False)
    # now the pool is short
    assert world.one.service.request_address("e", pool, "") == first[0]


def test_auxiliary_addresses_are_shared_by_networks_and_kept_from_containers(world: World) -> None:
    for host in (world.one, world.two):
        pool = host.network("a", SUBNET, "10.77.0.1")
        host.service.request_address(host.engine.instance, pool, "10.77.0.5")
        host.endpoints.auxiliary("default", SUBNET, ["10.77.0.5"])
    assert records(world.store, "default", SUBNET)["10.77.0.5"].kind == "auxiliary"
    with pytest.raises(Conflict, match="auxiliary address of a network"):
        world.one.start_container("a", Container("c1", "10.77.0.5"))
    world.one.service.release_address(pool, "10.77.0.5")  # what the engine does after the refusal
    world.one.service.release_address(pool, "10.77.0.5")  # and at network rm
    assert records(world.store, "default", SUBNET)["10.77.0.5"].kind == "auxiliary"
    world.two.service.release_address(pool, "10.77.0.5")
    assert "10.77.0.5" not in records(world.store, "default", SUBNET)


def test_pool_release_drops_a_gateway_left_behind(world: World) -> None:
    """An auxiliary address that fails makes the engine send ReleasePool alone."""
    pool = world.one.network("a", SUBNET, "10.77.0.1")
    world.one.service.release_pool(pool)
    assert world.store.count(schema.ROOT) == 0


def test_mac_moves_with_the_address_and_is_one_containers(world: World) -> None:
    world.one.network("a", SUBNET)
    world.two.network("a", SUBNET)
    box = Container("c1", "10.77.0.9")
    world.one.start_container("a", box)
    mac = records(world.store, "default", SUBNET)["10.77.0.9"].mac
    pool = world.two.engine.networks["a"]
    other = world.two.service.request_address("e", pool, "").partition("/")[0]
    with pytest.raises(Conflict, match=f"MAC address {mac} belongs to 10.77.0.9 on host1"):
        world.two.endpoints.bind("default", [(other, SUBNET)], "n", "e1", mac.upper())
    world.one.stop_container(box)
    world.one.engine.containers.clear()
    world.one.repaired()
    world.two.start_container("a", Container("c2", "10.77.0.9"))
    assert records(world.store, "default", SUBNET)["10.77.0.9"].mac == mac
    assert len(world.macs()) == 1


def test_mac_given_by_hand_makes_the_derived_one_step_aside(world: World) -> None:
    world.one.network("a", SUBNET)
    pool = world.one.engine.networks["a"]
    derived = world.one.endpoints.bind(
        "default", [(world.one.service.request_address("e", pool, "10.77.0.9")[:9], SUBNET)], "n", "e1", ""
    )
    world.one.service.release_address(pool, "10.77.0.9")
    world.one.repaired()
    world.one.service.request_address("e", pool, "10.77.0.10")
    assert world.one.endpoints.bind("default", [("10.77.0.10", SUBNET)], "n", "e2", derived) == derived
    world.one.service.request_address("e", pool, "10.77.0.9")
    assert world.one.endpoints.bind("default", [("10.77.0.9", SUBNET)], "n", "e3", "") != derived


def dual_stack(world: World) -> tuple[str, str]:
    """An IPv4 and an IPv6 address, of the networks a and b."""
    world.one.network("a", SUBNET)
    world.one.network("b", "fd00:77::/64")
    service, engine = world.one.service, world.one.engine
    v4 = service.request_address("e", engine.networks["a"], "").partition("/")[0]
    v6 = service.request_address("e", engine.networks["b"], "").partition("/")[0]
    return v4, v6


def test_an_endpoint_may_have_no_mac_of_its_own(world: World) -> None:
    v4, v6 = dual_stack(world)
    assert world.one.endpoints.bind("default", [(v4, SUBNET), (v6, "fd00:77::/64")], "n", "e1", None) == ""
    found = records(world.store, "default", SUBNET)[v4], records(world.store, "default", "fd00:77::/64")[v6]
    assert [(record.endpoint, record.mac) for record in found] == [("e1", "")] * 2
    assert world.macs() == []


def test_dual_stack_endpoint_has_one_mac(world: World) -> None:
    v4, v6 = dual_stack(world)
    service, engine = world.one.service, world.one.engine
    mac = world.one.endpoints.bind("default", [(v4, SUBNET), (v6, "fd00:77::/64")], "n", "e1", "")
    assert records(world.store, "default", "fd00:77::/64")[v6].mac == mac
    service.release_address(engine.networks["b"], v6)
    assert len(world.macs()) == 1
    service.release_address(engine.networks["a"], v4)
    assert world.macs() == []


def test_address_that_was_not_given_cannot_be_bound(world: World) -> None:
    world.one.network("a", SUBNET)
    world.two.network("a", SUBNET)
    with pytest.raises(Conflict, match="was not given out"):
        world.one.endpoints.bind("default", [("10.77.0.9", SUBNET)], "n", "e1", "")
    world.two.service.request_address("e", world.two.engine.networks["a"], "10.77.0.9")
    with pytest.raises(Conflict, match="in use by a container on host2"):
        world.one.endpoints.bind("default", [("10.77.0.9", SUBNET)], "n", "e1", "")


@pytest.mark.parametrize(
    "address", ["10.78.0.1", "10.77.0.0", "10.77.0.255", "fd00::1", "x", "10.77.0.1/24", "", "::%1"]
)
def test_addresses_that_cannot_be_are_refused(world: World, address: str) -> None:
    pool = world.one.network("a", SUBNET)
    before = world.store.range(schema.ROOT).kvs
    if address:
        with pytest.raises(InvalidRequest):
            world.one.service.request_address("e", pool, address)
    with pytest.raises(InvalidRequest):
        world.one.service.release_address(pool, address)
    assert world.store.range(schema.ROOT).kvs == before


@pytest.mark.parametrize(
    ("pool", "part", "options", "v6"),
    [
        ("10.77.0.1/24", "", {}, False),
        ("10.77.0.0/33", "", {}, False),
        ("fish", "", {}, False),
        ("10.77.0.0/24", "10.78.0.0/25", {}, False),
        ("", "10.78.0.0/25", {}, False),
        ("10.77.0.0/24", "fd00::/64", {}, False),
        ("fd00::/64", "", {}, False),
        ("10.77.0.0/24", "", {"tenant": "../x"}, False),
        ("10.77.0.0/24", "", {"color": "red"}, False),
        ("10.77.0.0/24", "", {"exclude": "10.99.0.1"}, False),
        ("", "", {"exclude": "10.99.0.1"}, False),
    ],
)
def test_pools_that_cannot_be_are_refused(
    world: World, pool: str, part: str, options: dict[str, str], v6: bool
) -> None:
    with pytest.raises(InvalidRequest):
        world.one.service.request_pool("e", pool, part, options, v6)
    assert world.store.count(schema.ROOT) == 0


def test_unknown_pool_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match=r"pool 10\.9\.0\.0/24 of tenant default does not exist"):
        world.one.service.request_address("e", "default/10.9.0.0/24", "")
    world.one.service.release_address("default/10.9.0.0/24", "10.9.0.5")
    world.one.service.release_pool("default/10.9.0.0/24")


def test_release_waits_on_disk_while_the_store_is_away(world: World) -> None:
    world.one.network("a", SUBNET)
    box = Container("c1")
    address = world.one.start_container("a", box)
    world.store.fail_next(1, Unavailable("etcd is unreachable"))
    world.one.stop_container(box)
    assert [entry.address for entry in world.one.journal.entries()] == [address]
    world.one.crash()
    world.one.repair_once()
    assert world.one.journal.entries() == ()
    assert address not in records(world.store, "default", SUBNET)


def test_late_release_of_what_moved_on_frees_nothing(world: World) -> None:
    world.one.network("a", SUBNET)
    world.two.network("a", SUBNET)
    box = Container("c1")
    address = world.one.start_container("a", box)
    claim = records(world.store, "default", SUBNET)[address].claim
    key = schema.address_key("default", SUBNET, address)
    moved = AddressRecord(kind="endpoint", host="host1", since="", claim="another")
    world.store.txn(Txn((), (Put(key, schema.encode(moved)),)))
    world.one.journal.add(Entry("default", SUBNET, address, claim))
    assert world.one.journal.replay(world.one.service.replay_release) == 1
    assert records(world.store, "default", SUBNET)[address].claim == "another"


def test_damaged_journal_line_is_passed_over(world: World, tmp_path: Path) -> None:
    world.one.network("a", SUBNET)
    address = world.one.start_container("a", Container("c1"))
    claim = records(world.store, "default", SUBNET)[address].claim
    (tmp_path / "host1.journal").write_bytes(b'{"tenant":"default","sub\n')
    world.one.crash()
    world.one.journal.add(Entry("default", SUBNET, address, claim))
    assert world.one.journal.replay(world.one.service.replay_release) == 1
    assert address not in records(world.store, "default", SUBNET)


def test_endpoint_without_record_is_claimed(world: World) -> None:
    world.one.network("a", SUBNET)
    address = world.one.start_container("a", Container("c1"))
    world.store.delete(schema.address_key("default", SUBNET, address))
    world.one.sync()
    world.one.repaired()
    record = records(world.store, "default", SUBNET)[address]
    assert (record.kind, record.host, record.container) == ("endpoint", "host1", "name-c1")


def test_conflict_is_reported_and_nobody_is_robbed(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.one.network("a", SUBNET)
    address = world.one.start_container("a", Container("c1"))
    key = schema.address_key("default", SUBNET, address)
    other = AddressRecord(kind="endpoint", host="host2", since="", claim="x", container="theirs")
    world.store.put(key, schema.encode(other))
    world.one.sync()
    world.one.repaired()
    assert f"conflict: {address} of tenant default is in use on this host, but in use by container theirs on host2" in (
        caplog.text
    )
    assert records(world.store, "default", SUBNET)[address].host == "host2"


def test_engine_away_releases_nothing(world: World) -> None:
    world.one.network("a", SUBNET)
    address = world.one.start_container("a", Container("c1"))
    world.one.engine.away = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            world.one.repaired()
        world.clock.time += GRACE + 1
    assert address in records(world.store, "default", SUBNET)


def test_use_left_by_a_crash_is_settled(world: World) -> None:
    """RequestPool was answered, then the engine died before it kept the network."""
    world.one.service.request_pool(world.one.engine.instance, SUBNET, "", {}, False)
    world.one.crash()
    world.one.repaired()
    world.one.repaired()
    assert world.store.count(schema.ROOT) == 0


def test_restarted_engine_counts_its_networks_anew(world: World) -> None:
    world.one.network("a", SUBNET, "10.77.0.1")
    world.one.network("b", SUBNET, "10.77.0.1")
    for _ in range(3):
        world.one.restart_engine()
    world.one.remove_network("a")
    assert world.pools() == [schema.pool_key("default", SUBNET)]
    world.one.remove_network("b")
    assert world.store.count(schema.ROOT) == 0


def test_named_container_keeps_the_address_it_was_given(world: World) -> None:
    """Engines from 29 on tell the container's name."""
    pool = world.one.network("a", SUBNET)
    box = Container("c1")
    given = world.one.service.request_address("e", pool, "", container="name-c1").partition("/")[0]
    world.one.endpoints.bind("default", [(given, SUBNET)], "a", "e1", "")
    box.address, box.endpoint, box.started = given, "e1", True
    world.one.engine.containers["c1"] = ("a", box)
    world.one.stop_container(box)
    world.one.repaired()
    assert records(world.store, "default", SUBNET)[given].kind == "held"
    world.two.network("a", SUBNET)
    with pytest.raises(Conflict, match="held for container name-c1 on host1"):
        world.two.service.request_address("e", pool, given)
    assert world.one.service.request_address("e", pool, "", container="name-c1").partition("/")[0] == given
    world.one.service.release_address(pool, given)
    world.one.engine.containers.clear()
    world.one.repaired()
    assert given not in records(world.store, "default", SUBNET)


def test_repair_that_writes_meanwhile_does_not_refuse_the_owner(world: World) -> None:
    """The comparison after a stop notes the container of a held address, just when it starts again."""
    world.one.network("a", SUBNET)
    box = Container("c1", "10.77.0.9")
    world.one.start_container("a", box)
    world.one.stop_container(box)
    create = world.one.repository.create
    runs = [world.one.engine.view]

    def create_then_repair(pool: OpenPool, address: IPAddress, record: AddressRecord) -> Stored:
        stored = create(pool, address, record)
        while runs:
            world.one.repair.run(runs.pop())
        return stored

    world.one.service._repository.create = create_then_repair
    assert world.one.start_container("a", box) == "10.77.0.9"
    assert runs == []


def test_host_address_comes_from_the_upper_half_and_stays(world: World) -> None:
    world.one.network("a", "10.77.0.0/29", "10.77.0.1")
    first = world.one.endpoints.take_host_address("default", "10.77.0.0/29", "a", "")
    assert first in {"10.77.0.4", "10.77.0.5", "10.77.0.6"}
    assert world.one.endpoints.take_host_address("default", "10.77.0.0/29", "a", "") == first
    others = {world.one.endpoints.take_host_address("default", "10.77.0.0/29", name, "") for name in "bcde"}
    assert {first, *others} == {f"10.77.0.{last}" for last in range(2, 7)}
    world.one.endpoints.drop_host_address("default", "10.77.0.0/29", "a")
    assert first not in records(world.store, "default", "10.77.0.0/29")


def test_a_start_that_takes_long_keeps_what_it_was_given(world: World) -> None:
    """Between the request of an address and the end of the start, the engine lists no endpoint for it."""
    pool = world.one.network("a", SUBNET)
    given = world.one.service.request_address("e", pool, "").partition("/")[0]
    world.one.engine.containers["c1"] = ("a", Container("c1"))
    world.one.engine.starting = "c1"
    for _ in range(3):
        world.one.repaired()
    assert records(world.store, "default", SUBNET)[given].kind == "endpoint"
    world.one.engine.starting = "c2"  # c1's start has failed, and by chance another is in progress
    world.one.repair_once()
    assert given not in records(world.store, "default", SUBNET)


def test_a_start_that_ends_while_the_comparison_doubts_keeps_its_address(world: World) -> None:
    pool = world.one.network("a", SUBNET)
    given = world.one.service.request_address("e", pool, "").partition("/")[0]
    world.one.endpoints.bind("default", [(given, SUBNET)], "a", "e1", "")
    world.one.repair_once()
    world.clock.time += GRACE + 1
    views = [world.one.engine.view()]
    world.one.engine.containers["c1"] = ("a", Container("c1", "", given, "e1", started=True))
    world.one.repair.run(lambda: views.pop() if views else world.one.engine.view())
    assert records(world.store, "default", SUBNET)[given].container == "name-c1"


def test_an_engine_that_lists_a_stopped_container_as_running_a_moment_longer_is_not_believed(world: World) -> None:
    """It gives the address back first. Believed, its next start would find the endpoint of the last one."""
    world.one.network("a", SUBNET)
    box = Container("c1", "10.77.0.9")
    world.one.start_container("a", box)
    running = world.one.engine.view()
    world.one.stop_container(box)
    world.one.repair.run(lambda: running)
    assert world.one.start_container("a", box) == "10.77.0.9"


def test_an_address_left_in_a_pool_that_the_host_no_longer_uses_is_released(world: World) -> None:
    """The container is removed together with its network, and its release is lost."""
    world.one.network("a", SUBNET)
    address = world.one.start_container("a", Container("c1"))
    world.one.repair_once()
    del world.one.engine.containers["c1"]
    world.one.remove_network("a")
    assert address in records(world.store, "default", SUBNET)
    world.one.repaired()
    assert world.store.count(schema.ROOT) == 0


def test_a_tenant_must_exist(world: World) -> None:
    with pytest.raises(NotFound, match="tenant shpo does not exist: make it with qnet tenant create shpo"):
        world.one.network("a", SUBNET, tenant="shpo")
    assert world.store.count(schema.ROOT) == 0


def test_a_tenant_that_is_removed_meanwhile_gets_no_pool(world: World) -> None:
    world.one.tenant("shop")
    world.one.uses._store = Between(world.store, lambda: world.two.tenants.remove("shop"))
    with pytest.raises(NotFound, match="tenant shop does not exist"):
        world.one.network("a", SUBNET, tenant="shop")
    assert world.store.count(schema.ROOT) == 0


def test_subnets_lie_in_the_supernets_of_their_tenant(world: World) -> None:
    world.one.tenant("shop", supernets=("10.100.0.0/16", "fd00:100::/32"))
    with pytest.raises(InvalidRequest, match=r"10\.77\.0\.0/24 is not inside the supernets of tenant shop: 10\.100"):
        world.one.network("a", SUBNET, tenant="shop")
    assert world.one.network("a", "10.100.7.0/24", tenant="shop") == "shop/10.100.7.0/24"
    carved = world.one.network("b", "", tenant="shop")
    assert ip_network(carved.removeprefix("shop/")).subnet_of(ip_network("10.100.0.0/16"))
    world.one.tenants.change("shop", Change(supernets=("10.100.0.0/16",)))
    assert world.one.network("c", "fd00:1::/64", tenant="shop") == "shop/fd00:1::/64"


def test_a_tenant_has_no_more_networks_than_it_may(world: World) -> None:
    world.one.tenant("shop", max_networks=2)
    world.one.network("a", "10.1.0.0/24", tenant="shop")
    world.two.network("a", "10.1.0.0/24", tenant="shop")
    world.two.network("b", "10.2.0.0/24", tenant="shop")
    with pytest.raises(Exhausted, match=r"tenant shop has 2 of 2 networks: .*--max-networks 3"):
        world.one.network("c", "10.3.0.0/24", tenant="shop")
    world.one.network("b", "10.2.0.0/24", tenant="shop")


def test_a_tenant_has_no_more_addresses_than_it_may(world: World) -> None:
    """Over all its pools and hosts; what it has already is neither lost nor refused to an engine that asks again."""
    world.one.tenant("shop", max_addresses=4)
    world.one.network("a", "10.1.0.0/24", tenant="shop")
    world.two.network("b", "10.2.0.0/24", tenant="shop")
    first = Container("c1", "10.1.0.9")
    world.one.start_container("a", first)
    world.two.start_container("b", Container("c2"))
    for host, box in ((world.one, Container("c3", "10.1.0.10")), (world.two, Container("c4"))):
        before = world.store.count(schema.CONTENTS)
        with pytest.raises(Exhausted, match="tenant shop has all of the 4 addresses that it may have"):
            host.start_container("a" if host is world.one else "b", box)
        assert world.store.count(schema.CONTENTS) == before
    world.one.restart_engine()
    world.one.stop_container(first)
    world.one.start_container("a", first)
    world.one.tenants.change("shop", Change(max_addresses=5))
    for _ in range(50):
        if world.two.service._quota.limit("shop") == 5:
            break
        time.sleep(0.02)
    world.two.start_container("b", Container("c4"))
