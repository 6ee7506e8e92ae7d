"""The same network twice: by qnet, and by the engine's own macvlan driver."""

from __future__ import annotations

from collections.abc import Iterable

from tests.lab.host import Host

QNET, MACVLAN = "bench-qnet", "bench-macvlan"
QNET_SUBNET, MACVLAN_SUBNET = "10.77.0.0/16", "10.78.0.0/16"


def make_networks(hosts: Iterable[Host]) -> None:
    """Make both on each host. The engine's own IPAM knows nothing of other hosts: each gets a range of its own."""
    for index, host in enumerate(hosts):
        host.docker(
            "network", "create", "-d", "qnet", "--ipam-driver", "qnet", "--subnet", QNET_SUBNET,
            "--gateway", "10.77.0.1", "-o", "parent=eth1", QNET,
        )  # fmt: skip
        host.docker(
            "network", "create", "-d", "macvlan", "--subnet", MACVLAN_SUBNET, "--gateway", "10.78.0.1",
            "--ip-range", f"10.78.{index + 1}.0/24", "-o", "parent=eth1", MACVLAN,
        )  # fmt: skip
