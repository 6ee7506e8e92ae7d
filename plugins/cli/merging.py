"""What the store is to hold after a restore, and why it may not. Pure.

Nothing that has an owner is taken from him: what only the store has stays, what only the backup has comes back, and
where both have something and do not agree on whose it is, that is a problem. A host's own records are newer in the
store. MAC addresses, VLAN ids, VNIs and sizes are not copied but made from the records that they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import msgspec

from plugins.cli.machines import CONTAINERS, MACHINES, Machine
from plugins.ipam import compare
from plugins.ipam.compare import Owner, Place
from qnet import schema
from qnet.addresses.model import parse_address, parse_subnet
from qnet.addresses.pools import overlapping
from qnet.addresses.records import SHARED_WORDS, describe, mac_record
from qnet.engine import EngineView
from qnet.schema import (
    AddressRecord,
    HostRecord,
    PoolRecord,
    SegmentKind,
    SegmentRecord,
    TenantRecord,
    TrashRecord,
    VolumeRecord,
)

# a host writes these about itself, again and again; of the last three only the revision counts
BY_HOSTS = (
    *(schema.VTEPS, schema.NETWORKS, schema.HOSTS, schema.VOLUME_MOUNTS, schema.VOLUME_HEALTH, MACHINES),
    *(schema.PLACEMENT + kind for kind in ("vitals/", "ledgers/", "groups/", "quotas/")),
)
MADE = (schema.MACS, schema.SEGMENTS, schema.VOLUME_SIZES)
RecordT = TypeVar("RecordT", bound=msgspec.Struct)


class Placed(msgspec.Struct):
    """What is compared of a placed container's record."""

    host: str
    id: str = ""


@dataclass(slots=True)
class Merged:
    """`values`: all that the store is to hold; `problems`: why it must not; `added`: what the engines have and neither
    store nor backup knew."""

    values: dict[str, bytes]
    problems: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def hosts_of(*sides: Mapping[str, bytes]) -> dict[str, str]:
    """The hosts that have anything in any of them, and where their agents are reached (empty: nobody knows). Where
    several tell, the first counts."""
    found: dict[str, str] = {}
    for values in sides:
        for key, value in values.items():
            if key.startswith(MACHINES):
                machine = msgspec.json.decode(value, type=Machine)
                found[machine.name] = found.get(machine.name) or machine.url
            elif key.startswith(schema.HOSTS):
                found.setdefault(key.removeprefix(schema.HOSTS), "")
            elif key.startswith(schema.NETWORKS) or _is_use(key):
                name = key.split("/")[-2] if key.startswith(schema.NETWORKS) else key.rpartition("/")[2]
                found.setdefault(name, "")
            elif _is_address(key) and (host := _address(key, value).host):
                found.setdefault(host, "")
    return found


def differing(store: Mapping[str, bytes], backup: Mapping[str, bytes]) -> list[str]:
    """The keys of the store that the backup does not have so, but for what hosts write by themselves."""
    own = (*BY_HOSTS, *MADE)
    return [k for k, v in store.items() if not (k.startswith(own) or _is_use(k)) and backup.get(k) != v]


def merge(
    store: Mapping[str, bytes],
    backup: Mapping[str, bytes],
    views: Mapping[str, EngineView],
    now: str,
    claim: Callable[[], str],
) -> Merged:
    """Bring store, backup and what engines have together.

    Args:
        views: of the engines that could be asked, by host.
        claim: draws a new one.
    """
    merged = Merged({key: value for key, value in store.items() if not key.startswith(MADE)})
    for key, value in backup.items():
        if not key.startswith(MADE):
            _take(merged, key, value)
    for host, view in sorted(views.items()):
        _follow(merged, host, view, now, claim)
    _check_pools(merged)
    _make(merged)
    return merged


