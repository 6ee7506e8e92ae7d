"""Networks on the VLAN of their tenant: which link they stand on, who makes it, and when it goes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plugins.network import plan, rules
from plugins.network.admission import Admission
from plugins.network.devices import Count
from plugins.network.forwarding import Changes, Entries, Key
from plugins.network.gateway import Gateways
from plugins.network.guards import Guards
from plugins.network.limits import Limits
from plugins.network.meter import Meter
from plugins.network.model import Endpoint, Network, Subnet
from plugins.network.modes import MODES
from plugins.network.overlay import Overlay
from plugins.network.plan import Bridge, Guard, Link, Macvlan, Shim, Veth, Vlan, Vxlan
from plugins.network.repair import Repair
from plugins.network.repository import Registry, Repository
from plugins.network.rules import Senders
from plugins.network.segments import Segments
from plugins.network.service import Service
from plugins.network.terms import Terms
from qnet import schema
from qnet.engine import InProgress
from qnet.errors import Conflict, InvalidRequest, NotFound, Unavailable, Unsupported
from qnet.schema import SegmentRecord
from qnet.settings import Network as Wires
from qnet.store.base import Delete, Txn
from qnet.tenants import AUTO, Change, Tenants
from tests.store.memory import MemoryStore
from tests.unit.world import Clock

SUBNET = (Subnet("10.100.1.0/24", "10.100.1.1"),)
ETH1 = Link("eth1", "veth", up=True, mtu=1500)


class Kernel:
    """The kernel's links as values; `fails` is what the next one to be made ends with."""

    def __init__(self) -> None:
        self.links = {"eth1": ETH1}
        self.fails: Exception | None = None
        self.lacks = ""
        self.own: dict[str, list[str]] = {}
        self.hunted: list[tuple[str, tuple[str, ...]]] = []

    def all(self) -> dict[str, Link]:
        return dict(self.links)

    look = all

    def addresses(self, name: str) -> list[str]:
        return self.own.get(name, [])

    def add(self, link: Macvlan | Veth) -> None:
        if isinstance(link, Macvlan):
            if self.lacks == link.kind:
                raise Unsupported(f"this kernel has no {link.kind}")
            self.links[link.name] = Link(link.name, link.kind, up=False, mtu=1500, parent=link.parent)
            return
        for name in (link.name,) if link.namespace else (link.name, link.peer):
            self.links[name] = Link(name, "veth", up=False, mtu=1500)

    def attach(self, link: Veth) -> None:
        self.links[link.name] = replace(self.links[link.name], up=True, master=link.bridge)

    def add_bridge(self, bridge: Bridge) -> bool:
        made = bridge.name not in self.links
        self.links.setdefault(bridge.name, Link(bridge.name, "bridge", up=False, mtu=1500))
        self.links[bridge.port] = replace(self.links[bridge.port], master=bridge.name)
        return made

    def add_ifb(self, name: str, device: str) -> None:
        self.links[name] = Link(name, "ifb", up=True, mtu=self.links[device].mtu)

    def bring_up(self, name: str) -> None:
        self.links[name] = replace(self.links[name], up=True)

    def add_vxlan(self, link: Vxlan) -> None:
        self.links[link.name] = Link(
            link.name, "vxlan", up=True, mtu=1450, parent=link.underlay, local=link.local, ours=True
        )

    def add_vlan(self, link: Vlan) -> None:
        if self.fails:
            raise self.fails
        made = Link(link.name, "vlan", up=True, mtu=1500, parent=link.trunk, vlan=link.vlan, ours=True)
        self.links.setdefault(link.name, made)

    def delete(self, name: str) -> bool:
        for link in self.links.values():
            if link.master == name:
                self.links[link.name] = replace(link, master="")
        return self.links.pop(name, None) is not None

    def delete_strays(self, parent: str, addresses: Collection[str]) -> None:
        self.hunted.append((parent, tuple(addresses)))

    def sync(self, shim: Shim) -> None:
        self.add(shim.link)

    def by_hand(self, name: str, vlan: int, trunk: str = "eth1") -> None:
        self.links[name] = Link(name, "vlan", up=True, mtu=1500, parent=trunk, vlan=vlan)


