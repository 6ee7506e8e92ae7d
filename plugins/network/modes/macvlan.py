"""macvlan: each endpoint is a link of its own on the parent. Containers and switch see each other without the host."""

from __future__ import annotations

from plugins.network.model import Endpoint, Network
from plugins.network.plan import Bridge, Guard, Macvlan, endpoint_link, own_link


class MacvlanMode:
    """See `plugins.network.modes.Mode`."""

    watched = False

    def segment(self, network: Network) -> Bridge | None:
        """The parent is all there is."""

    def endpoint(self, network: Network, endpoint: Endpoint) -> Macvlan:
        """A macvlan link, which the engine moves into the container."""
        return Macvlan(endpoint_link(endpoint.id), network.parent, network.macvlan_mode, network.mtu, endpoint.mac)

    def guard(self, network: Network, endpoint: Endpoint) -> Guard | None:
        """The link moves into the container as it is: the host keeps no device at which its frames pass."""

    def own(self, network: Network) -> Macvlan:
        """A macvlan link beside those of the containers: the parent itself does not reach them."""
        return Macvlan(own_link(network.id), network.parent, "bridge", network.mtu)
