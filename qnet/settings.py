"""The settings of every daemon: `/etc/qnet/qnet.toml`, overridden by the environment, overridden by the command line.

An option `timeout` of section `etcd` is overridden by `QNET_ETCD_TIMEOUT`, whose value is read as TOML and, if it is
not TOML, as text. What is unknown or wrong is refused. `qnet.options` says how options are described;
`docs/reference/settings.md` is made from this.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import msgspec

from qnet.errors import InvalidRequest
from qnet.options import Option, options_of, says
from qnet.reading import Reading

DEFAULT_FILE = Path("/etc/qnet/qnet.toml")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LINK = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")  # dev_valid_name() of the kernel, ASCII only
PREFIX = "QNET_"
OTHERS = ("QNET_LAB_", "QNET_DOCKER_CLI", "QNET_PYTHON")  # variables of a clone's tests and tools
PLACE = r"(\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]]+):[0-9]{1,5}"
NAMES = "lower-case letters, digits and -, up to 63"


def _like(form: str, pattern: str, **extra: bool) -> msgspec.Meta:
    return msgspec.Meta(pattern=rf"\A(?:{pattern})\Z", extra={"form": form, **extra})


File: TypeAlias = Annotated[str, msgspec.Meta(extra={"form": "names of files, or empty", "file": True})]
Key: TypeAlias = Annotated[str, msgspec.Meta(extra={"form": "names of files, or empty", "file": True, "secret": True})]
Folder: TypeAlias = Annotated[str, msgspec.Meta(extra={"form": "names of folders"})]
Socket: TypeAlias = Annotated[str, msgspec.Meta(extra={"form": "paths of unix sockets"})]
Link: TypeAlias = Annotated[str, _like("names of links, up to 15 characters", LINK.pattern)]
HostPort: TypeAlias = Annotated[str, _like("HOST:PORT", PLACE)]
Listen: TypeAlias = Annotated[str, _like("HOST:PORT, or empty", f"|{PLACE}")]
Ids: TypeAlias = Annotated[str, _like("FIRST-LAST", "[0-9]{1,8}(-[0-9]{1,8})?")]
Threads: TypeAlias = Annotated[int, says("Calls answered at once.", 4, 512)]
Weight: TypeAlias = Literal["room", "now", "hours", "image", "failures", "wishes", "apart"]


def _networks(tenants: Mapping[str, Sequence[str]]) -> None:
    for texts in tenants.values():
        for text in texts:
            ipaddress.ip_network(text)


class Host(msgspec.Struct, frozen=True):
    """This host."""

    name: Annotated[
        str,
        _like(NAMES, f"|{NAME.pattern}"),
        says("Its name in the cluster; unique. Empty: the machine's host name, up to the first dot."),
    ] = ""
    state_dir: Annotated[Folder, says("Networks, journal, identity: what must survive a reboot.")] = "/var/lib/qnet"
    run_dir: Annotated[Folder, says("Endpoints: what must not survive one.")] = "/run/qnet"


class Etcd(msgspec.Struct, frozen=True):
    """The cluster's store."""

    endpoints: Annotated[tuple[HostPort, ...], msgspec.Meta(min_length=1), says("Its members.")] = ("127.0.0.1:2379",)
    ca: Annotated[File, says("The authority that signed the members' certificates. Empty: no TLS.")] = ""
    cert: Annotated[File, says("This client's certificate.")] = ""
    key: Annotated[Key, says("The key of that certificate.")] = ""
    user: Annotated[str, says("One of etcd's own users. Empty: none.")] = ""
    password_file: Annotated[Key, says("The file that has that user's password.")] = ""
    timeout: Annotated[
        float, says("How long one call may take, over all members together.", 0.1, 4.5, unit="seconds")
    ] = 4.0


class Docker(msgspec.Struct, frozen=True):
    """The engine of this host, as qnet calls it."""

    socket: Annotated[Socket, says("Where it listens.")] = "/run/docker.sock"
    timeout: Annotated[float, says("How long one call may take.", 0.5, 120, unit="seconds")] = 10.0


