"""Docker's volume protocol, and what the command qnet asks for besides.

Source: https://docs.docker.com/engine/extend/plugins_volume/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec

from plugins.volume.model import parse_bps, parse_iops, parse_size, show_size
from plugins.volume.service import Service, Shown
from qnet.wire import Plugin


class CreateCall(msgspec.Struct, frozen=True, rename="pascal"):
    """What an engine asks for, with the `-o` options as they were typed."""

    name: str
    opts: dict[str, str] | None = None


class NameCall(msgspec.Struct, frozen=True, rename="pascal"):
    """A call about a volume."""

    name: str


class MountCall(msgspec.Struct, frozen=True, rename="pascal"):
    """A user of a volume; engines repeat an id, and bring one back after a crash."""

    name: str
    id: str = msgspec.field(name="ID")


class ResizeCall(msgspec.Struct, frozen=True, rename="pascal"):
    """What `qnet volume resize` asks for."""

    name: str
    size: str


class LimitCall(msgspec.Struct, frozen=True, rename="pascal"):
    """What `qnet volume limit` asks for: empty leaves as it is, 0 takes away."""

    name: str
    bps: str = ""
    read_iops: str = ""


class LimitResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """The hosts where limits hold from the volume's next mount on."""

    later: tuple[str, ...]


class UsageResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """What volumes with a limit have, in bytes."""

    used: dict[str, int]


class Scope(msgspec.Struct, frozen=True, rename="pascal"):
    """All hosts see the same volumes."""

    scope: str = "global"


class CapabilitiesResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """What the driver can do."""

    capabilities: Scope = Scope()


class MountResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """Where containers find the data."""

    mountpoint: str


class Volume(msgspec.Struct, frozen=True, rename="pascal"):
    """A volume as `docker volume inspect` shows it."""

    name: str
    mountpoint: str
    created_at: str
    status: dict[str, Any]


class GetResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """One volume."""

    volume: Volume


class ListResponse(msgspec.Struct, frozen=True, rename="pascal"):
    """All volumes."""

    volumes: tuple[Volume, ...]


def register(plugin: Plugin, service: Service) -> None:
    """Serve the protocol."""

    plugin.query("/VolumeDriver.Capabilities", CapabilitiesResponse)
    plugin.query("/VolumeDriver.List", lambda: ListResponse(tuple(map(_volume, service.all()))))
    plugin.call("/VolumeDriver.Create", CreateCall, lambda call: service.create(call.name, call.opts))
    plugin.call("/VolumeDriver.Get", NameCall, lambda call: GetResponse(_volume(service.inspect(call.name))))
    plugin.call("/VolumeDriver.Path", NameCall, lambda call: MountResponse(service.path(call.name)))
    plugin.call("/VolumeDriver.Mount", MountCall, lambda call: MountResponse(service.mount(call.name, call.id)))
    plugin.call("/VolumeDriver.Unmount", MountCall, lambda call: service.unmount(call.name, call.id))
    plugin.call("/VolumeDriver.Remove", NameCall, lambda call: service.remove(call.name))
    plugin.query("/qnet.Usage", lambda: UsageResponse({name: usage.used for name, usage in service.used().items()}))
    plugin.call("/qnet.Resize", ResizeCall, lambda call: service.resize(call.name, parse_size(call.size)))
    plugin.call("/qnet.Limit", LimitCall, lambda call: LimitResponse(tuple(service.limit(call.name, *_limits(call)))))
    plugin.call("/qnet.Undelete", NameCall, lambda call: service.undelete(call.name))


def _volume(shown: Shown) -> Volume:
    record, usage, health = shown.record, shown.usage, shown.health
    status: dict[str, Any] = {"Tenant": record.tenant, "Pool": record.pool, "Retain": record.retain}
    status |= {"Size": show_size(record.size)} if record.size else {}
    status |= {"Inodes": record.inodes} if record.inodes else {}
    status |= {"Used": usage.used, "Limit": usage.limit} if usage else {}
    if health is not None:
        status |= {"Health": health.state, "Bricks": f"{health.bricks_up} of {health.bricks} up", "Heal": health.heal}
    limits = {"bps": show_size(record.bps), "read_iops": str(record.read_iops)}
    limits = {name: shown for name, shown in limits.items() if shown != "0"}
    status |= {"Limits": limits} if limits else {}
    status |= {"Traffic": asdict(shown.traffic)} if shown.traffic else {}
    restart = {mount.host: list(mount.restart) for mount in shown.mounts if mount.restart}
    status |= {"RestartNeeded": restart} if restart else {}
    status |= {"MountedOn": {mount.host: list(mount.containers) for mount in shown.mounts}}
    status |= {} if record.ready else {"State": "being made"}
    return Volume(record.name, shown.target, record.since, status)


def _limits(call: LimitCall) -> tuple[int | None, int | None]:
    def parsed(text: str, parse: Callable[[str], int]) -> int | None:
        return (0 if text == "0" else parse(text)) if text else None

    return parsed(call.bps, parse_bps), parsed(call.read_iops, parse_iops)
