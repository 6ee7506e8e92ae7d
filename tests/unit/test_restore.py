"""Backups, and what a restore makes of the store, of a backup and of what engines have: nothing is given to two."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from plugins.cli import cluster_checks
from plugins.cli.app import cli
from plugins.cli.machines import ALIVE, MACHINES
from plugins.cli.session import Session
from plugins.ipam.admin import Admin
from qnet import schema, snapshot
from qnet.addresses.model import parse_subnet
from qnet.engine import EngineContainer, EngineEndpoint, EngineNetwork, EngineSubnet, EngineView
from qnet.errors import InvalidRequest, Unavailable
from qnet.schema import (
    AddressRecord,
    HostRecord,
    MacRecord,
    PoolRecord,
    RestoreRecord,
    SegmentRecord,
    TenantRecord,
    TrashRecord,
    UseRecord,
    VolumeRecord,
)
from qnet.settings import Etcd, Host, Settings
from qnet.store.base import Txn, TxnResult
from tests.store.memory import MemoryStore

NOW = "2026-01-02T03:04:05+00:00"
SUBNET = "10.77.0.0/24"
POOL = schema.pool_key("default", SUBNET)


def mac(number: int) -> str:
    return f"02:00:00:00:00:{number:02x}"


class World:
    """A store, the engines of its hosts, and the command as an operator on host1 calls it."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.file = folder / "backup"
        self.boxes: dict[str, list[EngineContainer]] = {"host1": [], "host2": []}
        self.asked: list[str] = []
        for host in self.boxes:
            self.put(schema.host_key(host), HostRecord(name=host, identity=f"id-{host}", since=NOW))
        machine = {"name": "host2", "url": "10.0.0.2:7443"}
        self.store.put(MACHINES + "host2", json.dumps(machine).encode())
        self.pool()

    def qnet(self, *words: str) -> Result:
        session = Session(
            load=lambda _file: Settings(host=Host(name="host1"), etcd=Etcd()),
            connect=lambda _etcd: nullcontext(self.store),
            now=lambda: NOW,
            view=lambda _settings, url: self.view(
                {"": "host1", "10.0.0.2:7443": "host2", "10.0.0.3:7443": "host3"}[url]
            ),
        )
        return CliRunner().invoke(cli, words, obj=session)

    def done(self, *words: str) -> str:
        result = self.qnet(*words)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *words: str) -> str:
        """What is said, and nothing has changed."""
        before = self.content()
        result = self.qnet(*words)
        assert result.exit_code == 1, result.output
        assert self.content() == before
        return result.stderr

    def content(self) -> dict[str, bytes]:
        return {kv.key: kv.value for kv in self.store.range(schema.ROOT).kvs}

    def put(self, key: str, record: msgspec.Struct, lease: int = 0) -> None:
        self.store.put(key, schema.encode(record), lease=lease)

    def pool(self, subnet: str = SUBNET, tenant: str = "default") -> None:
        self.put(schema.pool_key(tenant, subnet), PoolRecord(tenant=tenant, subnet=subnet, since=NOW))

    def address(self, number: int, host: str = "host1", kind: schema.Kind = "endpoint", **fields: str) -> None:
        """An address with its MAC address; of container `box<number>` unless said otherwise."""
        known = {"container": f"box{number}", "container_id": f"id{number}", "mac": mac(number)} | fields
        record = AddressRecord(kind=kind, host=host, since=NOW, claim=f"{host}-{number}", **known)  # type: ignore[arg-type]
        self.put(self.key(number), record)
        if record.mac:
            claim = MacRecord(address=f"10.77.0.{number}", host=host, claim=record.claim)
            self.put(schema.mac_key("default", record.mac), claim)

    def runs(
        self, number: int, host: str = "host1", *, running: bool = True, asked: bool = False, as_: str = ""
    ) -> None:
        text = f"10.77.0.{number}"
        end = EngineEndpoint("net", "end", (text,) if running else (), (text,) if asked else ())
        name = as_ or f"box{number}"
        self.boxes[host].append(EngineContainer(name.replace("box", "id"), name, running, True, (end,)))

    def view(self, host: str) -> EngineView:
        self.asked.append(host)
        if host not in self.boxes:
            raise Unavailable("no answer")
        network = EngineNetwork("net", "web", "qnet", "qnet", "default", (EngineSubnet(SUBNET, "", ()),))
        return EngineView((network,), tuple(self.boxes[host]))

    def wipe(self) -> None:
        """etcd's data are gone; a lease and a revision count from the beginning."""
        self.store = MemoryStore()

    def key(self, number: int) -> str:
        return schema.address_key("default", SUBNET, f"10.77.0.{number}")

    def record(self, number: int) -> AddressRecord | None:
        kv = self.store.get(self.key(number))
        return schema.decode(kv.value, AddressRecord) if kv else None


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def backed_up(world: World) -> str:
    world.done("backup", str(world.file), "--force")
    return str(world.file)


