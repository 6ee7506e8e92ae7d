"""What a tenant's container may ask of a host. Whoever has more than this has power over the host, and all tenants.

Engines read the names of fields in any case (`hostconfig`), and the last one counts. So a request is made anew, of the
fields that are known and allowed. Others that say something are refused, others that do not are left out, as an empty
list may say something to an engine (`MaskedPaths`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias

from qnet.errors import InvalidRequest

Checked: TypeAlias = dict[str, Any]

CONFIG = frozenset(
    {
        *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr", "ExposedPorts", "Tty"),
        *("OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped", "Image", "Volumes", "WorkingDir"),
        *("Entrypoint", "NetworkDisabled", "Labels", "StopSignal", "StopTimeout", "Shell", "OnBuild"),
        *("HostConfig", "NetworkingConfig"),
    }
)
LIMITS = frozenset({"NanoCpus", "CpuShares", "Memory", "MemorySwap", "MemoryReservation", "PidsLimit", "RestartPolicy"})
ALLOWED = LIMITS | {
    *("CpuQuota", "CpuPeriod", "PortBindings", "Binds", "Mounts", "NetworkMode", "AutoRemove", "Dns", "DnsOptions"),
    *("DnsSearch", "ExtraHosts", "ReadonlyRootfs", "Tmpfs", "Init", "ShmSize", "CapDrop", "Ulimits", "ConsoleSize"),
    *("MemorySwappiness", "GroupAdd"),
}
DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "CgroupnsMode": ("private",),
    "IpcMode": ("private", "none"),
    "Isolation": ("default",),
    "LogConfig": ({"Type": "json-file", "Config": {}},),
}
MOUNT = frozenset({"Type", "Source", "Target", "ReadOnly", "Consistency", "VolumeOptions", "TmpfsOptions"})
MOUNT_OPTIONS: Mapping[str, Collection[str]] = {
    "VolumeOptions": ("NoCopy", "Labels", "Subpath"),
    "TmpfsOptions": ("SizeBytes", "Mode"),
}
ENDPOINT, ADDRESSES = frozenset({"Aliases", "IPAMConfig"}), frozenset({"IPv4Address", "IPv6Address"})
EXEC = frozenset(
    {
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "DetachKeys",
        "Tty",
        "Env",
        "Cmd",
        "User",
        "WorkingDir",
        "ConsoleSize",
    }
)
ULIMITS = ("nofile", "nproc", "core")
POSITIVE = ("NanoCpus", "CpuQuota", "CpuPeriod", "Memory", "MemorySwap", "MemoryReservation", "CpuShares", "ShmSize")


def container(asked: Mapping[str, Any]) -> Checked:
    """A container that a tenant may have.

    Raises:
        InvalidRequest: the first field that only a trusted tenant may set.
    """
    found = _kept(asked, CONFIG, "a container")
    if found.get("HostConfig"):
        found["HostConfig"] = host_config(_object(found["HostConfig"], "HostConfig"))
    networking = _kept(
        _object(found.get("NetworkingConfig") or {}, "NetworkingConfig"), {"EndpointsConfig"}, "networks"
    )
    entries = _object(networking.get("EndpointsConfig") or {}, "EndpointsConfig")
    found["NetworkingConfig"] = {"EndpointsConfig": {name: endpoint(entry) for name, entry in entries.items()}}
    return found


def host_config(asked: Mapping[str, Any]) -> Checked:
    """What of its host a container may have."""
    defaults = {name: value for name, value in asked.items() if value in DEFAULTS.get(name, ())}
    found = _kept({name: value for name, value in asked.items() if name not in defaults}, ALLOWED, "HostConfig")
    _positive(found)
    if found.get("Mounts"):
        found["Mounts"] = [_mount(one) for one in _list(found["Mounts"], "Mounts")]
    for one in _list(found.get("Ulimits") or [], "Ulimits"):
        if _object(one, "Ulimits").get("Name") not in ULIMITS or not one.keys() <= {"Name", "Soft", "Hard"}:
            raise InvalidRequest(f"HostConfig.Ulimits: tenants may set {', '.join(ULIMITS)}")
    return {**found, **defaults}


def limits(asked: Mapping[str, Any]) -> Checked:
    """What of a container may be changed."""
    found = _kept(asked, LIMITS, "the limits of a container")
    _positive(found)
    return found


def endpoint(asked: object) -> Checked:
    """A container's place on a network."""
    found = _kept(_object(asked or {}, "EndpointsConfig"), ENDPOINT, "an endpoint")
    if found.get("IPAMConfig"):
        found["IPAMConfig"] = _kept(_object(found["IPAMConfig"], "IPAMConfig"), ADDRESSES, "IPAMConfig")
    return found


def exec_config(asked: Mapping[str, Any]) -> Checked:
    """Something else that runs in a container."""
    return _kept(asked, EXEC, "exec")


def _mount(asked: object) -> Checked:
    found = _kept(_object(asked, "Mounts"), MOUNT, "a mount")
    for name, known in MOUNT_OPTIONS.items():
        if found.get(name):
            found[name] = _kept(_object(found[name], name), known, name)
    return found


def _positive(found: Mapping[str, Any]) -> None:
    for name in POSITIVE:
        value = found.get(name) or 0
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InvalidRequest(f"{name}: a number, 0 or more")


def _kept(asked: Mapping[str, Any], known: Collection[str], what: str) -> Checked:
    for name, value in asked.items():
        if name not in known and not _says_nothing(value):
            allowed = ", ".join(sorted(known))
            raise InvalidRequest(f"{what}: {name[:64]} is for trusted tenants; others may set {allowed}")
    return {name: value for name, value in asked.items() if name in known}


def _says_nothing(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_says_nothing, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_says_nothing, value))
    return not value


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{what}: an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidRequest(f"{what}: a list")
    return value
