"""Volumes of sharedfs on three hosts with GlusterFS: what users type, limits that hold, and what dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import kit
from tests.e2e.conftest import DIRECTORY, SETTINGS
from tests.lab.cluster import Lab
from tests.lab.commands import Result, wait_for
from tests.lab.host import Host
from tests.lab.storage import SETS, VOLUME
from tests.lab.unixhttp import call

pytestmark = pytest.mark.kernel
MOUNTS = "/var/lib/qnet/mounts"
WRITER = """
i=0
while true; do
    i=$((i + 1))
    echo $i >>/data/log && sync -f /data/log 2>/dev/null && echo $i >/tmp/next && mv /tmp/next /tmp/said
done
"""


@pytest.fixture(scope="module")
def stored(engine: str) -> Iterator[Lab]:
    """A lab of its own with storage."""
    settings = f"{SETTINGS}\n[volume]\nrepair_interval = 1.0\n"
    with Lab.up(3, engine=engine, settings=settings, storage=True, directory=f"{DIRECTORY}-s", replace=True) as lab:
        yield lab
    assert lab.leftovers() == []


@pytest.fixture
def hosts(stored: Lab) -> Iterator[list[Host]]:
    """The three hosts; a mount, record or file that a test leaks fails it."""
    yield stored.hosts
    for host in stored.hosts:
        if not host.volume_plugin.process:
            host.volume_plugin.start()
        if not host.engine.process:
            host.start_engine()
    kit.at_once(lambda host: host.docker("rm", "-f", *_ids(host, "ps", "-aq"), check=False), stored.hosts)
    left: list[str] = []

    def clean() -> bool:
        for name in _ids(stored.hosts[0], "volume", "ls", "-q"):
            stored.hosts[0].docker("volume", "rm", name, check=False)
        left[:] = _leaks(stored)
        return not left

    try:
        wait_for("a clean lab", clean, 20, 0.3)
    except Exception as late:
        raise AssertionError("; ".join(left)) from late


def _ids(host: Host, *words: str) -> list[str]:
    return host.docker(*words).stdout.split()


def _leaks(lab: Lab) -> list[str]:
    """Mounts, records, files and directories that no volume needs."""
    records = kit.records(lab, "/qnet/v1/volume")
    found = [key for key in records if "/volumes/" in key or "/volume-mounts/" in key]
    for host in lab.hosts:
        found += [f"{host.name}: {point}" for point in mounts(host)]
        found += [f"{host.name}: {path}" for path in (host.node.disk / "private/var/lib/qnet/volumes").glob("*")]
    kept = {one.fields["volume"]["id"] for key, one in records.items() if "/volume-trash/" in key}
    there = lab.hosts[0].exec(
        "sh", "-c", f"ls -d {MOUNTS}/pool-main/qnet/*/* {MOUNTS}/pool-main/qnet/volumes/*/*", check=False
    )
    names = {Path(line).name for line in there.stdout.split()} - {"default", "shop"}
    return found + sorted(names - kept)


def mounts(host: Host) -> dict[str, str]:
    """Mounted volumes, with the process of their client."""
    listed = host.exec("cat", "/proc/self/mountinfo").stdout.splitlines()
    points = [line.split()[4] for line in listed if " fuse.glusterfs " in line]
    ours = [point for point in points if point.startswith(MOUNTS) and "/pool-" not in point]
    return {point: host.exec("pgrep", "-f", f"glusterfs .* {point}$", check=False).stdout.strip() for point in ours}


CREATE = ("volume", "create", "-d", "sharedfs")


def create(host: Host, name: str = "data", *options: str) -> None:
    host.docker(*CREATE, *(word for one in options for word in ("-o", one)), name)


def start(host: Host, name: str, command: str = "sleep 1d", volume: str = "data", *options: str) -> None:
    words = [
        "run",
        "-d",
        "--network",
        "none",
        "--stop-signal",
        "KILL",
        "--name",
        name,
        "-v",
        f"{volume}:/data",
        *options,
    ]
    host.docker(*words, "busybox:latest", "sh", "-c", command)


def once(host: Host, command: str, volume: str = "data", check: bool = True) -> Result:
    words = ["run", "--rm", "--network", "none", "-v", f"{volume}:/data", "busybox:latest", "sh", "-c", command]
    return host.docker(*words, check=check)


def status(host: Host, volume: str = "data") -> dict[str, Any]:
    return dict(kit.inspect(host, "volume", volume)["Status"])


def test_what_one_host_writes_another_reads(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=100M", "mode=0750", "uid=7", "gid=8")
    for host in hosts:
        assert _ids(host, "volume", "ls", "-q") == ["data"]
    once(hosts[0], "dd if=/dev/urandom of=/data/bytes bs=64k count=40 2>/dev/null; md5sum </data/bytes >/data/sum")
    for host in hosts[1:]:
        assert once(host, "md5sum </data/bytes").stdout == once(host, "cat /data/sum").stdout
    assert once(hosts[1], "stat -c '%a %u %g' /data").stdout.split() == ["750", "7", "8"]
    assert (
        once(hosts[2], "df -m /data | awk 'END { print $2 }'").stdout.split() == ["100"]
        or "100" in once(hosts[2], "df -m /data").stdout
    )
    shown = status(hosts[1])
    assert (shown["Size"], shown["Limit"], shown["Pool"]) == ("100M", 100 << 20, "main")
    assert shown["Used"] > 2 << 20


def test_the_limit_holds_and_can_be_moved_while_containers_write(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=50M")
    start(hosts[1], "aa")
    fill = ("exec", "aa", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=400")
    assert "quota exceeded" in kit.refused(hosts[1], *fill)
    kit.qnet(hosts[2], "volume", "resize", "data", "500M")
    wait_for("room", lambda: hosts[1].docker(*fill, check=False).returncode == 0, 20)
    said = kit.qnet(hosts[0], "volume", "resize", "data", "100M", check=False)
    assert said.returncode == 1
    assert "bytes, more than 100M: remove files, or choose more" in said.stderr
    assert status(hosts[0])["Limit"] == 500 << 20


def test_a_volume_in_use_stays_and_a_removed_one_comes_back(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=20M")
    start(hosts[1], "aa", "echo kept >/data/x; sleep 1d")
    wait_for("the container's name", lambda: status(hosts[0])["MountedOn"] == {"host2": ["aa"]}, 10)
    assert "volume data is in use on host2 by aa" in kit.refused(hosts[0], "volume", "rm", "data")
    hosts[1].docker("rm", "-f", "aa")
    hosts[0].docker("volume", "rm", "data")
    for host in hosts:
        assert _ids(host, "volume", "ls", "-q") == []
    create(hosts[0], "data")
    assert once(hosts[0], "ls /data").stdout == ""  # another volume of that name
    hosts[0].docker("volume", "rm", "data")
    create(hosts[0], "other")
    found = json.loads(kit.qnet(hosts[0], "volume", "trash", "--json").stdout)
    assert [one["volume"]["size"] for one in found if one["volume"]["name"] == "data"][:2] == [0, 20 << 20]
    kit.qnet(hosts[2], "volume", "undelete", "data")
    assert once(hosts[1], "ls /data").stdout == ""


def test_nobody_sees_more_than_the_volume(hosts: list[Host]) -> None:
    kit.qnet(hosts[0], "tenant", "create", "shop", "--untagged", check=False)
    create(hosts[0], "mine")
    create(hosts[0], "theirs", "tenant=shop")
    once(hosts[0], "echo secret >/data/x", "theirs")
    look = "ls -a /data/.meta /data/../.meta /data/../../.. 2>&1; cat /data/../*/x /data/../../*/*/data/x 2>&1"
    said = once(hosts[0], look, "mine", check=False).stdout
    assert "secret" not in said
    assert "volfile" not in said
    assert "graphs" not in said
    for host in hosts[1:]:
        refusal = kit.refused(host, "volume", "create", "-d", "sharedfs", "-o", "size=1G", "nothing", "-o", "pool=../x")
        assert "is no name of a pool" in refusal


@pytest.mark.parametrize(
    ("name", "option", "says"),
    [
        ("../../x", "size=1G", "is no name of a volume"),
        ("a..b", "size=1G", "is no name of a volume"),
        ("data", "size=-1", "size=-1: a size from 1M to 8P"),
        ("data", "size=1e400", "size=1e400: a size"),
        ("data", "sizes=1G", "-o sizes: no such option; there are: size, inodes,"),
        ("data", "tenant=nobody", "tenant nobody does not exist"),
        ("data", "pool=none", "there is no pool none; there are: main"),
        ("x" * 300, "size=1G", "is no name of a volume"),
    ],
)
def test_bad_input_makes_nothing(stored: Lab, hosts: list[Host], name: str, option: str, says: str) -> None:
    assert says in kit.refused(hosts[0], "volume", "create", "-d", "sharedfs", "-o", option, name)
    assert list(kit.records(stored, "/qnet/v1/volumes/")) == []


def test_a_copy_is_equal_and_goes_on_alone(hosts: list[Host]) -> None:
    create(hosts[0])
    fill = "mkdir /data/d; dd if=/dev/urandom of=/data/d/bytes bs=64k count=20 2>/dev/null; ln -s d/bytes /data/link; "
    once(hosts[0], f"{fill} chmod 0640 /data/d/bytes; chown 7:8 /data/d/bytes; chmod 0750 /data")
    create(hosts[1], "copy", "from=data", "size=50M")
    look = "cd /data; md5sum d/bytes; stat -c '%a %u %g %Y %n' . d d/bytes; readlink link"
    assert once(hosts[2], look, "copy").stdout == once(hosts[0], look, "data").stdout
    once(hosts[1], "rm -r /data/d", "copy")
    hosts[0].docker("volume", "rm", "copy")
    assert once(hosts[2], "ls /data/d").stdout == "bytes\n"
    assert "bytes, more than 1M" in kit.refused(hosts[0], *CREATE, "-o", "from=data", "-o", "size=1M", "small")
    assert _ids(hosts[0], "volume", "ls", "-q") == ["data"]


def test_a_tenant_has_a_limit_for_all_of_its_volumes(hosts: list[Host]) -> None:
    kit.qnet(hosts[0], "tenant", "create", "shop", "--untagged", check=False)
    kit.qnet(hosts[0], "tenant", "set", "shop", "--volumes", "30M")
    create(hosts[0], "a", "tenant=shop", "size=20M")
    refusal = kit.refused(hosts[1], *CREATE, "-o", "tenant=shop", "-o", "size=20M", "b")
    assert "tenant shop has volumes of 20,971,520 of 31,457,280 bytes" in refusal
    assert (
        "tenant shop cannot be removed while it has volume a"
        in kit.qnet(hosts[0], "tenant", "rm", "shop", "--yes", check=False).stderr
    )
    kit.qnet(hosts[0], "tenant", "set", "shop", "--volumes", "0")


def test_files_are_counted_too(hosts: list[Host]) -> None:
    create(hosts[0], "data", "inodes=20")
    start(hosts[0], "aa")
    more = ("exec", "aa", "sh", "-c", "for i in 1 2 3 4 5 6 7 8; do touch /data/$RANDOM$RANDOM$i || exit 1; done")
    wait_for("the limit", lambda: hosts[0].docker(*more, check=False).returncode != 0, 30, 0.5)
    assert int(hosts[0].docker("exec", "aa", "sh", "-c", "ls /data | wc -l").stdout) < 200


def test_how_a_pool_is_can_be_seen_everywhere(hosts: list[Host]) -> None:
    create(hosts[0])
    for host in hosts:
        wait_for("health", lambda host=host: status(host).get("Health") == "up", 60, 0.5)  # type: ignore[misc]
        assert status(host)["Bricks"] == "6 of 6 up"
    _, told = call(hosts[0].node.volume_socket, "GET", "/metrics")
    assert 'qnet_volume_pool_bricks_up{pool="main"} 6.0' in told


def test_many_creates_at_once_all_succeed(hosts: list[Host]) -> None:
    names = [f"v{number}" for number in range(12)]
    kit.at_once(lambda name: create(hosts[int(name[1:]) % 2], name, "size=10M"), names)
    assert sorted(_ids(hosts[2], "volume", "ls", "-q")) == sorted(names)
    assert {status(hosts[2], name)["Size"] for name in names} == {"10M"}


def test_the_same_volume_made_and_mounted_everywhere_at_once_is_one(stored: Lab, hosts: list[Host]) -> None:
    def use(number: int) -> str:
        return once(hosts[number % 3], f"echo {number} >>/data/lines", "data").stdout

    kit.at_once(lambda host: create(host, "data", "size=10M"), hosts)
    kit.at_once(use, range(9))
    assert sorted(once(hosts[0], "cat /data/lines").stdout.split(), key=int) == [str(n) for n in range(9)]
    assert len(kit.records(stored, "/qnet/v1/volumes/")) == 1


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
    wait_for("a line", lambda: _said(host) > 0, 10)
    ((point, client),) = mounts(host).items()
    os.kill(int(client), signal.SIGKILL)
    wait_for("another client", lambda: mounts(host).get(point) not in (client, "", None), 15)
    said = _said(host)
    assert "the client of volume data is dead; to be restarted: aa" in host.volume_plugin.log.read_text()
    for reader in hosts:
        lines = once(reader, "cat /data/log").stdout.split()
        assert lines[:said] == [str(number) for number in range(1, said + 1)]
    host.docker("restart", "-t", "0", "aa")
    assert host.docker("exec", "aa", "sh", "-c", "echo on >/data/x && cat /data/x").stdout == "on\n"


def test_a_killed_engine_leaves_no_mount(hosts: list[Host]) -> None:
    host = hosts[0]
    create(host)
    start(host, "aa", "sleep 1d", "data", "--restart", "no")
    host.stop_engine(kill=True)
    host.start_engine()
    host.docker("rm", "-f", "aa")
    wait_for("unmounted", lambda: not mounts(host), 20)
    hosts[1].docker("volume", "rm", "data")


@pytest.mark.parametrize("missed", [False, True])
def test_a_server_that_is_gone_takes_no_byte_with_it(hosts: list[Host], missed: bool) -> None:
    create(hosts[0])
    start(hosts[0], "aa", WRITER)
    wait_for("a line", lambda: _said(hosts[0]) > 0, 10)
    mine = _bricks(hosts[1])
    for pid in mine:
        os.kill(pid, signal.SIGKILL)
    hosts[1].storage.kill()
    assert len(mine) == SETS
    at_death = _said(hosts[0])
    wait_for("more lines", lambda: _said(hosts[0]) > at_death + 5, 60)
    if missed:
        create(hosts[0], "meanwhile", "size=10M")
        hosts[0].docker("volume", "rm", "meanwhile")
    hosts[1].storage.start()
    for _ in range(5 if missed else 0):  # docs/volumes.md, "When things die"
        time.sleep(8)
        if len(_bricks(hosts[1])) == SETS:
            break
        hosts[1].storage.kill()
        hosts[1].storage.start()
    wait_for("heal", lambda: _healed(hosts[1]), 60, 1)
    assert len(_bricks(hosts[1])) == SETS
    said = _said(hosts[0])
    hosts[0].docker("rm", "-f", "aa")
    lines = once(hosts[1], "cat /data/log").stdout.split()
    assert lines[:said] == [str(number) for number in range(1, said + 1)]


def _said(host: Host) -> int:
    """What the writer says it has acknowledged."""
    return int(host.docker("exec", "aa", "cat", "/tmp/said", check=False).stdout or 0)


def _bricks(host: Host) -> list[int]:
    """The processes of its bricks."""
    found = host.exec("pgrep", "-f", "glusterfsd .*bricks", check=False).stdout.split()
    return [int(pid) for pid in found if _host_of(pid) == host.node.netns]


def _host_of(pid: str) -> str:
    named = {path.stat().st_ino: path.name for path in Path("/run/netns").iterdir()}
    return named.get(Path(f"/proc/{pid}/ns/net").stat().st_ino, "")


def _healed(host: Host) -> bool:
    said = host.storage.gluster("volume", "heal", VOLUME, "info", check=False).stdout
    counts = [line.rpartition(" ")[2] for line in said.splitlines() if line.startswith("Number of entries")]
    return bool(counts) and set(counts) == {"0"}


def test_a_strict_volume_ends_where_it_should(hosts: list[Host]) -> None:
    """The last: it makes its pool strict, which is slower."""
    create(hosts[0], "data", "size=50M", "strict=true")
    start(hosts[1], "aa")
    assert "quota exceeded" in kit.refused(
        hosts[1], "exec", "aa", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=200"
    )
    size = int(hosts[1].docker("exec", "aa", "stat", "-c", "%s", "/data/big").stdout)
    assert size <= 52 << 20
