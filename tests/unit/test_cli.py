"""The command `qnet` on a store in process: what it prints, refuses, asks and leaves in the store."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from contextlib import nullcontext
from typing import Any

import pytest
from click.testing import CliRunner, Result

from plugins.cli.app import cli
from plugins.cli.output import binary, human
from plugins.cli.session import Session
from qnet import schema
from qnet.errors import Unavailable
from qnet.schema import AddressRecord, HostRecord, MacRecord, NetworkRecord, PoolRecord, UseRecord
from qnet.settings import Host, Settings
from qnet.store.base import Put, Txn
from tests.store.memory import MemoryStore

NOW = "2026-01-02T03:04:05+00:00"
SUBNET = "10.77.0.0/24"
WEB = "a" * 64


class Cluster:
    """A store with a few records, and the command as an operator on host1 calls it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.interactive = False

    def qnet(self, *words: str, answer: str | None = None, color: bool = False) -> Result:
        session = Session(
            load=lambda _file: Settings(host=Host(name="host1")),
            connect=lambda _etcd: nullcontext(self.store),
            now=lambda: NOW,
            interactive=lambda: answer is not None,
        )
        return CliRunner().invoke(cli, words, obj=session, input=answer, color=color)

    def json(self, *words: str) -> Any:
        result = self.qnet(*words, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def refused(self, *words: str, answer: str | None = None) -> str:
        before = self.content()
        result = self.qnet(*words, answer=answer)
        assert result.exit_code == 1
        assert result.stdout == ""
        assert result.stderr.startswith("qnet: ")
        assert self.content() == before
        return result.stderr

    def content(self) -> dict[str, bytes]:
        return {kv.key: kv.value for kv in self.store.range(schema.ROOT).kvs}

    def pool(self, subnet: str = SUBNET, tenant: str = "default", **fields: Any) -> None:
        record = PoolRecord(tenant=tenant, subnet=subnet, since=NOW, **fields)
        self.store.put(schema.pool_key(tenant, subnet), schema.encode(record))

    def use(self, host: str, networks: int = 1, **shared: int) -> None:
        named = {f"10.77.0.{number.removeprefix('n')}": count for number, count in shared.items()}
        record = UseRecord(host=host, engine="e", networks=networks, shared=named)
        self.store.put(schema.use_key("default", SUBNET, host), schema.encode(record))

    def address(self, address: str, kind: schema.Kind = "endpoint", subnet: str = SUBNET, **fields: Any) -> None:
        given = {"host": "host1", "since": NOW, "claim": f"claim-{address}"} | fields
        record = AddressRecord(kind=kind, **given)
        self.store.put(schema.address_key("default", subnet, address), schema.encode(record))
        if record.mac:
            claim = MacRecord(address=address, host=record.host, claim=record.claim)
            self.store.put(schema.mac_key("default", record.mac), schema.encode(claim))

    def record(self, address: str) -> AddressRecord | None:
        kv = self.store.get(schema.address_key("default", SUBNET, address))
        return schema.decode(kv.value, AddressRecord) if kv else None

    def network(self, host: str, network: str = WEB, **fields: Any) -> None:
        given = {"name": "web", "tenant": "default", "subnets": (SUBNET,), "parent": "eth1"} | fields
        record = NetworkRecord(id=network, host=host, **given)
        self.store.put(schema.network_key(host, network), schema.encode(record))

    def host(self, name: str) -> None:
        self.store.put(schema.host_key(name), schema.encode(HostRecord(name=name, identity="f" * 32, since=NOW)))


@pytest.fixture
def cluster():
    made = Cluster()
    yield made
    made.store.close()


@pytest.fixture
def busy(cluster: Cluster) -> Cluster:
    """Two hosts with a network on one pool: an endpoint, a held address, a reservation, the gateway."""
    cluster.pool(gateway="10.77.0.1", exclude=("10.77.0.200-10.77.0.209",))
    cluster.use("host1", n1=1)
    cluster.use("host2", 2, n1=2)
    cluster.network("host1")
    cluster.network("host2", "b" * 64)
    cluster.host("host1")
    cluster.host("host2")
    cluster.address("10.77.0.1", "gateway")
    cluster.address(
        "10.77.0.10",
        container="a",
        container_id="c" * 64,
        network=WEB,
        endpoint="e" * 64,
        mac="02:00:0a:4d:00:0a",
    )
    cluster.address("10.77.0.9", "held", host="host2", container="b", asked=True, network="b" * 64)
    cluster.address("10.77.0.8", "reservation", note="printer")
    return cluster


# -- pools ---------------------------------------------------------------------------------------------------


def test_pool_ls_counts_by_kind_and_names_the_hosts(busy: Cluster) -> None:
    busy.pool("10.0.0.0/8", tenant="blue", kept=True)
    assert busy.json("pool", "ls") == [
        {
            "tenant": "blue",
            "subnet": "10.0.0.0/8",
            "gateway": "",
            "exclude": [],
            "kept": True,
            "since": NOW,
            "in_use": 0,
            "held": 0,
            "reserved": 0,
            "free": 2**24 - 2,
            "hosts": [],
        },
        {
            "tenant": "default",
            "subnet": SUBNET,
            "gateway": "10.77.0.1",
            "exclude": ["10.77.0.200-10.77.0.209"],
            "kept": False,
            "since": NOW,
            "in_use": 2,
            "held": 1,
            "reserved": 1,
            "free": 254 - 10 - 4,
            "hosts": ["host1", "host2"],
        },
    ]
    lines = busy.qnet("pool", "ls").stdout.splitlines()
    assert lines[0].split() == ["TENANT", "SUBNET", "GATEWAY", "IN", "USE", "HELD", "RESERVED", "FREE", "HOSTS"]
    assert lines[1].split() == ["blue", "10.0.0.0/8", "-", "0", "0", "0", "16.8M", "-"]
    assert lines[2].split() == ["default", SUBNET, "10.77.0.1", "2", "1", "1", "240", "host1,", "host2"]
    assert [pool["tenant"] for pool in busy.json("pool", "ls", "--tenant", "blue")] == ["blue"]


def test_excluded_addresses_that_are_taken_do_not_count_twice(cluster: Cluster) -> None:
    cluster.pool(exclude=("10.77.0.10-10.77.0.19",))
    cluster.address("10.77.0.10")
    cluster.address("10.77.0.20")
    assert cluster.json("pool", "inspect", SUBNET)["free"] == 254 - 10 - 1


def test_pools_are_listed_in_the_order_of_their_numbers(cluster: Cluster) -> None:
    for subnet in ("10.10.0.0/16", "10.9.0.0/16", "fd00::/64"):
        cluster.pool(subnet)
    assert [pool["subnet"] for pool in cluster.json("pool", "ls")] == ["10.9.0.0/16", "10.10.0.0/16", "fd00::/64"]


def test_contents_are_read_in_pages_and_completely(cluster: Cluster) -> None:
    cluster.pool("10.1.0.0/16")
    keys = [schema.address_key("default", "10.1.0.0/16", f"10.1.{n // 250 + 1}.{n % 250 + 1}") for n in range(2500)]
    value = schema.encode(AddressRecord(kind="endpoint", host="host1", since=NOW, claim="c"))
    for at in range(0, len(keys), 100):
        cluster.store.txn(Txn(success=tuple(Put(key, value) for key in keys[at : at + 100])))
    limits: list[int] = []
    read = cluster.store.range

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(cluster.store, name)

        def range(self, prefix: str, *, limit: int = 0, after: str = "", revision: int = 0) -> Any:
            limits.append(limit)
            return read(prefix, limit=limit, after=after, revision=revision)

    counting = Counting()
    session = Session(load=lambda _file: Settings(host=Host(name="h")), connect=lambda _etcd: nullcontext(counting))
    result = CliRunner().invoke(cli, ["pool", "inspect", "10.1.0.0/16", "--json"], obj=session)
    assert json.loads(result.stdout)["in_use"] == 2500
    assert limits
    assert all(0 < limit <= 5000 for limit in limits)


def test_pool_inspect_shows_uses_kinds_and_hosts(busy: Cluster) -> None:
    shown = busy.json("pool", "inspect", SUBNET)
    assert shown["uses"] == [
        {"host": "host1", "networks": 1, "shared": {"10.77.0.1": 1}},
        {"host": "host2", "networks": 2, "shared": {"10.77.0.1": 2}},
    ]
    assert shown["addresses"] == {
        "kinds": {"endpoint": 1, "gateway": 1, "held": 1, "reservation": 1},
        "hosts": {"host1": {"endpoint": 1, "gateway": 1, "reservation": 1}, "host2": {"held": 1}},
    }
    text = busy.qnet("pool", "inspect", SUBNET).stdout
    assert "host1 (1), host2 (2)" in text
    assert "10.77.0.200-10.77.0.209" in text


def test_pool_inspect_of_none(cluster: Cluster) -> None:
    assert f"pool {SUBNET} of tenant default does not exist" in cluster.refused("pool", "inspect", SUBNET)
    assert "'10.77.0.1/24' is no subnet" in cluster.refused("pool", "inspect", "10.77.0.1/24")


def test_pool_create_makes_a_kept_pool(cluster: Cluster) -> None:
    options = ("--gateway", "10.77.0.254", "--exclude", "10.77.0.1-10.77.0.9", "--exclude", "10.77.0.20")
    made = cluster.json("pool", "create", SUBNET, *options)
    assert made == {
        "tenant": "default",
        "subnet": SUBNET,
        "since": NOW,
        "gateway": "10.77.0.254",
        "exclude": ["10.77.0.1-10.77.0.9", "10.77.0.20"],
        "kept": True,
    }
    kv = cluster.store.get(schema.pool_key("default", SUBNET))
    assert kv is not None
    assert schema.decode(kv.value, PoolRecord).kept


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("10.77.0.128/25",), "overlaps pool 10.77.0.0/24 of tenant default"),
        (("10.0.0.0/8",), "overlaps pool 10.77.0.0/24 of tenant default"),
        ((SUBNET,), "goes with the last of them"),
        (("10.78.0.0/24", "--gateway", "10.77.0.1"), "10.77.0.1 is not in pool 10.78.0.0/24"),
        (("10.78.0.0/24", "--gateway", "10.78.0.255"), "network or broadcast address"),
        (("10.78.0.0/24", "--gateway", "me"), "'me' is no address"),
        (("10.78.0.0/24", "--exclude", "10.78.0.9-10.78.0.1"), "lowest address first"),
        (("10.78.0.0/24", "--tenant", "A"), "'A' is no tenant"),
        (("10.78.0.1/24",), "is no subnet"),
    ],
)
def test_pool_create_refuses(busy: Cluster, words: tuple[str, ...], reason: str) -> None:
    assert reason in busy.refused("pool", "create", *words)


