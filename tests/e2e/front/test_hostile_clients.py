"""Clients that send what no client should, by the socket and by TLS: the front says why, stays up, serves others."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.e2e.front import dial, sides
from tests.e2e.front.dial import Line
from tests.e2e.placement.fleet import Fleet
from tests.lab import certificates
from tests.lab.cluster import Lab
from tests.lab.commands import run, wait_for
from tests.lab.host import Host
from tests.lab.unixhttp import call

pytestmark = pytest.mark.slow

GET = b"GET /v1.41/containers/json HTTP/1.1\r\nHost: x\r\n"
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
WAYS = ("unix", "tls")

Connect = Callable[[], AbstractContextManager[Line]]


@pytest.fixture(scope="module")
def ways(three_hosts: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Connect]:
    """Lines to host1's front: by its socket, and by TLS from host2."""
    host, other = three_hosts.hosts[:2]
    folder = sides.certificates_for(three_hosts, tmp_path_factory.mktemp("tls"), "operator", "ops")
    context = dial.certified(folder)
    return {"unix": lambda: dial.by_socket(host.gateway.socket), "tls": lambda: dial.by_tls(other, host, context)}


@pytest.fixture(params=WAYS)
def connected(request: pytest.FixtureRequest, ways: dict[str, Connect]) -> Connect:
    """Each of them."""
    return ways[request.param]


@pytest.fixture(autouse=True)
def stays_up(three_hosts: Lab) -> Iterator[None]:
    """The same process answers afterwards."""
    front = three_hosts.hosts[0].gateway
    before = front.pid
    yield
    assert front.pid == before
    assert call(front.socket, "GET", "/_ping", timeout=5) == (200, "OK")


def answer(client: Line) -> bytes:
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
def test_it_says_what_is_wrong(connected: Connect, sent: bytes, status: int, why: bytes) -> None:
    with connected() as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has heard enough
            client.sendall(sent)
        client.end()
        found = answer(client)
    assert found.startswith(f"HTTP/1.1 {status} ".encode()), found[:300]
    assert why in found, found[:300]


def test_one_byte_after_the_other(connected: Connect) -> None:
    with connected() as client:
        for byte in GET + b"Connection: close\r\n\r\n":
            client.sendall(bytes([byte]))
            time.sleep(0.005)
        assert answer(client).startswith(b"HTTP/1.1 200 ")


BODY = b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\n"
BODY += b"Content-Length: 9\r\n\r\n{"


@pytest.mark.parametrize(("begin", "within"), [(GET, (20, 40)), (BODY, (50, 75))], ids=["head", "body"])
def test_what_never_ends_is_given_up(ways: dict[str, Connect], begin: bytes, within: tuple[int, int]) -> None:
    def heard(way: str) -> tuple[bytes, float]:
        began = time.monotonic()
        with ways[way]() as client:
            client.sendall(begin)
            return answer(client), time.monotonic() - began

    for found, taken in kit.at_once(heard, WAYS):
        assert found.startswith(b"HTTP/1.1 408 ")
        assert within[0] < taken < within[1]


@pytest.mark.parametrize("way", [*WAYS, "tcp"])
def test_many_that_say_nothing_keep_nobody_waiting(three_hosts: Lab, ways: dict[str, Connect], way: str) -> None:
    """Those that begin a request, and those that do not even shake hands."""
    host, other = three_hosts.hosts[:2]
    with ExitStack() as clients:
        for _ in range(500):
            if way == "tcp":
                clients.enter_context(dial.tcp(other, host))
            else:
                clients.enter_context(ways[way]()).sendall(b"GET /v1.41/info HT")
        for one in WAYS:
            times = []
            for _ in range(20):
                began = time.monotonic()
                with ways[one]() as client:
                    client.sendall(PING)
                    assert client.recv(12) == b"HTTP/1.1 200"
                times.append(time.monotonic() - began)
            assert sorted(times)[10] < 1, one


