"""A run request, in Docker's words for a container, as placement's. Pure: what the cluster has is given."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Protocol

import msgspec

from qnet.errors import InvalidRequest, NotFound
from scheduler import policy
from scheduler.model import AUTO, Network, Request
from scheduler.rules import AFFINITY, CONSTRAINT, GROUP, SPREAD, Rules, is_rule, parse
from scheduler.targets import NETWORK, PATH, PORT, SCHEME, scrape
from scheduler.translate import CLAIM, TENANT, cpus, ports
from scheduler.translate import NAME as NAME_LABEL

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")  # dockerd's own, with an end
ID = re.compile(r"[0-9a-f]{64}")  # an engine would take that for one
IMAGE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_./:@-]{0,511}")
CONTAINER = "container:"  # of a network: another container's
BUILT_IN = frozenset({"", "default", "bridge", "host", "none", "nat"})
IP, STICKY, ANY = "qnet.ip", "sticky", "any"
OURS = re.compile(r"qnet\.[ -~]{1,32}")
LABELS = frozenset({CONSTRAINT, AFFINITY, SPREAD, GROUP, IP, PORT, PATH, SCHEME, NETWORK})  # those that are typed
ALIKE = 0.85  # as difflib measures it: a letter more, less or wrong
NONE = "none"
SIZE = re.compile(r"([0-9]{1,15})([bkmgt]?)b?")
SOURCE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class Known(Protocol):
    """What the cluster has, as far as a request can name it."""

    def network(self, name: str) -> Network | None:
        """The network of the cluster."""

    def network_tenant(self, name: str) -> str | None:
        """Whose a network is that some host has; None: no host has it."""

    def volume_tenant(self, name: str) -> str | None:
        """Whose a shared volume is; None: there is none."""

    def pinned(self, name: str) -> bool:
        """Whether a volume is on some hosts only."""


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A network, and an address on it: `auto`, `none` (what the engine's driver gives), or the address."""

    name: str
    address: str = AUTO


class Asked(msgspec.Struct, frozen=True):
    """What is placed, and what the engine is told: `body` makes the container, the `others` of its networks are
    connected before it starts, by name with their settings. `networks` are those that `wanted` may name."""

    request: Request
    body: dict[str, Any]
    others: tuple[tuple[str, dict[str, Any]], ...]


def ask(
    name: str,
    body: Mapping[str, Any],
    wishes: Iterable[Wish],
    tenant: str,
    platform: str,
    known: Known,
    *,
    operator: bool,
    powers: bool,
    beside: bool = False,
    hold: int,
    disk: int = 0,
    group: str = "",
) -> Asked:
    """Read a request.

    Args:
        body: what makes a container in Docker's API.
        wishes: networks on top of those that the body names.
        operator: whether the caller may name what belongs to others.
        powers: whether the container may have what gives power over its host.
        beside: whether it is placed beside a container whose network it may share.
        hold: seconds for which addresses are held for the name.
        disk: bytes that a host must have free, if the request does not ask for more (`--storage-opt size=`).
        group: what it is spread with, if its labels do not say.

    Raises:
        InvalidRequest: what is wrong, and what is allowed.
    """
    if ID.fullmatch(name):
        raise InvalidRequest(f"{name[:12]}…: a name of 64 hexadecimal digits is a container's id")
    if not NAME.fullmatch(name):
        raise InvalidRequest(f"{name[:64]!r} is no container name: letters, digits, _ . and -, up to 128")
    body = body if powers else policy.container(body)
    config, limits = dict(body), _table(body, "HostConfig")
    image = _text(config, "Image")
    if not IMAGE.fullmatch(image):
        raise InvalidRequest(f"Image {image[:64]!r}: give the name of an image")
    labels, rules = _labelled(config, tenant)
    wanted = _wishes(config, limits, wishes)
    shared = beside and any(network.startswith(CONTAINER) for network in wanted)
    if shared:
        wanted = {}
    else:
        _check_networks(wanted, tenant, known, operator)
    ours = {network: address for network, address in wanted.items() if network not in BUILT_IN}
    volumes = _volumes(limits, powers)
    for volume in volumes:
        _check_volume(volume, tenant, known, operator)
    cluster = [found for network in ours if (found := known.network(network))]
    request = Request(
        name=name,
        image=image,
        tenant=tenant,
        platform=platform,
        cpus=_number(cpus, limits, "CPUs"),
        memory=_count(limits, "Memory"),
        pids=max(0, _count(limits, "PidsLimit", least=-1)),
        disk=max(disk, _number(_storage, limits, "StorageOpt.size")),
        ports=tuple(_number(lambda found: tuple(ports(found.get("PortBindings"))), limits, "PortBindings")),
        networks=frozenset(ours),
        parents=frozenset(parent for network in cluster for parent in network.parents),
        pinned=frozenset(volume for volume in volumes if known.pinned(volume)),
        volumes=volumes,
        wanted={network: address for network, address in ours.items() if address != NONE},
        hold=_hold(labels, hold),
        labels=labels,
        group=labels.get(GROUP, group) if rules.spreads or GROUP in labels else "",
        constraints=rules.constraints,
        affinities=rules.affinities,
        spreads=rules.spreads,
    )
    return Asked(request, *_told(config, limits, ours))


