"""bridge and vxlan: a bridge for each segment over its link, of the wire or of a VXLAN; a veth pair for each endpoint,
whose host's end is filtered."""

from __future__ import annotations

from plugins.network.model import Endpoint, Network
from plugins.network.plan import Bridge, Guard, Veth, container_end, endpoint_link, own_link, own_mac, own_port


class BridgeMode:
    """See `plugins.network.modes.Mode`."""

    def segment(self, network: Network) -> Bridge | None:
        """The bridge with the network's link as a port; None if that is a bridge already."""
        return None if network.bridge == network.parent else Bridge(network.bridge, network.parent)

    def endpoint(self, network: Network, endpoint: Endpoint) -> Veth:
        """A pair: the host's end is a port of the bridge, the other moves into the container."""
        name = endpoint_link(endpoint.id)
        end, learning = container_end(endpoint.id), not network.spoof_check  # one that is checked has one MAC address
        return Veth(name, end, network.bridge, network.mtu, endpoint.mac, learning=learning)

    def guard(self, network: Network, endpoint: Endpoint) -> Guard:
        """Only its own MAC address and addresses as source, no tags, no routing or leases for others; within limits."""
        device, checked = endpoint_link(endpoint.id), network.spoof_check
        return Guard(device, endpoint.mac, endpoint.addresses, checked, endpoint.terms)

    def own(self, network: Network) -> Veth:
        """A pair as the containers have it, with its end that is not a port for the host."""
        return Veth(own_port(network.id), own_link(network.id), network.bridge, network.mtu, own_mac(network.id))
