"""`-o nat=true`: each host is the gateway of its own containers, on real engines, links and rules."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from tests.e2e import kit
from tests.e2e.kit import CREATE, GATEWAY, GATEWAY6, SUBNET, network, pings, refused, run
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = pytest.mark.mode("bridge")

NAT = ("-o", "mode=bridge", "-o", "nat=true")
PORT = "7007"
METADATA = "169.254.169.254"
SERVER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.create_server((sys.argv[1], int(sys.argv[2])), family=family) as server:
    print("listening", flush=True)
    while True:
        caller, peer = server.accept()
        caller.sendall(peer[0].encode())
        caller.close()
"""


@contextmanager
def listens(host: Host, *addresses: str) -> Iterator[None]:
    """A host tells who calls it the address that it sees, at each of these addresses of its own."""
    servers = [host.popen(sys.executable, "-c", SERVER, own, PORT, stdout=subprocess.PIPE) for own in addresses]
    try:
        for server in servers:
            assert server.stdout.readline() == b"listening\n"
        yield
    finally:
        for server in servers:
            server.kill()
            server.communicate()


def seen_as(host: Host, container: str, address: str) -> str:
    """What a server sees a container as; empty if it is not reached."""
    return host.docker("exec", container, "nc", "-w", "2", address, PORT, check=False, timeout=30).stdout


def reaches(host: Host, container: str, other: Host) -> bool:
    """Whether a container reaches another host in the name of its own, soon at least."""
    with listens(other, other.address):
        try:
            kit.wait_for("the way out", lambda: seen_as(host, container, other.address) == host.address, 15, 0.2)
        except Exception:
            return False
    return True


def gateway_mac(host: Host) -> str:
    """The MAC address of the only gateway on a host."""
    (name,) = kit.namespaces(host)
    (link,) = json.loads(host.exec("ip", "-n", name, "-j", "link", "show", "lan").stdout)
    return str(link["address"])


def transfer(host: Host) -> list[str]:
    """The host's addresses on the ways out of gateways."""
    listed = json.loads(host.exec("ip", "-j", "-4", "addr").stdout)
    return [one["addr_info"][0]["local"] for one in listed if one["ifname"].startswith("qu-")]


def test_the_outside_sees_the_host(hosts: list[Host]) -> None:
    near, far = hosts[:2]
    network(near, "web", *kit.DUAL, *NAT)
    run(near, "aa")
    assert pings(near, "aa", GATEWAY)
    assert pings(near, "aa", GATEWAY6)
    with listens(far, far.address, far.node.address6):
        assert seen_as(near, "aa", far.address) == near.address
        assert seen_as(near, "aa", far.node.address6) == near.node.address6
    assert pings(near, "aa", far.address)


def test_the_hosts_own_services_are_out_of_reach(hosts: list[Host]) -> None:
    host, far = hosts[:2]
    network(host, "web", *kit.DUAL, *NAT)
    run(host, "aa")
    (own,) = transfer(host)
    with listens(host, "0.0.0.0"), listens(host, host.node.address6), listens(far, far.address):
        for address in (host.address, host.node.address6, own):
            assert seen_as(host, "aa", address) == ""
        assert not pings(host, "aa", host.address, tries=1)
        assert seen_as(host, "aa", far.address) == host.address
        host.exec("nft", "flush", "chain", "inet", "qnet", "knocks")
        assert seen_as(host, "aa", host.address).startswith("169.254.240.")
        assert seen_as(host, "aa", host.node.address6).startswith("fd71:")


def test_metadata_and_tunnels_are_out_of_reach(hosts: list[Host]) -> None:
    host, far = hosts[:2]
    network(host, "web", *NAT)
    run(host, "aa")
    host.exec("ip", "route", "add", METADATA, "dev", "eth0")
    far.exec("ip", "addr", "add", f"{METADATA}/32", "dev", "eth0")
    try:
        with listens(far, METADATA):
            assert seen_as(host, "aa", METADATA) == ""
            host.exec("nft", "flush", "chain", "inet", "qnet", "leaves")
            assert seen_as(host, "aa", METADATA) == host.address
    finally:
        host.exec("ip", "route", "delete", METADATA)
        far.exec("ip", "addr", "delete", f"{METADATA}/32", "dev", "eth0")


def test_tenants_with_the_same_subnet_do_not_meet(hosts: list[Host]) -> None:
    host, far = hosts[:2]
    kit.tenants(host, "left", "right")
    host.exec("ip", "link", "set", "eth2", "up")
    for name, parent in (("left", "eth1"), ("right", "eth2")):
        own = ("-o", f"tenant={name}", "--ipam-opt", f"tenant={name}", "-o", f"parent={parent}")
        network(host, name, *NAT, *own)
        run(host, name, "--ip", "10.77.0.50", on=name)
    run(host, "more", "--ip", "10.77.0.60", on="right")
    assert len(set(transfer(host))) == 2
    with listens(far, far.address):
        found = kit.at_once(lambda name: seen_as(host, name, far.address), ["left", "right"] * 4)
    assert set(found) == {host.address}
    assert not pings(host, "left", "10.77.0.60", tries=1)
    assert pings(host, "right", "10.77.0.60")
    for name, others in zip(("right", "left"), transfer(host), strict=True):
        # a gateway answers its own network at this address
        assert not pings(host, name, str(ip_address(others) + 1), tries=1)
        assert not pings(host, name, others, tries=1)
    host.docker("rm", "-f", "left", "right", "more")
    host.docker("network", "rm", "left", "right")
    host.exec("ip", "link", "set", "eth2", "down")