def test_pool_create_twice_says_that_it_is_kept(cluster: Cluster) -> None:
    cluster.pool(kept=True)
    assert "is kept already" in cluster.refused("pool", "create", SUBNET)


def test_the_same_subnet_may_exist_in_two_tenants(busy: Cluster) -> None:
    assert "tenant blue does not exist" in busy.refused("pool", "create", SUBNET, "--tenant", "blue")
    busy.json("tenant", "create", "blue", "--untagged")
    assert busy.json("pool", "create", SUBNET, "--tenant", "blue")["tenant"] == "blue"


def test_pool_create_sees_a_pool_that_is_made_meanwhile(cluster: Cluster) -> None:
    """Between its reading and its writing another host makes an overlapping pool."""
    store = cluster.store

    class Racing:
        def __init__(self) -> None:
            self.late = True

        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def txn(self, txn: Txn, *, repeatable: bool = False) -> Any:
            if self.late:
                self.late = False
                cluster.pool("10.77.0.0/25")
            return store.txn(txn, repeatable=repeatable)

    racing = Racing()
    session = Session(load=lambda _file: Settings(host=Host(name="h")), connect=lambda _etcd: nullcontext(racing))
    result = CliRunner().invoke(cli, ["pool", "create", SUBNET], obj=session)
    assert result.exit_code == 1
    assert "overlaps pool 10.77.0.0/25" in result.stderr


