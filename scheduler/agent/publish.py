"""Tells the store which containers this host has, and how they are.

A container that qnet placed has a label with its claim, and a record before it exists. Any other gets a record when it
is seen; if its name is taken by one on another host, under HOST/NAME, which no container can be called.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qnet import log, metrics, schema
from qnet.errors import Conflict, NotFound
from qnet.folder import Folder, Kept
from qnet.sightings import Sightings
from qnet.store.base import Delete, Put, Store, Txn, absent, unchanged
from scheduler import translate
from scheduler.agent.dockerd import Dockerd
from scheduler.model import Container
from scheduler.records import Records
from scheduler.view import CONTAINERS, LEDGERS, key

logger = logging.getLogger(__name__)

SELDOM = 20  # comparisons between two looks whether the store still has what it was told
FIELDS = ("id", "state", "running", "exit", "changed", "ips")


class Published(Kept, frozen=True, kw_only=True):
    """A container that the store knows of: `id` is the engine's, `name` that of its record."""

    name: str
    claim: str = ""


class Publisher:
    """See the module. For one thread."""

    def __init__(
        self,
        store: Store,
        records: Records,
        engine: Dockerd,
        host: str,
        state: Path,
        clock: Callable[[], float],
        grace: float,
    ) -> None:
        self._store = store
        self._records = records
        self._engine = engine
        self._host = host
        self._published = Folder(state, Published, durable=False)
        self._told: dict[str, Container] = {}
        self._strays = Sightings(grace, clock)
        self._rounds = 0

    def look(self, container: str) -> None:
        """Something happened to a container, by its id. Raises Unavailable."""
        inspected = self._engine.inspect(container)
        if inspected is None:
            self._gone(container)
        else:
            self._tell(inspected)

    def compare(self) -> None:
        """Look at everything that the engine has, and at everything that the store was told. Raises Unavailable."""
        listed = {entry["Id"]: entry for entry in self._engine.containers()}
        for known in self._published.all():
            if known.id not in listed:
                self._gone(known.id)
        strays, self._rounds = {}, self._rounds + 1
        for container, entry in listed.items():
            told = self._told.get(container)
            if told is None or told.state != entry.get("State"):
                inspected = self._engine.inspect(container)
                if inspected is not None and not self._tell(inspected):
                    strays[container] = inspected
            elif self._rounds % SELDOM == 0 and not self._still(told):
                del self._told[container]
        for container in self._strays.overdue(strays):
            self._settle(strays[container])

    # -- what is there ---------------------------------------------------------------------------------------

    def _tell(self, inspected: Mapping[str, Any]) -> bool:
        """Write down how a container is; false: it was placed, and nobody knows of it."""
        found = translate.container(inspected, self._host)
        if self._told.get(found.id) == found:
            return True
        before = self._told.get(found.id)
        known = self._published.get(found.id)
        if found.claim:
            if known is not None and known.name != found.name:
                self._rename(known, found)
            told = {name: getattr(found, name) for name in FIELDS}
            done = self._records.amend(found, lambda there: msgspec.structs.replace(there, **told))
            if done is None:
                return False
            with log.under(done[0].request):
                logger.info("container %s is %s", found.name, found.state, extra=log.fields(id=found.id[:12]))
            self._note(found, found.name)
        else:
            self._tell_foreign(found)
        self._told[found.id] = found
        metrics.REPORTS.labels("containers").inc()
        if found.running and not (before and before.running):
            # it takes something of this host that whoever decides now may not know of
            self._store.put(key(LEDGERS, self._host), found.id.encode())
        return True

    def _rename(self, known: Published, found: Container) -> None:
        """A placed container has another name now; one that is taken elsewhere stays the old one for the cluster."""
        try:
            self._records.rename(msgspec.structs.replace(found, name=known.name), found.name)
        except NotFound:
            return  # whoever renamed it, or made it anew, has told the store
        except Conflict as error:
            logger.error("container %s was renamed to %s: %s", known.name, found.name, error)

    def _tell_foreign(self, found: Container) -> None:
        known = self._published.get(found.id)
        if known is not None and known.name in (found.name, f"{self._host}/{found.name}"):
            names = [known.name]
        else:
            self._forget(found.id)
            names = [found.name, f"{self._host}/{found.name}"]
        for name in names:
            if self._write_foreign(msgspec.structs.replace(found, name=name)):
                self._note(found, name)
                return
        if known is not None:
            self._published.remove(found.id)  # the name was given to another: the other one is tried next time

    def _write_foreign(self, found: Container) -> bool:
        there, kv = self._records.read(found.name)
        where, value = key(CONTAINERS, found.name), schema.encode(found)
        if there is None or kv is None:
            return self._store.txn(Txn((absent(where),), (Put(where, value),))).succeeded
        if there.claim or (there.host, there.id) != (self._host, found.id):
            return False
        return kv.value == value or self._store.txn(Txn((unchanged(kv),), (Put(where, value),))).succeeded

    def _note(self, found: Container, name: str) -> None:
        fresh = Published(id=found.id, name=name, claim=found.claim)
        if self._published.get(found.id) != fresh:
            self._published.save(fresh)

    def _still(self, told: Container) -> bool:
        known = self._published.get(told.id)
        there, _ = self._records.read(known.name) if known else (None, None)
        return there is not None and (there.id, there.host) == (told.id, self._host)

    # -- what is not -----------------------------------------------------------------------------------------

    def _gone(self, container: str) -> None:
        """The engine has it no more. What a replica is still making is that replica's to undo."""
        self._told.pop(container, None)
        self._forget(container)

    def _forget(self, container: str) -> None:
        known = self._published.get(container)
        if known is None:
            return
        there, kv = self._records.read(known.name)
        if there is not None and kv is not None and there.host == self._host and there.claim == known.claim:
            if not known.claim and there.id == container:
                self._store.txn(Txn((unchanged(kv),), (Delete(kv.key),)))
            elif known.claim and not there.by:
                self._records.drop(there)
                with log.under(there.request):
                    logger.info("container %s is gone", there.name, extra=log.fields(id=container[:12]))
        self._published.remove(container)

    def _settle(self, inspected: Mapping[str, Any]) -> None:
        """A container that was placed and that nobody knows of: what a crash, or a partition, has left. Whoever asked
        for it was never told that it is there. One whose name is free is let in; what never ran, or would be the second
        of its name, goes."""
        found = translate.container(inspected, self._host)
        there, _ = self._records.read(found.name)
        if there is None and translate.was_started(inspected):
            fresh = msgspec.structs.replace(found, by="")
            where = key(CONTAINERS, found.name)
            if self._store.txn(Txn((absent(where),), (Put(where, schema.encode(fresh)),))).succeeded:
                logger.warning(
                    "container %s was placed, and nobody knew of it: its name was free, so it stays", found.name
                )
                self._note(found, found.name)
            return
        logger.warning("container %s removed: its placement was undone", found.name)
        metrics.REPAIRS.labels("container without placement").inc()
        try:
            self._engine.remove(found.id, force=True)
        except Conflict as error:
            logger.warning("%s", error)


def ended_badly(event: Mapping[str, Any]) -> bool:
    """Whether an event tells that a container has ended with an error."""
    attributes = (event.get("Actor") or {}).get("Attributes") or {}
    return event.get("Action") == "die" and attributes.get("exitCode", "0") not in ("0", "137", "143")
