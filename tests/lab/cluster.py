"""The lab as a whole: up, down, and its hosts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import certificates, cleanup, engine, image
from tests.lab.commands import Result, wait_for
from tests.lab.etcd import endpoints
from tests.lab.fabric import Fabric
from tests.lab.host import Host
from tests.lab.model import LabError, Layout, Shape, State
from tests.lab.namespaces import NETNS
from tests.lab.plugin import parse_settings
from tests.lab.storage import make_pool


@contextlib.contextmanager
def exclusive(layout: Layout, patience: float = 60) -> Iterator[None]:
    """Holds the lab for one command that builds or removes it. The lock is an abstract socket: it leaves no
    file and ends with its process. Raises LabError after `patience` seconds."""
    with socket.socket(socket.AF_UNIX) as lock:

        def taken() -> bool:
            try:
                lock.bind(f"\0qnet-lab:{layout.dir}")
            except OSError:
                return False
            return True

        wait_for(f"end of another command that builds or removes the lab {layout.dir}", taken, patience)
        yield


def on_all(action: Callable[[Host], object], hosts: Sequence[Host]) -> None:
    """Does something on all hosts at once; waits for all and raises the first error."""
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        for done in [pool.submit(action, host) for host in hosts]:
            done.result()


class Lab:
    """A running lab. As a context manager it goes down at the end."""

    def __init__(self, layout: Layout, shape: Shape) -> None:
        self.layout = layout
        self.shape = shape
        self.fabric = Fabric(layout)
        self.hosts = [Host(layout, shape, self.fabric, number + 1) for number in range(shape.hosts)]

    @classmethod
    def up(
        cls,
        hosts: int = 3,
        etcd: int = 1,
        engine: str = "debian12",
        settings: str = "",
        plugin_command: Iterable[str] | None = None,
        *,
        plugin: bool = True,
        storage: bool = False,
        placement: bool = False,
        directory: str | Path | None = None,
        replace: bool = False,
    ) -> Lab:
        """Builds a lab, after removing what a crashed one has left in this directory. `settings` is TOML on top of the
        hosts' qnet.toml. On every host, with `storage` GlusterFS and the volume plugin, with `placement` an agent and a
        replica of the placement service. Raises LabError if a lab runs there, except with `replace`."""
        shape = Shape(hosts, etcd, engine, plugin, tuple(plugin_command or ()), settings, storage, placement)
        return cls.of_shape(shape, directory, replace=replace)

    @classmethod
    def of_shape(cls, shape: Shape, directory: str | Path | None = None, *, replace: bool = False) -> Lab:
        """Builds a lab, see `up`."""
        lab = cls(Layout.find(directory), shape)
        with exclusive(lab.layout):
            if not replace and (other := cls.running(directory)):
                raise LabError(f"a lab is up in {lab.layout.dir} ({other.shape}): take it down first")
            lab._build()
        return lab

    @classmethod
    def running(cls, directory: str | Path | None = None) -> Lab | None:
        """The lab that is up in a directory; None if there is none or its `up` has not come to its end."""
        layout = Layout.find(directory)
        state = State.load(layout)
        if state is None or not state.complete or not (NETNS / layout.fabric).exists():
            return None
        return cls(layout, state.shape)

    @classmethod
    def open(cls, directory: str | Path | None = None) -> Lab:
        """The lab that is up. Raises LabError if there is none."""
        lab = cls.running(directory)
        if lab is None:
            layout = Layout.find(directory)
            crashed = "; its last `up` did not come to its end" if State.load(layout) else ""
            raise LabError(f"no lab is up in {layout.dir}{crashed} (`python -m tests.lab up` makes one)")
        return lab

    @staticmethod
    def remove(directory: str | Path | None = None) -> None:
        """Removes every trace of a lab, whatever state it is in."""
        layout = Layout.find(directory)
        with exclusive(layout):
            cleanup.clean(layout)

    def _build(self) -> None:
        """Removes what is there and makes the lab; a failure leaves nothing but the message."""
        self._check()
        cleanup.clean(self.layout)
        try:
            State(self.shape, complete=False).save(self.layout)
            self.fabric.create()
            if self.shape.placement:
                certificates.make_authority(self.layout)
            on_all(Host.power_on, self.hosts)
            for host in self.hosts[: self.shape.etcd]:
                if host.etcd:
                    host.etcd.wait()
            on_all(self._finish, self.hosts)
            if self.shape.storage:
                make_pool(self.hosts)
            if self.shape.placement:
                self.wait_for_placement()
            State(self.shape, complete=True).save(self.layout)
        except BaseException:
            cleanup.clean(self.layout)
            raise

    def wait_for_placement(self) -> None:
        """Until every replica knows all hosts to be ready."""
        for host in self.hosts:
            scheduler = host.scheduler
            wait_for(f"{host.name} to know all hosts", lambda one=scheduler: one.hosts_up() == len(self.hosts), 120)

    def _check(self) -> None:
        if os.geteuid() != 0:
            raise LabError("the lab needs root: it makes namespaces, links and mounts")
        absent = engine.missing(self.shape.engine)
        if absent:
            raise LabError(absent)
        parse_settings(self.shape.settings)
        engine.client()
        image.tarball("busybox")

    @staticmethod
    def _finish(host: Host) -> None:
        host.start_daemons()
        host.load("busybox")

    def load(self, name: str) -> None:
        """Brings an image (`busybox`, `bench`) into every engine."""
        image.tarball(name)
        on_all(lambda host: host.load(name), self.hosts)

    def host(self, name: str) -> Host:
        """A host by its name."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"no host {name!r}: there are {', '.join(host.name for host in self.hosts)}")

    def etcdctl(self, *args: str, check: bool = True, timeout: float = 30) -> Result:
        """Runs etcdctl (API 3, all members as endpoints) on the first host that is up and not cut off."""
        for host in self.hosts:
            if host.namespaces.holder and not self.fabric.cut_segments(host.node):
                where = f"--endpoints={','.join(endpoints(host.members))}"
                return host.exec("etcdctl", where, *args, check=check, timeout=timeout, env={"ETCDCTL_API": "3"})
        raise LabError("no host is up and connected: etcdctl has nowhere to run")

    def etcd_leader(self) -> Host:
        """The host whose member of etcd leads."""
        for host in self.hosts[: self.shape.etcd]:
            if host.namespaces.holder and host.etcd and host.etcd.leads():
                return host
        raise LabError("etcd has no leader")

    def down(self) -> None:
        """Removes every trace of this lab."""
        self.remove(self.layout.dir)

    def leftovers(self) -> list[str]:
        """What is on the machine of this lab, one line each."""
        return cleanup.leftovers(self.layout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()