def _labelled(config: dict[str, Any], tenant: str) -> tuple[dict[str, str], Rules]:
    """The container's labels without those that are qnet's to give, and its rules. `config` gets its tenant's label and
    has no rules among its variables any more."""
    labels, environment = texts(config, "Labels"), _list(config, "Env")
    for label in filter(OURS.fullmatch, labels):
        if label not in LABELS and (meant := get_close_matches(label, LABELS, 1, ALIKE)):
            raise InvalidRequest(f"label {label} means nothing: type {meant[0]}")
    rules = parse(labels, environment)
    scrape(labels)
    config["Env"] = [line for line in environment if not is_rule(line)]
    for label in (CLAIM, TENANT, NAME_LABEL):
        labels.pop(label, None)
    config["Labels"] = {**labels, TENANT: tenant}
    return labels, rules


def _told(
    config: dict[str, Any], limits: dict[str, Any], ours: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[tuple[str, dict[str, Any]], ...]]:
    """What the engine is told of networks: it takes one when it makes a container, older ones no more."""
    entries = _table(_table(config, "NetworkingConfig"), "EndpointsConfig")
    has = {name: dict(entry or {}) for name, entry in entries.items()}
    settings = {name: has.get(name, {}) for name in ours}
    config["HostConfig"] = limits
    if settings:
        first = str(limits.get("NetworkMode"))
        first = first if first in settings else next(iter(settings))
        limits["NetworkMode"] = first
        config["NetworkingConfig"] = {"EndpointsConfig": {first: settings.pop(first)}}
    return config, tuple(settings.items())


def with_addresses(settings: Mapping[str, Any], addresses: Iterable[str]) -> dict[str, Any]:
    """A network's settings with the addresses that are kept for the container."""
    ipam = {key: value for key, value in (settings.get("IPAMConfig") or {}).items() if "Address" not in key}
    for text in addresses:
        ipam["IPv6Address" if ipaddress.ip_address(text).version == 6 else "IPv4Address"] = text
    without = {key: value for key, value in settings.items() if key != "IPAMConfig"}
    return {**without, "IPAMConfig": ipam} if ipam else without


def _wishes(config: Mapping[str, Any], limits: Mapping[str, Any], wishes: Iterable[Wish]) -> dict[str, str]:
    """The networks asked for, in order, with the address on each."""
    found: dict[str, str] = {}
    mode = str(limits.get("NetworkMode") or "")
    if mode:
        found[mode] = AUTO
    for name, entry in _table(_table(config, "NetworkingConfig"), "EndpointsConfig").items():
        ipam = (entry or {}).get("IPAMConfig") or {}
        asked = str(ipam.get("IPv4Address") or ipam.get("IPv6Address") or "")
        if asked and name in BUILT_IN:
            raise InvalidRequest(f"an address on network {name or 'bridge'}: only networks of qnet have them")
        found[name] = asked or AUTO
    for wish in wishes:
        found[wish.name] = wish.address or AUTO
    for name, address in found.items():
        if address not in (AUTO, NONE):
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise InvalidRequest(f"address {address[:64]!r} on network {name}: auto, none or an address") from error
            if name in BUILT_IN:
                raise InvalidRequest(f"an address on network {name or 'bridge'}: only networks of qnet have them")
    return found


