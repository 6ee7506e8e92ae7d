"""The gateways of this host's networks with `-o nat=true`: made, mended, removed. `plugins.network.nat` plans them."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack

import msgspec

from plugins.network import nat, nat_rules
from plugins.network.model import Network
from plugins.network.nat import Gateway
from plugins.network.ports import Filters, Kernel, Namespaces
from plugins.network.repository import Repository
from qnet import metrics
from qnet.errors import InvalidRequest
from qnet.namespaces import FORWARDING

logger = logging.getLogger(__name__)


class Gateways:
    """What this host has of gateways."""

    def __init__(self, repository: Repository, kernel: Kernel, namespaces: Namespaces, filters: Filters) -> None:
        self._repository = repository
        self._kernel = kernel
        self._namespaces = namespaces
        self._filters = filters
        self._lock = threading.RLock()
        self._pairs: dict[str, int] = {}  # those given to networks that may not be written down yet
        self._ready: set[str] = set()  # the namespaces that this process knows to have their rules
        self._fence = nat_rules.REMOVAL
        self._fenced = True  # until it is known that there is no fence

    def place(self, network: Network) -> Network:
        """A network with what its gateway needs, which `sync` makes once the network is written down; `drop` undoes it.

        Raises:
            InvalidRequest: the network can have no gateway here, or the host does not forward.
            Conflict, Exhausted
        """
        networks = self._repository.networks.all()
        nat.check(network, networks)
        for version in nat.of(network).versions:
            if not self._namespaces.host_forwards(version):
                raise InvalidRequest(
                    f"-o nat=true: this host does not forward IPv{version}: sysctl -w {FORWARDING[version]}=1, and a "
                    f"line in /etc/sysctl.d"
                )
        with self._lock:
            taken = {*self._pairs.values(), *(other.pair for other in networks if other.nat)}
            made = msgspec.structs.replace(network, pair=nat.free_pair(taken))
            self._pairs[network.id] = made.pair
        return made

    def sync(self, network: Network) -> None:
        """Make a network's gateway as it should be. Raises Unsupported, Unavailable, InvalidRequest."""
        gateway = nat.of(network)
        with self._lock:
            if self._repository.networks.get(network.id) is None:
                return  # removed meanwhile
            links = self._kernel.look()
            with ExitStack() as undo:
                there = all(name in links for name in (gateway.port.name, gateway.out.name))
                if not there or gateway.namespace not in self._namespaces.all():
                    self._remove(gateway)
                    undo.callback(self._remove, gateway)
                    self._namespaces.add(gateway.namespace)
                    self._kernel.add(gateway.port)
                    self._kernel.add(gateway.out)
                if gateway.namespace not in self._ready:
                    self._rule(gateway)
                self._connect(gateway)
                undo.pop_all()

    def drop(self, network: Network) -> None:
        """Remove a network's gateway; one that is not there is no error. Raises Unsupported, Unavailable."""
        with self._lock:
            self._remove(nat.of(network))
            self._pairs.pop(network.id, None)
            self._sync_fence()

    def tidy(self) -> None:
        """Remove what no network needs, put the host's rules back. Raises Unsupported, Unavailable."""
        there = self._namespaces.all()  # whatever makes one has written down why before
        needed = {nat.namespace(network.id) for network in self._repository.networks.all() if network.nat}
        for name in there - needed:
            self._namespaces.delete(name)
            metrics.REPAIRS.labels("gateway left over").inc()
            logger.warning("network namespace %s deleted: no network needs it", name)
        self.fence()

    def fence(self) -> None:
        """Bring the host's rules into force, for a network with host_access. Raises Unsupported, Unavailable."""
        with self._lock:
            self._sync_fence()

    def _rule(self, gateway: Gateway) -> None:
        """Put all rules into force that its packets need, without harm to those under way."""
        self._sync_fence()
        self._namespaces.route(gateway.namespace, gateway.versions)
        self._filters.load(nat_rules.inside(gateway), f"set up {gateway.namespace}", gateway.namespace)
        self._ready.add(gateway.namespace)

    def _connect(self, gateway: Gateway) -> None:
        """Addresses, routes and the port of the bridge, whatever of it is there already."""
        self._namespaces.configure(nat_rules.links_outside(gateway))
        self._namespaces.configure(nat_rules.links_inside(gateway), gateway.namespace)
        self._kernel.attach(gateway.port)

    def _remove(self, gateway: Gateway) -> None:
        self._ready.discard(gateway.namespace)
        for link in (gateway.port, gateway.out):
            self._kernel.delete(link.name)
        self._namespaces.delete(gateway.namespace)

    def _sync_fence(self) -> None:
        """Bring the host's rules into force if they are not: one call of nft to look, none if there never were any."""
        networks = self._repository.networks.all()
        gateways, own = [nat.of(one) for one in networks if one.nat], any(one.host_access for one in networks)
        if not (gateways or own or self._fenced):
            return
        links, there = self._kernel.all() if gateways else {}, self._filters.fences()
        wanted = nat_rules.fence(gateways, links, host_access=own)
        due = nat_rules.fences(gateways, links, host_access=own)
        if wanted == self._fence and there != due:
            logger.warning("the rules of gateways were gone: in force again")
            metrics.REPAIRS.labels("rules that someone took away").inc()
        if wanted != self._fence or there != due:
            self._filters.load(wanted, "keep gateways to their place")
        self._fence, self._fenced = wanted, bool(gateways or own)
