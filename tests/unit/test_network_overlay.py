"""VXLAN: what a link must know, and how it comes to know it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.network import rules
from plugins.network.forwarding import Box, Changes, Table, difference
from plugins.network.overlay import Overlay, Segment
from qnet import schema
from qnet.errors import InvalidRequest, Unavailable
from qnet.schema import AddressRecord, VtepRecord
from qnet.tenants import Change
from tests.lab.commands import wait_for
from tests.store.memory import MemoryStore
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


def test_a_link_local_address_goes_with_the_last_that_is_elsewhere() -> None:
    table = Table("host1")
    table.hosts([("host2", "10.99.0.12")])
    table.boxes([("fd00::5", Box(MAC, "host2"))])
    table.boxes([("10.77.0.5", Box(MAC, "host2"))])
    table.boxes([("fd00::5", Box(MAC, "host1"))])  # it moves, one address after the other
    table.boxes([("10.77.0.5", None)])
    assert table.entries == {("flood", "10.99.0.12"): ""}


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
    had: rules.Senders = {501: frozenset({("eth0", "10.99.0.12"), ("eth0", "fd99::12")}), 502: frozenset()}
    script = rules.underlay(had)
    assert 'add element inet qnet_underlay senders { "eth0" . 501 . 10.99.0.12 }' in script
    assert 'add element inet qnet_underlay senders6 { "eth0" . 501 . fd99::12 }' in script
    assert "add element inet qnet_underlay vnis { 501, 502 }" in script
    assert script.index("@senders accept") < script.index("@senders6 accept") < script.index("@vnis return\ndrop\n}")
    has = {501: frozenset({("eth0", "10.99.0.13"), ("eth0", "fd99::12")})}
    assert rules.underlay(has, had).splitlines() == [
        "delete element inet qnet_underlay vnis { 502 }",
        'delete element inet qnet_underlay senders { "eth0" . 501 . 10.99.0.12 }',
        'add element inet qnet_underlay senders { "eth0" . 501 . 10.99.0.13 }',
    ]
    assert rules.underlay({}, had) == "add table inet qnet_underlay\ndelete table inet qnet_underlay\n"


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
    wait_for("the link knows", lambda: tunnels.known.get("qx-501") == wanted, 5)
    assert filters.senders == {501: {("eth0", "10.99.0.12")}}
    store.delete(schema.address_key("shop", "10.77.0.0/24", "10.77.0.5"))
    wait_for("it is gone", lambda: tunnels.known.get("qx-501") == {("flood", "10.99.0.12"): ""}, 5)


def test_what_the_kernel_lost_or_has_too_much_is_put_right(world: World) -> None:
    store, tunnels, _, make = world
    store.put(schema.vtep_key(501, "host2"), schema.encode(VtepRecord(address="10.99.0.12")))
    tunnels.known["qx-501"] = {("mac", OTHER): "10.99.0.99"}
    overlay = make("host1")
    overlay.sync({501: SEGMENT})
    wait_for("as it should be", lambda: tunnels.known.get("qx-501") == {("flood", "10.99.0.12"): ""}, 5)
    tunnels.known.clear()
    overlay.sync({501: SEGMENT})
    wait_for("and again", lambda: tunnels.known.get("qx-501") == {("flood", "10.99.0.12"): ""}, 5)


def test_a_host_withdraws_what_an_earlier_process_left(world: World) -> None:
    store, _, filters, make = world
    for vni in (501, 7):
        for host in ("host1", "host2"):
            store.put(schema.vtep_key(vni, host), schema.encode(VtepRecord(address="10.99.0.11")))
    filters.senders = {501: frozenset(), 7: frozenset()}
    make("host1").sync({501: SEGMENT})
    left = {kv.key for kv in store.range(schema.VTEPS).kvs}
    assert left == {schema.vtep_key(501, "host1"), schema.vtep_key(501, "host2"), schema.vtep_key(7, "host2")}
    assert set(filters.senders) == {501}
    make("host1").sync({})
    assert filters.senders == {}


def test_what_could_not_be_withdrawn_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, _, filters, make = world
    store.put(schema.vtep_key(7, "host1"), schema.encode(VtepRecord(address="10.99.0.11")))
    filters.senders = {7: frozenset()}
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
    assert filters.senders == {}


def test_a_record_that_somebody_deleted_is_written_again(world: World) -> None:
    store, _, _, make = world
    overlay = make("host1")
    overlay.sync({501: SEGMENT})
    store.delete(schema.vtep_key(501, "host1"))
    wait_for("it is heard", lambda: (overlay.sync({501: SEGMENT}), store.get(schema.vtep_key(501, "host1")))[1], 5)


def test_a_damaged_record_keeps_no_other_from_being_heard(world: World) -> None:
    store, tunnels, _, make = world
    store.put(schema.vtep_key(501, "aaa"), b"{")
    store.put(schema.vtep_key(501, "bbb"), schema.encode(VtepRecord(address="10.99.0.12")))
    make("host1").enter(SEGMENT)
    wait_for("the other is known", lambda: tunnels.known.get("qx-501") == {("flood", "10.99.0.12"): ""}, 5)


def test_a_vni_travels_over_one_link(bench: Bench) -> None:
    bench.kernel.links["eth2"] = bench.kernel.links["eth1"]
    bench.kernel.own["eth2"] = ["10.98.0.11"]
    bench.create("a", "tunnel", mode="vxlan")
    with pytest.raises(InvalidRequest, match=r"VNI 501 travels over eth0 on this host, .*: -o parent=eth0"):
        bench.create("b", "tunnel", mode="vxlan", parent="eth2")


def segment(vni: int) -> Segment:
    return Segment(vni, f"t{vni}", f"qx-{vni}", "eth0", "10.99.0.11")


def test_a_process_that_starts_writes_only_what_differs_of_all_its_vnis_at_once(world: World) -> None:
    store, tunnels, filters, make = world
    segments = {vni: segment(vni) for vni in range(1, 41)}
    for vni in segments:
        for number in (1, 2):
            record = schema.encode(VtepRecord(address=f"10.99.0.1{number}"))
            store.put(schema.vtep_key(vni, f"host{number}"), record)
        tunnels.known[f"qx-{vni}"] = {("flood", "10.99.0.12"): ""}
    del tunnels.known["qx-7"]
    before = store.range(schema.VTEPS).revision
    overlay = make("host1")
    overlay.sync(segments)
    wait_for("it is compared", lambda: tunnels.written, 5)
    assert tunnels.written == [{"qx-7": {("flood", "10.99.0.12"): ""}}]
    assert filters.senders == {vni: {("eth0", "10.99.0.12")} for vni in segments}
    assert store.range(schema.VTEPS).revision == before


def test_changes_that_come_together_are_written_together(world: World) -> None:
    store, tunnels, _, make = world
    store.put(schema.vtep_key(501, "host2"), schema.encode(VtepRecord(address="10.99.0.12")))
    overlay = make("host1")
    overlay.enter(SEGMENT)
    wait_for("it has entered", lambda: tunnels.written, 5)
    busy, go_on = Event(), Event()

    def write(changes: Mapping[str, Changes]) -> None:
        busy.set()
        assert go_on.wait(5)
        write_now(changes)

    write_now, tunnels.change = tunnels.change, write  # type: ignore[method-assign]
    arrives(store, "10.77.0.4", MAC, "host2")
    assert busy.wait(5)
    for number in range(5, 25):
        arrives(store, f"10.77.0.{number}", f"02:00:00:00:00:{number:02x}", "host2")
    store.delete(schema.address_key("shop", "10.77.0.0/24", "10.77.0.5"))
    store.put(schema.vtep_key(501, "host3"), schema.encode(VtepRecord(address="10.99.0.13")))
    wait_for("all is heard", lambda: overlay._work.qsize() >= 2, 5)
    go_on.set()
    wait_for(
        "the link knows",
        lambda: {("address", "10.77.0.24"), ("flood", "10.99.0.13")} <= set(tunnels.known["qx-501"]),
        5,
    )
    assert len(tunnels.written) == 3
    assert ("address", "10.77.0.5") not in tunnels.known["qx-501"]


def test_rules_that_somebody_took_away_are_made_anew_by_the_next_change(world: World) -> None:
    _, _, filters, make = world
    overlay = make("host1")
    overlay.enter(SEGMENT)
    filters.senders = None
    overlay.enter(segment(7))
    assert filters.senders == {501: frozenset(), 7: frozenset()}
    overlay.leave(7)
    wait_for("the rest is kept", lambda: filters.senders == {501: frozenset()}, 5)
    filters.senders = None
    overlay.sync({501: SEGMENT})
    wait_for("and again", lambda: filters.senders == {501: frozenset()}, 5)


def test_a_vni_that_cannot_be_loaded_does_not_keep_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tunnels, _, make = world
    for vni in (1, 2, 3):
        store.put(schema.vtep_key(vni, "host2"), schema.encode(VtepRecord(address="10.99.0.12")))
    overlay, segments, read = make("host1"), {vni: segment(vni) for vni in (1, 2, 3)}, store.range

    def fails(prefix: str, **options: Any) -> Any:
        if prefix == schema.tenant_contents_prefix("t2"):
            raise Unavailable("no leader")
        return read(prefix, **options)

    with monkeypatch.context() as patched:
        patched.setattr(store, "range", fails)
        with pytest.raises(Unavailable):
            overlay.sync(segments)
    overlay.sync(segments)
    flood = {("flood", "10.99.0.12"): ""}
    wait_for("all are as they should be", lambda: tunnels.known == {f"qx-{vni}": flood for vni in segments}, 5)


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


def test_a_link_that_cannot_be_deleted_does_not_keep_the_host_in_the_vni(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.create("a", "tunnel", mode="vxlan", host_access="true")
    delete = bench.kernel.delete

    def fails(name: str) -> bool:
        if name.startswith("qh-"):
            raise Unavailable("delete link: EBUSY")
        return delete(name)

    monkeypatch.setattr(bench.kernel, "delete", fails)
    with pytest.raises(Unavailable):
        bench.service.delete_network("a")
    assert bench.store.get(schema.vtep_key(501, "host1")) is None


def test_an_address_that_the_host_got_anew_is_told(bench: Bench) -> None:
    bench.create("a", "tunnel", mode="vxlan")
    bench.kernel.own["eth0"] = ["10.99.0.77"]
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    kv = bench.store.get(schema.vtep_key(501, "host1"))
    assert kv is not None
    assert schema.decode(kv.value, VtepRecord).address == "10.99.0.77"


def test_untrusted_tenants_are_not_on_the_underlay(bench: Bench) -> None:
    says = r"parent {} would carry VXLAN packets and, untagged, .* tenant stranger"
    with pytest.raises(InvalidRequest, match=says.format("eth0")):  # other hosts may have the VNI
        bench.create("b", "stranger", parent="eth0", mode="bridge")
    bench.kernel.own["eth2"] = ["10.98.0.1"]
    bench.kernel.links["eth2"] = replace(bench.kernel.links["eth1"], name="eth2")
    bench.create("b", "stranger", parent="eth2")
    with pytest.raises(InvalidRequest, match=says.format("eth2")):
        bench.create("a", "tunnel", mode="vxlan", parent="eth2")
    bench.service.delete_network("b")
    bench.create("a", "tunnel", mode="vxlan", parent="eth2")
    with pytest.raises(InvalidRequest, match=says.format("eth2")):
        bench.create("b", "stranger", parent="eth2")
    bench.create("c", "default", parent="eth2")


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
