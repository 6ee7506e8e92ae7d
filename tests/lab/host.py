"""One host of the lab, and what can be done to it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import certificates, image
from tests.lab.commands import Result, run
from tests.lab.engine import Engine, client_argv, client_env
from tests.lab.etcd import Etcd
from tests.lab.fabric import Fabric
from tests.lab.model import PROJECT, LabError, Layout, Node, Shape
from tests.lab.namespaces import Namespaces, unmount_run
from tests.lab.placement import Agent, Gateway, Scheduler
from tests.lab.plugin import Plugin, VolumePlugin, settings
from tests.lab.processes import PidFile, kill_all
from tests.lab.storage import Storage


@dataclass(frozen=True, slots=True)
class Status:
    """What `status` shows of a host; a pid is None if the process does not run."""

    name: str
    state: str
    address: str
    docker_socket: str
    plugin_socket: str
    plugin_pid: int | None
    engine_pid: int | None
    engine_version: str | None
    etcd_pid: int | None
    holder_pid: int | None
    log_dir: str


class Host:
    """A Docker host: its namespaces, its engine, its plugin and, on the first ones, its member of etcd."""

    def __init__(self, layout: Layout, shape: Shape, fabric: Fabric, index: int) -> None:
        self.node: Node = layout.node(index)
        self.namespaces = Namespaces(self.node)
        members = [layout.node(number + 1) for number in range(shape.etcd)]
        self.members = members
        self.engine = Engine(self.node, self.namespaces, shape.engine)
        self.plugin = Plugin(self.node, self.namespaces, shape.plugin_command)
        self.etcd = Etcd(self.node, self.namespaces, members) if index <= shape.etcd else None
        self.storage = Storage(self.node, self.namespaces)
        self.volume_plugin = VolumePlugin(self.node, self.namespaces)
        self.agent = Agent(self.node, self.namespaces)
        self.scheduler = Scheduler(self.node, self.namespaces)
        self.gateway = Gateway(self.node, self.namespaces)
        self._shape = shape
        self._fabric = fabric

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def address(self) -> str:
        return self.node.address

    @property
    def docker_socket(self) -> Path:
        """The engine's socket, reachable from the machine."""
        return self.node.docker_socket

    @property
    def plugin_socket(self) -> Path:
        """The plugin's socket, reachable from the machine."""
        return self.node.plugin_socket

    def docker(self, *args: str, check: bool = True, timeout: float = 120, stdin: str | None = None) -> Result:
        """Runs the docker command against this host's engine."""
        return run(client_argv(self.node, args), check=check, timeout=timeout, stdin=stdin, env=client_env())

    def exec(
        self,
        *argv: str,
        check: bool = True,
        timeout: float = 60,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path = PROJECT,
    ) -> Result:
        """Runs a command inside the host; `env` adds to this process's environment."""
        variables = {**os.environ, **(env or {})}
        return run(self.namespaces.argv(argv, str(cwd)), check=check, timeout=timeout, stdin=stdin, env=variables)

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[Any]:
        """Starts a command inside the host; the caller ends it."""
        return subprocess.Popen(self.namespaces.argv(argv, str(PROJECT)), **options)

    def load(self, name: str) -> None:
        """Brings an image (`busybox`, `bench`) into the engine; nothing happens if it is there."""
        if self.docker("image", "inspect", f"{name}:latest", check=False).returncode != 0:
            self.docker(*image.import_args(name))

    def power_on(self) -> None:
        """Links and namespaces as after a boot, and etcd's process. Raises LabError if the host is up."""
        if self.namespaces.holder:
            raise LabError(f"{self.name} is up")
        with ExitStack() as undo:
            undo.callback(self.kill)
            self._write_settings()
            self._fabric.detach(self.node)
            self._fabric.attach(self.node)
            self.namespaces.create()
            if self.etcd:
                self.etcd.spawn()
            undo.pop_all()

    def start_daemons(self) -> None:
        """Storage and plugins, then the engine, as systemd would start them."""
        if self._shape.plugin:
            self.plugin.start()
        if self._shape.storage:
            self.storage.start()
            self.volume_plugin.start()
        self.engine.start()
        if self._shape.placement:
            self.gateway.spawn()
            self.agent.start()
            self.scheduler.start()
            self.gateway.wait()

    def start(self) -> None:
        """Boots the host after `kill`: fresh /run and links, same disk."""
        self.power_on()
        self.start_daemons()

    def kill(self) -> None:
        """A power cut: ends all its processes, containers included; links and namespaces go with them."""
        self._fabric.heal(self.node)
        kill_all([self.node.disk], [self.node.netns])
        self._fabric.detach(self.node)
        unmount_run(self.node)
        for daemon in (
            "holder",
            self.engine.name,
            self.plugin.name,
            Etcd.name,
            Storage.name,
            VolumePlugin.name,
            Agent.name,
            Scheduler.name,
        ):
            PidFile(self.node.dir / f"{daemon}.pid").clear()

    def reboot(self) -> None:
        """A power cut and a boot."""
        self.kill()
        self.start()

    def partition(self, segment: str = "mgmt") -> None:
        """Drops all frames to and from this host: on `mgmt`, on `trunk`, or from `etcd` only."""
        self._require_up()
        self._fabric.cut(self.node, segment)

    def heal(self) -> None:
        """Ends the host's partitions."""
        self._require_up()
        self._fabric.heal(self.node)

    def _require_up(self) -> None:
        self.namespaces.argv([])

    def _write_settings(self) -> None:
        folder = self.node.disk / "private/etc/qnet"
        folder.mkdir(parents=True, exist_ok=True)
        if self._shape.placement:
            certificates.give(self.node)
        (folder / "qnet.toml").write_text(settings(self.node, self.members, self._shape.settings))

    def start_plugin(
        self, command: Sequence[str] | None = None, env: Mapping[str, str] | None = None, wait: bool = True
    ) -> None:
        """Starts the plugin, another command in its place if one is given."""
        self.plugin.spawn(command, env)
        if wait:
            self.plugin.wait()

    def stop_plugin(self, number: int = signal.SIGTERM) -> None:
        """Sends the plugin a signal and waits for its end; SIGKILL goes to its workers as well."""
        self.plugin.stop(number)

    def start_engine(self, args: Sequence[str] = ()) -> None:
        """Starts the engine with these arguments on top of the usual ones."""
        self.engine.start([*self.engine.argv(), *args])

    def stop_engine(self, kill: bool = False) -> None:
        """Stops dockerd: orderly, which stops its containers, or by kill -9, which leaves them alone."""
        self.engine.stop(signal.SIGKILL if kill else signal.SIGTERM)

    def status(self) -> Status:
        """The host's state: up, down, partitioned, or degraded if one of its daemons does not run."""
        return Status(
            self.name,
            self._state(),
            self.address,
            str(self.docker_socket),
            str(self.plugin_socket),
            self.plugin.pid,
            self.engine.pid,
            self.engine.version(),
            self.etcd.pid if self.etcd else None,
            holder.pid if (holder := self.namespaces.holder) else None,
            str(self.node.disk),
        )

    def _state(self) -> str:
        if not self.namespaces.holder:
            return "down"
        cuts = self._fabric.cut_segments(self.node)
        if cuts:
            return f"partitioned from {', '.join(cuts)}"
        expected = [
            self.engine,
            *([self.plugin] if self._shape.plugin else []),
            *([self.etcd] if self.etcd else []),
            *([self.storage, self.volume_plugin] if self._shape.storage else []),
            *([self.agent, self.scheduler, self.gateway] if self._shape.placement else []),
        ]
        off = [service.name for service in expected if not service.process]
        return f"degraded: no {', '.join(off)}" if off else "up"
