"""What a hostile container of a bridge network can make others hear: nothing but itself.

Each attack is tried twice: with the rules in force nothing of it arrives at the victim, on the same bridge, in plain
capture; with the rules taken away it arrives, so that the test is known to see it.
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import frames, kit
from tests.e2e.boxes import HOSTILE, Box, arrives, box, device_of, listed
from tests.e2e.conftest import restore_and_check
from tests.e2e.frames import (
    ALL_NODES,
    ALL_NODES_MAC,
    ARP,
    BROADCAST,
    IPV4,
    IPV6,
    arp,
    as_tcp,
    ethernet,
    fragment,
    icmp6,
    option,
    udp,
)
from tests.lab.cluster import Lab

pytestmark = pytest.mark.mode("bridge")

SCRIPT = Path(frames.__file__)
OTHER, OTHER6, OTHER_MAC = "10.77.0.99", "fd00:77::99", "02:00:00:00:00:99"


@pytest.fixture(scope="module", params=["bridge", "vxlan"])
def boxes(lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[Box, Box]]:
    """An attacker and its victim, on one bridge."""
    host = lab.hosts[0]
    kit.tenants(host, evils="--vni=601")
    kit.network(
        host, "web", *kit.DUAL, *kit.of("evils", "vxlan") if request.param == "vxlan" else ("-o", "mode=bridge")
    )
    yield box(host, "evil", *HOSTILE), box(host, "good")
    restore_and_check(lab)


def bridge_of(one: Box) -> str:
    """The bridge that a container's host has it on."""
    return next(name for name in kit.links(one.host) if name.startswith("qb-"))


@contextmanager
def without(one: Box, chain: str) -> Iterator[Callable[[], None]]:
    """Takes the rules of a chain away; they are back afterwards."""
    rules, name = listed(one.host, chain), f"netdev qnet {chain}"

    def take_away() -> None:
        one.host.exec("nft", "-f", "-", stdin=f"flush chain {name}\nadd rule {name} accept\n")

    yield take_away
    one.host.exec("nft", "-f", "-", stdin=f"flush chain {name}\n{rules}")


@pytest.fixture
def without_rules(boxes: tuple[Box, Box]) -> Iterator[Callable[[], None]]:
    """Takes the rules for what the attacker sends away."""
    with without(boxes[0], device_of(boxes[0])) as take_away:
        yield take_away


@pytest.fixture
def without_victims(boxes: tuple[Box, Box]) -> Iterator[Callable[[], None]]:
    """Takes the rules for what the victim receives away."""
    with without(boxes[1], f"{device_of(boxes[1])}-received") as take_away:
        yield take_away


LISTEN = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
    link.bind((sys.argv[1], 9999))
    link.settimeout(3)
    print("listening", flush=True)
    try:
        link.recvfrom(100)
        print("heard", flush=True)
    except TimeoutError:
        print("nothing", flush=True)
