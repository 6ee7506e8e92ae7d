"""What the store says of hosts and containers, as a fleet in memory: fed by one watch, so that no part of it is newer.

placement/machines/HOST    Machine, by its agent, under the agent's lease
placement/vitals/HOST      Vitals, by its agent
placement/states/HOST      what an operator says: drain
placement/containers/NAME  Container; names are unique in the cluster
placement/ledgers/HOST     written with everything that takes something of a host; who decides compares its revision
placement/groups/GROUP     the same for what is spread together
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from random import Random
from urllib.parse import quote

import msgspec

from qnet import schema
from qnet.errors import QnetError, Unavailable
from qnet.store.base import Compare, Event, Store, at_revision, present
from qnet.store.cache import Change, PrefixCache
from scheduler.fleet import Fleet
from scheduler.model import Container, Machine, Policy, Request, State, Vitals
from scheduler.place import Verdict, explain, place

logger = logging.getLogger(__name__)

PLACEMENT = schema.ROOT + "placement/"
MACHINES, VITALS, STATES, CONTAINERS = "machines/", "vitals/", "states/", "containers/"
LEDGERS, GROUPS = "ledgers/", "groups/"
CURRENT = 5.0  # seconds to catch up with the store


def key(kind: str, name: str) -> str:
    """Where a record of a kind stands."""
    return PLACEMENT + kind + name


def books(taken: Request | Container, host: str) -> tuple[str, ...]:
    """The keys that are written whenever a host takes something like that."""
    ledger = key(LEDGERS, host)
    return (ledger, key(GROUPS, f"{taken.tenant}/{quote(taken.group, '')}")) if taken.group else (ledger,)


class View:
    """See the module. Safe for many threads."""

    def __init__(self, store: Store, policy: Policy | None = None) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._fleet = Fleet(policy)
        self._registered: dict[str, Machine] = {}
        self._states: dict[str, State] = {}
        self._revisions: dict[str, int] = {}  # of ledgers and groups, as the fleet knows them
        self._cache = PrefixCache(store, PLACEMENT, self._hear)

    def start(self) -> None:
        """Begin to follow the store, unless that has been done. Raises Unavailable."""
        self._cache.start()

    def close(self) -> None:
        """Stop following."""
        self._cache.close()

    def decide(self, request: Request, random: Random, avoid: Collection[str]) -> tuple[str, tuple[Compare, ...]]:
        """A host for a request, and what must still be so when that is written. Raises as `place`."""
        with self._lock:
            host = place(self._fleet, request, random, avoid)
            ledger, *group = books(request, host)
            watched = (ledger, *group) if any(spread.most for spread in request.spreads) else (ledger,)
            revisions = tuple(at_revision(book, self._revisions.get(book, 0)) for book in watched)
        return host, (*revisions, present(key(MACHINES, host)))

    def explain(self, request: Request) -> list[Verdict]:
        """What speaks for and against each host."""
        with self._lock:
            return explain(self._fleet, request)

    def containers(self) -> list[Container]:
        """All containers, in no order."""
        with self._lock:
            return list(self._fleet.containers.values())

    def machines(self) -> list[Machine]:
        """All hosts, in no order."""
        with self._lock:
            return list(self._fleet.machines.values())

    def apply(self, *events: Event) -> None:
        """Take in what this process has written."""
        self._cache.apply(*events)

    def catch_up(self, revision: int = 0) -> None:
        """Wait until all is known up to a revision of the store, 0: its present one. Raises Unavailable."""
        revision = revision or self._store.range(PLACEMENT, limit=1).revision
        if not self._cache.wait(revision, CURRENT):
            raise Unavailable(f"what the store says of hosts is more than {CURRENT:g} s late: try again")

    # -- the store's changes ---------------------------------------------------------------------------------

    def _hear(self, changes: list[Change]) -> None:
        with self._lock:
            for suffix, value in changes:
                kind, _, name = suffix.partition("/")
                try:
                    self._take(f"{kind}/", name, value)
                except QnetError as error:
                    logger.error("%s%s: %s", PLACEMENT, suffix, error)

    def _take(self, kind: str, name: str, value: bytes | None) -> None:
        if kind == CONTAINERS:
            if value is None:
                self._fleet.remove(name)
            else:
                self._fleet.put(schema.decode(value, Container, name))
        elif kind in (LEDGERS, GROUPS):
            found = self._cache.get(kind + name)
            self._revisions[key(kind, name)] = found.mod_revision if found else 0
        elif kind == VITALS:
            self._fleet.set_vitals(name, schema.decode(value, Vitals, name) if value else Vitals())
        elif kind in (MACHINES, STATES):
            if kind == STATES:
                self._states[name] = "drain" if value == b"drain" else "ready"
            elif value is None:
                self._registered.pop(name, None)
            else:
                self._registered[name] = schema.decode(value, Machine, name)
            self._settle(name)

    def _settle(self, name: str) -> None:
        """A host is what its agent says, unless an operator says otherwise."""
        known = self._registered.get(name)
        if known is None:
            self._fleet.drop_machine(name)
        elif known.state == "ready":
            self._fleet.set_machine(msgspec.structs.replace(known, state=self._states.get(name, "ready")))
        else:
            self._fleet.set_machine(known)
