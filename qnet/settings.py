"""The settings of every daemon: `/etc/qnet/qnet.toml`, overridden by the environment, overridden by the command line.

An option `timeout` of section `etcd` is overridden by `QNET_ETCD_TIMEOUT`, whose value is read as TOML and, if it is
not TOML, as text. Unknown options and wrong types are refused. `docs/reference.md` lists every option.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from qnet.errors import InvalidRequest

DEFAULT_FILE = Path("/etc/qnet/qnet.toml")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LINK = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}")  # dev_valid_name() of the kernel, ASCII only


class Host(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """This host. `name` must be unique in the cluster; empty: the machine's host name."""

    name: str = ""
    state_dir: str = "/var/lib/qnet"
    run_dir: str = "/run/qnet"


class Etcd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The cluster's store. `timeout` (seconds) bounds each call, over all endpoints together."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    timeout: float = 4.0


class Docker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The engine of this host, as qnet calls it. `timeout` in seconds."""

    socket: str = "/run/docker.sock"
    timeout: float = 10.0


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network plugin. `parent` is used by networks made without `-o parent=`, `underlay` by those of mode vxlan.

    `parents`: what stands for which link of this host, so that networks are made with the same words on hosts whose
    links have other names.
    """

    parent: str = ""
    underlay: str = ""
    parents: dict[str, str] = {}
    socket: str = "/run/docker/plugins/qnet.sock"
    threads: int = 64


class Volume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The volume plugin. Below `root` it mounts; containers see what lies there. `trash_days`: how long a removed
    volume can be undeleted. `repair_interval`: seconds between two looks at the clients of this host.
    """

    socket: str = "/run/docker/plugins/sharedfs.sock"
    threads: int = 32
    root: str = "/var/lib/qnet/mounts"
    trash_days: float = 7.0
    repair_interval: float = 5.0


class Ipam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Addresses. Times in seconds; `subnet_prefix*` is the size of a subnet carved from a supernet.

    `rest`: a released address is not handed out again for so long. `grace`: a record whose endpoint is missing is
    released when it was missed twice, this far apart. `repair_interval`: how often to compare with the engine.
    `probe_wait`: how long networks with `arp_probe` wait for an answer.
    """

    rest: int = 60
    grace: float = 60.0
    repair_interval: float = 30.0
    probe_wait: float = 0.3
    subnet_prefix: int = 24
    subnet_prefix6: int = 64
    supernets: dict[str, tuple[str, ...]] = {}