"""

Attack = Callable[[Box, Box, bytes], bytes]
ATTACKS: dict[str, Attack] = {
    "the MAC address of another": lambda a, v, mark: ethernet(
        v.mac, OTHER_MAC, IPV4, udp(a.address, v.address, (9, 9), mark)
    ),
    "an ARP reply for the gateway": lambda a, v, mark: ethernet(
        v.mac, a.mac, ARP, arp(2, a.mac, kit.GATEWAY, v.mac, v.address) + mark
    ),
    "an ARP request in another's name": lambda a, v, mark: ethernet(
        BROADCAST, a.mac, ARP, arp(1, a.mac, OTHER, "00:00:00:00:00:00", v.address) + mark
    ),
    "an ARP reply with another's MAC address": lambda a, v, mark: ethernet(
        v.mac, a.mac, ARP, arp(2, OTHER_MAC, a.address, v.mac, v.address) + mark
    ),
    "the IPv4 address of another": lambda a, v, mark: ethernet(v.mac, a.mac, IPV4, udp(OTHER, v.address, (9, 9), mark)),
    "the IPv6 address of another": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, udp(OTHER6, v.address6, (9, 9), mark)
    ),
    "a neighbour advertisement for the gateway": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, advertised(kit.GATEWAY6, a, v, mark)
    ),
    "an advertisement with another's MAC address": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, advertised(a.address6, a, v, mark, OTHER_MAC)
    ),
    "a question with another's MAC address": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, asked(a.address6, v.address6, OTHER_MAC, mark)
    ),
    "a claim to the address of another": lambda a, v, mark: ethernet(
        ALL_NODES_MAC,
        a.mac,
        IPV6,
        icmp6("::", ALL_NODES, frames.NEIGHBOR_SOLICITATION, bytes(4) + ip(OTHER6) + option(mark)),
    ),
    "a router advertisement": lambda a, v, mark: ethernet(
        ALL_NODES_MAC, a.mac, IPV6, icmp6(a.local, ALL_NODES, frames.ROUTER_ADVERTISEMENT, bytes(12) + option(mark))
    ),
    "a redirect": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, icmp6(a.local, v.address6, frames.REDIRECT, bytes(36) + option(mark))
    ),
    "an advertisement cut in fragments": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, fragment(advertised(kit.GATEWAY6, a, v, b""), mark, hidden=False)
    ),
    "a fragment that hides what it carries": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, fragment(advertised(kit.GATEWAY6, a, v, b""), mark, hidden=True)
    ),
    "a DHCP server": lambda a, v, mark: ethernet(
        BROADCAST, a.mac, IPV4, udp(a.address, "255.255.255.255", (67, 68), mark)
    ),
    "a DHCP server at another port": lambda a, v, mark: ethernet(
        BROADCAST, a.mac, IPV4, udp(a.address, "255.255.255.255", (9, 68), mark)
    ),
    "a DHCPv6 server": lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, udp(a.address6, v.address6, (547, 546), mark)),
    "a DHCPv6 server at another port": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, udp(a.address6, v.address6, (9, 546), mark)
    ),
    "spanning tree": lambda a, v, mark: frames.spanning_tree(a.mac) + mark,
    "a VLAN tag": lambda a, v, mark: frames.tagged(
        ethernet(v.mac, a.mac, IPV4, udp(a.address, v.address, (9, 9), mark)), (frames.VLAN, 200)
    ),
    "two VLAN tags": lambda a, v, mark: frames.tagged(
        ethernet(v.mac, a.mac, IPV4, udp(a.address, v.address, (9, 9), mark)),
        (frames.PROVIDER_VLAN, 1),
        (frames.VLAN, 200),
    ),
    "TCP from the MAC address of another": lambda a, v, mark: ethernet(
        v.mac, OTHER_MAC, IPV4, as_tcp(udp(a.address, v.address, (9, 9), mark))
    ),
    "TCP from the IPv4 address of another": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV4, as_tcp(udp(OTHER, v.address, (9, 9), mark))
    ),
    "TCP from the IPv6 address of another": lambda a, v, mark: ethernet(
        v.mac, a.mac, IPV6, as_tcp(udp(OTHER6, v.address6, (9, 9), mark))
    ),
    "TCP with a VLAN tag": lambda a, v, mark: frames.tagged(
        ethernet(v.mac, a.mac, IPV4, as_tcp(udp(a.address, v.address, (9, 9), mark))), (frames.VLAN, 200)
    ),
    "another protocol": lambda a, v, mark: ethernet(v.mac, a.mac, frames.LLDP, mark),
}


def ip(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def asked(source: str, target: str, mac: str, mark: bytes) -> bytes:
    """A question who has an address, by somebody who says to be at a MAC address."""
    body = bytes(4) + ip(target) + b"\1\1" + frames.mac(mac) + option(mark)
    return icmp6(source, target, frames.NEIGHBOR_SOLICITATION, body)


def advertised(target: str, one: Box, to: Box, mark: bytes, mac: str = "") -> bytes:
    """An advertisement that a target is at a MAC address (the container's own), overriding what was known."""
    body = bytes.fromhex("20000000") + ip(target) + b"\2\1" + frames.mac(mac or one.mac)
    return icmp6(one.address6, to.address6, frames.NEIGHBOR_ADVERTISEMENT, body + option(mark))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_arrives_only_without_the_rules(
    boxes: tuple[Box, Box], without_rules: Callable[[], None], without_victims: Callable[[], None], attack: str
) -> None:
    evil, good = boxes
    make = ATTACKS[attack]
    assert not arrives(evil, good, lambda mark: make(evil, good, mark))
    without_rules()
    if "VLAN tag" in attack:  # as they come from a trunk, too: the victim gets none
        assert not arrives(evil, good, lambda mark: make(evil, good, mark))
        without_victims()
    assert arrives(evil, good, lambda mark: make(evil, good, mark))


@pytest.mark.parametrize(
    "make",
    [
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV4, udp(a.address, v.address, (9, 9), mark)),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, udp(a.address6, v.address6, (9, 9), mark)),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, udp(a.local, v.address6, (9, 9), mark)),
        lambda a, v, mark: ethernet(v.mac, a.mac, ARP, arp(2, a.mac, a.address, v.mac, v.address) + mark),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, advertised(a.address6, a, v, mark)),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, asked(a.address6, v.address6, a.mac, mark)),
        lambda a, v, mark: ethernet(
            ALL_NODES_MAC,
            a.mac,
            IPV6,
            icmp6("::", ALL_NODES, frames.NEIGHBOR_SOLICITATION, bytes(4) + ip(a.address6) + option(mark)),
        ),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV4, as_tcp(udp(a.address, v.address, (9, 9), mark))),
        lambda a, v, mark: ethernet(v.mac, a.mac, IPV6, as_tcp(udp(a.address6, v.address6, (9, 9), mark))),
    ],
    ids=["IPv4", "IPv6", "link-local", "ARP", "neighbour", "question", "its own claim", "TCP4", "TCP6"],
)
def test_what_is_its_own_arrives(boxes: tuple[Box, Box], make: Attack) -> None:
    evil, good = boxes
    assert arrives(evil, good, lambda mark: make(evil, good, mark))


