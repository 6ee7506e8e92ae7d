"""Calls for this host's engine from elsewhere: bytes between TLS connections and the engine's unix socket.

One thread a connection, which sleeps until there is something to move. Either end may close its direction first: what
the other still sends arrives (`docker run -i` with its input at an end).
"""

from __future__ import annotations

import logging
import selectors
import socket
import ssl
import threading
from collections.abc import Callable

from qnet.errors import InvalidRequest, Unavailable

logger = logging.getLogger(__name__)

HANDSHAKE = 10.0  # seconds
CHUNK = 64 * 1024
MOST = 4 * CHUNK  # bytes on their way in one direction
CONNECTIONS = 1024


class Relay:
    """Listens from `start` to `stop`."""

    def __init__(
        self, listen: str, context: ssl.SSLContext, target: str, admits: Callable[[ssl.SSLSocket], str]
    ) -> None:
        """`admits` says why the peer of a connection is refused, or nothing."""
        self._address = parse_listen(listen)
        self._context = context
        self._target = target
        self._admits = admits
        self._stopping = threading.Event()
        self._room = threading.BoundedSemaphore(CONNECTIONS)
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen. Raises Unavailable."""
        try:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._listener = socket.create_server(self._address, family=family, backlog=256)
        except OSError as error:
            raise Unavailable(f"cannot listen at {self._address[0]}:{self._address[1]}: {error.strerror}") from error
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def stop(self) -> None:
        """Take no more connections; those that are there end with the process."""
        self._stopping.set()
        if self._listener is not None:
            self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set() and self._listener is not None:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                if not self._stopping.wait(0.1):
                    continue
                return
            if not self._room.acquire(blocking=False):
                logger.warning("%s refused: %d connections are open", peer[0], CONNECTIONS)
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection, peer[0]), name="relayed", daemon=True).start()

    def _serve(self, connection: socket.socket, peer: str) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.settimeout(HANDSHAKE)
            with self._context.wrap_socket(connection, server_side=True) as tls:
                refused = self._admits(tls)
                if refused:
                    logger.warning("%s refused: %s", peer, refused)
                    return
                with socket.socket(socket.AF_UNIX) as engine:
                    engine.settimeout(HANDSHAKE)
                    engine.connect(self._target)
                    pump(tls, engine)
        except OSError as error:  # ssl.SSLError too
            logger.info("connection of %s ended: %s", peer, error)
        finally:
            connection.close()
            self._room.release()


class _Way:
    """One direction: what was read and is not written yet."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.waiting = bytearray()
        self.ended = self.closed = False

    def read(self) -> None:
        if self.ended or len(self.waiting) >= MOST:
            return
        try:
            found = self.source.recv(CHUNK)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        self.waiting += found
        self.ended = not found

    def write(self) -> None:
        if self.waiting:
            try:
                del self.waiting[: self.sink.send(self.waiting)]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
                return
        if self.ended and not self.waiting and not self.closed:
            self.closed = True
            _close_writing(self.sink)


def pump(one: socket.socket, other: socket.socket) -> None:
    """Move bytes both ways until both ends have closed theirs. Raises OSError: one broke off."""
    ways = (_Way(one, other), _Way(other, one))
    for sock in (one, other):
        sock.setblocking(False)
    with selectors.DefaultSelector() as selector:
        while not all(way.closed for way in ways):
            _wait(selector, one, other, ways)
            for way in ways:
                way.read()
                way.write()


def _wait(selector: selectors.BaseSelector, one: socket.socket, other: socket.socket, ways: tuple[_Way, _Way]) -> None:
    """Sleep until one of the sockets can go on."""
    there, back = ways
    pending = isinstance(one, ssl.SSLSocket) and one.pending() and len(there.waiting) < MOST
    for sock, reading, writing in ((one, there, back), (other, back, there)):
        events = 0
        if not reading.ended and len(reading.waiting) < MOST:
            events |= selectors.EVENT_READ
        if writing.waiting:
            events |= selectors.EVENT_WRITE
        registered = sock.fileno() in selector.get_map()
        if events and registered:
            selector.modify(sock, events)
        elif events:
            selector.register(sock, events)
        elif registered:
            selector.unregister(sock)
    selector.select(0 if pending else None)


def _close_writing(sock: socket.socket) -> None:
    """Say that no more comes, and go on reading."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()
        else:
            sock.shutdown(socket.SHUT_WR)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return  # said; the other end has not answered yet
    except OSError:
        return  # it is gone altogether: the next read tells


def parse_listen(text: str) -> tuple[str, int]:
    """HOST:PORT. Raises InvalidRequest."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InvalidRequest(f"{text!r} is no place to listen: HOST:PORT, as in 0.0.0.0:7443")
    return host.strip("[]"), int(port)
