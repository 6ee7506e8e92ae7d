"""Gateways of networks with `-o nat=true`: what they are made of, when they are made and mended, what they let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from plugins.network import nat, nat_rules, plan
from plugins.network.gateway import Gateways
from plugins.network.model import Network, Subnet
from plugins.network.plan import Link
from plugins.network.repair import Repair
from plugins.network.repository import Registry
from qnet.engine import InProgress
from qnet.errors import Conflict, Exhausted, InvalidRequest, Unavailable
from tests.unit.test_network_segments import ETH1, SUBNET, Bench
from tests.unit.world import Clock

DUAL = (*SUBNET, Subnet("fd00:1::/64", "fd00:1::1"))
NAT = {"mode": "bridge", "nat": "true"}
A, B = "a" * 64, "b" * 64
SPACE_A, SPACE_B = "qnet-" + "a" * 12, "qnet-" + "b" * 12
FENCE = {*nat_rules.OWN, nat_rules._chain("ingress", "eth1"), nat_rules._chain("egress", "eth1")}
LINKS_A = {"qr-" + "a" * 12, "qu-" + "a" * 12}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def network(**fields: object) -> Network:
    base = {"id": A, "tenant": "default", "subnets": DUAL, "parent": "eth1", "mode": "bridge", "bridge": "qb-eth1"}
    return Network(**{**base, "nat": True, **fields})  # type: ignore[arg-type]


def repair(bench: Bench) -> Repair:
    guards, registry = bench.guards, Registry(bench.store, "host1")
    in_progress = InProgress(None)  # type: ignore[arg-type]
    return Repair(
        bench.repository, registry, bench.service, bench.segments, guards, bench.kernel, in_progress, 10, Clock()
    )


def test_a_gateway_lives_as_long_as_its_network(bench: Bench) -> None:
    bench.create(A, "plain", DUAL, **NAT)
    bench.create(B, "plain", (Subnet("10.9.0.0/24", "10.9.0.1"),), **NAT)
    assert set(bench.kernel.links) == {"eth1", "qb-eth1", *LINKS_A, "qr-" + "b" * 12, "qu-" + "b" * 12}
    assert bench.kernel.links["qr-" + "a" * 12].master == "qb-eth1"
    assert bench.namespaces.there == {SPACE_A: [4, 6], SPACE_B: [4]}
    assert bench.filters.fenced == FENCE
    bench.service.delete_network(A)
    assert bench.namespaces.there == {SPACE_B: [4]}
    assert "10.100.1.1" not in bench.filters.loaded[""]
    assert "10.9.0.1" in bench.filters.loaded[""]
    bench.service.delete_network(B)
    assert bench.kernel.links == {"eth1": ETH1}
    assert (bench.namespaces.there, bench.filters.fenced) == ({}, frozenset())


def test_pairs_are_given_out_again_and_outlive_the_process(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.create(name * 64, "plain", (Subnet(f"10.{ord(name)}.0.0/24", f"10.{ord(name)}.0.1"),), **NAT)
    pairs = {network.id[0]: network.pair for network in bench.repository.networks.all()}
    assert pairs == {"a": 0, "b": 1, "c": 2}
    bench.service.delete_network(B)
    fresh = Gateways(bench.repository, bench.kernel, bench.namespaces, bench.filters)
    bench.segments._gateways = fresh
    bench.create("d" * 64, "plain", (Subnet("10.4.0.0/24", "10.4.0.1"),), **NAT)
    assert bench.repository.network("d" * 64).pair == 1


def test_two_that_are_made_at_once_have_pairs_of_their_own(bench: Bench) -> None:
    inner = [lambda: bench.create(B, "plain", (Subnet("10.9.0.0/24", "10.9.0.1"),), **NAT)]
    bench.addresses.auxiliary = lambda *_: inner.pop()() if inner else None  # type: ignore[method-assign]
    bench.create(A, "plain", **NAT)
    assert {one.pair for one in bench.repository.networks.all()} == {0, 1}


@pytest.mark.parametrize(
    ("fields", "kind", "says"),
    [
        ({"mode": "macvlan", "bridge": ""}, InvalidRequest, "networks of mode macvlan have none: add -o mode=bridge"),
        ({"internal": True}, InvalidRequest, "--internal is none"),
        ({"bridge": "br0", "parent": "br0"}, InvalidRequest, "br0 is a bridge of yours"),
        ({"subnets": (Subnet("10.1.0.0/24"),)}, InvalidRequest, r"a gateway address in 10\.1\.0\.0/24"),
        ({"id": B}, Conflict, r"gateway 10\.100\.1\.1 of this segment is that of network aaaaaaaaaaaa"),
    ],
)
def test_what_can_have_no_gateway_is_refused(fields: dict[str, object], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        nat.check(network(**fields), [network()])
    nat.check(network(), [network()])
    nat.check(network(id=B, parent="eth2", bridge="qb-eth2"), [network()])


def test_a_host_that_does_not_forward_is_told_how(bench: Bench) -> None:
    bench.namespaces.forwarded = {4}
    with pytest.raises(InvalidRequest, match=r"does not forward IPv6: sysctl -w net\.ipv6\.conf\.all\.forwarding=1"):
        bench.create(A, "plain", DUAL, **NAT)
    assert bench.kernel.links == {"eth1": ETH1}
    bench.create(A, "plain", **NAT)


def test_a_gateway_that_fails_leaves_nothing(bench: Bench) -> None:
    bench.namespaces.fails = Unavailable("no answer")
    with pytest.raises(Unavailable):
        bench.create(A, "plain", **NAT)
    assert bench.kernel.links == {"eth1": ETH1}
    assert (bench.namespaces.there, bench.filters.fenced) == ({}, frozenset())
    assert bench.repository.networks.all() == ()


def test_the_host_is_fenced_before_the_first_packet(bench: Bench) -> None:
    configure, seen = bench.namespaces.configure, []
    bench.namespaces.configure = lambda *given: (seen.append(bench.filters.fenced), configure(*given))  # type: ignore
    bench.create(A, "plain", **NAT)
    assert seen[0] == FENCE
    assert SPACE_A in bench.filters.loaded


def test_what_is_taken_away_is_put_back(bench: Bench) -> None:
    bench.create(A, "plain", **NAT)
    mending = repair(bench)
    before = dict(bench.kernel.links)
    bench.kernel.links = {"eth1": ETH1}  # a reboot
    bench.namespaces.there, bench.filters.fenced = {}, frozenset()
    mending.local()
    assert set(bench.kernel.links) == set(before)
    assert bench.namespaces.there == {SPACE_A: [4]}
    assert bench.filters.fenced == FENCE
    bench.namespaces.delete(SPACE_A)
    bench.filters.fenced = frozenset()
    mending.local()
    assert set(bench.kernel.links) == set(before)
    assert bench.filters.fenced == FENCE


def test_what_a_crash_left_goes(bench: Bench) -> None:
    bench.create(A, "plain", **NAT)
    bench.repository.networks.remove(A)
    repair(bench).local()
    assert bench.namespaces.there == {}
    assert not LINKS_A & bench.kernel.links.keys()
    assert bench.filters.fenced == frozenset()


def test_a_gateway_that_is_whole_is_not_made_again(bench: Bench) -> None:
    """Another process finds it so: the connections through it go on."""
    bench.create(A, "plain", **NAT)
    fresh = Gateways(bench.repository, bench.kernel, bench.namespaces, bench.filters)
    bench.namespaces.add = lambda name: pytest.fail(f"{name} is made again")  # type: ignore[method-assign]
    bench.filters.loaded.clear()
    fresh.sync(bench.repository.network(A))
    assert set(bench.filters.loaded) == {"", SPACE_A}
    bench.filters.loaded.clear()
    fresh.sync(bench.repository.network(A))
    assert bench.filters.loaded == {}


def test_a_network_that_was_removed_meanwhile_gets_no_gateway(bench: Bench) -> None:
    bench.create(A, "plain", **NAT)
    made = bench.repository.network(A)
    bench.service.delete_network(A)
    bench.gateways.sync(made)
    assert bench.namespaces.there == {}


def test_links_of_gateways_are_left_over_without_them() -> None:
    links = [Link(name, "veth", up=True, mtu=1500) for name in (*LINKS_A, "qu-theirs")]
    assert set(plan.left_over(links, [network()], ())) == set()
    assert set(plan.left_over(links, [network(nat=False)], ())) == LINKS_A


def test_a_gateway_has_the_networks_gateway_addresses() -> None:
    gateway = nat.of(network(pair=3))
    assert gateway.own == ("10.100.1.1/24", "fd00:1::1/64")
    assert gateway.far == ("169.254.240.6/31", "fd71:6e65:7400::6/127")
    assert gateway.near == ("169.254.240.7/31", "fd71:6e65:7400::7/127")
    assert gateway.uplink == "eth1"
    assert gateway.port.mac != nat.of(network(id=B)).port.mac
    assert "addr replace fd00:1::1/64 dev lan nodad" in nat_rules.links_inside(gateway)
    assert "route replace default via 169.254.240.6 dev wan" in nat_rules.links_inside(gateway)


def test_pairs_end() -> None:
    assert nat.free_pair({0, 1, 3}) == 2
    with pytest.raises(Exhausted, match="2048 networks with nat=true"):
        nat.free_pair(range(2048))


def test_one_wall_holds_the_gateways_of_all_networks_behind_an_uplink() -> None:
    other = network(id=B, subnets=(Subnet("10.9.0.0/24", "10.9.0.1"),))
    apart = network(id="c" * 64, parent="eth2", bridge="qb-eth2")
    ingress, egress = (nat_rules._chain(hook, "eth1") for hook in nat_rules.HOOKS)
    beside = nat_rules._chain("ingress", "eth2")
    text = nat_rules.fence([nat.of(one) for one in (network(), other, apart)], {"eth1", "eth2"})
    assert f"{ingress} arp saddr ip {{ 10.100.1.1, 10.9.0.1 }} drop" in text
    assert f"{egress} arp daddr ip {{ 10.100.1.1, 10.9.0.1 }} drop" in text
    assert f"{beside} arp saddr ip {{ 10.100.1.1 }} drop" in text
    assert f"@th,64,128 {{ {hex(0xFD000001 << 96 | 1)} }} drop" in text
    assert 'device "eth2"' not in nat_rules.fence([nat.of(apart)], {"eth1"})


def test_nothing_from_a_gateway_stays_on_the_host() -> None:
    text = nat_rules.fence([nat.of(network())], {"eth1"})
    for prefix in ("qu-", "qh-", "qb-", "qn-", "qr-", "qp-"):
        assert f'oifname "{prefix}*" drop' in text
    assert "ip daddr { 169.254.0.0/16, 168.63.129.16 } drop" in text
    assert text.startswith(nat_rules.REMOVAL)
    assert nat_rules.fence([], {"eth1"}) == nat_rules.REMOVAL
