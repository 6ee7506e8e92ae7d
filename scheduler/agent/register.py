"""Tells the store what this host is and how it is doing, under a lease that says that it is alive."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from qnet import metrics, schema
from qnet.errors import QnetError
from qnet.listen import parse_listen
from qnet.settings import Settings
from qnet.store.base import Store
from qnet.store.recipes import LeaseKeeper
from scheduler.agent.dockerd import Dockerd
from scheduler.agent.usage import Usage, free_bytes
from scheduler.model import Machine, Vitals
from scheduler.translate import net, platform
from scheduler.view import ALIVE, MACHINES, VITALS, key

logger = logging.getLogger(__name__)

ANSWER = 2.0  # seconds that a plugin may take
CALL = b"POST /Plugin.Activate HTTP/1.1\r\nHost: qnet\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Registration:
    """What the store knows of this host."""

    def __init__(
        self,
        store: Store,
        config: Settings,
        engine: Dockerd,
        networks: Callable[[], Iterable[Mapping[str, Any]]],
        links: Callable[[], Mapping[str, str]],
        now: str,
    ) -> None:
        """`networks`: those of this host that containers can be on; `links`: those that networks can stand on, by the
        names that they go by."""
        self._store = store
        self._config = config
        self._engine = engine
        self._networks = networks
        self._links = links
        self._name = config.host.name
        self._since = now
        self._version = version("qnet")
        self._machine: Machine | None = None
        self._written: dict[str, bytes] = {}
        self.keeper = LeaseKeeper(store, config.agent.down_after, self._leased)
        host, port = parse_listen(config.agent.listen)
        self._url = config.agent.address or f"{socket.getfqdn() if host in ('0.0.0.0', '::') else host}:{port}"  # noqa: S104

    def tell(self) -> None:
        """Write down what this host is, if that has changed. Raises Unavailable: the store or the engine is away."""
        self._machine = self._found()
        self._write(MACHINES, self._machine)

    def tell_trouble(self, trouble: str) -> None:
        """The engine does not answer: nothing can be placed here."""
        if self._machine is not None:
            self._write(MACHINES, msgspec.structs.replace(self._machine, trouble=(trouble,)))

    def tell_vitals(self, usage: Usage) -> None:
        """Write down how it is doing. Raises Unavailable."""
        vitals = Vitals(
            now=round(usage.now, 3),
            minutes=round(usage.minutes, 3),
            hours=round(usage.hours, 3),
            disk=free_bytes(self._config.agent.disk),
            images=frozenset(self._engine.images()),
            failures=usage.failures,
        )
        self._write(VITALS, vitals)

    def _write(self, kind: str, record: msgspec.Struct) -> None:
        text = schema.encode(record)
        if text != self._written.get(kind):
            self._store.put(key(kind, self._name), text)
            self._written[kind] = text
            metrics.REPORTS.labels(kind.rstrip("/")).inc()

    def _leased(self, lease: int) -> None:
        """A new lease may be one of an etcd that has lost all: what was written there is written again."""
        if lease:
            self._written.clear()
            try:
                if self._machine is not None:
                    self._write(MACHINES, self._machine)
                self._store.put(key(ALIVE, self._name), self._since.encode(), lease=lease)
            except QnetError as error:
                logger.warning("this host counts as down for a while: %s", error)

    def _found(self) -> Machine:
        info, config = self._engine.info(), self._config
        links = self._links()
        return Machine(
            name=self._name,
            cpus=1000 * int(info["NCPU"]),
            memory=int(info["MemTotal"]),
            pids=int(Path("/proc/sys/kernel/threads-max").read_text()),
            url=self._url,
            engine=str(info.get("ServerVersion", "")),
            api=str(info["ApiVersion"]),
            qnet=self._version,
            since=self._since,
            trouble=tuple(self._troubles()),
            labels=dict(sorted(config.agent.labels.items())),
            platform=platform(info),
            parents=frozenset(links),
            networks={entry["Name"]: net(entry) for entry in sorted(self._networks(), key=_by_name)},
            volumes=frozenset(self._engine.volumes()),
            tenants=frozenset(config.agent.tenants),
        )

    def _troubles(self) -> list[str]:
        """The plugins of this host that do not answer; one that was never there is none."""
        plugins = {"qnet-network": self._config.network.socket, "sharedfs": self._config.volume.socket}
        return [name for name, path in plugins.items() if (door := self._door(name, path)) and not _answers(door)]

    def _door(self, name: str, path: str) -> str:
        """Where a plugin can be asked: its second socket, that systemd keeps for us, who may not be root, or its first;
        empty: there is none."""
        doors = (f"{self._config.host.run_dir}/{name}.sock", path)
        return next((door for door in doors if os.path.exists(door)), "")  # noqa: PTH110 - that raises


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.settimeout(ANSWER)
        try:
            plugin.connect(path)
            plugin.sendall(CALL)
            return plugin.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


def _by_name(entry: Mapping[str, Any]) -> str:
    return str(entry["Name"])
