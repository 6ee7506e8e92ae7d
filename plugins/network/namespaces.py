"""Network namespaces by name, as ip-netns(8) has them: they outlive the process, and a reboot empties their folder.

They are mounts: a service with a mount namespace of its own would lose them, with what is in them, at its end.
"""

from __future__ import annotations

import os.path
import re
import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from plugins.network.nat import FORWARDING, NAMESPACE_PREFIX
from qnet.errors import Unavailable, Unsupported

FOLDER = Path("/run/netns")
OURS = re.compile(NAMESPACE_PREFIX + r"[0-9a-f]{12}")
TIMEOUT = 5.0


class Namespaces:
    """Operations on the namespaces of gateways."""

    def all(self) -> frozenset[str]:
        """The names of those that are ours, half made ones too."""
        try:
            return frozenset(entry.name for entry in FOLDER.iterdir() if OURS.fullmatch(entry.name))
        except FileNotFoundError:
            return frozenset()

    def add(self, name: str) -> None:
        """Make one, in place of one left behind. Raises Unsupported, Unavailable."""
        self.delete(name)
        _run(["ip", "netns", "add", name], f"make network namespace {name}")

    def delete(self, name: str) -> None:
        """Delete one with its links; one that is not there is no error. Raises Unsupported, Unavailable."""
        path = FOLDER / name
        if os.path.ismount(path):
            _run(["ip", "netns", "delete", name], f"delete network namespace {name}")
        path.unlink(missing_ok=True)  # `ip netns add` was cut off between making the file and the mount

    def route(self, name: str, versions: Collection[int]) -> None:
        """Let one forward packets of these versions of IP. Raises Unsupported, Unavailable."""
        values = [f"{FORWARDING[version]}=1" for version in versions]
        values += ["net.ipv6.conf.all.disable_ipv6=0"] if 6 in versions else []
        _run([*_enter(name), "sysctl", "-q", "-w", *values], f"let {name} forward")

    def configure(self, commands: str, name: str = "") -> None:
        """Do what lines of ip(8) say in one, or on the host itself. Raises Unsupported, Unavailable."""
        _run([*_enter(name), "ip", "-batch", "-"], f"set up the links of {name or 'a gateway'}", commands)

    def host_forwards(self, version: int) -> bool:
        """Whether the host itself forwards packets of a version of IP."""
        knob = Path("/proc/sys") / FORWARDING[version].replace(".", "/")
        return knob.exists() and knob.read_text().strip() != "0"


def _enter(name: str) -> Sequence[str]:
    return ["nsenter", f"--net={FOLDER / name}", "--"] if name else []


def _run(command: Sequence[str], what: str, text: str = "") -> None:
    try:
        subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    except FileNotFoundError as error:
        raise Unsupported(f"cannot {what}: {error.filename} is not installed") from error
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise Unavailable(f"cannot {what}: {said[0]}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"cannot {what}: {error}") from error
