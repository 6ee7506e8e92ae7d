"""Networks of the cluster: made on one host, which says whether they make sense, then by every agent on its own."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from qnet import schema
from qnet.errors import Conflict, Exhausted, InvalidRequest, NotFound, QnetError
from qnet.store.base import Delete, Put, Store, Txn, absent, present
from qnet.tenants import DEFAULT
from scheduler.addresses import Addresses
from scheduler.ask import BUILT_IN, NAME
from scheduler.engines import Engines
from scheduler.model import Machine, Net, Network
from scheduler.translate import network_body
from scheduler.view import NETWORKS, View, key

logger = logging.getLogger(__name__)

EVERYWHERE = 5.0  # seconds that the answer waits for the hosts to have it
LOOK = 0.02
SHOWN = 5
DRIVER = "qnet"
TENANTS_OPTIONS = frozenset({"mode", "mtu", "tenant"})


class NetworkAsked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network that every host is to have. `options` and `ipam_options` are those of `docker network create -o` and
    `--ipam-opt`; `subnets` as Docker's API has them: Subnet, IPRange, Gateway, AuxiliaryAddresses."""

    name: str
    tenant: str = ""
    options: dict[str, str] = {}
    ipam_options: dict[str, str] = {}
    subnets: tuple[dict[str, Any], ...] = ()
    internal: bool = False
    ipv6: bool = False
    labels: dict[str, str] = {}


class NetworkView(msgspec.Struct, frozen=True):
    """A network of the cluster, and the hosts that have it."""

    name: str
    id: str
    tenant: str
    subnets: tuple[Mapping[str, Any], ...]
    options: Mapping[str, str]
    internal: bool
    ipv6: bool
    labels: Mapping[str, str]
    since: str
    hosts: tuple[str, ...]


