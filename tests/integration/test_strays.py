"""Links that live on in the network namespaces of processes nobody knows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.commands import run, wait_for

HOST = f"qnet-stray-{os.getpid()}"
ADDRESS, SIX = "10.77.0.9", "fd00:77::9"
HUNT = "import sys; from plugins.network import strays; strays.remove('eth1', sys.argv[1:])"


@pytest.fixture
def lost() -> Iterator[int]:
    """A process in a network namespace of its own that has a macvlan link of the host's eth1, and one of its own."""
    run(["ip", "netns", "add", HOST])
    process = subprocess.Popen(["ip", "netns", "exec", HOST, "unshare", "--net", "sleep", "300"])
    try:
        own = Path("/proc/self/ns/net").stat().st_ino
        host = Path("/run/netns", HOST).stat().st_ino
        there = Path(f"/proc/{process.pid}/ns/net")
        wait_for("a namespace", lambda: there.stat().st_ino not in (own, host), 10)
        for line in (
            "link add eth1 type veth peer name other",
            f"link add qn-1 link eth1 netns {process.pid} type macvlan mode bridge",
        ):
            run(["ip", "-n", HOST, *line.split()])
        inside(process.pid, "ip", "link", "set", "qn-1", "name", "eth0")
        inside(process.pid, "ip", "address", "add", f"{ADDRESS}/24", "dev", "eth0")
        inside(process.pid, "ip", "address", "add", f"{SIX}/64", "dev", "eth0", "nodad")
        inside(process.pid, "ip", "link", "add", "mine", "type", "veth", "peer", "name", "end")
        inside(process.pid, "ip", "link", "add", "own", "link", "mine", "type", "macvlan")
        inside(process.pid, "ip", "address", "add", "10.77.0.10/24", "dev", "own")
        yield process.pid
    finally:
        process.kill()
        process.wait()
        run(["ip", "netns", "delete", HOST])


def inside(process: int, *words: str) -> str:
    return run(["nsenter", f"--net=/proc/{process}/ns/net", *words]).stdout


def hunt(*addresses: str) -> None:
    run(["ip", "netns", "exec", HOST, sys.executable, "-c", HUNT, *addresses])


def names(process: int) -> set[str]:
    listed = inside(process, "ip", "-br", "link").splitlines()
    return {line.split()[0].partition("@")[0] for line in listed} - {"lo"}


@pytest.mark.parametrize("address", [ADDRESS, SIX])
def test_a_link_with_the_address_goes(lost: int, address: str) -> None:
    assert "eth0" in names(lost)
    hunt("10.77.0.8", address)
    assert names(lost) == {"mine", "end", "own"}


def test_links_of_others_stay(lost: int) -> None:
    before = names(lost)
    hunt("10.77.0.8", "10.77.0.10")  # nobody has the one, the other is on a link that is not the host's
    assert names(lost) == before
