"""Options, parents and plans of the network driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.network import plan
from plugins.network.model import Ask, Endpoint, Network, Subnet, command_with_driver, parse_ask
from plugins.network.modes import MODES
from plugins.network.plan import Link
from plugins.network.repair import Repair
from plugins.network.repository import Registry, Repository
from plugins.network.service import Service
from qnet.engine import EngineContainer, EngineEndpoint, EngineNetwork, EngineView, InProgress
from qnet.errors import InvalidRequest
from tests.store.memory import MemoryStore

GENERIC = "com.docker.network.generic"
ONE = (Subnet("10.77.0.0/24", "10.77.0.1"),)
LINKS = {
    "lo": Link("lo", "", up=True, mtu=65536, loopback=True),
    "eth0": Link("eth0", "veth", up=True, mtu=1500),
    "eth1": Link("eth1", "veth", up=True, mtu=1500),
    "eth2": Link("eth2", "veth", up=False, mtu=1500),
    "bond0": Link("bond0", "bond", up=True, mtu=9000),
    "eth3": Link("eth3", "", up=True, mtu=9000, master="bond0"),
    "mv0": Link("mv0", "macvlan", up=True, mtu=1500, parent="eth1"),
    "qn-1234": Link("qn-1234", "macvlan", up=True, mtu=1500, parent="eth1"),
}


def ask(**options: str) -> Ask:
    return parse_ask("n1", {GENERIC: options}, ONE, "eth1")


def network(**fields: object) -> Network:
    base = {"id": "a" * 64, "tenant": "default", "subnets": ONE, "parent": "eth1"}
    return Network(**{**base, **fields})  # type: ignore[arg-type]


def test_options_become_values() -> None:
    made = ask(parent="eth0", macvlan_mode="vepa", mtu="1400", tenant="shop")
    assert (made.parent, made.macvlan_mode, made.mtu, made.tenant) == ("eth0", "vepa", 1400, "shop")
    assert ask().parent == "eth1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"parnet": "eth0"},
            "-o parnet: no such option; there are: parent, mode, macvlan_mode, mtu, host_access, spoof_check",
        ),
        ({"macvlan_mode": "fish"}, "there are: bridge, private, vepa, passthru"),
        ({"mtu": "big"}, "a number from 68 to 65535"),
        ({"mtu": "67"}, "a number from 68 to 65535"),
        ({"mtu": "-1"}, "a number from 68"),
        ({"mtu": "99999"}, "a number from 68"),
        ({"mtu": "١٤٠٠"}, "a number from 68"),
        ({"host_access": "maybe"}, "true or false"),
        ({"host_access": "true", "macvlan_mode": "private"}, "needs macvlan_mode=bridge"),
        ({"tenant": "../x"}, "lower-case letters"),
        ({"tenant": ""}, "lower-case letters"),
        ({"parent": ""}, "-o parent= is empty: name a link, or leave it out"),
    ],
)
def test_wrong_options_are_named(options: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        ask(**options)


def test_ipv6_wants_its_least_mtu() -> None:
    six = (Subnet("fd00::/64"),)
    with pytest.raises(InvalidRequest, match="from 1280"):
        parse_ask("n1", {GENERIC: {"mtu": "1000"}}, six, "eth1")


@pytest.mark.parametrize("generic", ["text", 5, ["a"], {"mtu": 5}, {"mtu": None}])
def test_options_of_a_wrong_type_are_refused(generic: object) -> None:
    with pytest.raises(InvalidRequest):
        parse_ask("n1", {GENERIC: generic}, ONE, "eth1")


@pytest.mark.parametrize(
    ("parent", "says"),
    [
        ("eth9", "'eth9' does not exist on this host; links: bond0, eth0, eth1"),
        ("eth2", "eth2 is down: ip link set eth2 up; links: bond0, eth0, eth1"),
        ("eth3", "eth3 is part of bond0: use bond0"),
        ("mv0", "mv0 is itself a macvlan link: use its parent eth1"),
        ("lo", "lo is the loopback"),
    ],
)
def test_parents_that_cannot_be_say_which_can(parent: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        plan.check_parent(ask(parent=parent), LINKS, ())


def test_no_parent_at_all() -> None:
    with pytest.raises(InvalidRequest, match=r"no parent: add -o parent=LINK.*links: bond0, eth0, eth1"):
        plan.check_parent(parse_ask("n1", {}, ONE, ""), LINKS, ())


def test_mtu_is_at_most_the_parents() -> None:
    plan.check_parent(ask(parent="bond0", mtu="9000"), LINKS, ())
    with pytest.raises(InvalidRequest, match="mtu=9000 is more than the 1500 of parent eth1"):
        plan.check_parent(ask(mtu="9000"), LINKS, ())


def test_passthru_has_its_parent_for_itself() -> None:
    with pytest.raises(InvalidRequest, match="has its parent for itself"):
        plan.check_parent(ask(macvlan_mode="passthru"), LINKS, [network()])
    with pytest.raises(InvalidRequest, match="in mode passthru"):
        plan.check_parent(ask(), LINKS, [network(macvlan_mode="passthru")])
    plan.check_parent(ask(parent="eth0"), LINKS, [network(macvlan_mode="passthru")])


def test_the_right_command_is_spelled_out() -> None:
    subnets = (*ONE, Subnet("fd00:77::/64", "fd00:77::1"))
    assert command_with_driver(subnets, {"parent": "eth1", "tenant": "shop"}, internal=True) == (
        "docker network create -d qnet --ipam-driver qnet --ipam-opt tenant=shop --ipv6 --subnet 10.77.0.0/24 "
        "--gateway 10.77.0.1 --subnet fd00:77::/64 --gateway fd00:77::1 --internal -o parent=eth1 -o tenant=shop NAME"
    )


@given(st.from_regex(r"[0-9a-f]{64}", fullmatch=True))
def test_link_names_fit(identity: str) -> None:
    assert len(plan.endpoint_link(identity)) <= 15
    assert len(plan.own_link(identity)) <= 15


def test_only_links_of_ours_that_nothing_needs_are_left_over() -> None:
    kept, gone = "1" * 64, "2" * 64
    access, plain = network(id="3" * 64, host_access=True), network(id="4" * 64)
    names = [plan.endpoint_link(kept), plan.endpoint_link(gone), plan.own_link(access.id), plan.own_link(plain.id)]
    links = [Link(name, "macvlan", up=True, mtu=1500, parent="eth1") for name in names]
    pairs = [Link(name, "veth", up=True, mtu=1500) for name in ("qn-veth", "qn-0123456789ab", plan.container_end(kept))]
    links += [*pairs, *LINKS.values()]
    endpoint = Endpoint(id=kept, network=access.id, addresses=("10.77.0.2",), mac="02:00:00:00:00:01")
    gone_too = ["qn-1234", "qn-0123456789ab"]
    assert plan.left_over(links, [access, plain], [endpoint]) == sorted([names[1], names[3], *gone_too])


def test_shim_routes_to_joined_endpoints_of_its_network_only() -> None:
    mine = network(host_access=True, host_addresses=("10.77.0.9",))
    endpoints = [
        Endpoint(id="1", network=mine.id, addresses=("10.77.0.2",), mac="", joined=True),
        Endpoint(id="2", network=mine.id, addresses=("10.77.0.3",), mac="", joined=False),
        Endpoint(id="3", network="other", addresses=("10.78.0.2",), mac="", joined=True),
    ]
    assert plan.shim(mine, MODES["macvlan"].own(mine), endpoints).routes == {"10.77.0.2"}


def test_records_survive_a_restart_and_damage_is_passed_over(tmp_path: Path) -> None:
    first = Repository(tmp_path / "state", tmp_path / "run")
    first.networks.save(network())
    first.networks.save(network(id="b" * 64))
    first.endpoints.save(Endpoint(id="e1", network="a" * 64, addresses=("10.77.0.2",), mac=""))
    (tmp_path / "state/networks" / ("c" * 64 + ".json")).write_text('{"id": "cc')
    (tmp_path / "state/networks" / ("d" * 64 + ".new")).write_text('{"id": "dd')
    first.networks.remove("b" * 64)
    again = Repository(tmp_path / "state", tmp_path / "run")
    assert again.networks.all() == (network(),)
    assert [endpoint.id for endpoint in again.endpoints_of("a" * 64)] == ["e1"]
    assert list(tmp_path.rglob("*.new")) == []


class Engine:
    """An engine with one network and one container, which may be in the middle of a start."""

    def __init__(self) -> None:
        self.busy: frozenset[str] = frozenset()
        self.endpoint = ""

    def busy_containers(self) -> frozenset[str]:
        return self.busy

    def view(self) -> EngineView:
        end = EngineEndpoint("a" * 64, self.endpoint, (), ())
        box = EngineContainer("c1", "c1", running=bool(self.endpoint), started=True, endpoints=(end,))
        return EngineView((EngineNetwork("a" * 64, "web", "qnet", "qnet", "default", ()),), (box,))


class Kernel:
    """Remembers which links were deleted."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    def delete(self, name: str) -> bool:
        self.deleted.append(name)
        return True