def test_every_host_is_the_gateway_of_its_own_containers(hosts: list[Host]) -> None:
    near, far, outside = hosts
    network([near, far], "web", *kit.DUAL, *NAT)
    given = {host.name: run(host, "aa") for host in (near, far)}
    macs = {host.name: gateway_mac(host) for host in (near, far)}
    assert len(set(macs.values())) == 2
    for host, other in ((near, far), (far, near)):
        assert pings(host, "aa", given[other.name])
        assert answers(host, GATEWAY) == {macs[host.name]}
        assert pings(host, "aa", GATEWAY6)
        assert macs[host.name] in host.docker("exec", "aa", "ip", "neigh", "show", GATEWAY6).stdout
        assert reaches(host, "aa", outside)
    # without the wall both answer
    for host in (near, far):
        for chain in host.exec("nft", "list", "table", "netdev", "qnet_gateways").stdout.split("chain ")[1:]:
            host.exec("nft", "flush", "chain", "netdev", "qnet_gateways", chain.split()[0])
    assert answers(near, GATEWAY) == set(macs.values())


def answers(host: Host, address: str) -> set[str]:
    """The MAC addresses that answer for an address when a container asks."""
    said = host.docker("exec", "aa", "arping", "-c", "3", "-b", "-I", "eth0", address, check=False).stdout
    return {word.strip("[]").lower() for word in said.split() if word.startswith("[")}


def test_whatever_is_taken_away_is_put_back(hosts: list[Host]) -> None:
    host, far = hosts[:2]
    network(host, "web", *NAT)
    run(host, "aa", "--ip", "10.77.0.50", "--restart", "always")
    (name,) = kit.namespaces(host)
    mac = gateway_mac(host)
    faults = (
        ("nft", "flush", "ruleset"),
        ("ip", "netns", "delete", name),
        ("ip", "link", "delete", f"qu-{name.removeprefix('qnet-')}"),
        ("ip", "link", "delete", f"qr-{name.removeprefix('qnet-')}"),
    )
    for fault in faults:
        host.exec(*fault)
        assert reaches(host, "aa", far), fault
        assert gateway_mac(host) == mac
    with listens(host, host.address):
        kit.wait_for("the rules", lambda: "knocks" in host.exec("nft", "list", "ruleset").stdout, 10)
        assert seen_as(host, "aa", host.address) == ""
    host.reboot()
    kit.wait_for("the container", lambda: kit.running(host, "aa"), 20)
    assert reaches(host, "aa", far)
    assert gateway_mac(host) == mac


def test_a_plugin_that_is_killed_harms_no_connection(lab: Lab, hosts: list[Host]) -> None:
    host, far = hosts[:2]
    network(host, "web", *NAT)
    run(host, "aa")
    (name,) = kit.namespaces(host)
    made = host.exec("stat", "-L", "-c", "%i", f"/run/netns/{name}").stdout
    host.plugin.kill()
    assert reaches(host, "aa", far)
    # what a kill in the midst of it leaves
    host.exec("ip", "netns", "add", "qnet-0123456789ab")
    host.exec(
        "ip", "link", "add", "qu-0123456789ab", "type", "veth", "peer", "name", "wan", "netns", "qnet-0123456789ab"
    )
    host.exec("touch", "/run/netns/qnet-ba9876543210")
    host.start_plugin()
    assert reaches(host, "aa", far)
    assert host.exec("stat", "-L", "-c", "%i", f"/run/netns/{name}").stdout == made
    kit.wait_for("only what is needed", lambda: host.exec("ls", "/run/netns").stdout.split() == [name], 10)
    host.docker("rm", "-f", "aa")
    host.plugin.kill()
    host.start_plugin()
    host.docker("network", "rm", "web")
    kit.no_leaks(lab)


def test_the_tables_of_others_stay(hosts: list[Host]) -> None:
    host = hosts[0]
    host.exec("nft", "-f", "-", stdin="table inet theirs {\n chain forward {\n drop\n }\n}\n")
    theirs = host.exec("nft", "list", "table", "inet", "theirs").stdout
    try:
        network(host, "web", *NAT)
        host.docker("network", "rm", "web")
        assert set(kit.links(host)) == kit.LINKS
        assert kit.namespaces(host) == set()
        assert host.exec("nft", "list", "table", "inet", "theirs").stdout == theirs
        assert "table inet qnet" not in host.exec("nft", "list", "tables").stdout
    finally:
        host.exec("nft", "delete", "table", "inet", "theirs")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ("-o", "mode=macvlan", "-o", "nat=true"),
            "-o nat=true needs a bridge that qnet makes, and networks of mode macvlan have none",
        ),
        ((*NAT, "--internal"), "-o nat=true is the way out, and --internal is none"),
        (("-o", "mode=bridge", "-o", "nat=yes"), "-o nat=yes: true or false"),
    ],
)
def test_what_cannot_be_is_refused(lab: Lab, hosts: list[Host], options: tuple[str, ...], says: str) -> None:
    assert says in refused(hosts[0], *CREATE, "--subnet", SUBNET, "--gateway", GATEWAY, *options, "web")
    kit.no_leaks(lab)


def test_a_host_that_does_not_forward_says_so(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[0]
    host.exec("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    try:
        said = refused(host, *CREATE, "--subnet", SUBNET, *NAT, "web")
    finally:
        host.exec("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")
    assert "this host does not forward IPv4: sysctl -w net.ipv4.ip_forward=1" in said
    kit.no_leaks(lab)
