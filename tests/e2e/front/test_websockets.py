"""Attaching by a websocket, as clients in browsers do."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.front import dial, sides
from tests.e2e.front.dial import WEBSOCKET, Line
from tests.e2e.placement.fleet import Fleet

pytestmark = pytest.mark.slow

ACCEPTED = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # for the key of `WEBSOCKET`, RFC 6455 section 1.3


@pytest.mark.parametrize("way", ["straight", "unix", "tls"])
def test_a_websocket_takes_what_is_typed_and_tells_what_comes(
    fleet: Fleet, config: Path, tmp_path: Path, way: str
) -> None:
    """One that goes leaves the container to the next."""
    host, other = fleet.hosts[:2]
    side = sides.straight(host, config) if way == "straight" else sides.front(host, config)
    name = side.ok("run", "-di", "--network", "none", "busybox", "cat")
    for text in (b"one\n", b"two\n" * 5000):
        with ExitStack() as stack:
            if way == "tls":
                folder = sides.certificates_for(fleet.lab, tmp_path / "tls", "operator", "ops")
                line = stack.enter_context(dial.by_tls(other, host, dial.certified(folder)))
            else:
                socket = host.docker_socket if way == "straight" else host.gateway.socket
                line = stack.enter_context(dial.by_socket(socket))
            path = f"/v1.41/containers/{name}/attach/ws?stream=1&stdin=1&stdout=1"
            line.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{WEBSOCKET}\r\n".encode())
            answer, _, rest = _until(line, b"\r\n\r\n").partition(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            assert ACCEPTED in answer.decode()
            line.sendall(_frame(text))
            assert _told(line, rest, len(text)) == text
    assert side.ok("inspect", "-f", "{{.State.Running}}", name) == "true"
    if way == "straight":
        side.ok("rm", "-f", name)


def _until(line: Line, end: bytes) -> bytes:
    found = b""
    while end not in found:
        data = line.recv(4096)
        assert data, found
        found += data
    return found


def _frame(text: bytes) -> bytes:
    """A binary message as a client sends it: masked, here by nothing (RFC 6455 section 5.2)."""
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x82" + length + bytes(4) + text


def _told(line: Line, data: bytes, most: int) -> bytes:
    """What messages from there say, without their heads."""
    found = b""
    while len(found) < most:
        while len(data) < 4 or len(data) < _ends(data):
            more = line.recv(4096)
            assert more, (found, data)
            data += more
        found += data[4 if data[1] == 126 else 2 : _ends(data)]
        data = data[_ends(data) :]
    return found


def _ends(data: bytes) -> int:
    """Where the first message ends."""
    return 4 + int.from_bytes(data[2:4], "big") if data[1] == 126 else 2 + data[1]
