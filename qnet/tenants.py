"""Tenants: who owns networks, and by which tag their frames are told apart. One id is never given to two of them.

A tenant's name is part of the keys of all that it has, and of the ids that engines keep: only one that has nothing can
be renamed or removed, or given another tag.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from qnet import schema
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, Unavailable
from qnet.schema import NetworkRecord, SegmentKind, SegmentRecord, TenantRecord
from qnet.store.base import Compare, Delete, Op, Put, Store, Txn, absent, at_revision, nothing_below, present

DEFAULT = "default"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
LIMITS: dict[SegmentKind, tuple[int, int]] = {"vlan": (1, 4094), "vni": (1, 16_777_215)}
TITLES: dict[SegmentKind, str] = {"vlan": "VLAN", "vni": "VNI"}
ATTEMPTS = 50
AUTO = -1


def parse_tenant(text: str) -> str:
    """A tenant's name, checked.

    Raises:
        InvalidRequest: it is not lower-case letters, digits and `-`, 1 to 32 of them.
    """
    if not NAME.fullmatch(text):
        raise InvalidRequest(f"{text[:64]!r} is no tenant: lower-case letters, digits and -, 1 to 32 characters")
    return text


def parse_range(text: str, kind: SegmentKind) -> tuple[int, int]:
    """`FIRST-LAST` of the ids of a kind.

    Raises:
        InvalidRequest: it is no range, or not within what the kind allows.
    """
    low, high = LIMITS[kind]
    first, _, last = text.partition("-")
    try:
        found = int(first), int(last or first)
    except ValueError as error:
        raise InvalidRequest(f"{text[:32]!r} is no range of {TITLES[kind]} ids, as in {low}-{high}") from error
    if not low <= found[0] <= found[1] <= high:
        raise InvalidRequest(f"{text[:32]!r} is no range of {TITLES[kind]} ids: from {low} to {high}, lowest first")
    return found


@dataclass(frozen=True, slots=True)
class Change:
    """What to make of a tenant. None: leave it as it is; a tag of 0: none, of `AUTO`: any that is free."""

    vlan: int | None = None
    vni: int | None = None
    supernets: tuple[str, ...] | None = None
    max_addresses: int | None = None
    max_networks: int | None = None
    trusted: bool | None = None
    egress: int | None = None
    ingress: int | None = None
    max_volumes: int | None = None
    max_cpus: int | None = None
    max_memory: int | None = None
    max_containers: int | None = None


class Tenants:
    """The registry; `AUTO` takes from `vlans` and `vnis`. Every method raises Unavailable if the store is away."""

    def __init__(self, store: Store, now: Callable[[], str], vlans: str = "1-4094", vnis: str = "1-16777215") -> None:
        self._store = store
        self._ranges = {"vlan": parse_range(vlans, "vlan"), "vni": parse_range(vnis, "vni")}
        self._now = now

    def get(self, name: str) -> TenantRecord:
        """A tenant; `default` is there without a record, and has no tag.

        Raises:
            NotFound: with the command that makes it.
        """
        return self._read(name)[0]

    def all(self) -> tuple[TenantRecord, ...]:
        """All tenants, by name."""
        found = [schema.decode(kv.value, TenantRecord, kv.key) for kv in self._store.range(schema.TENANTS).kvs]
        if all(record.name != DEFAULT for record in found):
            found.append(_implicit())
        return tuple(sorted(found, key=lambda record: record.name))

    def owner(self, kind: SegmentKind, number: int) -> str:
        """The tenant that has an id; empty if none has."""
        kv = self._store.get(schema.segment_key(kind, number))
        return schema.decode(kv.value, SegmentRecord, kv.key).tenant if kv else ""

    def create(self, name: str, change: Change) -> TenantRecord:
        """Make a tenant.

        Raises:
            InvalidRequest: its name, an id or a supernet cannot be.
            Conflict: it exists, or an id is another's.
            Exhausted: no id is left.
        """
        fresh = TenantRecord(name=parse_tenant(name), since=self._now(), trusted=name == DEFAULT)
        return self._write(fresh, 0, change)

    def change(self, name: str, change: Change) -> TenantRecord:
        """Change a tenant. Raises as `create`, and NotFound; Conflict too if its tag is in use."""
        record, revision = self._read(name)
        return self._write(record, revision, change)

    def rename(self, name: str, to: str) -> TenantRecord:
        """Give a tenant that has nothing another name. Raises NotFound, Conflict, InvalidRequest."""
        _not_default(name)
        _not_default(to)
        record, revision = self._read(name)
        fresh = msgspec.structs.replace(record, name=parse_tenant(to))
        key, other = schema.tenant_key(name), schema.tenant_key(to)
        if self._store.get(other) is not None:
            raise Conflict(f"tenant {to} exists: choose another name")
        compares = (at_revision(key, revision), absent(other), *self._has_nothing(name))
        ops: tuple[Op, ...] = (Delete(key), Put(other, schema.encode(fresh)))
        ops += tuple(_claim(*tag, to) for tag in _tags(fresh))
        self._unless_in_use(name, f"tenant {name} cannot be renamed", Txn(compares, ops))
        return fresh

    def remove(self, name: str) -> None:
        """Forget a tenant that has nothing. Raises NotFound, Conflict, InvalidRequest."""
        _not_default(name)
        record, revision = self._read(name)
        key = schema.tenant_key(name)
        released = (Delete(schema.segment_key(*tag)) for tag in _tags(record))
        compares = (at_revision(key, revision), *self._has_nothing(name))
        self._unless_in_use(name, f"tenant {name} cannot be removed", Txn(compares, (Delete(key), *released)))

    def belongings(self, name: str) -> tuple[str, ...]:
        """What a tenant has, in words: pools with what is in them, networks, volumes."""
        pools = self._store.range(schema.pools_prefix(name)).kvs
        found = []
        for kv in pools:
            subnet = schema.subnet_of_key(kv.key.rpartition("/")[2])
            found.append(f"pool {subnet} ({self._store.count(schema.address_key(name, subnet))} addresses)")
        for kv in self._store.range(schema.NETWORKS).kvs:
            record = schema.decode(kv.value, NetworkRecord, kv.key)
            if record.tenant == name:
                found.append(f"network {record.name or record.id[:12]} on {record.host}")
        volumes = schema.volume_size_key(name)
        found += [f"volume {kv.key.removeprefix(volumes)}" for kv in self._store.range(volumes).kvs]
        return tuple(found)

    def _by_hand(self, tenant: str) -> dict[int, str]:
        """VLANs whose frames others' networks have without a tag of their own, or the packets of VNIs, each with one of
        those: their links were made by hand."""
        records = (schema.decode(kv.value, NetworkRecord, kv.key) for kv in self._store.range(schema.NETWORKS).kvs)
        return {
            vlan: f"network {record.name or record.id[:12]} of tenant {record.tenant} on {record.host}"
            for record in records
            if record.vni or record.tenant != tenant
            for vlan in record.untagged
        }

    def _read(self, name: str) -> tuple[TenantRecord, int]:
        kv = self._store.get(schema.tenant_key(parse_tenant(name)))
        if kv is not None:
            return schema.decode(kv.value, TenantRecord, kv.key), kv.mod_revision
        if name == DEFAULT:
            return _implicit(), 0
        raise NotFound(f"tenant {name} does not exist: make it with qnet tenant create {name} --vlan auto")

    def _write(self, before: TenantRecord, revision: int, change: Change) -> TenantRecord:
        key = schema.tenant_key(before.name)
        for _ in range(ATTEMPTS):
            after = self._changed(before, change)
            gone, new = set(_tags(before)) - set(_tags(after)), set(_tags(after)) - set(_tags(before))
            ids = [schema.segment_key(*tag) for tag in new]
            tag_free = (nothing_below(schema.tenant_contents_prefix(before.name)),) if gone or new else ()
            compares: tuple[Compare, ...] = (at_revision(key, revision), *map(absent, ids), *tag_free)
            ops: list[Op] = [Put(key, schema.encode(after)), *(_claim(*tag, after.name) for tag in new)]
            ops += [Delete(schema.segment_key(*tag)) for tag in gone]
            if self._store.txn(Txn(compares, tuple(ops))).succeeded:
                return after
            self._explain(before, revision, change, bool(tag_free))
        raise Unavailable(f"tenant {before.name}: others kept taking the ids that were free; try again")

    def _explain(self, before: TenantRecord, revision: int, change: Change, in_use_matters: bool) -> None:
        """Why a write was refused; returns if it is worth another try. Raises Conflict."""
        now = self._store.get(schema.tenant_key(before.name))
        if (now.mod_revision if now else 0) != revision:
            raise Conflict(f"tenant {before.name} {'changed meanwhile: try again' if revision else 'exists'}")
        for kind, wanted in (("vlan", change.vlan), ("vni", change.vni)):
            owner = self.owner(kind, wanted) if wanted and wanted != AUTO else ""  # type: ignore[arg-type]
            if owner and owner != before.name:
                raise Conflict(f"{TITLES[kind]} {wanted} belongs to tenant {owner}: choose another, or auto")  # type: ignore[index]
        if in_use_matters and (has := self.belongings(before.name)):
            raise Conflict(f"the tag of tenant {before.name} cannot be changed while it has {_listed(has)}")

    def _changed(self, record: TenantRecord, change: Change) -> TenantRecord:
        fields: dict[str, object] = {}
        for kind, wanted in (("vlan", change.vlan), ("vni", change.vni)):
            if wanted is not None:
                has = getattr(record, kind)
                by_hand = self._by_hand(record.name) if kind == "vlan" else {}
                if wanted in by_hand and wanted != has:
                    raise Conflict(f"VLAN {wanted} has {by_hand[wanted]} on it: remove that one, or choose another")
                fields[kind] = (has or self._free(kind, by_hand)) if wanted == AUTO else _checked(kind, wanted)  # type: ignore[arg-type]
        if change.supernets is not None:
            fields["supernets"] = tuple(_supernet(text) for text in change.supernets)
        for name in ("max_addresses", "max_networks"):
            number = getattr(change, name)
            if number is not None:
                if number < 0:
                    raise InvalidRequest(f"{name} {number}: a number of 1 or more, or 0 for no limit")
                fields[name] = number
        for name in ("trusted", "egress", "ingress", "max_volumes", "max_cpus", "max_memory", "max_containers"):
            if getattr(change, name) is not None:
                fields[name] = getattr(change, name)
        return msgspec.structs.replace(record, **fields)

    def _free(self, kind: SegmentKind, besides: Iterable[int]) -> int:
        """The lowest id of the range that nobody has."""
        first, last = self._ranges[kind]
        prefix = f"{schema.SEGMENTS}{kind}/"
        taken = {int(kv.key.removeprefix(prefix)) for kv in self._store.range(prefix).kvs} | set(besides)
        free = next((number for number in range(first, last + 1) if number not in taken), None)
        if free is None:
            raise Exhausted(f"no {TITLES[kind]} is left from {first} to {last}: widen tenants.{kind}s in the settings")
        return free

    @staticmethod
    def _has_nothing(name: str) -> tuple[Compare, ...]:
        """No pool, nothing inside one, and no volume."""
        prefixes = (schema.pools_prefix(name), schema.tenant_contents_prefix(name), schema.volume_size_key(name))
        return tuple(map(nothing_below, prefixes))

    def _unless_in_use(self, name: str, refusal: str, txn: Txn) -> None:
        if self._store.txn(txn).succeeded:
            return
        if has := self.belongings(name):
            raise Conflict(f"{refusal} while it has {_listed(has)}")
        raise Conflict(f"{refusal}: it changed meanwhile; try again")


def exists(tenant: str) -> tuple[Compare, ...]:
    """What a transaction that gives a tenant something must compare, so that the tenant is not removed meanwhile."""
    return () if tenant == DEFAULT else (present(schema.tenant_key(tenant)),)


def _not_default(name: str) -> None:
    if name == DEFAULT:
        raise InvalidRequest(f"tenant {DEFAULT} is always there: it can be changed, not renamed or removed")


def _implicit() -> TenantRecord:
    return TenantRecord(name=DEFAULT, since="", trusted=True)


def _tags(record: TenantRecord) -> tuple[tuple[SegmentKind, int], ...]:
    found: list[tuple[SegmentKind, int]] = []
    if record.vlan:
        found.append(("vlan", record.vlan))
    if record.vni:
        found.append(("vni", record.vni))
    return tuple(found)


def _claim(kind: SegmentKind, number: int, tenant: str) -> Put:
    return Put(schema.segment_key(kind, number), schema.encode(SegmentRecord(tenant=tenant)))


def _checked(kind: SegmentKind, number: int) -> int:
    low, high = LIMITS[kind]
    if number and not low <= number <= high:
        raise InvalidRequest(f"{TITLES[kind]} {number}: a number from {low} to {high}, auto or none")
    return number


def _supernet(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise InvalidRequest(f"supernet {text[:64]!r} is no subnet: {error}") from error


def _listed(things: Iterable[str], most: int = 5) -> str:
    shown = tuple(things)
    more = f", and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(shown[:most]) + more
