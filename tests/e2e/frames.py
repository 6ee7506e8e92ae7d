"""Frames as a hostile container would make them, sent and caught inside a network namespace: `python frames.py …`.

Runs by itself, on the standard library, with nsenter: `send HEX…` puts frames on eth0; `catch MARK LAST` waits for
the last one, by a mark in it, and prints whether one with the first mark came before; `count LINK TIMES HEX…` waits
until each of these frames came so many times, and prints how often it did.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
import time
import zlib

LINK = "eth0"
PATIENCE = 10.0  # seconds for a frame that must arrive
PAUSE = 0.02  # between frames, so that none overtakes another
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
ARP, IPV4, IPV6, VLAN, PROVIDER_VLAN, LLDP = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88A8, 0x88CC
UDP, ICMPV6 = 17, 58
FRAGMENT, DESTINATION_OPTIONS = 44, 60
ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT, REDIRECT = 134, 135, 136, 137


def mac(text: str) -> bytes:
    """A MAC address as it goes over the wire."""
    return bytes.fromhex(text.replace(":", ""))


def ethernet(to: str, source: str, kind: int, payload: bytes) -> bytes:
    """An Ethernet II frame."""
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload


def tagged(frame: bytes, *tags: tuple[int, int]) -> bytes:
    """A frame with VLAN tags, (ethertype, VLAN id), outermost first."""
    return frame[:12] + b"".join(struct.pack("!HH", *tag) for tag in tags) + frame[12:]


def spanning_tree(source: str) -> bytes:
    """The configuration message of a bridge that claims to be the root (IEEE 802.1D, 9.3.1)."""
    message = bytes.fromhex("424203000000000000") + bytes(20) + bytes.fromhex("800100001400020000000f00")
    return mac("01:80:c2:00:00:00") + mac(source) + struct.pack("!H", len(message)) + message


def arp(operation: int, sender_mac: str, sender: str, target_mac: str, target: str) -> bytes:
    """An ARP packet (RFC 826)."""
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, operation)
    return head + mac(sender_mac) + socket.inet_aton(sender) + mac(target_mac) + socket.inet_aton(target)


def _sum(data: bytes) -> int:
    """The internet checksum (RFC 1071)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp(source: str, to: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram in an IP packet of the addresses' version; the UDP checksum is left out (IPv4) or right (IPv6)."""
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(to)
    length = 8 + len(data)
    head = struct.pack("!HHHH", *ports, length, 0)
    if one.version == 4:
        fields = (0x45, 0, 20 + length, 0, 0, 64, UDP)
        bare = struct.pack("!BBHHHBBH", *fields, 0) + one.packed + other.packed
        return struct.pack("!BBHHHBBH", *fields, _sum(bare)) + one.packed + other.packed + head + data
    pseudo = one.packed + other.packed + struct.pack("!II", length, UDP)
    checked = struct.pack("!HHHH", *ports, length, _sum(pseudo + head + data))
    return _ipv6(source, to, UDP, checked + data)


def as_tcp(packet: bytes) -> bytes:
    """The same packet that says it carries TCP; no bridge looks at what is in it."""
    if packet[0] >> 4 == 6:
        return packet[:6] + b"\x06" + packet[7:]
    bare = packet[:9] + b"\x06\0\0" + packet[12:20]
    return bare[:10] + struct.pack("!H", _sum(bare)) + bare[12:] + packet[20:]


def vxlan(vni: int, frame: bytes) -> bytes:
    """A frame as VXLAN carries it in UDP (RFC 7348, 5)."""
    return struct.pack("!II", 1 << 27, vni << 8) + frame


def icmp6(source: str, to: str, kind: int, body: bytes) -> bytes:
    """An ICMPv6 message in an IPv6 packet, with the hop limit that neighbour discovery wants."""
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(to)
    message = struct.pack("!BBH", kind, 0, 0) + body
    pseudo = one.packed + other.packed + struct.pack("!II", len(message), ICMPV6)
    return _ipv6(source, to, ICMPV6, struct.pack("!BBH", kind, 0, _sum(pseudo + message)) + body)


def fragments(packet: bytes, first: int) -> list[bytes]:
    """An IPv4 packet without options in two parts; the first has so many bytes (a multiple of 8) of what it carries."""
    payload, number = packet[20:], zlib.crc32(packet) & 0xFFFF  # parts of two packets must not meet

    def part(data: bytes, flags: int) -> bytes:
        head = packet[:2] + struct.pack("!HHH", 20 + len(data), number, flags) + packet[8:10] + b"\0\0" + packet[12:20]
        return head[:10] + struct.pack("!H", _sum(head)) + head[12:] + data

    return [part(payload[:first], 0x2000), part(payload[first:], first // 8)]


def fragment(packet: bytes, mark: bytes, *, hidden: bool) -> bytes:
    """The first fragment of an IPv6 packet (RFC 8200, 4.5): 8 bytes of what it carries, or, `hidden`, no byte of that,
    but a header of options. The mark is in options that the receiver passes over."""

    def options(before: int) -> bytes:
        return bytes([before, 2, 1, 20]) + mark + bytes(4)

    def head(before: int) -> bytes:
        return struct.pack("!BBHI", before, 0, 1, 7)

    if hidden:
        first, rest = FRAGMENT, head(DESTINATION_OPTIONS) + options(packet[6])
    else:
        first, rest = DESTINATION_OPTIONS, options(FRAGMENT) + head(packet[6]) + packet[40:48]
    return packet[:4] + struct.pack("!HB", len(rest), first) + packet[7:40] + rest


def option(mark: bytes) -> bytes:
    """A mark as an option of neighbour discovery (RFC 4861, 4.6) of a type for experiments, in units of 8 bytes."""
    padded = mark + bytes(-(len(mark) + 2) % 8)
    return bytes([253, (len(padded) + 2) // 8]) + padded


def _ipv6(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(to)
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 255) + one.packed + other.packed + payload


def send(frame: bytes) -> None:
    """Put a frame on the link as it is."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind((LINK, 0))
        link.send(frame)


def catch(mark: bytes, last: bytes) -> bool:
    """Whether a frame with a mark in it arrives before one with the last mark; says first that it listens."""
    caught = False
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as link:
        link.bind((LINK, 0))
        link.settimeout(PATIENCE)
        print("listening", flush=True)
        while True:
            frame, (_, _, kind, *_rest) = link.recvfrom(65535)
            if kind != socket.PACKET_OUTGOING:
                caught = caught or mark in frame
                if last in frame:
                    return caught


def count(link: str, times: int, wanted: list[bytes]) -> list[int]:
    """How often each frame arrives, until all did so many times or patience ends; says first that it listens."""
    found = [0] * len(wanted)
    end = time.monotonic() + PATIENCE
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
        raw.bind((link, 0))
        raw.settimeout(0.2)
        print("listening", flush=True)
        while min(found) < times and time.monotonic() < end:
            try:
                frame = raw.recv(65535)
            except TimeoutError:
                continue
            found = [number + (frame == one) for number, one in zip(found, wanted, strict=True)]
    return found


if __name__ == "__main__" and sys.argv[1] == "count":
    print(*count(sys.argv[2], int(sys.argv[3]), [bytes.fromhex(text) for text in sys.argv[4:]]))
elif __name__ == "__main__":
    marks = [bytes.fromhex(text) for text in sys.argv[2:]]
    if sys.argv[1] == "send":
        for sent in marks:
            send(sent)
            time.sleep(PAUSE)
    else:
        print("caught" if catch(*marks) else "nothing")
