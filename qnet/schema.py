"""Every key and record that qnet keeps in the store; `docs/schema.md` is the same for people.

Keys start with `/qnet/v1/`. A record's `v` is the version of its format (1 where it is left out); readers ignore fields
that they do not know, so that two adjacent releases can run together. Subnets stand in keys with `-` for the `/`.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, TypeAlias, TypeVar

import msgspec

from qnet.errors import Internal

ROOT = "/qnet/v1/"
PLACEMENT = ROOT + "placement/"
POOLS = ROOT + "pools/"
CONTENTS = ROOT + "contents/"
MACS = ROOT + "macs/"
HOSTS = ROOT + "hosts/"
NETWORKS = ROOT + "networks/"
TENANTS = ROOT + "tenants/"
SEGMENTS = ROOT + "segments/"
VTEPS = ROOT + "vteps/"
LIMITS = ROOT + "limits/"
VOLUMES = ROOT + "volumes/"
VOLUME_SIZES = ROOT + "volume-sizes/"
VOLUME_POOLS = ROOT + "volume-pools/"
VOLUME_MOUNTS = ROOT + "volume-mounts/"
VOLUME_TRASH = ROOT + "volume-trash/"
VOLUME_HEALTH = ROOT + "volume-health/"
VOLUME_LOCKS = ROOT + "volume-locks/"
RESTORE = ROOT + "restore"

ADDRESS = "address/"
RESTING = "resting/"
USE = "use/"

SegmentKind: TypeAlias = Literal["vlan", "vni"]
Health: TypeAlias = Literal["up", "partial", "degraded", "down"]
Retain: TypeAlias = Literal["delete", "trash", "keep"]
Kind: TypeAlias = Literal["endpoint", "gateway", "auxiliary", "reservation", "held", "host", "quarantine"]


class TenantRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`tenants/NAME`: who owns networks. `vlan` or `vni` 0: it has none. `max_*` 0: no limit.

    `supernets` are what its subnets must lie in, and are carved from. `trusted` ones may take a parent for themselves.
    `egress` and `ingress` are its endpoints' limits where nothing else is said, in bits per second. `max_volumes`: in
    bytes, what its volumes may be limited to together. `max_cpus` in thousandths and `max_memory` in bytes: what its
    running containers may be promised together.
    """

    v: int = 1
    name: str
    since: str
    vlan: int = 0
    vni: int = 0
    supernets: tuple[str, ...] = ()
    max_addresses: int = 0
    max_networks: int = 0
    trusted: bool = False
    egress: int = 0
    ingress: int = 0
    max_volumes: int = 0
    max_cpus: int = 0
    max_memory: int = 0
    max_containers: int = 0


class SegmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`segments/KIND/ID`: the one tenant that has this VLAN id or VNI."""

    v: int = 1
    tenant: str


class VtepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`vteps/VNI/HOST`: the underlay address at which a host takes the frames of a VNI. Written by that host only."""

    v: int = 1
    address: str


class PoolRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`pools/TENANT/SUBNET`: a subnet that belongs to a tenant.

    `kept` pools were made by `qnet pool create` and stay when nobody uses them.
    """

    v: int = 1
    tenant: str
    subnet: str
    since: str
    gateway: str = ""
    exclude: tuple[str, ...] = ()
    kept: bool = False


class UseRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`contents/TENANT/SUBNET/use/HOST`: how many networks of a host's engine use the pool. Written by that host only.

    `shared` counts the networks that name each gateway or auxiliary address; 0 means named by an earlier
    instance of the engine, which has not asked again yet.
    """

    v: int = 1
    host: str
    engine: str
    networks: int
    shared: dict[str, int] = {}


class AddressRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`contents/TENANT/SUBNET/address/ADDRESS`: who has an address.

    `claim` is unique to each time the address is given out; `engine` is the engine instance that asked last;
    `asked` tells that the address was asked for by itself (`--ip`) or for a container's name, so it outlives a stop.
    `placement`: the claim of the placed container that it belongs to; placement gives it back, nobody else. `request`:
    the id of the request that placed it, as it stands in logs. Held for a name that no container has now, `host` is
    empty and the record ends with its lease.
    """

    v: int = 1
    kind: Kind
    host: str
    since: str
    claim: str
    engine: str = ""
    asked: bool = False
    network: str = ""
    endpoint: str = ""
    mac: str = ""
    container: str = ""
    container_id: str = ""
    note: str = ""
    placement: str = ""
    request: str = ""


class MacRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`macs/TENANT/MAC`: the claim of the address that has this MAC address."""

    v: int = 1
    address: str
    host: str
    claim: str


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`hosts/NAME`: the one machine that may act under this name."""

    v: int = 1
    name: str
    identity: str
    since: str


class NetworkRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`networks/HOST/ID`: a Docker network as one host has it. Written by that host only.

    `untagged`: the VLANs whose frames its parent was made by hand to carry.
    """

    v: int = 1
    id: str
    host: str
    tenant: str
    subnets: tuple[str, ...]
    name: str = ""
    gateways: tuple[str, ...] = ()
    driver_mode: str = "macvlan"
    vlan: int = 0
    vni: int = 0
    untagged: tuple[int, ...] = ()
    parent: str = ""
    macvlan_mode: str = "bridge"
    mtu: int = 0
    internal: bool = False
    host_access: bool = False
    host_addresses: tuple[str, ...] = ()
    nat: bool = False


class LimitRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`limits/ENDPOINT`: limits of a running endpoint in bits per second, over those that it was made with.

    0: none; None: as it was made. Deleted by its `host` with the endpoint.
    """

    v: int = 1
    host: str
    since: str
    egress: int | None = None
    ingress: int | None = None


class VolumePoolRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`volume-pools/NAME`: a Gluster volume that volumes are made in, and servers to ask for it."""

    v: int = 1
    name: str
    volume: str
    servers: tuple[str, ...]
    since: str


class VolumeRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`volumes/NAME`: a volume, or one that is being made (`ready` false: whoever asks for it goes on).

    `id` names its directory and is never used again. `size` in bytes and `inodes` 0: no limit. `mode` in octal digits.
    `source`: the volume that it began as a copy of, `source_id` until it is one. `strict`: its pool enforces limits at
    once. `bps` and `read_iops`: bytes each way and reads in a second on each host, 0: no limit. `restored`: its data
    lies in the trash until it is ready. `asked`: a host that cannot make it waits for one that can, which met `trouble`
    instead.
    """

    v: int = 1
    name: str
    id: str
    tenant: str
    pool: str
    since: str
    size: int = 0
    inodes: int = 0
    mode: str = "0755"
    uid: int = 0
    gid: int = 0
    retain: Retain = "trash"
    source: str = ""
    source_id: str = ""
    strict: bool = False
    bps: int = 0
    read_iops: int = 0
    ready: bool = False
    restored: bool = False
    asked: bool = False
    trouble: str = ""

    @property
    def awaited(self) -> bool:
        """Whether a host waits for it."""
        return self.asked and not self.ready


class MountRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`volume-mounts/NAME/HOST`: a host has the volume mounted. Written by that host only.

    `limited`: by a client whose rates can be limited. `restart`: the containers whose mount is that of a client that
    died.
    """

    v: int = 1
    host: str
    id: str
    since: str
    containers: tuple[str, ...] = ()
    limited: bool = False
    restart: tuple[str, ...] = ()


class HealthRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`volume-health/POOL`: how a pool was at a time, as the first host that looked then saw it.

    `state` is that of its worst set of replicas: all bricks up, some down, only a quorum left, or too few to serve.
    `heal`: files that are not the same on all replicas yet. `free` and `total` in bytes of data. `copies`: how often a
    client sends what it writes.
    """

    v: int = 1
    at: str
    host: str
    state: Health
    bricks: int
    bricks_up: int
    heal: int
    free: int
    total: int
    copies: float = 1.0


class TrashRecord(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """`volume-trash/ID`: a volume that was removed. `expires` empty: never. `moved`: its directory is in the trash."""

    v: int = 1
    volume: VolumeRecord
    removed: str
    expires: str = ""
    moved: bool = False


class RestoreRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`restore`: a restore is at work, and keeps the pools that it has taken away, by their keys. No pool is made while
    it is there."""

    v: int = 1
    host: str
    since: str
    pools: dict[str, msgspec.Raw]