def test_pool_rm(cluster: Cluster) -> None:
    cluster.pool(kept=True)
    cluster.store.put(schema.resting_key("default", SUBNET, "10.77.0.3"), b"")
    assert cluster.qnet("pool", "rm", SUBNET, "--yes").stdout == f"pool {SUBNET} of tenant default removed\n"
    assert cluster.content() == {}


def test_pool_rm_refuses_while_networks_use_it(busy: Cluster) -> None:
    assert "used by networks of host1 (1), host2 (2)" in busy.refused("pool", "rm", SUBNET, "--yes")


def test_pool_rm_sees_a_network_that_comes_meanwhile(cluster: Cluster) -> None:
    cluster.pool(kept=True)
    session = Session(
        load=lambda _file: Settings(host=Host(name="host1")),
        connect=lambda _etcd: nullcontext(cluster.store),
        interactive=lambda: cluster.use("host2") is None,
    )
    result = CliRunner().invoke(cli, ["pool", "rm", SUBNET], obj=session, input="y\n")
    assert result.exit_code == 1
    assert "used by networks of host2 (1)" in result.stderr
    assert cluster.store.get(schema.pool_key("default", SUBNET)) is not None


def test_pool_rm_refuses_while_addresses_are_out(cluster: Cluster) -> None:
    cluster.pool(kept=True)
    for number in range(1, 8):
        cluster.address(f"10.77.0.{number}", "reservation", note=f"n{number}")
    error = cluster.refused("pool", "rm", SUBNET, "--yes")
    assert "has 7 addresses out: 10.77.0.1: it is reserved (n1); " in error
    assert "; and 2 more; release them first" in error