def _take(merged: Merged, key: str, value: bytes) -> None:
    """One key of the backup."""
    there = merged.values.get(key)
    if there is None:
        merged.values[key] = value
    elif there == value:
        return
    elif key.startswith(schema.HOSTS):
        ours, theirs = (schema.decode(one, HostRecord, key) for one in (there, value))
        if ours.identity != theirs.identity:
            merged.problems.append(
                f"host name {ours.name} is another machine's in the backup: if that is gone for good, take its name "
                f"out of the store (qnet host forget {ours.name}), or give this machine another"
            )
    elif key.startswith(BY_HOSTS) or _is_use(key):
        return
    elif key.startswith(CONTAINERS):
        _take_container(merged, key, there, value)
    elif _is_address(key):
        _take_address(merged, key, there, value)
    elif key.startswith(schema.VOLUMES):
        _take_volume(merged, key, there, value)
    else:
        merged.values[key] = value


def _take_container(merged: Merged, key: str, there: bytes, value: bytes) -> None:
    ours, theirs = (msgspec.json.decode(one, type=Placed) for one in (there, value))
    if ours.host != theirs.host:
        name = key.removeprefix(CONTAINERS)
        merged.problems.append(
            f"container name {name} is {ours.host}'s, and in the backup {theirs.host}'s: remove that container"
        )
    elif ours.id == theirs.id:
        merged.values[key] = value


def _take_address(merged: Merged, key: str, there: bytes, value: bytes) -> None:
    """The same owner: the backup knows more of the same container, the store of another one."""
    ours, theirs = _address(key, there), _address(key, value)
    if _owner(ours) != _owner(theirs):
        merged.problems.append(
            f"{_named(key)}: {describe(ours)}, but by the backup {describe(theirs)}: {_todo(key, ours)}"
        )
    elif ours.container_id == theirs.container_id:
        merged.values[key] = value


def _take_volume(merged: Merged, key: str, there: bytes, value: bytes) -> None:
    ours, theirs = (schema.decode(one, VolumeRecord, key) for one in (there, value))
    if ours.id == theirs.id:
        merged.values[key] = value
    else:
        merged.problems.append(
            f"volume {ours.name} is another one in the backup, with other data: rename or remove it (qnet volume ls)"
        )


def _follow(merged: Merged, host: str, view: EngineView, now: str, claim: Callable[[], str]) -> None:
    """What an engine has now must be its by the records; what nobody has by them becomes its."""
    seen = compare.by_address(view)
    stopped = {place: owners[0] for place, owners in seen.asking.items() if place not in seen.live}
    for place, owner in (*seen.live.items(), *stopped.items()):
        key = schema.address_key(place.tenant, str(place.subnet), str(place.address))
        live, value = place in seen.live, merged.values.get(key)
        record = _address(key, value) if value else None
        if record is None or (_is_hosts(record, host) and _is_others(record, owner) and live):
            _add(merged, key, place, _record(host, place, owner, live, now, claim()))
        elif live and not _is_hosts(record, host):
            merged.problems.append(
                f"{_named(key)}: in use by container {owner.container.name} on {host}, but {describe(record)}: end it "
                f"(on {host}: docker stop {owner.container.name})"
            )


def _add(merged: Merged, key: str, place: Place, record: AddressRecord) -> None:
    merged.values[key] = schema.encode(record)
    merged.added.append(f"{_named(key)}: {describe(record)}")
    pool = schema.pool_key(place.tenant, str(place.subnet))
    fresh = PoolRecord(tenant=place.tenant, subnet=str(place.subnet), since=record.since)
    merged.values.setdefault(pool, schema.encode(fresh))


def _record(host: str, place: Place, owner: Owner, live: bool, now: str, claim: str) -> AddressRecord:
    return AddressRecord(
        kind="endpoint" if live else "held",
        host=host,
        since=now,
        claim=claim,
        asked=any(str(place.address) in end.asked for end in owner.container.endpoints),
        network=owner.network,
        endpoint=owner.endpoint if live else "",
        container=owner.container.name,
        container_id=owner.container.id,
    )