# -- backups ---------------------------------------------------------------------------------------------------


def test_a_backup_has_all_but_what_is_under_leases(world: World) -> None:
    kept = world.content()
    lease = world.store.grant(60)
    world.store.put(schema.resting_key("default", SUBNET, "10.77.0.9"), b"", lease=lease)
    world.store.put(f"{schema.ROOT}placement/alive/host1", b"x", lease=lease)
    found = snapshot.read(Path(backed_up(world)).read_bytes(), "b")
    assert found.values == kept
    assert (found.header.keys, found.header.revision) == (len(kept), world.store.range("/").revision)
    assert world.file.stat().st_mode & 0o777 == 0o600


def test_a_backup_is_of_one_revision(world: World) -> None:
    """What is written between two pages is not in it: the store is asked for all of it at once."""
    before = world.content()
    ranges = world.store.range

    def late(prefix: str, **options: int) -> object:
        found = ranges(prefix, **options)  # type: ignore[arg-type]
        world.store.put(POOL, b"{}")
        return found

    world.store.range = late  # type: ignore[assignment,method-assign]
    assert snapshot.read(snapshot.take(world.store, NOW), "b").values == before


def test_a_file_that_is_there_is_kept(world: World) -> None:
    world.file.write_text("mine")
    assert "add --force" in world.refused("backup", str(world.file))
    assert world.file.read_text() == "mine"


def test_to_standard_output(world: World) -> None:
    assert snapshot.read(world.qnet("backup", "-").stdout_bytes, "-").values == world.content()


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "empty", "other"])
def test_a_damaged_file_is_refused(world: World, damage: str) -> None:
    data = Path(backed_up(world)).read_bytes()
    spoilt = {
        "cut": data[:-1],
        "changed": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "longer": data + b"x",
        "empty": b"",
        "other": b"PK\x03\x04",
    }
    world.file.write_bytes(spoilt[damage])
    said = world.refused("restore", str(world.file))
    assert ("is damaged" if damage in ("cut", "changed", "longer") else "is no backup of qnet") in said


def test_every_byte_counts(world: World) -> None:
    data = snapshot.take(world.store, NOW)
    for at in range(data.index(b"\n") + 1, len(data)):
        with pytest.raises(InvalidRequest, match="damaged"):
            snapshot.read(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :], "b")


def test_a_backup_of_a_later_release_is_refused(world: World) -> None:
    data = Path(backed_up(world)).read_bytes()
    world.file.write_bytes(data.replace(b'"format":1', b'"format":2', 1))
    assert "has format 2" in world.refused("restore", str(world.file))


# -- into an empty store ---------------------------------------------------------------------------------------


def test_all_comes_back(world: World) -> None:
    world.address(5)
    world.runs(5)
    world.put(schema.tenant_key("shop"), TenantRecord(name="shop", since=NOW, vlan=7))
    world.put(schema.segment_key("vlan", 7), SegmentRecord(tenant="shop"))
    volume = VolumeRecord(name="data", id="v1", tenant="shop", pool="p", since=NOW, size=10)
    world.put(schema.volume_key("data"), volume)
    world.store.put(schema.volume_size_key("shop", "data"), b"10")
    before, file = world.content(), backed_up(world)
    world.wipe()
    assert "nothing is in the way" in world.done("restore", file, "--dry-run")
    assert world.content() == {}
    world.done("restore", file)
    assert world.content() == before
    assert sorted(set(world.asked)) == ["host1", "host2"]


def test_many_keys_come_back_in_several_transactions(world: World) -> None:
    for number in range(2, 250):
        world.address(number)
    before, file = world.content(), backed_up(world)
    world.wipe()
    world.done("restore", file)
    assert world.content() == before


def test_what_is_free_in_the_backup_and_in_use_is_its_users(world: World) -> None:
    file = backed_up(world)
    world.runs(6, "host2")
    world.runs(7, "host2", running=False, asked=True)
    world.wipe()
    assert "added, for an engine has it: address 10.77.0.6" in world.done("restore", file)
    six, seven = world.record(6), world.record(7)
    assert six is not None
    assert seven is not None
    assert (six.kind, six.host, six.container_id) == ("endpoint", "host2", "id6")
    assert (seven.kind, seven.host, seven.container, seven.asked) == ("held", "host2", "box7", True)