class Qdiscs:
    """What devices are held to."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self.held: dict[str, int] = {}

    def speeds(self) -> dict[str, int]:
        ifbs = {name: 0 for name, link in self._kernel.links.items() if link.kind == "ifb"}
        return ifbs | {device: speed for device, speed in self.held.items() if device in self._kernel.links}

    def limit(self, device: str, speed: int) -> None:
        assert device in self._kernel.links
        self.held.pop(device, None)
        if speed:
            self.held[device] = speed


class Filters:
    """The rules in force, by device, and what was counted."""

    def __init__(self) -> None:
        self.counted: dict[str, tuple[int, int]] = {}
        self.guards: dict[str, Guard] = {}
        self.shields: set[str] = set()
        self.loaded: dict[str, str] = {}  # by namespace
        self.fenced: frozenset[str] = frozenset()
        self.senders: Senders | None = None  # None: somebody took the rules away

    def apply(self, wanted: Guard) -> None:
        self.guards[wanted.device] = wanted

    def remove(self, device: str) -> None:
        self.guards.pop(device, None)
        self.shields.discard(device)

    def shield(self, bridge: str) -> None:
        self.shields.add(bridge)

    def underlay(self, senders: Senders, before: Senders | None = None) -> None:
        if before is not None and before != self.senders:
            raise Unavailable("no such table")
        self.senders = dict(senders)

    def chains(self) -> frozenset[str]:
        return frozenset(chain for device in self.guards for chain in rules.chains(device)) | self.shields

    def counters(self) -> dict[str, tuple[int, int]]:
        return self.counted

    def load(self, script: str, what: str, namespace: str = "") -> None:
        self.loaded[namespace] = script
        if not namespace:
            self.fenced = frozenset(re.findall(r"chain (?:netdev \w+ )?(\w+) {", script))

    def fences(self) -> frozenset[str]:
        return self.fenced


class Namespaces:
    """Namespaces by name, with what they forward; `fails` is what the next one to be set up ends with."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.there: dict[str, list[int]] = {}
        self.forwarded = {4, 6}
        self.configured: dict[str, str] = {}
        self.fails: Exception | None = None

    def all(self) -> frozenset[str]:
        return frozenset(self.there)

    def add(self, name: str) -> None:
        self.there[name] = []

    def delete(self, name: str) -> None:
        if self.there.pop(name, None) is not None:
            for prefix in ("qr-", "qu-"):
                self.kernel.delete(name.replace("qnet-", prefix))

    def route(self, name: str, versions: Collection[int]) -> None:
        self.there[name] = list(versions)

    def configure(self, commands: str, name: str = "") -> None:
        if self.fails:
            raise self.fails
        self.configured[name] = commands

    def host_forwards(self, version: int) -> bool:
        return version in self.forwarded


class Tunnels:
    """What VXLAN links know."""

    def __init__(self) -> None:
        self.known: dict[str, dict[Key, str]] = {}
        self.written: list[Mapping[str, Changes]] = []

    def entries(self) -> Mapping[str, Entries]:
        return {link: dict(known) for link, known in self.known.items()}

    def change(self, changes: Mapping[str, Changes]) -> None:
        self.written.append(changes)
        for link, wanted in changes.items():
            known = self.known.setdefault(link, {})
            for key, value in wanted.items():
                known.pop(key, None)
                if value is not None:
                    known[key] = value


class Addresses:
    """Gives every address; `fails` is what an auxiliary address ends with."""

    fails: Exception | None = None

    def check_pool(self, tenant: str, subnet: str) -> None:
        pass

    def auxiliary(self, tenant: str, subnet: str, addresses: Any) -> None:
        if self.fails:
            raise self.fails

    def take_host_address(self, tenant: str, subnet: str, network: str, mac: str) -> str:
        return "10.100.1.200"

    def drop_host_address(self, tenant: str, subnet: str, network: str) -> None:
        pass


class Bench:
    """The network service of one host on fakes."""

    def __init__(self, folder: Path) -> None:
        self.store, self.kernel, self.addresses = MemoryStore(), Kernel(), Addresses()
        self.tenants = Tenants(self.store, lambda: "")
        self.tenants.create("shop", Change(vlan=100))
        self.tenants.create("lab", Change(vlan=200))
        self.tenants.create("plain", Change(trusted=True))
        self.tenants.create("stranger", Change())
        self.repository = Repository(folder / "state", folder / "run")
        self.registry = Registry(self.store, "host1")
        self.filters, self.qdiscs = Filters(), Qdiscs(self.kernel)
        self.tunnels = Tunnels()
        self.overlay = Overlay(self.store, self.tunnels, self.filters, "host1")
        self.namespaces = Namespaces(self.kernel)
        self.gateways = Gateways(self.repository, self.kernel, self.namespaces, self.filters)
        self.announced: list[tuple[str, tuple[str, ...]]] = []
        self.parents: dict[str, str] = {}
        self.segments = Segments(
            self.repository,
            self.kernel,
            self.filters,
            self.tenants,
            Admission(self.tenants, Wires(parent="eth1", underlay="eth0")),
            self.overlay,
            self.gateways,
            self.parents,
        )
        self.moved: dict[str, tuple[Count, Count]] = {}
        self.meter = Meter(self.repository, self.registry, self.filters, lambda: self.moved)
        self.limits = Limits(self.store, "host1", self.repository, self.tenants, lambda: None)
        self.guards = self.new_guards()
        self.service = Service(
            self.repository,
            self.registry,
            self.kernel,
            self.guards,
            self.addresses,  # type: ignore[arg-type]
            self.segments,
            self,
            "eth1",
            "eth0",
        )

    def new_guards(self) -> Guards:
        """As a process has them that begins now."""
        return Guards(self.repository, self.filters, self.kernel, self.qdiscs, self.limits, self.meter)

    def start(self, network: str, endpoint: str, **options: str) -> Guard:
        """An endpoint of a network in mode bridge; returns what holds it."""
        self.addresses.bind = lambda *_: "02:00:00:00:00:01"  # type: ignore[attr-defined]
        self.service.create_endpoint(network, endpoint, ["10.100.1.9"], "", options)
        self.service.join(network, endpoint, "/run/docker/netns/1")
        return self.filters.guards[plan.endpoint_link(endpoint)]

    def create(self, network: str, tenant: str, subnets: Sequence[Subnet] = SUBNET, **options: str) -> None:
        generic = {"com.docker.network.generic": {"tenant": tenant, **options}}
        self.service.create_network(network, generic, subnets, ["qnet"])

    def announce(self, sandbox: str, addresses: tuple[str, ...]) -> None:
        self.announced.append((sandbox, addresses))

    def parent(self, network: str) -> str:
        return self.repository.network(network).parent


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.overlay.close()


