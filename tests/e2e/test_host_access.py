"""`-o host_access=true`: the host reaches its containers, and they reach it."""

from __future__ import annotations

import json

import pytest

from tests.e2e import kit
from tests.e2e.boxes import HOSTILE, arrives, box
from tests.e2e.frames import IPV4, ethernet, udp
from tests.e2e.kit import (
    CREATE,
    DUAL,
    address_records,
    attached,
    host_pings,
    links,
    network,
    pings,
    refused,
    run,
    run_args,
)
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host

pytestmark = pytest.mark.slow

ACCESS = ("-o", "host_access=true")


def shims(host: Host) -> list[str]:
    """The names of the host's own links on networks."""
    return [name for name in links(host) if name.startswith("qh-")]


def routes(host: Host, family: str = "-4") -> set[str]:
    """The destinations that the host routes over its shims."""
    listed = json.loads(host.exec("ip", "-j", family, "route").stdout)
    return {route["dst"] for route in listed if route.get("dev", "").startswith("qh-")}


def own_address(lab: Lab, host: Host) -> str:
    """The host's own address on the network, by the records."""
    own = [text for text, one in address_records(lab).items() if (one["kind"], one["host"]) == ("host", host.name)]
    assert len(own) == 1
    return own[0]


def test_a_host_and_its_containers_reach_each_other(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, "web", *ACCESS)
    given = [run(host, "aa") for host in hosts]
    own = [own_address(lab, host) for host in hosts]
    assert len({*given, *own}) == 6
    for number, host in enumerate(hosts):
        assert shims(host)
        assert routes(host) == {given[number]}
        assert host_pings(host, given[number])
        assert pings(host, "aa", own[number])
        assert pings(host, "aa", given[number - 1])
    assert f"address {own[1]} of pool 10.77.0.0/24 of tenant default is taken: it is host2's own" in refused(
        hosts[0], *run_args("late", "--ip", own[1])
    )


def test_routes_keep_step_with_the_containers(hosts: list[Host]) -> None:
    host = hosts[0]
    network(host, "web", *ACCESS)
    assert routes(host) == set()
    first, second = run(host, "aa"), run(host, "bb", "--ip", "10.77.0.50")
    assert routes(host) == {first, second}
    host.docker("stop", "bb")
    assert routes(host) == {first}
    assert not host_pings(host, second, tries=1)
    host.docker("start", "bb")
    host.docker("rm", "-f", "aa")
    assert routes(host) == {second}
    assert host_pings(host, second)
    host.docker("network", "disconnect", "web", "bb")
    assert routes(host) == set()
    host.docker("rm", "-f", "bb")
    host.docker("network", "rm", "web")
    assert shims(host) == []


def test_the_shim_outlives_the_plugin_and_comes_back_after_a_boot(lab: Lab, hosts: list[Host]) -> None:
    host = hosts[2]
    network(host, "web", *ACCESS)
    given, own = run(host, "aa", "--ip", "10.77.0.50", "--restart", "always"), own_address(lab, host)
    host.plugin.kill()
    assert host_pings(host, given)
    host.start_plugin()
    assert host_pings(host, given)
    assert pings(host, "aa", own)
    (shim,) = shims(host)
    host.exec("ip", "link", "delete", shim)
    wait_for("shim is put back", lambda: routes(host) == {given}, 30)
    assert host_pings(host, given)
    host.reboot()
    wait_for("shim and route after the boot", lambda: bool(shims(host)) and routes(host) == {given}, 15)
    assert own_address(lab, host) == own
    assert host_pings(host, given)
    assert pings(host, "aa", own)


def test_ipv6(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0], "web", *ACCESS, *DUAL)
    run(hosts[0], "aa")
    given = attached(hosts[0], "aa")
    assert host_pings(hosts[0], given["IPAddress"])
    assert host_pings(hosts[0], given["GlobalIPv6Address"], tries=5)
    assert given["GlobalIPv6Address"] in routes(hosts[0], "-6")
    hosts[0].docker("stop", "aa")
    assert given["GlobalIPv6Address"] not in routes(hosts[0], "-6")


def test_without_it_the_host_has_no_link(hosts: list[Host]) -> None:
    network(hosts[0])
    given = run(hosts[0], "aa")
    assert shims(hosts[0]) == []
    assert not host_pings(hosts[0], given, tries=1)


def test_a_network_that_could_not_be_made_leaves_no_shim(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0], "web", *ACCESS)
    words = ("--subnet", "10.78.0.0/30", "--gateway", "10.78.0.1", "--aux-address", "r=10.78.0.2", *ACCESS)
    said = refused(hosts[0], *CREATE, *words, "full")
    assert "10.78.0.0/30 of tenant default has no address left for host_access" in said
    assert len(shims(hosts[0])) == 1
    assert address_records(lab, "10.78.0.0/30") == {}


@pytest.mark.mode("vxlan")
def test_the_host_leads_nobody_on_to_another_tenant(hosts: list[Host]) -> None:
    host = hosts[0]
    kit.tenants(host, vx1="--vni=501", vx2="--vni=502")
    network(host, "one", *kit.of("vx1", "vxlan"), *ACCESS)
    evil = box(host, "evil", *HOSTILE, on="one")
    door = links(host)[shims(host)[0]]["address"]
    network(host, "two", *kit.of("vx2", "vxlan"), *ACCESS, subnet="10.78.0.0/24", gateway="10.78.0.1")
    victim, friend = box(host, "good", on="two"), box(host, "friend", *HOSTILE, on="two")

    def through_the_host(mark: bytes) -> bytes:
        return ethernet(door, evil.mac, IPV4, udp(evil.address, victim.address, (9, 9), mark))

    assert not arrives(evil, victim, through_the_host, after=friend)
    host.exec("nft", "flush", "chain", "inet", "qnet", "forward")
    assert arrives(evil, victim, through_the_host, after=friend)
