"""One module for each mode of network: which links its segment and its endpoints are made of. Pure.

To add one: a module with a class that has what `Mode` says, a line in `MODES`, and in `plugins.network.plan` what the
kernel must be able to make for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from plugins.network.model import Endpoint, Network
from plugins.network.modes.bridge import BridgeMode
from plugins.network.modes.ipvlan import IpvlanMode
from plugins.network.modes.macvlan import MacvlanMode
from plugins.network.plan import Bridge, Guard, Macvlan, Veth


class Mode(Protocol):
    """What the driver asks of a mode."""

    def segment(self, network: Network) -> Bridge | None:
        """What the endpoints of a network are joined by on this host, beside the link it stands on."""

    def endpoint(self, network: Network, endpoint: Endpoint) -> Macvlan | Veth:
        """The link of an endpoint."""

    def guard(self, network: Network, endpoint: Endpoint) -> Guard | None:
        """What an endpoint is held to; None: the host has no device of its own to watch it at."""

    def own(self, network: Network) -> Macvlan | Veth:
        """The link by which the host itself is on a network."""


MODES: Mapping[str, Mode] = {
    "macvlan": MacvlanMode(),
    "bridge": BridgeMode(),
    "vxlan": BridgeMode(),
    "ipvlan": IpvlanMode(),
}
