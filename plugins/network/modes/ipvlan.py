"""ipvlan: each endpoint is a link on the parent that has the parent's MAC address, for switches that allow only one."""

from __future__ import annotations

from plugins.network.model import Endpoint, Network
from plugins.network.plan import Bridge, Guard, Macvlan, endpoint_link, own_link


class IpvlanMode:
    """See `plugins.network.modes.Mode`."""

    def segment(self, network: Network) -> Bridge | None:
        """The parent is all there is."""

    def endpoint(self, network: Network, endpoint: Endpoint) -> Macvlan:
        """An ipvlan link (mode L2), which the engine moves into the container."""
        return Macvlan(endpoint_link(endpoint.id), network.parent, "l2", network.mtu, kind="ipvlan")

    def guard(self, network: Network, endpoint: Endpoint) -> Guard | None:
        """The link moves into the container as it is: the host keeps no device at which its frames pass."""

    def own(self, network: Network) -> Macvlan:
        """An ipvlan link beside those of the containers: the parent itself does not reach them."""
        return Macvlan(own_link(network.id), network.parent, "l2", network.mtu, kind="ipvlan")
