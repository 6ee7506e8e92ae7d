"""Pools: where subnets come from, what of them is given out, who shares them."""

from __future__ import annotations

import ipaddress
import time

import pytest

from tests.e2e import kit
from tests.e2e.kit import (
    CREATE,
    SUBNET,
    address,
    address_records,
    at_once,
    becomes_free,
    inspect,
    named,
    network,
    pings,
    refused,
    run,
    run_args,
)
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = pytest.mark.slow

SUPERNET, SUPERNET6 = ipaddress.ip_network("10.128.0.0/12"), ipaddress.ip_network("fd00:128::/48")


def subnets(host: Host, name: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    """The subnets of a network, as the engine has them."""
    return [ipaddress.ip_network(entry["Subnet"]) for entry in inspect(host, "network", name)["IPAM"]["Config"]]


def test_a_subnet_is_carved_from_the_supernet(hosts: list[Host]) -> None:
    hosts[2].exec("ip", "route", "add", "10.136.0.0/13", "via", hosts[0].address)
    try:
        found = []
        for name in ("one", "two"):
            at_once(lambda host, name=name: host.docker(*CREATE, name), hosts)
            found += [subnets(host, name)[0] for host in hosts]
        assert len(set(found)) == 6
        assert all(net.subnet_of(SUPERNET) and net.prefixlen == 24 for net in found)
        assert not any(net.subnet_of(ipaddress.ip_network("10.136.0.0/13")) for net in (found[2], found[5]))
    finally:
        hosts[2].exec("ip", "route", "delete", "10.136.0.0/13")
    run(hosts[0], "aa", on="one")
    # the others join the pool by its name
    network(hosts[1:], "joined", subnet=str(found[0]), gateway="")
    assert pings(hosts[0], "aa", run(hosts[1], "bb", on="joined"))


def test_an_ipv6_subnet_is_carved_too(hosts: list[Host]) -> None:
    hosts[0].docker(*CREATE, "--ipv6", "--subnet", SUBNET, "web", check=False)
    found = subnets(hosts[0], "web")
    assert len(found) == 2
    assert any(net.version == 6 and net.subnet_of(SUPERNET6) and net.prefixlen == 64 for net in found)


def test_the_gateway_is_not_given_out(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, subnet="10.77.0.0/29", gateway="10.77.0.3")
    given = [run(host, name) for host in hosts[:2] for name in ("aa", "bb")]
    given.append(run(hosts[2], "aa"))
    assert sorted(given) == [f"10.77.0.{number}" for number in (1, 2, 4, 5, 6)]
    said = refused(hosts[2], *run_args("late", "--ip", "10.77.0.3"))
    assert "address 10.77.0.3 of pool 10.77.0.0/29 of tenant default is taken: it is the pool's gateway" in said
    hosts[2].docker("rm", "-f", "late")
    said = refused(hosts[0], *run_args("late"))
    expected = "pool 10.77.0.0/29 of tenant default is full: 5 of 5 addresses in use (host1 2, host2 2, host3 1)"
    assert expected in said
    hosts[0].docker("rm", "-f", "late", "aa")
    becomes_free(hosts[1], "cc", within=5)  # whatever rests is taken when nothing else is left
    assert address(hosts[1], "cc") == given[0]


def test_a_gateway_is_chosen_and_shared(lab: Lab, hosts: list[Host]) -> None:
    network(hosts, gateway="")
    run(hosts[1], "aa")
    assert "default via 10.77.0.1 " in hosts[1].docker("exec", "aa", "ip", "route").stdout
    time.sleep(4)  # engines before 28 do not list this gateway: a repair must not take it for left over
    assert address_records(lab)["10.77.0.1"]["kind"] == "gateway"
    assert "it is the pool's gateway" in refused(hosts[0], *run_args("late", "--ip", "10.77.0.1"))
    hosts[0].docker("rm", "-f", "late")
    hosts[0].docker("network", "rm", "web")
    assert address_records(lab)["10.77.0.1"]["kind"] == "gateway"
    hosts[1].docker("rm", "-f", "aa")
    at_once(lambda host: host.docker("network", "rm", "web"), hosts[1:])
    assert kit.leaks(lab) == []


def test_ip_range(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0], "web", "--ip-range", "10.77.0.128/30")
    network(hosts[1])
    given = [run(hosts[0], name) for name in ("aa", "bb", "cc", "dd")]
    assert sorted(given) == [f"10.77.0.{number}" for number in (128, 129, 130, 131)]
    said = refused(hosts[0], *run_args("late"))
    assert "range 10.77.0.128/30 of pool 10.77.0.0/24 of tenant default is full: 4 of 4 addresses in use" in said
    assert "(host1 4)" in said
    hosts[0].docker("rm", "-f", "late")
    run(hosts[0], "outside", "--ip", "10.77.0.200")
    named(lab, given[0], "aa")
    assert "in use by container aa on host1" in refused(hosts[1], *run_args("late", "--ip", given[0]))