def test_pool_rm_asks(cluster: Cluster) -> None:
    cluster.pool(kept=True)
    assert "add --yes" in cluster.refused("pool", "rm", SUBNET)
    declined = cluster.qnet("pool", "rm", SUBNET, answer="n\n")
    assert declined.exit_code == 1
    assert declined.stderr.endswith("qnet: nothing done\n")
    assert cluster.qnet("pool", "rm", SUBNET, answer="").exit_code == 130
    assert cluster.content() != {}
    assert cluster.qnet("pool", "rm", SUBNET, answer="y\n").exit_code == 0
    assert cluster.content() == {}


# -- addresses -----------------------------------------------------------------------------------------------


def test_address_ls(busy: Cluster) -> None:
    found = busy.json("address", "ls")
    assert [view["address"] for view in found] == ["10.77.0.1", "10.77.0.8", "10.77.0.9", "10.77.0.10"]
    assert found[3] == {
        "tenant": "default",
        "subnet": SUBNET,
        "address": "10.77.0.10",
        "kind": "endpoint",
        "host": "host1",
        "container": "a",
        "container_id": "c" * 64,
        "network": "web",
        "network_id": WEB,
        "endpoint": "e" * 64,
        "mac": "02:00:0a:4d:00:0a",
        "since": NOW,
        "note": "",
    }
    last = busy.qnet("address", "ls").stdout.splitlines()[-1]
    assert last.split() == ["default", "10.77.0.10", "endpoint", "host1", "a", "web", "02:00:0a:4d:00:0a", NOW]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--host", "host2"), ["10.77.0.9"]),
        (("--kind", "gateway"), ["10.77.0.1"]),
        (("--container", "a"), ["10.77.0.10"]),
        (("--container", "c" * 12), ["10.77.0.10"]),
        (("--container", "c" * 11), []),
        (("--tenant", "blue"), []),
        (("--subnet", SUBNET, "--host", "host1", "--kind", "reservation"), ["10.77.0.8"]),
    ],
)
def test_address_ls_filters(busy: Cluster, words: tuple[str, ...], expected: list[str]) -> None:
    assert [view["address"] for view in busy.json("address", "ls", *words)] == expected


def test_address_ls_of_a_network_that_is_not_published_shows_its_short_id(cluster: Cluster) -> None:
    cluster.pool()
    cluster.address("10.77.0.5", network="d" * 64)
    assert cluster.json("address", "ls")[0]["network"] == "d" * 12


def test_address_ls_refuses(busy: Cluster) -> None:
    assert "does not exist" in busy.refused("address", "ls", "--subnet", "10.1.0.0/24")
    assert busy.qnet("address", "ls", "--kind", "other").exit_code == 2


def test_text_of_others_cannot_steer_the_terminal(cluster: Cluster) -> None:
    cluster.pool()
    cluster.address("10.77.0.5", container="[red]x[/red]\x1b[2J")
    for words in (("address", "ls"), ("address", "inspect", "10.77.0.5")):
        shown = cluster.qnet(*words, color=True).stdout
        assert "\x1b[2J" not in shown
        assert "[red]x[/red]" in shown


def test_address_inspect(busy: Cluster) -> None:
    shown = busy.json("address", "inspect", "10.77.0.10")
    assert shown["state"] == "in use by container a on host1"
    assert shown["mac_claim"] == "10.77.0.10 on host1"
    assert busy.json("address", "inspect", "10.77.0.1")["named_by"] == "host1 (1), host2 (2)"
    assert "printer" in busy.qnet("address", "inspect", "10.77.0.8").stdout
    free = busy.json("address", "inspect", "10.77.0.77")
    assert (free["state"], free["kind"]) == ("free", "")
    assert free.keys() == shown.keys()


def test_address_inspect_tells_that_an_address_rests(busy: Cluster) -> None:
    assert busy.qnet("address", "release", "10.77.0.8", "--yes").exit_code == 0
    assert busy.json("address", "inspect", "10.77.0.8")["state"] == "free, resting after a release"


def test_address_inspect_refuses(busy: Cluster) -> None:
    assert "10.1.2.3 is in no pool of tenant default" in busy.refused("address", "inspect", "10.1.2.3")
    assert "'x' is no address" in busy.refused("address", "inspect", "x")


def test_address_reserve(busy: Cluster) -> None:
    made = busy.json("address", "reserve", "10.77.0.50", "--note", "gate")
    assert made == {"address": "10.77.0.50", "tenant": "default", "subnet": SUBNET, "host": "host1", "note": "gate"}
    record = busy.record("10.77.0.50")
    assert record is not None
    assert (record.kind, record.host, record.note, record.since) == ("reservation", "host1", "gate", NOW)
    assert record.claim


