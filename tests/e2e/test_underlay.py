"""VXLAN packets that a container makes itself: no frame gets into another tenant's network that way."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.e2e import kit
from tests.e2e.boxes import HOSTILE, Box, arrives, box
from tests.e2e.frames import IPV4, ethernet, fragments, udp, vxlan
from tests.lab.host import Host

pytestmark = pytest.mark.mode("vxlan")

PORTS = (50_000, 4789)
VNI = 502
TABLE = ("inet", "qnet_underlay")

Wrap = Callable[[Box, Box, bytes], list[bytes]]


@pytest.fixture
def victim(hosts: list[Host]) -> Box:
    """A container of a tenant with a VNI, on the first host."""
    kit.tenants(hosts[0], vx2=f"--vni={VNI}", vx1="--vni=501")
    kit.network(hosts[:2], "vx2", *kit.DUAL, *kit.of("vx2", "vxlan"))
    return box(hosts[0], "good", on="vx2")


@pytest.fixture
def friend(victim: Box) -> Box:
    """Another one of that tenant, beside it."""
    return box(victim.host, "friend", *HOSTILE, on="vx2")


def inner(victim: Box, mark: bytes) -> bytes:
    """A frame for the victim."""
    return ethernet(victim.mac, "02:00:00:00:00:99", IPV4, udp("10.77.0.99", victim.address, (9, 9), mark))


def from_the_underlay(evil: Box, victim: Box, mark: bytes) -> list[bytes]:
    """From beside the hosts, to the victim's."""
    packet = udp("10.99.0.200", victim.host.address, PORTS, vxlan(VNI, inner(victim, mark)))
    return [ethernet(victim.host.node.mac(0), evil.mac, IPV4, packet)]


def in_fragments(evil: Box, victim: Box, mark: bytes) -> list[bytes]:
    """The same, cut so that the first part does not tell its VNI."""
    packet = udp("10.99.0.200", victim.host.address, PORTS, vxlan(VNI, inner(victim, mark)))
    return [ethernet(victim.host.node.mac(0), evil.mac, IPV4, part) for part in fragments(packet, 8)]


@pytest.mark.parametrize("wrap", [from_the_underlay, in_fragments])
def test_packets_from_the_underlay_arrive_only_without_the_rules(
    hosts: list[Host], victim: Box, friend: Box, wrap: Wrap
) -> None:
    options = ("-o", "mode=macvlan", "-o", "parent=eth0")
    kit.network(hosts[2], "under", *options, subnet="10.98.0.0/24", gateway="10.98.0.1")
    evil = box(hosts[2], "evil", *HOSTILE, on="under")
    assert not arrives(evil, victim, lambda mark: wrap(evil, victim, mark), after=friend)
    hosts[0].plugin.kill()  # it would make the table anew
    hosts[0].exec("nft", "delete", "table", *TABLE)
    assert arrives(evil, victim, lambda mark: wrap(evil, victim, mark), after=friend)


def test_packets_to_its_own_host_arrive_only_without_the_rules(hosts: list[Host], victim: Box, friend: Box) -> None:
    """A container that may talk to its host, in the name of nobody but itself."""
    kit.network(
        hosts[0], "vx1", *kit.of("vx1", "vxlan"), "-o", "host_access=true", subnet="10.78.0.0/24", gateway="10.78.0.1"
    )
    evil = box(hosts[0], "evil", *HOSTILE, on="vx1")
    link = next(one for name, one in kit.links(hosts[0]).items() if name.startswith("qh-"))

    def wrap(evil: Box, victim: Box, mark: bytes) -> list[bytes]:
        packet = udp(evil.address, victim.host.address, PORTS, vxlan(VNI, inner(victim, mark)))
        return [ethernet(link["address"], evil.mac, IPV4, packet)]

    assert not arrives(evil, victim, lambda mark: wrap(evil, victim, mark), after=friend)
    hosts[0].plugin.kill()  # it would make the table anew
    hosts[0].exec("nft", "delete", "table", *TABLE)
    assert arrives(evil, victim, lambda mark: wrap(evil, victim, mark), after=friend)


def test_packets_in_the_name_of_a_host_arrive_only_without_the_rules(
    hosts: list[Host], victim: Box, friend: Box
) -> None:
    """From behind the gateway of another host of the VNI, which sends in its own name what its containers send: the
    gateway's rules and those of the underlay each keep them back."""
    way_out = ("-o", "mode=bridge", "-o", "nat=true")
    kit.network(hosts[1], "out", *way_out, subnet="10.78.0.0/24", gateway="10.78.0.1")
    evil = box(hosts[1], "evil", *HOSTILE, on="out")
    assert kit.pings(hosts[1], "evil", hosts[0].address)
    neighbours = ("nsenter", f"--target={evil.pid}", "--net", "ip", "-j", "neigh", "show", "10.78.0.1")
    (gateway,) = json.loads(subprocess.run(neighbours, check=True, capture_output=True, timeout=10).stdout)

    def wrap(mark: bytes) -> list[bytes]:
        packet = udp(evil.address, victim.host.address, PORTS, vxlan(VNI, inner(victim, mark)))
        return [ethernet(gateway["lladdr"], evil.mac, IPV4, packet)]

    assert not arrives(evil, victim, wrap, after=friend)
    hosts[1].plugin.kill()  # it would make the rules anew
    rules = hosts[1].exec("nft", "list", "table", *TABLE).stdout
    hosts[1].exec("nft", "delete", "table", *TABLE)
    assert not arrives(evil, victim, wrap, after=friend)
    hosts[1].exec("nft", "flush", "chain", "inet", "qnet", "leaves")
    assert arrives(evil, victim, wrap, after=friend)
    hosts[1].exec("nft", "-f", "-", stdin=rules)
    assert not arrives(evil, victim, wrap, after=friend)