def test_a_sub_interface_lives_from_its_first_network_to_its_last(bench: Bench) -> None:
    bench.create("a", "shop")
    bench.create("b", "lab")
    bench.create("c", "shop")
    assert (bench.parent("a"), bench.parent("b"), bench.parent("c")) == ("eth1.100", "eth1.200", "eth1.100")
    bench.service.delete_network("a")
    assert set(bench.kernel.links) == {"eth1", "eth1.100", "eth1.200"}
    bench.service.delete_network("c")
    bench.service.delete_network("b")
    assert set(bench.kernel.links) == {"eth1"}


def test_the_last_network_may_go_while_the_next_is_made(bench: Bench) -> None:
    bench.create("a", "shop")
    ready = [lambda: bench.service.delete_network("a")]
    bench.addresses.auxiliary = lambda *_: ready.pop()()  # type: ignore[method-assign]
    bench.create("b", "shop")
    assert set(bench.kernel.links) == {"eth1", "eth1.100"}


@pytest.mark.parametrize("name", ["eth1.100", "shop0"])
def test_one_that_was_there_is_used_and_stays(bench: Bench, name: str) -> None:
    bench.kernel.by_hand(name, 100)
    bench.create("a", "shop")
    assert bench.parent("a") == name
    bench.service.delete_network("a")
    assert set(bench.kernel.links) == {"eth1", name}


def test_tagged_and_untagged_networks_share_a_parent(bench: Bench) -> None:
    bench.create("a", "plain")
    bench.create("b", "shop")
    assert (bench.parent("a"), bench.parent("b")) == ("eth1", "eth1.100")


def test_the_own_sub_interface_may_be_named(bench: Bench) -> None:
    bench.kernel.by_hand("eth1.100", 100)
    bench.create("a", "shop", parent="eth1.100")
    assert bench.parent("a") == "eth1.100"
    bench.kernel.links = {"eth1": ETH1}  # a reboot
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    assert set(bench.kernel.links) == {"eth1", "eth1.100"}


@pytest.mark.parametrize(
    ("tenant", "vlan", "says"),
    [
        ("shop", 200, "parent by-hand carries VLAN 200 of tenant lab, and tenant shop has VLAN 100: .* -o parent=eth1"),
        ("plain", 200, "parent by-hand carries VLAN 200 of tenant lab, and tenant plain has no VLAN"),
        ("shop", 300, "parent by-hand carries VLAN 300, and tenant shop has VLAN 100"),
    ],
)
def test_the_segment_of_another_is_refused(bench: Bench, tenant: str, vlan: int, says: str) -> None:
    bench.kernel.by_hand("by-hand", vlan)
    with pytest.raises(InvalidRequest, match=says):
        bench.create("a", tenant, parent="by-hand")
    assert bench.repository.networks.all() == ()


def test_a_vlan_that_no_tenant_has_may_be_a_parent_without_a_tag(bench: Bench) -> None:
    bench.kernel.by_hand("eth1.300", 300)
    bench.create("a", "plain", parent="eth1.300")
    assert bench.parent("a") == "eth1.300"


def test_only_who_is_trusted_has_a_parent_for_itself(bench: Bench) -> None:
    with pytest.raises(InvalidRequest, match="tenant stranger is not trusted with that"):
        bench.create("a", "stranger", macvlan_mode="passthru")
    bench.tenants.change("stranger", Change(trusted=True))
    bench.create("a", "stranger", macvlan_mode="passthru")


def test_a_link_that_is_not_there_is_looked_for_where_containers_are(bench: Bench) -> None:
    bench.create("a", "plain")
    bench.addresses.bind = lambda *_: "02:00:00:00:00:01"  # type: ignore[attr-defined]
    for lost in (False, True):
        bench.service.create_endpoint("a", "e" * 64, ["10.100.1.9"], "", {})
        bench.service.join("a", "e" * 64, "")
        if lost:
            bench.kernel.delete(plan.endpoint_link("e" * 64))
        bench.service.delete_endpoint("e" * 64)
        assert bench.kernel.hunted == ([("eth1", ("10.100.1.9",))] if lost else [])


