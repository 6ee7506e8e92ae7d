"""Bytes, ends, signals and windows through the front, by its socket and by TLS; clients and engines that vanish."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.front import sides
from tests.e2e.front.dial import WEBSOCKET
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import wait_for

pytestmark = pytest.mark.slow

RUN = ("run", "--rm", "--network", "none")
MANY = 5_000_000
CLIENTS = 40
PATIENCE = 30


@pytest.fixture(params=["straight", "unix", "tls"])
def side(request: pytest.FixtureRequest, fleet: Fleet, config: Path, tmp_path: Path) -> Side:
    """A client of host1's front: on host1 by its socket, or on host2 by TLS; and of its engine, which says what is
    right."""
    host, other = fleet.hosts[:2]
    if request.param == "straight":
        return sides.straight(host, config)
    if request.param == "unix":
        return sides.front(host, config)
    return sides.remote(host, other, sides.certificates_for(fleet.lab, tmp_path / "tls", "operator", "ops"), config)


def test_bytes_both_ways(side: Side) -> None:
    data = os.urandom(MANY)
    assert side.docker(*RUN, "-i", "busybox", "cat", stdin=data).out == data
    assert side.docker(*RUN, "busybox", "head", "-c", str(MANY), "/dev/zero").out == bytes(MANY)


def test_an_input_that_ends_gives_its_output(side: Side) -> None:
    for _ in range(5):
        assert side.docker(*RUN, "-i", "busybox", "cat", stdin=b"x\n").out == b"x\n"
    said = side.docker(*RUN, "-i", "busybox", "sh", "-c", "cat; sleep 0.5; echo later; exit 3", stdin=b"x\n")
    assert (said.status, said.out) == (3, b"x\nlater\n")
    name = side.ok("run", "-d", "--network", "none", "busybox", "sleep", "1d")
    assert side.docker("exec", "-i", name, "sha256sum", stdin=b"y" * MANY).out.split()[0] == _sum(b"y" * MANY)


def test_files_there_and_back(side: Side, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MANY))
    name = side.ok("run", "-d", "--network", "none", "busybox", "sleep", "1d")
    side.ok("cp", str(source), f"{name}:/file")
    assert side.docker("exec", name, "sha256sum", "/file").out.split()[0] == _sum(source.read_bytes())
    side.ok("cp", f"{name}:/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_window_changes_its_size(side: Side) -> None:
    with terminal(side, *RUN, "-it", "busybox", "sh") as screen:
        screen.size(40, 100)
        screen.size(20, 50)
        screen.type("exit 6\n")
        assert screen.process.wait(20) == 6


def test_a_terminal_is_left_and_taken_up_again(side: Side) -> None:
    with terminal(side, "run", "-it", "--name", "term", "--network", "none", "busybox", "sh") as screen:
        screen.type("echo a$((1+1))\n", until="a2")
        screen.type("\x10\x11")
        assert screen.process.wait(20) == 0
    assert side.ok("inspect", "-f", "{{.State.Running}}", "term") == "true"
    with terminal(side, "attach", "--detach-keys", "ctrl-x", "term") as screen:
        screen.type("echo b$((1+2))\n", until="b3")
        screen.type("\x18")
        assert screen.process.wait(20) in (0, 1)
    assert side.ok("inspect", "-f", "{{.State.Running}}", "term") == "true"


def test_ctrl_c_and_signals(side: Side) -> None:
    with terminal(side, *RUN, "-it", "busybox", "sh", "-c", LOOP.format("INT")) as screen:
        screen.type("", until="ready")
        screen.type("\x03")
        assert screen.process.wait(20) == 7
    with side.popen(*RUN, "busybox", "sh", "-c", LOOP.format("USR1"), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 7


def test_a_slow_reader_holds_up_its_container_only(fleet: Fleet, config: Path) -> None:
    """A gigabyte for somebody who does not read for longer than any probe waits: the front keeps none of it."""
    side, front = sides.front(fleet.hosts[0], config), fleet.hosts[0].gateway
    before = memory(front.pid or 0)
    command = ("busybox", "sh", "-c", "head -c 1000000000 /dev/zero")
    with side.popen(*RUN, "-e", "constraint:host==host2", *command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = len(process.stdout.read(1))
        time.sleep(12)
        assert memory(front.pid or 0) - before < 50 << 20
        assert side.docker(*RUN, "busybox", "echo", "meanwhile").out == b"meanwhile\n"
        while data := process.stdout.read(1 << 20):
            found += len(data)
        assert process.wait(20) == 0
    assert found == 1_000_000_000
    assert memory(front.pid or 0) - before < 50 << 20


@pytest.mark.parametrize(
    "request_",
    [
        "GET /v1.41/containers/{}/logs?follow=1&stdout=1",
        "POST /v1.41/containers/{}/attach?stream=1&stdout=1&stdin=1",
        "GET /v1.41/containers/{}/attach/ws?stream=1&stdout=1&stdin=1",
        "POST /v1.41/containers/{}/wait",
        "GET /v1.41/containers/{}/stats",
        "GET /v1.41/events",
    ],
)
def test_clients_that_vanish_leave_nothing(fleet: Fleet, config: Path, request_: str) -> None:
    """Of forty that come and go, nothing stays with the front, nor with the agent of the host that served them."""
    side, front, agent = sides.front(fleet.hosts[0], config), fleet.hosts[0].gateway, fleet.hosts[1].agent
    name = side.ok("run", "-d", "--network", "none", "-e", "constraint:host==host2", "busybox", "sleep", "1d")
    before = sockets(front.pid), sockets(agent.pid)
    clients = []
    for _ in range(CLIENTS):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(front.socket))
        client.settimeout(20)
        upgrade = WEBSOCKET if "/ws" in request_ else RAW if "attach" in request_ else ""
        client.sendall(f"{request_.format(name)} HTTP/1.1\r\nHost: x\r\n{upgrade}\r\n".encode())
        assert client.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.1 101")
        clients.append(client)
    assert sockets(front.pid) > before[0] + 0.8 * CLIENTS
    for client in clients:
        client.close()
    wait_for(
        "all to be over",
        lambda: sockets(front.pid) < before[0] + CLIENTS / 2 and sockets(agent.pid) < before[1] + CLIENTS / 2,
        10,
    )
    assert side.ok("inspect", "-f", "{{.State.Running}}", name) == "true"


def test_an_engine_that_dies_ends_its_streams_only(fleet: Fleet, config: Path) -> None:
    side = sides.front(fleet.hosts[0], config)
    names = {host.name: on_host(side, host.name) for host in fleet.hosts}
    with following(side, names["host2"]) as dying, following(side, names["host1"]) as other:
        fleet.hosts[1].engine.kill()
        began = time.monotonic()
        assert dying.wait(15) != 0
        assert time.monotonic() - began < 10
        assert alive(other)
        assert side.docker("logs", names["host2"]).status == 1
        assert names["host1"][:12] in side.ok("ps", "-q")
    fleet.restore()


def test_a_host_that_loses_power_ends_its_streams_only(fleet: Fleet, config: Path) -> None:
    side = sides.front(fleet.hosts[0], config)
    names = [on_host(side, host) for host in ("host3", "host1")]
    with following(side, names[0]) as dying, following(side, names[1]) as other:
        fleet.hosts[2].partition()
        try:
            began = time.monotonic()
            assert dying.wait(30) != 0
            assert time.monotonic() - began < 15
            assert alive(other)
            listed = side.ok("ps", "--format", "{{.ID}} {{.Status}}")
            assert f"{names[0][:12]} Host down" in listed
            assert side.docker(*RUN, "busybox", "echo", "on").out == b"on\n"
        finally:
            fleet.hosts[2].heal()
    fleet.restore()
    wait_for("host3's containers to be listed", lambda: "Host down" not in side.ok("ps"), 30)


RAW = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
LOOP = "trap 'exit 7' {}; echo ready; while true; do sleep 0.1; done"
LOG = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.2; done"


def on_host(side: Side, host: str) -> str:
    """A container there that goes on telling."""
    return side.ok("run", "-d", "--network", "none", "-e", f"constraint:host=={host}", "busybox", "sh", "-c", LOG)


@contextmanager
def following(side: Side, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """`docker logs -f`, which tells already."""
    with side.popen("logs", "-f", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether it goes on telling: what it tells from now on is more than what waited to be read."""
    assert process.stdout is not None
    lines = [int(process.stdout.readline()) for _ in range(20)]
    return process.poll() is None and lines == list(range(lines[0], lines[0] + 20))