class Networks:
    """See the module."""

    def __init__(
        self, store: Store, view: View, engines: Engines, addresses: Addresses, now: Callable[[], str]
    ) -> None:
        self._store = store
        self._view = view
        self._engines = engines
        self._addresses = addresses
        self._now = now

    def all(self, tenant: str) -> list[NetworkView]:
        """All, or those of one tenant, by name."""
        found = sorted(self._view.networks(), key=lambda network: network.name)
        return [self._of(network) for network in found if tenant in ("", network.tenant)]

    def get(self, name: str, tenant: str) -> NetworkView:
        """One network. Raises NotFound."""
        return self._of(self._find(name, tenant))

    def create(self, asked: NetworkAsked, tenant: str, *, operator: bool) -> NetworkView:
        """Make a network.

        Raises:
            InvalidRequest, Conflict: the first host refuses it, or its name is taken.
            Exhausted: no host can have it.
        """
        network = self._checked(asked, tenant, operator)
        host = self._first(network)
        self._engines.create_network(host, network_body(network))
        try:
            there = self._engines.inspect_network(host, network.name)
            if there is None:
                raise Conflict(f"network {network.name} was removed while it was made")
            subnets = tuple((there.get("IPAM") or {}).get("Config") or ())
            network = msgspec.structs.replace(network, subnets=subnets)
            where = key(NETWORKS, network.name)
            done = self._store.txn(Txn((absent(where),), (Put(where, schema.encode(network)),)))
            if not done.succeeded:
                raise Conflict(f"network {network.name} exists: choose another name")
        except QnetError:
            self._engines.remove_network(host, network.name)
            raise
        self._view.catch_up(done.revision)
        self._wait(network)
        return self._of(network)

    def remove(self, name: str, tenant: str) -> None:
        """Have no host have it any more. Raises NotFound, Conflict: containers are on it."""
        network = self._find(name, tenant)
        has = {one.name for one in self._view.machines() if name in one.networks}  # others may have one of their own
        users = sorted(one.name for one in self._view.containers() if name in one.networks and one.host in has)
        if users:
            more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
            raise Conflict(f"network {name} has containers: {', '.join(users[:SHOWN])}{more}")
        for pool in self._only(network.name):
            self._addresses.drop_holds(pool)
        where = key(NETWORKS, network.name)
        self._view.catch_up(self._store.txn(Txn((present(where),), (Delete(where),))).revision)

    def _only(self, name: str) -> set[str]:
        """The pools that no other network of any host uses."""
        mine: set[str] = set()
        others: set[str] = set()
        for machine in self._view.machines():
            for network, net in machine.networks.items():
                (mine if network == name else others).update(net.pools)
        subnets = {pool.partition("?")[0] for pool in others}
        return {pool for pool in mine if pool.partition("?")[0] not in subnets}

    def _checked(self, asked: NetworkAsked, tenant: str, operator: bool) -> Network:
        if not NAME.fullmatch(asked.name) or asked.name in BUILT_IN:
            raise InvalidRequest(f"{asked.name[:64]!r} is no name for a network: letters, digits, _ . and -")
        if self._view.network(asked.name) is not None:
            raise Conflict(f"network {asked.name} exists: choose another name")
        owner = tenant or asked.tenant or asked.options.get("tenant", DEFAULT)
        for options in (asked.options, asked.ipam_options):
            if options.get("tenant", owner) != owner:
                raise InvalidRequest(f"network {asked.name} is of tenant {owner}: its options name another")
        if not operator and (beyond := sorted(asked.options.keys() - TENANTS_OPTIONS)):
            allowed = ", ".join(sorted(TENANTS_OPTIONS))
            raise InvalidRequest(f"option {beyond[0][:64]} is for operators; tenants may set {allowed}")
        own = {"tenant": owner} if owner != DEFAULT else {}
        return Network(
            name=asked.name,
            id=secrets.token_hex(32),  # as long as the ids of engines
            since=self._now(),
            tenant=owner,
            driver=DRIVER,
            options={**asked.options, **own},
            ipam_options={**asked.ipam_options, **own},
            subnets=asked.subnets,
            internal=asked.internal,
            ipv6=asked.ipv6,
            labels=asked.labels,
        )

    def _first(self, network: Network) -> Machine:
        able = [one for one in self._view.machines() if one.state == "ready" and not one.trouble]
        fit = [one for one in able if network.parents <= one.parents]
        if not fit:
            lack = f"none has parent {', '.join(network.parents)}" if able else "none is ready"
            raise Exhausted(f"network {network.name}: no host can have it: {lack}")
        taken = [one for one in fit if network.name in one.networks]
        taken += [one for one in self._view.machines() if self._is_strange(one.networks.get(network.name), network)]
        if taken:
            raise Conflict(f"network {network.name} exists on host {taken[0].name}: choose another name")
        return min(fit, key=lambda one: one.name)

    @staticmethod
    def _is_strange(there: Net | None, network: Network) -> bool:
        """Whether what a host has of that name, up or not, cannot be the network."""
        return there is not None and (there.driver, there.tenant) != (DRIVER, network.tenant)

    def _wait(self, network: Network) -> None:
        """Until those hosts have it that can have it, for a while: what they lack afterwards they make later."""
        deadline = time.monotonic() + EVERYWHERE
        while time.monotonic() < deadline:
            able = [one for one in self._view.machines() if one.state != "down" and network.parents <= one.parents]
            if all(network.name in one.networks for one in able):
                return
            time.sleep(LOOK)
        logger.warning("network %s is not on all hosts after %g s", network.name, EVERYWHERE)

    def _find(self, name: str, tenant: str) -> Network:
        found = self._view.network(name)
        if found is None or tenant not in ("", found.tenant):
            raise NotFound(f"network {name[:64]} is not there: see qnet network ls")
        return found

    def _of(self, network: Network) -> NetworkView:
        hosts = sorted(one.name for one in self._view.machines() if network.name in one.networks)
        return NetworkView(
            name=network.name,
            id=network.id,
            tenant=network.tenant,
            subnets=network.subnets,
            options=network.options,
            internal=network.internal,
            ipv6=network.ipv6,
            labels=network.labels,
            since=network.since,
            hosts=tuple(hosts),
        )