def test_one_request_behind_the_other_is_served_in_order(connected: Connect) -> None:
    with connected() as client:
        client.sendall(PING * 3 + GET + b"Connection: close\r\n\r\n")
        found = answer(client)
    assert found.count(b"HTTP/1.1 200 ") == 4
    assert found.index(b"OK") < found.index(b"[")


@pytest.mark.parametrize("path", ["containers/nosuch/exec", "exec/nosuch/start"])
def test_a_connection_goes_on_unless_it_is_said_to_end(connected: Connect, path: str) -> None:
    """After an error too that comes before the body is read: clients that hear nothing else send the next one there."""
    with connected() as client:
        client.sendall(f"POST /v1.41/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        found = b""
        while b"}" not in found:
            found += client.recv(4096)
        assert found.startswith(b"HTTP/1.1 404 ")
        if b"connection: close" not in found.lower():
            client.sendall(PING)
            assert client.recv(12) == b"HTTP/1.1 200"


def test_an_end_that_comes_first_gets_its_answer_or_is_left(connected: Connect) -> None:
    """Go's servers take the end of a client's direction for the end of the client; an answer that is ready comes."""
    with connected() as client:
        client.sendall(PING)
        client.end()
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_an_upload_that_breaks_off_leaves_nothing(fleet: Fleet, connected: Connect) -> None:
    name = fleet.run("target", network="")["name"]
    head = f"PUT /v1.41/containers/{name}/archive?path=/tmp HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    with connected() as client:
        client.sendall(head.encode() + b"x" * 100_000)
    for path in ("images/load", "images/create?fromSrc=-&repo=broken"):
        with connected() as client:
            client.sendall(f"POST /v1.41/{path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            client.sendall(b"10000\r\n" + b"x" * 1000)
    assert fleet.ps()[name]["state"] == "running"
    wait_for("no image of it", lambda: not any("broken" in str(one) for one in images(fleet)), 10)


HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
NO_HANDSHAKES = (b"", PING, bytes(100), HELLO, HELLO + b"\xff" * 600, b"\x15\x03\x03\x00\x02\x02\x00")


def test_what_is_no_handshake_is_hung_up_on(three_hosts: Lab) -> None:
    """And told nothing but TLS's own alerts; who stops in the middle, as well as who goes wrong."""
    host, other = three_hosts.hosts[:2]

    def heard(sent: bytes) -> bytes:
        with dial.tcp(other, host) as client, suppress(ConnectionResetError):
            client.settimeout(20)
            client.sendall(sent)
            return answer(dial.Plain(client))
        return b""

    alerts = kit.at_once(heard, NO_HANDSHAKES)
    assert all(found == b"" or found[0] == 0x15 for found in alerts), alerts


def test_certificates_of_nobody_are_told_nothing(three_hosts: Lab, tmp_path: Path) -> None:
    """Of none at all, and of one that somebody has made himself and calls an operator's."""
    host, other = three_hosts.hosts[:2]
    folder = sides.certificates_for(three_hosts, tmp_path / "ops", "operator", "ops")
    for context in (bare(folder), own(folder, tmp_path / "own")):
        with pytest.raises((ssl.SSLError, ConnectionResetError, BrokenPipeError)):
            heard_by_tls(other, host, context)


def heard_by_tls(at: Host, host: Host, context: ssl.SSLContext) -> bytes:
    with dial.by_tls(at, host, context) as client:
        client.sendall(PING)
        return client.recv(1)


def bare(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


def own(folder: Path, target: Path) -> ssl.SSLContext:
    """What trusts the front, and shows a certificate that nobody else has signed."""
    target.mkdir()
    cert, key = target / "cert.pem", target / "key.pem"
    run([*certificates.NEW, "-subj", "/OU=operator/CN=ops", "-keyout", str(key), "-out", str(cert)])
    context = bare(folder)
    context.load_cert_chain(cert, key)
    return context


def images(fleet: Fleet) -> list[object]:
    return list(call(fleet.hosts[0].gateway.socket, "GET", "/v1.41/images/json")[1])
