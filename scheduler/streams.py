"""Byte streams over sockets, plain ones and TLS, for many at once without a thread each. Their two directions end
apart: a client that has sent all it has (`echo x | docker run -i`) still gets what comes back.

asyncio's own TLS drops that, so it is done here on `ssl.MemoryBIO`; see docs/decisions/0008-relay.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeAlias

Data: TypeAlias = bytes | bytearray | memoryview
Moved: TypeAlias = Callable[[int], object]

CHUNK = 256 * 1024
RECORD = 16 * 1024  # the most that TLS gives at once
HANDSHAKE = 10.0  # seconds
TURN = 10.0  # seconds that a loop may take for a turn
IDLE, INTERVAL, PROBES = 2, 1, 3  # seconds after which, and how often, a silent TCP peer is asked whether it lives


class Ways(Protocol):
    """Bytes both ways."""

    async def read(self) -> bytes:
        """What has come, at least one byte; nothing: the other end sends no more."""

    async def write(self, data: Data) -> None:
        """Send all, when there is room."""

    async def end(self) -> None:
        """Say that no more comes, and go on reading."""


class Stream(Ways, Protocol):
    """A connection. Every call raises OSError if the other end broke off."""

    def quiet(self) -> bool:
        """Whether nothing has come that was not read, not even an end."""

    def cut(self) -> None:
        """Have whoever reads or writes fail."""

    def close(self) -> None:
        """Close both directions at once. Nobody may be reading or writing."""


class Plain:
    """A socket without TLS."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch(sock)
        self.sock = sock
        self._loop = asyncio.get_running_loop()

    async def read(self) -> bytes:
        return await self._loop.sock_recv(self.sock, CHUNK)

    async def write(self, data: Data) -> None:
        await self._loop.sock_sendall(self.sock, data)

    async def end(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone altogether: the next read tells

    def cut(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    def quiet(self) -> bool:
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        if self.sock.fileno() >= 0:  # the number may be another's at once: the loop has to forget it first
            self._loop.remove_reader(self.sock)
            self._loop.remove_writer(self.sock)
        self.sock.close()


class Tls:
    """TLS over another stream."""

    def __init__(
        self,
        below: Stream,
        context: ssl.SSLContext,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        """`server_hostname`: of a client, whose certificate the other end must have; `session`: of an earlier
        connection with it, which spares both ends their signatures."""
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # who is cut off has not said that no more comes
        self._below = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = server_hostname is None
        self.tls = context.wrap_bio(self._in, self._out, server, server_hostname, session)
        self._early = bytearray()
        self._sending = asyncio.Lock()
        self._ended = False

    async def handshake(self) -> None:
        """Agree with the other end. Raises OSError (ssl.SSLError): it is not let in, or not who it should be."""
        async with asyncio.timeout(HANDSHAKE):
            while True:
                try:
                    self.tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._feed()
                except ssl.SSLError:
                    await self._flush()  # the other end is told why
                    raise
                else:
                    await self._flush()
                    return

    async def read(self) -> bytes:
        while True:
            if self._early:
                early, self._early = bytes(self._early), bytearray()
                return early
            try:
                found = self.tls.read(RECORD)
            except ssl.SSLWantReadError:
                if self._out.pending:
                    await self._flush()
                await self._feed()
            except ssl.SSLZeroReturnError:
                return b""
            else:
                return b"".join((found, *self._records()))

    def _records(self) -> Iterator[bytes]:
        """What else is at hand. What ends the stream is met by the next read."""
        with contextlib.suppress(ssl.SSLError):
            for _ in range(CHUNK // RECORD):
                yield self.tls.read(RECORD)

    async def write(self, data: Data) -> None:
        left = memoryview(data)
        while left:
            left = left[self.tls.write(left[:CHUNK]) :]
            await self._flush()

    async def end(self) -> None:
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(ssl.SSLError):
            while found := self.tls.read(CHUNK):  # `unwrap` reads, and would lose what it meets
                self._early += found
        with contextlib.suppress(ssl.SSLError):
            self.tls.unwrap()  # said, though the other end has not answered yet
        with contextlib.suppress(OSError):
            await self._flush()

    def cut(self) -> None:
        self._below.cut()

    def quiet(self) -> bool:
        return not (self._early or self._in.pending or self.tls.pending()) and self._below.quiet()

    def close(self) -> None:
        self._below.close()

    async def _flush(self) -> None:
        async with self._sending:
            data = self._out.read()
            if data:
                await self._below.write(data)

    async def _feed(self) -> None:
        data = await self._below.read()
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()


class Hangups:
    """Tells when the other end of a unix socket is gone altogether, which reading does not tell from an end of one
    direction. Of TCP, the kernel finds out by itself (`watch`)."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    @contextlib.contextmanager
    def of(self, stream: Stream) -> Iterator[asyncio.Future[None]]:
        """What is done when that has happened."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sock = stream.sock if isinstance(stream, Plain) and stream.sock.family == socket.AF_UNIX else None
        if sock is not None:
            self._poll.register(sock, 0)  # a hang-up is always told
            self._waiting[sock.fileno()] = gone
        try:
            yield gone
        finally:
            if sock is not None:
                self._poll.unregister(sock)
                del self._waiting[sock.fileno()]

    async def run(self) -> None:
        """Look every now and then."""
        while True:
            await asyncio.sleep(INTERVAL)
            for number, _ in self._poll.poll(0):
                gone = self._waiting[number]
                if not gone.done():
                    gone.set_result(None)


async def connect(address: tuple[str, int], context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Tls:
    """A client's connection, both ends known to each other. Raises OSError, TimeoutError."""
    async with asyncio.timeout(HANDSHAKE):
        sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, address)
            stream = Tls(Plain(sock), context, address[0], session)
            await stream.handshake()
        except BaseException:
            sock.close()
            raise
    return stream


async def connect_unix(path: str) -> Plain:
    """The same on a unix socket. Raises OSError, TimeoutError."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        stream = Plain(sock)
        async with asyncio.timeout(HANDSHAKE):
            await asyncio.get_running_loop().sock_connect(sock, path)
    except BaseException:
        sock.close()
        raise
    return stream


def unseen(_: int) -> None:
    """Nobody counts."""


async def copy(source: Ways, sink: Ways, moved: Moved = unseen) -> None:
    """Move all that comes one way, then end it. `moved` hears of how many bytes each time."""
    while data := await source.read():
        await sink.write(data)
        moved(len(data))
    await sink.end()


async def pump(one: Ways, other: Ways, up: Moved = unseen, down: Moved = unseen) -> None:
    """Move bytes both ways until both ends have ended theirs; `up` is from the one to the other. Raises OSError: one
    broke off."""
    await both(copy(one, other, up), copy(other, one, down))


async def both(*ways: Coroutine[Any, Any, None]) -> None:
    """Run to the end together; the first that fails ends the others, and is raised."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for way in ways:
                tasks.create_task(way)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def turns(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop goes on; asked from another thread."""
    turned = threading.Event()
    loop.call_soon_threadsafe(turned.set)
    return turned.wait(TURN)


def watch(sock: socket.socket) -> None:
    """Notice in seconds that the other host is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, IDLE),
        (socket.TCP_KEEPINTVL, INTERVAL),
        (socket.TCP_KEEPCNT, PROBES),
    ):
        # no TCP_USER_TIMEOUT: that ends connections whose other end lives and just does not read
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
