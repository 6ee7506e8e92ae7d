"""The options of a macvlan network, and what is said when they cannot be had."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e import kit
from tests.e2e.kit import CREATE, GATEWAY, SUBNET, links, network, pings, refused, run, run_args
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.mode("macvlan")]


def mode_inside(host: Host, container: str) -> str:
    """The macvlan mode of a container's link, as the kernel says."""
    pid = kit.inspect(host, "container", container)["State"]["Pid"]
    listed = json.loads(host.exec("nsenter", f"--net=/proc/{pid}/ns/net", "ip", "-j", "-d", "link").stdout)
    modes = [
        link["linkinfo"]["info_data"]["mode"] for link in listed if "linkinfo" in link and link["ifname"] == "eth0"
    ]
    return str(modes[0])


@pytest.mark.parametrize(("mode", "same_host"), [("bridge", True), ("private", False), ("vepa", False)])
def test_modes(hosts: list[Host], mode: str, same_host: bool) -> None:
    network(hosts[:2], "web", "-o", "parent=eth1", "-o", f"macvlan_mode={mode}")
    run(hosts[0], "aa")
    near, far = run(hosts[0], "bb"), run(hosts[1], "cc")
    assert mode_inside(hosts[0], "aa") == mode
    assert pings(hosts[0], "aa", far)
    # vepa leaves it to the switch to send a frame back, and the lab's does not
    assert pings(hosts[0], "aa", near, tries=3 if same_host else 1) is same_host


def test_passthru_is_for_one_container(hosts: list[Host]) -> None:
    network(hosts[:1], "web", "-o", "parent=eth1", "-o", "macvlan_mode=passthru")
    network(hosts[1])
    run(hosts[0], "aa")
    assert mode_inside(hosts[0], "aa") == "passthru"
    assert pings(hosts[0], "aa", run(hosts[1], "far"))
    said = refused(hosts[0], *run_args("bb"))
    assert "is in mode passthru: its one container has eth1" in said
    said = refused(hosts[0], *CREATE, "--subnet", "10.78.0.0/24", "-o", "parent=eth1", "other")
    assert "parent eth1 is used by network" in said
    assert "in mode passthru" in said
    hosts[0].docker("rm", "-f", "aa", "bb")
    run(hosts[0], "bb")


def test_passthru_wants_its_parent_for_itself(hosts: list[Host]) -> None:
    network(hosts[0])
    said = refused(hosts[0], *CREATE, "--subnet", "10.78.0.0/24", "-o", "macvlan_mode=passthru", "other")
    assert "a passthru network has its parent for itself" in said


def test_mtu(hosts: list[Host]) -> None:
    network(hosts[:2], "web", "-o", "mtu=1400")
    run(hosts[0], "aa")
    far = run(hosts[1], "bb")
    assert "mtu 1400" in hosts[0].docker("exec", "aa", "ip", "link", "show", "eth0").stdout
    assert hosts[0].docker("exec", "aa", "ping", "-c", "1", "-W", "1", "-s", "1372", far).returncode == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "colour=blue"], ["-o colour: no such option; there are: parent, mode, macvlan_mode, mtu, host_access"]),
        (["--ipam-opt", "colour=blue"], ["--ipam-opt colour: no such option; there are: tenant, exclude"]),
        (["-o", "parent=eth9"], ["parent 'eth9' does not exist on this host", "eth0, eth1"]),
        (["-o", "parent=eth2"], ["parent eth2 is down: ip link set eth2 up", "eth0, eth1"]),
        (["-o", "parent=lo"], ["parent lo is the loopback", "eth0, eth1"]),
        (["-o", "parent=../eth1"], ["does not exist on this host"]),
        (["-o", "macvlan_mode=hairpin"], ["no such mode; there are: bridge, private, vepa, passthru"]),
        (["-o", "mtu=9000"], ["-o mtu=9000 is more than the 1500 of parent eth1"]),
        (["-o", "mtu=12"], ["-o mtu=12: a number from 68 to 65535"]),
        (["-o", "mtu=big"], ["-o mtu=big: a number from 68"]),
        (["-o", "host_access=yes"], ["-o host_access=yes: true or false"]),
        (["-o", "host_access=true", "-o", "macvlan_mode=private"], ["host_access=true needs macvlan_mode=bridge"]),
        (["-o", "tenant=Blue"], ["'Blue' is no tenant: lower-case letters, digits and -"]),
        (["-o", "tenant=plain"], ["-o tenant=plain --ipam-opt tenant=plain"]),
        (["--ipam-opt", "tenant=plain"], ["was not requested for tenant default", "-o tenant=default"]),
    ],
    ids=lambda value: "_".join(value[1::2]) if value[0].startswith("-") else "",
)
def test_what_cannot_be_is_refused(lab: Lab, hosts: list[Host], options: list[str], words: list[str]) -> None:
    kit.tenants(hosts[0], "plain")
    said = refused(hosts[0], *CREATE, "--subnet", SUBNET, "--gateway", GATEWAY, *options, "web")
    for word in words:
        assert word in said
    kit.no_leaks(lab)


