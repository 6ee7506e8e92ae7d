"""What Docker says, as values of placement: its networks, its containers. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from qnet.addresses.model import PoolId
from qnet.engine import ADDRESS_SPACE, RUNNING
from qnet.tenants import DEFAULT
from scheduler.model import Container, Net, Network, Port, called
from scheduler.rules import GROUP

CLAIM, NAME, TENANT, ID = "qnet.claim", "qnet.name", "qnet.tenant", "qnet.network"
PLATFORMS = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7", "i386": "386", "i686": "386"}
NEVER = "0001-01-01"


def platform(info: Mapping[str, Any]) -> str:
    """Such as linux/amd64, of what the engine says of itself."""
    machine = info.get("Architecture", "")
    return f"{info.get('OSType', 'linux')}/{PLATFORMS.get(machine, machine)}"


def net(inspected: Mapping[str, Any]) -> Net:
    """A network as its engine has it."""
    ipam = inspected.get("IPAM") or {}
    given = (ipam.get("Options") or {}).get("tenant", DEFAULT)
    tenant = (inspected.get("Options") or {}).get("tenant", given)
    if ipam.get("Driver") != ADDRESS_SPACE:
        return Net(tenant, inspected.get("Driver", ""))
    exclude = tuple(filter(None, (ipam.get("Options") or {}).get("exclude", "").split(",")))
    pools = tuple(
        str(_pool(given, entry, exclude if number == 0 else ())) for number, entry in enumerate(_configs(ipam))
    )
    return Net(tenant, inspected.get("Driver", ""), pools)


def _configs(ipam: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in ipam.get("Config") or () if entry.get("Subnet")]


def _pool(tenant: str, entry: Mapping[str, Any], exclude: tuple[str, ...]) -> PoolId:
    subnet = ipaddress.ip_network(entry["Subnet"], strict=False)
    part = ipaddress.ip_network(entry["IPRange"], strict=False) if entry.get("IPRange") else None
    return PoolId(tenant, subnet, None if part == subnet else part, exclude)


def network_body(network: Network) -> dict[str, Any]:
    """What makes a network of the cluster on an engine."""
    return {
        "Name": network.name,
        "CheckDuplicate": True,
        "Driver": network.driver,
        "Internal": network.internal,
        "EnableIPv6": network.ipv6,
        "Options": dict(network.options),
        "Labels": {**network.labels, ID: network.id},
        "IPAM": {
            "Driver": ADDRESS_SPACE,
            "Options": dict(network.ipam_options),
            "Config": [dict(entry) for entry in network.subnets],
        },
    }


def container(inspected: Mapping[str, Any], host: str) -> Container:
    """A container as its engine has it. Those that qnet placed say so by a label."""
    config, limits = inspected.get("Config") or {}, inspected.get("HostConfig") or {}
    state, labels = inspected.get("State") or {}, dict(config.get("Labels") or {})
    status = state.get("Status", "")
    name = inspected.get("Name", "").lstrip("/")
    if labels.get(CLAIM) and called(labels.get(NAME, "")) == name:
        name = labels[NAME]
    places = (inspected.get("NetworkSettings") or {}).get("Networks") or {}
    return Container(
        name=name,
        host=host,
        claim=labels.get(CLAIM, ""),
        id=inspected["Id"],
        state=status,
        exit=int(state.get("ExitCode") or 0),
        changed=changed(state),
        since=str(inspected.get("Created", ""))[:19],
        tenant=labels.get(TENANT, DEFAULT),
        image=config.get("Image", ""),
        running=status in RUNNING,
        cpus=cpus(limits),
        memory=int(limits.get("Memory") or 0),
        pids=max(0, int(limits.get("PidsLimit") or 0)),
        ports=tuple(ports(limits.get("PortBindings"))),
        ips={name: ip for name, entry in sorted(places.items()) if (ip := (entry or {}).get("IPAddress"))},
        networks=tuple(sorted(places)),
        volumes=tuple(mount["Name"] for mount in inspected.get("Mounts") or () if mount.get("Name")),
        labels=labels,
        group=labels.get(GROUP, ""),
    )


def changed(state: Mapping[str, Any]) -> str:
    """When it last started or ended."""
    times = (str(state.get(name) or "") for name in ("StartedAt", "FinishedAt"))
    return max((time[:19] for time in times if not time.startswith(NEVER)), default="")


def was_started(inspected: Mapping[str, Any]) -> bool:
    """Whether it runs or has run."""
    started = str((inspected.get("State") or {}).get("StartedAt") or NEVER)
    return not started.startswith(NEVER)


def cpus(limits: Mapping[str, Any]) -> int:
    """Thousandths of a CPU that `--cpus`, or a quota, allows; 0: no limit."""
    if limits.get("NanoCpus"):
        return int(limits["NanoCpus"]) // 1_000_000
    quota = int(limits.get("CpuQuota") or 0)
    return 1000 * quota // (int(limits.get("CpuPeriod") or 0) or 100_000) if quota > 0 else 0


def ports(bindings: Mapping[str, Iterable[Mapping[str, str]] | None] | None) -> Iterable[Port]:
    """The ports of the host that a container is to have, those that the engine is to choose left out."""
    for inside, places in (bindings or {}).items():
        protocol = inside.partition("/")[2] or "tcp"
        for place in places or ():
            first, _, last = str(place.get("HostPort") or "").partition("-")
            if first.isdigit() and (not last or last == first):
                yield protocol, int(first)
