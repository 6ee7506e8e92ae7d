"""Volumes of sharedfs while what they need dies, with a writer that says what was acknowledged."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import kit
from tests.e2e.volumes import shelves
from tests.e2e.volumes.shelves import WRITER, acknowledged, bricks, create, heal, ids, kept, mounts, once, start, status
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host
from tests.lab.storage import SETS, VOLUME

RUN = ("run", "--rm", "--network", "none")
MOUNT = "type=volume,volume-driver=sharedfs,dst=/data,src="


def test_hosts_that_storm_the_same_names_agree_in_the_end(stored: Lab, hosts: list[Host]) -> None:
    """Each does what comes to its mind; what fails says why, and what is there afterwards is there for all."""
    said: list[str] = []

    def storm(seed: int) -> None:
        chance, host = random.Random(seed), hosts[seed % 3]
        for _ in range(12):
            name = chance.choice(("aa", "bb"))
            words = chance.choice(
                (
                    ("volume", "create", "-d", "sharedfs", "-o", "size=10M", name),
                    ("volume", "rm", name),
                    (*RUN, "--mount", f"{MOUNT}{name}", "busybox:latest", "touch", f"/data/{seed}"),
                    ("volume", "inspect", name),
                )
            )
            done = host.docker(*words, check=False)
            said.extend(done.stderr.strip().splitlines() if done.returncode else ())

    kit.at_once(storm, range(6))
    expected = ["in use", "no such volume", "No such volume", "no volume", "was removed meanwhile", "others changed it"]
    expected += ["volume with that name", "must be unique", "exists with size=", "See 'docker", "Run 'docker"]
    assert [line for line in said if line and not any(word in line for word in expected)] == []
    assert said  # or nothing met
    listed = [sorted(ids(host, "volume", "ls", "-q", "--filter", "driver=sharedfs")) for host in hosts]
    assert listed[0] == listed[1] == listed[2]
    assert sorted(key.rpartition("/")[2] for key in kit.records(stored, "/qnet/v1/volumes/")) == listed[0]
    wait_for("unmounted", lambda: not any(mounts(host) for host in hosts), 20)
    for name in listed[0]:
        hosts[0].docker("volume", "rm", name)


def test_containers_do_not_notice_that_the_plugin_dies(hosts: list[Host]) -> None:
    host = hosts[0]
    create(host)
    start(host, "aa", WRITER)
    before = mounts(host)
    host.volume_plugin.kill()
    assert host.docker("exec", "aa", "sh", "-c", "echo on >/data/x && cat /data/x").stdout == "on\n"
    host.volume_plugin.start()
    start(host, "bb")
    assert mounts(host) == before
    host.docker("rm", "-f", "aa")
    assert mounts(host) == before  # bb still has it
    host.docker("rm", "-f", "bb")
    wait_for("unmounted", lambda: not mounts(host), 10)


def test_a_dead_client_is_replaced_and_what_was_acknowledged_is_there(hosts: list[Host]) -> None:
    host = hosts[0]
    create(host)
    start(host, "aa", WRITER)
    wait_for("a line", lambda: acknowledged(host) > 0, 10)
    ((point, client),) = mounts(host).items()
    os.kill(int(client), signal.SIGKILL)
    wait_for("another client", lambda: mounts(host).get(point) not in (client, "", None), 15)
    assert "the client of volume data is dead; to be restarted: aa" in host.volume_plugin.log.read_text()
    start(host, "bb")  # has the new client's mount
    for each in hosts:
        wait_for("whom to restart", lambda each=each: status(each).get("RestartNeeded") == {"host1": ["aa"]}, 10)
    assert shelves.metric(host, "qnet_volume_containers_to_restart") == 1
    kept(hosts, "aa")
    host.docker("restart", "-t", "0", "aa")
    assert host.docker("exec", "aa", "sh", "-c", "echo on >/data/x && cat /data/x").stdout == "on\n"
    wait_for("nobody to restart", lambda: "RestartNeeded" not in status(hosts[2]), 10)
    assert shelves.metric(host, "qnet_volume_containers_to_restart") == 0


def test_the_plugin_starts_anew_while_docker_copies(hosts: list[Host]) -> None:
    host = hosts[0]
    create(host)
    once(host, "for i in 1 2 3 4; do dd if=/dev/urandom of=/data/f$i bs=1M count=8 2>/dev/null; done; sync")
    host.docker("create", "--network", "none", "--name", "aa", "-v", "data:/data", "busybox:latest")
    with ThreadPoolExecutor(1) as pool:
        copying = pool.submit(host.docker, "cp", "aa:/data", "/tmp/copied", check=False, timeout=120)
        # one that dies in the middle of a Mount fails that call: the engine asks again with an empty body
        wait_for("the copy to begin", lambda: host.exec("ls", "/tmp/copied", check=False).stdout != "", 60)
        host.volume_plugin.kill()
        time.sleep(0.3)
        host.volume_plugin.start()
        done = copying.result()
    assert done.returncode == 0, done.stderr
    sums = "cd {} && md5sum f1 f2 f3 f4"
    assert host.exec("sh", "-c", sums.format("/tmp/copied")).stdout == once(host, sums.format("/data")).stdout
    host.exec("rm", "-r", "/tmp/copied")
    host.docker("rm", "aa")
    wait_for("unmounted", lambda: not mounts(host), 20)


@pytest.mark.parametrize("victim", ["glusterd", "a brick"])
def test_what_dies_alone_takes_no_byte_with_it(hosts: list[Host], victim: str) -> None:
    create(hosts[0], "data", "size=100M")
    start(hosts[0], "aa", WRITER)
    wait_for("a line", lambda: acknowledged(hosts[0]) > 0, 10)
    if victim == "glusterd":
        hosts[1].storage.kill()
    else:
        os.kill(bricks(hosts[1])[0], signal.SIGKILL)
    at_death = acknowledged(hosts[0])
    wait_for("more lines", lambda: acknowledged(hosts[0]) > at_death + 5, 60)
    assert once(hosts[2], "wc -l </data/log").stdout.strip().isdigit()  # mounts meanwhile
    if victim == "glusterd":
        hosts[1].storage.start()
    else:
        hosts[1].storage.gluster("volume", "start", VOLUME, "force")
    heal(hosts[1])
    kept(hosts, "aa")


def test_without_any_server_what_there_is_can_be_told_and_goes_on_when_they_are_back(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=100M")
    start(hosts[0], "aa", WRITER)
    wait_for("a line", lambda: acknowledged(hosts[0]) > 0, 10)
    ((_, client),) = mounts(hosts[0]).items()
    for host in hosts:
        for pid in bricks(host):
            os.kill(pid, signal.SIGKILL)
        host.storage.kill()
    time.sleep(3)  # comparisons see it
    for host in hosts[:2]:
        for words in (("volume", "ls", "-q"), ("volume", "inspect", "data")):
            began = time.monotonic()
            assert "data" in host.docker(*words).stdout
            assert time.monotonic() - began < 4  # docs say 2 s; a busy machine may take its time
    assert "RestartNeeded" not in status(hosts[1])
    kit.at_once(lambda host: host.storage.start(), hosts)
    wait_for("bricks", lambda: all(len(bricks(host)) == SETS for host in hosts), 60, 0.5)
    at_return = acknowledged(hosts[0])
    wait_for("more lines", lambda: acknowledged(hosts[0]) > at_return + 5, 60)
    assert list(mounts(hosts[0]).values()) == [client]
    heal(hosts[1])
    hosts[0].docker("rm", "-f", "aa")


def test_a_killed_engine_leaves_no_mount(hosts: list[Host]) -> None:
    host = hosts[0]
    create(host)
    start(host, "aa", "sleep 1d", "data", "--restart", "no")
    host.stop_engine(kill=True)
    host.start_engine()
    host.docker("rm", "-f", "aa")
    wait_for("unmounted", lambda: not mounts(host), 20)
    hosts[1].docker("volume", "rm", "data")


def test_a_server_that_is_gone_takes_no_byte_with_it(hosts: list[Host]) -> None:
    create(hosts[0])
    _written_without_a_server(hosts)
    hosts[1].storage.start()
    heal(hosts[1])
    kept(hosts, "aa")


def test_a_server_that_missed_a_limit_comes_back_as_the_documentation_says(hosts: list[Host]) -> None:
    """The last: from now on, each start of that glusterd can go as wrong."""
    create(hosts[0])
    _written_without_a_server(hosts)
    create(hosts[0], "meanwhile", "size=10M")
    hosts[0].docker("volume", "rm", "meanwhile")
    hosts[1].storage.start()
    for _ in range(5):  # docs/volumes.md, "When things die"
        time.sleep(8)
        if len(bricks(hosts[1])) == SETS:
            break
        hosts[1].storage.kill()
        hosts[1].storage.start()
    heal(hosts[1])
    kept(hosts, "aa")


def _written_without_a_server(hosts: list[Host]) -> None:
    """A writer on the first host, which goes on when the second one's bricks and glusterd are killed."""
    start(hosts[0], "aa", WRITER)
    wait_for("a line", lambda: acknowledged(hosts[0]) > 0, 10)
    mine = bricks(hosts[1])
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
    hosts[1].storage.kill()
    assert len(mine) == SETS
    at_death = acknowledged(hosts[0])
    wait_for("more lines", lambda: acknowledged(hosts[0]) > at_death + 5, 60)
