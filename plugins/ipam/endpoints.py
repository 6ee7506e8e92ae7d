"""What the network driver needs of addresses: whose they are, their MAC addresses, the host's own. Composed in
`plugins.compose`; the two drivers do not import each other."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from plugins.ipam.repository import MacTaken, Repository
from plugins.ipam.uses import Uses
from qnet import log
from qnet.addresses.model import IPAddress, IPNetwork, PoolId, mac_of, parse_address, parse_subnet
from qnet.addresses.openpool import OpenPool, Stored
from qnet.addresses.records import changed, describe
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, Unavailable
from qnet.schema import AddressRecord

ATTEMPTS = 8


class Endpoints:
    """Binds address records to endpoints, and keeps the addresses that a host has itself."""

    def __init__(self, repository: Repository, uses: Uses, now: Callable[[], str]) -> None:
        self._repository = repository
        self._uses = uses
        self._host = repository.host
        self._now = now

    def check_pool(self, tenant: str, subnet: str) -> None:
        """The pool must have been asked for by this host.

        Raises:
            InvalidRequest: it was not; most likely the two `tenant` options differ.
        """
        use, _ = self._repository.use(tenant, subnet)
        if use is None:
            raise InvalidRequest(
                f"pool {subnet} was not requested for tenant {tenant} on this host: give the same tenant to both "
                f"drivers: -o tenant={tenant} --ipam-opt tenant={tenant}"
            )

    def bind(self, tenant: str, places: Iterable[tuple[str, str]], network: str, endpoint: str, mac: str | None) -> str:
        """Write down which endpoint has the addresses, and with which MAC address.

        Args:
            places: (address, subnet), IPv4 first.
            mac: the one that the user asked for; empty: the one that goes with the first address; None: it has none of
                its own.

        Raises:
            Conflict: an address is not this endpoint's to have, or the MAC address is another's.
        """
        wanted = None if mac is None else mac.lower()
        chosen = ""
        for address_text, subnet_text in places:
            address, subnet = parse_address(address_text), parse_subnet(subnet_text)
            pool = self._repository.open(tenant, subnet)
            chosen = self._bind_one(pool, address, network, endpoint, wanted, chosen)
        return chosen

    def auxiliary(self, tenant: str, subnet: str, addresses: Iterable[str]) -> None:
        """Addresses that this host has just asked for are auxiliary ones of its new network."""
        pool = PoolId(tenant, parse_subnet(subnet))
        for text in addresses:
            self._uses.shared.make_auxiliary(pool, parse_address(text))

    def take_host_address(self, tenant: str, subnet: str, network: str, mac: str) -> str:
        """The host's own address on a network; the same one each time. `mac`: where it is, if that is known.

        Raises:
            Exhausted, Unavailable
        """
        pool_id = PoolId(tenant, parse_subnet(subnet))
        pool = self._repository.open(tenant, pool_id.subnet)
        found = self._host_address(pool, network)
        if found is not None:
            return str(found.address)
        record = AddressRecord(
            kind="host", host=self._host, since=self._now(), claim=secrets.token_hex(8), network=network, mac=mac
        )
        # from the upper half while there is room: people give out addresses by hand from below
        halves: list[IPNetwork] = list(pool_id.subnet.subnets()) if pool_id.subnet.num_addresses > 4 else []
        for part in (*halves[1:], None):
            while (address := pool.pick(PoolId(tenant, pool_id.subnet, part))) is not None:
                try:
                    if self._repository.create(pool, address, record).record.claim == record.claim:
                        return str(address)
                finally:
                    pool.answered(address)
        raise Exhausted(f"pool {subnet} of tenant {tenant} has no address left for host_access")

    def drop_host_address(self, tenant: str, subnet: str, network: str) -> None:
        """Give the host's own address back; one that is gone is no error."""
        try:
            pool = self._repository.open(tenant, parse_subnet(subnet))
        except NotFound:
            return
        found = self._host_address(pool, network)
        if found is not None:
            self._repository.release(pool, found)
            self._uses.collect(tenant, pool.subnet)

    def _host_address(self, pool: OpenPool, network: str) -> Stored | None:
        for stored in pool.own():
            if stored.record.kind == "host" and stored.record.network == network:
                return stored
        return None

    def _bind_one(
        self, pool: OpenPool, address: IPAddress, network: str, endpoint: str, wanted: str | None, chosen: str
    ) -> str:
        """Bind one address; the first one chooses the MAC address. Returns the MAC address."""
        for attempt in range(ATTEMPTS):
            cached = pool.stored(address) if attempt == 0 else None
            stored = self._own(pool, address, cached or self._repository.read(pool, address), endpoint)
            log.follow(stored.record.request)
            mac = "" if wanted is None else chosen or wanted or mac_of(pool.tenant, address, salt=attempt)
            bound = changed(stored.record, network=network, endpoint=endpoint, mac=mac)
            try:
                if chosen:
                    self._repository.replace(pool, stored, bound)
                else:
                    self._repository.bind(pool, stored, bound)
            except MacTaken:
                if wanted:
                    raise
            except Conflict:
                continue
            else:
                return mac
        raise Unavailable(f"address {address} of tenant {pool.tenant}: its record kept changing; try again")

    def _own(self, pool: OpenPool, address: IPAddress, stored: Stored | None, endpoint: str) -> Stored:
        """The record, if this endpoint may have it."""
        if stored is None:
            raise Conflict(f"address {address} of pool {pool.subnet} of tenant {pool.tenant} was not given out")
        record = stored.record
        mine = record.kind == "endpoint" and record.host == self._host
        if not mine or record.endpoint not in ("", endpoint):
            raise Conflict(f"address {address} of pool {pool.subnet} of tenant {pool.tenant}: {describe(record)}")
        return stored