@pytest.fixture
def bridge(hosts: list[Host]) -> Iterator[Host]:
    """The first host, with eth2 up and part of a bridge."""
    host = hosts[0]
    for words in ("add br0 type bridge", "set br0 up", "set eth2 up", "set eth2 master br0"):
        host.exec("ip", "link", *words.split())
    yield host
    kit.remove_all(host)
    for words in ("delete br0", "set eth2 down"):
        host.exec("ip", "link", *words.split())


def test_a_parent_that_is_a_slave(lab: Lab, bridge: Host) -> None:
    said = refused(bridge, *CREATE, "--subnet", SUBNET, "-o", "parent=eth2", "web")
    assert "parent eth2 is part of br0: use br0; links: br0, eth0, eth1" in said
    network(bridge, "web", "-o", "parent=br0")
    run(bridge, "aa")


def test_a_parent_that_is_a_macvlan(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[0]
    host.exec("ip", "link", "add", "mv0", "link", "eth1", "type", "macvlan")
    try:
        said = refused(host, *CREATE, "--subnet", SUBNET, "-o", "parent=mv0", "web")
        assert "parent mv0 is itself a macvlan link: use its parent eth1" in said
    finally:
        host.exec("ip", "link", "delete", "mv0")


def test_a_parent_that_goes_away(bridge: Host) -> None:
    network(bridge, "web", "-o", "parent=br0")
    run(bridge, "aa", "--ip", "10.77.0.50")
    bridge.docker("stop", "aa")
    bridge.exec("ip", "link", "delete", "br0")
    said = refused(bridge, "start", "aa")
    assert "parent 'br0' does not exist on this host" in said
    bridge.exec("ip", "link", "add", "br0", "type", "bridge")
    bridge.exec("ip", "link", "set", "br0", "up")
    bridge.docker("start", "aa")
    assert kit.address(bridge, "aa") == "10.77.0.50"


def test_the_default_parent_is_that_of_the_settings(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0])
    run(hosts[0], "aa")
    ((_, published),) = kit.records(lab, "/qnet/v1/networks/").items()
    assert published.fields["parent"] == "eth1"
    inside = hosts[0].docker("exec", "aa", "ip", "-o", "link", "show", "eth0").stdout
    index = links(hosts[0])["eth1"]["ifindex"]
    assert f"eth0@if{index}:" in inside


def test_two_networks_on_one_parent(hosts: list[Host]) -> None:
    network(hosts[:2])
    network(hosts[:2], "other", subnet="10.78.0.0/24", gateway="10.78.0.1")
    run(hosts[0], "aa")
    run(hosts[0], "bb", on="other")
    assert pings(hosts[0], "aa", run(hosts[1], "aa"))
    assert pings(hosts[0], "bb", run(hosts[1], "bb", on="other"))


def test_a_link_that_nothing_uses_is_removed(hosts: list[Host]) -> None:
    host = hosts[0]
    network(host)
    given = run(host, "aa")
    for name in ("qn-0123456789ab", "qh-0123456789ab", "mv0"):
        host.exec("ip", "link", "add", name, "link", "eth1", "type", "macvlan")
    host.exec("ip", "link", "add", "qn-veth", "type", "veth", "peer", "name", "qn-peer")
    try:
        wait_for("links go", lambda: not {"qn-0123456789ab", "qh-0123456789ab"} & links(host).keys(), 10)
        assert {"mv0", "qn-veth"} <= links(host).keys()
        assert pings(host, "aa", given)
    finally:
        for name in ("mv0", "qn-veth"):
            host.exec("ip", "link", "delete", name)