class Agent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The agent of placement on this host. Schedulers reach its engine at `listen`, by certificates of `ca`; others are
    told to do so at `address`, HOST:PORT (empty: the host's name and the port of `listen`).

    `labels`: what rules may ask for, such as `rack`. `tenants`: who may use the host, empty: everybody. `down_after`:
    seconds without a word from it after which the host counts as down. `usage_interval`: seconds between two reports.
    `disk`: the folder whose file system's room counts. `collect_after`: seconds after which exited containers that
    qnet has placed are removed, 0: never; of them, `collect_keep` (the youngest) and those with the label
    `collect_label` stay.
    """

    listen: str = "0.0.0.0:7443"
    address: str = ""
    ca: str = "/etc/qnet/tls/ca.pem"
    cert: str = "/etc/qnet/tls/host.pem"
    key: str = "/etc/qnet/tls/host.key"
    labels: dict[str, str] = {}
    tenants: tuple[str, ...] = ()
    down_after: int = 10
    usage_interval: float = 10.0
    disk: str = "/var/lib/docker"
    collect_after: float = 0.0
    collect_keep: int = 0
    collect_label: str = "qnet.keep"


class Scheduler(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The placement service: on a unix socket for users of this host (of `group`), and with `listen` (HOST:PORT) for
    those who have a certificate of `ca`.

    `hold`: seconds for which an address is held for a container's name after it was removed. `timeout`: seconds that an
    engine may take to answer, `pull_timeout`: without a word of a pull. `disk_free`: GiB that a host must have.
    `audit`: the file that every change is written to; empty: to the log. The others are those of
    `scheduler.model.Policy`.
    """

    socket: str = "/run/qnet/scheduler.sock"
    group: str = ""
    threads: int = 48
    listen: str = ""
    ca: str = "/etc/qnet/tls/ca.pem"
    cert: str = "/etc/qnet/tls/scheduler.pem"
    key: str = "/etc/qnet/tls/scheduler.key"
    hold: int = 86400
    timeout: float = 60.0
    pull_timeout: float = 120.0
    audit: str = ""
    strategy: Literal["spread", "binpack"] = "spread"
    overcommit_cpus: float = 1.0
    overcommit_memory: float = 1.0
    disk_free: float = 1.0
    weights: dict[str, float] = {}


class Gateway(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The front, Docker's API for the fleet. It places with the settings of `[scheduler]`, and reaches agents with the
    certificates there.

    `group` may use the socket too, which is as much as being an operator. At `listen` (HOST:PORT) it serves whoever
    shows a certificate of an operator or tenant; empty: nobody.
    """

    socket: str = "/run/qnet/docker.sock"
    group: str = ""
    listen: str = ""
    ca: str = "/etc/qnet/tls/ca.pem"
    cert: str = "/etc/qnet/tls/scheduler.pem"
    key: str = "/etc/qnet/tls/scheduler.key"


class Client(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the command `qnet` finds the placement service: `url`, https://HOST:PORT, with a certificate of an operator
    or tenant; empty: the socket of this host."""

    url: str = ""
    ca: str = "/etc/qnet/tls/ca.pem"
    cert: str = "/etc/qnet/tls/client.pem"
    key: str = "/etc/qnet/tls/client.key"


class Tenants(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From where `qnet tenant create --vlan auto` and `--vni auto` take an id: FIRST-LAST."""

    vlans: str = "2-4094"
    vnis: str = "4096-16777215"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    log: Log = Log()


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Without `file`, the default one is read if it is there.

    Raises:
        InvalidRequest: naming the file or variable, the option and what is allowed.
    """
    environment = os.environ if environment is None else environment
    tree = _read(file) if file else (_read(DEFAULT_FILE) if DEFAULT_FILE.exists() else {})
    source = str(file or DEFAULT_FILE)
    for variable, text in environment.items():
        section, _, option = variable.removeprefix("QNET_").lower().partition("_")
        if variable.startswith("QNET_") and section in Settings.__struct_fields__ and option:
            tree.setdefault(section, {})[option] = _value(text)
            source += f", {variable}"
    try:
        settings = msgspec.convert(tree, Settings)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"settings ({source}): {error}{_allowed(str(error))}") from error
    return _checked(settings, source)


def from_command_line(program: str, description: str, argv: Sequence[str] | None = None) -> Settings:
    """The settings of a daemon that takes `--config FILE` and nothing else."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--config", type=Path, help=f"settings file (default: {DEFAULT_FILE}, if it exists)")
    return load(parser.parse_args(argv).config)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidRequest(f"settings file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"settings file {file} is not TOML: {error}") from error


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _allowed(message: str) -> str:
    """The options of the section that an unknown option stands in."""
    if "unknown field" not in message:
        return ""
    place = message.rpartition("`$.")[2].rstrip("`") if "`$." in message else ""
    section = getattr(Settings(), place, None) if place else Settings()
    fields = getattr(section, "__struct_fields__", ())
    return f"; it may have: {', '.join(fields)}" if fields else ""


def _checked(settings: Settings, source: str) -> Settings:
    name = settings.host.name or socket.gethostname().partition(".")[0].lower()
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            f"settings ({source}): host.name {name!r} is no host name: lower-case letters, digits and -, up to 63"
        )
    if not settings.etcd.endpoints:
        raise InvalidRequest(f"settings ({source}): etcd.endpoints is empty: give at least one HOST:PORT")
    for parent, link in settings.network.parents.items():
        if not (NAME.fullmatch(parent) and LINK.fullmatch(link)):
            raise InvalidRequest(
                f"settings ({source}): network.parents: {parent} = {link!r}: a name of lower-case letters, digits and "
                f"-, up to 63, and the name of a link of this host, up to 15"
            )
    for tenant, supernets in settings.ipam.supernets.items():
        for text in supernets:
            try:
                ipaddress.ip_network(text)
            except ValueError as error:
                raise InvalidRequest(f"settings ({source}): ipam.supernets.{tenant}: {error}") from error
    bounds = {
        "etcd.timeout": (settings.etcd.timeout, 0.1, 4.5),
        "docker.timeout": (settings.docker.timeout, 0.5, 120),
        "network.threads": (settings.network.threads, 4, 512),
        "volume.threads": (settings.volume.threads, 4, 512),
        "volume.trash_days": (settings.volume.trash_days, 0, 3650),
        "volume.repair_interval": (settings.volume.repair_interval, 0.5, 3600),
        "agent.down_after": (settings.agent.down_after, 3, 3600),
        "agent.usage_interval": (settings.agent.usage_interval, 0.2, 3600),
        "agent.collect_after": (settings.agent.collect_after, 0, 10 * 365 * 86400),
        "agent.collect_keep": (settings.agent.collect_keep, 0, 1_000_000),
        "scheduler.threads": (settings.scheduler.threads, 4, 512),
        "scheduler.hold": (settings.scheduler.hold, 0, 365 * 86400),
        "scheduler.timeout": (settings.scheduler.timeout, 1, 600),
        "scheduler.pull_timeout": (settings.scheduler.pull_timeout, 1, 3600),
        "scheduler.disk_free": (settings.scheduler.disk_free, 0, 1 << 20),
        "scheduler.overcommit_cpus": (settings.scheduler.overcommit_cpus, 0.1, 100),
        "scheduler.overcommit_memory": (settings.scheduler.overcommit_memory, 0.1, 100),
        "ipam.rest": (settings.ipam.rest, 1, 86400),
        "ipam.grace": (settings.ipam.grace, 0, 86400),
        "ipam.repair_interval": (settings.ipam.repair_interval, 0.1, 3600),
        "ipam.probe_wait": (settings.ipam.probe_wait, 0.05, 2),
        "ipam.subnet_prefix": (settings.ipam.subnet_prefix, 8, 30),
        "ipam.subnet_prefix6": (settings.ipam.subnet_prefix6, 32, 126),
    }
    for option, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise InvalidRequest(f"settings ({source}): {option} is {value}; allowed: {low} to {high}")
    return msgspec.structs.replace(settings, host=msgspec.structs.replace(settings.host, name=name))
