"""Addresses and their segment: started containers are announced, devices that qnet does not manage are asked before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest

from qnet.addresses.model import mac_of
from tests.e2e import frames, kit
from tests.e2e.kit import network, qnet, refused, run, run_args
from tests.lab.cluster import Lab
from tests.lab.commands import run as run_command
from tests.lab.commands import wait_for
from tests.lab.host import Host

pytestmark = [pytest.mark.mode("macvlan"), pytest.mark.engines]

MODES = ("macvlan", "bridge")
FIXED, FIXED6 = "10.77.0.9", "fd00:77::9"
PROBE = ("-o", "arp_probe=true")
LEARNED_WITHIN = 5.0  # seconds from the start of a container; without announcements, nobody learns before it speaks
DEVICE_MAC = "02:00:00:00:00:99"


@pytest.fixture
def device(hosts: list[Host]) -> Iterator[Callable[..., None]]:
    """Gives addresses to a device beside the third host, which no engine and no qnet knows."""
    kind = ("type", "macvlan", "mode", "bridge")
    hosts[2].exec("ip", "link", "add", "dev0", "link", "eth1", "address", DEVICE_MAC, *kind)
    hosts[2].exec("ip", "link", "set", "dev0", "up")
    alone = "net.ipv4.conf.eth1.arp_ignore"  # else eth1 answers for dev0 as well
    hosts[2].exec("sysctl", "-q", "-w", f"{alone}=1")

    def has(*addresses: str) -> None:
        for text in addresses:
            length, more = ("64", ["nodad"]) if ":" in text else ("24", [])
            hosts[2].exec("ip", "addr", "add", f"{text}/{length}", "dev", "dev0", *more)

    yield has
    hosts[2].exec("sysctl", "-q", "-w", f"{alone}=0")
    hosts[2].exec("ip", "link", "delete", "dev0", check=False)


def quarantined(host: Host) -> dict[str, str]:
    """The quarantined addresses and their notes, as an operator sees them."""
    listed = json.loads(qnet(host, "address", "ls", "--kind", "quarantine", "--json").stdout)
    return {one["address"]: one["note"] for one in listed}


def release(host: Host, *addresses: str) -> None:
    for text in addresses:
        qnet(host, "address", "release", text, "--yes")


def announcements(mac: str) -> list[bytes]:
    """The frames, made by other code than the plugin's."""
    arp = frames.arp(1, mac, FIXED, "00:00:00:00:00:00", FIXED)
    body = bytes.fromhex("20000000") + IPv6Address(FIXED6).packed + b"\x02\x01" + frames.mac(mac)
    six = frames.icmp6(FIXED6, frames.ALL_NODES, frames.NEIGHBOR_ADVERTISEMENT, body)
    return [
        frames.ethernet(frames.BROADCAST, mac, frames.ARP, arp),
        frames.ethernet(frames.ALL_NODES_MAC, mac, frames.IPV6, six),
    ]


