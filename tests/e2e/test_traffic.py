"""Limits and counters of traffic, against what iperf3 measures in containers of one bridge network."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e import kit, test_isolation
from tests.e2e.kit import CREATE, GATEWAY, SUBNET, links, network, qnet, refused, tenants
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

pytestmark = pytest.mark.mode("bridge")

BRIDGE = ("-o", "mode=bridge")
OUTSIDE = "192.0.2.1"
MBIT = 1_000_000
BLOCK = "8K"  # iperf3 counts whole blocks: at 1 mbit its usual 128K would be a second's


@pytest.fixture
def host(hosts: list[Host]) -> Host:
    """The first host, with iperf3 in an image."""
    hosts[0].load("bench")
    return hosts[0]


def box(host: Host, name: str, *options: str, command: str = "sleep 1d", on: str = "web") -> str:
    """Start a container that has iperf3; returns its address. `on` may name options of its endpoint too."""
    words = ("run", "-d", "--stop-signal", "KILL", "--name", name, "--network", on, *options, "bench:latest")
    host.docker(*words, *command.split())
    return kit.address(host, name, on.partition(",")[0].removeprefix("name="))


def server(host: Host, *options: str, on: str = "web") -> str:
    """Start an iperf3 server; returns its address when it listens."""
    given = box(host, "server", *options, command="iperf3 -s", on=on)
    wait_for("iperf3", lambda: ":5201" in host.docker("exec", "server", "netstat", "-ltn").stdout, 10)
    return given


def limited(egress: str = "", ingress: str = "") -> str:
    """`--network` with limits."""
    given = (("egress", egress), ("ingress", ingress))
    return ",".join(["name=web", *(f"driver-opt=qnet.{name}={rate}" for name, rate in given if rate)])


def iperf(host: Host, target: str, *options: str, seconds: float = 3) -> dict[str, Any]:
    """What iperf3 in the container `client` says at its end."""
    words = ("iperf3", "-c", target, "-J", "-l", BLOCK, *options, *(() if "-n" in options else ("-t", str(seconds))))
    said: dict[str, Any] = json.loads(host.docker("exec", "client", *words).stdout)
    return said["end"]


def rates(host: Host, target: str, seconds: float = 3) -> tuple[float, float]:
    """The goodput from and to the client, in bits per second."""
    up, down = (iperf(host, target, *way, seconds=seconds) for way in ((), ("-R",)))
    return up["sum_received"]["bits_per_second"], down["sum_received"]["bits_per_second"]


def assert_held(host: Host, target: str, limits: tuple[int, int], seconds: float = 3) -> None:
    """Traffic from and to the client runs at its limits, in mbit, within 5 %. It is never faster; a busy machine
    may make it slower, and is asked again."""
    found: list[tuple[float, float]] = []
    while len(found) < 3:
        up, down = rates(host, target, seconds)
        found.append((up / MBIT, down / MBIT))
        fastest = [max(each) for each in zip(*found, strict=True)]
        assert all(rate <= limit * 1.05 for rate, limit in zip(fastest, limits, strict=True)), found
        if all(rate >= limit * 0.95 for rate, limit in zip(fastest, limits, strict=True)):
            return
    pytest.fail(f"slower than {limits} mbit each time: {found}")


def top(host: Host, container: str = "client") -> dict[str, Any]:
    """A container's line of `qnet top`."""
    listed = json.loads(qnet(host, "top", "--json", "--interval", "0.2").stdout)
    return next((row for row in listed if row["container"] == container), {})


def limits(host: Host) -> tuple[int, int]:
    """The client's limits as `qnet top` tells, in mbit."""
    row = top(host)
    return row.get("sent_limit", 0) // MBIT, row.get("received_limit", 0) // MBIT


def sums(host: Host, level: str) -> dict[tuple[str, ...], float]:
    """The counters of a network or tenant, by their labels."""
    _, text = call(host.plugin_socket, "GET", "/metrics")
    found = {}
    for family in text_string_to_metric_families(text):
        if family.name == f"qnet_{level}_traffic_bytes":
            order = ("network", "tenant", "direction", "scope")
            found |= {tuple(s.labels[one] for one in order if one in s.labels): s.value for s in family.samples}
    return found


def left_in_the_kernel(host: Host) -> str:
    """What there is of limits and counters."""
    listed = host.exec("nft", "list", "table", "netdev", "qnet", check=False).stdout
    queues = host.exec("tc", "qdisc").stdout
    return "".join(line for line in (*listed.splitlines(), *queues.splitlines()) if "tbf" in line or "qn-" in line)


