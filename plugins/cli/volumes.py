"""`qnet volume`: shared volumes, the pools that they are made in, and the trash."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from plugins.cli import unixhttp
from plugins.cli.output import binary, confirm, json_option, show_fields, show_json, show_table, yes_option
from plugins.cli.session import Session, pass_session
from plugins.cli.watching import Row, Sample, follow, human, interval_option, once_option, samples
from plugins.volume.meter import TRAFFIC as METERED
from plugins.volume.model import NAME, show_size
from plugins.volume.repository import Repository
from qnet import schema
from qnet.errors import Conflict, InvalidRequest, NotFound, QnetError
from qnet.schema import VolumePoolRecord, VolumeRecord
from qnet.store.base import Delete, Put, Store, Txn, absent, unchanged

PATIENCE = 120.0  # seconds: the gluster command takes one host at a time
TOP = ("VOLUME", "TENANT", "POOL", "READ B/s", "WRITTEN B/s", "READS/s", "WRITES/s")
TRAFFIC = {f"{name}_total": field for name, (field, _) in METERED.items()}
PLACE = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9.:_-]*(?:,[a-zA-Z0-9][a-zA-Z0-9.:_-]*)*):/([a-zA-Z0-9_-]{1,64})")


@click.group()
def volume() -> None:
    """Directories with a limit, on GlusterFS, that all hosts mount."""


@volume.command("ls")
@json_option
@pass_session
def ls(session: Session, as_json: bool) -> None:
    """List volumes."""
    with session.store() as store:
        repository = _repository(session, store)
        repository.follow()
        found, mounted = repository.shown(), repository.mounted()
        health = {one.pool: state.state for one in found if (state := repository.health(one.pool))}
        repository.close()
    used = _told(session, "/qnet.Usage").get("Used", {})
    hosts = {one.name: [mount.host for name, mount in mounted if name == one.name] for one in found}
    if as_json:
        show_json([{"volume": one, "mounted_on": hosts[one.name], "used": used.get(one.name)} for one in found])
        return
    rows = (
        (
            *(one.name, one.tenant, one.pool, health.get(one.pool, ""), _size(one)),
            *(binary(used[one.name]) if one.name in used else "", ", ".join(hosts[one.name])),
        )
        for one in found
    )
    show_table(("NAME", "TENANT", "POOL", "HEALTH", "SIZE", "USED", "MOUNTED ON"), rows)


@volume.command("inspect")
@click.argument("name")
@json_option
@pass_session
def inspect(session: Session, name: str, as_json: bool) -> None:
    """Show all of one volume."""
    with session.store() as store:
        repository = _repository(session, store)
        repository.follow()
        record, mounts = repository.get(name), [mount for _, mount in repository.mounted(name)]
        repository.close()
    told = _told(session, "/VolumeDriver.Get", Name=name).get("Volume", {}).get("Status", {})
    if as_json:
        show_json({"volume": record, "mounts": mounts, "status": told})
        return
    fields = [("Volume", record.name), ("Tenant", record.tenant), ("Pool", record.pool), ("Since", record.since)]
    fields += [("Size", _size(record)), ("Inodes", str(record.inodes or "no limit")), ("When removed", record.retain)]
    fields += [("Limits", ", ".join(_limits(record)))]
    fields += [("Used", f"{told['Used']:,} of {told['Limit']:,} bytes")] if "Used" in told else []
    if "Health" in told:
        fields += [("Pool's health", f"{told['Health']}, bricks {told['Bricks']}, {told['Heal']} files to heal")]
    if traffic := told.get("Traffic"):
        fields += [("Read here", f"{traffic['read_bytes']:,} bytes in {traffic['reads']:,} reads")]
        fields += [("Written here", f"{traffic['written_bytes']:,} bytes in {traffic['writes']:,} writes")]
    show_fields([*fields, ("State", "" if record.ready else "being made")])
    show_fields([("Mounted on", f"{one.host}  {', '.join(one.containers)}".rstrip()) for one in mounts])
    show_fields([("To be restarted", f"{one.host}  {', '.join(one.restart)}") for one in mounts if one.restart])


@volume.command("resize")
@click.argument("name")
@click.argument("size")
@pass_session
def resize(session: Session, name: str, size: str) -> None:
    """Give a volume another size (10G, 500M), while containers use it."""
    unixhttp.call(session.settings.volume.socket, "/qnet.Resize", PATIENCE, Name=name, Size=size)
    click.echo(f"volume {name} has {size} now")


@volume.command("limit")
@click.argument("name")
@click.option("--bps", metavar="SIZE", default="", help="Bytes per second each way: 20M; 0: any.")
@click.option("--read-iops", metavar="N", default="", help="Reads per second; 0: any.")
@pass_session
def limit(session: Session, name: str, bps: str, read_iops: str) -> None:
    """Limit what each host's containers do to a volume. All of a host together."""
    if not (bps or read_iops):
        raise InvalidRequest(f"limit volume {name} to what? Give --bps SIZE, --read-iops N or both; 0 takes one away")
    said = unixhttp.call(
        session.settings.volume.socket, "/qnet.Limit", PATIENCE, Name=name, Bps=bps, ReadIops=read_iops
    )
    click.echo(f"volume {name} has these limits now")
    for host in said["Later"]:
        click.echo(f"on {host} from its next mount on: stop all of its containers there, and start them")


