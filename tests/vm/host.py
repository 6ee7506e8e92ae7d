"""A Docker host in a virtual machine: etcd on the first one, qnet's plugin and Debian's Docker on each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.lab import image as containers
from tests.lab.commands import Result, wait_for
from tests.lab.model import PROJECT
from tests.vm import rootfs
from tests.vm.machine import Machine

CODE = ("qnet", "plugins")
READY_WITHIN = 120.0  # seconds: Python and Docker take 10 to 20 times as long as without emulation
SETTINGS = f"""
[etcd]
endpoints = ["{rootfs.ETCD}"]
timeout = 4.5
[docker]
timeout = 60.0
[network]
parent = "trunk"
parents.trunk = "eth1"
[ipam]
grace = 5.0
rest = 2
repair_interval = 5.0
"""
CREATE = ("network", "create", "-d", "qnet", "--ipam-driver", "qnet")


class Host(Machine):
    """What the tests do on a host."""

    def install(self) -> None:
        """Puts this clone's code, the settings and etcd's start in place, once for each disk."""
        self.unpack(PROJECT, CODE, "/opt/qnet/code")
        self.exec("sh", "-c", "mkdir -p /etc/qnet && cat >/etc/qnet/qnet.toml", stdin=SETTINGS)

    def start_etcd(self) -> None:
        """etcd's unit is ready when the command returns."""
        self.exec("systemctl", "start", "etcd")

    def start_daemons(self) -> None:
        """The plugin, then the engine, which asks for it."""
        self.exec("systemctl", "start", "qnet-network")
        activate = ("curl", "-s", "-m", "30", "--unix-socket", "/run/docker/plugins/qnet.sock", "-X", "POST")
        wait_for(
            f"qnet-network on {self.name}",
            lambda: self.exec(*activate, "http://plugin/Plugin.Activate", check=False).returncode == 0,
            READY_WITHIN,
            0.5,
        )
        self.exec("systemctl", "start", "docker")

    def load_image(self) -> None:
        """Brings busybox into the engine."""
        *words, tar, name = containers.import_args("busybox")
        self.feed(containers.tarball("busybox"), "docker", *words, "-", name)
        assert tar.endswith(".tar")

    def docker(self, *args: str, check: bool = True) -> Result:
        """Runs the docker command."""
        return self.exec("docker", *args, check=check)

    def doctor(self) -> str:
        """What qnet finds right and wrong here."""
        return self.exec("qnet", "doctor", "--timeout", "150", check=False, timeout=300).stdout

    def network(self, name: str, tenant: str, *options: str, subnet: str = "10.60.0.0/24") -> None:
        """Makes a qnet network of a tenant."""
        self.docker(*CREATE, *whose(tenant), "--subnet", subnet, *options, name)

    def start(self, name: str, network: str, *options: str) -> None:
        """Starts a container that ends at once when it is stopped."""
        self.docker(*run_args(name, network, *options))

    def pings(self, container: str, target: str, size: int = 56) -> bool:
        """Whether a container gets an answer from a target to one of some pings of this many bytes."""
        ping = ("exec", container, "ping", "-s", str(size), "-c", "1", "-W", "3", target)
        return any(self.docker(*ping, check=False).returncode == 0 for _ in range(3))

    def hears(self, container: str, target: str) -> bool:
        """Whether anybody on a container's segment says to have an address, asked three times."""
        ask = ("exec", container, "arping", "-f", "-c", "3", "-w", "6", "-I", "eth0", target)
        return self.docker(*ask, check=False).returncode == 0

    def links(self) -> dict[str, dict[str, Any]]:
        """The links in the host's own namespace, by name."""
        listed = json.loads(self.exec("ip", "-j", "-d", "link").stdout)
        return {link["ifname"]: link for link in listed}

    def segments(self) -> set[str]:
        """The names of the VLANs' sub-interfaces."""
        return {name for name, link in self.links().items() if link.get("linkinfo", {}).get("info_kind") == "vlan"}

    def add_vlan(self, vlan: int, name: str, alias: str = "") -> None:
        """Makes a sub-interface of eth1 by hand."""
        self.exec("ip", "link", "add", "link", "eth1", "name", name, "up", "type", "vlan", "id", str(vlan))
        if alias:
            self.exec("ip", "link", "set", name, "alias", alias)

    def delete_links(self, names: Iterable[str]) -> None:
        """Deletes links, whether they are there or not."""
        for name in names:
            self.exec("ip", "link", "delete", name, check=False)

    def remove_networks(self) -> None:
        """Removes every container and qnet network."""
        boxes, networks = "docker ps -aq", "docker network ls -q --filter driver=qnet"
        self.exec("sh", "-c", f"{boxes} | xargs -r docker rm -f && {networks} | xargs -r docker network rm")

    def remove_all(self) -> None:
        """The same, and the sub-interfaces that a test made by hand."""
        self.remove_networks()
        links = self.links()
        self.delete_links(name for name in self.segments() if "ifalias" not in links[name])


def run_args(name: str, network: str, *options: str) -> list[str]:
    """Arguments of `docker` for a container that ends at once when it is stopped."""
    words = ["run", "-d", "--stop-signal", "KILL", "--name", name, "--network", network]
    return [*words, *options, "busybox:latest", "sleep", "1d"]


def whose(tenant: str) -> tuple[str, ...]:
    """The options that make a network a tenant's."""
    return ("-o", f"tenant={tenant}", "--ipam-opt", f"tenant={tenant}")
