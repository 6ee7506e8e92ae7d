"""What the network driver does. Steps with effects register their undo; what a crash leaves, `repair` finds."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec

from plugins.network import plan
from plugins.network.guards import Guards
from plugins.network.model import (
    BRIDGED,
    Endpoint,
    Network,
    Subnet,
    check_mac,
    command_with_driver,
    parse_ask,
    parse_options,
)
from plugins.network.modes import MODES
from plugins.network.plan import Veth
from plugins.network.ports import Addresses, Announcements, Kernel
from plugins.network.repository import Registry, Repository
from plugins.network.segments import Segments
from plugins.network.terms import endpoint_limits, refuse
from qnet import log
from qnet.engine import ADDRESS_SPACE
from qnet.errors import Conflict, InvalidRequest, Unavailable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Joined:
    """What the engine does with an endpoint's link: its name now, and the container's gateways (may be empty)."""

    link: str
    gateway: str
    gateway6: str


class Service:
    """Networks and endpoints of this host's engine."""

    def __init__(
        self,
        repository: Repository,
        registry: Registry,
        kernel: Kernel,
        guards: Guards,
        addresses: Addresses,
        segments: Segments,
        announcements: Announcements,
        parent: str,
        underlay: str = "",
    ) -> None:
        self._repository = repository
        self._registry = registry
        self._kernel = kernel
        self._guards = guards
        self._addresses = addresses
        self._segments = segments
        self._parent = parent
        self._underlay = underlay
        self._announcements = announcements
        self._locks: defaultdict[str, threading.RLock] = defaultdict(threading.RLock)

    def create_network(
        self, network: str, options: Mapping[str, Any], subnets: Sequence[Subnet], spaces: Iterable[str]
    ) -> None:
        """Make a network on this host.

        Args:
            spaces: the address spaces of its subnets; another driver's tell that `--ipam-driver` was left out.

        Raises:
            InvalidRequest: an option, the parent or the IPAM driver is wrong.
            Conflict, Exhausted, Unavailable: an address of the host or an auxiliary one cannot be had.
        """
        if any(space != ADDRESS_SPACE for space in spaces):
            given, internal = parse_options(options)
            raise InvalidRequest(
                f"the addresses of a qnet network must be qnet's, or two hosts give out the same ones; type: "
                f"{command_with_driver(subnets, given, internal)}"
            )
        ask = parse_ask(network, options, subnets, self._parent, self._underlay)
        if not ask.subnets:
            raise InvalidRequest("a qnet network has at least one subnet, IPv4 or IPv6")
        if ask.limits and ask.mode not in BRIDGED:
            raise refuse(ask.mode, BRIDGED)
        for entry in ask.subnets:
            self._addresses.check_pool(ask.tenant, entry.subnet)
        with self._locks[network], ExitStack() as undo:
            made = self._segments.place(ask, undo)
            for entry in ask.subnets:
                self._addresses.auxiliary(ask.tenant, entry.subnet, entry.auxiliary)
            undo.callback(self._clear, made)
            if ask.host_access:
                mac = MODES[ask.mode].own(made).mac
                own = (self._addresses.take_host_address(ask.tenant, s.subnet, network, mac) for s in ask.subnets)
                made = msgspec.structs.replace(made, host_addresses=tuple(own))
            undo.callback(self._repository.networks.remove, network)
            self._repository.networks.save(made)
            self._segments.ensure(made)  # now that it counts: the last network on the link may just have been deleted
            self.sync_shim(network)
            undo.pop_all()
        self._tell(made)

    def delete_network(self, network: str) -> None:
        """Remove a network of this host; one that is not known is no error."""
        made = self._repository.networks.get(network)
        with self._locks[network]:
            for endpoint in self._repository.endpoints_of(network):
                self.delete_endpoint(endpoint.id)
            self._repository.networks.remove(network)
            if made is not None:
                try:
                    self._clear(made)
                finally:
                    self._segments.drop(made)
        self._locks.pop(network, None)
        try:
            self._registry.withdraw(network)
        except Unavailable as error:
            logger.warning("network %s stays published until the store is back: %s", network[:12], error)

    def create_endpoint(
        self, network: str, endpoint: str, addresses: Sequence[str], mac: str, options: Mapping[str, Any]
    ) -> str:
        """Note an endpoint and its MAC address, which is returned; empty if it has its parent's.

        Args:
            addresses: its addresses without prefix lengths, IPv4 first.
            mac: the one the user asked for, or empty.

        Raises:
            NotFound: the network is not known.
            InvalidRequest, Conflict, Unavailable
        """
        known = self._repository.network(network)
        limits = endpoint_limits(options)
        if limits and known.mode not in BRIDGED:
            raise refuse(known.mode, BRIDGED)
        if not addresses:
            raise InvalidRequest(f"endpoint {endpoint[:12]} has no address")
        check_mac(mac)
        if mac and known.shares_mac:
            raise InvalidRequest(
                f"--mac-address {mac}: containers of an {known.mode} network have the MAC address of their parent "
                f"{known.parent}: leave it out, or make the network with mode=macvlan or mode=bridge"
            )
        places = [(address, known.subnet_of(address)) for address in addresses]
        with self._locks[network] if known.macvlan_mode == "passthru" else ExitStack(), ExitStack() as undo:
            others = [one for one in self._repository.endpoints_of(network) if one.id != endpoint]
            if known.macvlan_mode == "passthru" and others:
                raise Conflict(f"network {network[:12]} is in mode passthru: its one container has {known.parent}")
            undo.callback(self._repository.endpoints.remove, endpoint)
            made = Endpoint(id=endpoint, network=network, addresses=tuple(addresses), mac=mac, limits=limits)
            made = self._guards.start(known, made)
            self._repository.endpoints.save(made)
            mac = self._addresses.bind(known.tenant, places, network, endpoint, None if known.shares_mac else mac)
            self._repository.endpoints.save(msgspec.structs.replace(made, mac=mac, request=log.current()))
            undo.pop_all()
        return mac

    def join(self, network: str, endpoint: str, sandbox: str = "") -> Joined:
        """Make an endpoint's link, and have it announced when the container has it.

        Args:
            sandbox: the file of the container's network namespace, if the engine tells.

        Raises:
            NotFound, InvalidRequest, Conflict, Unsupported, Unavailable
        """
        known, made = self._repository.network(network), self._repository.endpoint(endpoint)
        log.follow(made.request)
        mode = MODES[known.mode]
        link, guard = mode.endpoint(known, made), mode.guard(known, made)
        with ExitStack() as undo:
            undo.callback(self._kernel.delete, link.name)
            try:
                self._kernel.add(link)
            except InvalidRequest:  # a boot: the engine starts containers before the first comparison has made links
                self._segments.ensure(known)
                self._kernel.add(link)
            if guard is not None:
                undo.callback(self._guards.drop, endpoint)
                self._guards.put(guard, {})
            if isinstance(link, Veth):
                self._kernel.attach(link)
            undo.callback(self._repository.endpoints.save, made)
            self._repository.endpoints.save(msgspec.structs.replace(made, joined=True))
            self.sync_shim(network)
            undo.pop_all()
        self._announcements.announce(sandbox, made.addresses)
        gateways = {} if known.internal else {":" in entry.gateway: entry.gateway for entry in known.subnets}
        return Joined(link.moved, gateways.get(False, ""), gateways.get(True, ""))

    def leave(self, network: str, endpoint: str) -> None:
        """A container gives up an endpoint; the engine has moved its link back to the host, or lost it."""
        made = self._repository.endpoints.get(endpoint)
        if made is not None and made.joined:
            self._repository.endpoints.save(msgspec.structs.replace(made, joined=False))
        self.sync_shim(network)

    def delete_endpoint(self, endpoint: str) -> None:
        """Remove an endpoint and its link; one that is not known is no error."""
        made = self._repository.endpoints.get(endpoint)
        known = self._repository.networks.get(made.network) if made else None
        guarded = known is not None and known.mode in BRIDGED
        if guarded:
            self._guards.count(endpoint)
        there = self._kernel.delete(plan.endpoint_link(endpoint))
        if guarded:
            self._guards.drop(endpoint)
        elif made and known and not there:
            self._kernel.delete_strays(known.parent, made.addresses)
        self._repository.endpoints.remove(endpoint)

    def oper_info(self, endpoint: str) -> dict[str, str]:
        """What `docker network inspect -v` may show of an endpoint. Raises NotFound."""
        return {"com.docker.network.endpoint.macaddress": self._repository.endpoint(endpoint).mac}

    def sync_shim(self, network: str) -> None:
        """Make the host's own link on a network agree with its local containers, if it has one."""
        known = self._repository.networks.get(network)
        if known is None or not known.host_access:
            return
        with self._locks[network]:
            known = self._repository.networks.get(network)
            if known is not None:
                own = MODES[known.mode].own(known)
                self._kernel.sync(plan.shim(known, own, self._repository.endpoints_of(network)))

    def _clear(self, network: Network) -> None:
        """Remove what a network has in the kernel and of addresses."""
        if not network.host_access:
            return
        self._kernel.delete(plan.own_link(network.id))
        for entry in network.subnets:
            try:
                self._addresses.drop_host_address(network.tenant, entry.subnet, network.id)
            except (Unavailable, Conflict) as error:
                logger.warning("host address on %s is released later: %s", entry.subnet, error)

    def _tell(self, network: Network) -> None:
        try:
            self._registry.publish(network)
        except Unavailable as error:
            logger.warning("network %s is published later: %s", network.id[:12], error)