def test_address_reserve_any_takes_the_last_free_one(cluster: Cluster) -> None:
    cluster.pool("10.9.0.0/29", exclude=("10.9.0.6",))
    for number in (1, 2, 4, 5):
        cluster.address(f"10.9.0.{number}", subnet="10.9.0.0/29")
    words = ("address", "reserve", "--any", "--subnet", "10.9.0.0/29")
    assert cluster.json(*words)["address"] == "10.9.0.3"
    assert "pool 10.9.0.0/29 of tenant default is full" in cluster.refused(*words)
    assert cluster.qnet("address", "release", "10.9.0.3", "--yes").exit_code == 0
    assert cluster.json(*words)["address"] == "10.9.0.3"  # resting, but there is no other


def test_address_reserve_any_leaves_resting_ones_alone(cluster: Cluster) -> None:
    cluster.pool("10.9.0.0/29")
    for number in (1, 2, 3, 4):
        cluster.address(f"10.9.0.{number}", subnet="10.9.0.0/29")
    cluster.store.put(schema.resting_key("default", "10.9.0.0/29", "10.9.0.5"), b"")
    assert cluster.json("address", "reserve", "--any", "--subnet", "10.9.0.0/29")["address"] == "10.9.0.6"


def test_address_reserve_any_goes_on_when_another_was_faster(cluster: Cluster) -> None:
    """Each of its choices but the last is taken after it has read the pool."""
    cluster.pool("10.9.0.0/29")
    store = cluster.store
    taken = [f"10.9.0.{number}" for number in (1, 2, 3, 4, 5)]

    class Racing:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def txn(self, txn: Txn, *, repeatable: bool = False) -> Any:
            while taken:
                cluster.address(taken.pop(), subnet="10.9.0.0/29")
            return store.txn(txn, repeatable=repeatable)

    racing = Racing()
    session = Session(load=lambda _file: Settings(host=Host(name="h")), connect=lambda _etcd: nullcontext(racing))
    result = CliRunner().invoke(cli, ["address", "reserve", "--any", "--subnet", "10.9.0.0/29"], obj=session)
    assert result.stdout == "10.9.0.6 reserved\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("10.77.0.10",), "is taken: in use by container a on host1"),
        (("10.77.0.9",), "is taken: held for container b on host2"),
        (("10.77.0.8",), "is taken: it is reserved (printer)"),
        (("10.77.0.1",), "is taken: it is the pool's gateway"),
        (("10.77.0.255",), "network or broadcast address"),
        (("10.1.0.1",), "in no pool"),
        (("10.77.0.50", "--subnet", "10.78.0.0/24"), "is not in 10.78.0.0/24 but in pool 10.77.0.0/24"),
        (("--any", "--subnet", "10.78.0.0/24"), "does not exist"),
    ],
)
def test_address_reserve_refuses(busy: Cluster, words: tuple[str, ...], reason: str) -> None:
    assert reason in busy.refused("address", "reserve", *words)


@pytest.mark.parametrize("words", [(), ("--any",), ("10.77.0.50", "--any")])
def test_address_reserve_wants_an_address_or_any(busy: Cluster, words: tuple[str, ...]) -> None:
    assert busy.qnet("address", "reserve", *words).exit_code == 2


def test_address_release_of_a_reservation(busy: Cluster) -> None:
    assert busy.qnet("address", "release", "10.77.0.8", answer="n\n").exit_code == 1
    assert busy.record("10.77.0.8") is not None
    asked = busy.qnet("address", "release", "10.77.0.8", answer="y\n")
    assert asked.stdout == "10.77.0.8 released\n"
    assert "release 10.77.0.8 of tenant default: it is reserved (printer)?" in asked.stderr
    assert busy.record("10.77.0.8") is None
    assert busy.store.count(schema.resting_key("default", SUBNET)) == 1


def test_address_release_of_a_held_one_says_for_whom(busy: Cluster) -> None:
    error = busy.refused("address", "release", "10.77.0.9")
    assert "held for container b on host2?" in error
    assert "add --yes" in error
    assert "host2 holds it again" in busy.qnet("address", "release", "10.77.0.9", "--yes").stdout
    assert busy.record("10.77.0.9") is None


def test_address_release_of_one_in_use_needs_force(busy: Cluster) -> None:
    error = busy.refused("address", "release", "10.77.0.10", "--yes")
    assert "in use by container a on host1; --force" in error
    assert busy.store.get(schema.mac_key("default", "02:00:0a:4d:00:0a")) is not None
    assert busy.qnet("address", "release", "10.77.0.10", "--yes", "--force").exit_code == 0
    assert busy.record("10.77.0.10") is None
    assert busy.store.get(schema.mac_key("default", "02:00:0a:4d:00:0a")) is None


