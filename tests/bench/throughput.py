"""TCP throughput between two hosts: by qnet, by the built-in macvlan network, and without containers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack

from tests.bench.model import RATIO, Goal, Measured, interleaved, paired, spread
from tests.bench.networks import MACVLAN, QNET, make_networks
from tests.lab.cluster import Lab
from tests.lab.commands import Result
from tests.lab.host import Host

BUILT_IN = Goal("TCP throughput between containers on two hosts ÷ on the built-in macvlan network", RATIO, "≥", 0.98)
HOSTS = Goal("TCP throughput between containers on two hosts ÷ between the hosts themselves", RATIO, "≥", 0.93)
GOALS = (BUILT_IN, HOSTS)
ROUNDS, SECONDS = 13, 1
PORT = "5201"


def measure(lab: Lab) -> Iterator[Measured]:
    """One stream from the first host to the second; three iperf3 servers wait on the second."""
    client, server = lab.hosts[0], lab.hosts[1]
    for host in (client, server):
        host.load("bench")
    make_networks([client, server])
    with ExitStack() as undo:
        target = {network: serve(server, network) for network in (QNET, MACVLAN)}
        for network in target:
            client.docker("run", "-d", "--name", f"from-{network}", "--network", network, "bench", "sleep", "3600")
        host_server = server.popen(
            "iperf3", "-s", "-p", PORT, "-B", server.address, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        undo.callback(host_server.wait)
        undo.callback(host_server.terminate)
        time.sleep(0.5)

        def between_containers(network: str) -> float:
            return gigabits(client.docker("exec", f"from-{network}", *client_command(target[network])))

        def between_hosts() -> float:
            return gigabits(client.exec(*client_command(server.address)))

        def observe() -> dict[str, list[float]]:
            return interleaved(
                ROUNDS,
                qnet=lambda: between_containers(QNET),
                macvlan=lambda: between_containers(MACVLAN),
                hosts=between_hosts,
            )

        between_hosts()
        found = observe()
    for goal, name in ((BUILT_IN, "macvlan"), (HOSTS, "hosts")):
        ratio = paired(found, "qnet", name)
        detail = f"{ratio}; Gbit/s: qnet {spread(found['qnet'])}, {name} {spread(found[name])}"
        yield Measured(goal, ratio.median, detail)


def serve(host: Host, network: str) -> str:
    """Start a server in a container; returns its address."""
    host.docker("run", "-d", "--name", f"to-{network}", "--network", network, "bench", "iperf3", "-s", "-p", PORT)
    form = f'{{{{(index .NetworkSettings.Networks "{network}").IPAddress}}}}'
    return host.docker("inspect", "-f", form, f"to-{network}").stdout.strip()


def client_command(address: str, seconds: int = SECONDS) -> list[str]:
    """One stream for some seconds, reported as JSON. iperf3 takes whole seconds only, and 0 for no end."""
    return ["iperf3", "-c", address, "-p", PORT, "-t", str(seconds), "-J"]


def gigabits(result: Result) -> float:
    """What arrived in a second, of a client's report."""
    return float(json.loads(result.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9
