"""What the store says of hosts and containers, as a fleet in memory: fed by one watch, so that no part of it is newer.

placement/machines/HOST    Machine, by its agent
placement/alive/HOST       the same host's lease: without it the host is down
placement/vitals/HOST      Vitals, by its agent
placement/orders/HOST      Orders: what an operator says of a host
placement/networks/NAME    Network: what every host is to have
placement/containers/NAME  Container; names are unique in the cluster
placement/ledgers/HOST     written with everything that takes something of a host; who decides compares its revision
placement/groups/GROUP     the same for what is spread together with a limit
placement/quotas/TENANT    the same for a tenant with limits
placement/images/IMAGE/TENANT  what a tenant has brought, and so may use: `made` by itself, or pulled
placement/replicas/ID      a process that places, under a lease
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from random import Random
from typing import NamedTuple, TypeVar
from urllib.parse import quote, unquote

import msgspec

from qnet import schema
from qnet.errors import NotFound, QnetError, Unavailable
from qnet.schema import TenantRecord
from qnet.store.base import Compare, Event, KeyValue, Store, at_revision, present
from qnet.store.cache import Change, PrefixCache
from scheduler.feasible import canonical
from scheduler.fleet import Fleet
from scheduler.model import Container, Load, Machine, Network, Orders, Policy, Request, Vitals
from scheduler.place import Verdict, explain, place
from scheduler.quota import check, check_more, check_room, limited
from scheduler.rules import HOST

logger = logging.getLogger(__name__)

MACHINES, ALIVE, VITALS, ORDERS, NETWORKS = "machines/", "alive/", "vitals/", "orders/", "networks/"
CONTAINERS, LEDGERS, GROUPS, QUOTAS, REPLICAS = "containers/", "ledgers/", "groups/", "quotas/", "replicas/"
IMAGES, MADE = "images/", b"made"
T = TypeVar("T")

CURRENT = 5.0  # seconds to catch up with the store


def key(kind: str, name: str) -> str:
    """Where a record of a kind stands."""
    return schema.PLACEMENT + kind + name


class Decision(NamedTuple):
    """Where a request goes: the ledgers to write with it, and what must still be so then."""

    host: str
    books: tuple[str, ...]
    still: tuple[Compare, ...]


class View:
    """See the module. Safe for many threads."""

    def __init__(self, store: Store, policy: Policy | None = None) -> None:
        self._store = store
        self._lock = threading.Condition(threading.Lock())
        self._fleet = Fleet(policy)
        self._registered: dict[str, Machine] = {}
        self._alive: set[str] = set()
        self._orders: dict[str, Orders] = {}
        self._networks: dict[str, Network] = {}
        self._tenants: dict[str, TenantRecord] = {}
        self._replicas: set[str] = set()
        self._rights: dict[str, dict[str, bool]] = {}
        self._revisions: dict[str, int] = {}  # of ledgers, groups, quotas and orders, as the fleet knows them
        self._cache = PrefixCache(store, schema.PLACEMENT, self._hear)
        self._tenant_cache = PrefixCache(store, schema.TENANTS, self._hear_tenants)

    def start(self) -> None:
        """Begin to follow the store, unless that has been done. Raises Unavailable."""
        self._tenant_cache.start()
        self._cache.start()

    def close(self) -> None:
        """Stop following."""
        self._cache.close()
        self._tenant_cache.close()

    @property
    def ready(self) -> bool:
        """Whether it follows the store."""
        return self._cache.synced and self._tenant_cache.synced

    def check(self) -> None:
        """Whether anything is known yet. Raises Unavailable."""
        if not (self._cache.revision and self._tenant_cache.revision):
            raise Unavailable("this replica has not read the store yet: try again, or look at its log")

    # -- deciding --------------------------------------------------------------------------------------------

    def decide(self, request: Request, random: Random, avoid: Collection[str]) -> Decision:
        """A host for a request. Raises as `place`."""
        with self._lock:
            tenant = self._tenants.get(request.tenant)
            if tenant is not None:
                check(tenant, self._fleet.taken(request.tenant), request)
            host = place(self._fleet, request, random, avoid)
            books = self._books(request, host)
            watched = (*books, key(ORDERS, host))
            revisions = tuple(at_revision(book, self._revisions.get(book, 0)) for book in watched)
        return Decision(host, books, (*revisions, present(key(ALIVE, host))))

    def decide_change(self, old: Container, new: Container) -> Decision:
        """What has to be so that a container may take what another form of it takes. Raises Exhausted."""
        with self._lock:
            before = (old.cpus, old.memory) if old.running else (0, 0)
            more = [now - was for now, was in zip((new.cpus, new.memory), before, strict=True)]
            tenant, machine = self._tenants.get(new.tenant), self._fleet.machines.get(new.host)
            if tenant is not None and new.running:
                check_more(tenant, self._fleet.taken(new.tenant), 0, *more)
            if machine is not None and old.running:
                check_room(machine, self._fleet.load(new.host), self._fleet.policy, *more)
            books = (key(LEDGERS, new.host), *((key(QUOTAS, new.tenant),) if limited(tenant) else ()))
            still = tuple(at_revision(book, self._revisions.get(book, 0)) for book in books)
        return Decision(new.host, books, still)

    def _books(self, request: Request, host: str) -> tuple[str, ...]:
        """The keys that are written whenever a host takes something like that."""
        found = [key(LEDGERS, host)]
        # that no host has more than so many of a group is guarded by the host's own ledger
        if request.group and any(spread.most and spread.label != HOST for spread in request.spreads):
            found.append(key(GROUPS, f"{request.tenant}/{quote(request.group, '')}"))
        if limited(self._tenants.get(request.tenant)):
            found.append(key(QUOTAS, request.tenant))
        return tuple(found)

    def explain(self, request: Request) -> list[Verdict]:
        """What speaks for and against each host."""
        with self._lock:
            return explain(self._fleet, request)

    def trusts(self, tenant: str) -> bool:
        """Whether a tenant's containers may have power over hosts."""
        found = self._tenants.get(tenant)
        return found is not None and found.trusted

    def limited(self, tenant: str) -> bool:
        """Whether a tenant has limits that placement holds."""
        return limited(self._tenants.get(tenant))

    # -- reading ---------------------------------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """All containers, in no order."""
        with self._lock:
            return list(self._fleet.containers.values())

    def container(self, name: str) -> Container | None:
        """The container of that name."""
        return self._fleet.containers.get(name)

    def record(self, name: str) -> KeyValue | None:
        """A container's record as it was last heard of."""
        return self._cache.get(CONTAINERS + name)

    def by_id(self, prefix: str) -> list[Container]:
        """The container of that id, or those whose ids begin like that."""
        with self._lock:
            return self._fleet.by_id(prefix)

    def machines(self) -> list[Machine]:
        """All hosts, in no order."""
        with self._lock:
            return list(self._fleet.machines.values())

    def machine(self, name: str) -> Machine:
        """The host of that name. Raises NotFound."""
        found = self._fleet.machines.get(name)
        if found is None:
            self.check()
            raise NotFound(f"host {name} is not known; see qnet host ls")
        return found

    def vitals(self, name: str) -> Vitals:
        """How a host is doing, as far as is known."""
        return self._fleet.vital(name)

    def load(self, name: str) -> Load:
        """What a host's containers take."""
        return self._fleet.load(name)

    def taken(self, tenant: str) -> Load:
        """What a tenant's containers take; `running` counts all of them, stopped ones too."""
        return self._fleet.taken(tenant)

    def networks(self) -> list[Network]:
        """What every host is to have."""
        with self._lock:
            return list(self._networks.values())

    def network(self, name: str) -> Network | None:
        """The cluster's network of that name."""
        return self._networks.get(name)

    def tenants(self) -> list[TenantRecord]:
        """All tenants that are registered."""
        with self._lock:
            return list(self._tenants.values())

    def tenant(self, name: str) -> TenantRecord | None:
        """The tenant of that name."""
        return self._tenants.get(name)

    def rights(self, image: str) -> Mapping[str, bool]:
        """The tenants that have brought an image of that name or id; and whether they have made it."""
        return self._rights.get(image, {})

    def sees(self, tenant: str, image: str) -> bool:
        """Whether a tenant may use an image of that name or id. Names that no tenant has brought are operators' and for
        all; ids and digests, by which engines find an image of any name, are for those who have brought them."""
        rights = self.rights(canonical(image))
        return tenant in rights or not (rights or image.startswith("sha256:") or "@" in image)

    def told(self, image: str) -> set[str]:
        """The hosts, up or not, that have told that they have an image of that name."""
        name = canonical(image)
        return {one.name for one in self.machines() if name in self.vitals(one.name).images}

    def replicas(self) -> frozenset[str]:
        """The processes that place."""
        with self._lock:
            return frozenset(self._replicas)

    def apply(self, *events: Event) -> None:
        """Take in what this process has written."""
        self._cache.apply(*events)

    def catch_up(self, revision: int = 0) -> None:
        """Wait until all is known up to a revision of the store, 0: its present one. Raises Unavailable."""
        revision = revision or self._store.range(schema.PLACEMENT, limit=1).revision
        if not self._cache.wait(revision, CURRENT):
            raise Unavailable(f"what the store says of hosts is more than {CURRENT:g} s late: try again")

    def wait_for(self, books: Mapping[str, int]) -> None:
        """Wait until ledgers are known as they were written at these revisions. This asks the store nothing, unlike
        `catch_up`, which in a large fleet costs it much.

        Raises:
            Unavailable: the store tells nothing.
        """

        def known() -> bool:
            return all(self._revisions.get(book, 0) >= revision for book, revision in books.items())

        with self._lock:
            if not self._lock.wait_for(known, CURRENT):
                raise Unavailable(f"what the store says of hosts is more than {CURRENT:g} s late: try again")

    # -- the store's changes ---------------------------------------------------------------------------------

    def _hear_tenants(self, changes: list[Change]) -> None:
        with self._lock:
            for name, value in changes:
                if value is None:
                    self._tenants.pop(name, None)
                else:
                    self._tenants[name] = schema.decode(value, TenantRecord, name)

    def _hear(self, changes: list[Change]) -> None:
        with self._lock:
            for suffix, value in changes:
                kind, _, name = suffix.partition("/")
                try:
                    self._take(f"{kind}/", name, value)
                except QnetError as error:
                    logger.error("%s%s: %s", schema.PLACEMENT, suffix, error)
            self._lock.notify_all()

    def _take(self, kind: str, name: str, value: bytes | None) -> None:
        if kind == CONTAINERS:
            if value is None:
                self._fleet.remove(name)
            else:
                self._fleet.put(schema.decode(value, Container, name))
        elif kind in (LEDGERS, GROUPS, QUOTAS):
            self._note(kind, name)
        elif kind == VITALS:
            self._fleet.set_vitals(name, schema.decode(value, Vitals, name) if value else Vitals())
        elif kind in (MACHINES, ALIVE, ORDERS):
            self._take_host(kind, name, value)
        elif kind == NETWORKS:
            _keep(self._networks, name, schema.decode(value, Network, name) if value is not None else None)
        elif kind == IMAGES:
            self._take_right(name, value)
        elif kind == REPLICAS:
            (self._replicas.discard if value is None else self._replicas.add)(name)

    def _take_right(self, name: str, value: bytes | None) -> None:
        image, _, tenant = name.partition("/")
        rights = self._rights.setdefault(unquote(image), {})
        _keep(rights, tenant, value == MADE if value is not None else None)
        if not rights:
            del self._rights[unquote(image)]

    def _note(self, kind: str, name: str) -> None:
        found = self._cache.get(kind + name)
        self._revisions[key(kind, name)] = found.mod_revision if found else 0

    def _take_host(self, kind: str, name: str, value: bytes | None) -> None:
        if kind == ALIVE:
            (self._alive.discard if value is None else self._alive.add)(name)
        elif kind == ORDERS:
            self._orders[name] = schema.decode(value, Orders, name) if value else Orders()
            self._note(kind, name)
        elif value is None:
            self._registered.pop(name, None)
        else:
            self._registered[name] = schema.decode(value, Machine, name)
        self._settle(name)

    def _settle(self, name: str) -> None:
        """A host is what its agent and an operator say; without an agent it is down."""
        known = self._registered.get(name)
        if known is None:
            self._fleet.drop_machine(name)
            return
        orders = self._orders.get(name, Orders())
        labels = {label: text for label, text in {**known.labels, **orders.labels}.items() if text}
        state = "down" if name not in self._alive else orders.state if known.state == "ready" else known.state
        self._fleet.set_machine(msgspec.structs.replace(known, state=state, labels=labels))


def _keep(known: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        known.pop(name, None)
    else:
        known[name] = value
