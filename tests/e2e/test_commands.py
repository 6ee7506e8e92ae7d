"""The commands of a user of plain Docker hosts, on real engines."""

from __future__ import annotations

import itertools
import shlex

import pytest

from tests.e2e import kit
from tests.e2e.kit import (
    CREATE,
    DUAL,
    GATEWAY,
    GATEWAY6,
    SUBNET,
    SUBNET6,
    address,
    address_records,
    at_once,
    attached,
    becomes_free,
    inspect,
    links,
    named,
    network,
    pings,
    refused,
    run,
    run_args,
)
from tests.lab.cluster import Lab
from tests.lab.host import Host
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow


def test_the_three_commands_of_the_outcome(lab: Lab, hosts: list[Host]) -> None:
    create = "network create -d qnet --ipam-driver qnet --subnet 10.77.0.0/24 --gateway 10.77.0.1"
    create += f" {' '.join(CREATE.options)} -o parent={CREATE.parent} web"
    at_once(lambda host: host.docker(*shlex.split(create)), hosts)
    at_once(lambda host: host.docker(*shlex.split("run -d --network web --name aa busybox sleep 1d")), hosts)
    given = [address(host, "aa") for host in hosts]
    assert len(set(given)) == 3
    assert not {GATEWAY, "10.77.0.0", "10.77.0.255"} & set(given)
    for here, there in ((0, 1), (1, 2), (2, 0)):
        assert pings(hosts[here], "aa", given[there])

    fixed = next(one for one in ("10.77.0.50", "10.77.0.51", "10.77.0.52", "10.77.0.53") if one not in given)
    hosts[1].docker(*f"run -d --network web --ip {fixed} --name fixed busybox sleep 1d".split())
    assert address(hosts[1], "fixed") == fixed
    assert pings(hosts[0], "aa", fixed)
    named(lab, fixed, "fixed")
    for host in hosts[::2]:
        said = refused(host, *f"run -d --network web --ip {fixed} --name late busybox sleep 1d".split())
        assert f"address {fixed} of pool {SUBNET} of tenant default is taken" in said
        assert "container fixed on host2" in said
    assert address_records(lab)[fixed]["host"] == "host2"


@pytest.mark.parametrize(
    "words",
    [
        ("--subnet", SUBNET, "--gateway", GATEWAY, "-o", "parent=PARENT", "-o", "mtu=1400"),
        ("--subnet", SUBNET, "--internal", "-o", "tenant=blue"),
        ("--subnet", SUBNET, "--gateway", GATEWAY, *DUAL),
        ("--subnet", SUBNET, "--aux-address", "router=10.77.0.9", "-o", "host_access=true"),
        pytest.param(("--subnet", SUBNET, "-o", "macvlan_mode=private"), marks=pytest.mark.mode("macvlan")),
    ],
    ids=["options", "internal", "dual", "auxiliary", "macvlan_mode"],
)
def test_without_the_ipam_driver_docker_says_what_to_type(lab: Lab, hosts: list[Host], words: tuple[str, ...]) -> None:
    host = hosts[0]
    words = (*CREATE.options, *(word.replace("PARENT", CREATE.parent) for word in words))
    said = refused(host, "network", "create", "-d", "qnet", *words, "web")
    command = said.partition("type: ")[2]
    assert command.startswith("docker network create -d qnet --ipam-driver qnet"), said
    typed = shlex.split(command)
    assert typed[-1] == "NAME"
    for word, value in itertools.pairwise(words):
        if word.startswith("-") and not value.startswith("-"):
            assert [word, value] in [typed[at : at + 2] for at in range(len(typed))], f"{word} {value} is lost: {said}"
    kit.tenants(host, "blue")
    host.docker(*typed[1:-1], "web")
    run(host, "aa")


def test_ipv6_and_ip6(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[:2], "web", *DUAL)
    run(hosts[0], "aa")
    run(hosts[1], "bb", "--ip", "10.77.0.60", "--ip6", "fd00:77::60")
    first, second = attached(hosts[0], "aa"), attached(hosts[1], "bb")
    assert first["GlobalIPv6Address"].startswith("fd00:77:")
    assert first["GlobalIPv6Address"] != GATEWAY6
    assert (second["IPAddress"], second["GlobalIPv6Address"]) == ("10.77.0.60", "fd00:77::60")
    assert pings(hosts[0], "aa", "fd00:77::60", tries=5)
    assert pings(hosts[0], "aa", "10.77.0.60")
    named(lab, "fd00:77::60", "bb", SUBNET6)
    said = refused(hosts[0], *run_args("late", "--ip6", "fd00:77::60"))
    assert f"address fd00:77::60 of pool {SUBNET6} of tenant default is taken: in use by container bb on host2" in said
    assert "default via fd00:77::1" in hosts[1].docker("exec", "bb", "ip", "-6", "route").stdout