RecordT = TypeVar("RecordT", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()


class _Versioned(msgspec.Struct):
    v: int = 1


class _Reader:
    """Decodes the records of a kind, up to the version that this release writes."""

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        self.decode = msgspec.json.Decoder(kind).decode
        fields = {field.name: field.default for field in msgspec.structs.fields(kind)}
        self.newest: int = fields.get("v", 1)


_readers: dict[type[msgspec.Struct], _Reader] = {}


def encode(record: msgspec.Struct) -> bytes:
    """The record as compact JSON."""
    return _encoder.encode(record)


def decode(data: bytes, kind: type[RecordT], key: str = "") -> RecordT:
    """The record of this kind.

    Raises:
        Internal: the data is not such a record, or one of a later release that this one would misunderstand.
    """
    reader = _readers.get(kind)
    if reader is None:
        reader = _readers[kind] = _Reader(kind)
    try:
        record = reader.decode(data)
    except msgspec.MsgspecError as error:
        _check_version(data, reader.newest, kind, key)
        raise Internal(f"damaged {kind.__name__} in the store{f' at {key}' if key else ''}: {error}") from error
    if getattr(record, "v", 1) > reader.newest:
        _check_version(data, reader.newest, kind, key)
    return record  # type: ignore[return-value]


def _check_version(data: bytes, newest: int, kind: type[msgspec.Struct], key: str) -> None:
    with suppress(msgspec.MsgspecError):
        found = msgspec.json.decode(data, type=_Versioned).v
        if found > newest:
            raise Internal(
                f"{kind.__name__}{f' at {key}' if key else ''} has version {found}, of a later release of qnet; this "
                f"one knows up to {newest}: upgrade this host (docs/upgrade.md)"
            )


def subnet_key(subnet: str) -> str:
    """A subnet as it stands in keys: `10.77.0.0-24`."""
    return subnet.replace("/", "-")


def subnet_of_key(part: str) -> str:
    """The subnet that a part of a key names."""
    return part.replace("-", "/")


def tenant_key(tenant: str) -> str:
    """Where a TenantRecord stands."""
    return TENANTS + tenant


def segment_key(kind: SegmentKind, number: int) -> str:
    """Where a SegmentRecord stands."""
    return f"{SEGMENTS}{kind}/{number}"


def pools_prefix(tenant: str = "") -> str:
    """All pool records, or those of one tenant."""
    return f"{POOLS}{tenant}/" if tenant else POOLS


def pool_key(tenant: str, subnet: str) -> str:
    """Where a PoolRecord stands."""
    return f"{POOLS}{tenant}/{subnet_key(subnet)}"


def contents_prefix(tenant: str, subnet: str) -> str:
    """Everything inside a pool: addresses, resting marks, uses."""
    return f"{CONTENTS}{tenant}/{subnet_key(subnet)}/"


def address_key(tenant: str, subnet: str, address: str = "") -> str:
    """Where an AddressRecord stands; without an address, the prefix of all of the pool."""
    return f"{contents_prefix(tenant, subnet)}{ADDRESS}{address}"


def resting_key(tenant: str, subnet: str, address: str = "") -> str:
    """The mark, under a lease, of an address that was released a short time ago."""
    return f"{contents_prefix(tenant, subnet)}{RESTING}{address}"


def use_key(tenant: str, subnet: str, host: str = "") -> str:
    """Where a UseRecord stands; without a host, the prefix of all of the pool."""
    return f"{contents_prefix(tenant, subnet)}{USE}{host}"


def mac_key(tenant: str, mac: str) -> str:
    """Where a MacRecord stands."""
    return f"{MACS}{tenant}/{mac}"


def host_key(host: str) -> str:
    """Where a HostRecord stands."""
    return HOSTS + host


def limit_key(endpoint: str) -> str:
    """Where a LimitRecord stands."""
    return LIMITS + endpoint


def tenant_contents_prefix(tenant: str) -> str:
    """Everything inside all pools of a tenant."""
    return f"{CONTENTS}{tenant}/"


def vtep_key(vni: int, host: str = "") -> str:
    """Where a VtepRecord stands; without a host, the prefix of all of the VNI."""
    return f"{VTEPS}{vni}/{host}"


def network_key(host: str, network: str = "") -> str:
    """Where a NetworkRecord stands; without a network, the prefix of all of the host."""
    return f"{NETWORKS}{host}/{network}"


def volume_key(name: str) -> str:
    """Where a VolumeRecord stands."""
    return VOLUMES + name


def volume_size_key(tenant: str, name: str = "") -> str:
    """A volume's size in bytes as text, by its tenant, written with the volume; without a name, the prefix of them."""
    return f"{VOLUME_SIZES}{tenant}/{name}"


def volume_pool_key(name: str) -> str:
    """Where a VolumePoolRecord stands."""
    return VOLUME_POOLS + name


def volume_mount_key(name: str, host: str = "") -> str:
    """Where a MountRecord stands; without a host, the prefix of all of the volume."""
    return f"{VOLUME_MOUNTS}{name}/{host}"


def volume_trash_key(volume_id: str) -> str:
    """Where a TrashRecord stands."""
    return VOLUME_TRASH + volume_id


def volume_health_key(pool: str) -> str:
    """Where a HealthRecord stands."""
    return VOLUME_HEALTH + pool


def volume_lock_key(pool: str) -> str:
    """Held, under a lease, by the host that runs the gluster command on a pool."""
    return VOLUME_LOCKS + pool
