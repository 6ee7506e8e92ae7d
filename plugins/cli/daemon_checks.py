"""Checks of this host's daemons: whether they answer at their sockets, and what systemd knows of their units."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from plugins.cli import unixhttp
from plugins.cli.health import Finding
from plugins.cli.unixhttp import reason
from qnet import settings
from qnet.errors import Unavailable

PATIENCE = 6.0  # seconds: the front waits 5 for a host before it says that there is none
CONNECT = 2.0
TARGET = "qnet.target"  # what it wants starts at boot if it does
DAEMONS = ("qnet-network", "sharedfs", "qnet-agent", "qnet-scheduler", "qnet-gateway")
UNITS = (*(f"{name}.service" for name in DAEMONS), "qnet-network.socket", "sharedfs.socket", TARGET)
SHOWN = (
    *("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "NRestarts"),
    *("Before", "TriggeredBy", "WantedBy"),
)
HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask who listens everywhere
BEFORE_DOCKER = ("qnet-network.service", "sharedfs.service", "qnet-network.socket", "sharedfs.socket")


def scheduler(config: settings.Scheduler) -> Iterator[Finding]:
    """Whether this host's replica of the placement service answers, and follows the store."""
    if not Path(config.socket).exists():
        yield Finding("ok", f"no scheduler on this host (nothing at {config.socket})")
        return
    try:
        told = unixhttp.request(config.socket, "GET", "/v1/health", PATIENCE)
    except Unavailable as error:
        yield Finding("fail", f"scheduler at {config.socket}: {error}", _log("qnet-scheduler"))
        return
    if told.get("ready"):
        yield Finding(
            "ok", f"scheduler at {config.socket} knows {told['hosts']} hosts, {told['containers']} containers"
        )
    else:
        yield Finding("fail", f"scheduler at {config.socket} has not read the store", "bring etcd back, see its log")
    yield from _listens("scheduler", config.listen, "qnet-scheduler")


def front(config: settings.Gateway) -> Iterator[Finding]:
    """Whether this host's front answers as an engine does."""
    if not Path(config.socket).exists():
        yield Finding("ok", f"no front on this host (nothing at {config.socket})")
        return
    try:
        unixhttp.read(config.socket, "/_ping", PATIENCE)
        told = unixhttp.request(config.socket, "GET", "/info", PATIENCE)
    except Unavailable as error:
        yield Finding("fail", f"front at {config.socket}: {error}", _log("qnet-gateway"))
        return
    yield Finding("ok", f"front at {config.socket} answers as {told.get('Name')}, {told.get('NCPU')} CPUs")
    yield from _listens("front", config.listen, "qnet-gateway")


def units(show: Callable[[Sequence[str], Sequence[str]], str]) -> Iterator[Finding]:
    """What systemd says of qnet's units. `show` gives properties of units as systemctl-show(1) writes them, or nothing
    where systemd does not run."""
    text = show(SHOWN, UNITS)
    if not text:
        yield Finding("ok", "systemd does not run here: units are not used")
        return
    blocks = (dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in text.split("\n\n"))
    found = [unit for unit in blocks if unit.get("LoadState") == "loaded"]
    boots = any(unit["Id"] == TARGET and _is_enabled(unit) for unit in found)
    for unit in found:
        yield _unit(unit, _is_enabled(unit) or (boots and TARGET in unit.get("WantedBy", "").split()))
    if not found:
        yield Finding("ok", "systemd has no unit of qnet's")


def _is_enabled(unit: Mapping[str, str]) -> bool:
    return unit.get("UnitFileState") == "enabled"


def _unit(unit: Mapping[str, str], boots: bool) -> Finding:
    """`boots`: whether it is to start at boot."""
    name, active = unit["Id"], unit.get("ActiveState", "")
    awaited = bool(unit.get("TriggeredBy"))  # its socket starts it
    if active == "failed":
        todo = f"journalctl -u {name}, then systemctl restart {name}"
        return Finding("fail", f"unit {name} has failed ({unit.get('Result')})", todo)
    if boots and active not in ("active", "activating", "reloading") and not awaited:
        return Finding("fail", f"unit {name} is to start at boot and is {active}", f"systemctl start {name}")
    if active == "active" and not boots and not awaited:
        return Finding("warn", f"unit {name} does not start at boot", f"systemctl enable {TARGET}")
    if name in BEFORE_DOCKER and "docker.service" not in unit.get("Before", "").split():
        todo = "the engine starts containers that need it: add Before=docker.service"
        return Finding("warn", f"unit {name} is not ordered before docker.service", todo)
    restarts = int(unit.get("NRestarts") or 0)
    if restarts:
        return Finding("warn", f"unit {name} was restarted {restarts} times by systemd", f"journalctl -u {name}")
    return Finding("ok", f"unit {name} is {active}, and {'starts' if boots else 'does not start'} at boot")


def _listens(what: str, listen: str, unit: str) -> Iterator[Finding]:
    if not listen:
        return
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    try:
        socket.create_connection((HERE.get(host, host), int(port)), CONNECT).close()
    except OSError as error:
        yield Finding("fail", f"{what} at {listen}: {reason(error)}", _log(unit))
    else:
        yield Finding("ok", f"{what} listens at {listen}")


def _log(unit: str) -> str:
    return f"systemctl restart {unit}, and see its log (journalctl -u {unit})"
