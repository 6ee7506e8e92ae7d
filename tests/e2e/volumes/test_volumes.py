"""Volumes of sharedfs on three hosts with GlusterFS: what users type, and limits that hold."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import kit
from tests.e2e.volumes import shelves
from tests.e2e.volumes.shelves import CREATE, create, ids, once, start, status
from tests.lab.cluster import Lab
from tests.lab.commands import wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call


def test_what_one_host_writes_another_reads(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=100M", "mode=0750", "uid=7", "gid=8")
    for host in hosts:
        assert ids(host, "volume", "ls", "-q") == ["data"]
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
        assert ids(host, "volume", "ls", "-q") == []
    create(hosts[0], "data")
    assert once(hosts[0], "ls /data").stdout == ""  # another volume of that name
    hosts[0].docker("volume", "rm", "data")
    create(hosts[0], "other")
    found = json.loads(kit.qnet(hosts[0], "volume", "trash", "--json").stdout)
    assert [one["volume"]["size"] for one in found if one["volume"]["name"] == "data"][:2] == [0, 20 << 20]
    kit.qnet(hosts[2], "volume", "undelete", "data")
    assert once(hosts[1], "ls /data").stdout == ""


@pytest.mark.parametrize("pause", [0, 0.3, 2])
def test_a_volume_comes_back_to_a_host_that_knew_it_before(hosts: list[Host], pause: float) -> None:
    create(hosts[0], "data", "size=100M")
    once(hosts[0], "mkdir /data/in; echo kept >/data/in/x")
    hosts[1].docker("volume", "inspect", "data")
    hosts[0].docker("volume", "rm", "data")
    time.sleep(pause)
    kit.qnet(hosts[1], "volume", "undelete", "data")
    assert once(hosts[2], "cat /data/in/x").stdout == "kept\n"


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
    assert ids(hosts[0], "volume", "ls", "-q") == ["data"]


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


def test_a_host_that_is_no_server_has_them_made_by_one_that_is(hosts: list[Host]) -> None:
    command = hosts[2].exec("sh", "-c", "command -v gluster").stdout.strip()
    hosts[2].exec("mount", "--bind", "/dev/null", command)
    try:
        hosts[2].volume_plugin.stop()
        hosts[2].volume_plugin.start()
        create(hosts[2], "data", "size=20M", "uid=7")
        start(hosts[2], "aa")
        fill = ("exec", "aa", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=400")
        assert "quota exceeded" in kit.refused(hosts[2], *fill)
        kit.qnet(hosts[2], "volume", "resize", "data", "500M")
        wait_for("room", lambda: hosts[2].docker(*fill, check=False).returncode == 0, 20)
        refusal = kit.refused(hosts[2], *CREATE, "-o", "from=data", "-o", "size=1M", "small")
        assert "bytes, more than 1M" in refusal
        hosts[2].docker("rm", "-f", "aa")
        hosts[2].docker("volume", "rm", "data")
        kit.qnet(hosts[2], "volume", "undelete", "data")
        assert status(hosts[0])["Size"] == "500M"
    finally:
        hosts[2].exec("umount", command)


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
    assert sorted(ids(hosts[2], "volume", "ls", "-q")) == sorted(names)
    assert {status(hosts[2], name)["Size"] for name in names} == {"10M"}


def test_the_same_volume_made_and_mounted_everywhere_at_once_is_one(stored: Lab, hosts: list[Host]) -> None:
    def use(number: int) -> str:
        return once(hosts[number % 3], f"echo {number} >>/data/lines", "data").stdout

    kit.at_once(lambda host: create(host, "data", "size=10M"), hosts)
    kit.at_once(use, range(9))
    assert sorted(once(hosts[0], "cat /data/lines").stdout.split(), key=int) == [str(n) for n in range(9)]
    assert len(kit.records(stored, "/qnet/v1/volumes/")) == 1


def test_what_a_host_does_with_a_volume_is_limited_and_let_go_while_it_writes(hosts: list[Host]) -> None:
    create(hosts[0], "data", "bps=1M")
    wait_for("copies", lambda: "Health" in status(hosts[0]), 60, 0.5)
    start(hosts[0], "aa")
    assert status(hosts[1])["Limits"] == {"bps": "1M"}
    writes = ("exec", "aa", "dd", "if=/dev/zero", "of=/data/big", "bs=64k", "conv=fsync")
    began = time.monotonic()
    hosts[0].docker(*writes, "count=64")  # 4 MiB
    assert time.monotonic() - began > 3
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(hosts[0].docker, *writes, "count=2048", timeout=120)  # 128 MiB: minutes
        time.sleep(1)
        assert "now" in kit.qnet(hosts[2], "volume", "limit", "data", "--bps", "0").stdout
        began = time.monotonic()
        writing.result()
        assert time.monotonic() - began < 60
    assert "Limits" not in status(hosts[0])
    start(hosts[1], "bb")
    began = time.monotonic()
    hosts[1].docker("exec", "bb", "sh", "-c", "cat /data/big >/dev/null")
    assert time.monotonic() - began < 60
    said = kit.qnet(hosts[2], "volume", "limit", "data", "--read-iops", "5").stdout
    assert "on host2 from its next mount on" in said
    assert "on host1" not in said


def test_reads_are_counted(hosts: list[Host]) -> None:
    create(hosts[0])
    once(
        hosts[0],
        "i=0; while [ $i -lt 60 ]; do i=$((i+1)); dd if=/dev/urandom of=/data/f$i bs=4k count=1 2>/dev/null; done",
    )
    kit.qnet(hosts[0], "volume", "limit", "data", "--read-iops", "10")
    start(hosts[1], "aa")
    began = time.monotonic()
    hosts[1].docker("exec", "aa", "sh", "-c", "cat /data/f* >/dev/null")
    assert time.monotonic() - began > 3
    lanes = hosts[1].exec("ip", "-o", "link", "show").stdout
    assert "qv-" in lanes
    hosts[1].docker("rm", "-f", "aa")
    wait_for("no lane", lambda: "qv-" not in hosts[1].exec("ip", "-o", "link", "show").stdout, 10)


def test_what_is_read_and_written_is_counted(hosts: list[Host]) -> None:
    create(hosts[0], "data", "size=100M")
    start(hosts[0], "aa")
    hosts[0].docker("exec", "aa", "dd", "if=/dev/urandom", "of=/data/x", "bs=64k", "count=48", "conv=fsync")
    start(hosts[1], "bb")
    hosts[1].docker("exec", "bb", "sh", "-c", "cat /data/x >/dev/null")
    wrote, read = (status(host)["Traffic"] for host in hosts[:2])
    assert wrote["written_bytes"] == 48 << 16
    assert wrote["writes"] > 0
    assert (read["read_bytes"], read["written_bytes"]) == (48 << 16, 0)
    assert read["reads"] > 0
    assert shelves.metric(hosts[0], "qnet_volume_written_bytes_total") == 48 << 16
    start(hosts[0], "cc", "while true; do dd if=/dev/zero of=/data/y bs=64k count=16 conv=fsync 2>/dev/null; done")
    shown = kit.qnet(hosts[0], "volume", "inspect", "data").stdout
    assert "Written here" in shown
    assert f"of {100 << 20:,} bytes" in shown
    (listed,) = json.loads(kit.qnet(hosts[2], "volume", "ls", "--json").stdout)
    assert (listed["mounted_on"], listed["used"] is None) == (["host1", "host2"], False)
    (row,) = json.loads(kit.qnet(hosts[0], "volume", "top", "--json", "--interval", "1").stdout)
    assert row["volume"] == "data"
    assert row["written_bytes"] > 1 << 16


@pytest.mark.parametrize("name", ["../../etc", "-o", "a\nb", "\u00e9", "a b;c", "x" * 65536, "", ".", "a/b"])
def test_names_that_engines_let_pass_are_refused_by_every_call(stored: Lab, hosts: list[Host], name: str) -> None:
    for verb in ("Create", "Mount", "Unmount", "Remove", "Get", "Path"):
        body = {"Name": name, "ID": "a", "Opts": {"size": "1G"}}
        code, said = call(hosts[0].node.volume_socket, "POST", f"/VolumeDriver.{verb}", body)
        assert (code, "is no name of a volume" in said["Err"]) == (500, True), said
    assert list(kit.records(stored, "/qnet/v1/volume-mounts/")) == list(kit.records(stored, "/qnet/v1/volumes/")) == []


@pytest.mark.parametrize("value", ["-1", "1e400", "1G\n", "٣", "9" * 65536, "../../x", "-o"])
def test_options_are_refused_whatever_is_in_them(stored: Lab, hosts: list[Host], value: str) -> None:
    for option in ("size", "inodes", "tenant", "pool", "mode", "uid", "gid", "retain", "strict", "bps", "read_iops"):
        body = {"Name": "data", "Opts": {option: value}}
        code, said = call(hosts[0].node.volume_socket, "POST", "/VolumeDriver.Create", body)
        assert code == 500, (option, said)
        assert len(said["Err"]) < 1000
    assert list(kit.records(stored, "/qnet/v1/volumes/")) == []


def test_a_strict_volume_ends_where_it_should(hosts: list[Host]) -> None:
    """The last: it makes its pool strict, which is slower."""
    create(hosts[0], "data", "size=50M", "strict=true")
    start(hosts[1], "aa")
    assert "quota exceeded" in kit.refused(
        hosts[1], "exec", "aa", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=200"
    )
    size = int(hosts[1].docker("exec", "aa", "stat", "-c", "%s", "/data/big").stdout)
    assert size <= 52 << 20
