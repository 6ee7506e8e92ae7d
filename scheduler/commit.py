"""A decision becomes true in one transaction that fails if anything that it was based on has changed. Any number of
processes decide at once; none leads."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from random import Random
from urllib.parse import quote

import msgspec

from qnet import log, schema
from qnet.errors import Ambiguous, Conflict, Exhausted, Unavailable
from qnet.store.base import Delete, Event, Get, KeyValue, Put, Store, Transactor, Txn, absent
from scheduler.addresses import Addresses, Offer
from scheduler.feasible import canonical
from scheduler.model import Container, Request
from scheduler.place import Busy
from scheduler.records import Records
from scheduler.view import CONTAINERS, IMAGES, MADE, Decision, View, key

ATTEMPTS = 30
PATIENCE = 5.0  # seconds that a decision waits for others of this process on the only hosts that it can take


class Desk:
    """Places requests and takes containers back. Safe for many threads."""

    def __init__(
        self,
        store: Store,
        commit: Transactor,
        view: View,
        addresses: Addresses,
        now: Callable[[], str],
        random: Random,
        replica: str = "",
    ) -> None:
        """`commit` may carry transactions of several threads in one request, see `qnet.store.commit`. Claims are drawn
        from `random`, which the system has seeded. `replica` names this process: what it has placed and not made is
        undone when that is gone."""
        self._store = store
        self._commit = commit
        self._view = view
        self._addresses = addresses
        self._now = now
        self._random = random
        self._replica = replica
        self._records = Records(store, commit, addresses)
        self._free = threading.Condition(threading.Lock())
        self._waiting = 0
        self._busy: set[str] = set()  # hosts of which a decision of this process is on its way
        self._turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # of tenants with limits
        self.placed = self.again = 0

    def place(self, request: Request) -> Container:
        """Give a request a host, for good.

        Raises:
            Exhausted: no host can take it; every filter with how many hosts it drops. Or its tenant may not have more.
            Conflict: its name or its address is taken.
            Unavailable: the store is away, or too many decide at once.
        """
        with ExitStack() as turn:
            if self._view.limited(request.tenant):
                turn.enter_context(self._turns[request.tenant])
            made = self._place(request)
        if made.addresses:
            try:
                for tenant in {kept.tenant for found in made.addresses.values() for kept in found}:
                    self._addresses.check(tenant)
            except Exhausted:
                self.remove(made, hold=False)
                raise
        return made

    def _place(self, request: Request) -> Container:
        claim, current = f"{self._random.getrandbits(64):016x}", False
        for _ in range(ATTEMPTS):
            try:
                with self._decided(request) as decision:
                    made = self._try(request, decision, claim)
            except Exhausted:
                if current:
                    raise
                self._view.catch_up()  # it may have been freed just now
                current = True
                continue
            if made is not None:
                self.placed += 1
                return made
            self.again += 1
            current = False
        raise Unavailable(f"container {request.name}: others were faster {ATTEMPTS} times: try again")

    def confirm(self, container: Container, made: str, state: str, *, running: bool) -> Container | None:
        """It is made, the engine's id is `made`; how it is, its agent may have told already. None: it was undone or
        removed meanwhile. Raises Unavailable."""

        def change(there: Container) -> Container:
            told = {} if there.state else {"state": state, "running": running}
            return msgspec.structs.replace(there, by="", id=made, **told)

        found = self._records.amend(container, change, known=self._view.record(container.name))
        if found is None:
            return None
        self._view.apply(found[1])
        return found[0]

    def check_start(self, container: Container) -> None:
        """A container that stands still is to run: what it takes counts again for its tenant, if that has limits.

        Raises:
            Exhausted: the tenant may not take so much more.
            Unavailable
        """
        if not container.running and self._view.limited(container.tenant):
            self.resize(container, msgspec.structs.replace(container, running=True))

    def resize(self, container: Container, wanted: Container) -> None:
        """A container takes more, or less, than it did. Raises as `check_start`, for its host's room too."""
        for _ in range(ATTEMPTS):
            decision = self._view.decide_change(container, wanted)

            def change(there: Container) -> Container:
                fresh = {name: getattr(wanted, name) for name in ("cpus", "memory", "pids", "running")}
                return msgspec.structs.replace(there, **fresh)

            books = tuple(Put(book, container.id.encode()) for book in decision.books)
            found = self._records.amend(container, change, decision.still, books)
            if found is not None:
                self._view.apply(found[1])
                return
            if self._view.container(container.name) is None:
                return
            self._view.catch_up()
        raise Unavailable(f"container {container.name}: others were faster {ATTEMPTS} times: try again")

    def grant(self, tenant: str, image: str, *, made: bool) -> None:
        """A tenant has brought an image, by this name or id. Raises Unavailable."""
        where, value = _right(tenant, image), MADE if made else b"pulled"
        there = self._store.get(where)
        if there is None or there.value != value:
            revision = self._store.put(where, value)
            self._view.apply(Event(where, value, revision, revision))

    def revoke(self, tenant: str, image: str) -> None:
        """It has it no more. Raises Unavailable."""
        where = _right(tenant, image)
        self._view.catch_up(self._store.txn(Txn((), (Delete(where),))).revision)

    def rename(self, container: Container, name: str) -> Container:
        """Give a container another name. Raises Conflict: it is taken; NotFound: it is gone; Unavailable."""
        renamed, events = self._records.rename(container, name)
        self._view.apply(*events)
        return renamed

    def remove(self, container: Container, *, hold: bool = True) -> None:
        """Take a container back, unless it was placed anew; one that is gone is no error. Raises Unavailable."""
        event = self._records.drop(container, hold=hold)
        if event is not None:
            self._view.apply(event)

    @contextmanager
    def _decided(self, request: Request) -> Iterator[Decision]:
        """A host, which no other decision of this process takes meanwhile."""
        with self._free:
            while True:
                try:
                    decision = self._view.decide(request, self._random, self._busy)
                    break
                except Busy:
                    self._waiting += 1
                    free = self._free.wait(PATIENCE)
                    self._waiting -= 1
                    if not free:
                        raise Unavailable(f"container {request.name}: no host was free to be asked") from None
            self._busy.add(decision.host)
        try:
            yield decision
        finally:
            with self._free:
                self._busy.discard(decision.host)
                if self._waiting:
                    self._free.notify_all()

    def _try(self, request: Request, decision: Decision, claim: str) -> Container | None:
        """The container if this could be written; None: something has changed."""
        fresh = {"claim": claim, "since": self._now(), "by": self._replica, "request": log.current()}
        made = msgspec.structs.replace(request.on(decision.host), **fresh)
        offers = self._offers(made, request)
        try:
            kept = {network: tuple(offer.kept for offer in found) for network, found in offers.items()}
            made = msgspec.structs.replace(made, addresses=kept)
            return self._write(made, decision, [offer for found in offers.values() for offer in found])
        finally:
            for found in offers.values():
                self._addresses.done(found)

    def _offers(self, made: Container, request: Request) -> dict[str, list[Offer]]:
        found: dict[str, list[Offer]] = {}
        with ExitStack() as undo:
            for network, wanted in request.wanted.items():
                pools = self._view.machine(made.host).networks[network].pools
                if pools:
                    found[network] = self._addresses.offers(made, network, pools, wanted)
                    undo.callback(self._addresses.done, found[network])
            undo.pop_all()
        return found

    def _write(self, made: Container, decision: Decision, offers: list[Offer]) -> Container | None:
        where, value = key(CONTAINERS, made.name), schema.encode(made)
        books = [Put(book, made.claim.encode()) for book in decision.books]
        compares = (absent(where), *decision.still, *(one for offer in offers for one in offer.compares))
        # the books last: whoever knows of them has to know of what they were written for
        ops = (Put(where, value), *(op for offer in offers for op in offer.ops), *books)
        otherwise = (Get(where), *(Get(offer.key) for offer in offers), *(Get(book.key) for book in books))
        try:
            done = self._commit.txn(Txn(compares, ops, otherwise), repeatable=True)
        except Ambiguous:
            there = self._mine(self._store.get(where), made)
            if there is None:
                self._view.catch_up()
            return there
        if not done.succeeded:
            name, *others = map(_one, done.results)
            for offer, found in zip(offers, others, strict=False):
                self._addresses.seen(offer, found, done.revision)
            there = self._mine(name, made)
            written = {found.key: found.mod_revision for found in others[len(offers) :] if found is not None}
            if there is None and any(one.operand != written.get(one.key, one.operand) for one in decision.still):
                self._view.wait_for(written)
            elif there is None and not offers:
                self._view.catch_up(done.revision)  # it is neither a ledger nor an address that has changed
            return there
        self._view.apply(
            Event(where, value, done.revision, done.revision),
            *(Event(book.key, book.value, done.revision, done.revision) for book in books),
        )
        return made

    def _mine(self, found: KeyValue | None, made: Container) -> Container | None:
        """Whether what is there is this very one, of an answer that was lost. Raises Conflict: it is another one."""
        if found is not None:
            there = schema.decode(found.value, Container, found.key)
            if there.claim != made.claim:
                whose = f" by a container on {there.host}" if there.tenant == made.tenant else ""
                raise Conflict(f"container name {made.name} is in use{whose}: choose another, or qnet rm {made.name}")
            self._view.apply(Event(found.key, found.value, found.create_revision, found.mod_revision))
            return there
        return None


def _right(tenant: str, image: str) -> str:
    return key(IMAGES, f"{quote(canonical(image), '')}/{tenant}")


def _one(found: object) -> KeyValue | None:
    return found[0] if isinstance(found, tuple) and found else None