@pytest.mark.parametrize("mode", MODES)
def test_a_started_container_is_announced_again(hosts: list[Host], mode: str) -> None:
    network(hosts[0], "web", *kit.DUAL, "-o", f"mode={mode}")
    wanted = [frame.hex() for frame in announcements(mac_of("default", ip_address(FIXED)))]
    command = [sys.executable, str(Path(frames.__file__)), "count", "eth1", "2", *wanted]
    with hosts[1].popen(*command, stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        run(hosts[0], "aa", "--ip", FIXED, "--ip6", FIXED6)
        counted = [int(word) for word in listener.stdout.readline().split()]
    assert min(counted) >= 2, counted


@pytest.mark.parametrize("mode", MODES)
def test_the_switch_learns_a_moved_address_at_once(lab: Lab, hosts: list[Host], mode: str) -> None:
    """The container itself sends nothing: IPv6 is off on a network without it, and it only sleeps."""
    network(hosts[:2], "web", "-o", f"mode={mode}")
    mac = mac_of("default", ip_address(FIXED))

    def port() -> str:
        listed = run_command(["bridge", "-n", lab.fabric.netns, "-j", "fdb", "show", "br", "trunk"]).stdout
        return next((one["ifname"] for one in json.loads(listed) if one["mac"] == mac), "")

    run(hosts[0], "aa", "--ip", FIXED)
    wait_for("the switch has it at the first host's port", lambda: port() == "t1", LEARNED_WITHIN)
    hosts[0].docker("rm", "-f", "aa")
    kit.becomes_free(hosts[1], "aa", "--ip", FIXED)
    wait_for("the switch has it at the second host's port", lambda: port() == "t2", LEARNED_WITHIN)


@pytest.mark.parametrize("mode", MODES)
def test_neighbours_learn_a_new_mac_address_at_once(hosts: list[Host], mode: str) -> None:
    network(hosts[:2], "web", *kit.DUAL, "-o", f"mode={mode}")
    run(hosts[1], "peer")
    pid = str(kit.inspect(hosts[1], "container", "peer")["State"]["Pid"])
    neighbours = ("nsenter", "--net", "--target", pid, "ip", "neigh")
    for text in (FIXED, FIXED6):
        hosts[1].exec(*neighbours, "replace", text, "lladdr", DEVICE_MAC, "dev", "eth0", "nud", "stale")
    run(hosts[0], "aa", "--ip", FIXED, "--ip6", FIXED6)
    mac = mac_of("default", ip_address(FIXED))

    def learned() -> bool:
        listed = hosts[1].exec(*neighbours).stdout.splitlines()
        return sum(mac in line for line in listed) == 2 and not any(DEVICE_MAC in line for line in listed)

    wait_for("the neighbour has the new MAC address of both", learned, LEARNED_WITHIN)


@pytest.mark.parametrize("mode", MODES)
def test_addresses_of_other_devices_are_passed_over(hosts: list[Host], device: Callable[..., None], mode: str) -> None:
    theirs = ["10.77.0.132", "10.77.0.133", "10.77.0.134"]
    device(*theirs)
    network(hosts[0], "web", *PROBE, "-o", f"mode={mode}", "--ip-range", "10.77.0.132/30")
    assert run(hosts[0], "aa") == "10.77.0.135"
    said = refused(hosts[0], *run_args("bb"))
    assert "is full: 4 of 4 addresses in use (host1 1, quarantined 3)" in said
    found = quarantined(hosts[0])
    assert sorted(found) == theirs
    assert all(note.startswith(f"answered by {DEVICE_MAC} at 20") for note in found.values())
    hosts[0].docker("rm", "bb")
    hosts[2].exec("ip", "link", "delete", "dev0")
    release(hosts[0], theirs[1])
    assert run(hosts[0], "cc") == theirs[1]
    release(hosts[0], theirs[0], theirs[2])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("option", "text"), [("--ip", FIXED), ("--ip6", FIXED6)])
def test_an_address_of_another_device_is_refused(
    hosts: list[Host], device: Callable[..., None], mode: str, option: str, text: str
) -> None:
    device(text)
    network(hosts[0], "web", *kit.DUAL, *PROBE, "-o", f"mode={mode}")
    for _ in range(2):
        said = refused(hosts[0], *run_args("aa", option, text))
        assert f"address {text} of pool" in said
        assert f"is taken: it is quarantined (answered by {DEVICE_MAC} at 20" in said
        assert f"when that device is gone: qnet address release {text} --tenant default" in said
        hosts[0].docker("rm", "aa")
    assert list(quarantined(hosts[1])) == [text]
    hosts[2].exec("ip", "link", "delete", "dev0")
    release(hosts[1], text)
    run(hosts[0], "aa", option, text)


def test_nobody_is_asked_without_the_option(hosts: list[Host], device: Callable[..., None]) -> None:
    device(FIXED, FIXED6)
    network(hosts[0], "web", *kit.DUAL)
    assert run(hosts[0], "aa", "--ip", FIXED, "--ip6", FIXED6) == FIXED
    assert quarantined(hosts[0]) == {}


def test_a_held_address_that_another_device_took_meanwhile(hosts: list[Host], device: Callable[..., None]) -> None:
    network(hosts[0], "web", *PROBE)
    run(hosts[0], "db", "--ip", FIXED)
    hosts[0].docker("restart", "db")
    hosts[0].docker("stop", "db")
    device(FIXED)
    assert f"answered by {DEVICE_MAC}" in refused(hosts[0], "start", "db")
    release(hosts[0], FIXED)


def test_an_address_that_cannot_be_asked_for_is_not_given(lab: Lab, hosts: list[Host]) -> None:
    network(hosts[0], "web", *PROBE)
    hosts[0].exec("ip", "link", "set", "eth1", "down")
    said = refused(hosts[0], *run_args("aa"))
    assert "cannot ask on eth1 whether 10.77.0." in said
    assert "(arp_probe): the link is down" in said
    hosts[0].docker("rm", "aa")
    assert [one["kind"] for one in kit.address_records(lab).values()] == ["gateway"]
    hosts[0].exec("ip", "link", "set", "eth1", "up")
    run(hosts[0], "aa")
