"""The links that networks stand on, for VLANs and VNIs, and bridges. From the first network to the last."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import cache

import msgspec

from plugins.network import plan
from plugins.network.admission import Admission, check_sub_interface
from plugins.network.gateway import Gateways
from plugins.network.model import BRIDGED, Ask, Network
from plugins.network.modes import MODES
from plugins.network.overlay import Overlay, Segment
from plugins.network.plan import NO_NAMES, Link, Macvlan, Veth, Vlan, Vxlan
from plugins.network.ports import Filters, Kernel, Owners
from plugins.network.repository import Repository
from qnet.errors import InvalidRequest, QnetError, Unavailable
from qnet.schema import SegmentKind, TenantRecord

logger = logging.getLogger(__name__)


class Segments:
    """The segments of this host's networks."""

    def __init__(
        self,
        repository: Repository,
        kernel: Kernel,
        filters: Filters,
        tenants: Owners,
        admission: Admission,
        overlay: Overlay,
        gateways: Gateways,
        parents: Mapping[str, str] = NO_NAMES,
    ) -> None:
        self._repository = repository
        self._kernel = kernel
        self._filters = filters
        self._tenants = tenants
        self._admission = admission
        self._overlay = overlay
        self._gateways = gateways
        self._parents = parents
        self._lock = threading.RLock()
        self._making: dict[str, Network] = {}  # those that are not written down yet

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
        self._admission.check_tenant(ask, tenant)
        with self._lock:
            links, others = self._kernel.look(), self._all()
            tags = plan.tags(ask.parent, links)
            trunk = ask.mode == "vxlan" or (bool(tenant.vlan) and tenant.vlan not in tags)
            plan.check_parent(ask, links, others, trunk=trunk, names=self._parents, asked=True)
            self._admission.check_tags(ask, tenant, tags)
            made = self._planned(ask, tenant, links, tags)
            check_sub_interface(made, links)
            self._admission.check_company(made, tenant, others)
            undo.callback(self.drop, made)
            self._making[made.id] = made
            self._make(made)
            self._try(made)
            plan.check_parent(msgspec.structs.replace(ask, parent=made.parent), self._kernel.look(), others)
        return self._gateways.place(made) if made.nat else made

    def _all(self) -> tuple[Network, ...]:
        """This host's networks, those too that are not written down yet."""
        return tuple((self._making | {network.id: network for network in self._repository.networks.all()}).values())

    def ensure(self, network: Network) -> None:
        """Make the links that a network stands on, and its gateway, where they are not there."""
        with self._lock:
            self._make(network)
            self._making.pop(network.id, None)
        self._route(network)

    def _other_owner(self, network: Network) -> str:
        """The tenant that a network's tag belongs to now, if that is another: this host was forgotten, or etcd lost
        all. Nobody, if the store is away: links are put back without it."""
        kind: SegmentKind = "vlan" if network.vlan else "vni"
        number = network.vlan or network.vni
        if number:
            with suppress(Unavailable):
                owner = self._tenants.owner(kind, number)
                return "" if owner == network.tenant else owner
        return ""

    def being_made(self) -> frozenset[str]:
        """Links that only networks stand on which are not written down yet."""
        with self._lock:
            return frozenset(name for made in self._making.values() for name in (made.parent, made.bridge))

    def tidy(self) -> None:
        """What gateways left behind goes, and the rules that belong to them all are in force."""
        self._gateways.tidy()

    def sync(self, networks: Iterable[Network], links: Mapping[str, Link]) -> None:
        """Put back what is missing of the links that networks stand on, and of gateways: a reboot takes them away.

        Args:
            links: those of a moment ago.

        Raises:
            Unavailable: the store cannot be reached.
        """
        overlays: dict[int, Segment] = {}
        made: list[Network] = []
        addresses = cache(self._kernel.addresses)  # hundreds of networks ask for the same
        for network in networks:
            try:
                segment = self._overlay_of(network, addresses)
                local = segment.local if segment else ""
                stands = plan.stands(network, MODES[network.mode].segment(network), local, links)
                if not stands and (other := self._other_owner(network)):
                    logger.error(
                        "network %s of tenant %s stays without its links, for its tag is tenant %s's now: remove it",
                        network.id[:12],
                        network.tenant,
                        other,
                    )
                    continue
                if segment is not None:
                    overlays[segment.vni] = segment
                if not stands:
                    with self._lock:
                        if self._repository.networks.get(network.id) is not None:  # not removed meanwhile
                            self._prepare(network, segment)
                            made.append(network)
            except QnetError as error:
                logger.warning("links of network %s: %s", network.id[:12], error)
        with self._lock:
            there = {network.vni for network in self._repository.networks.all()}
            self._overlay.sync({vni: segment for vni, segment in overlays.items() if vni in there})
            for network in made:
                if MODES[network.mode].segment(network) is not None:
                    self._kernel.bring_up(network.bridge)
        for network in networks:
            if network.nat:
                try:
                    self._gateways.sync(network)
                except QnetError as error:
                    logger.warning("gateway of network %s: %s", network.id[:12], error)

    def drop(self, network: Network) -> None:
        """Delete the links that a network stood on, if they are ours and it was the last on them, and its gateway."""
        with self._lock, ExitStack() as rest:
            self._making.pop(network.id, None)
            if network.nat:
                rest.callback(self._gateways.drop, network)
            elif network.host_access:
                rest.callback(self._gateways.fence)
            others = [other for other in self._repository.networks.all() if other.id != network.id]
            if network.vni and all(other.vni != network.vni for other in others):
                self._overlay.leave(network.vni)
            bridge = MODES[network.mode].segment(network)
            if bridge is not None and all(other.bridge != bridge.name for other in others):
                self._kernel.delete(bridge.name)
                self._filters.remove(bridge.name)
            link = self._kernel.look().get(network.parent) if network.vlan or network.vni else None
            if link is not None and link.ours and all(other.parent != network.parent for other in others):
                self._kernel.delete(network.parent)

    def _make(self, network: Network) -> None:
        segment = self._overlay_of(network, self._kernel.addresses)
        self._prepare(network, segment)
        if segment is not None:
            self._overlay.enter(segment)
        if MODES[network.mode].segment(network) is not None:
            self._kernel.bring_up(network.bridge)

    def _route(self, network: Network) -> None:
        """What the host does for a network beside carrying its frames."""
        if network.nat:
            self._gateways.sync(network)
        elif network.host_access:
            self._gateways.fence()

    def _prepare(self, network: Network, segment: Segment | None) -> None:
        """Make the links of a network; its bridge is down."""
        if network.vlan:
            self._kernel.add_vlan(Vlan(network.parent, network.trunk, network.vlan))
        elif segment is not None:
            self._kernel.add_vxlan(Vxlan(segment.link, segment.underlay, segment.vni, segment.local))
        bridge = MODES[network.mode].segment(network)
        if bridge is not None and self._kernel.add_bridge(bridge):
            self._filters.shield(bridge.name)
            self._attach_all(bridge.name)

    def _attach_all(self, bridge: str) -> None:
        """Make the endpoints of a bridge that was made anew its ports again: somebody deleted it."""
        for network in self._repository.networks.all():
            for endpoint in self._repository.endpoints_of(network.id) if network.bridge == bridge else ():
                link = MODES[network.mode].endpoint(network, endpoint)
                if endpoint.joined and isinstance(link, Veth):
                    with suppress(InvalidRequest):  # that one is gone, too
                        self._kernel.attach(link)

    @staticmethod
    def _overlay_of(network: Network, addresses: Callable[[str], Collection[str]]) -> Segment | None:
        """A network's VNI on this host; None: it has none. Raises InvalidRequest."""
        if not network.vni:
            return None
        local = plan.underlay_address(network.trunk, addresses(network.trunk))
        return Segment(network.vni, network.tenant, network.parent, network.trunk, local)

    def _try(self, network: Network) -> None:
        """Whether links of the network's kind can stand on its parent: its first container would tell too late."""
        link = MODES[network.mode].own(network)
        if isinstance(link, Macvlan):
            self._kernel.add(link)
            self._kernel.delete(link.name)

    def _planned(self, ask: Ask, tenant: TenantRecord, links: Mapping[str, Link], tags: Mapping[int, Link]) -> Network:
        """The network with the links that it is to stand on."""
        network = Network(**{name: getattr(ask, name) for name in ask.__struct_fields__}, untagged=tuple(tags))
        link = links[ask.parent]
        if ask.mode == "vxlan":
            link = Link(plan.vxlan_link(tenant.vni), "vxlan", up=True, mtu=link.mtu, parent=ask.parent)
            network = msgspec.structs.replace(network, parent=link.name, trunk=ask.parent, vni=tenant.vni)
        elif tenant.vlan and (link.vlan == tenant.vlan or tenant.vlan not in tags):
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
        if ask.mode in BRIDGED:
            network = msgspec.structs.replace(network, bridge=plan.bridge_over(link))
        return network