class Screen:
    """What a command shows in a terminal, and what is typed there."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master

    def size(self, rows: int, columns: int) -> None:
        """Have another size, and wait until the shell there knows. docker hears its signal only once it listens, and
        tells of the size when it gets to it: both are asked again and again."""
        shown, deadline = "", time.monotonic() + PATIENCE
        while f"{rows} {columns}" not in shown:
            assert time.monotonic() < deadline, shown
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            self.process.send_signal(signal.SIGWINCH)
            os.write(self._master, b"stty size\n")
            shown += self._shown(f"{rows} {columns}", 1)

    def type(self, text: str, until: str = "") -> None:
        time.sleep(0.2)
        os.write(self._master, text.encode())
        shown = self._shown(until, PATIENCE)
        assert until in shown, shown

    def _shown(self, until: str, within: float) -> str:
        shown, deadline = "", time.monotonic() + within
        while until not in shown and (left := deadline - time.monotonic()) > 0:
            if select.select([self._master], [], [], left)[0]:
                shown += os.read(self._master, 4096).decode(errors="replace")
        return shown


@contextmanager
def terminal(side: Side, *words: str) -> Iterator[Screen]:
    """A command in a terminal of its own."""
    master, slave = pty.openpty()
    process = side.popen(*words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        yield Screen(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def memory(pid: int) -> int:
    """Bytes that a process has to itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def sockets(pid: int | None) -> int:
    """How many a process has open."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found += str(file.readlink()).startswith("socket:")
        except OSError:
            continue
    return found


def _sum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()
