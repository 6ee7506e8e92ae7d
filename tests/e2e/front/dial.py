"""Connections to a front, made by hand: by its socket, or by TCP and TLS from another host."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from plugins.network.packets import inside
from tests.lab.host import Host
from tests.lab.namespaces import NETNS

PORT = 2376
PATIENCE = 90  # seconds
PIECE = 1 << 16
WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://x\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

T = TypeVar("T")


class Line(Protocol):
    """Bytes both ways, whose directions end apart."""

    def sendall(self, data: bytes) -> None:
        """Send all."""

    def recv(self, most: int) -> bytes:
        """What has come; nothing: the other end has said that no more comes."""

    def end(self) -> None:
        """Say that no more comes, and go on receiving."""


class Plain:
    """A socket as it is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.sendall, self.recv = sock.sendall, sock.recv

    def end(self) -> None:
        with suppress(OSError):  # the other end has gone
            self._sock.shutdown(socket.SHUT_WR)


class Secured:
    """TLS over a socket; `ssl`'s own sockets cannot end one direction."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._done(self._tls.do_handshake)

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._tls.write(left[:PIECE]) :]
            self._flush()

    def recv(self, most: int) -> bytes:
        with suppress(ssl.SSLZeroReturnError):
            return self._done(lambda: self._tls.read(most))
        return b""

    def end(self) -> None:
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        with suppress(OSError):
            self._flush()

    def _done(self, step: Callable[[], T]) -> T:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                if data := self._sock.recv(PIECE):
                    self._in.write(data)
                else:
                    self._in.write_eof()
            finally:
                self._flush()

    def _flush(self) -> None:
        if data := self._out.read():
            self._sock.sendall(data)


def tcp(at: Host, host: Host) -> socket.socket:
    """A connection from one host to the front of another."""
    with inside(str(NETNS / at.node.netns)):
        return socket.create_connection((host.address, PORT), PATIENCE)


def certified(folder: Path) -> ssl.SSLContext:
    """What connects with the certificate in a folder as the docker command wants one."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


@contextmanager
def by_socket(path: Path) -> Iterator[Line]:
    """A line to the front of a host, or to its engine, by their sockets."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(str(path))
        yield Plain(sock)


@contextmanager
def by_tls(at: Host, host: Host, context: ssl.SSLContext) -> Iterator[Line]:
    """A line from one host to the front of another."""
    with tcp(at, host) as sock:
        yield Secured(sock, context, host.address)


class _Http(http.client.HTTPConnection):
    """HTTP on a connection that is there."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("front", timeout=PATIENCE)
        self.sock = sock


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    headers: dict[str, str]
    body: str


def ask(
    at: Host, host: Host, context: ssl.SSLContext, method: str, path: str, body: object = None, **headers: str
) -> Answer:
    """One request from one host to the front of another."""
    sock = context.wrap_socket(tcp(at, host), server_hostname=host.address)
    connection = _Http(sock)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **headers})
        found = connection.getresponse()
        return Answer(found.status, dict(found.headers.items()), found.read().decode(errors="replace"))
    finally:
        connection.close()
        sock.close()
