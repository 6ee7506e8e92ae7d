"""Gluster's quota: the only user of the gluster command, through glustercli.

The command fails at once while another one works on the same volume, on whichever host. `plugins.volume.lock` keeps
qnet's own from meeting; what an operator types is met with patience.
"""

from __future__ import annotations

import logging
import math
import os
import random
import subprocess
import sys
import time
import xml.etree.ElementTree
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar, get_args

from plugins.volume.ports import PoolHealth
from qnet.errors import Conflict, InvalidRequest, NotFound, Unavailable
from qnet.schema import Health, VolumePoolRecord

# glustercli 0.8.6 asks for a module that Python 3.9 has dropped; this is its other name
sys.modules.setdefault("xml.etree.cElementTree", xml.etree.ElementTree)

from glustercli.cli import heal, peer, quota, utils, volume  # noqa: E402

logger = logging.getLogger(__name__)

DEADLINE = 30.0  # seconds for one command
PATIENCE = 60.0  # seconds for a command of somebody else
PAUSE = (0.1, 0.4)  # seconds between two tries
AGE = 10.0  # seconds for which it is known whether there is a glusterd
# what the command says while another one works on the volume
BUSY = ("Another transaction", "Locking failed", "in progress", "Please try again")
# of glusterd's own mount for quotas, which a command before this one may be ending; with no brick it stays so
LOST, LOST_PATIENCE = "Transport endpoint is not connected", 5.0
AWAY = ("Connection failed", "glusterd is not running", "Please check if gluster daemon is operational")
STATES = get_args(Health)  # from the best
SOFT, HARD = "features.soft-timeout", "features.hard-timeout"
WANTED = {"features.quota": "on", "features.quota-deem-statfs": "on", SOFT: "5", HARD: "0"}

ResultT = TypeVar("ResultT")


