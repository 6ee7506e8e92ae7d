"""Checks of this machine: engine, plugin, kernel, parents of networks, releases that wait."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import msgspec

from plugins.cli import unixhttp
from plugins.cli.health import Finding, Level
from plugins.ipam.journal import Journal
from plugins.network import nat
from plugins.network.admission import Admission
from plugins.network.model import BRIDGED, Ask, ModeName, Network
from plugins.network.plan import Link, check_parent
from plugins.network.ports import Owners
from qnet import settings
from qnet.engine import Engine
from qnet.errors import InvalidRequest, QnetError, Unavailable
from qnet.namespaces import FORWARDING
from qnet.tenants import DEFAULT

DRIVERS = ("NetworkDriver", "IpamDriver")
PATIENCE = 5.0
LITTLE, NONE = 64 << 20, 1 << 20  # bytes: journals and records of a host have less than the first
FILTERED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
USES = {  # what each kind of link is for; without macvlan, which is the default, a host is not fit
    "macvlan": "networks",
    "vlan": "parents with a VLAN (802.1q)",
    "ipvlan": "networks with mode=ipvlan",
    "vxlan": "networks with mode=vxlan",
    "ifb": "limits of what containers send",
}


def engine(path: str, patience: float, called: Engine) -> Iterator[Finding]:
    """Whether the engine answers, and to qnet."""
    try:
        about = unixhttp.request(path, "GET", "/version", patience)
    except Unavailable as error:
        todo = "start it (systemctl start docker), or correct [docker] socket in the settings"
        yield Finding("fail", f"docker engine at {path}: {error}", todo)
        return
    what = f"docker engine {about.get('Version')} at {path}, API {about.get('MinAPIVersion')} to "
    what += str(about.get("ApiVersion"))
    try:
        called.version()
    except Unavailable as error:
        yield Finding("fail", f"{what}, refuses what qnet asks: {error}", "this engine and this qnet do not fit")
        return
    yield Finding("ok", what)


def plugin(config: settings.Network) -> Iterator[Finding]:
    """Whether the plugin serves both drivers on its socket."""
    try:
        drivers = unixhttp.request(config.socket, "POST", "/Plugin.Activate", PATIENCE).get("Implements") or ()
    except Unavailable as error:
        todo = "start it (systemctl start qnet-network) and see its log (journalctl -u qnet-network)"
        yield Finding("fail", f"plugin at {config.socket}: {error}", todo)
        return
    missing = [driver for driver in DRIVERS if driver not in drivers]
    if missing:
        yield Finding(
            "fail", f"plugin at {config.socket} is no {' nor '.join(missing)}", "something else listens there"
        )
    else:
        yield Finding("ok", f"plugin at {config.socket} answers as {' and '.join(DRIVERS)}")


def kernel(features: Callable[[float], Mapping[str, str]], patience: float) -> Iterator[Finding]:
    """Whether the kernel can make the links that networks need, tried in a namespace of its own."""
    try:
        found = features(patience)
    except Unavailable as error:
        yield Finding("warn", str(error), "run qnet doctor as root")
        return
    for kind, use in USES.items():
        reason = found.get(kind, "not tried")
        if reason:
            module = "8021q" if kind == "vlan" else kind
            todo = f"{use} need it: modprobe {module}, or a kernel that has it"
            yield Finding("fail" if kind == "macvlan" else "warn", f"the kernel makes no {kind} link: {reason}", todo)
        else:
            yield Finding("ok", f"the kernel makes {kind} links")


def parents(config: settings.Settings, links: Callable[[], Mapping[str, Link]]) -> Iterator[Finding]:
    """The default parent, those that have a name in the settings, and those of the networks that are here."""
    there, names = links(), config.network.parents
    for name, link in sorted(names.items()):
        yield _parent(f"parent {name} ({link})", _ask(link, mode="bridge"), there)
    default = config.network.parent
    if default:
        yield _parent(f"default parent {default}", _ask(names.get(default, default), mode="bridge"), there)
    else:
        yield Finding("ok", "no default parent: networks name theirs (-o parent=LINK)")
    for file in sorted((Path(config.host.state_dir) / "networks").glob("*.json")):
        try:
            network = msgspec.json.decode(file.read_bytes(), type=Network)
        except msgspec.MsgspecError as error:
            yield Finding("fail", f"{file} is damaged: {error}", "remove that network and make it again")
            continue
        ask = _ask(network.parent, network.mtu, network.mode)
        yield _parent(f"parent {network.parent} of network {network.id[:12]}", ask, there)


def company(config: settings.Settings, tenants: Owners) -> Iterator[Finding]:
    """Whether a network of this host is beside one that it must not meet: tags and trust came or went after it."""
    networks = [*_networks(config.host.state_dir)]
    admission, get = Admission(tenants, config.network), cache(tenants.get)
    wrong = 0
    for network in networks:
        try:
            others = [other for other in networks if other.id != network.id]
            admission.check_company(network, get(network.tenant), others)
        except QnetError as error:
            wrong += 1
            yield Finding("fail", f"network {network.id[:12]}: {error}", "remove it, or do what that says")
    if networks and not wrong:
        yield Finding("ok", f"{len(networks)} networks are beside none that they must not meet")


def forwarding(state_dir: str, sysctl: Callable[[str], str]) -> Iterator[Finding]:
    """Whether the host forwards what the gateways of its networks (`-o nat=true`) send to the outside."""
    networks = _networks(state_dir)
    for version in sorted({version for one in networks if one.nat for version in nat.of(one).versions}):
        if sysctl(FORWARDING[version]) not in ("", "0"):
            yield Finding("ok", f"this host forwards IPv{version}, as its networks with nat=true need it")
        else:
            todo = f"sysctl -w {FORWARDING[version]}=1, and a line in /etc/sysctl.d"
            yield Finding("fail", f"this host does not forward IPv{version}: gateways (nat=true) lead nowhere", todo)


def bridges(state_dir: str, sysctl: Callable[[str], str]) -> Iterator[Finding]:
    """Whether the host's firewall looks at what containers on its bridges send each other: Docker's own drops it."""
    if not any(network.mode in BRIDGED for network in _networks(state_dir)):
        return
    filtered = [name for name in FILTERED if sysctl(name) == "1"]
    for name in filtered:
        todo = f"sysctl -w {name}=0, and a line in /etc/sysctl.d"
        yield Finding("warn", f"{name} is 1: Docker's rules drop frames of modes bridge and vxlan", todo)
    if not filtered:
        yield Finding("ok", "no iptables rule looks at what bridges carry")


def journal(state_dir: str) -> Iterator[Finding]:
    """Releases that the store could not take."""
    waiting = Journal(Path(state_dir) / "releases.journal").entries()
    if waiting:
        todo = "they are done when etcd is reachable and qnet-network runs"
        yield Finding("warn", f"{len(waiting)} releases wait, the first of {waiting[0].address}", todo)
    else:
        yield Finding("ok", "no release waits for etcd")


def room(*folders: str) -> Iterator[Finding]:
    """Whether daemons can write down what is to outlive them: no network is made and no volume mounted without."""
    wrong = False
    for folder in folders:
        try:
            found = os.statvfs(folder)
        except OSError:  # the first daemon that starts makes it
            continue
        free, full = found.f_bavail * found.f_frsize, bool(found.f_files) and not found.f_favail
        if free < LITTLE or full:
            wrong = True
            what = "no more files" if full else f"{free >> 20} MiB"
            level: Level = "fail" if free < NONE or full else "warn"
            yield Finding(level, f"{folder}: room for {what}", f"make room: df -h {folder}, df -i {folder}")
    if not wrong:
        yield Finding("ok", f"there is room in {' and '.join(folders)}")


def _networks(state_dir: str) -> Iterator[Network]:
    """Those of this host; `parents` tells of a file that is damaged."""
    for file in (Path(state_dir) / "networks").glob("*.json"):
        with suppress(msgspec.MsgspecError):
            yield msgspec.json.decode(file.read_bytes(), type=Network)


def _parent(what: str, ask: Ask, links: Mapping[str, Link]) -> Finding:
    try:
        check_parent(ask, links, ())
    except InvalidRequest as error:
        return Finding("fail", f"{what}: {error}", "bring that link up, or make the network on another")
    if not links[ask.parent].carrier:
        return Finding(
            "warn", f"{what} has no carrier", "its cable, and the switch's port: no other host is reached by it"
        )
    return Finding("ok", f"{what} is up")


def _ask(parent: str, mtu: int = 0, mode: ModeName = "macvlan") -> Ask:
    return Ask(
        id="",
        tenant=DEFAULT,
        subnets=(),
        parent=parent,
        macvlan_mode="bridge",
        mtu=mtu,
        mode=mode,
        internal=False,
        host_access=False,
    )
