"""Hostile names and options, typed at docker: each is refused with what is wrong with it, and nothing is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e import kit
from tests.e2e.kit import CREATE, GATEWAY, SUBNET, links, network, pings, qnet, refused, run
from tests.lab.cluster import Lab
from tests.lab.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.mode("macvlan")]

LONG = "x" * 300
HOSTILE = (
    *("../x", "..", "../../proc", "/proc/self", "a/b", "eth1/", LONG, "näme", "\u202eeth1", "eth1\n", "a\nb", " eth1"),
    *("eth1;reboot", "$(reboot)", "`reboot`", "'; reboot; '", "-h", "--", "*", "eth1 eth0", "eth1,eth0", "%s%n"),
    *('eth1" priority 0; } ; flush ruleset; #', "} ; delete table netdev qnet", "eth1@if2", "ETH1", "\\eth1"),
)
SHORT = 600  # characters: an error must not repeat what it was given without bounds


def create_refused(host: Host, *options: str) -> str:
    """What docker says to a network that must be refused."""
    said = refused(host, *CREATE, "--subnet", SUBNET, "--gateway", GATEWAY, *options, "web")
    assert len(said) < SHORT
    assert "internal error" not in said
    return said


def rules(host: Host) -> str:
    """All that the host's packet filter does."""
    return host.exec("nft", "list", "ruleset").stdout


def test_parents(lab: Lab, hosts: list[Host]) -> None:
    was = rules(hosts[0])
    for text in HOSTILE:
        for mode in ("macvlan", "bridge"):
            said = create_refused(hosts[0], "-o", f"parent={text}", "-o", f"mode={mode}")
            assert "does not exist on this host; links: eth0, eth1" in said, text
    assert "-o parent= is empty: name a link, or leave it out" in create_refused(hosts[0], "-o", "parent=")
    assert rules(hosts[0]) == was
    kit.no_leaks(lab)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("mode", "no such mode; there are: macvlan, bridge"),
        ("macvlan_mode", "no such mode; there are: bridge, private, vepa, passthru"),
        ("mtu", "a number from 68"),
        ("host_access", "true or false"),
        ("spoof_check", "needs mode=bridge"),
        ("tenant", "lower-case letters, digits and -"),
    ],
)
def test_values_of_other_options(lab: Lab, hosts: list[Host], option: str, says: str) -> None:
    for text in ("", *HOSTILE):
        said = create_refused(hosts[0], "-o", f"{option}={text}")
        assert says in said, text
    kit.no_leaks(lab)


def test_names_of_options(lab: Lab, hosts: list[Host]) -> None:
    for text in (text for text in HOSTILE if "=" not in text):
        assert "no such option; there are: parent, mode" in create_refused(hosts[0], "-o", f"{text}=eth1"), text
        said = create_refused(hosts[0], "--ipam-opt", f"{text}=x")
        assert "no such option; there are: tenant, exclude" in said, text
    kit.no_leaks(lab)


def test_options_of_the_pool(lab: Lab, hosts: list[Host]) -> None:
    for text in ("", *HOSTILE):
        said = create_refused(hosts[0], "-o", f"tenant={text}", "--ipam-opt", f"tenant={text}")
        assert "is no tenant: lower-case letters, digits and -" in said, text
    for text in HOSTILE:
        assert "exclude:" in create_refused(hosts[0], "--ipam-opt", f"exclude={text}"), text
    kit.no_leaks(lab)


def test_tenants_of_the_command(lab: Lab, hosts: list[Host]) -> None:
    before = kit.records(lab)
    for text in ("", *HOSTILE):
        done = qnet(hosts[0], "tenant", "create", "--untagged", "--", text, check=False)
        assert done.returncode == 1, text
        assert "is no tenant: lower-case letters, digits and -" in done.stderr
        assert len(done.stderr) < SHORT
    assert {key for key in kit.records(lab) if "/tenants/" in key} == {key for key in before if "/tenants/" in key}


