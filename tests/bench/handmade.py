"""What the modes bridge and vxlan make, made with ip(8) by hand: containers on veth pairs, a bridge, and its link.

The containers are on a network of the engine's, too, that leads nowhere: on any that a user made they have its
resolver, by rules of address translation that cost a stream several percent.
"""

from __future__ import annotations

from tests.lab.host import Host

# A stream must not begin with what an earlier one to the same address met.
FORGETFUL = ("--sysctl", "net.ipv4.tcp_no_metrics_save=1")
BRIDGE, TUNNEL, NOWHERE = "hand-bridge", "hand-vxlan", "nowhere"
VNI, HEADERS = 5000, 50


def bridge(host: Host, link: str) -> None:
    """A bridge over a link."""
    _ip(
        host,
        f"link add {BRIDGE} type bridge stp_state 0 forward_delay 0",
        f"link set {link} master {BRIDGE}",
        f"link set {BRIDGE} up",
    )


def tunnel(host: Host, other: Host) -> None:
    """A VXLAN over eth0 that learns nothing, and a bridge over it."""
    name = f"{BRIDGE}-x"
    _ip(
        host,
        f"link add {TUNNEL} type vxlan id {VNI} dstport 4789 local {host.address} dev eth0 nolearning",
        f"link add {name} mtu {1500 - HEADERS} type bridge stp_state 0 forward_delay 0",
        f"link set {TUNNEL} master {name} up",
        f"link set {name} up",
    )
    for behind in ("00:00:00:00:00:00", _mac(other, TUNNEL)):
        host.exec("bridge", "fdb", "append", behind, "dev", TUNNEL, "dst", other.address)


def nowhere(host: Host) -> None:
    """The network of the engine that all containers have."""
    host.docker("network", "create", "--internal", NOWHERE)


def container(host: Host, name: str, below: str, *command: str) -> str:
    """A container gets a veth pair to the bridge over `below`, a link or `TUNNEL`; returns its address."""
    host.docker("run", "-d", "--name", name, "--network", NOWHERE, *FORGETFUL, "bench", *command)
    process = host.docker("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    tunnelled = below == TUNNEL
    master, mtu, net = (f"{BRIDGE}-x", 1500 - HEADERS, 84) if tunnelled else (BRIDGE, 1500, 83)
    address = f"10.{net}.0.{host.node.index}"
    _ip(
        host,
        f"link add hv-{net} mtu {mtu} type veth peer name hc-{net} mtu {mtu} address {_mac(host, below)}",
        f"link set hc-{net} netns {process} name hand",
        f"link set hv-{net} master {master} up",
    )
    inside = ("nsenter", f"--net=/proc/{process}/ns/net", "ip")
    host.exec(*inside, "address", "add", f"{address}/16", "dev", "hand")
    host.exec(*inside, "link", "set", "hand", "up")
    return address


def _mac(host: Host, below: str) -> str:
    return f"02:aa:00:00:{int(below == TUNNEL):02x}:{host.node.index:02x}"


def _ip(host: Host, *lines: str) -> None:
    host.exec("ip", "-batch", "-", stdin="\n".join(lines))