def test_an_endpoint_goes_only_when_no_start_in_progress_can_have_it(tmp_path: Path) -> None:
    repository, registry = Repository(tmp_path / "state", tmp_path / "run"), Registry(MemoryStore(), "host1")
    engine, kernel, clock = Engine(), Kernel(), iter(range(0, 1000, 10))
    service = Service(repository, registry, kernel, None, None, None, None, "eth1")  # type: ignore[arg-type]
    repair = Repair(
        repository,
        registry,
        service,
        None,  # type: ignore[arg-type]
        None,  # type: ignore[arg-type]
        kernel,  # type: ignore[arg-type]
        InProgress(engine),
        5,
        lambda: float(next(clock)),
    )
    repository.networks.save(network())
    repository.endpoints.save(Endpoint(id="e1", network="a" * 64, addresses=("10.77.0.2",), mac=""))
    engine.busy = frozenset({"c1"})
    for _ in range(3):
        repair.run(engine.view(), engine.view)
    assert repository.endpoints.get("e1") is not None
    engine.endpoint, engine.busy = "e1", frozenset()
    repair.run(engine.view(), engine.view)
    assert repository.endpoints.get("e1") is not None
    engine.endpoint = ""
    for _ in range(2):
        repair.run(engine.view(), engine.view)
    assert repository.endpoints.get("e1") is None
    assert kernel.deleted == [plan.endpoint_link("e1")]
    assert repository.networks.get("a" * 64) is not None
