"""Frames that say who has an address, and that ask: ARP (RFC 826, 5227) and neighbour discovery (RFC 4861). Pure."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

BROADCAST = b"\xff" * 6
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
ICMPV6, SOLICITATION, ADVERTISEMENT = 58, 135, 136
REQUEST = 1
OVERRIDE = 0x20000000
TARGET_LINK_ADDRESS = b"\x02\x01"  # the option, and its length in units of 8 bytes
HOPS = 255  # neighbour discovery listens to nothing that a router has passed on
ALL_NODES, NOBODY = IPv6Address("ff02::1"), IPv6Address("::")
SOLICITED = bytes.fromhex("ff0200000000000000000001ff")  # and the last three bytes of who is asked (RFC 4291, 2.7.1)

LOAD = {1: 0x30, 2: 0x28, 4: 0x20}  # BPF: load so many bytes from an offset
EQUAL, RETURN = 0x15, 0x06
TAGGED = 0xFFFFF000 + 48  # where BPF has whether a frame had a VLAN tag, which the kernel has taken off by then
WHOLE = 0xFFFF


def announcement(mac: bytes, address: IPAddress) -> bytes:
    """What makes neighbours and switches learn where an address is now: an ARP announcement (RFC 5227, 2.3) or an
    unsolicited neighbour advertisement that overrides what they know (RFC 4861, 7.2.6)."""
    if isinstance(address, IPv4Address):
        return _arp(mac, address.packed, address)
    body = struct.pack("!I", OVERRIDE) + address.packed + TARGET_LINK_ADDRESS + mac
    return _icmp(mac, address, ALL_NODES, ADVERTISEMENT, body)


def probe(mac: bytes, address: IPAddress) -> bytes:
    """Asks whether somebody has an address, in nobody's name, so that no cache learns anything: an ARP probe (RFC 5227,
    2.1.1) or a solicitation as for duplicate address detection (RFC 4862, 5.4.2)."""
    if isinstance(address, IPv4Address):
        return _arp(mac, bytes(4), address)
    group = IPv6Address(SOLICITED + address.packed[13:])
    return _icmp(mac, NOBODY, group, SOLICITATION, bytes(4) + address.packed)


def answers(address: IPAddress) -> bytes:
    """A filter (classic BPF) for frames, without a VLAN tag, whose sender says that it has the address."""
    wanted = [(4, TAGGED, 0)]
    if isinstance(address, IPv4Address):
        wanted += [(2, 12, ARP), (4, 28, int(address))]
    else:
        wanted += [(2, 12, IPV6), (1, 20, ICMPV6), (1, 54, ADVERTISEMENT)]
        words = struct.unpack("!4I", address.packed)
        wanted += [(4, 62 + 4 * number, word) for number, word in enumerate(words)]
    code = b""
    for number, (size, offset, value) in enumerate(wanted):
        to_the_end = 2 * (len(wanted) - number) - 1
        code += struct.pack("=HBBI", LOAD[size], 0, 0, offset) + struct.pack("=HBBI", EQUAL, 0, to_the_end, value)
    return code + struct.pack("=HBBI", RETURN, 0, 0, WHOLE) + struct.pack("=HBBI", RETURN, 0, 0, 0)


def sender(frame: bytes) -> str:
    """The MAC address that a frame comes from."""
    return frame[6:12].hex(":")


def group_mac(address: IPv6Address) -> bytes:
    """Where frames for a group go (RFC 2464, 7)."""
    return b"\x33\x33" + address.packed[12:]


def _arp(mac: bytes, said: bytes, target: IPv4Address) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, REQUEST)
    return BROADCAST + mac + struct.pack("!H", ARP) + head + mac + said + bytes(6) + target.packed


def _icmp(mac: bytes, source: IPv6Address, group: IPv6Address, kind: int, body: bytes) -> bytes:
    ends, length = source.packed + group.packed, 4 + len(body)
    pseudo = ends + struct.pack("!II", length, ICMPV6)
    total = _checksum(pseudo + struct.pack("!BBH", kind, 0, 0) + body)
    head = struct.pack("!IHBB", 6 << 28, length, ICMPV6, HOPS) + ends
    return group_mac(group) + mac + struct.pack("!H", IPV6) + head + struct.pack("!BBH", kind, 0, total) + body


def _checksum(data: bytes) -> int:
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
