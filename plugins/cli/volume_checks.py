"""Checks of volumes: what this host needs to mount them, and how their pools are. Nothing where there is no pool."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from plugins.cli import unixhttp
from plugins.cli.health import Finding
from plugins.volume.repository import Repository
from qnet.errors import Unavailable
from qnet.settings import Settings
from qnet.store.base import Store

PATIENCE = 5.0
FUSE = Path("/dev/fuse")
OLD = timedelta(minutes=5)  # some host looks each half minute


def volumes(store: Store, settings: Settings, now: Callable[[], str]) -> Iterator[Finding]:
    """Whether this host can mount volumes, and what the last look at each pool found."""
    repository = Repository(store, settings.host.name, now)
    repository.follow()
    try:
        pools = repository.known_pools()
        if not pools:
            return
        yield from _machine(settings.volume.socket)
        for pool in pools:
            found = repository.health(pool.name)
            if found is None:
                todo = "start sharedfs on its Gluster servers (systemctl start sharedfs)"
                yield Finding("warn", f"pool {pool.name}: no host has looked at it yet", todo)
                continue
            what = f"pool {pool.name} is {found.state}: {found.bricks_up} of {found.bricks} bricks up"
            what += f", {found.heal} files to heal, as {found.host} saw it at {found.at}"
            if datetime.fromisoformat(now()) - datetime.fromisoformat(found.at) > OLD:
                todo = "glusterd and sharedfs run on none of its servers: systemctl start glusterd sharedfs there"
                yield Finding("fail", f"{what}; nobody has looked since", todo)
            elif found.state == "up" and found.bricks_up == found.bricks:
                yield Finding("ok", what)
            else:
                todo = f"gluster volume status {pool.volume}; start glusterd on the servers whose bricks are not online"
                yield Finding("fail" if found.state == "down" else "warn", what, todo)
    finally:
        repository.close()


def _machine(socket: str) -> Iterator[Finding]:
    try:
        drivers = unixhttp.request(socket, "POST", "/Plugin.Activate", PATIENCE).get("Implements") or ()
        if "VolumeDriver" in drivers:
            yield Finding("ok", f"volume plugin at {socket} answers")
        else:
            yield Finding("fail", f"plugin at {socket} is no VolumeDriver", "something else listens there")
    except Unavailable as error:
        yield Finding("warn", f"volume plugin at {socket}: {error}", "start it (systemctl start sharedfs)")
    if not FUSE.exists():
        yield Finding("fail", f"{FUSE} is not there", "modprobe fuse")
    if not shutil.which("mount.glusterfs"):
        yield Finding("fail", "mount.glusterfs is not installed", "apt install glusterfs-client")
