"""Bridge networks on real engines and links."""

from __future__ import annotations

import pytest

from tests.e2e import kit
from tests.e2e.kit import CREATE, GATEWAY, SUBNET, links, network, pings, refused, run
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = [pytest.mark.mode("bridge"), pytest.mark.engines]

BRIDGE = ("-o", "mode=bridge")


def test_containers_reach_each_other_on_every_host(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, "web", *kit.DUAL, *BRIDGE)
    names = ("aa", "bb", "cc")
    given = [run(host, name) for host, name in zip(hosts, names, strict=True)]
    near = run(hosts[0], "near")
    six = [kit.attached(host, name)["GlobalIPv6Address"] for host, name in zip(hosts, names, strict=True)]
    for host, name in zip(hosts, names, strict=True):
        for address in (*given, near, *six):
            assert pings(host, name, address)
    for host in hosts:
        assert links(host)["eth1"]["master"] == "qb-eth1"
    hosts[0].docker("stop", "aa")
    hosts[0].docker("start", "aa")
    assert pings(hosts[1], "bb", kit.address(hosts[0], "aa"))


def test_two_networks_share_a_bridge_which_goes_with_the_last(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[0]
    network(host, "web", *BRIDGE)
    network(host, "more", *BRIDGE, subnet="10.78.0.0/24", gateway="10.78.0.1")
    host.docker("network", "rm", "web")
    assert "qb-eth1" in links(host)
    host.docker("network", "rm", "more")
    assert set(links(host)) == kit.LINKS
    assert "qnet" not in host.exec("nft", "list", "chains", "netdev").stdout.replace("table netdev qnet {\n}", "")


def test_a_bridge_learns_only_from_containers_that_are_not_checked(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[0]
    network(host, "web", *BRIDGE)
    network(host, "free", *BRIDGE, "-o", "spoof_check=false", subnet="10.78.0.0/24", gateway="10.78.0.1")
    for name, learning in (("web", "off"), ("free", "on")):
        run(host, f"on-{name}", on=name)
        port = f"qn-{kit.attached(host, f'on-{name}', name)['EndpointID'][:12]}"
        assert f" learning {learning} " in host.exec("bridge", "-d", "link", "show", "dev", port).stdout


def test_the_host_reaches_its_containers(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[0]
    network(hosts[:2], "web", *BRIDGE, "-o", "host_access=true")
    given = run(host, "aa")
    assert host.exec("ping", "-c", "1", "-W", "2", given, check=False).returncode == 0
    own = next(
        text for text, one in kit.address_records(lab).items() if one["kind"] == "host" and one["host"] == "host1"
    )
    assert pings(host, "aa", own)


def test_a_reboot_and_a_killed_plugin_change_nothing(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[2]
    network(hosts, "web", *BRIDGE)
    given, far = run(host, "aa", "--restart", "always", "--ip", "10.77.0.50"), run(hosts[0], "bb")
    host.plugin.kill()
    assert pings(hosts[0], "bb", given)
    host.start_plugin()
    assert pings(host, "aa", far)
    host.reboot()
    kit.wait_for("the container", lambda: pings(hosts[0], "bb", given), 20)
    rules = host.exec("nft", "list", "ruleset").stdout
    assert given in rules


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-o", "mode=trunk"), "-o mode=trunk: no such mode; there are: macvlan, bridge"),
        ((*BRIDGE, "-o", "macvlan_mode=vepa"), "-o macvlan_mode=vepa needs mode=macvlan"),
        ((*BRIDGE, "-o", "parent=eth0"), "parent eth0 has addresses of this host"),
    ],
)
def test_what_cannot_be_is_refused(lab: Lab, hosts: list[Host], options: tuple[str, ...], says: str) -> None:
    assert says in refused(hosts[0], *CREATE, "--subnet", SUBNET, "--gateway", GATEWAY, *options, "web")
    kit.no_leaks(lab)


def test_a_parent_serves_one_mode(hosts: list[Host]) -> None:
    network(hosts[0], "web", "-o", "mode=macvlan")
    said = refused(hosts[0], *CREATE, "--subnet", "10.78.0.0/24", *BRIDGE, "more")
    assert "in mode macvlan: a link serves one mode" in said
