"""Calls for this host's engine from elsewhere: bytes between TLS connections and the engine's unix socket.

One thread for all connections. Either end may close its direction first: what the other still sends arrives
(`docker run -i` with its input at an end).
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable

from qnet.errors import Unavailable
from qnet.listen import parse_listen
from scheduler.streams import Plain, Tls, connect_unix, pump, turns

logger = logging.getLogger(__name__)

CONNECTIONS = 8192
BACKLOG = 256
AGAIN = 0.1  # seconds


class Relay:
    """Listens from `start` to `stop`."""

    def __init__(
        self, listen: str, context: ssl.SSLContext, target: str, admits: Callable[[ssl.SSLObject], str]
    ) -> None:
        """`admits` says why the peer of a connection is refused, or nothing."""
        self._address = parse_listen(listen)
        self._context = context
        self._target = target
        self._admits = admits
        self._listener: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen. Raises Unavailable."""
        try:
            family = socket.AF_INET6 if ":" in self._address[0] else socket.AF_INET
            self._listener = socket.create_server(self._address, family=family, backlog=BACKLOG)
        except OSError as error:
            raise Unavailable(f"cannot listen at {self._address[0]}:{self._address[1]}: {error.strerror}") from error
        threading.Thread(target=asyncio.run, args=(self._accept(self._listener),), name="relay", daemon=True).start()

    def alive(self) -> bool:
        """Whether the thread goes on."""
        return self._loop is not None and turns(self._loop)

    def stop(self) -> None:
        """Take no more connections; those that are there end with the process."""
        if self._listener is not None:
            self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop = asyncio.get_running_loop()
        while listener.fileno() >= 0:
            try:
                connection, peer = await asyncio.get_running_loop().sock_accept(listener)
            except OSError:  # such as too many open files
                await asyncio.sleep(AGAIN)
                continue
            if len(self._open) >= CONNECTIONS:
                logger.warning("%s refused: %d connections are open", peer[0], CONNECTIONS)
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection, peer[0]))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        engine: Plain | None = None
        try:
            tls = Tls(Plain(connection), self._context)
            await tls.handshake()
            refused = self._admits(tls.tls)
            if refused:
                logger.warning("%s refused: %s", peer, refused)
                return
            engine = await connect_unix(self._target)
            await pump(tls, engine)
        except (OSError, TimeoutError) as error:  # ssl.SSLError too
            logger.info("connection of %s ended: %s", peer, error)
        finally:
            connection.close()
            if engine is not None:
                engine.close()
