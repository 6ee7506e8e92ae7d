"""A backup, etcd's data lost, a restore: containers keep their addresses, and none is given twice."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.e2e.conftest import DIRECTORY, tag_default
from tests.e2e.placement import fleet as fleets
from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import wait_for
from tests.lab.host import Host

NUMBER, RESTORES = 12, 5


@pytest.fixture
def pair(engine: str) -> Iterator[Fleet]:
    """Two hosts, etcd on the first, and network `web`."""
    with fleets.lab(engine, f"{DIRECTORY}-r", hosts=2) as made:
        tag_default(made, kit.CREATE.mode)
        fleet = Fleet(made)
        fleet.network()
        yield fleet
        fleet.sweep()


def lose_etcd(fleet: Fleet) -> None:
    """etcd begins anew, without any data."""
    first = fleet.hosts[0]
    assert first.etcd is not None
    first.etcd.kill()
    shutil.rmtree(first.node.disk / "etcd")
    first.etcd.start()
    assert not any("/address/" in key for key in kit.records(fleet.lab))


def restart(host: Host) -> None:
    """What an operator is told to type after a restore."""
    for service in (host.plugin, host.agent, host.scheduler, host.gateway):
        service.stop()
        service.start()


def restored(fleet: Fleet, file: Path, *words: str) -> str:
    """A restore and the restarts after it; what it told."""
    told = fleet.qnet("restore", str(file), "--replace", *words).stdout
    kit.at_once(restart, fleet.hosts)
    wait_for("all hosts to be ready", lambda: fleet.hosts[0].scheduler.hosts_up() == 2, 30)
    return told


def have(fleet: Fleet) -> dict[str, str]:
    """The addresses of all running containers, as the engines have them."""
    found: dict[str, str] = {}
    for host in fleet.hosts:
        for name in sorted(fleet.on(host.name)):
            text = kit.address(host, name)
            assert text not in found.values(), f"{text} was given twice: {found}, {name}"
            found[name] = text
    return found


def recorded(fleet: Fleet) -> dict[str, tuple[str, str]]:
    """Who has which address, by the store."""
    own = ("endpoint", "held")
    records = kit.address_records(fleet.lab).items()
    return {text: (one["host"], one.get("container", "")) for text, one in records if one["kind"] in own}


def test_containers_keep_their_addresses_when_all_data_are_lost(pair: Fleet, tmp_path: Path) -> None:
    one, two = pair.hosts
    kit.run(two, "web2", "--ip", "10.77.0.50")
    kit.run(two, "db", "--ip", "10.77.0.51")
    kit.run(one, "web1")
    two.docker("stop", "db")
    placed = pair.run("placed", "--ip", "auto")
    for name, text in (("web1", kit.address(one, "web1")), ("web2", "10.77.0.50"), ("db", "10.77.0.51")):
        kit.named(pair.lab, text, name)
    pair.agree()
    before, records = have(pair), recorded(pair)
    assert placed["name"] in before
    file = tmp_path / "backup"
    pair.qnet("backup", str(file))

    lose_etcd(pair)
    assert "nothing is in the way" in pair.qnet("restore", str(file), "--dry-run", "--replace").stdout
    restored(pair, file)

    assert have(pair) == before
    assert recorded(pair) == records
    pair.agree()
    kit.at_once(lambda n: kit.run(pair.hosts[n % 2], f"new{n}"), range(NUMBER))
    assert before.items() <= have(pair).items()
    assert "held for" in kit.refused(one, *kit.run_args("thief", "--ip", "10.77.0.51"))
    one.docker("rm", "-f", "thief")
    two.docker("start", "db")
    assert kit.address(two, "db") == "10.77.0.51"
    one.docker("rm", "-f", "web1")
    kit.becomes_free(two, "after", "--ip", before["web1"])


def test_what_began_after_the_backup(pair: Fleet, tmp_path: Path) -> None:
    """What has a free address keeps it; what has another's must end first."""
    one, two = pair.hosts
    kit.run(one, "old", "--ip", "10.77.0.60")
    kit.named(pair.lab, "10.77.0.60", "old")
    file = tmp_path / "backup"
    pair.qnet("backup", str(file))
    one.docker("rm", "-f", "old")
    kit.becomes_free(two, "taker", "--ip", "10.77.0.60")
    kit.run(two, "fresh", "--ip", "10.77.0.61")

    lose_etcd(pair)
    said = pair.refused("restore", str(file), "--replace")
    assert "10.77.0.60 of tenant default" in said
    assert "taker on host2" in said
    assert not any("/restore" in key for key in kit.records(pair.lab))
    two.docker("rm", "-f", "taker")
    two.agent.stop()
    assert "host2: docker engine at tcp://" in pair.refused("restore", str(file), "--replace")
    two.agent.start()
    restored(pair, file)

    assert recorded(pair)["10.77.0.61"] == ("host2", "fresh")
    said = kit.refused(one, *kit.run_args("thief", "--ip", "10.77.0.61"))
    assert "10.77.0.61" in said
    assert "is taken" in said
    one.docker("rm", "-f", "thief")
    wait_for("the record of a container that is gone to be freed", lambda: "10.77.0.60" not in recorded(pair), 20)
    assert have(pair) == {"fresh": "10.77.0.61"}
    assert json.loads(pair.qnet("pool", "ls", "--json").stdout)[0]["subnet"] == kit.SUBNET


def test_a_restore_while_containers_come_and_go(pair: Fleet, tmp_path: Path) -> None:
    """Whatever a start meets of it, in the end no address is given twice and the records agree with the engines."""
    kit.run(pair.hosts[0], "web1")
    file = tmp_path / "backup"
    pair.qnet("backup", str(file))
    over = threading.Event()

    def churn(number: int) -> int:
        host, began = pair.hosts[number % 2], 0
        while not over.is_set():
            name = f"c{number}-{began}"
            if host.docker(*kit.run_args(name), check=False).returncode:
                host.docker("rm", "-f", name, check=False)
            elif began % 2:
                host.docker("rm", "-f", name)
            began += 1
        return began

    with ThreadPoolExecutor(6) as threads:
        churning = [threads.submit(churn, number) for number in range(6)]
        try:
            ends = [pair.qnet("restore", str(file), "--replace", check=False).returncode for _ in range(RESTORES)]
        finally:
            over.set()
        assert all(one.result() > 1 for one in churning)
    assert 0 in ends
    assert not any("/restore" in key for key in kit.records(pair.lab))
    running = have(pair)
    assert len(running) > len(churning)
    pair.agree()
    assert {text: (host, name) for text, (host, name) in recorded(pair).items() if name in running} == {
        text: (host.name, name) for host in pair.hosts for name in pair.on(host.name) if (text := running[name])
    }
