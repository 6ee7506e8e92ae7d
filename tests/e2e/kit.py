"""What the end-to-end tests have in common: networks and containers on real engines, and what may not be left over."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.e2e import wires
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

SUBNET, GATEWAY = "10.77.0.0/24", "10.77.0.1"
UPPER_HALF = "10.77.0.128/25"
SUBNET6, GATEWAY6 = "fd00:77::/64", "fd00:77::1"
DUAL = ("--ipv6", "--subnet", SUBNET6, "--gateway", GATEWAY6)
SETTLED_WITHIN = 30.0  # seconds until records agree with the engines: grace, repairs, and a slow machine
PREDEFINED = frozenset({"bridge", "host", "none"})


@dataclass
class Create:
    """The words of `docker network create` for a qnet network, in the mode of the test that runs.

    Another mode among the words behind these counts more.
    """

    mode: str = "macvlan"

    def __iter__(self) -> Iterator[str]:
        return iter(("network", "create", "-d", "qnet", "--ipam-driver", "qnet", *self.options))

    @property
    def options(self) -> tuple[str, ...]:
        """What asks for the mode; nothing for the one that is the default."""
        return () if self.mode == "macvlan" else ("-o", f"mode={self.mode}")

    @property
    def parent(self) -> str:
        """The link that networks stand on: the trunk, or between hosts the underlay."""
        return "eth0" if self.mode == "vxlan" else "eth1"

    @property
    def tag(self) -> str:
        """What a tenant needs to have networks of the mode, as an option of `qnet tenant create`."""
        return "--vni=auto" if self.mode == "vxlan" else "--untagged"


LINKS, links, namespaces = wires.LINKS, wires.links, wires.namespaces
TENANTS = ("/qnet/v1/tenants/", "/qnet/v1/segments/")
MODES = ("macvlan", "bridge", "vxlan")
CREATE = Create()  # its mode is set before each test

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def at_once(action: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int = 16) -> list[ResultT]:
    """The results of an action on every item, done at the same time; raises the first error."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(action, items))


def network(
    hosts: Host | Sequence[Host], name: str = "web", *options: str, subnet: str = SUBNET, gateway: str = GATEWAY
) -> None:
    """`docker network create` of a qnet network on each host. Containers that ask for no address get one of the upper
    half of the usual subnet, so that tests can ask for those of the lower half."""
    if subnet == SUBNET and "--ip-range" not in options:
        options += ("--ip-range", UPPER_HALF)
    words = [*(("--subnet", subnet) if subnet else ()), *(("--gateway", gateway) if gateway else ()), *options]
    several = [hosts] if isinstance(hosts, Host) else hosts
    at_once(lambda host: host.docker(*CREATE, *words, name), several)


def qnet(host: Host, *words: str, check: bool = True) -> Result:
    """The command `qnet` on a host."""
    return host.exec(".venv/bin/qnet", *words, check=check)


def tenants(host: Host, *names: str, **tags: str) -> None:
    """Tenants from now on: those of `names` as the mode needs them, others with an option such as `--vni=501`."""
    there = {one["name"] for one in json.loads(qnet(host, "tenant", "ls", "--json").stdout)}
    for name, tag in (dict.fromkeys(names, CREATE.tag) | tags).items():
        if name not in there:
            qnet(host, "tenant", "create", name, tag)


def of(tenant: str, mode: str = "macvlan") -> tuple[str, ...]:
    """Options of `docker network create` for a tenant's network."""
    return ("-o", f"mode={mode}", "-o", f"tenant={tenant}", "--ipam-opt", f"tenant={tenant}")


def run_args(name: str, *options: str, on: str = "web", command: str = "sleep 1d") -> list[str]:
    """Arguments of `docker` for a container that ends at once when it is stopped."""
    words = ["run", "-d", "--stop-signal", "KILL", "--name", name, "--network", on, *options]
    return [*words, "busybox:latest", *command.split()]


def run(host: Host, name: str, *options: str, on: str = "web") -> str:
    """Start a container; returns its IPv4 address on the network."""
    host.docker(*run_args(name, *options, on=on))
    return address(host, name, on)


def refused(host: Host, *args: str) -> str:
    """What docker says to a command that must fail."""
    done = host.docker(*args, check=False)
    assert done.returncode != 0, f"docker {' '.join(args)} on {host.name} succeeded: {done.stdout}"
    return " ".join(done.stderr.split())


def inspect(host: Host, kind: str, name: str) -> dict[str, Any]:
    """`docker KIND inspect NAME`."""
    found: list[dict[str, Any]] = json.loads(host.docker(kind, "inspect", name).stdout)
    return found[0]


def attached(host: Host, container: str, on: str = "web") -> dict[str, Any]:
    """What the engine says of a container on a network: IPAddress, MacAddress, GlobalIPv6Address, …"""
    ends: dict[str, dict[str, Any]] = inspect(host, "container", container)["NetworkSettings"]["Networks"]
    return ends[on]


def address(host: Host, container: str, on: str = "web") -> str:
    """A container's IPv4 address."""
    return str(attached(host, container, on)["IPAddress"])


def running(host: Host, container: str) -> bool:
    """Whether a container runs."""
    return bool(inspect(host, "container", container)["State"]["Running"])


def pings(host: Host, container: str, target: str, tries: int = 3) -> bool:
    """Whether a container gets an answer from a target: one of `tries` pings, a second each."""
    for _ in range(tries):
        done = host.docker("exec", container, "ping", "-c", "1", "-W", "1", target, check=False)
        if done.returncode == 0:
            return True
    return False