def test_an_unknown_tenant_has_no_networks(bench: Bench) -> None:
    with pytest.raises(NotFound, match="tenant shpo does not exist"):
        bench.create("a", "shpo")


def test_a_parent_may_have_a_name_in_the_settings(bench: Bench) -> None:
    bench.kernel.links["bond0"] = replace(ETH1, name="bond0", kind="bond")
    bench.parents |= {"trunk": "bond0", "eth1": "bond0", "gone": "eth9"}
    bench.create("a", "shop", parent="trunk")
    assert bench.parent("a") == "bond0.100"
    bench.create("b", "plain")  # the default is eth1: the settings go before a link of that name
    assert bench.parent("b") == "bond0"
    lists = r"links: bond0, bond0\.100, eth1; names of the settings: eth1 \(bond0\), gone \(eth9\), trunk \(bond0\)"
    for asked, wrong in (("truck", "truck"), ("gone", "eth9")):
        with pytest.raises(InvalidRequest, match=f"parent '{wrong}' does not exist on this host; {lists}"):
            bench.create("c", "plain", parent=asked)


def test_a_kernel_without_a_kind_of_link_says_so_before_there_is_a_network(bench: Bench) -> None:
    bench.kernel.lacks = "ipvlan"
    with pytest.raises(Unsupported, match="this kernel has no ipvlan"):
        bench.create("a", "shop", mode="ipvlan")
    assert set(bench.kernel.links) == {"eth1"}
    assert bench.repository.networks.all() == ()


def test_containers_of_an_ipvlan_network_have_no_mac_address_of_their_own(bench: Bench) -> None:
    bench.create("a", "shop", mode="ipvlan")
    asked: list[Any] = []
    bench.addresses.bind = lambda *args: (asked.append(args[-1]), "")[1]  # type: ignore[attr-defined]
    assert bench.service.create_endpoint("a", "e" * 64, ["10.100.1.9"], "", {}) == ""
    assert asked == [None]
    joined = bench.service.join("a", "e" * 64)
    made = bench.kernel.links[joined.link]
    assert (made.kind, made.parent) == ("ipvlan", "eth1.100")
    assert bench.filters.guards == {}
    with pytest.raises(InvalidRequest, match=r"--mac-address .* MAC address of their parent eth1\.100"):
        bench.service.create_endpoint("a", "f" * 64, ["10.100.1.8"], "02:00:00:00:00:01", {})
    bench.repository.endpoints.remove("e" * 64)
    assert plan.left_over([made], bench.repository.networks.all(), ()) == [joined.link]


@pytest.mark.parametrize("name", ['e;"x', "e{x}", "ä"])
def test_a_bridge_has_a_name_that_the_packet_filter_takes(name: str) -> None:
    assert plan.PLAIN.fullmatch(plan.bridge_over(replace(ETH1, name=name)))


def fail_in_the_kernel(bench: Bench) -> None:
    bench.kernel.fails = Unsupported("this kernel has no 802.1q")


def fail_later(bench: Bench) -> None:
    bench.addresses.fails = InvalidRequest("later")


@pytest.mark.parametrize("fault", [fail_in_the_kernel, fail_later])
def test_a_network_that_fails_leaves_nothing(bench: Bench, fault: Callable[[Bench], None]) -> None:
    fault(bench)
    with pytest.raises(InvalidRequest):
        bench.create("a", "shop")
    assert set(bench.kernel.links) == {"eth1"}
    assert bench.repository.networks.all() == ()


def test_a_reboot_brings_it_back(bench: Bench) -> None:
    bench.create("a", "shop")
    bench.create("b", "plain")
    bench.kernel.links = {"eth1": ETH1}
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    assert set(bench.kernel.links) == {"eth1", "eth1.100"}


def test_names_fit_whatever_the_parent(bench: Bench) -> None:
    names = {plan.sub_interface(trunk, 4094, {}).name for trunk in ("enp12s0f0np0", "enp12s0f0np1", "bond0", "e" * 15)}
    assert len(names) == 4
    assert "bond0.4094" in names
    assert all(len(name) <= 15 for name in names)


def test_sub_interfaces_that_nothing_needs_are_left_over(bench: Bench) -> None:
    bench.create("a", "shop")
    ours = Link("eth1.300", "vlan", up=True, mtu=1500, parent="eth1", vlan=300, ours=True)
    above = Link("qn-1", "macvlan", up=True, mtu=1500, parent="eth1.300")
    half_made = Link(plan.UNFINISHED, "vlan", up=False, mtu=1500, parent="eth1", vlan=5)
    bridge = Link("qb-eth1", "bridge", up=True, mtu=1500)
    links = [*bench.kernel.links.values(), ours, above, half_made, bridge, replace(ours, name="eth1.400", ours=False)]
    networks = bench.repository.networks.all()
    assert plan.left_over(links, networks, ()) == ["qn-1"]
    assert plan.unused_segments(links, networks) == ["qb-eth1", "eth1.300", plan.UNFINISHED]


