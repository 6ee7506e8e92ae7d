"""Containers that attack, and those that listen in."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.e2e import frames, kit
from tests.e2e.frames import IPV4, ethernet, udp
from tests.lab.host import Host

SCRIPT = Path(frames.__file__)
HOSTILE = ("--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")


@dataclass(frozen=True)
class Box:
    """A container as the tests attack from it or listen in it."""

    host: Host
    name: str
    pid: str
    address: str
    address6: str
    mac: str

    @property
    def local(self) -> str:
        """Its link-local address."""
        listed = self.host.docker("exec", self.name, "ip", "-6", "addr", "show", "eth0").stdout
        return next(word.partition("/")[0] for word in listed.split() if word.startswith("fe80::"))

    def inside(self, *words: str) -> list[str]:
        """A command in its network namespace, with every capability: more than NET_ADMIN and NET_RAW give."""
        return ["nsenter", f"--target={self.pid}", "--net", sys.executable, str(SCRIPT), *words]

    def sends(self, *sent: bytes) -> None:
        """Put frames on the wire."""
        subprocess.run(self.inside("send", *(frame.hex() for frame in sent)), check=True, timeout=20)


def box(host: Host, name: str, *options: str, on: str = "web") -> Box:
    """Start a container."""
    kit.run(host, name, *options, on=on)
    has = kit.attached(host, name, on)
    pid = host.docker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    return Box(host, name, pid, has["IPAddress"], has["GlobalIPv6Address"], has["MacAddress"])


def arrives(attacker: Box, victim: Box, make: Callable[[bytes], bytes | list[bytes]], after: Box | None = None) -> bool:
    """Whether one of the frames, made around a mark, arrives: before a harmless one that is sent after them.

    Args:
        after: who sends the harmless one, if the attacker cannot.
    """
    mark, last = secrets.token_bytes(16), secrets.token_bytes(16)
    friend = after or attacker
    harmless = ethernet(victim.mac, friend.mac, IPV4, udp(friend.address, victim.address, (9, 9), last))
    words = ("catch", mark.hex(), last.hex())
    with subprocess.Popen(victim.inside(*words), stdout=subprocess.PIPE, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "listening\n"
        made = make(mark)
        attacker.sends(*([made] if isinstance(made, bytes) else made))
        friend.sends(harmless)
        said = listener.stdout.readline()
    assert said in ("caught\n", "nothing\n"), "the harmless frame did not arrive"
    return said == "caught\n"


def listed(host: Host, device: str) -> str:
    """The rules of a device as nft lists them."""
    return host.exec("nft", "list", "chain", "netdev", "qnet", device, check=False).stdout


def device_of(one: Box) -> str:
    """The host's end of a container's link."""
    return next(name for name in kit.links(one.host) if name.startswith("qn-") and serves(one.host, name, one))


def serves(host: Host, device: str, one: Box) -> bool:
    """Whether a device is the host's end of a container's link."""
    return one.mac in listed(host, device)
