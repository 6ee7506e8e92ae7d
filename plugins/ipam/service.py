"""What the IPAM driver does. Every answer follows from a transaction in the store, never from memory alone."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping

from plugins.ipam.ahead import Ahead
from plugins.ipam.holds import Holds
from plugins.ipam.journal import Entry, Journal
from plugins.ipam.probing import Prober, Probing, refusal
from plugins.ipam.repository import Changed, Repository
from plugins.ipam.uses import Uses
from qnet import metrics
from qnet.addresses.model import (
    Caller,
    IPAddress,
    PoolId,
    check_inside,
    parse_address,
    parse_exclusion,
    parse_pool_id,
    parse_subnet,
)
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.pools import capacity
from qnet.addresses.quota import Quota
from qnet.addresses.records import changed, describe
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, Unavailable
from qnet.schema import AddressRecord
from qnet.tenants import DEFAULT, parse_tenant

logger = logging.getLogger(__name__)

POOL_OPTIONS = ("tenant", "exclude")
DEADLINE = 4.5
CATCH_UP = 1.0
FULL_WORDS = 1.0
CHANGES = 5
PICKS = 8  # addresses tried that are answered for by others
WORDS = {"reservation": "reserved", "quarantine": "quarantined"}
AUXILIARY_WAIT, AUXILIARY_TRIES = 0.2, 10


class Service:
    """Requests and releases of pools and addresses by this host's engine."""

    def __init__(
        self,
        repository: Repository,
        uses: Uses,
        holds: Holds,
        journal: Journal,
        claim_name: Callable[[], None],
        now: Callable[[], str],
        prober: Prober,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._repository = repository
        self._uses = uses
        self._holds = holds
        self._journal = journal
        self._claim_name = claim_name
        self._now = now
        self._clock = clock
        self._sleep = sleep
        self._host = repository.host
        self._full_words: dict[PoolId, tuple[float, str]] = {}
        self._quota = Quota(repository.store)
        self._probing = Probing(repository, prober, self.release_address, now)
        self._ahead = Ahead(repository, self._fresh, lambda pool: uses.collect(pool.tenant, pool.subnet), clock)

    def request_pool(self, engine: str, pool: str, sub_pool: str, options: Mapping[str, str], v6: bool) -> PoolId:
        """A pool for one more network of this host.

        Args:
            pool: the subnet asked for; empty: any of the tenant's supernet.
            sub_pool: the range within it that is handed out; empty: all of it.
            options: `--ipam-opt`: tenant, exclude.

        Raises:
            InvalidRequest, Conflict, Exhausted, Unavailable
        """
        unknown = sorted(set(options) - set(POOL_OPTIONS))
        if unknown:
            raise InvalidRequest(f"--ipam-opt {unknown[0]}: no such option; there are: {', '.join(POOL_OPTIONS)}")
        tenant = parse_tenant(options.get("tenant", DEFAULT))
        subnet = parse_subnet(pool) if pool else None
        if sub_pool and subnet is None:
            raise InvalidRequest(f"range {sub_pool} without a subnet: add --subnet")
        part = parse_subnet(sub_pool) if sub_pool else None
        if part and subnet and (part.version != subnet.version or not part.subnet_of(subnet)):  # type: ignore[arg-type]
            raise InvalidRequest(f"range {part} is not inside subnet {subnet}")
        exclude = tuple(filter(None, (text.strip() for text in options.get("exclude", "").split(","))))
        if subnet is not None:
            for text in exclude:
                parse_exclusion(text, subnet)
        elif exclude:
            raise InvalidRequest("--ipam-opt exclude without a subnet: add --subnet")
        if subnet is None:
            version = 6 if v6 else 4
        elif (version := subnet.version) == 6 and not v6:
            raise InvalidRequest(f"subnet {subnet} is IPv6: add --ipv6")
        self._claim_name()
        chosen = self._uses.request(Caller(self._host, engine), tenant, subnet, version)
        return PoolId(tenant, chosen, None if part == chosen else part, exclude)

    def release_pool(self, pool_id: str) -> None:
        """A network of this host no longer uses a pool. Raises InvalidRequest, Unavailable."""
        self._uses.release(parse_pool_id(pool_id))

    def request_gateway(self, engine: str, pool_id: str, address: str) -> str:
        """The gateway of a network, with its prefix length. Raises Conflict, NotFound, Unavailable."""
        pool = parse_pool_id(pool_id)
        wanted = self._inside(pool, address) if address else None
        return pool.cidr(self._uses.shared.gateway(Caller(self._host, engine), pool, wanted))

    def request_address(self, engine: str, pool_id: str, address: str, container: str = "") -> str:
        """An address for an endpoint, with its prefix length.

        Args:
            address: the one asked for (`--ip`, a replay, an auxiliary address); empty: any that is free.
            container: the container's name, as engines from 29 on tell.

        Raises:
            Conflict: someone has the address asked for, or answers for it.
            Exhausted: the pool is full, or too many of its addresses are answered for.
            NotFound, InvalidRequest, Unavailable
        """
        pool = parse_pool_id(pool_id)
        caller = Caller(self._host, engine)
        self._claim_name()
        self._journal.replay(self.replay_release)
        if address:
            given = self._take_surely(caller, pool, self._inside(pool, address), container)
        else:
            given = self._take_any(caller, pool, container)
        metrics.ALLOCATIONS.labels(pool.tenant).inc()
        return pool.cidr(given)

    def release_address(self, pool_id: str, address: str) -> None:
        """An endpoint or network gives an address back. With the store away, it is done when that returns."""
        pool = parse_pool_id(pool_id)
        wanted = self._inside(pool, address)
        try:
            self._release(pool, wanted)
        except Unavailable as error:
            claim = self._known_claim(pool, wanted)
            logger.warning("release of %s is %s: %s", address, "journaled" if claim else "left to repair", error)
            if claim:
                self._journal.add(Entry(pool.tenant, str(pool.subnet), str(wanted), claim))

    def replay_release(self, entry: Entry) -> None:
        """Do what was journaled, unless the address was given out again since. Raises Unavailable."""
        pool, address = PoolId(entry.tenant, parse_subnet(entry.subnet)), parse_address(entry.address)
        try:
            stored = self._repository.read(self._repository.open(pool.tenant, pool.subnet), address)
        except NotFound:
            return
        if stored is not None and stored.record.claim == entry.claim:
            self._release(pool, address)

    def _inside(self, pool: PoolId, text: str) -> IPAddress:
        address = parse_address(text)
        check_inside(pool.tenant, pool.subnet, address)
        return address

    def close(self) -> None:
        """Give back what was taken ahead of callers that will not come any more."""
        self._ahead.close()
        self._quota.close()

    def _fresh(self, caller: Caller, container: str = "", *, asked: bool = False) -> AddressRecord:
        return AddressRecord(
            kind="endpoint",
            host=caller.host,
            engine=caller.engine,
            since=self._now(),
            claim=secrets.token_hex(8),
            asked=asked or bool(container),
            container=container,
        )

    def _take_any(self, caller: Caller, pool: PoolId, container: str) -> IPAddress:
        for _ in range(PICKS):
            opened = self._repository.open(pool.tenant, pool.subnet)
            held = opened.held_for(container, caller.host) if container else None
            if held is not None:
                taken = self._holds.take(caller, pool, opened, held, container)
            else:
                taken = self._take_free(caller, pool, opened, container)
            if self._probing.is_free(opened, taken, was_held=held is not None):
                return taken.address
        raise Exhausted(
            f"pool {pool.subnet} of tenant {pool.tenant}: {PICKS} addresses in a row are answered for by devices that "
            f"qnet does not manage; see qnet address ls --kind quarantine"
        )

    def _take_free(self, caller: Caller, pool: PoolId, opened: OpenPool, container: str) -> Stored:
        shelf = self._ahead.enter(caller, pool)
        try:
            ready = None if container or self._quota.limit(pool.tenant) else self._ahead.take(shelf, opened, DEADLINE)
            return ready or self._take_one(caller, pool, opened, container)
        finally:
            self._ahead.leave(shelf)

    def _take_one(self, caller: Caller, pool: PoolId, opened: OpenPool, container: str) -> Stored:
        record = self._fresh(caller, container)
        deadline, sure = self._clock() + DEADLINE, False
        while self._clock() < deadline:
            address = opened.pick(pool)
            if address is None:
                if sure and not opened.is_asking():  # what others ask for is in use only when they have it
                    raise Exhausted(self._full_message(pool, opened))
                opened.catch_up(CATCH_UP)
                sure = True
                continue
            try:
                stored = self._repository.create(opened, address, record)
                if stored.record.claim == record.claim:
                    self._keep_if_allowed(opened, stored)
                    return stored
                metrics.COLLISIONS.inc()
            finally:
                opened.answered(address)
        raise Unavailable(f"pool {pool.subnet} of tenant {pool.tenant}: no address within {DEADLINE} s; try again")

    def _take_surely(self, caller: Caller, pool: PoolId, address: IPAddress, container: str) -> IPAddress:
        """Take the address asked for, whatever a repair writes into its record meanwhile."""
        for _ in range(CHANGES):
            try:
                return self._take_asked(caller, pool, address, container)
            except Changed:
                continue
        raise Unavailable(f"address {address} of pool {pool.subnet}: its record kept changing; try again")

    def _take_asked(self, caller: Caller, pool: PoolId, address: IPAddress, container: str) -> IPAddress:
        opened = self._repository.open(pool.tenant, pool.subnet)
        record = self._fresh(caller, container, asked=True)
        for patience in (*[True] * AUXILIARY_TRIES, False):
            stored = self._repository.create(opened, address, record)
            has = stored.record
            if has.claim == record.claim:
                self._keep_if_allowed(opened, stored)
                return self._probing.check(opened, stored, was_held=False)
            if has.kind == "auxiliary":
                self._uses.shared.share(caller, pool, address)
                return address
            if has.kind == "gateway" and self._awaits_replay(pool, address):
                return self._uses.shared.gateway(caller, pool, address)
            if has.kind == "held" and has.host == caller.host:
                taken = self._holds.take(caller, pool, opened, stored, container)
                return self._probing.check(opened, taken, was_held=True)
            if has.kind == "endpoint" and has.host == caller.host and has.engine != caller.engine:
                # the engine was restarted and asks again for what its endpoints have: once for each
                self._repository.replace(opened, stored, changed(has, engine=caller.engine))
                return address
            if not (patience and has.kind == "endpoint" and has.asked and not has.endpoint and has.host != self._host):
                break
            # another host may be half-way through making the same network with the same auxiliary address
            self._sleep(AUXILIARY_WAIT)
        raise refusal(opened, address, has)

    def _keep_if_allowed(self, opened: OpenPool, stored: Stored) -> None:
        """Give back what was just taken if the tenant has more now than it may. Raises Exhausted."""
        try:
            self._quota.check(opened.tenant)
        except Exhausted:
            self._repository.withdraw(opened, [stored])
            raise

    def _awaits_replay(self, pool: PoolId, address: IPAddress) -> bool:
        use, _ = self._repository.use(pool.tenant, str(pool.subnet))
        return use is not None and use.shared.get(str(address)) == 0

    def _release(self, pool: PoolId, address: IPAddress) -> None:
        try:
            opened = self._repository.open(pool.tenant, pool.subnet)
        except NotFound:
            return
        for _ in range(3):
            stored = self._repository.read(opened, address)
            if stored is None:
                return
            if stored.record.kind in ("gateway", "auxiliary"):
                self._uses.shared.unshare(pool, address)
                return
            if stored.record.kind != "endpoint" or stored.record.host != self._host:
                logger.info("release of %s ignored: %s", address, describe(stored.record))
                return
            give_back = self._holds.hold if stored.record.asked else self._repository.release
            try:
                give_back(opened, stored)
            except Conflict:
                continue
            return

    def _known_claim(self, pool: PoolId, address: IPAddress) -> str:
        for opened in self._repository.opened():
            if (opened.tenant, opened.subnet) == (pool.tenant, pool.subnet):
                stored = opened.stored(address)
                if stored and stored.record.kind == "endpoint" and stored.record.host == self._host:
                    return stored.record.claim
        return ""

    def _full_message(self, pool: PoolId, opened: OpenPool) -> str:
        """What a full pool answers. Counting a large one takes a while: the words serve for a second."""
        since, words = self._full_words.get(pool, (-1.0, ""))
        if self._clock() - since > FULL_WORDS:
            words = self._full(pool, opened)
            self._full_words = {pool: (self._clock(), words)}
        return words

    def _full(self, pool: PoolId, opened: OpenPool) -> str:
        span, excluded = pool.handed_out, opened.excluded(pool)
        users: Counter[str] = Counter()
        fixed = 0
        for stored in opened.all_stored():
            offset = pool.offset(stored.address)
            if offset not in span or any(offset in part for part in excluded):
                continue
            if stored.record.kind in ("gateway", "auxiliary", "host"):
                fixed += 1
            else:
                users[WORDS.get(stored.record.kind, stored.record.host or "held for names")] += 1
        total = capacity(span, excluded) - fixed
        by = ", ".join(f"{name} {number}" for name, number in sorted(users.items()))
        where = f"range {pool.range} of pool" if pool.range else "pool"
        return (
            f"{where} {pool.subnet} of tenant {pool.tenant} is full: {users.total()} of {total} addresses in use"
            f"{f' ({by})' if by else ''}"
        )