def _check_pools(merged: Merged) -> None:
    by_tenant: dict[str, list[str]] = {}
    for key, value in merged.values.items():
        if key.startswith(schema.POOLS):
            record = schema.decode(value, PoolRecord, key)
            by_tenant.setdefault(record.tenant, []).append(record.subnet)
    for tenant, subnets in by_tenant.items():
        parsed = sorted(
            map(parse_subnet, subnets), key=lambda net: (net.version, int(net.network_address), net.prefixlen)
        )
        for one, other in pairwise(parsed):  # subnets lie in each other or apart: who overlaps any does its neighbour
            if overlapping(other, (one,)) is not None:
                merged.problems.append(
                    f"pools {one} and {other} of tenant {tenant} overlap: remove the networks of that which is not "
                    f"in the backup"
                )


def _make(merged: Merged) -> None:
    """MAC addresses, ids of tenants and sizes of volumes. One volume is not both there and in the trash."""
    made: dict[str, tuple[str, bytes]] = {}

    def own(key: str, what: str, owner: str, value: bytes) -> None:
        if key in made and made[key][0] != owner:
            merged.problems.append(f"{what} would be {made[key][0]}'s and {owner}'s: remove or change one of the two")
        made[key] = (owner, value)

    for key, value in merged.values.items():
        if _is_address(key):
            record, (tenant, address) = _address(key, value), _place(key)
            if record.mac:
                mac = schema.encode(mac_record(parse_address(address), record))
                own(schema.mac_key(tenant, record.mac), f"MAC address {record.mac} of tenant {tenant}", address, mac)
    for tenant_record in _records(merged, schema.TENANTS, TenantRecord):
        ids: tuple[tuple[SegmentKind, int], ...] = (("vlan", tenant_record.vlan), ("vni", tenant_record.vni))
        for kind, number in ids:
            if number:
                segment = schema.encode(SegmentRecord(tenant=tenant_record.name))
                own(schema.segment_key(kind, number), f"{kind} {number}", tenant_record.name, segment)
    for volume in _records(merged, schema.VOLUMES, VolumeRecord):
        own(
            schema.volume_size_key(volume.tenant, volume.name),
            f"volume {volume.name}",
            volume.id,
            str(volume.size).encode(),
        )
    merged.values |= {key: value for key, (_, value) in made.items()}
    live = {one.id: one.name for one in _records(merged, schema.VOLUMES, VolumeRecord)}
    for trash in _records(merged, schema.VOLUME_TRASH, TrashRecord):
        if trash.volume.id in live:
            merged.problems.append(
                f"volume {live[trash.volume.id]} was removed or undeleted since the backup: its data are in the trash, "
                f"or not (qnet volume trash); undelete or remove it, and take another backup"
            )


def _records(merged: Merged, prefix: str, kind: type[RecordT]) -> Iterator[RecordT]:
    for key, value in merged.values.items():
        if key.startswith(prefix):
            yield schema.decode(value, kind, key)


def _owner(record: AddressRecord) -> str:
    """Who may have it: hosts for what is theirs, else what it is for."""
    if record.kind in SHARED_WORDS or record.kind in ("reservation", "quarantine"):
        return f"{record.kind}s"
    return f"host {record.host}" if record.host else f"the next {record.container}"


def _is_hosts(record: AddressRecord, host: str) -> bool:
    return record.host == host and record.kind in ("endpoint", "held")


def _is_others(record: AddressRecord, owner: Owner) -> bool:
    return record.container_id not in ("", owner.container.id)


def _todo(key: str, record: AddressRecord) -> str:
    if record.kind in ("reservation", "quarantine") or not record.host:
        return f"free it (qnet address release {_place(key)[1]})"
    return f"remove that container (docker rm -f {record.container or 'CONTAINER'}), or take another backup"


def _is_use(key: str) -> bool:
    return key.startswith(schema.CONTENTS) and key.split("/")[-2] + "/" == schema.USE


def _is_address(key: str) -> bool:
    return key.startswith(schema.CONTENTS) and key.split("/")[-2] + "/" == schema.ADDRESS


def _address(key: str, value: bytes) -> AddressRecord:
    return schema.decode(value, AddressRecord, key)


def _place(key: str) -> tuple[str, str]:
    """Tenant and address of an address record's key."""
    return key.removeprefix(schema.CONTENTS).partition("/")[0], key.rpartition("/")[2]


def _named(key: str) -> str:
    tenant, address = _place(key)
    return f"address {address} of tenant {tenant}"
