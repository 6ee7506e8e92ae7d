"""Many callers at once on several hosts: no address is given twice, none is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import kit
from tests.e2e.kit import SUBNET, address_records, at_once, network, run_args
from tests.lab.cluster import Lab
from tests.lab.host import Host
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow

CALLERS = 64
FREE = 254  # of a /24, without network and broadcast address


def ask(host: Host, method: str, **body: Any) -> tuple[int, dict[str, Any]]:
    """One call of the engine's to a host's IPAM driver."""
    status, answer = call(host.plugin_socket, "POST", f"/IpamDriver.{method}", body, timeout=30)
    assert isinstance(answer, dict), answer
    return status, answer


@pytest.fixture
def patient(hosts: list[Host]) -> Iterator[list[Host]]:
    """The hosts with the usual grace for what starts: on a machine this busy a start takes longer than the lab's."""

    def restart(host: Host, **env: str) -> None:
        host.plugin.kill()
        host.start_plugin(env=env)

    at_once(lambda host: restart(host, QNET_IPAM_GRACE="60"), hosts)
    yield hosts
    at_once(kit.remove_all, hosts)
    at_once(restart, hosts)


def test_callers_of_two_hosts_fill_a_pool(lab: Lab, patient: list[Host]) -> None:
    hosts = patient
    pools = [ask(host, "RequestPool", AddressSpace="qnet", Pool=SUBNET)[1]["PoolID"] for host in hosts[:2]]
    assert pools[0] == pools[1]
    start = threading.Barrier(CALLERS)

    def fill(caller: int) -> tuple[list[str], dict[str, Any]]:
        host, given = hosts[caller % 2], []
        start.wait()
        while True:
            status, answer = ask(host, "RequestAddress", PoolID=pools[0])
            if status != 200:
                return given, answer
            given.append(answer["Address"])

    results = at_once(fill, range(CALLERS), CALLERS)
    given = [address for taken, _ in results for address in taken]
    assert [address for address, times in Counter(given).items() if times > 1] == []
    assert len(given) == FREE
    assert set(given) == {f"10.77.0.{number}/24" for number in range(1, 255)}
    by_host = Counter(hosts[caller % 2].name for caller, (taken, _) in enumerate(results) for _ in taken)
    by = ", ".join(f"{name} {number}" for name, number in sorted(by_host.items()))
    full = f"pool {SUBNET} of tenant default is full: {FREE} of {FREE} addresses in use ({by})"
    assert {answer["Err"] for _, answer in results} == {full}
    assert {answer["Error"] for _, answer in results} == {full}
    owners = Counter(one["host"] for one in address_records(lab).values())
    assert owners == by_host


def test_callers_want_the_same_address(patient: list[Host]) -> None:
    hosts = patient
    pool = next(iter({ask(host, "RequestPool", AddressSpace="qnet", Pool=SUBNET)[1]["PoolID"] for host in hosts}))
    wanted = [f"10.77.0.{number}" for number in range(10, 20)]
    start = threading.Barrier(48)

    def take(caller: int) -> list[str]:
        start.wait()
        own = wanted[caller % 10 :] + wanted[: caller % 10]
        return [one for one in own if ask(hosts[caller % 3], "RequestAddress", PoolID=pool, Address=one)[0] == 200]

    given = [address for taken in at_once(take, range(48), 48) for address in taken]
    assert sorted(given) == wanted


def test_forty_containers_at_once(lab: Lab, patient: list[Host]) -> None:
    hosts = patient
    network(hosts[:2])
    places = [(hosts[number % 2], f"c{number}") for number in range(40)]
    at_once(lambda place: place[0].docker(*run_args(place[1])), places, 40)
    given = {place: kit.address(*place) for place in places}
    assert len(set(given.values())) == 40
    macs = {kit.attached(host, name)["MacAddress"] for host, name in places}
    assert len(macs) == 40
    owners = {text: one["host"] for text, one in address_records(lab).items() if one["kind"] == "endpoint"}
    assert owners == {text: host.name for (host, _), text in given.items()}
    # everybody from one container of each host, in one command
    for host in hosts[:2]:
        script = "; ".join(f"ping -c1 -W1 {text} >/dev/null || echo {text}" for text in given.values())
        name = "c0" if host is hosts[0] else "c1"
        assert host.docker("exec", name, "sh", "-c", script).stdout.split() == []
    at_once(kit.remove_all, hosts[:2])
    kit.no_leaks(lab)
