"""Networks of every mode, each on a link of its own."""

from __future__ import annotations

from collections.abc import Iterable

from tests.lab.cluster import Lab
from tests.lab.commands import run
from tests.lab.host import Host

TENANT, VNI = "bench", 4000
SUBNETS = {"macvlan": "10.80.0.0/16", "bridge": "10.81.0.0/16", "vxlan": "10.82.0.0/16"}


def wire(lab: Lab) -> None:
    """Join the hosts' third links, which lead nowhere in a lab, as it joins the others."""
    ports = [f"link set x{host.node.index} master spare up" for host in lab.hosts]
    bridge = "link add spare type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
    run(["ip", "-n", lab.fabric.netns, "-batch", "-"], stdin="\n".join((bridge, "link set spare up", *ports)))
    for host in lab.hosts:
        host.exec("ip", "link", "set", "eth2", "addrgenmode", "none")
        host.exec("ip", "link", "set", "eth2", "up")


def make_tenant(host: Host) -> None:
    """The tenant whose networks are VXLANs."""
    host.exec(".venv/bin/qnet", "tenant", "create", TENANT, f"--vni={VNI}")


def make(hosts: Iterable[Host], mode: str, parent: str) -> str:
    """Make a network of a mode on each host; returns its name. Mode vxlan needs its tenant."""
    name = f"bench-{mode}"
    own = ("-o", f"tenant={TENANT}", "--ipam-opt", f"tenant={TENANT}") if mode == "vxlan" else ()
    gateway = SUBNETS[mode].replace("0.0/16", "0.1")
    for host in hosts:
        host.docker(
            "network", "create", "-d", "qnet", "--ipam-driver", "qnet", "--subnet", SUBNETS[mode],
            "--gateway", gateway, "-o", f"mode={mode}", "-o", f"parent={parent}", *own, name,
        )  # fmt: skip
    return name