def test_address_release_leaves_the_mac_address_of_another(busy: Cluster) -> None:
    other = schema.encode(MacRecord(address="10.77.0.99", host="host2", claim="other"))
    busy.store.put(schema.mac_key("default", "02:00:0a:4d:00:0a"), other)
    assert busy.qnet("address", "release", "10.77.0.10", "--yes", "--force").exit_code == 0
    assert busy.store.get(schema.mac_key("default", "02:00:0a:4d:00:0a")) is not None


def test_address_release_asks_even_with_force(busy: Cluster) -> None:
    assert "add --yes" in busy.refused("address", "release", "10.77.0.10", "--force")


def test_address_release_of_a_gateway_names_the_hosts(busy: Cluster) -> None:
    error = busy.refused("address", "release", "10.77.0.1", "--yes", "--force")
    assert "gateway address of networks of host1 (1), host2 (2)" in error


def test_address_release_of_a_gateway_that_no_network_names(busy: Cluster) -> None:
    for host in ("host1", "host2"):
        busy.store.delete(schema.use_key("default", SUBNET, host))
    assert busy.qnet("address", "release", "10.77.0.1", "--yes").exit_code == 0
    assert busy.record("10.77.0.1") is None


def test_address_release_of_nobodys(busy: Cluster) -> None:
    assert "10.77.0.77 of pool 10.77.0.0/24 of tenant default is nobody's" in busy.refused(
        "address", "release", "10.77.0.77", "--yes"
    )


def test_address_release_takes_an_unkept_pool_with_its_last_address(cluster: Cluster) -> None:
    cluster.pool()
    cluster.address("10.77.0.8", "reservation")
    assert cluster.qnet("address", "release", "10.77.0.8", "--yes").exit_code == 0
    assert cluster.content() == {}


def test_address_release_refuses_what_changed_while_it_asked(busy: Cluster) -> None:
    """The record is given to another between the question and the answer."""

    session = Session(
        load=lambda _file: Settings(host=Host(name="host1")),
        connect=lambda _etcd: nullcontext(busy.store),
        interactive=lambda: busy.address("10.77.0.8", "endpoint", container="new", claim="other") is None,
    )
    result = CliRunner().invoke(cli, ["address", "release", "10.77.0.8"], obj=session, input="y\n")
    assert result.exit_code == 1
    assert "qnet: address 10.77.0.8 of tenant default changed hands meanwhile" in result.stderr
    record = busy.record("10.77.0.8")
    assert record is not None
    assert record.container == "new"


# -- networks ------------------------------------------------------------------------------------------------


def test_network_ls_joins_hosts(busy: Cluster) -> None:
    busy.network("host3", "1" * 64, parent="eth2")
    busy.network("host1", "2" * 64, name="web", subnets=("10.78.0.0/24",))
    busy.network("host1", "3" * 64, name="", driver_mode="bridge")
    busy.network("host2", "4" * 64, name="")
    assert busy.json("network", "ls") == [
        {"name": name, "tenant": "default", "subnets": [subnet], "parents": parents, "modes": [mode], "hosts": on}
        for name, subnet, parents, mode, on in (
            ("3" * 12, SUBNET, ["eth1"], "bridge", ["host1"]),
            ("4" * 12, SUBNET, ["eth1"], "macvlan, bridge", ["host2"]),
            ("web", SUBNET, ["eth1", "eth2"], "macvlan, bridge", ["host1", "host2", "host3"]),
            ("web", "10.78.0.0/24", ["eth1"], "macvlan, bridge", ["host1"]),
        )
    ]
    line = busy.qnet("network", "ls").stdout.splitlines()[3]
    assert line.split() == [
        "web",
        "default",
        SUBNET,
        "eth1,",
        "eth2",
        "macvlan,",
        "bridge",
        "host1,",
        "host2,",
        "host3",
    ]
    assert busy.json("network", "ls", "--tenant", "blue") == []


def test_network_inspect(busy: Cluster) -> None:
    found = busy.json("network", "inspect", "web")
    assert [one["host"] for one in found] == ["host1", "host2"]
    assert found[0]["macvlan_mode"] == "bridge"
    assert [one["host"] for one in busy.json("network", "inspect", "b" * 12)] == ["host2"]
    assert busy.qnet("network", "inspect", "web").stdout.count("Parent:") == 2
    assert "network db is on no host" in busy.refused("network", "inspect", "db")


# -- hosts ---------------------------------------------------------------------------------------------------