@pytest.mark.parametrize(
    ("egress", "ingress", "mbit"),
    [("1mbit", "2mbit", (1, 2)), ("100mbit", "20mbit", (100, 20)), ("300mbit", "1gbit", (300, 1000))],
)
def test_a_container_sends_and_gets_what_was_asked_for(
    host: Host, egress: str, ingress: str, mbit: tuple[int, int]
) -> None:
    network(host, "web", *BRIDGE)
    target = server(host)
    box(host, "client", on=limited(egress, ingress))
    assert limits(host) == mbit
    assert_held(host, target, mbit, 5)


def test_who_is_nearest_to_the_container_decides(hosts: list[Host], host: Host) -> None:
    tenants(host, "slow")
    qnet(host, "tenant", "set", "slow", "--egress", "10mbit", "--ingress", "11mbit")
    mine = ("-o", "tenant=slow", "--ipam-opt", "tenant=slow")
    network(host, "web", *BRIDGE, *mine)
    network(host, "fast", *BRIDGE, *mine, "-o", "egress=20mbit", subnet="10.78.0.0/24", gateway="10.78.0.1")
    host.docker("run", "-d", "--name", "client", "--network", "web", "bench:latest", "sleep", "1d")
    assert limits(host) == (10, 11)
    host.docker("network", "disconnect", "web", "client")
    host.docker("network", "connect", "fast", "client")
    assert limits(host) == (20, 11)
    host.docker("network", "disconnect", "fast", "client")
    host.docker(
        "network",
        "connect",
        "--driver-opt",
        "qnet.egress=none",
        "--driver-opt",
        "qnet.ingress=30mbit",
        "fast",
        "client",
    )
    assert limits(host) == (0, 30)
    host.docker("network", "disconnect", "fast", "client")
    host.docker("network", "connect", "web", "client")
    qnet(hosts[1], "tenant", "set", "slow", "--egress", "12mbit")
    wait_for("the tenant's new limit", lambda: limits(host) == (12, 11), 10)
    qnet(host, "tenant", "set", "slow", "--egress", "none", "--ingress", "none")
    wait_for("no limit", lambda: limits(host) == (0, 0), 10)
    host.docker("restart", "client")
    assert limits(host) == (0, 0)


def test_limits_change_under_traffic_from_any_host(lab: Lab, hosts: list[Host], host: Host) -> None:
    network(hosts, "web", *BRIDGE)
    target = server(host)
    address = box(host, "client", on=limited("10mbit"))
    kit.named(lab, address, "client")
    words = ("docker", "exec", "client", "iperf3", "-c", target, "-t", "12", "-i", "1", "-J")
    argv = ["docker", "-H", f"unix://{host.docker_socket}", *words[1:]]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as running:
        said = qnet(hosts[1], "endpoint", "limit", "client", "--egress", "50mbit", "--ingress", "20mbit").stdout
        assert "of client on host1: egress 50mbit and ingress 20mbit" in said
        wait_for("the new limits", lambda: limits(host) == (50, 20), 30)
        out, _ = running.communicate(timeout=60)
    each = [second["sum"]["bits_per_second"] / MBIT for second in json.loads(out)["intervals"][-6:-1]]
    assert max(each) == pytest.approx(50, rel=0.1)  # of the running connection, from 10
    assert_held(host, target, (50, 20))
    qnet(hosts[2], "endpoint", "limit", address, "--egress", "none")
    wait_for("no limit", lambda: limits(host) == (0, 20), 30)
    assert max(rates(host, target, 1)[0] for _ in range(3)) > 1000 * MBIT
    host.plugin.kill()
    host.start_plugin()
    assert limits(host) == (0, 20)
    qnet(hosts[2], "endpoint", "limit", top(host)["endpoint"], "--egress", "default", "--ingress", "default")
    wait_for("what it was made with", lambda: limits(host) == (10, 0), 30)
    assert kit.records(lab, "/qnet/v1/limits/") == {}


