"""The links that networks stand on: sub-interfaces for VLANs, bridges. From the first network to the last."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack

import msgspec

from plugins.network import plan
from plugins.network.model import Ask, Network
from plugins.network.modes import MODES
from plugins.network.plan import NO_NAMES, Link, Macvlan, Vlan
from plugins.network.ports import Filters, Kernel, Owners
from plugins.network.repository import Repository
from qnet.errors import InvalidRequest
from qnet.schema import TenantRecord


class Segments:
    """The segments of this host's networks."""

    def __init__(
        self,
        repository: Repository,
        kernel: Kernel,
        filters: Filters,
        tenants: Owners,
        parents: Mapping[str, str] = NO_NAMES,
    ) -> None:
        self._repository = repository
        self._kernel = kernel
        self._filters = filters
        self._tenants = tenants
        self._parents = parents
        self._lock = threading.RLock()

    def place(self, ask: Ask, undo: ExitStack) -> Network:
        """A network on the link that carries its tenant's frames, which is made where it is not there.

        Raises:
            NotFound: there is no such tenant.
            InvalidRequest: the parent cannot be, or carries the frames of another tenant.
            Unsupported: the kernel cannot make what is needed.
            Conflict, Unavailable
        """
        tenant = self._tenants.get(ask.tenant)
        ask = msgspec.structs.replace(ask, parent=self._parents.get(ask.parent, ask.parent))
        links, others = self._kernel.all(), self._repository.networks.all()
        parent = links.get(ask.parent)
        trunk = bool(tenant.vlan) and (parent is None or parent.vlan != tenant.vlan)
        plan.check_parent(ask, links, others, trunk=trunk, names=self._parents)
        self._check_tag(ask, tenant, links[ask.parent])
        if ask.macvlan_mode == "passthru" and not tenant.trusted:
            raise InvalidRequest(
                f"-o macvlan_mode=passthru gives a container all that its parent hears, and tenant {tenant.name} is "
                f"not trusted with that: choose another mode, or qnet tenant set {tenant.name} --trusted"
            )
        with self._lock:
            made = self._planned(ask, tenant, links)
            undo.callback(self.drop, made)
            self._make(made)
            self._try(made)
        plan.check_parent(msgspec.structs.replace(ask, parent=made.parent), self._kernel.all(), others)
        return made

    def sync(self, network: Network) -> None:
        """Make the links that a network stands on: a reboot takes them away."""
        with self._lock:
            self._make(network)

    def drop(self, network: Network) -> None:
        """Delete the links that a network stood on, if they are ours and it was the last on them."""
        with self._lock:
            others = [other for other in self._repository.networks.all() if other.id != network.id]
            bridge = MODES[network.mode].segment(network)
            if bridge is not None and all(other.bridge != bridge.name for other in others):
                self._kernel.delete(bridge.name)
                self._filters.remove(bridge.name)
            link = self._kernel.all().get(network.parent) if network.vlan else None
            if link is not None and link.ours and all(other.parent != network.parent for other in others):
                self._kernel.delete(network.parent)

    def _make(self, network: Network) -> None:
        if network.vlan:
            self._kernel.add_vlan(Vlan(network.parent, network.trunk, network.vlan))
        bridge = MODES[network.mode].segment(network)
        if bridge is not None:
            if self._kernel.add_bridge(bridge):
                self._filters.shield(bridge.name)
            self._kernel.bring_up(bridge.name)

    def _try(self, network: Network) -> None:
        """Whether links of the network's kind can stand on its parent: its first container would tell too late."""
        link = MODES[network.mode].own(network)
        if isinstance(link, Macvlan):
            self._kernel.add(link)
            self._kernel.delete(link.name)

    def _check_tag(self, ask: Ask, tenant: TenantRecord, link: Link) -> None:
        """Whether a tenant's network may stand on a link. Raises InvalidRequest."""
        if not link.vlan or link.vlan == tenant.vlan:
            return
        owner = self._tenants.owner("vlan", link.vlan)
        if owner or tenant.vlan:
            has = f"VLAN {tenant.vlan}" if tenant.vlan else "no VLAN"
            raise InvalidRequest(
                f"parent {ask.parent} carries VLAN {link.vlan}{f' of tenant {owner}' if owner else ''}, and tenant "
                f"{tenant.name} has {has}: name the link that carries all of them, -o parent={link.parent}"
            )

    def _planned(self, ask: Ask, tenant: TenantRecord, links: Mapping[str, Link]) -> Network:
        """The network with the links that it is to stand on."""
        network = Network(**{name: getattr(ask, name) for name in ask.__struct_fields__})
        link = links[ask.parent]
        if tenant.vlan:
            trunk = link.parent if link.vlan == tenant.vlan else ask.parent
            vlan = plan.sub_interface(trunk, tenant.vlan, links)
            network = msgspec.structs.replace(network, parent=vlan.name, trunk=vlan.trunk, vlan=vlan.vlan)
            link = links.get(vlan.name) or Link(vlan.name, "vlan", up=True, mtu=link.mtu, parent=vlan.trunk)
        if ask.mode == "bridge":
            has = self._kernel.addresses(link.name)
            if has and link.kind != "bridge":
                raise InvalidRequest(
                    f"parent {link.name} has addresses of this host ({', '.join(has)}), which a bridge over it would "
                    f"cut off: give a link without any, or a bridge that has them"
                )
            network = msgspec.structs.replace(network, bridge=plan.bridge_over(link))
        return network