def host_pings(host: Host, target: str, tries: int = 3) -> bool:
    """Whether the host itself gets an answer from a target."""
    return any(host.exec("ping", "-c", "1", "-W", "1", target, check=False).returncode == 0 for _ in range(tries))


def becomes_free(host: Host, name: str, *options: str, on: str = "web", within: float = SETTLED_WITHIN) -> None:
    """A container with the address can be started within some seconds; a refusal leaves nothing behind."""

    def started() -> bool:
        done = host.docker(*run_args(name, *options, on=on), check=False)
        if done.returncode:
            host.docker("rm", "-f", name)
        return done.returncode == 0

    wait_for(f"{' '.join(options)} is free for {name}", started, within, 0.1)


@dataclass(frozen=True, slots=True)
class Record:
    """A key of the store with its value and the revision of its last write."""

    key: str
    value: bytes
    revision: int

    @property
    def fields(self) -> dict[str, Any]:
        """The record."""
        decoded: dict[str, Any] = json.loads(self.value)
        return decoded


def records(lab: Lab, prefix: str = "/qnet/") -> dict[str, Record]:
    """What etcd holds below a prefix."""
    answer = json.loads(lab.etcdctl("get", "--prefix", prefix, "-w", "json").stdout)
    found = {}
    for kv in answer.get("kvs", ()):
        key = base64.b64decode(kv["key"]).decode()
        found[key] = Record(key, base64.b64decode(kv.get("value", "")), kv["mod_revision"])
    return found


def address_records(lab: Lab, subnet: str = SUBNET, tenant: str = "default") -> dict[str, dict[str, Any]]:
    """The address records of a pool, by address."""
    prefix = f"/qnet/v1/contents/{tenant}/{subnet.replace('/', '-')}/address/"
    return {key.removeprefix(prefix): record.fields for key, record in records(lab, prefix).items()}


def named(lab: Lab, text: str, container: str, subnet: str = SUBNET, tenant: str = "default") -> None:
    """Wait until the record of an address names its container: the engine tells that only after the start."""
    wait_for(
        f"{text} is {container}'s by its record",
        lambda: address_records(lab, subnet, tenant).get(text, {}).get("container") == container,
        SETTLED_WITHIN,
    )


def networks_named(lab: Lab) -> None:
    """Wait until the records of networks have their names: the engine tells those only after it made them."""

    def all_named() -> bool:
        found = records(lab, "/qnet/v1/networks/").values()
        return all(one.fields.get("name") for one in found)

    wait_for("the names of networks", all_named, SETTLED_WITHIN)


def files(host: Host) -> list[Path]:
    """What the plugin keeps of networks and endpoints on a host, and its journal."""
    state, volatile = host.node.disk / "private/var/lib/qnet", host.node.run / "qnet"
    return sorted(path for top in (state, volatile) for path in top.rglob("*") if path.is_file())


def leaks(lab: Lab) -> list[str]:
    """What is left of networks and containers in the store and on the hosts, when all were removed."""
    kept = ("/qnet/v1/hosts/", *TENANTS)
    left = [one for one in records(lab).values() if not one.key.startswith(kept) and "/resting/" not in one.key]
    found = [f"{one.key} {one.value.decode(errors='replace')}" for one in left]
    for host in lab.hosts:
        found += [f"{host.name}: {what}" for what in sorted(wires.kernel(host))]
        found += [f"{host.name}: {path}" for path in files(host) if path.name != "identity"]
    return found


def containers(host: Host) -> list[str]:
    """The ids of all containers of a host."""
    _, listed = call(host.docker_socket, "GET", "/containers/json?all=1", timeout=60)
    return [box["Id"] for box in listed]


def remove_all(host: Host) -> None:
    """Remove every container and network of a host."""
    remove_all_but(host)


def remove_all_but(host: Host, *kept: str) -> None:
    """Remove every container of a host, and every network but some."""
    found = containers(host)
    if found:
        host.docker("rm", "-f", "-v", *found)
    _, listed = call(host.docker_socket, "GET", "/networks", timeout=60)
    own = [net["Id"] for net in listed if net["Name"] not in PREDEFINED.union(kept)]
    if own and (done := host.docker("network", "rm", *own, check=False)).returncode:
        _recount(host, own, done.stderr)


def _recount(host: Host, networks: Sequence[str], said: str) -> None:
    """Engine 20.10 miscounts the endpoints of a network, one time in twenty, when many go at once: it then keeps one
    that has none, until it is started again. Anything else fails the test; what the plugin has, `no_leaks` looks for.
    """
    left = [call(host.docker_socket, "GET", f"/networks/{one}", timeout=60) for one in networks]
    there = {about["Id"]: about["Containers"] for status, about in left if status == 200}
    assert "has active endpoints" in said, said
    assert not any(there.values()), (said, there)
    print(f"{host.name}: the engine miscounts its endpoints and is started again: {said}")
    host.stop_engine()
    host.start_engine()
    host.docker("network", "rm", *there)


def no_leaks(lab: Lab, within: float = SETTLED_WITHIN) -> None:
    """Nothing is left of networks and containers, soon at least."""
    left: list[str] = []

    def clean() -> bool:
        left[:] = leaks(lab)
        return not left

    try:
        wait_for("no leaks", clean, within, 0.1)
    except Exception as late:
        raise AssertionError(f"left over after {within:g} s: {'; '.join(left)}") from late
