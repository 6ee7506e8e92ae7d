"""What every command is given: settings, the store, and the few things that tests replace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qnet import clock, settings
from qnet.settings import Etcd, Settings
from qnet.store.base import Store

if TYPE_CHECKING:
    from plugins.cli.rest import Rest
    from plugins.network.plan import Link
    from qnet.engine import EngineView


def _connect(config: Etcd) -> AbstractContextManager[Store]:
    from qnet.connect import open_store

    return closing(open_store(config))


def _rest(config: Settings) -> Rest:
    from plugins.cli.rest import Rest

    return Rest(config)


def _view(config: Settings, url: str) -> EngineView:
    from qnet.engine import Engine

    docker, own = config.docker, config.scheduler
    if not url:
        return Engine(docker.socket, docker.timeout).view()
    return Engine(url, docker.timeout, (own.ca, own.cert, own.key)).view()


def _interactive() -> bool:
    return sys.stdin.isatty()


def _features(timeout: float) -> Mapping[str, str]:
    from plugins.network.features import probe

    return probe(timeout)


def _links() -> Mapping[str, Link]:
    from plugins.network.links import Links

    return Links().all()


def _sysctl(name: str) -> str:
    from qnet.namespaces import sysctl

    return sysctl(name)


def _units(properties: Sequence[str], units: Sequence[str]) -> str:
    from qnet.commands import run

    if not Path("/run/systemd/system").is_dir():  # sd_booted(3)
        return ""
    return run(["systemctl", "show", f"--property={','.join(properties)}", *units], "ask systemd for units")


def _today() -> datetime:
    return datetime.now(UTC)


@dataclass
class Session:
    """One call of the command. Nothing is read or opened before a command asks for it."""

    file: Path | None = None
    load: Callable[[Path | None], Settings] = settings.load
    connect: Callable[[Etcd], AbstractContextManager[Store]] = _connect
    now: Callable[[], str] = clock.now
    interactive: Callable[[], bool] = _interactive
    rest: Callable[[Settings], Rest] = _rest
    view: Callable[[Settings, str], EngineView] = _view
    features: Callable[[float], Mapping[str, str]] = _features
    links: Callable[[], Mapping[str, Link]] = _links
    sysctl: Callable[[str], str] = _sysctl
    units: Callable[[Sequence[str], Sequence[str]], str] = _units
    today: Callable[[], datetime] = _today

    @cached_property
    def settings(self) -> Settings:
        """The settings of this host. Raises InvalidRequest."""
        return self.load(self.file)

    def api(self) -> Rest:
        """The placement service. Nothing is sent yet."""
        return self.rest(self.settings)

    def store(self) -> AbstractContextManager[Store]:
        """The cluster's store, closed at the end of the block."""
        return self.connect(self.settings.etcd)


pass_session = click.make_pass_decorator(Session, ensure=True)
