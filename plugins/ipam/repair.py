"""Keeps this host's records in agreement with its engine, outside driver calls."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable

from plugins.ipam import compare
from plugins.ipam.compare import Action, Observed, Owner, Place
from plugins.ipam.journal import Journal
from plugins.ipam.repository import Repository
from plugins.ipam.service import Service
from plugins.ipam.settle import Settle
from plugins.ipam.uses import Uses
from qnet import metrics, schema
from qnet.addresses.model import IPNetwork, parse_subnet
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.records import changed, describe
from qnet.engine import EngineView, InProgress
from qnet.errors import Conflict, NotFound
from qnet.schema import AddressRecord

logger = logging.getLogger(__name__)

PAGE = 1000
SCAN_INTERVAL = 3600.0


class Repair:
    """Compares and acts. Every write names the revision that was compared, so a change in between wins."""

    def __init__(
        self,
        repository: Repository,
        uses: Uses,
        service: Service,
        journal: Journal,
        in_progress: InProgress,
        now: Callable[[], str],
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._uses = uses
        self._service = service
        self._journal = journal
        self._in_progress = in_progress
        self._now = now
        self._grace = grace
        self._clock = clock
        self._host = repository.host
        self._sightings: compare.Sightings = {}
        self._scanned: float | None = None
        self._found: set[tuple[str, IPNetwork]] = set()
        self._reported: set[Place] = set()
        self.conflicts: frozenset[Place] = frozenset()
        self._settle = Settle(repository, uses, grace, clock)

    def run(self, view: Callable[[], EngineView]) -> None:
        """One comparison. `view` asks the engine, after the records were read.

        Raises:
            Unavailable: the store or the engine cannot be reached; nothing was released.
        """
        replayed = self._journal.replay(self._service.replay_release)
        if replayed:
            logger.info("%d journaled releases done", replayed)
        self._scan()
        mine = dict(self._own_records())
        seen = view()
        verdict = self._compare(mine, seen)
        doubts = {(action.place, action.observed) for action in verdict.actions if action.takes_away}
        sure = doubts - self._in_progress.may_explain(doubts)
        if sure:
            seen = view()
            verdict = self._compare(mine, seen)
        self._sightings = verdict.sightings
        self.conflicts = frozenset(action.place for action in verdict.actions if action.do == "conflict")
        for action in verdict.actions:
            if not action.takes_away or (action.place, action.observed) in sure:
                self._act(action)
        pools = compare.pools_of(seen)
        self._found -= self._settle.run(self._found | set(pools), pools)

    def _scan(self) -> None:
        """Find the pools in which this host has anything, a page at a time: at start, and every hour."""
        if self._scanned is not None and self._clock() - self._scanned < SCAN_INTERVAL:
            return
        mark, own_use = f'"host":"{self._host}"'.encode(), f"/{schema.USE}{self._host}"
        pools = {_pool_of(kv.key, schema.POOLS) for kv in self._repository.store.range(schema.POOLS).kvs}
        after, more = "", True
        while more:
            page = self._repository.store.range(schema.CONTENTS, limit=PAGE, after=after)
            for kv in page.kvs:
                pools.discard(_pool_of(kv.key, schema.CONTENTS))
                if mark in kv.value or kv.key.endswith(own_use):
                    self._found.add(_pool_of(kv.key, schema.CONTENTS))
            more = page.more and bool(page.kvs)
            after = page.kvs[-1].key if page.kvs else ""
        for tenant, subnet in pools:
            self._uses.collect(tenant, subnet)
        self._scanned = self._clock()

    def _open(self, tenant: str, subnet: IPNetwork) -> OpenPool | None:
        try:
            return self._repository.open(tenant, subnet)
        except NotFound:
            self._found.discard((tenant, subnet))
            return None

    def _own_records(self) -> Iterable[tuple[Place, Observed]]:
        self._found |= self._repository.followed()
        for tenant, subnet in tuple(self._found):
            found = self._open(tenant, subnet)
            for stored in found.own() if found else ():
                yield Place(tenant, subnet, stored.address), Observed(stored.record, stored.revision)

    def _compare(self, mine: dict[Place, Observed], view: EngineView) -> compare.Verdict:
        engine = compare.by_address(view)
        records = self._with_live(mine, engine.live)
        return compare.compare(self._host, records, engine, self._sightings, self._clock(), self._grace)

    def _with_live(self, mine: dict[Place, Observed], live: Iterable[Place]) -> dict[Place, Observed]:
        """Add the records of others at addresses that this host's endpoints have."""
        records = dict(mine)
        for place in live:
            pool = None if place in records else self._open(place.tenant, place.subnet)
            stored = pool.stored(place.address) if pool else None
            if stored is not None:
                records[place] = Observed(stored.record, stored.revision)
        return records

    def _act(self, action: Action) -> None:
        place, observed, owner = action.place, action.observed, action.owner
        pool = self._open(place.tenant, place.subnet)
        if pool is None:
            return
        try:
            if action.do == "conflict" and observed is not None:
                self._report(place, observed.record)
            elif action.do == "claim" and owner is not None:
                self._claim(pool, place, owner)
            elif observed is not None:
                stored = Stored(place.address, observed.record, observed.revision)
                self._correct(action, pool, stored)
        except Conflict as error:
            logger.debug("repair of %s: %s", place.address, error)

    def _correct(self, action: Action, pool: OpenPool, stored: Stored) -> None:
        record, owner = stored.record, action.owner
        if action.do == "release":
            self._repository.release(pool, stored)
            self._uses.collect(pool.tenant, pool.subnet)
            if record.kind != "held":
                metrics.REPAIRS.labels("record without endpoint").inc()
                logger.warning("address %s released: the engine has no endpoint for it", stored.address)
        elif action.do == "hold":
            held = changed(record, kind="held", endpoint="", mac="", engine="")
            if owner is not None:
                held = changed(
                    held, container=owner.container.name, container_id=owner.container.id, network=owner.network
                )
            self._repository.hold(pool, stored, held)
        elif owner is not None:
            known = changed(
                record,
                kind="endpoint",
                container=owner.container.name,
                container_id=owner.container.id,
                network=owner.network,
                endpoint=owner.endpoint,
            )
            self._repository.replace(pool, stored, known)

    def _claim(self, pool: OpenPool, place: Place, owner: Owner) -> None:
        """Write the record that an endpoint, or a stopped container with an address of its own, is missing."""
        running = owner.container.running
        record = AddressRecord(
            kind="endpoint" if running else "held",
            host=self._host,
            since=self._now(),
            claim=secrets.token_hex(8),
            asked=any(str(place.address) in end.asked for end in owner.container.endpoints),
            network=owner.network,
            endpoint=owner.endpoint if running else "",
            container=owner.container.name,
            container_id=owner.container.id,
        )
        stored = self._repository.create(pool, place.address, record)
        if stored.record.claim == record.claim:
            metrics.REPAIRS.labels("endpoint without record").inc()
            logger.warning("address %s claimed for %s: it had no record", place.address, owner.container.name)

    def _report(self, place: Place, record: AddressRecord) -> None:
        if place not in self._reported:
            self._reported.add(place)
            metrics.CONFLICTS.inc()
            logger.error(
                "conflict: %s of tenant %s is in use on this host, but %s",
                place.address,
                place.tenant,
                describe(record),
            )


def _pool_of(key: str, prefix: str) -> tuple[str, IPNetwork]:
    """The pool that a key below a prefix belongs to."""
    tenant, subnet = key.removeprefix(prefix).split("/")[:2]
    return tenant, parse_subnet(schema.subnet_of_key(subnet))