def test_what_is_in_use_in_a_pool_that_the_backup_has_not(world: World) -> None:
    world.runs(6, "host2")
    world.store.delete(POOL)
    file = backed_up(world)
    world.wipe()
    world.done("restore", file)
    assert world.store.get(POOL) is not None


def test_a_pool_that_overlaps_another_is_refused(world: World) -> None:
    world.store.delete(POOL)
    world.pool("10.77.0.0/16")
    world.runs(6, "host2")
    file = backed_up(world)
    world.wipe()
    assert "overlap" in world.refused("restore", file)


def test_what_is_anothers_in_the_backup_and_in_use_is_refused(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)
    world.runs(5, "host2", as_="box8")
    world.wipe()
    said = world.refused("restore", file)
    assert (
        "10.77.0.5 of tenant default: in use by container box8 on host2, but in use by container box5 on host1" in said
    )
    assert "docker stop box8" in said


@pytest.mark.parametrize("kind", ["gateway", "auxiliary", "reservation", "quarantine"])
def test_what_is_nobodys_in_the_backup_and_in_use_is_refused(world: World, kind: schema.Kind) -> None:
    world.address(5, "host1", kind, container="", container_id="", mac="")
    file = backed_up(world)
    world.runs(5, "host1")
    world.wipe()
    assert "in use by container box5 on host1" in world.refused("restore", file)


def test_two_hosts_that_have_one_address_are_refused(world: World) -> None:
    file = backed_up(world)
    world.runs(6, "host1")
    world.runs(6, "host2", as_="box9")
    world.wipe()
    assert "docker stop box9" in world.refused("restore", file)


def test_another_container_of_the_same_host_has_it_now(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)
    world.runs(5, "host1", as_="box8")
    world.wipe()
    world.done("restore", file)
    record = world.record(5)
    assert record is not None
    assert (record.container, record.container_id, record.mac) == ("box8", "id8", "")
    assert world.store.get(schema.mac_key("default", mac(5))) is None


def test_a_host_that_does_not_answer_is_named(world: World) -> None:
    world.address(5, "host3")
    file = backed_up(world)
    del world.boxes["host2"]
    world.wipe()
    said = world.refused("restore", file)
    assert "host2: no answer" in said
    assert "host3: nobody knows where its agent is" in said
    assert "--without HOST for each: what their containers have" in said
    assert "--without nobody" in world.refused("restore", file, "--without", "nobody")
    world.done("restore", file, "--without", "host2", "--without", "host3")
    record = world.record(5)
    assert record is not None
    assert record.host == "host3"


def test_a_host_that_joined_after_the_backup_is_asked_what_it_runs(world: World) -> None:
    file = backed_up(world)
    world.wipe()
    world.boxes["host3"] = []
    world.store.put(ALIVE + "host3", b"", lease=world.store.grant(60))
    assert "host3: nobody knows where its agent is" in world.refused("restore", file)
    machine = {"name": "host3", "url": "10.0.0.3:7443"}
    world.store.put(MACHINES + "host3", json.dumps(machine).encode())
    world.runs(9, "host3")
    world.done("restore", file, "--replace")
    record = world.record(9)
    assert record is not None
    assert (record.host, record.container) == ("host3", "box9")


# -- into a store that has something ---------------------------------------------------------------------------


def test_a_store_that_differs_needs_replace(world: World) -> None:
    file = backed_up(world)
    world.done("restore", file)
    world.put(POOL, PoolRecord(tenant="default", subnet=SUBNET, since="later", kept=True))
    world.pool("10.78.0.0/24")
    said = world.refused("restore", file)
    assert "2 records" in said
    assert "add --replace" in said
    world.done("restore", file, "--replace")
    kv = world.store.get(POOL)
    assert kv is not None
    assert not schema.decode(kv.value, PoolRecord).kept
    assert world.store.get(schema.pool_key("default", "10.78.0.0/24")) is not None


def test_what_hosts_write_of_themselves_is_newer_in_the_store(world: World) -> None:
    key = schema.use_key("default", SUBNET, "host1")
    world.put(key, UseRecord(host="host1", engine="old", networks=1))
    file = backed_up(world)
    world.put(key, UseRecord(host="host1", engine="new", networks=2))
    world.done("restore", file)
    kv = world.store.get(key)
    assert kv is not None
    assert schema.decode(kv.value, UseRecord).networks == 2