@volume.command("top")
@once_option
@interval_option
@json_option
@pass_session
def top(session: Session, once: bool, interval: float, as_json: bool) -> None:
    """Show what this host's containers read and write. Per second, the busiest volume first."""
    socket = session.settings.volume.socket

    def look() -> Sample:
        return {
            (*(labels[name] for name in ("volume", "tenant", "pool")), TRAFFIC[name]): value
            for name, labels, value in samples(socket, TRAFFIC)
        }

    follow(look, _rows, TOP, _cells, once=once, interval=interval, as_json=as_json)


def _rows(before: Sample, now: Sample, seconds: float) -> list[Row]:
    rows: dict[tuple[str, ...], Row] = {}
    for (*names, field), value in now.items():
        row = rows.setdefault(tuple(names), dict(zip(("volume", "tenant", "pool"), names, strict=True)))
        row[field] = round(max(value - before.get((*names, field), value), 0) / seconds)
    return sorted(rows.values(), key=lambda row: (-row["read_bytes"] - row["written_bytes"], row["volume"]))


def _cells(row: Row) -> Iterator[str]:
    yield from (row["volume"], row["tenant"], row["pool"])
    yield from (human(row[field]) for field in TRAFFIC.values())


@volume.command("undelete")
@click.argument("name")
@pass_session
def undelete(session: Session, name: str) -> None:
    """Bring back the volume of that name that was removed last."""
    unixhttp.call(session.settings.volume.socket, "/qnet.Undelete", PATIENCE, Name=name)
    click.echo(f"volume {name} is back")


@volume.command("trash")
@json_option
@pass_session
def trash(session: Session, as_json: bool) -> None:
    """List removed volumes that can be undeleted."""
    with session.store() as store:
        found = _repository(session, store).restorable()
    if as_json:
        show_json(found)
        return
    rows = ((one.volume.name, one.volume.tenant, one.volume.pool, one.removed, one.expires or "never") for one in found)
    show_table(("NAME", "TENANT", "POOL", "REMOVED", "PURGED AFTER"), rows)


@volume.group("pool")
def pool() -> None:
    """The Gluster volumes that volumes are made in."""


@pool.command("add")
@click.argument("name")
@click.argument("place", metavar="SERVER[,SERVER…]:/VOLUME")
@pass_session
def add(session: Session, name: str, place: str) -> None:
    """Have volumes made in a Gluster volume. Its servers are asked in turn."""
    found = PLACE.fullmatch(place)
    if not NAME.fullmatch(name) or not found:
        raise InvalidRequest(f"{name} {place}: a name, then SERVER[,SERVER…]:/VOLUME, such as main gl1,gl2,gl3:/gv0")
    record = VolumePoolRecord(name=name, volume=found[2], servers=tuple(found[1].split(",")), since=session.now())
    key = schema.volume_pool_key(name)
    with session.store() as store:
        if not store.txn(Txn((absent(key),), (Put(key, schema.encode(record)),))).succeeded:
            raise Conflict(f"there is a pool {name}: qnet volume pool ls")
    click.echo(f"pool {name} is Gluster volume {record.volume} on {', '.join(record.servers)}")


@pool.command("ls")
@json_option
@pass_session
def pool_ls(session: Session, as_json: bool) -> None:
    """List pools."""
    with session.store() as store:
        repository = _repository(session, store)
        found, volumes = repository.pools(), repository.shown()
    if as_json:
        show_json(found)
        return
    counts = {one.name: sum(volume.pool == one.name for volume in volumes) for one in found}
    rows = ((one.name, one.volume, ", ".join(one.servers), str(counts[one.name])) for one in found)
    show_table(("NAME", "GLUSTER VOLUME", "SERVERS", "VOLUMES"), rows)


@pool.command("rm")
@click.argument("name")
@yes_option
@pass_session
def pool_rm(session: Session, name: str, yes: bool) -> None:
    """Forget a pool without volumes, trash included. The Gluster volume stays."""
    with session.store() as store:
        repository = _repository(session, store)
        kv = store.get(schema.volume_pool_key(name))
        if kv is None:
            raise NotFound(f"there is no pool {name}")
        has = [*repository.shown(), *(one.volume for one in repository.trash())]
        left = sorted({one.name for one in has if one.pool == name})
        if left:
            raise Conflict(f"pool {name} has volumes, or their trash: {', '.join(left[:10])}")
        confirm(session, f"forget pool {name}?", yes)
        store.txn(Txn((unchanged(kv),), (Delete(kv.key),)))
    click.echo(f"pool {name} forgotten")


def _told(session: Session, url: str, **arguments: str) -> dict[str, Any]:
    """What the plugin of this host says; nothing, if it does not answer."""
    try:
        return unixhttp.call(session.settings.volume.socket, url, PATIENCE, **arguments)
    except QnetError:
        return {}


def _limits(record: VolumeRecord) -> Iterator[str]:
    if record.bps:
        yield f"{show_size(record.bps)} bytes/s on each host"
    if record.read_iops:
        yield f"{record.read_iops} reads/s on each host"


def _repository(session: Session, store: Store) -> Repository:
    return Repository(store, session.settings.host.name, session.now)


def _size(record: VolumeRecord) -> str:
    return show_size(record.size) if record.size else "no limit"