class Network(msgspec.Struct, frozen=True):
    """The network plugin, `qnet-network`."""

    parent: Annotated[
        str, says("The parent of networks made without `-o parent=`: a link, or a name of `parents`. Empty: none.")
    ] = ""
    underlay: Annotated[
        str,
        says(
            "The link between the hosts, with an address, for networks of mode vxlan made without `-o parent=`. "
            "Empty: as `parent`."
        ),
    ] = ""
    parents: Annotated[
        dict[Annotated[str, _like(NAMES, NAME.pattern)], Link],
        says(
            "Names for links of this host that networks may give as their parent, so that they are made with the same "
            "words on hosts whose links have other names.",
            form=f'tables of NAME = LINK, as in {{trunk = "bond0"}}: names of {NAMES}, and of links, up to 15',
        ),
    ] = {}
    socket: Annotated[Socket, says("Where the engine finds the plugin; its name is the driver's.")] = (
        "/run/docker/plugins/qnet.sock"
    )
    threads: Threads = 64


class Volume(msgspec.Struct, frozen=True):
    """The volume plugin, `sharedfs`."""

    socket: Annotated[Socket, says("Where the engine finds the plugin; its name is the driver's.")] = (
        "/run/docker/plugins/sharedfs.sock"
    )
    threads: Threads = 32
    root: Annotated[Folder, says("Below it volumes are mounted; containers see what lies there.")] = (
        "/var/lib/qnet/mounts"
    )
    trash_days: Annotated[float, says("How long a removed volume can be undeleted.", 0, 3650, unit="days")] = 7.0
    repair_interval: Annotated[
        float, says("Time between two looks at the clients of this host.", 0.5, 3600, unit="seconds")
    ] = 5.0


class Ipam(msgspec.Struct, frozen=True):
    """Addresses."""

    rest: Annotated[int, says("How long a released address is not handed out again.", 1, 86400, unit="seconds")] = 60
    grace: Annotated[
        float,
        says(
            "Time between the two looks that must miss an endpoint before its address is released.",
            0,
            86400,
            unit="seconds",
        ),
    ] = 60.0
    repair_interval: Annotated[
        float,
        says("Time between comparisons with the engine, besides those after its events.", 0.1, 3600, unit="seconds"),
    ] = 30.0
    probe_wait: Annotated[
        float,
        says(
            "How long networks with `-o arp_probe=true` wait for an answer, for each address.", 0.05, 2, unit="seconds"
        ),
    ] = 0.3
    subnet_prefix: Annotated[int, says("Size of an IPv4 subnet carved from a supernet.", 8, 30, unit="bits")] = 24
    subnet_prefix6: Annotated[int, says("Size of an IPv6 subnet carved from a supernet.", 32, 126, unit="bits")] = 64
    supernets: Annotated[
        dict[str, tuple[str, ...]],
        says(
            "By tenant: networks to carve from, for tenants that `qnet tenant` gave none.",
            form='tables of TENANT = [NETWORK/PREFIX, ...], as in {default = ["10.128.0.0/12"]}',
            check=_networks,
        ),
    ] = {}


class Tenants(msgspec.Struct, frozen=True):
    """From where `qnet tenant create` takes ids."""

    vlans: Annotated[Ids, says("For `--vlan auto`.", live=True)] = "2-4094"
    vnis: Annotated[Ids, says("For `--vni auto`.", live=True)] = "4096-16777215"


