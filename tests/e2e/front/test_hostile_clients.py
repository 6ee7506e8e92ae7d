"""Clients that send what no client should: the front says why, stays up, and serves the others."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.placement.fleet import Fleet
from tests.lab.commands import wait_for
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow

CREATE = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /v1.41/containers/json HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def connected(fleet: Fleet) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(45)
        client.connect(str(fleet.hosts[0].gateway.socket))
        yield client


@pytest.fixture(autouse=True)
def stays_up(fleet: Fleet) -> Iterator[None]:
    """The same process answers afterwards."""
    front = fleet.hosts[0].gateway
    before = front.pid
    yield
    assert front.pid == before
    assert call(front.socket, "GET", "/_ping", timeout=5) == (200, "OK")


def answer(client: socket.socket) -> bytes:
    """All that comes until the front closes."""
    found = bytearray()
    while data := client.recv(1 << 16):
        found += data
    return bytes(found)


@pytest.mark.parametrize(
    ("sent", "status", "why"),
    [
        (b"hello\r\n\r\n", 400, b"no HTTP"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, b"no HTTP"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, b"no HTTP"),
        (GET + b"Content-Length: x\r\n\r\n", 400, b"no HTTP"),
        (GET + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, b"no HTTP"),
        (GET + b"A: " + b"a" * (1 << 20) + b"\r\n\r\n", 431, b"1024 KiB"),
        (GET + b"X: " + b"a" * (2 << 20), 431, b"1024 KiB"),
        (
            b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b" " * 3_000_000,
            413,
            b"2 MiB",
        ),
        (
            b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
            400,
            b"chunked",
        ),
        (b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{", 400, b"no JSON"),
        (b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n[]", 400, b"object"),
        (
            b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"[" * 100000,
            400,
            b"no JSON",
        ),
        (b"GET /v1.41/../v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"page not found"),
        (b"GET /v1.41/containers/%00/json HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"not found"),
        (b"BREW /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n", 400, b"no HTTP"),
        (b"PATCH /v1.41/info HTTP/1.1\r\nHost: x\r\n\r\n", 404, b"not found"),
    ],
)
def test_it_says_what_is_wrong(fleet: Fleet, sent: bytes, status: int, why: bytes) -> None:
    with connected(fleet) as client:
        with suppress(BrokenPipeError):  # it has heard enough
            client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        found = answer(client)
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:300]
    assert why in found, found[:300]


def test_one_byte_after_the_other(fleet: Fleet) -> None:
    with connected(fleet) as client:
        for byte in GET + b"Connection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.005)
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_what_never_ends_is_given_up(fleet: Fleet) -> None:
    began = time.monotonic()
    with connected(fleet) as head, connected(fleet) as body:
        head.sendall(GET)
        body.sendall(CREATE + b"Content-Length: 9\r\n\r\n{")
        assert answer(head).startswith(b"HTTP/1.1 408 ")
        assert 20 < time.monotonic() - began < 40
        assert answer(body).startswith(b"HTTP/1.1 408 ")
    assert 50 < time.monotonic() - began < 75


def test_many_that_say_nothing_keep_nobody_waiting(fleet: Fleet) -> None:
    clients = []
    for _ in range(500):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(fleet.hosts[0].gateway.socket))
        client.sendall(b"GET /v1.41/info HT")
        clients.append(client)
    times = []
    for _ in range(20):
        began = time.monotonic()
        assert call(fleet.hosts[0].gateway.socket, "GET", "/_ping", timeout=5)[0] == 200
        times.append(time.monotonic() - began)
    for client in clients:
        client.close()
    assert sorted(times)[10] < 1


def test_one_request_behind_the_other_is_served_in_order(fleet: Fleet) -> None:
    with connected(fleet) as client:
        client.sendall((b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n") * 3 + GET + b"Connection: close\r\n\r\n")
        found = answer(client)
    assert found.count(b"HTTP/1.1 200 ") == 4
    assert found.index(b"OK") < found.index(b"[")


def test_an_end_that_comes_first_gets_its_answer_or_is_left(fleet: Fleet) -> None:
    """Go's servers take the end of a client's direction for the end of the client; an answer that is ready comes."""
    with connected(fleet) as client:
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_an_upload_that_breaks_off_leaves_nothing(fleet: Fleet, tmp_path: Path) -> None:
    name = fleet.run("target", network="")["name"]
    head = f"PUT /v1.41/containers/{name}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    with connected(fleet) as client:
        client.sendall(head.encode() + b"x" * 100_000)
    for path in ("images/load", "images/create?fromSrc=-&repo=broken"):
        with connected(fleet) as client:
            client.sendall(f"POST /v1.41/{path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            client.sendall(b"10000\r\n" + b"x" * 1000)
    assert fleet.ps()[name]["state"] == "running"
    wait_for("no image of it", lambda: not any("broken" in str(one) for one in images(fleet)), 10)


def images(fleet: Fleet) -> list[object]:
    return list(call(fleet.hosts[0].gateway.socket, "GET", "/v1.41/images/json")[1])