def test_a_segment_that_is_being_made_is_not_taken_away(bench: Bench) -> None:
    """Its network is written down a moment later. What a crash left is there after the grace period still."""
    clock = Clock()
    repair = Repair(
        bench.repository,
        bench.registry,
        bench.service,
        bench.segments,
        bench.guards,
        bench.kernel,
        InProgress(None),  # type: ignore[arg-type]
        10,
        clock,
    )
    bench.addresses.auxiliary = lambda *_: repair.local()  # type: ignore[method-assign]
    bench.create("a", "shop", mode="bridge")
    assert {"eth1.100", "qb-eth1.100"} <= set(bench.kernel.links)
    bench.repository.networks.remove("a")
    repair.local()
    clock.time += 9
    repair.local()
    assert "eth1.100" in bench.kernel.links
    clock.time += 1
    repair.local()
    assert set(bench.kernel.links) == {"eth1"}


def test_networks_of_a_segment_share_its_bridge(bench: Bench) -> None:
    bench.create("a", "shop", mode="bridge")
    bench.create("b", "shop", mode="bridge")
    bench.create("c", "plain", mode="bridge")
    links = bench.kernel.links
    assert {name: link.master for name, link in links.items()} == {
        "eth1": "qb-eth1", "eth1.100": "qb-eth1.100", "qb-eth1": "", "qb-eth1.100": "",
    }  # fmt: skip
    assert bench.filters.shields == {"qb-eth1", "qb-eth1.100"}
    bench.service.delete_network("a")
    assert "qb-eth1.100" in links
    bench.service.delete_network("b")
    bench.service.delete_network("c")
    assert links == {"eth1": ETH1}


def test_a_bridge_that_was_there_is_used_and_stays(bench: Bench) -> None:
    bench.kernel.links["br0"] = Link("br0", "bridge", up=True, mtu=1500)
    bench.kernel.own["br0"] = ["10.0.0.1"]
    bench.create("a", "plain", mode="bridge", parent="br0")
    assert bench.repository.network("a").bridge == "br0"
    bench.service.delete_network("a")
    assert set(bench.kernel.links) == {"eth1", "br0"}


def test_a_bridge_does_not_cut_off_the_host(bench: Bench) -> None:
    bench.kernel.own["eth1"] = ["10.0.0.1"]
    with pytest.raises(InvalidRequest, match=r"parent eth1 has addresses of this host \(10\.0\.0\.1\)"):
        bench.create("a", "plain", mode="bridge")
    assert bench.kernel.links == {"eth1": ETH1}


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(MODES.keys() - {"vxlan"}, 2)])
def test_a_link_serves_one_mode(bench: Bench, first: str, second: str) -> None:
    bench.create("a", "plain", mode=first)
    with pytest.raises(InvalidRequest, match=f"eth1 is used by network a in mode {first}: a link serves one mode"):
        bench.create("b", "plain", mode=second)
    bench.create("c", "shop", mode=second)


def test_an_endpoint_is_guarded_before_it_is_connected(bench: Bench) -> None:
    bench.create("a", "plain", mode="bridge")
    attach, seen = bench.kernel.attach, []
    bench.kernel.attach = lambda link: (seen.append(dict(bench.filters.guards)), attach(link))  # type: ignore[assignment,func-returns-value]
    guard = bench.start("a", "e" * 64)
    assert bench.announced == [("/run/docker/netns/1", ("10.100.1.9",))]
    device = plan.endpoint_link("e" * 64)
    terms = Terms(internal=(SUBNET[0].subnet,))
    assert guard == Guard(device, "02:00:00:00:00:01", ("10.100.1.9",), checked=True, terms=terms)
    assert seen == [{device: guard}]
    assert bench.kernel.links[device].master == "qb-eth1"
    bench.filters.guards = {"qn-left": seen[0][device]}  # a firewall flushed everything, a crash left another's
    bench.filters.shields.clear()
    bench.guards.sync()
    assert bench.filters.guards == seen[0]
    assert bench.filters.shields == {"qb-eth1"}
    bench.service.delete_endpoint("e" * 64)
    assert bench.filters.guards == {}
    assert device not in bench.kernel.links


def test_without_spoof_check_all_but_other_segments_frames_is_let_through(bench: Bench) -> None:
    bench.create("a", "plain", mode="bridge", spoof_check="false")
    guard = bench.start("a", "e" * 64)
    assert rules.of(guard) == (
        f'{rules.RESERVED} counter name "{guard.device}-sent-dropped" drop',
        f'{rules.TAGGED} counter name "{guard.device}-sent-dropped" drop',
        f"goto {guard.device}-sent",
    )


