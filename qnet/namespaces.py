"""Network namespaces by name, as ip-netns(8) has them: they outlive the process, and a reboot empties their folder.

They are mounts: a service with a mount namespace of its own would lose them, with what is in them, at its end.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Collection
from pathlib import Path

from qnet.commands import NAMESPACES, run

FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


class Namespaces:
    """Operations on those whose names are `prefix` and hexadecimal digits."""

    def __init__(self, prefix: str) -> None:
        self._ours = re.compile(re.escape(prefix) + "[0-9a-f]{12,16}")

    def all(self) -> frozenset[str]:
        """The names of those that are ours, half made ones too."""
        try:
            return frozenset(entry.name for entry in NAMESPACES.iterdir() if self._ours.fullmatch(entry.name))
        except FileNotFoundError:
            return frozenset()

    def add(self, name: str) -> None:
        """Make one, in place of one left behind. Raises Unsupported, Unavailable."""
        self.delete(name)
        run(["ip", "netns", "add", name], f"make network namespace {name}")

    def delete(self, name: str) -> None:
        """Delete one with its links; one that is not there is no error. Raises Unsupported, Unavailable."""
        path = NAMESPACES / name
        if os.path.ismount(path):
            run(["ip", "netns", "delete", name], f"delete network namespace {name}")
        path.unlink(missing_ok=True)  # `ip netns add` was cut off between making the file and the mount

    def route(self, name: str, versions: Collection[int]) -> None:
        """Let one forward packets of these versions of IP. Raises Unsupported, Unavailable."""
        values = [f"{FORWARDING[version]}=1" for version in versions]
        values += ["net.ipv6.conf.all.disable_ipv6=0"] if 6 in versions else []
        run(["sysctl", "-q", "-w", *values], f"let {name} forward", namespace=name)

    def configure(self, commands: str, name: str = "") -> None:
        """Do what lines of ip(8) say in one, or on the host itself. Raises Unsupported, Unavailable."""
        run(["ip", "-batch", "-"], f"set up the links of {name or 'the host'}", commands, name)

    def host_forwards(self, version: int) -> bool:
        """Whether the host itself forwards packets of a version of IP."""
        return sysctl(FORWARDING[version]) not in ("", "0")


def sysctl(name: str) -> str:
    """What a setting of the host's kernel is; empty: it has none of that name, as before its module is loaded."""
    knob = Path("/proc/sys") / name.replace(".", "/")
    return knob.read_text().strip() if knob.exists() else ""
