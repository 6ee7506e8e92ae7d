"""Frames sent and heard on links: the only user of raw sockets, and of the network namespaces of containers."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from plugins.network import frames
from plugins.network.frames import IPAddress
from qnet.errors import Unavailable

CLONE_NEWNET = 0x40000000
SO_ATTACH_FILTER = 26
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_MULTICAST = 263, 1, 0
SIOCGIFFLAGS, IFF_UP, IFF_RUNNING = 0x8913, 0x1, 0x40
SIOCGIFADDR = 0x8915
IPV6_ADDRESSES = "/proc/thread-self/net/if_inet6"
EVERY_KIND = 0x0003
PROBES = 2
THIS_THREADS = "/proc/thread-self/ns/net"

_libc = ctypes.CDLL(None, use_errno=True)


class Packets:
    """Says and asks who has addresses. Threads do not disturb each other: every call has sockets of its own."""

    def announce(self, sandbox: str, address: str) -> None:
        """Tell the neighbours of a container that it has an address.

        Args:
            sandbox: the file of its network namespace.

        Raises:
            OSError: the namespace or address is not there, not up or still tentative; maybe it soon is.
        """
        parsed = ip_address(address)
        family = socket.AF_INET if parsed.version == 4 else socket.AF_INET6
        with inside(sandbox), socket.socket(family, socket.SOCK_DGRAM) as has:
            has.bind((address, 0))  # the kernel refuses what is not there or is tentative
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                raw.bind((link_with(has, parsed), 0))
                raw.send(frames.announcement(raw.getsockname()[4], parsed))

    def who_has(self, link: str, address: IPAddress, wait: float, besides: str) -> str:
        """The MAC address of who says, within `wait` seconds, that it has an address; empty: nobody.

        Args:
            link: where to ask; it may be a port of a bridge.
            besides: a MAC address whose answer does not count, or empty.

        Raises:
            Unavailable: it cannot be asked.
        """
        try:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as raw:
                _listen(raw, link, address)
                return _ask(raw, address, wait, besides)
        except OSError as error:
            raise Unavailable(
                f"cannot ask on {link} whether {address} is free (arp_probe): {error.strerror or error}"
            ) from error


def link_with(inside: socket.socket, address: IPAddress) -> str:
    """The link of the thread's network namespace that has an address. Raises FileNotFoundError."""
    if address.version == 6:
        listed = (line.split() for line in Path(IPV6_ADDRESSES).read_text().splitlines())
        there = {fields[-1] for fields in listed if fields[0] == address.packed.hex()}
    else:
        there = {name for _, name in socket.if_nameindex() if _ipv4(inside, name) == address.packed}
    for name in there:
        return name
    raise FileNotFoundError(f"no link has {address}")


def _ipv4(inside: socket.socket, name: str) -> bytes:
    """The first address of a link, as the engine gave it; empty: it has none."""
    try:
        return fcntl.ioctl(inside, SIOCGIFADDR, struct.pack("16s24x", name.encode()))[20:24]
    except OSError:
        return b""


def attach(to: socket.socket, code: bytes) -> None:
    """Let a socket hear only what a filter (classic BPF) lets through."""
    kept = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HL", len(code) // 8, ctypes.addressof(kept))
    to.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _listen(raw: socket.socket, link: str, address: IPAddress) -> None:
    """Hear answers on a link, before any rule or bridge takes them. Raises OSError."""
    asked = struct.pack("16sh14x", link.encode(), 0)
    flags = struct.unpack("16sh14x", fcntl.ioctl(raw, SIOCGIFFLAGS, asked))[1]
    if not (flags & IFF_UP and flags & IFF_RUNNING):
        raise OSError("the link is down")  # without a carrier frames would vanish, and nobody could answer
    attach(raw, frames.answers(address))
    raw.bind((link, EVERY_KIND))
    group = frames.group_mac(frames.ALL_NODES)
    member = struct.pack("iHH8s", socket.if_nametoindex(link), PACKET_MR_MULTICAST, len(group), group)
    raw.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)


def _ask(raw: socket.socket, address: IPAddress, wait: float, besides: str) -> str:
    question, began = frames.probe(raw.getsockname()[4], address), time.monotonic()
    for number in range(1, PROBES + 1):
        raw.send(question)
        while (left := began + wait * number / PROBES - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                frame, (_, _, direction, *_) = raw.recvfrom(128)
            except TimeoutError:
                break
            if direction != socket.PACKET_OUTGOING and frames.sender(frame) != besides:
                return frames.sender(frame)
    return ""


@contextmanager
def inside(sandbox: str) -> Iterator[None]:
    """This thread in another network namespace: sockets made meanwhile stay there. Raises OSError."""
    with open(sandbox, "rb") as there, open(THIS_THREADS, "rb") as own:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