def test_an_address_that_was_given_to_another_since(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)
    world.address(5, "host2", container="new", container_id="idnew")
    said = world.refused("restore", file, "--replace")
    assert "in use by container new on host2, but by the backup in use by container box5 on host1" in said


def test_an_address_that_is_held_for_another_name_since(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)
    held = AddressRecord(kind="held", host="", since=NOW, claim="c", container="shop")
    world.put(world.key(5), held, lease=world.store.grant(60))
    said = world.refused("restore", file, "--replace")
    assert "it is held for the next container called shop, but by the backup in use by container box5" in said
    assert "qnet address release 10.77.0.5" in said


def test_an_address_that_was_given_out_since_stays_given(world: World) -> None:
    """A start may be in progress: its engine does not show it yet."""
    file = backed_up(world)
    world.address(6, "host2", container="", container_id="")
    world.done("restore", file, "--replace")
    assert world.record(6) is not None
    assert world.store.get(schema.mac_key("default", mac(6))) is not None


def test_a_record_made_again_by_its_host_gets_back_what_it_had(world: World) -> None:
    world.address(5, placement="p1")
    file = backed_up(world)
    world.runs(5)
    world.wipe()
    world.pool()
    world.address(5, mac="")
    world.done("restore", file, "--replace")
    record = world.record(5)
    assert record is not None
    assert (record.placement, record.mac) == ("p1", mac(5))


def test_a_mac_address_that_would_be_twos(world: World) -> None:
    world.address(5)
    file = backed_up(world)
    world.store.delete(world.key(5))
    world.store.delete(schema.mac_key("default", mac(5)))
    world.address(6, "host2", mac=mac(5))
    said = world.refused("restore", file, "--replace")
    assert f"MAC address {mac(5)} of tenant default would be 10.77.0." in said


def test_a_vlan_that_would_be_twos(world: World) -> None:
    world.put(schema.tenant_key("shop"), TenantRecord(name="shop", since=NOW, vlan=7))
    file = backed_up(world)
    world.store.delete(schema.tenant_key("shop"))
    world.put(schema.tenant_key("bank"), TenantRecord(name="bank", since=NOW, vlan=7))
    assert "vlan 7 would be" in world.refused("restore", file, "--replace")


def test_an_id_that_a_tenant_gives_back_is_free(world: World) -> None:
    world.put(schema.tenant_key("shop"), TenantRecord(name="shop", since=NOW, vni=5000))
    world.put(schema.segment_key("vni", 5000), SegmentRecord(tenant="shop"))
    file = backed_up(world)
    world.put(schema.tenant_key("shop"), TenantRecord(name="shop", since=NOW, vni=6000))
    world.store.delete(schema.segment_key("vni", 5000))
    world.put(schema.segment_key("vni", 6000), SegmentRecord(tenant="shop"))
    world.done("restore", file, "--replace")
    assert world.store.get(schema.segment_key("vni", 5000)) is not None
    assert world.store.get(schema.segment_key("vni", 6000)) is None


def test_a_host_name_that_is_another_machines(world: World) -> None:
    file = backed_up(world)
    world.put(schema.host_key("host2"), HostRecord(name="host2", identity="other", since=NOW))
    assert "qnet host forget host2" in world.refused("restore", file)


def test_a_volume_of_the_same_name_with_other_data(world: World) -> None:
    def volume(number: str) -> VolumeRecord:
        return VolumeRecord(name="data", id=number, tenant="default", pool="p", since=NOW)

    world.put(schema.volume_key("data"), volume("v1"))
    file = backed_up(world)
    world.put(schema.volume_key("data"), volume("v2"))
    assert "volume data is another one" in world.refused("restore", file, "--replace")
    world.store.delete(schema.volume_key("data"))
    world.put(schema.volume_trash_key("v1"), TrashRecord(volume=volume("v1"), removed=NOW))
    assert "volume data was removed or undeleted" in world.refused("restore", file, "--replace")


def test_a_container_name_that_is_another_hosts(world: World) -> None:
    key = f"{schema.ROOT}placement/containers/web"

    def placed(host: str, number: str, **more: str) -> bytes:
        return json.dumps({"name": "web", "host": host, "id": number} | more).encode()

    world.store.put(key, placed("host1", "c1", claim="k"))
    file = backed_up(world)
    world.store.put(key, placed("host2", "c2"))
    assert "container name web is host2's, and in the backup host1's" in world.refused("restore", file, "--replace")
    world.store.put(key, placed("host1", "c1"))
    world.done("restore", file, "--replace")
    assert b'"claim"' in world.content()[key]
    world.store.put(key, placed("host1", "c3"))
    world.done("restore", file, "--replace")
    assert b'"c3"' in world.content()[key]


