"""Puts the process `sharedfs` together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from flask import Flask
from prometheus_client import REGISTRY

from plugins.volume import api
from plugins.volume.directories import Directories
from plugins.volume.gluster import Quota
from plugins.volume.holding import Holder
from plugins.volume.lanes import Lanes
from plugins.volume.lock import PoolLocks
from plugins.volume.making import Maker
from plugins.volume.meter import Meter
from plugins.volume.model import Held
from plugins.volume.mounts import Mounts
from plugins.volume.repair import Repair
from plugins.volume.repository import Repository
from plugins.volume.service import Service
from plugins.volume.traffic import Meters
from qnet import exporter
from qnet.clock import now
from qnet.connect import open_store
from qnet.engine import Engine, InProgress
from qnet.folder import Folder
from qnet.settings import Settings
from qnet.sightings import Sightings
from qnet.tenants import Tenants
from qnet.wire import Plugin

LOGS = Path("/var/log/qnet")


def compose(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """Everything that the process is made of; returns the application and what stops it."""
    host, root = config.host.name, Path(config.volume.root)
    for folder in (root, LOGS):
        folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    store, poke = open_store(config.etcd), threading.Event()
    enforcer = Quota()
    held = Folder(Path(config.host.state_dir) / "volumes", Held, durable=True)

    def changed(names: list[str]) -> None:
        mine = {one.name for one in held.all()}
        known = (repository.copy(name) for name in names) if enforcer.serves else ()
        if not mine.isdisjoint(names) or any(one and one.awaited for one in known):
            poke.set()

    repository, locks = Repository(store, host, now, changed), PoolLocks(store, host)
    mounts = Mounts(root, LOGS)
    directories = Directories(mounts, root)
    maker = Maker(repository, locks, enforcer, directories)
    holder = Holder(repository, held, mounts, Lanes(), root)
    trash = timedelta(days=config.volume.trash_days)
    service = Service(repository, maker, holder, Meters(), Tenants(store, now).get, now, trash, poke.set)
    engine = Engine(config.docker.socket, config.docker.timeout)
    missing = Sightings(config.ipam.grace, time.monotonic)
    repair = Repair(
        repository,
        maker,
        holder,
        held,
        mounts,
        directories,
        engine,
        InProgress(engine),
        missing,
        now,
        poke,
        config.volume.repair_interval,
    )
    plugin = Plugin(("VolumeDriver",))
    api.register(plugin, service)
    meter = Meter(repository, service, host)
    REGISTRY.register(meter)
    exporter.start(config, "volume")
    repair.start()

    def stop() -> None:
        REGISTRY.unregister(meter)
        repair.stop()
        repository.close()
        locks.close()
        store.close()

    return plugin.app, stop
