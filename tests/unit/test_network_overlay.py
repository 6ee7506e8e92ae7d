"""VXLAN: what a link must know, and how it comes to know it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.network import rules
from plugins.network.forwarding import Box, Table, difference
from plugins.network.overlay import Overlay, Segment
from qnet import schema
from qnet.errors import InvalidRequest, Unavailable
from qnet.schema import AddressRecord, VtepRecord
from qnet.store.memory import MemoryStore
from qnet.tenants import Change
from tests.lab.commands import wait_for
from tests.unit.test_network_segments import Bench, Filters, Tunnels

MAC, OTHER = "02:00:00:00:00:05", "02:00:00:00:00:06"
LOCAL6 = "fe80::ff:fe00:5"
SEGMENT = Segment(501, "shop", "qx-501", "eth0", "10.99.0.11")


def test_a_container_elsewhere_is_a_mac_behind_a_host_and_its_addresses() -> None:
    table = Table("host1")
    table.hosts([("host2", "10.99.0.12"), ("host1", "10.99.0.11")])
    table.boxes([("10.77.0.5", Box(MAC, "host2")), ("fd00::5", Box(MAC, "host2")), ("10.77.0.6", Box(OTHER, "host1"))])
    assert table.entries == {
        ("flood", "10.99.0.12"): "",
        ("mac", MAC): "10.99.0.12",
        ("address", "10.77.0.5"): MAC,
        ("address", "fd00::5"): MAC,
        ("address", LOCAL6): MAC,
    }
    gone = {("address", "fd00::5"): None, ("address", LOCAL6): None}
    assert table.boxes([("fd00::5", None)]) == gone
    assert table.boxes([("10.77.0.5", Box(MAC, "host1"))]) == {("mac", MAC): None, ("address", "10.77.0.5"): None}


def test_a_host_that_leaves_takes_its_containers_along_and_another_may_take_its_place() -> None:
    table = Table("host1")
    assert table.boxes([("10.77.0.5", Box(MAC, "host2"))]) == {}
    came = {("flood", "10.99.0.12"): "", ("mac", MAC): "10.99.0.12", ("address", "10.77.0.5"): MAC}
    assert table.hosts([("host2", "10.99.0.12")]) == came
    moved = {("flood", "10.99.0.12"): None, ("flood", "10.99.0.22"): "", ("mac", MAC): "10.99.0.22"}
    assert table.hosts([("host2", "10.99.0.22")]) == moved
    table.hosts([("host2", None)])
    assert table.entries == {}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["host1", "host2", "host3"]), st.sampled_from([None, "10.0.0.1", "10.0.0.2"])),
            st.tuples(
                st.sampled_from(["10.77.0.5", "10.77.0.6", "fd00::5"]),
                st.one_of(
                    st.none(), st.builds(Box, st.sampled_from([MAC, OTHER]), st.sampled_from(["host1", "host2"]))
                ),
            ),
        )
    )
)
def test_changes_add_up_to_what_a_fresh_table_has(steps: list[tuple[str, str | Box | None]]) -> None:
    table, known = Table("host1"), {}
    hosts: dict[str, str | None] = {}
    boxes: dict[str, Box | None] = {}
    for name, value in steps:
        if name.startswith("host"):
            changes = table.hosts([(name, value)])  # type: ignore[list-item]
            hosts[name] = value  # type: ignore[assignment]
        else:
            changes = table.boxes([(name, value)])  # type: ignore[list-item]
            boxes[name] = value  # type: ignore[assignment]
        for key, now in changes.items():
            known.pop(key, None)
            if now is not None:
                known[key] = now
    fresh = Table("host1")
    fresh.hosts(hosts.items())
    fresh.boxes(boxes.items())
    macs = {box.mac for box in boxes.values() if box}
    if all(len({box.host for box in boxes.values() if box and box.mac == mac}) == 1 for mac in macs):
        assert known == table.entries == fresh.entries
    assert not difference(known, table.entries)


def test_only_hosts_of_a_vni_may_send_into_it() -> None:
    script = rules.underlay({501: frozenset({"10.99.0.12", "fd99::12"}), 502: frozenset()}, ["eth0"])
    assert '"eth0" } ip saddr { 10.99.0.12 } accept' in script
    assert '"eth0" } ip6 saddr { fd99::12 } accept' in script
    assert "chain vni502 {\ndrop\n}" in script
    assert "vmap { 501 : goto vni501, 502 : goto vni502 }" in script
    assert rules.underlay({}, []) == "add table inet qnet_underlay\ndelete table inet qnet_underlay\n"


@pytest.fixture
def world() -> Iterator[tuple[MemoryStore, Tunnels, Filters, Callable[[str], Overlay]]]:
    store, tunnels, filters = MemoryStore(), Tunnels(), Filters()
    made: list[Overlay] = []

    def overlay(host: str) -> Overlay:
        made.append(Overlay(store, tunnels, filters, host))  # type: ignore[arg-type]
        return made[-1]

    yield store, tunnels, filters, overlay
    for one in made:
        one.close()


World = tuple[MemoryStore, Tunnels, Filters, Callable[[str], Overlay]]


def arrives(store: MemoryStore, address: str, mac: str, host: str) -> None:
    record = AddressRecord(kind="endpoint", host=host, since="", claim="c", mac=mac)
    store.put(schema.address_key("shop", "10.77.0.0/24", address), schema.encode(record))


def test_a_record_reaches_the_link_and_so_does_its_end(world: World) -> None:
    store, tunnels, filters, make = world
    make("host1").enter(SEGMENT)
    assert schema.decode(store.get(schema.vtep_key(501, "host1")).value, VtepRecord).address == "10.99.0.11"
    store.put(schema.vtep_key(501, "host2"), schema.encode(VtepRecord(address="10.99.0.12")))
    arrives(store, "10.77.0.5", MAC, "host2")
    wanted = {("flood", "10.99.0.12"): "", ("mac", MAC): "10.99.0.12", ("address", "10.77.0.5"): MAC}
    wait_for("the link knows", lambda: tunnels.entries("qx-501") == wanted, 5)
    assert filters.vnis == {501: {"10.99.0.12"}}
    store.delete(schema.address_key("shop", "10.77.0.0/24", "10.77.0.5"))
    wait_for("it is gone", lambda: tunnels.entries("qx-501") == {("flood", "10.99.0.12"): ""}, 5)


def test_what_the_kernel_lost_or_has_too_much_is_put_right(world: World) -> None:
    store, tunnels, _, make = world
    store.put(schema.vtep_key(501, "host2"), schema.encode(VtepRecord(address="10.99.0.12")))
    tunnels.known["qx-501"] = {("mac", OTHER): "10.99.0.99"}
    overlay = make("host1")
    overlay.sync({501: SEGMENT})
    wait_for("as it should be", lambda: tunnels.entries("qx-501") == {("flood", "10.99.0.12"): ""}, 5)
    tunnels.known.clear()
    overlay.sync({501: SEGMENT})
    wait_for("and again", lambda: tunnels.entries("qx-501") == {("flood", "10.99.0.12"): ""}, 5)


def test_a_host_withdraws_what_an_earlier_process_left(world: World) -> None:
    store, _, filters, make = world
    for vni in (501, 7):
        for host in ("host1", "host2"):
            store.put(schema.vtep_key(vni, host), schema.encode(VtepRecord(address="10.99.0.11")))
    filters.vnis = {501: frozenset(), 7: frozenset()}
    make("host1").sync({501: SEGMENT})
    left = {kv.key for kv in store.range(schema.VTEPS).kvs}
    assert left == {schema.vtep_key(501, "host1"), schema.vtep_key(501, "host2"), schema.vtep_key(7, "host2")}
    assert set(filters.vnis) == {501}
    make("host1").sync({})
    assert filters.vnis == {}


def test_what_could_not_be_withdrawn_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, filters, make = world
    store.put(schema.vtep_key(7, "host1"), schema.encode(VtepRecord(address="10.99.0.11")))
    filters.vnis = {7: frozenset()}
    overlay = make("host1")

    def away(*_: object) -> None:
        raise Unavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "range", away)
        with pytest.raises(Unavailable):
            overlay.sync({})
    with monkeypatch.context() as broken:
        broken.setattr(filters, "underlay", away)
        overlay.sync({})
        assert store.get(schema.vtep_key(7, "host1")), "the rules are still there, and so is what tells of them"
    overlay.sync({})
    assert store.get(schema.vtep_key(7, "host1")) is None
    assert filters.vnis == {}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    bench.tenants.create("tunnel", Change(vni=501))
    bench.kernel.links["eth0"] = bench.kernel.links["eth1"]
    bench.kernel.own["eth0"] = ["fd99::11", "10.99.0.11"]
    yield bench
    bench.overlay.close()


def test_a_vxlan_network_stands_on_the_link_of_its_vni_from_first_to_last(bench: Bench) -> None:
    before = set(bench.kernel.links)
    bench.create("a", "tunnel", mode="vxlan")
    bench.create("b", "tunnel", mode="vxlan")
    assert set(bench.kernel.links) - before == {"qx-501", "qb-qx-501"}
    assert (bench.kernel.links["qx-501"].parent, bench.kernel.links["qx-501"].local) == ("eth0", "10.99.0.11")
    bench.service.delete_network("a")
    assert bench.store.get(schema.vtep_key(501, "host1"))
    bench.service.delete_network("b")
    assert set(bench.kernel.links) == before
    assert bench.store.get(schema.vtep_key(501, "host1")) is None


def test_an_address_that_the_host_got_anew_is_told(bench: Bench) -> None:
    bench.create("a", "tunnel", mode="vxlan")
    bench.kernel.own["eth0"] = ["10.99.0.77"]
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    kv = bench.store.get(schema.vtep_key(501, "host1"))
    assert kv is not None
    assert schema.decode(kv.value, VtepRecord).address == "10.99.0.77"


def test_untrusted_tenants_are_not_on_the_underlay(bench: Bench) -> None:
    bench.create("a", "tunnel", mode="vxlan")
    with pytest.raises(InvalidRequest, match=r"parent eth0 would carry VXLAN packets and, untagged, .* tenant plain"):
        bench.create("b", "plain", parent="eth0")
    bench.create("c", "default", parent="eth0")
    bench.service.delete_network("a")
    bench.create("b", "plain", parent="eth0")
    with pytest.raises(InvalidRequest, match="tenant plain"):
        bench.create("a", "tunnel", mode="vxlan")


@pytest.mark.parametrize(
    ("tenant", "options", "says"),
    [
        ("plain", {"mode": "vxlan"}, r"tenant plain has no VNI, .* qnet tenant set plain --vni auto"),
        ("tunnel", {}, "tenant tunnel has VNI 501 and no VLAN"),
        ("tunnel", {"mode": "vxlan", "parent": "eth1"}, "parent eth1 has no address"),
    ],
)
def test_what_is_missing_is_named(bench: Bench, tenant: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        bench.create("a", tenant, **options)
    assert bench.repository.networks.all() == ()
