"""Addresses that outlive a stop: held for the container that asked for them, until it is removed."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Protocol

from plugins.ipam.repository import Repository
from qnet import log
from qnet.addresses.model import Caller, IPAddress, PoolId
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.records import changed
from qnet.engine import EngineContainer
from qnet.errors import Conflict, Unavailable

logger = logging.getLogger(__name__)

PATIENCE = 1.0


class Containers(Protocol):
    """What of the engine may be asked inside a driver call: neither waits for a lock that the call holds."""

    def containers(self) -> tuple[EngineContainer, ...]:
        """All containers that exist."""

    def busy(self, container: str, patience: float) -> bool:
        """Whether the engine is starting or stopping the container right now."""


class Holds:
    """Turns an endpoint's address into a held one at its release, and back when the container starts again."""

    def __init__(
        self, repository: Repository, engine: Containers, now: Callable[[], str], on_hold: Callable[[], None]
    ) -> None:
        self._repository = repository
        self._engine = engine
        self._now = now
        self._on_hold = on_hold

    def hold(self, opened: OpenPool, stored: Stored) -> None:
        """Keep an address that was asked for. Whether its container still exists, the engine cannot say inside this
        call: the comparison that `on_hold` sets off settles it. Raises Conflict, Unavailable."""
        record = changed(stored.record, kind="held", endpoint="", engine="", mac="")
        self._repository.hold(opened, stored, record)
        self._on_hold()

    def take(self, caller: Caller, pool: PoolId, opened: OpenPool, held: Stored, container: str) -> Stored:
        """Give a held address to the container that it is held for.

        Raises:
            Conflict: another container asks for it.
        """
        record = held.record
        log.follow(record.request)
        if container and record.container and record.container != container:
            raise Conflict(self._taken(pool, held.address, record.container))
        if not container:
            self._refuse_others(pool, held)
        fresh = changed(
            record,
            kind="endpoint",
            engine=caller.engine,
            since=self._now(),
            claim=secrets.token_hex(8),
            container=container or record.container,
        )
        return self._repository.replace(opened, held, fresh)

    def _refuse_others(self, pool: PoolId, held: Stored) -> None:
        """Engines before 29 do not say which container asks. If only the owner could, it is the owner; if others were
        made with the same `--ip`, the one that asks is the one that the engine has locked for its start."""
        try:
            existing = self._engine.containers()
        except Unavailable as error:
            logger.warning("held address %s given on trust: %s", held.address, error)
            return
        asking = [box for box in existing if any(str(held.address) in end.asked for end in box.endpoints)]
        owners = {box.id: box.name for box in existing if box.id == held.record.container_id}
        if held.record.placement:
            owners = {box.id: box.name for box in asking if box.name == held.record.container}
        if not owners:
            owners = {box.id: box.name for box in asking if box.started and not box.running}
        others = [box for box in asking if owners and box.id not in owners and not box.running]
        for box in others:
            if self._engine.busy(box.id, PATIENCE / len(others)):
                raise Conflict(self._taken(pool, held.address, ", ".join(owners.values())))

    def _taken(self, pool: PoolId, address: IPAddress, owner: str) -> str:
        return (
            f"address {address} of pool {pool.subnet} of tenant {pool.tenant} is taken: held for container {owner} "
            f"on {self._repository.host}; remove that container to free it"
        )