def test_counters_tell_what_iperf_sent(host: Host) -> None:
    network(host, "web", *BRIDGE, "-o", "spoof_check=false")
    target = server(host, "--cap-add", "NET_ADMIN")
    box(host, "client", "--cap-add", "NET_ADMIN")
    host.docker("exec", "server", "ip", "addr", "add", f"{OUTSIDE}/32", "dev", "lo")
    host.docker("exec", "client", "ip", "route", "add", OUTSIDE, "via", target)
    for aim, scope, other in ((target, "internal", "external"), (OUTSIDE, "external", "internal")):
        before = top(host)
        sent = iperf(host, aim, "-n", "100M")["sum_sent"]["bytes"]
        between = top(host)
        got = iperf(host, aim, "-n", "100M", "-R")["sum_received"]["bytes"]
        after = top(host)
        for direction, moved, first, second in (("sent", sent, before, between), ("received", got, between, after)):
            counted = {s: second[f"{direction}_{s}_bytes"] - first[f"{direction}_{s}_bytes"] for s in (scope, other)}
            assert counted[scope] == pytest.approx(moved, rel=0.05)
            assert counted[other] < moved / 1000
    name = ("web", "default", "sent", "external")
    had = sums(host, "network")[name], sums(host, "tenant")[name[1:]]
    assert had[0] > 100 * MBIT
    host.docker("rm", "-f", "client")
    assert top(host) == {}
    assert sums(host, "network")[name] >= had[0]
    assert sums(host, "tenant")[name[1:]] >= had[1]


def test_what_someone_takes_away_comes_back(host: Host) -> None:
    network(host, "web", *BRIDGE)
    target = server(host)
    box(host, "client", on=limited("50mbit", "20mbit"))
    iperf(host, target, "-n", "5M")
    had = top(host)["sent_internal_bytes"]
    limiter = next(name for name in links(host) if name.startswith("qi-"))
    host.exec("nft", "flush", "ruleset")
    host.exec("ip", "link", "delete", limiter)
    host.exec("tc", "qdisc", "del", "dev", limiter.replace("qi-", "qn-"), "root")
    wait_for(
        "the limiter", lambda: limiter in links(host) and limiter in host.exec("nft", "list", "ruleset").stdout, 10
    )
    assert_held(host, target, (50, 20))
    assert top(host)["sent_internal_bytes"] > had


def test_limits_go_with_the_endpoint(lab: Lab, hosts: list[Host], host: Host) -> None:
    network(host, "web", *BRIDGE)
    address = box(host, "client", on=limited("50mbit", "20mbit"))
    qnet(host, "endpoint", "limit", address, "--egress", "60mbit")
    wait_for("the new limit", lambda: limits(host) == (60, 20), 30)
    host.docker("rm", "-f", "client")
    assert left_in_the_kernel(host) == ""
    assert not [name for name in links(host) if name.startswith("qi-")]
    assert kit.records(lab, "/qnet/v1/limits/") == {}


def test_a_killed_plugin_leaves_no_limits(lab: Lab, host: Host) -> None:
    network(host, "web", *BRIDGE)
    address = box(host, "client", on=limited("50mbit", "20mbit"))
    qnet(host, "endpoint", "limit", address, "--egress", "60mbit")
    wait_for("the new limit", lambda: limits(host) == (60, 20), 30)
    host.plugin.kill()
    host.docker("rm", "-f", "client")
    host.start_plugin()
    wait_for("nothing left in the kernel", lambda: left_in_the_kernel(host) == "", 15)
    wait_for("no ifb", lambda: not [name for name in links(host) if name.startswith("qi-")], 15)
    wait_for("no record", lambda: kit.records(lab, "/qnet/v1/limits/") == {}, 15)


def test_a_limit_lets_no_attack_through(host: Host) -> None:
    network(host, "web", *kit.DUAL, *BRIDGE, "-o", "egress=100mbit", "-o", "ingress=100mbit")
    evil = test_isolation.box(host, "evil", "--cap-add", "NET_ADMIN", "--cap-add", "NET_RAW")
    good = test_isolation.box(host, "good")
    assert len([name for name in links(host) if name.startswith("qi-")]) == 2
    for name, attack in test_isolation.ATTACKS.items():
        assert not test_isolation.arrives(evil, good, lambda mark, make=attack: make(evil, good, mark)), name


@pytest.mark.mode("macvlan")
def test_modes_without_a_device_refuse(hosts: list[Host]) -> None:
    says = "networks of mode macvlan have no limits: the host keeps no device that their containers' traffic passes"
    words = (*CREATE, "--subnet", SUBNET, "--gateway", GATEWAY)
    assert says in refused(hosts[0], *words, "-o", "egress=10mbit", "web")
    assert "-o egress=10: a rate from 64kbit to 32gbit" in refused(hosts[0], *words, *BRIDGE, "-o", "egress=10", "web")
    network(hosts[0], "web")
    one = ("run", "-d", "--name", "client", "--network", limited("10mbit"), "busybox:latest", "sleep", "1d")
    assert says in refused(hosts[0], *one)
    hosts[0].docker("rm", "-f", "client")
    address = kit.run(hosts[0], "plain")
    done = qnet(hosts[0], "endpoint", "limit", address, "--egress", "10mbit", check=False)
    assert says in done.stderr
