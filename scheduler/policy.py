"""What a tenant's container may ask of a host. Whoever has more than this has power over the host, and all tenants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qnet.errors import InvalidRequest

ALLOWED = frozenset(
    {
        *("NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "Memory", "MemorySwap", "MemoryReservation", "PidsLimit"),
        *("PortBindings", "Binds", "Mounts", "NetworkMode", "RestartPolicy", "AutoRemove", "Dns", "DnsOptions"),
        *("DnsSearch", "ExtraHosts", "ReadonlyRootfs", "Tmpfs", "Init", "ShmSize", "CapDrop", "Ulimits", "ConsoleSize"),
        *("Annotations", "MemorySwappiness", "GroupAdd"),
    }
)
DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "CgroupnsMode": ("private",),
    "IpcMode": ("private", "none"),
    "Isolation": ("default",),
    "LogConfig": ({"Type": "json-file", "Config": {}},),
}
MAC = ("MacAddress",)


def check_allowed(config: Mapping[str, Any], limits: Mapping[str, Any]) -> None:
    """Whether a tenant may have such a container. Fields that say nothing are ignored.

    Raises:
        InvalidRequest: the first field that only an operator may set.
    """
    for field, value in sorted(limits.items()):
        if field not in ALLOWED and not _says_nothing(value) and value not in DEFAULTS.get(field, ()):
            raise InvalidRequest(
                f"HostConfig.{field} is for trusted tenants; others may set {', '.join(sorted(ALLOWED))}"
            )
    for field in MAC:
        if config.get(field):
            raise InvalidRequest(f"{field} is for trusted tenants")


def _says_nothing(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_says_nothing, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_says_nothing, value))
    return not value
