"""The registry of tenants, on both stores: one id is never given to two."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from qnet import schema
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound
from qnet.schema import NetworkRecord, PoolRecord, SegmentRecord
from qnet.store.base import Store
from qnet.tenants import AUTO, DEFAULT, Change, Tenants, parse_range

NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def tenants(store: Store) -> Iterator[Tenants]:
    found = Tenants(store, lambda: NOW, "10-12", "100-102")
    yield found
    for kv in store.range(schema.ROOT).kvs:
        store.delete(kv.key)


def segments(store: Store) -> dict[str, str]:
    prefix = schema.SEGMENTS
    return {
        kv.key.removeprefix(prefix): schema.decode(kv.value, SegmentRecord).tenant for kv in store.range(prefix).kvs
    }


def test_ids_are_taken_and_given_back(store: Store, tenants: Tenants) -> None:
    assert tenants.create("shop", Change(vlan=100)).vlan == 100
    assert tenants.create("lab", Change(vlan=AUTO, vni=AUTO)).vni == 100
    assert segments(store) == {"vlan/100": "shop", "vlan/10": "lab", "vni/100": "lab"}
    assert tenants.change("lab", Change(vlan=AUTO)).vlan == 10
    assert tenants.change("lab", Change(vlan=0, vni=7)).vlan == 0
    assert segments(store) == {"vlan/100": "shop", "vni/7": "lab"}
    assert (tenants.owner("vlan", 100), tenants.owner("vni", 7), tenants.owner("vlan", 7)) == ("shop", "lab", "")
    tenants.remove("shop")
    tenants.rename("lab", "more")
    assert segments(store) == {"vni/7": "more"}
    assert [one.name for one in tenants.all()] == [DEFAULT, "more"]
    with pytest.raises(NotFound):
        tenants.get("lab")


def test_an_id_of_another_is_refused(store: Store, tenants: Tenants) -> None:
    tenants.create("shop", Change(vlan=100, vni=5))
    before = store.range(schema.ROOT).kvs
    with pytest.raises(Conflict, match="VLAN 100 belongs to tenant shop: choose another, or auto"):
        tenants.create("lab", Change(vlan=100))
    with pytest.raises(Conflict, match="VNI 5 belongs to tenant shop"):
        tenants.change(DEFAULT, Change(vni=5))
    with pytest.raises(Conflict, match="tenant shop exists"):
        tenants.create("shop", Change(vlan=6))
    tenants.create("free", Change(vlan=7))
    with pytest.raises(Conflict, match="tenant shop exists"):
        tenants.rename("free", "shop")
    tenants.remove("free")
    assert store.range(schema.ROOT).kvs == before


def test_many_hosts_that_ask_at_once_get_ids_of_their_own(store: Store) -> None:
    """As many as there are; the last one is told."""
    found: list[int] = []
    errors: list[str] = []
    start = threading.Barrier(13)

    def create(number: int) -> None:
        own = Tenants(store, lambda: NOW, "10-21", "100-102")
        start.wait()
        try:
            found.append(own.create(f"t{number}", Change(vlan=AUTO)).vlan)
        except Exhausted as error:
            errors.append(str(error))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(found) == list(range(10, 22))
    assert errors == ["no VLAN is left from 10 to 21: widen tenants.vlans in the settings"]
    assert len(segments(store)) == 12
    for kv in store.range(schema.ROOT).kvs:
        store.delete(kv.key)


def test_who_has_something_keeps_name_and_tag(store: Store, tenants: Tenants) -> None:
    tenants.create("shop", Change(vlan=100))
    pool = PoolRecord(tenant="shop", subnet="10.1.0.0/24", since=NOW)
    store.put(schema.pool_key("shop", pool.subnet), schema.encode(pool))
    store.put(schema.use_key("shop", pool.subnet, "host1"), b"{}")
    network = NetworkRecord(id="n" * 64, host="host1", tenant="shop", subnets=(pool.subnet,), name="web")
    store.put(schema.network_key("host1", network.id), schema.encode(network))
    has = r"while it has pool 10\.1\.0\.0/24 \(0 addresses\), network web on host1"
    for act in (
        lambda: tenants.remove("shop"),
        lambda: tenants.rename("shop", "store"),
        lambda: tenants.change("shop", Change(vlan=0)),
        lambda: tenants.change("shop", Change(vni=AUTO)),
    ):
        with pytest.raises(Conflict, match=has):
            act()
    assert tenants.change("shop", Change(vlan=100, max_addresses=5)).max_addresses == 5
    assert segments(store) == {"vlan/100": "shop"}


def test_the_default_tenant_is_there_and_can_be_given_a_tag(tenants: Tenants) -> None:
    assert (tenants.get(DEFAULT).vlan, tenants.get(DEFAULT).since) == (0, "")
    assert tenants.change(DEFAULT, Change(vlan=AUTO)).vlan == 10
    assert tenants.get(DEFAULT).vlan == 10
    tenants.create("shop", Change(vlan=100))
    for act in (
        lambda: tenants.remove(DEFAULT),
        lambda: tenants.rename(DEFAULT, "x"),
        lambda: tenants.rename("shop", DEFAULT),
    ):
        with pytest.raises(InvalidRequest, match="always there"):
            act()


@pytest.mark.parametrize("text", ["", "x", "5-4", "0-9", "1-4095", "1-2-3", "-1"])
def test_wrong_ranges_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is no range of VLAN ids"):
        parse_range(text, "vlan")