# -- while it writes -------------------------------------------------------------------------------------------


class Meddled(MemoryStore):
    """A store in which something happens right before a transaction of the restore: the first one closes the gate."""

    def __init__(self, at: int, then: Callable[[MemoryStore], None], *pools: str) -> None:
        super().__init__()
        self.at, self.then, self.turn = -1, then, 0
        for subnet in pools:
            record = PoolRecord(tenant="default", subnet=subnet, since=NOW)
            self.put(schema.pool_key("default", subnet), schema.encode(record))
        self.at, self.turn = at, 0

    def txn(self, txn: Txn, *, repeatable: bool = False) -> TxnResult:
        self.turn += 1
        if self.turn == self.at:
            self.at = -1
            self.then(self)
        return super().txn(txn, repeatable=repeatable)


def refuses_pools(store: MemoryStore) -> None:
    """No pool can be made, and there is none in which an address could be taken."""
    with pytest.raises(Unavailable, match="a restore is at work"):
        Admin(store, 60, lambda: NOW).create_pool("default", parse_subnet("10.99.0.0/24"), None, ())
    assert store.range(schema.POOLS).kvs == ()


def test_nobody_is_given_an_address_while_it_writes(world: World) -> None:
    for number in range(2, 250):
        world.address(number)
    file, before = backed_up(world), world.content()
    for at in (2, 3, 4):
        world.store = Meddled(at, refuses_pools)
        world.done("restore", file)
        assert world.store.at == -1
        assert world.content() == before


def test_what_changes_meanwhile_is_compared_again(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)

    world.store = Meddled(2, lambda store: store.put(world.key(6), world_record("host2")) and None, SUBNET)
    world.done("restore", file, "--replace")
    assert world.record(5) is not None
    assert world.record(6) is not None


def world_record(host: str) -> bytes:
    return schema.encode(AddressRecord(kind="endpoint", host=host, since=NOW, claim="late"))


def test_what_is_taken_meanwhile_is_refused_and_the_pools_are_as_before(world: World) -> None:
    world.address(5, "host1")
    file = backed_up(world)
    world.store = Meddled(2, lambda store: store.put(world.key(5), world_record("host2")) and None, "10.88.0.0/24")
    result = world.qnet("restore", file, "--replace")
    assert result.exit_code == 1
    assert "but by the backup in use by container box5 on host1" in result.stderr
    assert set(world.content()) == {schema.pool_key("default", "10.88.0.0/24"), world.key(5)}


def test_one_that_broke_off_is_gone_on_with(world: World) -> None:
    world.address(5)
    file, before = backed_up(world), world.content()

    def broken(_store: MemoryStore) -> None:
        raise Unavailable("etcd is away")

    world.store = Meddled(2, broken, "10.88.0.0/24")
    assert "no address is given out: type it again" in world.qnet("restore", file, "--replace").stderr
    assert [one.level for one in cluster_checks.restoring(world.store)] == ["fail"]
    refuses_pools(world.store)
    world.done("restore", file, "--replace")
    assert list(cluster_checks.restoring(world.store)) == []
    extra = schema.pool_key("default", "10.88.0.0/24")
    assert set(world.content()) == {*before, extra}


def test_of_two_at_once_the_first_gives_up(world: World) -> None:
    world.address(5)
    file = backed_up(world)

    def another(store: MemoryStore) -> None:
        store.put(schema.RESTORE, schema.encode(RestoreRecord(host="host2", since=NOW, pools={})))

    world.store = Meddled(2, another)
    result = world.qnet("restore", file)
    assert result.exit_code == 1
    assert "another restore has begun" in result.stderr
    assert world.record(5) is None


def test_the_gate_needs_no_more_than_a_transaction_may_have(world: World) -> None:
    sizes: list[int] = []
    for number in range(2, 250):
        world.address(number)
    file = backed_up(world)
    store = MemoryStore()
    run = store.txn

    def measured(txn: Txn, *, repeatable: bool = False) -> TxnResult:
        sizes.append(max(len(txn.compares), len(txn.success)))
        return run(txn, repeatable=repeatable)

    store.txn = measured  # type: ignore[method-assign]
    world.store = store
    world.done("restore", file)
    assert max(sizes) <= 128