def test_host_ls(busy: Cluster) -> None:
    assert busy.json("host", "ls") == [
        {"name": name, "networks": 1, "identity": "f" * 32, "since": NOW} for name in ("host1", "host2")
    ]
    told = busy.qnet("host", "ls")
    assert told.stdout.splitlines()[1].split() == ["host1", *["-"] * 5, "1", "-", "-", NOW]
    assert "states are not known: no answer from the placement service at /run/qnet/" in told.stderr


def test_host_forget_releases_nothing_by_itself(busy: Cluster) -> None:
    before = busy.content()
    result = busy.qnet("host", "forget", "host2", "--yes")
    assert "host host2 forgotten" in result.stdout
    assert "still recorded for it: 1 address (qnet address ls --host host2)" in result.stdout
    del before[schema.host_key("host2")]
    assert busy.content() == before


def test_host_forget_asks(busy: Cluster) -> None:
    assert "add --yes" in busy.refused("host", "forget", "host2")
    assert "release its 1 address?" in busy.refused("host", "forget", "host2", "--force")
    assert busy.qnet("host", "forget", "host2", answer="n\n").exit_code == 1
    assert busy.store.get(schema.host_key("host2")) is not None


def test_host_forget_by_force_releases_everything_of_that_host_only(busy: Cluster) -> None:
    busy.address("10.77.0.20", "reservation", host="host2")
    busy.address("10.77.0.21", "host", host="host2", network="b" * 64)
    busy.store.put(schema.volume_mount_key("data", "host2"), b"{}")  # else nobody could remove the volume
    busy.store.put(schema.volume_mount_key("data", "host1"), b"{}")
    done = busy.json("host", "forget", "host2", "--yes", "--force")
    assert done == {
        "host": "host2",
        "claim": True,
        "released": {f"default/{SUBNET}": 2},
        "pools": 1,
        "networks": 1,
    }
    left = busy.content()
    assert not [key for key in left if "host2" in key]
    assert schema.volume_mount_key("data", "host1") in left
    assert [view["address"] for view in busy.json("address", "ls", "--host", "host2")] == ["10.77.0.20"]
    assert busy.record("10.77.0.1") is not None
    assert busy.json("pool", "inspect", SUBNET)["hosts"] == ["host1"]
    again = busy.qnet("host", "forget", "host1", "--yes", "--force").stdout
    assert f"1 address of default/{SUBNET} released" in again
    assert "withdrawn: its networks (1), its uses of pools (1)" in again
    assert busy.record("10.77.0.1") is None


def test_host_forget_finishes_what_was_cut_off(busy: Cluster) -> None:
    """A host of which only a use of a pool is left can be forgotten too."""
    busy.store.delete(schema.host_key("host2"))
    busy.store.delete(schema.network_key("host2", "b" * 64))
    busy.store.delete(schema.address_key("default", SUBNET, "10.77.0.9"))
    assert busy.json("host", "forget", "host2", "--yes", "--force")["pools"] == 1
    assert "host host2 is not known" in busy.refused("host", "forget", "host2", "--yes")


# -- the command itself --------------------------------------------------------------------------------------


def test_an_unreachable_store_is_one_line(cluster: Cluster) -> None:
    cluster.store.fail_next(1, Unavailable("cannot read: etcd is unreachable: 127.0.0.1:2379: connection refused"))
    result = cluster.qnet("pool", "ls")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "qnet: cannot read: etcd is unreachable: 127.0.0.1:2379: connection refused\n"


def test_wrong_settings_are_one_line(tmp_path) -> None:
    file = tmp_path / "qnet.toml"
    file.write_text("[etcd]\nendpoint = 1\n")
    result = CliRunner().invoke(cli, ["--config", str(file), "pool", "ls"])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"qnet: settings: {file} line 2: etcd.endpoint: no such option")


def test_interrupt_and_broken_pipe(cluster: Cluster) -> None:
    cluster.store.fail_next(1, KeyboardInterrupt())
    assert cluster.qnet("pool", "ls").exit_code == 130
    cluster.store.fail_next(1, OSError(errno.EPIPE, "broken pipe"))
    result = cluster.qnet("pool", "ls")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "")


def test_usage_errors_are_2() -> None:
    for words in (["nothing"], ["pool", "ls", "--what"], ["pool", "inspect"], ["completion", "csh"]):
        assert CliRunner().invoke(cli, words).exit_code == 2


