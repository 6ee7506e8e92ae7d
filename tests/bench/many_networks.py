"""A host with 500 networks, each a VXLAN of a tenant of its own: making one more, and starting the plugin again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.bench.crew import Crew
from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.lab.cluster import Lab
from tests.lab.etcd import endpoints
from tests.lab.host import Host
from tests.lab.unixhttp import answers, call

CREATE = Goal("docker network create on a host with 500 networks ÷ the first on a host", RATIO, "≤", 1.2)
RESTART = Goal("restart of the plugin on a host with 500 networks, until all its links know what changed", "s", "≤", 3)
GOALS = (CREATE, RESTART)
NETWORKS, AT_ONCE = 500, 4
ROUNDS, RESTARTS = 15, 3
SUBNET = "10.90.0.0/24"
PATIENCE = 60.0
PARTS = ("to stop", "to answer", "to know all after that")


def measure(lab: Lab) -> Iterator[Measured]:
    """The host with one network at most is another than the one with many, so that both can be asked in turn."""
    few, many = lab.hosts[1:]
    vnis = list(range(1, NETWORKS + 1))
    with Crew([lab.hosts[0]], "tenants", endpoint=endpoints(lab.hosts[0].members)[0], subnet=SUBNET) as tenants:
        more = list(range(NETWORKS + 1, NETWORKS + ROUNDS + 2))
        tenants.order(do="make", vnis=[*vnis, *more])
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda vni: _create(many, vni), vnis))

        def first() -> float:
            seconds = _create(few, more[0])
            few.docker("network", "rm", f"t{more[0]}")
            return seconds

        first()
        found = interleaved(ROUNDS, first=first, more=lambda: _create(many, more.pop()))
        ratio = paired(found, "more", "first")
        yield Measured(
            CREATE, ratio.median, f"{ratio}; s: more {spread(found['more'])}, first {spread(found['first'])}"
        )
        restarts = [_restart(many, tenants, vnis, number) for number in range(RESTARTS)]
        took = spread(sum(parts) for parts in restarts)
        parts = ", ".join(
            f"{word} {spread(part)}" for word, part in zip(PARTS, zip(*restarts, strict=True), strict=True)
        )
        yield Measured(RESTART, took.median, f"s: {took}; {parts}")


def _create(host: Host, vni: int) -> float:
    """Make a tenant's network by the engine's API, without the start of a client; returns how long it took."""
    tenant = f"t{vni}"
    ipam = {"Driver": "qnet", "Options": {"tenant": tenant}, "Config": [{"Subnet": SUBNET}]}
    options = {"mode": "vxlan", "parent": "eth0", "tenant": tenant}
    began = time.perf_counter()
    body = {"Name": tenant, "Driver": "qnet", "IPAM": ipam, "Options": options}
    status, answer = call(host.docker_socket, "POST", "/networks/create", body, timeout=PATIENCE)
    if status != 201:
        raise RuntimeError(f"network {tenant} on {host.name}: {answer}")
    return time.perf_counter() - began


def _restart(host: Host, tenants: Crew, vnis: list[int], number: int) -> tuple[float, ...]:
    """From SIGTERM until the plugin answers and a container that came to each VNI meanwhile on another host is known to
    its link. What is written in between, while the plugin is down, does not count."""
    began = time.monotonic()
    host.stop_plugin()
    stopped = time.monotonic() - began
    awaited = set(tenants.order(do="arrive", vnis=vnis, generation=number)[0].values())
    with Crew([host], "entries") as listener:
        began = time.monotonic()
        host.plugin.spawn()
        while not answers(host.node.plugin_socket, "POST", "/Plugin.Activate"):
            _in_time(began, "the plugin does not answer")
            time.sleep(0.01)
        ready = time.monotonic()
        heard: dict[str, dict[str, float]] = {}
        while any(len(heard.get(mac, ())) < 2 for mac in awaited):
            _in_time(began, f"of {len(awaited)} containers it heard of {len(heard)}")
            time.sleep(0.1)
            for mac, times in listener.order(do="take")[0].items():
                heard[mac] = times | heard.get(mac, {})
    _check_rules(host, len(vnis))
    last = max(max(heard[mac].values()) for mac in awaited)
    return stopped, ready - began, max(0.0, last - ready)


def _in_time(began: float, what: str) -> None:
    if time.monotonic() - began > PATIENCE:
        raise TimeoutError(f"{what} after {PATIENCE:g} s")


def _check_rules(host: Host, number: int) -> None:
    """The rules of the underlay, which are written first, let the other host send into every VNI."""
    listed = host.exec("nft", "list", "table", "inet", "qnet_underlay").stdout
    if listed.count("10.99.0.250") != number:
        raise RuntimeError(f"{host.name} takes packets of {listed.count('10.99.0.250')} VNIs, not of {number}")