def _execute(command: list[str]) -> tuple[int, str, str]:
    """In place of glustercli's own, which waits for ever. gluster starts by having $PYTHON tell the version of its
    geo-replication, which takes as long as what is asked of it."""
    done = subprocess.run(
        [utils.GLUSTERCMD, "--mode=script", *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env=os.environ | {"PYTHON": "true"},
    )
    return done.returncode, done.stdout, done.stderr


utils.execute = _execute


class Quota:
    """See `plugins.volume.ports.Enforcer`: for who holds the pool's lock. Raises Unavailable where gluster cannot be
    asked."""

    def __init__(self) -> None:
        self._prepared: dict[str, bool] = {}  # by pool: whether it is strict
        self._able: tuple[float, bool] = (-math.inf, False)  # when that was found out

    @property
    def serves(self) -> bool:
        """Whether this host was a Gluster server when that was last looked at."""
        return self._able[1]

    def able(self, pool: VolumePoolRecord) -> bool:
        """Only Gluster servers can: their glusterd refuses changes that others send."""
        asked, able = self._able
        if time.monotonic() - asked > AGE:
            try:
                _ask(pool, peer.pool)
                able = True
            except Unavailable as error:
                logger.debug("%s", error)
                able = False
            self._able = time.monotonic(), able
        return able

    def prepare(self, pool: VolumePoolRecord, strict: bool) -> None:
        """Switch quota on, have df show it, and usage looked at often; what it sets it says in the log. A pool that was
        made strict stays so.

        Raises:
            NotFound: there is no such Gluster volume.
            Conflict: it is not started.
        """
        if pool.name in self._prepared and self._prepared[pool.name] >= strict:
            return
        has = self._options(pool)
        strict = strict or has.get(SOFT) == "0"
        for option, value in (WANTED | ({SOFT: "0"} if strict else {})).items():
            if has.get(option) != value:
                logger.info("pool %s: set %s to %s on Gluster volume %s", pool.name, option, value, pool.volume)
                _ask(pool, partial(_set, pool.volume, option, value))
        self._prepared[pool.name] = strict

    def limit(self, pool: VolumePoolRecord, path: str, size: int, inodes: int) -> None:
        """Set limits, or others in their place. Raises InvalidRequest: gluster refuses them."""
        if size:
            _ask(pool, partial(quota.limit_usage, pool.volume, path, str(size)))
        if inodes:
            _ask(pool, partial(quota.limit_objects, pool.volume, path, str(inodes)))

    def health(self, pool: VolumePoolRecord) -> PoolHealth:
        """By the states that glustercli gives sets of replicas. Raises NotFound."""
        found = _ask(pool, partial(volume.status_detail, pool.volume, group_subvols=True))
        if not found:
            raise NotFound(f"pool {pool.name}: there is no Gluster volume {pool.volume}")
        entries = _ask(pool, partial(heal.info, pool.volume)) if found[0]["replica"] > 1 else []
        sets = found[0]["subvols"]
        bricks = [brick for each in sets for brick in each["bricks"]]
        state = max((each["health"] for each in sets), key=STATES.index)
        backlog = sum(int(entry["nr_entries"]) for entry in entries if entry["nr_entries"].isdigit())
        up = sum(brick["online"] for brick in bricks)
        free, total = _room(sets, "size_free"), _room(sets, "size_total")
        return PoolHealth(state, len(bricks), up, backlog, free, total, _copies(sets[0]))

    def lift(self, pool: VolumePoolRecord, path: str) -> None:
        """Remove all limits; that there are none is no error."""
        for word in ("remove", "remove-objects"):
            try:
                _ask(pool, partial(utils.quota_execute, [pool.volume, word, path]))
            except InvalidRequest as error:
                logger.debug("%s", error)  # nothing was set, or the directory is gone

    def away(self, pool: VolumePoolRecord) -> Collection[str]:
        """GlusterFS 10.3 may start only the first brick of a server that missed a change of quota."""
        return [one["hostname"] for one in _ask(pool, peer.pool) if one["connected"] != "Connected"]

    @staticmethod
    def _options(pool: VolumePoolRecord) -> dict[str, str]:
        found = _ask(pool, partial(volume.info, pool.volume))
        if not found:
            raise NotFound(f"pool {pool.name}: there is no Gluster volume {pool.volume}")
        if found[0]["status"] != "Started":
            raise Conflict(f"pool {pool.name}: Gluster volume {pool.volume} is not started: gluster volume start")
        return {entry["name"]: entry["value"] for entry in found[0]["options"]}


def _room(sets: Iterable[Mapping[str, Any]], field: str) -> int:
    """Bytes over all sets: of each what its fullest brick with data has."""
    data = ([brick[field] for brick in one["bricks"] if brick["online"] and brick["type"] != "Arbiter"] for one in sets)
    return sum(min(sizes, default=0) for sizes in data)


def _copies(one: Mapping[str, Any]) -> float:
    """How much a client sends of a byte for a set: to each replica all of it, of a dispersed one fragments."""
    if one["disperse"]:
        return float(one["disperse"] / (one["disperse"] - one["disperse_redundancy"]))
    return float(sum(brick["type"] != "Arbiter" for brick in one["bricks"]))


def _set(name: str, option: str, value: str) -> None:
    if option == "features.quota":
        quota.enable(name)
    elif option in (SOFT, HARD):
        utils.quota_execute([name, option.removeprefix("features."), value])
    else:
        volume.optset(name, {option: value})


def _ask(pool: VolumePoolRecord, call: Callable[[], ResultT]) -> ResultT:
    """What a command answers, asked again while somebody else's is in the way.

    Raises:
        InvalidRequest: gluster refuses it.
        Unavailable: it does not answer, or does not come to an end.
    """
    began = time.monotonic()
    while True:
        try:
            return call()
        except utils.GlusterCmdException as error:
            said = " ".join(str(part) for part in error.args[0][1:] if part).strip() or "no reason given"
        except (OSError, xml.etree.ElementTree.ParseError) as error:
            raise Unavailable(
                f"pool {pool.name}: gluster: {error}: is glusterfs-server installed on this host?"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"pool {pool.name}: gluster did not answer within {DEADLINE:g} s") from error
        if any(word in said for word in AWAY):
            raise Unavailable(f"pool {pool.name}: glusterd of this host does not answer: systemctl start glusterd")
        if not (busy := any(word in said for word in BUSY)) and LOST not in said:
            raise InvalidRequest(f"pool {pool.name}: gluster: {said}")
        if time.monotonic() - began > (PATIENCE if busy else LOST_PATIENCE):
            raise Unavailable(f"pool {pool.name}: gluster is busy, or lost its bricks: {said}")
        time.sleep(random.uniform(*PAUSE))  # noqa: S311 - only spreads the tries
