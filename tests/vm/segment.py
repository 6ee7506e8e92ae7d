"""The wires between the virtual machines: two bridges in a network namespace of their own, with no way out.

`mgmt` is eth0 of the machines: ssh and etcd. `trunk` is eth1: nothing but what qnet and its tests send there.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.lab.commands import run, wait_for
from tests.lab.namespaces import NETNS, add_netns, delete_netns, forget_netns_folder, set_sysctls
from tests.lab.processes import find, kill_all

BRIDGES = ("mgmt", "trunk")  # of eth0 and eth1
GATEWAY = "10.99.0.1"
_FRAME = re.compile(r"([0-9a-f:]{17}) > ([0-9a-f:]{17})(.*)")


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame on the wire; `tags` are its VLAN ids, outermost first."""

    source: str
    target: str
    tags: tuple[int, ...]
    text: str


class Segment:
    """The namespace, found again by its name: it needs no state file."""

    def __init__(self, netns: str) -> None:
        self.netns = netns

    def create(self) -> None:
        """Makes the namespace and the bridges."""
        add_netns(self.netns)
        set_sysctls(self.netns, {"ipv6.conf.all.disable_ipv6": "1", "ipv6.conf.default.disable_ipv6": "1"})
        for bridge in BRIDGES:
            options = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            self._ip("link", "add", bridge, *options.split())
            self._ip("link", "set", bridge, "up")
        self._ip("addr", "add", f"{GATEWAY}/24", "dev", "mgmt")

    def remove(self) -> None:
        """Ends what runs in the namespace and deletes it with its links; nothing happens if it is gone."""
        kill_all([], [self.netns])
        delete_netns(self.netns)
        forget_netns_folder()

    def leftovers(self) -> list[str]:
        """What is on the machine of it; empty after `remove`."""
        processes = [f"process {process.pid}" for process in find([], [self.netns])]
        return [*processes, *([f"network namespace {self.netns}"] if (NETNS / self.netns).exists() else [])]

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs a command in the namespace."""
        return ["nsenter", f"--net={NETNS / self.netns}", *argv]

    def ports(self, index: int) -> list[str]:
        """The taps of a machine's eth0 and eth1, which are made if they are not there."""
        taps = [f"{bridge[0]}{index}" for bridge in BRIDGES]
        for tap, bridge in zip(taps, BRIDGES, strict=True):
            if run(["ip", "-n", self.netns, "link", "show", tap], check=False).returncode:
                self._ip("tuntap", "add", tap, "mode", "tap")
                self._ip("link", "set", tap, "master", bridge, "up")
        return taps

    @contextmanager
    def capture(self, log: Path) -> Iterator[list[Frame]]:
        """The frames that pass the trunk meanwhile; the list is filled at the end."""
        frames: list[Frame] = []
        argv = ["tcpdump", "-i", "trunk", "-n", "-e", "-t", "-l", "--immediate-mode", "-Z", "root"]
        said = log.with_suffix(".err")
        with log.open("w") as out, said.open("w") as err:
            process = daemon(self.inside(argv), out, err)
            try:
                wait_for("tcpdump", lambda: "listening on" in said.read_text(), 20)
                yield frames
                time.sleep(0.5)  # until the last frames are written
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=20)
        frames += [frame for line in log.read_text().splitlines() if (frame := _frame(line))]

    def _ip(self, *args: str) -> None:
        run(["ip", "-n", self.netns, *args])


def _frame(line: str) -> Frame | None:
    found = _FRAME.match(line)
    if found is None:
        return None
    source, target, rest = found.groups()
    return Frame(source, target, tuple(int(tag) for tag in re.findall(r"\bvlan (\d+)", rest)), line)


def daemon(argv: Sequence[str], out: IO[Any], err: IO[Any]) -> subprocess.Popen[bytes]:
    """Starts a process that ends with this one, however this one ends. To be called in the main thread: the kernel
    ends it with the thread that started it (PR_SET_PDEATHSIG(2const))."""
    command = ["setpriv", "--pdeathsig", "KILL", *argv]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
