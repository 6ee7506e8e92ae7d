"""What `qnet support-dump` may tell others. Of an engine's objects, fields are named here one by one, and all others
stay on the host; of what users write freely, only the names. Texts go through `scrubbed` besides. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from qnet import schema

HIDDEN = "***"
OWN = ("qnet.", "com.docker.compose.project", "com.docker.compose.service")  # labels whose values are placement's
OPTIONS = ("parent", "mode", "macvlan_mode", "mtu", "vlan", "nat", "host_access", "arp_probe", "tenant", "exclude")
NAMES_ONLY = ("labels", "options", "ipam_options")  # of records: their values are what users make of them
SECRET_FIELDS = ("identity",)  # of records: whoever has it acts as that machine

Allowed: TypeAlias = "bool | Mapping[str, Allowed]"
"""True: a plain value, or a list of such. A table: these fields, `*`: each; of a list, those of each element."""

INFO: Allowed = {
    **dict.fromkeys(("ServerVersion", "Name", "Driver", "DriverStatus", "CgroupDriver", "CgroupVersion"), True),
    **dict.fromkeys(("KernelVersion", "Architecture", "OperatingSystem", "OSType", "NCPU", "MemTotal", "Images"), True),
    **dict.fromkeys(("Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped", "Warnings"), True),
    **dict.fromkeys(("LiveRestoreEnabled", "DockerRootDir", "SystemTime", "NFd", "NGoroutines"), True),
    "Plugins": {"Volume": True, "Network": True},
    "Swarm": {"LocalNodeState": True},
}
NETWORK: Allowed = {
    **dict.fromkeys(("Name", "Id", "Created", "Scope", "Driver", "EnableIPv6", "Internal", "Attachable"), True),
    "IPAM": {"Driver": True, "Config": dict.fromkeys(("Subnet", "IPRange", "Gateway"), True)},
    "Options": dict.fromkeys(OPTIONS, True),
}
CONTAINER: Allowed = {
    **dict.fromkeys(("Id", "Name", "Created", "Image", "RestartCount", "Driver"), True),
    "Config": {"Image": True},
    "State": {
        **dict.fromkeys(("Status", "Running", "Paused", "Restarting", "OOMKilled", "Dead", "Pid"), True),
        **dict.fromkeys(("ExitCode", "StartedAt", "FinishedAt"), True),
    },
    "HostConfig": {
        **dict.fromkeys(("NetworkMode", "NanoCpus", "Memory", "PidsLimit", "AutoRemove", "Runtime"), True),
        "RestartPolicy": {"Name": True, "MaximumRetryCount": True},
        "PortBindings": {"*": {"HostIp": True, "HostPort": True}},
    },
    "NetworkSettings": {
        "SandboxKey": True,
        "Networks": {
            "*": dict.fromkeys(
                ("NetworkID", "EndpointID", "IPAddress", "GlobalIPv6Address", "Gateway", "MacAddress"), True
            )
        },
    },
    "Mounts": dict.fromkeys(("Type", "Name", "Destination", "Driver", "RW"), True),
}
KINDS = (  # records whose fields are known to hold nothing secret; of others, only the key is told
    *(schema.POOLS, schema.CONTENTS, schema.MACS, schema.HOSTS, schema.NETWORKS, schema.TENANTS, schema.SEGMENTS),
    *(schema.VTEPS, schema.LIMITS, schema.VOLUMES, schema.VOLUME_SIZES, schema.VOLUME_POOLS, schema.VOLUME_MOUNTS),
    *(schema.VOLUME_TRASH, schema.VOLUME_HEALTH, schema.VOLUME_LOCKS, schema.PLACEMENT),
)
PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
IN_URL = re.compile(r"(?<=://)[^/\s@\"']+(?=@)")
CREDENTIALS = re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{6,}|(?<=basic )[\w.~+/=-]{6,}")
NAMED = re.compile(
    r"(?i)((?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|registry-auth|authorization)"
    r"(?![\w-]*_file\b)[\w-]{0,20}[\"']?\s*[=:]\s*)"
    r"(?:(\")(?:[^\"\\]|\\.)*\"|(')(?:[^'\\]|\\.)*'|[^\s\"',;&]+)"
)


def scrubbed(text: str) -> str:
    """A text without what looks like a secret: private keys, user and password in a URL, `password=…`."""
    for pattern in (PRIVATE_KEY, IN_URL, CREDENTIALS):
        text = pattern.sub(HIDDEN, text)
    return NAMED.sub(lambda found: found[1] + HIDDEN.join([found[2] or found[3] or ""] * 2), text)


def picked(value: Any, allowed: Allowed) -> Any:
    """Of an object of an engine, what is allowed; its labels too, those of others by their names."""
    if isinstance(value, list):
        return [picked(one, allowed) for one in value]
    if isinstance(allowed, bool):
        return value if allowed and not isinstance(value, dict) else None
    if not isinstance(value, dict):
        return None
    return {
        name: picked(one, allowed.get(name, allowed.get("*", False)))
        for name, one in value.items()
        if name in allowed or "*" in allowed
    }


def labels(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Labels with their values if they are placement's, otherwise only their names."""
    return {name: value if name.startswith(OWN) or name in OPTIONS else HIDDEN for name, value in (found or {}).items()}


def record(key: str, value: bytes) -> Any:
    """A record of the store as it may be told, or its text if it is no JSON."""
    if not key.startswith(KINDS):
        return HIDDEN
    try:
        return known(json.loads(value))
    except ValueError:
        return value.decode(errors="replace")


def known(value: Any) -> Any:
    """The same of anything that qnet has written."""
    if isinstance(value, list):
        return [known(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        name: HIDDEN if name in SECRET_FIELDS else labels(one) if name in NAMES_ONLY and one else known(one)
        for name, one in value.items()
    }