def test_every_command_has_help() -> None:
    top = CliRunner().invoke(cli, ["--help"])
    for group in ("pool", "address", "network", "host", "doctor", "completion"):
        assert group in top.stdout
        assert CliRunner().invoke(cli, [group, "-h"]).exit_code == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_QNET_COMPLETE" in result.stdout


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout.startswith("qnet ")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (65533, "65,533"), (16_777_214, "16.8M"), (2**32, "4.3G"), (2**40, "1.1T"), (2**64, "1.8e19")],
)
def test_human_numbers(number: int, text: str) -> None:
    assert human(number) == text


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0"), (1023, "1023"), (1024, "1.0K"), (50 << 20, "50.0M"), (2**50, "1.0P")]
)
def test_sizes_are_told_as_they_are_given(size: int, text: str) -> None:
    assert binary(size) == text


def test_a_tenant_from_its_creation_to_its_removal(cluster: Cluster) -> None:
    made = cluster.qnet("tenant", "create", "shop", "--vlan", "100", "--supernet", "10.100.0.0/16")
    assert made.stdout == "tenant shop created with VLAN 100\n"
    lab = cluster.json("tenant", "create", "lab", "--vlan", "auto", "--vni", "auto", "--max-networks", "3")
    assert (lab["vlan"], lab["vni"], lab["max_networks"], lab["max_addresses"]) == (2, 4096, 3, 0)
    assert [one["name"] for one in cluster.json("tenant", "ls")] == ["default", "lab", "shop"]
    table = cluster.qnet("tenant", "ls").stdout.splitlines()
    assert table[0].split("  ")[0] == "NAME"
    assert table[3].split() == ["shop", "100", "-", "10.100.0.0/16", "no", "limit", "no", "limit"]
    assert cluster.qnet("tenant", "set", "shop", "--vlan", "none", "--vni", "77").stdout.endswith("with VNI 77\n")
    cluster.pool("10.100.1.0/24", tenant="shop")
    assert cluster.json("tenant", "inspect", "shop")["has"] == ["pool 10.100.1.0/24 (0 addresses)"]
    assert "Has:" in cluster.qnet("tenant", "inspect", "shop").stdout
    assert cluster.json("tenant", "set", "shop", "--trusted")["trusted"]
    assert "Trusted:      yes" in cluster.qnet("tenant", "inspect", "shop").stdout
    assert not cluster.json("tenant", "set", "shop", "--untrusted")["trusted"]
    said = "while it has pool 10.100.1.0/24 (0 addresses)"
    assert f"tenant shop cannot be removed {said}" in cluster.refused("tenant", "rm", "shop", "--yes")
    assert f"tenant shop cannot be renamed {said}" in cluster.refused("tenant", "rename", "shop", "store")
    cluster.store.delete(schema.pool_key("shop", "10.100.1.0/24"))
    assert cluster.json("tenant", "set", "shop", "--supernet", "none")["supernets"] == []
    assert cluster.qnet("tenant", "rename", "shop", "store").stdout == "tenant shop renamed to store\n"
    assert "remove tenant store with VNI 77?" in cluster.refused("tenant", "rm", "store")
    assert cluster.qnet("tenant", "rm", "store", answer="y\n").stdout == "tenant store removed\n"
    cluster.qnet("tenant", "rm", "lab", "--yes")
    assert cluster.content() == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("create", "shop"), "without a tag would share its parents' frames with others: add --vlan auto"),
        (("create", "shop", "--untagged", "--vlan", "5"), "leave out one of them"),
        (("create", "Shop", "--vlan", "5"), "'Shop' is no tenant"),
        (("create", "shop", "--vlan", "4095"), "VLAN 4095: a number from 1 to 4094, auto or none"),
        (("create", "shop", "--vlan", "5", "--supernet", "10.0.0.1/8"), "supernet '10.0.0.1/8' is no subnet"),
        (("set", "shop", "--vlan", "5"), "tenant shop does not exist: make it with qnet tenant create shop"),
        (("set", "default"), "nothing to change"),
        (("rm", "default", "--yes"), "tenant default is always there"),
        (("inspect", "shop"), "tenant shop does not exist"),
    ],
)
def test_wrong_tenants_are_refused(cluster: Cluster, words: tuple[str, ...], says: str) -> None:
    assert says in cluster.refused("tenant", *words)


def test_a_tag_is_a_number_auto_or_none(cluster: Cluster) -> None:
    result = cluster.qnet("tenant", "create", "shop", "--vlan", "many")
    assert result.exit_code == 2
    assert "'many' is no number, auto or none" in result.stderr


def test_a_thread_that_is_left_behind_does_not_hold_up_the_end() -> None:
    code = """
import sys, threading, time
from plugins.cli import app
def said(prog_name):
    threading.Thread(target=time.sleep, args=(300,)).start()
    print("said")
    sys.exit(3)
app.cli = said
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "said\n")
