"""What a VXLAN link must know of the containers on other hosts: where each MAC address is, whose each address is. Pure.

Nothing is learned from frames: what a host sends to, and what it answers when a container asks for an address, comes
from the records of addresses and of the hosts' own underlay addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from plugins.network.rules import link_local

Kind: TypeAlias = Literal["flood", "mac", "address"]
Key: TypeAlias = tuple[Kind, str]
Entries: TypeAlias = Mapping[Key, str]
"""("flood", VTEP) → "": frames for all go there too; ("mac", MAC) → the VTEP it is behind; ("address", A) → its MAC."""
Changes: TypeAlias = Mapping[Key, str | None]
"""The same, with None for what is gone."""


@dataclass(frozen=True, slots=True)
class Box:
    """Who has an address: a MAC address on a host."""

    mac: str
    host: str


class Table:
    """The entries of one VNI on the host `host`. What is on that host itself, its bridge knows."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._vteps: dict[str, str] = {}
        self._boxes: dict[str, Box] = {}
        self._addresses: dict[str, set[str]] = {}  # by MAC address
        self._entries: dict[Key, str] = {}

    @property
    def entries(self) -> Entries:
        """All entries."""
        return self._entries

    @property
    def vteps(self) -> frozenset[str]:
        """The underlay addresses of the other hosts; any thread may ask."""
        return frozenset(self._vteps.values())

    def hosts(self, changes: Iterable[tuple[str, str | None]]) -> Changes:
        """Take in hosts' underlay addresses (None: it has left the VNI); returns the entries that changed."""
        touched: set[Key] = set()
        moved = set()
        for host, vtep in changes:
            if host == self._host:
                continue
            moved.add(host)
            touched.update(("flood", each) for each in (self._vteps.get(host), vtep) if each)
            fresh = {other: there for other, there in self._vteps.items() if other != host}
            self._vteps = fresh | ({host: vtep} if vtep else {})  # another, not changed: others may be reading it
        for address, box in self._boxes.items():
            if box.host in moved:
                touched.update(_keys(address, box))
        return self._update(touched)

    def boxes(self, changes: Iterable[tuple[str, Box | None]]) -> Changes:
        """Take in who has addresses (None: nobody now); returns the entries that changed."""
        touched: set[Key] = set()
        for address, box in changes:
            before = self._boxes.pop(address, None)
            if before is not None:
                touched.update(_keys(address, before))
                self._addresses[before.mac].discard(address)
            if box is not None:
                touched.update(_keys(address, box))
                self._boxes[address] = box
                self._addresses.setdefault(box.mac, set()).add(address)
            if before is not None and not self._addresses[before.mac]:
                del self._addresses[before.mac]
        return self._update(touched)

    def _update(self, touched: Iterable[Key]) -> Changes:
        changes: dict[Key, str | None] = {}
        for key in touched:
            value = self._value(key)
            if value != self._entries.get(key):
                changes[key] = value
            if value is None:
                self._entries.pop(key, None)
            else:
                self._entries[key] = value
        return changes

    def _value(self, key: Key) -> str | None:
        kind, name = key
        if kind == "flood":
            return "" if name in self._vteps.values() else None
        if kind == "mac":
            # several while a container moves, one address after the other
            hosts = {self._boxes[each].host for each in self._addresses.get(name, ())}
            there = () if self._host in hosts else (self._vteps[host] for host in hosts if host in self._vteps)
            return min(there, default=None)
        box = self._boxes.get(name)
        if box is not None:
            return box.mac if box.host in self._vteps else None
        # the address that a link gives itself
        mac = _mac_of(name)
        behind = self._value(("mac", mac)) if mac else None
        return mac if behind is not None and any(":" in each for each in self._addresses[mac]) else None


def difference(has: Entries, wanted: Entries) -> Changes:
    """What makes one the other."""
    gone: dict[Key, str | None] = {key: None for key in has if key not in wanted}
    return gone | {key: value for key, value in wanted.items() if has.get(key) != value}


def _keys(address: str, box: Box) -> Iterable[Key]:
    yield ("mac", box.mac)
    yield ("address", address)
    yield ("address", str(link_local(box.mac)))  # it depends on all addresses of the MAC address


def _mac_of(address: str) -> str:
    """The MAC address that a link-local address is made of; empty if it is none of those."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4 or not parsed.is_link_local:
        return ""
    octets = parsed.packed[8:]
    return bytes([octets[0] ^ 2, *octets[1:3], *octets[5:]]).hex(":")