def test_the_shield_of_a_bridge_that_is_just_being_made_stays(bench: Bench) -> None:
    def meanwhile(*_: object) -> None:
        bench.guards.sync()

    bench.create("b", "lab", mode="bridge")
    bench.addresses.auxiliary = meanwhile  # type: ignore[method-assign]
    bench.create("a", "shop", mode="bridge")
    assert "qb-eth1.100" in bench.filters.shields


def test_links_of_a_network_that_is_being_made_are_not_left_over(bench: Bench) -> None:
    seen: list[frozenset[str]] = []
    bench.addresses.auxiliary = lambda *_: seen.append(bench.segments.being_made())  # type: ignore[method-assign]
    bench.create("a", "shop", mode="bridge")
    assert seen == [{"eth1.100", "qb-eth1.100"}]
    assert bench.segments.being_made() == frozenset()
    fail_later(bench)
    bench.addresses.auxiliary = Addresses.auxiliary.__get__(bench.addresses)  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest):
        bench.create("b", "shop", mode="bridge")
    assert bench.segments.being_made() == frozenset()


def test_the_shield_of_a_bridge_that_a_crash_left_goes_after_it(bench: Bench) -> None:
    bench.filters.shields.add("qb-eth1")
    bench.kernel.links["qb-eth1"] = replace(ETH1, name="qb-eth1", kind="bridge")
    bench.guards.sync()
    assert bench.filters.shields == {"qb-eth1"}
    del bench.kernel.links["qb-eth1"]
    bench.guards.sync()
    assert bench.filters.shields == set()


def test_a_container_that_starts_before_the_links_are_back_brings_them_back(bench: Bench) -> None:
    bench.create("a", "shop", mode="bridge")
    bench.kernel.links = {"eth1": ETH1}  # a boot
    add = bench.kernel.add

    def refuse(link: Macvlan | Veth) -> None:
        if isinstance(link, Veth) and link.bridge not in bench.kernel.links:
            raise InvalidRequest(f"bridge {link.bridge!r} does not exist on this host any more")
        add(link)

    bench.kernel.add = refuse  # type: ignore[method-assign]
    bench.start("a", "e" * 64)
    assert bench.kernel.links["eth1.100"].master == "qb-eth1.100"


def test_ports_of_a_bridge_that_somebody_deleted_are_ports_again(bench: Bench) -> None:
    bench.create("a", "plain", mode="bridge")
    bench.start("a", "e" * 64)
    bench.kernel.delete("qb-eth1")
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    assert bench.kernel.links[plan.endpoint_link("e" * 64)].master == "qb-eth1"


