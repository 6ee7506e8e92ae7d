"""The commands that users type, as the documentation has them, on three real hosts."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.e2e import kit
from tests.e2e.placement.fleet import SLEEP, Fleet
from tests.lab.commands import wait_for

pytestmark = pytest.mark.engines


def test_run_rm_run_with_a_volume_and_an_address_that_stays(fleet: Fleet) -> None:
    fleet.hosts[1].docker("volume", "create", "-d", "sharedfs", "-o", "size=10M", "data")
    words = (
        "run",
        "-d",
        "--network",
        "web",
        "--ip",
        "auto",
        "-v",
        "data:/data",
        "--name",
        "a",
        "--cpus",
        "1",
        "-m",
        "256m",
    )
    name, host, address = fleet.qnet(*words, "busybox", "sh", "-c", "echo kept >/data/note; sleep 1d").stdout.split()
    assert name == "a"
    made = kit.inspect(fleet.host(host), "container", "a.qnet")
    assert (made["HostConfig"]["NanoCpus"], made["HostConfig"]["Memory"]) == (10**9, 256 << 20)
    assert made["NetworkSettings"]["Networks"]["web"]["IPAddress"] == address
    assert fleet.ps()["a"]["addresses"] == {"web": [address]}
    record = kit.address_records(fleet.lab)[address]
    assert (record["kind"], record["host"], record["container"]) == ("endpoint", host, "a.qnet")

    fleet.qnet("rm", "-f", "a")
    fleet.qnet("host", "drain", host)
    read = ("run", "-d", "--network", "web", "--ip", "auto", "-v", "data:/data", "--name", "a", *SLEEP)
    _, elsewhere, again = fleet.qnet(*read, on=2).stdout.split()
    assert again == address
    assert elsewhere != host
    assert fleet.host(elsewhere).docker("exec", "a.qnet", "cat", "/data/note").stdout == "kept\n"


def test_containers_reach_each_other_over_all_hosts(fleet: Fleet) -> None:
    ran = {host.name: fleet.run(f"on-{host.name}", "--constraint", f"host=={host.name}") for host in fleet.hosts}
    assert [one["host"] for one in ran.values()] == list(ran)
    for host in fleet.hosts:
        for other in ran.values():
            assert kit.pings(host, f"on-{host.name}", other["addresses"]["web"][0])


def test_a_dry_run_explains_and_makes_nothing(fleet: Fleet) -> None:
    told = fleet.qnet("run", "--dry-run", "--explain", "--cpus", "2", "-m", "4g", "busybox").stdout
    assert all(host.name in told for host in fleet.hosts)
    assert "it would go to one of host" in told
    told = fleet.qnet(
        "run", "--dry-run", "--explain", "--constraint", "rack==r2", "-m", "9999g", "busybox", check=False
    )
    assert (told.returncode, told.stderr) == (1, "qnet: no host can take it\n")
    rows = {line.split()[0]: line for line in told.stdout.splitlines() if line.startswith("host")}
    assert "fails rack==r2; lacks memory" in rows["host1"]
    assert "fails" not in rows["host3"]
    assert fleet.ps("-a") == {}


def test_instances_spread_drain_and_ls(fleet: Fleet) -> None:
    words = ("run", "--json", "--spread", "rack", "--group", "many", "--network", "web", *SLEEP)
    ran = json.loads(fleet.qnet(*words[:2], "--instances", "12", *words[2:], timeout=120).stdout)
    # those that are decided at once are so on what was known; one by one makes up for that
    for _ in range(8):
        ran += json.loads(fleet.qnet(*words).stdout)
    assert len({one["addresses"]["web"][0] for one in ran}) == 20
    racks = Counter("r2" if one["host"] == "host3" else "r1" for one in ran)
    assert abs(racks["r1"] - racks["r2"]) <= 1
    wait_for("all to be told as running", lambda: set(fleet.ps()) == {one["name"] for one in ran}, 30)
    fleet.agree()
    assert "host2 drained" in fleet.qnet("host", "drain", "host2").stdout
    assert "host2" not in {fleet.run(f"n{number}")["host"] for number in range(4)}
    listed = json.loads(fleet.qnet("host", "ls", "--json", on=2).stdout)
    assert [one["state"] for one in listed] == ["ready", "drain", "ready"]
    assert listed[1]["running"] == sum(one["host"] == "host2" for one in ran)
    assert fleet.qnet("host", "ready", "host2").stdout == "host2 ready\n"


def test_a_network_of_the_cluster_comes_and_goes_everywhere(fleet: Fleet) -> None:
    def having() -> list[str]:
        return [host.name for host in fleet.hosts if "two" in host.docker("network", "ls").stdout.split()]

    fleet.hosts[2].stop_engine()
    fleet.network("two", "--subnet", "10.78.0.0/24")
    assert [host.name for host in fleet.hosts[:2] if "two" in host.docker("network", "ls").stdout.split()] == [
        "host1",
        "host2",
    ]
    fleet.hosts[2].start_engine()  # what it missed, it makes now
    wait_for("network two on host3", lambda: len(having()) == 3, 30)
    assert "network two exists" in fleet.refused("network", "create", "--subnet", "10.79.0.0/24", "two")
    ran = fleet.run("t1", network="two")
    assert "network two has containers: t1" in fleet.refused("network", "rm", "two", on=1)
    fleet.qnet("rm", "-f", ran["name"])
    fleet.qnet("network", "rm", "two", on=1)
    wait_for("network two to be gone", lambda: having() == [], 10)


def test_an_address_held_for_a_name_is_free_after_its_time(fleet: Fleet) -> None:
    ran = fleet.run("kept")
    (address,) = ran["addresses"]["web"]
    fleet.qnet("rm", "-f", "kept")
    said = kit.refused(fleet.hosts[0], *kit.run_args("thief", "--ip", address))
    assert "it is held for the next container called kept" in said
    fleet.hosts[0].docker("rm", "-f", "thief")
    wait_for("the hold to end", lambda: address not in kit.address_records(fleet.lab), 20)


def test_commands_refuse_what_cannot_be(fleet: Fleet) -> None:
    fleet.run("taken", "--ip", "10.77.0.9")
    for words, said in (
        (("run", "--name", "taken", "busybox"), "container name taken is in use by a container on host"),
        (("run", "--network", "web", "--ip", "10.77.0.9", "busybox"), "is taken: in use by container taken"),
        (("run", "--network", "nosuch", "busybox"), "network 'nosuch' is not there: see qnet network ls"),
        (("run", "--ip", "10.77.0.9", "busybox"), "--ip 10.77.0.9 without --network"),
        (("run", "-m", "lots", "busybox"), "--memory=lots: a size such as 256m or 4g"),
        (("run", "-v", "x", "busybox"), "give VOLUME:PATH"),
        (("run", "--pull", "never", "nosuch/image"), "No such image"),
        (("run", "busybox", "nosuchcommand"), "nosuchcommand"),
        (("rm", "nosuch"), "container nosuch is not there: see qnet ps --all"),
        (("rm", "taken"), "cannot remove"),
        (("host", "drain", "nosuch"), "host nosuch is not known"),
        (("network", "create", "--subnet", "10.77.0.0/99", "w2"), "10.77.0.0/99"),
        (("network", "rm", "nosuch"), "network nosuch is not there"),
        (("image", "pull", "--on", "rack==r9", "busybox"), "no host matches 'rack==r9'"),
    ):
        assert said in fleet.refused(*words), words
    assert set(fleet.ps("-a")) == {"taken"}
    fleet.agree()
