"""The installed command `qnet` against a real etcd, and the trial of link kinds on the real kernel."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from plugins.network import features
from qnet.errors import Unavailable
from tests.contract.etcd_process import Cluster, free_port
from tests.lab.commands import run

QNET = str(Path(sys.executable).with_name("qnet"))


class Command:
    """`qnet` with a settings file."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        self.file = folder / "qnet.toml"
        self.file.write_text(
            f'[host]\nname = "host1"\nstate_dir = "{folder}"\n'
            f'[etcd]\nendpoints = ["{endpoint}"]\ntimeout = 2.0\n'
            f'[docker]\nsocket = "{folder}/docker.sock"\n'
            f'[network]\nsocket = "{folder}/qnet.sock"\n'
        )

    def argv(self, *words: str) -> list[str]:
        return [QNET, "--config", str(self.file), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.argv(*words), capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=False
        )

    def json(self, *words: str) -> Any:
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def etcd() -> Iterator[Cluster]:
    cluster = Cluster(1)
    try:
        yield cluster.start().ready()
    finally:
        cluster.close()


@pytest.fixture
def qnet(tmp_path: Path, etcd: Cluster) -> Command:
    return Command(tmp_path, etcd.endpoints[0])


def test_a_pool_from_its_creation_to_its_removal(qnet: Command) -> None:
    assert qnet.json("pool", "create", "10.77.0.0/24", "--gateway", "10.77.0.254")["kept"]
    assert "overlaps pool 10.77.0.0/24" in qnet.run("pool", "create", "10.77.0.0/16").stderr
    assert qnet.run("address", "reserve", "10.77.0.9", "--note", "printer").stdout == "10.77.0.9 reserved\n"
    given = {qnet.json("address", "reserve", "--any", "--subnet", "10.77.0.0/24")["address"] for _ in range(3)}
    assert len(given | {"10.77.0.9"}) == 4
    assert qnet.json("pool", "ls")[0]["reserved"] == 4
    assert "it is reserved (printer)" in qnet.run("address", "reserve", "10.77.0.9").stderr
    assert "add --yes" in qnet.run("address", "release", "10.77.0.9").stderr
    assert "has 4 addresses out" in qnet.run("pool", "rm", "10.77.0.0/24", "--yes").stderr
    for address in (*given, "10.77.0.9"):
        assert qnet.run("address", "release", address, "--yes").returncode == 0
    assert "resting" in qnet.json("address", "inspect", "10.77.0.9")["state"]
    assert qnet.run("pool", "rm", "10.77.0.0/24", "--yes").returncode == 0
    assert qnet.json("pool", "ls") == []


def test_a_listing_loads_no_part_of_the_daemons(qnet: Command) -> None:
    """It is typed again and again: what it does not need makes it slow."""
    done = run([sys.executable, "-X", "importtime", *qnet.argv("pool", "ls")])
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "grpc" in loaded
    heavy = {"flask", "gunicorn", "docker", "pyroute2", "requests", "cryptography", "jsonschema"}
    assert heavy & loaded == set()


def test_an_unreachable_etcd_is_told_in_time(tmp_path: Path) -> None:
    began = time.monotonic()
    done = Command(tmp_path, f"127.0.0.1:{free_port()}").run("pool", "ls")
    assert time.monotonic() - began < 4
    assert done.returncode == 1
    assert done.stderr.startswith("qnet: cannot read the keys below /qnet/v1/pools/: etcd is unreachable: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_leaves_is_no_error(qnet: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        command = qnet.argv("pool", "ls")
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, timeout=30, check=False)
    assert done.stderr == b""


def test_an_interrupt_is_130(tmp_path: Path) -> None:
    """What listens at etcd's address says nothing, so that the command waits when the signal comes."""
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        command = Command(tmp_path, f"127.0.0.1:{silent.getsockname()[1]}").argv("pool", "ls")
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = stack.enter_context(subprocess.Popen(command, **pipes, text=True))
        stack.enter_context(silent.accept()[0])
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=10)
    assert running.returncode == 130
    assert "Traceback" not in errors


def test_doctor_finds_the_etcd_and_misses_the_rest(qnet: Command) -> None:
    done = qnet.run("doctor")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok   etcd 127.0.0.1:") and ", leader, 0.0 MB, answers in " in line for line in lines)
    assert any(line.startswith("fail docker engine at ") for line in lines)
    assert any(line.startswith("fail plugin at ") for line in lines)


@pytest.mark.parametrize(
    ("state", "says"), [("up", "ok default parent eth1 is up"), ("down", "warn default parent eth1 has no carrier")]
)
def test_doctor_sees_whether_anything_is_at_the_other_end(qnet: Command, state: str, says: str) -> None:
    host, other = (f"qnet-{end}-{os.getpid()}" for end in ("end", "other"))
    qnet.file.write_text(qnet.file.read_text() + 'parent = "eth1"\n')
    try:
        for name in (host, other):
            run(["ip", "netns", "add", name])
        run(["ip", "-n", host, "link", "add", "eth1", "type", "veth", "peer", "name", "eth1", "netns", other])
        run(["ip", "-n", host, "link", "set", "eth1", "up"])
        run(["ip", "-n", other, "link", "set", "eth1", state])
        told = json.loads(run(["ip", "netns", "exec", host, *qnet.argv("doctor", "--json")], check=False).stdout)
    finally:
        for name in (host, other):
            run(["ip", "netns", "delete", name], check=False)
    assert says in [f"{one['level']} {one['what']}" for one in told]


def test_link_kinds_are_tried_without_a_trace() -> None:
    """Compared with what `ip` can do in a namespace of its own."""
    before = subprocess.check_output(["ip", "-o", "link"], text=True)
    found = features.probe(10)
    on_a_link = {"macvlan": "macvlan", "vlan": "vlan id 2", "ipvlan": "ipvlan mode l2"}
    wanted = {kind: f"link x name y type {words}" for kind, words in on_a_link.items()}
    wanted |= {"vxlan": "name y type vxlan id 2 dstport 4789", "ifb": "name y type ifb"}
    assert found.keys() == wanted.keys()
    for kind, words in wanted.items():
        script = f"ip link add x type veth && ip link add {words}"
        tried = subprocess.run(["unshare", "--net", "sh", "-c", script], capture_output=True, check=False)
        assert (tried.returncode == 0) is (found[kind] == "")
    names = [line.split(": ")[1] for line in before.splitlines()]
    now = [line.split(": ")[1] for line in subprocess.check_output(["ip", "-o", "link"], text=True).splitlines()]
    assert now == names


def test_link_kinds_that_cannot_be_tried_in_time() -> None:
    with pytest.raises(Unavailable, match="cannot try kinds of links"):
        features.probe(0.001)


def test_the_trial_refuses_the_hosts_own_namespace() -> None:
    own = str(Path("/proc/self/ns/net").readlink())
    done = subprocess.run(
        [sys.executable, "-m", "plugins.network.features", own], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "the host's own" in done.stderr
