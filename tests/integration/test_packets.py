"""Asking on real links who has an address, and announcing from inside another network namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from plugins.network.packets import THIS_THREADS, Packets
from tests.e2e import frames
from tests.lab.commands import run, wait_for

ONE, OTHER = f"qnet-one-{os.getpid()}", f"qnet-two-{os.getpid()}"
FOUR, SIX, FREE = ip_address("10.77.0.9"), ip_address("fd00:77::9"), ip_address("10.77.0.8")
MAC = "02:00:00:00:00:99"
ANSWER = frames.ethernet(
    frames.BROADCAST, MAC, frames.ARP, frames.arp(2, MAC, str(FREE), "02:00:00:00:00:01", "10.77.0.1")
)
ASK = """
import sys, ipaddress
from plugins.network.packets import Packets
print(Packets().who_has(sys.argv[1], ipaddress.ip_address(sys.argv[2]), float(sys.argv[3]), sys.argv[4]) or "nobody")
"""
SAY = """
import socket, sys, time
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
    link.bind(("eth1", 0))
    while True:
        link.send(bytes.fromhex(sys.argv[1]))
        time.sleep(0.02)
"""


def ip(*words: str) -> None:
    run(["ip", *words])


@pytest.fixture
def namespaces() -> Iterator[None]:
    """Two network namespaces with an eth1 each, one pair; the other one's has addresses."""
    try:
        for name in (ONE, OTHER):
            ip("netns", "add", name)
        ip("-n", ONE, "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "address", MAC, "netns", OTHER)
        for name in (ONE, OTHER):
            ip("-n", name, "link", "set", "eth1", "up")
        ip("-n", OTHER, "addr", "add", f"{FOUR}/24", "dev", "eth1")
        ip("-n", OTHER, "addr", "add", f"{SIX}/64", "dev", "eth1", "nodad")
        yield
    finally:
        for name in (ONE, OTHER):
            run(["ip", "netns", "delete", name], check=False)


def inside(name: str, *words: str) -> list[str]:
    return ["ip", "netns", "exec", name, sys.executable, "-c", *words]


def who_has(address: object, link: str = "eth1", wait: float = 0.3, besides: str = "") -> str:
    done = run(inside(ONE, ASK, link, str(address), str(wait), besides), check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


@pytest.mark.usefixtures("namespaces")
def test_who_has_an_address() -> None:
    wait_for("the link is up", lambda: who_has(FOUR) == MAC, 5)
    assert [who_has(SIX), who_has(FREE), who_has("fd00:77::8")] == [MAC, "nobody", "nobody"]
    assert who_has(FOUR, besides=MAC) == "nobody"
    ip("-n", ONE, "link", "add", "br0", "type", "bridge")
    ip("-n", ONE, "link", "set", "eth1", "master", "br0")
    ip("-n", ONE, "link", "set", "br0", "up")
    assert [who_has(FOUR), who_has(SIX)] == [MAC, MAC]


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("frame", "says"), [(ANSWER, MAC), (frames.tagged(ANSWER, (frames.VLAN, 7)), "nobody")])
def test_answers_of_a_vlan_do_not_count_on_its_trunk(frame: bytes, says: str) -> None:
    wait_for("the link is up", lambda: who_has(FOUR) == MAC, 5)
    with subprocess.Popen(inside(OTHER, SAY, frame.hex())) as speaker:
        try:
            assert who_has(FREE, wait=1.0) == says
        finally:
            speaker.kill()


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize(("end", "link"), [(ONE, "eth1"), (OTHER, "eth1"), (ONE, "eth9")])
def test_a_link_that_is_down_or_gone_is_no_silence(end: str, link: str) -> None:
    wait_for("the link is up", lambda: who_has(FOUR) == MAC, 5)
    if link == "eth1":
        ip("-n", end, "link", "set", link, "down")
    reason = "the link is down" if link == "eth1" else "No such device"
    wait_for(
        reason, lambda: f"cannot ask on {link} whether {FOUR} is free (arp_probe): {reason}" in who_has(FOUR, link), 5
    )


@pytest.mark.usefixtures("namespaces")
def test_announcing_leaves_the_thread_where_it_was() -> None:
    before, sandbox = Path(THIS_THREADS).readlink(), f"/run/netns/{OTHER}"
    Packets().announce(sandbox, str(FOUR))
    for wrong in (("/run/netns/none", str(FOUR)), ("/etc/hostname", str(FOUR)), (sandbox, str(FREE))):
        with pytest.raises(OSError, match=r"\[Errno"):
            Packets().announce(*wrong)
    assert Path(THIS_THREADS).readlink() == before