class Agent(msgspec.Struct, frozen=True):
    """The agent of placement on this host, `qnet-agent`."""

    listen: Annotated[HostPort, says("Where it relays calls of schedulers for the engine.")] = "0.0.0.0:7443"
    address: Annotated[
        Listen, says("Where schedulers are told to find it. Empty: the host's name with the port of `listen`.")
    ] = ""
    ca: Annotated[File, says("The cluster's authority.")] = "/etc/qnet/tls/ca.pem"
    cert: Annotated[File, says("This host's certificate.")] = "/etc/qnet/tls/host.pem"
    key: Annotated[Key, says("The key of that certificate.")] = "/etc/qnet/tls/host.key"
    labels: Annotated[
        dict[str, str], says("What rules may ask for.", form='tables of LABEL = TEXT, as in {rack = "r1"}')
    ] = {}
    tenants: Annotated[tuple[str, ...], says("Who may use this host. Empty: everybody.")] = ()
    down_after: Annotated[
        int, says("How long without a word from it before the host counts as down.", 3, 3600, unit="seconds")
    ] = 10
    usage_interval: Annotated[
        float, says("Time between two reports of how busy the host is.", 0.2, 3600, unit="seconds")
    ] = 10.0
    disk: Annotated[Folder, says("The folder whose file system's room counts.")] = "/var/lib/docker"
    collect_after: Annotated[
        float,
        says(
            "How long exited containers that qnet has placed stay before they are removed. 0: for ever.",
            0,
            10 * 365 * 86400,
            unit="seconds",
        ),
    ] = 0.0
    collect_keep: Annotated[int, says("How many of the youngest of them stay.", 0, 1_000_000)] = 0
    collect_label: Annotated[str, says("Those with this label stay.")] = "qnet.keep"


class Scheduler(msgspec.Struct, frozen=True):
    """The placement service, `qnet-scheduler`, and how it fills hosts."""

    socket: Annotated[Socket, says("Where it serves users of this host.")] = "/run/qnet/scheduler.sock"
    group: Annotated[str, says("The group that may use the socket besides root. Empty: none.")] = ""
    threads: Threads = 48
    listen: Annotated[
        Listen, says("Where it serves those who have a certificate of an operator or a tenant. Empty: nowhere.")
    ] = ""
    ca: Annotated[File, says("The cluster's authority.")] = "/etc/qnet/tls/ca.pem"
    cert: Annotated[File, says("Its certificate, which it also shows to agents.")] = "/etc/qnet/tls/scheduler.pem"
    key: Annotated[Key, says("The key of that certificate.")] = "/etc/qnet/tls/scheduler.key"
    hold: Annotated[
        int,
        says(
            "How long an address is held for a name after its container was removed. 0: not.",
            0,
            365 * 86400,
            unit="seconds",
        ),
    ] = 86400
    timeout: Annotated[
        float,
        says("How long an engine may take to answer; the front gives changes and `df` 600 s.", 1, 600, unit="seconds"),
    ] = 60.0
    pull_timeout: Annotated[float, says("How long a pull may go on without a word.", 1, 3600, unit="seconds")] = 120.0
    audit: Annotated[str, says("The file that every change is written to. Empty: the log.")] = ""
    strategy: Annotated[
        Literal["spread", "binpack"], says("The emptiest host first, or the fullest that still has room.")
    ] = "spread"
    overcommit_cpus: Annotated[float, says("How much of a host's CPUs may be promised; 1.0: all.", 0.1, 100)] = 1.0
    overcommit_memory: Annotated[float, says("The same for its memory.", 0.1, 100)] = 1.0
    disk_free: Annotated[
        float,
        says("What a host must have free (`agent.disk`), if a request does not ask for more.", 0, 1 << 20, unit="GiB"),
    ] = 1.0
    weights: Annotated[
        dict[Weight, Annotated[float, msgspec.Meta(ge=0, le=1000)]],
        says(
            "Weights of the scores by which a host is chosen. Those left out: room 10, now 3, hours 1, image 1, "
            "failures 5, wishes 20, apart 40."
        ),
    ] = {}


class Gateway(msgspec.Struct, frozen=True):
    """The front, `qnet-gateway`: Docker's API for the fleet. It places with the settings of `[scheduler]`, and reaches
    agents with the certificate there."""

    socket: Annotated[Socket, says("Where it serves users of this host.")] = "/run/qnet/docker.sock"
    group: Annotated[str, says("The group that may use the socket besides root, as an operator. Empty: none.")] = ""
    listen: Annotated[
        Listen,
        says(
            "Where it serves docker clients with a certificate of an operator or a tenant, such as `0.0.0.0:2376`. "
            "Empty: nowhere."
        ),
    ] = ""
    ca: Annotated[File, says("The cluster's authority.")] = "/etc/qnet/tls/ca.pem"
    cert: Annotated[File, says("Its certificate for clients.")] = "/etc/qnet/tls/scheduler.pem"
    key: Annotated[Key, says("The key of that certificate.")] = "/etc/qnet/tls/scheduler.key"