def test_the_host_leads_nobody_on_from_its_own_links(bench: Bench) -> None:
    bench.addresses.take_host_address = lambda *_: "10.100.1.200"  # type: ignore[attr-defined]
    bench.addresses.drop_host_address = lambda *_: None  # type: ignore[attr-defined]
    bench.create("a", "plain", host_access="true")
    assert 'iifname "qh-*" drop' in bench.filters.loaded[""]
    bench.service.delete_network("a")
    assert 'iifname "qh-*" drop' not in bench.filters.loaded[""]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "ipvtap"}, "-o mode=ipvtap: no such mode; there are: macvlan, bridge, vxlan, ipvlan"),
        ({"spoof_check": "false"}, "-o spoof_check=false needs mode=bridge"),
        ({"mode": "bridge", "macvlan_mode": "vepa"}, "-o macvlan_mode=vepa needs mode=macvlan"),
        ({"mode": "bridge", "arp_probe": "no"}, "-o arp_probe=no: true or false"),
        ({"mode": "ipvlan", "macvlan_mode": "private"}, "-o macvlan_mode=private needs mode=macvlan"),
        ({"mode": "bridge", "spoof_check": "no"}, "-o spoof_check=no: true or false"),
    ],
)
def test_options_of_another_mode_are_refused(bench: Bench, options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        bench.create("a", "plain", **options)


def test_rules_name_every_address_and_nothing_else() -> None:
    text = rules.script(Guard("qn-1", "02:11:22:33:44:55", ("10.0.0.9", "fd00::9")))
    assert "arp saddr ip { 0.0.0.0, 10.0.0.9 } goto qn-1-sent" in text
    assert "ip saddr { 10.0.0.9 } goto qn-1-sent" in text
    assert "ip6 saddr { fd00::9, fe80::11:22ff:fe33:4455 } goto qn-1-sent" in text
    assert 'hook ingress device "qn-1" priority 0; policy drop' in text
    four = rules.of(Guard("qn-1", "02:11:22:33:44:55", ("10.0.0.9",)))
    assert "ip6" not in " ".join(four)
    assert "ip saddr" not in " ".join(rules.of(Guard("qn-1", "02:11:22:33:44:55", ("fd00::9",))))


@pytest.mark.parametrize("mac", ["01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00", "fish"])
def test_a_mac_address_must_be_one_that_a_link_can_have(bench: Bench, mac: str) -> None:
    bench.create("a", "plain")
    with pytest.raises(InvalidRequest, match="MAC address"):
        bench.service.create_endpoint("a", "e" * 64, ["10.100.1.9"], mac, {})
    assert bench.repository.endpoints.all() == ()


def test_the_drivers_own_bridge_is_no_parent(bench: Bench) -> None:
    """It goes with the networks that it was made for."""
    bench.create("a", "plain", mode="bridge")
    with pytest.raises(InvalidRequest, match="parent qb-eth1 is qnet's own: use eth1"):
        bench.create("b", "plain", mode="bridge", parent="qb-eth1")


@pytest.mark.parametrize("name", ["qh-0123456789ab", "qu-0123456789ab", "qx-501", "qb-eth1.200"])
@pytest.mark.parametrize(("tenant", "mode"), [("plain", "macvlan"), ("shop", "bridge")])
def test_no_link_of_the_drivers_own_is_a_parent(bench: Bench, name: str, tenant: str, mode: str) -> None:
    """It would be a way into another tenant's segment."""
    master = f"qb-{name}" if name.startswith("qx-") else ""
    bench.kernel.links[name] = Link(name, "veth", up=True, mtu=1500, master=master)
    with pytest.raises(InvalidRequest, match=f"parent {name} is qnet's own"):
        bench.create("a", tenant, mode=mode, parent=name)


def test_a_link_that_is_called_as_a_sub_interface_and_is_none_is_not_taken(bench: Bench) -> None:
    bench.kernel.by_hand("eth1.100", 200)
    with pytest.raises(InvalidRequest, match=r"link eth1\.100 is there and is not VLAN 100 of eth1"):
        bench.create("a", "shop")


def test_a_sub_interface_that_is_part_of_another_bridge_stays_there(bench: Bench) -> None:
    link = Link("eth1.100", "vlan", up=True, mtu=1500, parent="eth1", vlan=100, master="br100")
    bench.kernel.links["eth1.100"] = link
    with pytest.raises(InvalidRequest, match=r"link eth1\.100 is part of br100"):
        bench.create("a", "shop", mode="bridge")
    assert bench.kernel.links["eth1.100"] == link


def test_a_vlan_that_came_to_a_tenant_later_is_not_shared(bench: Bench) -> None:
    bench.kernel.by_hand("eth1.300", 300)
    bench.create("a", "plain", parent="eth1.300")
    record = bench.registry.published()["a"]
    bench.registry.withdraw("a")  # etcd was away
    bench.tenants.create("new", Change(vlan=300))
    with pytest.raises(InvalidRequest, match="of tenant plain stands on it: remove that one first"):
        bench.create("b", "new")
    bench.tenants.remove("new")
    bench.store.put(schema.network_key("host1", "a"), schema.encode(record))
    with pytest.raises(Conflict, match="VLAN 300 has network a of tenant plain on host1 on it"):
        bench.tenants.create("new", Change(vlan=300))
    for vlan in range(1, 300):
        if vlan not in (100, 200):
            bench.store.put(schema.segment_key("vlan", vlan), schema.encode(SegmentRecord(tenant="full")))
    assert bench.tenants.create("auto", Change(vlan=AUTO)).vlan == 301
    bench.service.delete_network("a")
    bench.tenants.create("new", Change(vlan=300))


def test_the_vlan_of_the_underlay_is_nobodys(bench: Bench) -> None:
    """Not even its own tenant's, who would be where hosts speak."""
    bench.kernel.by_hand("eth1.300", 300)
    bench.kernel.own["eth1.300"] = ["10.99.0.1"]
    bench.tenants.change("stranger", Change(vni=7))
    bench.create("a", "stranger", mode="vxlan", parent="eth1.300")
    with pytest.raises(Conflict, match="VLAN 300 has network a of tenant stranger"):
        bench.tenants.change("stranger", Change(vlan=300))


UNTAGGED = "would carry VLANs and, untagged, the frames of tenant stranger, who is not trusted"


@pytest.mark.parametrize("mode", ["macvlan", "ipvlan"])
def test_who_is_not_trusted_is_not_on_a_trunk(bench: Bench, mode: str) -> None:
    """The settings' parent is one as soon as a tenant has a VLAN; another link when a network's VLAN travels there."""
    bench.kernel.links["eth2"] = replace(ETH1, name="eth2")
    with pytest.raises(InvalidRequest, match=f"parent eth1 {UNTAGGED}"):
        bench.create("a", "stranger", mode=mode)
    bench.create("a", "stranger", mode=mode, parent="eth2")
    with pytest.raises(InvalidRequest, match=f"parent eth2 {UNTAGGED}"):
        bench.create("b", "shop", parent="eth2")
    bench.service.delete_network("a")
    bench.create("b", "shop", parent="eth2")
    with pytest.raises(InvalidRequest, match=f"parent eth2 {UNTAGGED}"):
        bench.create("a", "stranger", mode=mode, parent="eth2")
    for tenant in ("shop", "lab"):
        for network in bench.repository.networks.all():
            bench.service.delete_network(network.id)
        bench.tenants.change(tenant, Change(vlan=0))
    bench.create("a", "stranger", mode=mode)  # nobody's frames but untagged ones are there


def test_who_is_not_trusted_is_on_a_trunk_behind_a_bridge(bench: Bench) -> None:
    """Which drops tags both ways, and holds it to its addresses."""
    bench.create("a", "stranger", mode="bridge")
    bench.create("b", "shop")


def test_two_networks_made_at_once_know_of_each_other(bench: Bench) -> None:
    """The first is not written down yet."""
    bench.kernel.links["eth2"] = replace(ETH1, name="eth2")
    meanwhile = [lambda: bench.create("b", "shop", parent="eth2")]
    bench.addresses.auxiliary = lambda *_: meanwhile.pop()() if meanwhile else None  # type: ignore[method-assign]
    with pytest.raises(InvalidRequest, match=f"parent eth2 {UNTAGGED}"):
        bench.create("a", "stranger", parent="eth2")
    assert bench.repository.networks.all() == ()
    assert set(bench.kernel.links) == {"eth1", "eth2"}


def over_vlan(bench: Bench, vlan: int) -> None:
    """A bridge made by hand over a VLAN that was."""
    bench.kernel.by_hand("office", vlan)
    bench.kernel.links["br0"] = Link("br0", "bridge", up=True, mtu=1500)
    bench.kernel.links["office"] = replace(bench.kernel.links["office"], master="br0")


@pytest.mark.parametrize(
    ("tenant", "says"),
    [
        ("plain", "parent br0 carries VLAN 200 of tenant lab, and tenant plain has no VLAN: .* -o parent=eth1"),
        ("shop", "parent br0 carries VLAN 200 of tenant lab, and tenant shop has VLAN 100"),
    ],
)
def test_a_bridge_carries_the_vlan_of_its_port(bench: Bench, tenant: str, says: str) -> None:
    over_vlan(bench, 200)
    with pytest.raises(InvalidRequest, match=says):
        bench.create("a", tenant, parent="br0", mode="bridge")


def test_a_bridge_over_the_own_vlan_needs_no_tag(bench: Bench) -> None:
    over_vlan(bench, 100)
    bench.create("a", "shop", parent="br0", mode="bridge")
    made = bench.repository.network("a")
    assert (made.parent, made.bridge, made.vlan, made.untagged) == ("br0", "br0", 0, (100,))
    bench.service.delete_network("a")
    assert {"br0", "office"} <= set(bench.kernel.links)
    bench.kernel.links["office"] = replace(bench.kernel.links["office"], vlan=300)
    bench.create("b", "plain", parent="br0", mode="bridge")
    bench.kernel.links["office"] = replace(bench.kernel.links["office"], vlan=100)  # by hand, meanwhile
    with pytest.raises(InvalidRequest, match="link br0 carries VLAN 100, which is tenant shop's, and network b"):
        bench.create("a", "shop", parent="br0", mode="bridge")


def test_a_vlan_over_another_carries_both(bench: Bench) -> None:
    bench.kernel.by_hand("outer", 200)
    bench.kernel.by_hand("inner", 100, trunk="outer")
    with pytest.raises(InvalidRequest, match="parent inner carries VLAN 200 of tenant lab"):
        bench.create("a", "shop", parent="inner")


@pytest.mark.parametrize("again", ["", "shop", "new"])
def test_a_host_that_comes_back_does_not_bring_an_old_tenant_into_the_segment_of_a_new_one(
    bench: Bench, again: str
) -> None:
    """It was forgotten, the tenant went, and the VLAN came to another, or to nobody."""
    bench.create("a", "shop")
    key = schema.segment_key("vlan", 100)
    bench.store.txn(Txn(success=(Delete(key),)))
    if again:
        bench.store.put(key, schema.encode(SegmentRecord(tenant=again)))
    del bench.kernel.links["eth1.100"]  # by the boot
    bench.segments.sync(bench.repository.networks.all(), bench.kernel.all())
    assert ("eth1.100" in bench.kernel.links) == (again != "new")


def test_a_port_never_gives_its_bridge_an_address() -> None:
    """A bridge takes the lowest MAC address of its ports."""
    link = MODES["bridge"].endpoint(
        Network(id="a", tenant="plain", subnets=SUBNET, parent="eth1", mode="bridge", bridge="br0"),
        Endpoint(id="e" * 64, network="a", addresses=("10.100.1.9",), mac="02:00:00:00:00:01"),
    )
    assert isinstance(link, Veth)
    assert link.port_mac.startswith("fe:")
    assert len(link.port_mac) == 17