def test_a_flood_of_addresses_does_not_fill_the_bridge(
    boxes: tuple[Box, Box], without_rules: Callable[[], None]
) -> None:
    evil, good = boxes
    sources = [f"02:66:00:00:00:{number:02x}" for number in range(40)]
    flood = [ethernet(good.mac, source, IPV4, udp(evil.address, good.address, (9, 9), b"")) for source in sources]
    port = ("bridge", "link", "set", "dev", device_of(evil), "learning")

    def learned() -> int:
        evil.sends(*flood)
        return evil.host.exec("bridge", "fdb", "show").stdout.count("02:66")

    evil.host.exec(*port, "on")
    assert learned() == 0  # by the rules alone
    evil.host.exec(*port, "off")
    without_rules()
    assert learned() == 0  # by the port alone
    evil.host.exec(*port, "on")
    assert learned() == len(sources)
    evil.host.exec(*port, "off")


def test_the_host_is_not_on_the_segment(boxes: tuple[Box, Box]) -> None:
    """A host answers for all of its addresses on every link, and takes what comes for them."""
    evil, _ = boxes
    host = evil.host
    inside = ("docker", "exec", "evil", "ip", "route", "add", f"{host.address}/32", "dev", "eth0")
    host.docker(*inside[1:])
    assert host.docker("exec", "evil", "ping", "-c", "2", "-W", "1", host.address, check=False).returncode != 0
    host.exec("nft", "-f", "-", stdin=f"add rule netdev qnet {bridge_of(evil)} accept\n")
    found = host.docker("exec", "evil", "ping", "-c", "2", "-W", "1", host.address, check=False)
    seen = host.docker("exec", "evil", "ip", "neigh", "show", host.address).stdout
    host.exec("nft", "flush", "chain", "netdev", "qnet", bridge_of(evil))
    assert found.returncode == 0 or "lladdr" in seen


def test_the_host_hears_nothing_that_bridges_keep_to_themselves(
    boxes: tuple[Box, Box], without_rules: Callable[[], None]
) -> None:
    """A bridge takes such frames in at the port itself, where its shield is not."""
    evil, _ = boxes

    def heard() -> bool:
        words = [sys.executable, "-c", LISTEN, evil.host.address]
        with evil.host.popen(*words, stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout.readline() == "listening\n"
            packet = udp(evil.address, evil.host.address, (9, 9999), b"for the host")
            evil.sends(ethernet("01:80:c2:00:00:0e", evil.mac, IPV4, packet))
            return listener.stdout.readline() == "heard\n"

    evil.host.exec("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")
    assert not heard()
    without_rules()
    assert heard()


def test_a_firewall_that_flushes_everything_is_not_the_end(boxes: tuple[Box, Box]) -> None:
    evil, good = boxes
    evil.host.exec("nft", "flush", "ruleset")
    attack = ATTACKS["the IPv4 address of another"]
    kit.wait_for("the rules", lambda: evil.mac in evil.host.exec("nft", "list", "ruleset").stdout, 10)
    assert not arrives(evil, good, lambda mark: attack(evil, good, mark))
    assert f"chain {bridge_of(evil)}" in evil.host.exec("nft", "list", "ruleset").stdout