class Client(msgspec.Struct, frozen=True):
    """Where the command `qnet` finds the placement service."""

    url: Annotated[
        str,
        says(
            "Its address, for a certificate of an operator or tenant. Empty: the socket of this host.",
            form="https://HOST:PORT, or empty",
            live=True,
        ),
    ] = ""
    ca: Annotated[File, says("The cluster's authority.", live=True)] = "/etc/qnet/tls/ca.pem"
    cert: Annotated[File, says("The user's certificate.", live=True)] = "/etc/qnet/tls/client.pem"
    key: Annotated[Key, says("The key of that certificate.", live=True)] = "/etc/qnet/tls/client.key"


class Metrics(msgspec.Struct, frozen=True):
    """Where each daemon serves its Prometheus metrics, besides `GET /metrics` on its unix socket. On an address that is
    not loopback only by TLS, with `agent.cert`, to operators' certificates of `agent.ca`. Empty: nowhere else."""

    network: Annotated[Listen, says("`qnet-network`.")] = "127.0.0.1:9470"
    volume: Annotated[Listen, says("`sharedfs`.")] = "127.0.0.1:9471"
    agent: Annotated[Listen, says("`qnet-agent`.")] = "127.0.0.1:9472"
    scheduler: Annotated[Listen, says("`qnet-scheduler`.")] = "127.0.0.1:9473"
    gateway: Annotated[Listen, says("`qnet-gateway`.")] = "127.0.0.1:9474"


class Log(msgspec.Struct, frozen=True):
    """What is logged, to standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], says("The least level that is logged.", live=True)
    ] = "info"


class Settings(msgspec.Struct, frozen=True):
    """All settings of one host."""

    host: Host = Host()
    etcd: Etcd = Etcd()
    docker: Docker = Docker()
    network: Network = Network()
    volume: Volume = Volume()
    ipam: Ipam = Ipam()
    tenants: Tenants = Tenants()
    agent: Agent = Agent()
    scheduler: Scheduler = Scheduler()
    gateway: Gateway = Gateway()
    client: Client = Client()
    metrics: Metrics = Metrics()
    log: Log = Log()


@dataclass(frozen=True, slots=True)
class Change:
    """An option that differs, and whether daemons take it over only by a restart."""

    option: str
    before: Any
    after: Any
    restart: bool


@cache
def sections() -> Mapping[str, type[msgspec.Struct]]:
    """What declares each section, in their order."""
    return get_type_hints(Settings)


@cache
def options() -> tuple[Option, ...]:
    """Every option, in their order."""
    return options_of(sections())


def read(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Reading:
    """What the settings file and the environment say. Without `file`, the default one is read if it is there.

    Raises:
        InvalidRequest: the file cannot be read, or is not TOML.
    """
    found = Reading(options())
    if chosen := file or (DEFAULT_FILE if DEFAULT_FILE.exists() else None):
        found.take_file(chosen)
    found.take_environment(os.environ if environment is None else environment, PREFIX, OTHERS)
    if not found.tree.get("host", {}).get("name"):
        found.take(
            "host", "name", socket.gethostname().partition(".")[0].lower() or "-", lambda _: "the machine's host name"
        )
    return found


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Without `file`, the default one is read if it is there.

    Raises:
        InvalidRequest: naming every mistake, with its file and line or variable, and what is allowed.
    """
    found = read(file, environment)
    if found.mistakes:
        raise InvalidRequest(f"settings: {'; '.join(found.mistakes)}")
    return msgspec.convert(found.tree, Settings)


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """The options that differ."""
    pairs = (
        (option, *(getattr(getattr(one, option.section), option.name) for one in (old, new))) for option in options()
    )
    return tuple(Change(option.path, was, now, not option.live) for option, was, now in pairs if was != now)


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """The command line of a daemon."""
    made = argparse.ArgumentParser(prog=program, description=description)
    made.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings file (default: {DEFAULT_FILE}, if it exists)"
    )
    return made