def test_connect_and_disconnect(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[:2])
    network(hosts[0], "other", subnet="10.78.0.0/24", gateway="10.78.0.1")
    run(hosts[0], "aa")
    peer = run(hosts[1], "bb")
    hosts[0].docker("network", "connect", "--ip", "10.78.0.20", "other", "aa")
    assert address(hosts[0], "aa", "other") == "10.78.0.20"
    inside = hosts[0].docker("exec", "aa", "ip", "-o", "-4", "addr").stdout
    assert "10.78.0.20/24" in inside
    assert address(hosts[0], "aa") in inside
    hosts[0].docker("network", "disconnect", "web", "aa")
    assert not pings(hosts[0], "aa", peer, tries=1)
    assert {one["kind"] for one in address_records(lab).values() if one["host"] == "host1"} <= {"gateway"}
    hosts[0].docker("network", "connect", "web", "aa")
    assert pings(hosts[0], "aa", peer)
    said = refused(hosts[0], "network", "connect", "--ip", "10.78.0.20", "other", "aa")
    assert "aa" in said
    hosts[0].docker("network", "disconnect", "other", "aa")
    becomes_free(hosts[0], "cc", "--ip", "10.78.0.20", on="other")


def test_a_container_starts_on_several_networks(hosts: list[Host]) -> None:
    network(hosts[:2])
    network(hosts[:2], "other", subnet="10.78.0.0/24", gateway="10.78.0.1")
    run(hosts[1], "bb")
    run(hosts[1], "cc", on="other")
    hosts[0].docker("create", "--name", "aa", "--network", "web", "busybox", "sleep", "1d")
    hosts[0].docker("network", "connect", "other", "aa")
    hosts[0].docker("start", "aa")
    assert pings(hosts[0], "aa", address(hosts[1], "bb"))
    assert pings(hosts[0], "aa", address(hosts[1], "cc", "other"))


def test_an_alias_resolves(hosts: list[Host]) -> None:
    network(hosts[0])
    target = run(hosts[0], "aa", "--network-alias", "database")
    run(hosts[0], "bb")
    assert target in hosts[0].docker("exec", "bb", "nslookup", "database").stdout
    assert pings(hosts[0], "bb", "database")
    assert pings(hosts[0], "bb", "aa")


def test_internal_has_no_way_out(hosts: list[Host]) -> None:
    network(hosts[:2], "web", "--internal")
    run(hosts[0], "aa")
    peer = run(hosts[1], "bb")
    routes = hosts[0].docker("exec", "aa", "ip", "route").stdout
    assert "default" not in routes
    assert pings(hosts[0], "aa", peer)
    assert "docker_gwbridge" not in hosts[0].docker("network", "ls").stdout
    assert "docker_gwbridge" not in links(hosts[0])


def test_the_way_out_is_the_gateway(hosts: list[Host]) -> None:
    network(hosts[0])
    run(hosts[0], "aa")
    assert f"default via {GATEWAY} " in hosts[0].docker("exec", "aa", "ip", "route").stdout
    assert "docker_gwbridge" not in hosts[0].docker("network", "ls").stdout


def test_the_mac_address_moves_with_the_address(hosts: list[Host]) -> None:
    network(hosts)
    seen = set()
    for host in hosts:
        becomes_free(host, "aa", "--ip", "10.77.0.70")
        mac = attached(host, "aa")["MacAddress"]
        assert mac in host.docker("exec", "aa", "ip", "link").stdout
        seen.add(mac)
        host.docker("rm", "-f", "aa")
    assert len(seen) == 1
    assert int(seen.pop()[:2], 16) & 0b11 == 0b10  # locally administered, of one machine


def test_a_mac_address_is_one_containers(hosts: list[Host]) -> None:
    network(hosts[:2])
    mac = "02:42:ac:11:00:99"
    assert _start_with_mac(hosts[0], "aa", mac) == ""
    assert attached(hosts[0], "aa")["MacAddress"] == mac
    assert mac in hosts[0].docker("exec", "aa", "ip", "link").stdout
    said = _start_with_mac(hosts[1], "late", mac)
    assert f"MAC address {mac} belongs to {address(hosts[0], 'aa')} on host1" in said
    hosts[0].docker("rm", "-f", "aa")
    assert _start_with_mac(hosts[1], "bb", mac) == ""


def _start_with_mac(host: Host, name: str, mac: str) -> str:
    """`docker run --mac-address` as docker 20.10 sends it (API 1.41); returns the refusal. The newer command
    refuses to send it to that engine."""
    wanted = {"Image": "busybox", "Cmd": ["sleep", "1d"], "MacAddress": mac, "HostConfig": {"NetworkMode": "web"}}
    status, made = call(host.docker_socket, "POST", f"/v1.41/containers/create?name={name}", wanted)
    assert status == 201, made
    status, answer = call(host.docker_socket, "POST", f"/v1.41/containers/{name}/start", timeout=30)
    return "" if status == 204 else str(answer["message"])


def test_removing_a_network_with_containers_is_refused(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0])
    run(hosts[0], "aa")
    assert "active endpoints" in refused(hosts[0], "network", "rm", "web")
    assert len(address_records(lab)) == 2
    assert pings(hosts[0], "aa", "127.0.0.1")
    assert inspect(hosts[0], "network", "web")["Name"] == "web"
    assert refused(hosts[0], *CREATE, "--subnet", SUBNET, "web")