def _check_networks(wanted: Iterable[str], tenant: str, known: Known, operator: bool) -> None:
    names = list(wanted) or [""]
    for name in names:
        if name.startswith(CONTAINER):
            raise InvalidRequest(f"network {name[:64]}: only the front (DOCKER_HOST) places beside another container")
        if name in BUILT_IN:
            if not operator and name != NONE:
                raise InvalidRequest(
                    f"network {name or 'bridge'} is shared by all tenants: give one of your own, or none"
                )
            continue
        cluster = known.network(name)
        owner = cluster.tenant if cluster else known.network_tenant(name)
        if owner is None or (owner != tenant and not operator):
            raise NotFound(f"network {name[:64]!r} is not there: see qnet network ls")
        if owner != tenant:
            raise InvalidRequest(_whose("network", name, owner, tenant))


def _check_volume(name: str, tenant: str, known: Known, operator: bool) -> None:
    owner = known.volume_tenant(name)
    if not operator and known.pinned(name):  # that host's engine would take its own
        raise InvalidRequest(f"volume {name}: a host has one of its own of that name: make yours under another name")
    if owner == tenant or (owner is None and operator):
        return
    if operator:
        raise InvalidRequest(_whose("volume", name, owner, tenant))
    raise InvalidRequest(f"volume {name} is not there: make it with docker volume create -d sharedfs {name}")


def _whose(what: str, name: str, owner: str | None, tenant: str) -> str:
    return f"{what} {name} belongs to tenant {owner}, the container to {tenant}: add --tenant {owner}"


def _volumes(limits: Mapping[str, Any], powers: bool) -> tuple[str, ...]:
    """The named volumes; a folder of the host is for operators."""
    found: dict[str, None] = {}
    for bind in _list(limits, "Binds"):
        source = bind.partition(":")[0]
        if ":" in bind and SOURCE.fullmatch(source):
            found[source] = None
        elif source.startswith("/") and ":" not in bind:
            continue  # an anonymous volume
        elif not powers or not source.startswith("/"):
            raise InvalidRequest(f"mount {bind[:64]!r}: give VOLUME:PATH; folders of hosts are for trusted tenants")
    for mount in limits.get("Mounts") or ():
        kind, source = mount.get("Type"), mount.get("Source") or ""
        if kind == "volume" and source:
            if not SOURCE.fullmatch(source):
                raise InvalidRequest(f"volume {source[:64]!r}: letters, digits, _ . and -")
            found[source] = None
        elif kind not in ("volume", "tmpfs") and not powers:
            raise InvalidRequest(f"mount of type {str(kind)[:32]!r}: volume and tmpfs are allowed")
    return tuple(found)


def _hold(labels: Mapping[str, str], hold: int) -> int:
    chosen = labels.get(IP, STICKY)
    if chosen not in (STICKY, ANY):
        raise InvalidRequest(
            f"label {IP}={chosen[:32]}: {STICKY} (the next container of the name gets the address) or {ANY}"
        )
    return hold if chosen == STICKY else 0


def _storage(limits: Mapping[str, Any]) -> int:
    text = str((limits.get("StorageOpt") or {}).get("size") or "0")
    found = SIZE.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"{text[:32]!r}: a size such as 10G")
    return int(found[1]) << (10 * "bkmgt".index(found[2] or "b"))


# -- what JSON may hold -----------------------------------------------------------------------------------------


def _table(source: Mapping[str, Any], field: str) -> dict[str, Any]:
    value = source.get(field) or {}
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field}: an object")
    return dict(value)


def texts(source: Mapping[str, Any], field: str) -> dict[str, str]:
    """A field whose values are texts. Raises InvalidRequest: it is something else."""
    value = _table(source, field)
    if not all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()):
        raise InvalidRequest(f"{field}: an object of texts")
    return value


def _list(source: Mapping[str, Any], field: str) -> list[str]:
    value = source.get(field) or []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidRequest(f"{field}: a list of texts")
    return value


def _text(source: Mapping[str, Any], field: str) -> str:
    value = source.get(field) or ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{field}: a text")
    return value


def _count(source: Mapping[str, Any], field: str, least: int = 0) -> int:
    value = source.get(field) or 0
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 1 << 62:
        raise InvalidRequest(f"{field}: a number, {least} or more")
    return value


def _number(read: Callable[[Mapping[str, Any]], Any], source: Mapping[str, Any], what: str) -> Any:
    try:
        found = read(source)
    except (ValueError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise InvalidRequest(f"{what}: {error}") from error
    if isinstance(found, int) and found < 0:
        raise InvalidRequest(f"{what}: 0 or more")
    return found