def test_what_belongs_to_another_tenant(lab: Lab, hosts: list[Host]) -> None:
    kit.tenants(hosts[0], "one", "two")
    one, two = (("-o", f"tenant={name}", "--ipam-opt", f"tenant={name}") for name in ("one", "two"))
    network(hosts[0], "ones", *one)
    run(hosts[0], "aa", "--ip", "10.77.0.50", on="ones")
    for asks, pool in (("two", "one"), ("one", "two"), ("default", "one")):
        said = create_refused(hosts[1], "-o", f"tenant={asks}", "--ipam-opt", f"tenant={pool}")
        assert f"was not requested for tenant {asks} on this host: give the same tenant to both drivers" in said
    network(hosts[1], "twos", *two)  # its own pool of the same subnet: the other's address is not taken there
    run(hosts[1], "bb", "--ip", "10.77.0.50", on="twos")
    owners = {
        name: {text: record["host"] for text, record in kit.address_records(lab, tenant=name).items()}
        for name in ("one", "two")
    }
    assert (owners["one"]["10.77.0.50"], owners["two"]["10.77.0.50"]) == ("host1", "host2")
    for words in (("tenant", "rm", "one", "--yes"), ("tenant", "rename", "one", "two")):
        assert qnet(hosts[2], *words, check=False).returncode == 1


def test_options_of_a_container(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0])
    for text in HOSTILE[:6]:
        name = f"name=web,driver-opt={text}=x"
        said = refused(hosts[0], "run", "--rm", "--network", name, "busybox:latest", "true")
        assert "no such option; there are: qnet.egress, qnet.ingress" in said
    hosts[0].docker("network", "rm", "web")
    kit.no_leaks(lab)


@contextmanager
def links_called(host: Host, *names: str) -> Iterator[None]:
    """Pairs of links of these names: the kernel allows all but / : and white space."""
    try:
        for number, name in enumerate(names):
            host.exec("ip", "link", "add", "name", name, "type", "veth", "peer", "name", f"peer{number}")
            host.exec("ip", "link", "set", name, "up")
            host.exec("ip", "link", "set", f"peer{number}", "up")
        yield
    finally:
        kit.remove_all(host)
        for name in names:
            host.exec("ip", "link", "delete", name, check=False)


def test_links_with_hostile_names_are_parents_like_others(lab: Lab, hosts: list[Host]) -> None:
    host, names = hosts[0], ('a"b', "a;b", "{x}", "#x", "näme", "a,b", "$(x)")
    with links_called(host, *names):
        was = rules(host)
        for name in names:
            network(host, "web", "-o", f"parent={name}", "-o", "mode=bridge")
            run(host, "aa")
            assert pings(host, "aa", run(host, "bb")), name
            assert links(host)[name]["master"].startswith("qb-")
            assert rules(host).count("policy drop") == was.count("policy drop") + 3, name
            kit.remove_all(host)
        assert rules(host).replace("table netdev qnet {\n}\n", "") == was.replace("table netdev qnet {\n}\n", "")


def test_a_kernel_without_ipvlan_says_so_and_keeps_nothing(lab: Lab, hosts: list[Host]) -> None:
    """This kind of machine's kernel has none; one that has it is what tests/vm is for."""
    if "the kernel makes ipvlan links" in qnet(hosts[0], "doctor", check=False).stdout:
        network(hosts[0], "web", "-o", "mode=ipvlan")
        return
    said = create_refused(hosts[0], "-o", "mode=ipvlan")
    assert "on eth1: ENOTSUP: this kernel has no ipvlan: load it (modprobe ipvlan)" in said
    kit.no_leaks(lab)


def test_names_of_networks(lab: Lab, hosts: list[Host]) -> None:
    """They are the engine's matter: one that it takes has a network that is listed, and goes."""
    host = hosts[0]

    def listed() -> list[str]:
        return [one["name"] for one in json.loads(qnet(host, "network", "ls", "--json").stdout)]

    for name in ("../x", "a/b", "näme", LONG, "a\nb", "\x1b[31mred", "$(reboot)", ".."):
        if host.docker(*CREATE, "--subnet", SUBNET, "--gateway", GATEWAY, "--", name, check=False).returncode == 0:
            kit.wait_for(f"the name {name[:20]!r}", lambda name=name: listed() == [name], 30)
            assert "\x1b" not in qnet(host, "network", "ls").stdout
            kit.remove_all(host)
    kit.no_leaks(lab)
