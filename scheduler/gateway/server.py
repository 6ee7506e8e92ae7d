"""Listens on a unix socket and on TCP with client certificates, and reads requests one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

from qnet import log, metrics
from qnet.errors import QnetError, Unavailable
from qnet.listen import parse_listen, share
from scheduler.callers import Caller, Forbidden, caller_of
from scheduler.gateway.exchange import Exchange
from scheduler.gateway.http import ClientGone, Malformed, Peer, Request
from scheduler.gateway.upstream import Refused, Upstreams
from scheduler.streams import Plain, Tls
from scheduler.web import STATUSES

logger = logging.getLogger(__name__)

CONNECTIONS = 8192
OF_TENANT = 2048
IDLE = 600.0  # seconds that a client elsewhere may say nothing
BACKLOG = 512
READS = ("GET", "HEAD")
AGAIN = 0.1  # seconds
FAREWELL = 1.0  # seconds in which the rest of a refused request is thrown away
UNWANTED = 256 << 10  # bytes of a body that are read though nobody wants them

Serve = Callable[[Exchange], Awaitable[None]]


class Server:
    """Serves connections from `start` to `stop`."""

    def __init__(self, serve: Serve, upstreams: Upstreams, headers: Callable[[], Mapping[str, str]]) -> None:
        self._serve = serve
        self._upstreams = upstreams
        self._headers = headers
        self._open: dict[bool, set[asyncio.Task[None]]] = {True: set(), False: set()}
        self._callers: Counter[str] = Counter()
        self._accepting: list[asyncio.Task[None]] = []

    def listen_unix(self, path: Path, group: str) -> None:
        """Listen at a socket, which `group` may use too. Raises Unavailable, InvalidRequest."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
            if group:
                share(path, "gateway.group", group)
            listener.listen(BACKLOG)
        except OSError as error:
            raise Unavailable(f"cannot listen at {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        self._accept(listener, None)

    def listen_tcp(self, listen: str, context: ssl.SSLContext) -> None:
        """Listen at HOST:PORT for clients with certificates. Raises Unavailable, InvalidRequest."""
        address = parse_listen(listen)
        try:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            listener = socket.create_server(address, family=family, backlog=BACKLOG)
        except OSError as error:
            raise Unavailable(f"cannot listen at {listen}: {error.strerror}") from error
        self._accept(listener, context)

    async def stop(self, patience: float) -> None:
        """Take no more connections, let those that are being answered end for a while, then end them all."""
        for task in self._accepting:
            task.cancel()
        left = [task for tasks in self._open.values() for task in tasks]
        if left:
            await asyncio.wait(left, timeout=patience)
        for task in left:
            task.cancel()
        await asyncio.gather(*self._accepting, *left, return_exceptions=True)

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        listener.setblocking(False)
        self._accepting.append(asyncio.create_task(self._take(listener, context)))

    async def _take(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:  # such as too many open files
                    logger.warning("no connection can be taken: %s", error)
                    await asyncio.sleep(AGAIN)
                    continue
                mine = self._open[context is None]  # nobody elsewhere takes places of this host's users
                if len(mine) >= CONNECTIONS:
                    logger.warning("a connection was refused: %d are open", CONNECTIONS)
                    connection.close()
                    continue
                task = asyncio.create_task(self._connection(connection, context))
                mine.add(task)
                task.add_done_callback(mine.discard)
        finally:
            listener.close()

    async def _connection(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        peer: Peer | None = None
        try:
            plain = Plain(connection)
            if context is None:
                peer, caller = Peer(plain, ClientGone), caller_of(connection)
            else:
                tls = Tls(plain, context)
                await tls.handshake()
                peer, caller = Peer(tls, ClientGone), caller_of(tls.tls, connection.getpeername()[0])
            with metrics.CONNECTIONS.track_inprogress(), self._counted(caller):
                await self._requests(peer, caller, None if context is None else IDLE)
        except (OSError, TimeoutError, ClientGone, Forbidden) as error:
            logger.info("a connection ended: %s", error)
        finally:
            if peer is not None:
                peer.close()
            connection.close()

    @contextlib.contextmanager
    def _counted(self, caller: Caller) -> Iterator[None]:
        """Raises Forbidden: a tenant has too many connections."""
        self._callers[caller.who] += 1
        try:
            if caller.tenant and self._callers[caller.who] > OF_TENANT:
                raise Forbidden(f"{caller.who} has more than {OF_TENANT} connections")
            yield
        finally:
            self._callers[caller.who] -= 1

    async def _requests(self, client: Peer, caller: Caller, idle: float | None) -> None:
        while True:
            log.new_request()
            try:
                async with asyncio.timeout(idle):
                    raw = await client.head()
                if not raw:
                    return
                request = Request(client, raw)
                log.follow(request.headers.get(log.HEADER.lower(), ""))
            except Malformed as error:
                logger.info("refused: %s", error)
                await _malformed(client, error)
                return
            exchange = Exchange(request, client, caller, self._upstreams, self._headers())
            exchange.lasts = request.keep_alive
            await self._answered(exchange)
            if exchange.lasts and not exchange.relayed:
                await _drain(request)
            if not request.ended and not exchange.relayed:
                await _farewell(client)
                return
            if not exchange.lasts:
                return

    async def _answered(self, exchange: Exchange) -> None:
        """Have a request answered, with an error if need be; one in the middle of an answer breaks it off."""
        method, began = exchange.request.method, time.monotonic()
        try:
            await self._serve(exchange)
            level = logging.DEBUG if method in READS else logging.INFO
            taken = f"{time.monotonic() - began:.3f}"
            more = log.fields(caller=exchange.caller.who, seconds=taken)
            logger.log(level, "%s %s answered", method, exchange.path, extra=more)
        except ClientGone:
            raise
        except QnetError as error:
            logger.info("%s %s: %s", method, exchange.path, error)
            await _refuse(exchange, status_of(error), str(error))
        except Exception as error:
            logger.exception("%s %s failed", method, exchange.path)
            await _refuse(exchange, 500, f"internal error, see the front's log ({type(error).__name__})")


def status_of(error: QnetError) -> int:
    """With which status an error is answered."""
    if isinstance(error, Refused | Malformed):
        return error.status
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


async def _refuse(exchange: Exchange, status: int, message: str) -> None:
    if exchange.begun:
        exchange.lasts = False
    else:
        await exchange.refuse(status, message)


async def _malformed(client: Peer, error: Malformed) -> None:
    text = str(error).encode()
    head = (
        f"HTTP/1.1 {error.status} \r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\nContent-Length: "
    )
    await client.write(head.encode() + f"{len(text)}\r\n\r\n".encode() + text)
    await _farewell(client)


async def _drain(request: Request) -> None:
    """Read a short body that nobody wanted, as Go's servers do: the client sends its next request behind it."""
    if request.ended or request.taken or "expect" in request.headers:
        return
    left = UNWANTED
    with contextlib.suppress(TimeoutError, Malformed):
        async with asyncio.timeout(FAREWELL):
            async for data in request.body():
                left -= len(data)
                if left < 0:
                    return


async def _farewell(client: Peer) -> None:
    """End, and read on for a moment: a client that is still sending would lose the answer to a reset."""
    try:
        async with asyncio.timeout(FAREWELL):
            await client.end()
            while await client.read():
                pass
    except TimeoutError:
        return
