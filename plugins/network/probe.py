"""Asks on a network's segment whether a device that qnet does not manage has an address: `-o arp_probe=true`."""

from __future__ import annotations

from ipaddress import ip_address

from plugins.network.ports import Kernel, Segment
from plugins.network.repository import Repository


class Prober:
    """Knows which of this host's networks are to be asked on, and where."""

    def __init__(self, repository: Repository, kernel: Kernel, segment: Segment, wait: float) -> None:
        self._repository = repository
        self._kernel = kernel
        self._segment = segment
        self._wait = wait

    def answers(self, tenant: str, subnet: str, address: str, besides: str) -> str:
        """Who has an address, by the parents of this host's networks with that subnet; empty: nobody, or none of them
        is to be asked.

        Args:
            besides: a MAC address whose answer does not count, or empty.

        Raises:
            Unavailable: a parent cannot be asked.
        """
        parents = {
            network.parent
            for network in self._repository.networks.all()
            if network.arp_probe and network.tenant == tenant
            if any(entry.subnet == subnet for entry in network.subnets)
        }
        for parent in sorted(parents):
            if address in self._kernel.addresses(parent):
                return f"{parent} of this host"  # which does not hear itself ask
            found = self._segment.who_has(parent, ip_address(address), self._wait, besides)
            if found:
                return found
        return ""
