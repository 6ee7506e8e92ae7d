"""kill -9 of the plugin before every step that it takes for the engine: what was half done is completed or undone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import kit, truth
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FAULTY = [sys.executable, str(Path(__file__).with_name("faulty_plugin.py"))]
FIXED = "10.77.0.50"
NEVER = 10**6

Action = Callable[[Host, str], Result]


@pytest.fixture
def faulty(hosts: list[Host]) -> Iterator[list[Host]]:
    """The hosts with plugins that can be told to die."""

    def restart(host: Host, command: list[str] | None) -> None:
        truth.disarm(host)
        host.plugin.kill()
        host.start_plugin(command)

    kit.at_once(lambda host: restart(host, FAULTY), hosts)
    yield hosts
    kit.at_once(lambda host: restart(host, None), hosts)


def counted(host: Host, action: Action, name: str, where: str) -> list[str]:
    """The steps that an action takes when nothing goes wrong."""
    truth.arm(host, NEVER, where)
    done = action(host, name)
    truth.disarm(host)
    assert done.returncode == 0, done.stderr
    return truth.steps(host)


def killed(host: Host, action: Action, name: str, step: int, where: str) -> Result:
    """The action, with the plugin killed before a step of it and started again at once."""
    truth.arm(host, step, where)
    died = False
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(action, host, name)
        deadline = time.monotonic() + 20
        while host.plugin.process and not doing.done():
            assert time.monotonic() < deadline, "the plugin was not killed"
            time.sleep(0.01)
        if not host.plugin.process:
            host.start_plugin(FAULTY)
            died = True
        result = doing.result()
    truth.disarm(host)
    # what is done once, as a lease, can make the first time longer than the others
    assert died or len(truth.steps(host)) < step, "the plugin was not killed"
    return result


def each_step(
    lab: Lab,
    hosts: list[Host],
    prepare: Callable[[Host, str], object],
    action: Action,
    check: Callable[[Host, str, Result], None],
    where: str = "request",
) -> None:
    """Kill before every step that an action takes, the steps shared out over the hosts; report all that went wrong."""
    prepare(hosts[0], "count")
    names = counted(hosts[0], action, "count", where)
    check(hosts[0], "count", Result([], 0, "", ""))
    failed: list[str] = []

    def work(index: int) -> None:
        host = hosts[index]
        for step in range(1 + index, len(names) + 1, len(hosts)):
            name = f"step{step}"
            try:
                prepare(host, name)
                check(host, name, killed(host, action, name, step, where))
                truth.agrees(lab, host)
            except Exception as wrong:
                failed.append(f"killed before step {step}, {truth.steps(host)[-1]}: {wrong}")
                kit.remove_all_but(host, "web")

    kit.at_once(work, range(len(hosts)))
    assert truth.duplicates(lab, lab.hosts) == []
    assert not failed, f"{len(failed)} of {len(names)} steps:\n" + "\n".join(failed)
    kit.at_once(lambda host: truth.agrees(lab, host), lab.hosts)


def reached(lab: Lab, host: Host, given: str) -> None:
    """Containers of the next host, and the host itself, get an answer from a container."""
    other = lab.hosts[(lab.hosts.index(host) + 1) % len(lab.hosts)]
    wait_for(f"{given} answers {other.name}", lambda: kit.pings(other, "watcher", given, tries=1), kit.SETTLED_WITHIN)
    assert kit.host_pings(host, given)


def run_container(host: Host, name: str) -> Result:
    """`docker run` with any address."""
    return host.docker(*kit.run_args(name), check=False)


LIMITED = pytest.mark.parametrize(
    "options",
    [(), pytest.param(("-o", "egress=50mbit", "-o", "ingress=20mbit"), marks=pytest.mark.mode("bridge"))],
    ids=["", "limits"],
)


@LIMITED
def test_start(lab: Lab, faulty: list[Host], options: tuple[str, ...]) -> None:
    kit.network(faulty, "web", "-o", "host_access=true", *options)
    kit.at_once(lambda host: kit.run(host, "watcher"), faulty)

    def check(host: Host, name: str, result: Result) -> None:
        if result.returncode == 0:
            truth.agrees(lab, host)
            reached(lab, host, kit.address(host, name))
        host.docker("rm", "-f", name)

    each_step(lab, faulty, lambda _host, _name: None, run_container, check)


def test_stop(lab: Lab, faulty: list[Host]) -> None:
    kit.network(faulty, "web", "-o", "host_access=true")

    def fixed(name: str) -> str:
        return f"10.77.0.{100 + int(name.removeprefix('step') if name != 'count' else 0)}"

    def prepare(host: Host, name: str) -> None:
        kit.run(host, name, "--ip", fixed(name))

    def check(host: Host, name: str, result: Result) -> None:
        assert result.returncode == 0, result.stderr
        wait_for("held", lambda: kit.address_records(lab)[fixed(name)]["kind"] == "held", kit.SETTLED_WITHIN)
        truth.agrees(lab, host)
        host.docker("start", name)
        assert kit.address(host, name) == fixed(name)
        host.docker("rm", "-f", name)

    each_step(lab, faulty, prepare, lambda host, name: host.docker("stop", name, check=False), check)


@LIMITED
def test_remove(lab: Lab, faulty: list[Host], options: tuple[str, ...]) -> None:
    kit.network(faulty, "web", *options)

    def check(host: Host, name: str, result: Result) -> None:
        host.docker("rm", "-f", name, check=False)

    each_step(lab, faulty, kit.run, lambda host, name: host.docker("rm", "-f", name, check=False), check)


KINDS = pytest.mark.parametrize(
    "options",
    [("-o", "host_access=true"), pytest.param(("-o", "nat=true"), marks=pytest.mark.mode("bridge"))],
    ids=["host_access", "nat"],
)


@KINDS
def test_network_create(lab: Lab, faulty: list[Host], options: tuple[str, ...]) -> None:
    subnet = dict(zip((host.name for host in faulty), ("10.81.0.0/24", "10.82.0.0/24", "10.83.0.0/24"), strict=True))

    def create(host: Host, name: str) -> Result:
        words = ("--subnet", subnet[host.name], *options, "--aux-address", f"a={_aux(host)}")
        return host.docker(*kit.CREATE, *words, name, check=False)

    def _aux(host: Host) -> str:
        return subnet[host.name].replace(".0/24", ".9")

    def check(host: Host, name: str, result: Result) -> None:
        if result.returncode == 0:
            truth.agrees(lab, host)
            kit.run(host, name, on=name)
            host.docker("rm", "-f", name)
            host.docker("network", "rm", name)

    each_step(lab, faulty, lambda _host, _name: None, create, check)


@KINDS
def test_network_remove(lab: Lab, faulty: list[Host], options: tuple[str, ...]) -> None:
    subnet = dict(zip((host.name for host in faulty), ("10.81.0.0/24", "10.82.0.0/24", "10.83.0.0/24"), strict=True))

    def prepare(host: Host, name: str) -> None:
        kit.network(host, name, *options, subnet=subnet[host.name], gateway="")

    def check(host: Host, name: str, result: Result) -> None:
        if result.returncode:
            host.docker("network", "rm", name, check=False)

    each_step(lab, faulty, prepare, lambda host, name: host.docker("network", "rm", name, check=False), check)


@pytest.mark.mode("vxlan")
def test_what_is_told_of_other_hosts(lab: Lab, faulty: list[Host]) -> None:
    """What a plugin does when it hears of others is no engine's call: networks and containers come and go there."""
    kit.tenants(faulty[0], vnis="--vni=701")
    host, other = faulty[:2]

    def action(host: Host, name: str) -> Result:
        kit.network(other, "web", *kit.of("vnis", "vxlan"))
        host.docker(*kit.CREATE, *kit.of("vnis", "vxlan"), "--subnet", kit.SUBNET, "web", check=False)
        for box in ("one", "two"):
            kit.run(other, box)
        kit.remove_all(other)
        return host.docker("network", "rm", "web", check=False)

    def check(host: Host, name: str, result: Result) -> None:
        kit.remove_all(host)

    each_step(lab, [host], lambda _host, _name: None, action, check, where="overlay")