def test_auxiliary_addresses(lab: Lab, hosts: list[Host]) -> None:
    aux = ("--aux-address", "router=10.77.0.2", "--aux-address", "printer=10.77.0.3")
    for host in hosts[:2]:  # at once, each could have one of the two that the other waits for (docs/failures.md)
        network(host, "web", *aux, subnet="10.77.0.0/29")
    given = [run(hosts[0], "aa"), run(hosts[0], "bb"), run(hosts[1], "aa")]
    assert sorted(given) == ["10.77.0.4", "10.77.0.5", "10.77.0.6"]
    assert "is full: 3 of 3 addresses in use (host1 2, host2 1)" in refused(hosts[1], *run_args("late"))
    hosts[1].docker("rm", "-f", "late")
    hosts[0].docker("rm", "-f", "bb")
    for host in hosts[:2]:
        said = refused(host, *run_args("late", "--ip", "10.77.0.2"))
        assert "address 10.77.0.2 of pool 10.77.0.0/29 of tenant default: it is an auxiliary address" in said
        host.docker("rm", "-f", "late", "aa")
    shared = [one.fields["shared"] for key, one in kit.records(lab).items() if "/use/" in key]
    assert shared == [{"10.77.0.1": 1, "10.77.0.2": 1, "10.77.0.3": 1}] * 2
    hosts[0].docker("network", "rm", "web")
    assert {address_records(lab, "10.77.0.0/29")[f"10.77.0.{number}"]["kind"] for number in (2, 3)} == {"auxiliary"}
    hosts[1].docker("network", "rm", "web")
    assert address_records(lab, "10.77.0.0/29") == {}


def test_an_address_in_use_is_no_auxiliary_one(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0])
    run(hosts[0], "aa", "--ip", "10.77.0.9")
    named(lab, "10.77.0.9", "aa")
    said = refused(hosts[1], *CREATE, "--subnet", SUBNET, "--aux-address", "router=10.77.0.9", "web")
    assert "10.77.0.9" in said
    assert "in use by container aa on host1" in said
    assert {text: one["kind"] for text, one in address_records(lab).items()} == {
        "10.77.0.1": "gateway",
        "10.77.0.9": "endpoint",
    }
    assert not [key for key in kit.records(lab) if "host2" in key and "/hosts/" not in key]


@pytest.mark.parametrize("other", ["10.77.0.128/25", "10.77.0.0/16", "10.0.0.0/8"])
def test_an_overlapping_subnet_is_refused(hosts: list[Host], other: str) -> None:
    network(hosts[0])
    said = refused(hosts[1], *CREATE, "--subnet", other, "other")
    assert f"subnet {other} overlaps pool 10.77.0.0/24 of tenant default" in said


def test_one_subnet_in_two_tenants(lab: Lab, hosts: list[Host]) -> None:
    kit.tenants(hosts[0], "red", "blue")
    macs = {}
    for tenant, host in (("red", hosts[0]), ("blue", hosts[1])):
        network(host, "web", "--ipam-opt", f"tenant={tenant}", "-o", f"tenant={tenant}")
        run(host, "aa", "--ip", "10.77.0.50")
        macs[tenant] = kit.attached(host, "aa")["MacAddress"]
    assert macs["red"] != macs["blue"]
    for tenant in macs:
        assert set(address_records(lab, tenant=tenant)) == {"10.77.0.1", "10.77.0.50"}
    named(lab, "10.77.0.50", "aa", tenant="red")
    network(hosts[2], "web", "--ipam-opt", "tenant=red", "-o", "tenant=red")
    said = refused(hosts[2], *run_args("late", "--ip", "10.77.0.50"))
    assert "of tenant red is taken: in use by container aa on host1" in said
    # the same on one host: on tags of their own, or else parents
    apart = () if CREATE.mode == "vxlan" else ("-o", "mode=macvlan", "-o", "parent=eth2")
    hosts[1].exec("ip", "link", "set", "eth2", "up")
    network(hosts[1], "other", "--ipam-opt", "tenant=red", "-o", "tenant=red", *apart)
    run(hosts[1], "bb", "--ip", "10.77.0.51", on="other")
    run(hosts[1], "cc", "--ip", "10.77.0.51")
    hosts[1].exec("ip", "link", "set", "eth2", "down")


def test_exclusions(hosts: list[Host]) -> None:
    exclude = "exclude=10.77.0.2-10.77.0.4,10.77.0.8/29"
    network(hosts[:2], "web", "--ipam-opt", exclude, subnet="10.77.0.0/28")
    given = [run(hosts[number % 2], f"c{number}") for number in range(3)]
    assert sorted(given) == [f"10.77.0.{number}" for number in (5, 6, 7)]
    said = refused(hosts[0], *run_args("late"))
    assert "pool 10.77.0.0/28 of tenant default is full: 3 of 3 addresses in use (host1 2, host2 1)" in said
    hosts[0].docker("rm", "-f", "late")
    run(hosts[0], "asked", "--ip", "10.77.0.2")
    said = refused(hosts[2], *CREATE, "--subnet", "10.78.0.0/24", "--ipam-opt", "exclude=10.77.0.4", "other")
    assert "exclude: '10.77.0.4' is not inside 10.78.0.0/24" in said


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("10.77.0.0", "network or broadcast"), ("10.77.0.255", "network or broadcast"), ("10.79.0.5", "")],
)
def test_addresses_that_no_host_can_have(hosts: list[Host], wanted: str, words: str) -> None:
    network(hosts[0])
    assert words in refused(hosts[0], *run_args("late", "--ip", wanted))


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.4, 0.6, 0.9])
def test_a_network_removed_right_after_its_container_leaves_nothing(lab: Lab, hosts: list[Host], delay: float) -> None:
    """The held address of the container is given back though the host does not use the pool any more."""
    host = hosts[0]
    network(host)
    run(host, "aa", "--ip", "10.77.0.50")
    time.sleep(delay)
    host.docker("rm", "-f", "aa")
    host.docker("network", "rm", "web")
    kit.no_leaks(lab)
