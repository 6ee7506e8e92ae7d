"""Connections to the engines of all hosts, through their agents, and what is asked and answered on them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import msgspec

from qnet.certificates import client_context
from qnet.errors import QnetError, Unavailable
from qnet.listen import parse_listen
from qnet.settings import Scheduler
from scheduler.gateway.http import JSON, SWITCHING, Answer, Broken, Peer, chunk, request_head
from scheduler.model import Machine
from scheduler.streams import Hangups, Stream, Tls, connect, connect_unix

KEPT, WARM = 16, 2  # idle connections to each host: at most, and made ahead
AT_ONCE = 64  # hosts that are asked at a time
LONG = 600.0  # seconds for what takes an engine as long as its disks do
MOST = 512 << 20  # bytes of an engine's answer that is read whole
BAD, GONE = 400, 404

T = TypeVar("T")


class Refused(QnetError):
    """An engine's own refusal: its status and its words are the client's answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Missing(Refused):
    """A request names nothing of the caller's, or makes no sense. An operator gets an engine's own words for that."""

    def __init__(self, message: str, status: int = GONE) -> None:
        super().__init__(status, message)


class Upstreams:
    """See the module. For one event loop."""

    def __init__(self, settings: Scheduler, own: str, engine: str) -> None:
        """`own`: the host that we are on, whose engine listens at `engine`. Raises InvalidRequest: the certificates."""
        self._own, self._engine = own, engine
        self._timeout = settings.timeout
        self._context = client_context(settings.ca, settings.cert, settings.key)
        self._sessions: dict[str, ssl.SSLSession] = {}
        self._idle: defaultdict[str, list[Peer]] = defaultdict(list)
        self.hangups = Hangups()
        self._warming: dict[str, asyncio.Task[None]] = {}
        self._lent: defaultdict[str, set[Peer]] = defaultdict(set)

    async def call(self, host: Machine, method: str, path: str, body: object = None) -> Any:
        """What an engine answers to a small request, as JSON values; None: nothing.

        Raises:
            Refused: the engine says no.
            Unavailable: it does not answer in time.
        """
        data = msgspec.json.encode(body) if body is not None else b""
        answer, content = await self.answered(host, method, path, data)
        if answer.status >= BAD:
            raise Refused(answer.status, message_of(content))
        try:
            return msgspec.json.decode(content) if content.strip() else None
        except msgspec.MsgspecError as error:
            what = path.partition("?")[0]  # what stands behind it may be secret
            raise Broken(f"host {host.name}: what it answers to {what} is no JSON: {error}") from error

    async def answered(self, host: Machine, method: str, path: str, data: bytes = b"") -> tuple[Answer, bytes]:
        """An engine's answer, whatever it says, with its whole body. Raises Unavailable: it does not come in time."""
        patience = self._patience(method, path)
        try:
            async with asyncio.timeout(patience), self.asked(host, method, path, data) as answer:
                return answer, await answer.content(MOST)
        except TimeoutError as error:
            raise Unavailable(f"host {host.name} did not answer within {patience:g} s") from error

    def _patience(self, method: str, path: str) -> float:
        """Seconds for an answer. What is known is told at once, but changes, and counting what takes disks, take long:
        an engine goes on with them though nobody waits any more."""
        quick = method == "GET" and not path.partition("?")[0].endswith("/system/df")
        return self._timeout if quick else LONG

    async def each(
        self, hosts: Iterable[Machine], ask: Callable[[Machine], Awaitable[T]]
    ) -> tuple[dict[str, T], dict[str, QnetError]]:
        """Ask several hosts at once: what each answers, and why the others do not."""
        room, found, failed = asyncio.Semaphore(AT_ONCE), dict[str, T](), dict[str, QnetError]()

        async def one(host: Machine) -> None:
            async with room:
                try:
                    found[host.name] = await ask(host)
                except QnetError as error:
                    failed[host.name] = error

        async with asyncio.TaskGroup() as tasks:
            for host in hosts:
                tasks.create_task(one(host))
        return found, failed

    @asynccontextmanager
    async def asked(self, host: Machine, method: str, path: str, data: bytes = b"") -> AsyncIterator[Answer]:
        """Send a request with a small body; its answer, whose body is still to be read.

        Raises:
            Unavailable: the host does not answer, or broke off.
        """
        own = {"Content-Type": JSON} if data else {}
        length = {"Content-Length": str(len(data))} if data or method != "GET" else {}
        head = request_head(method, path, {"Host": "qnet", **own, **length}.items())
        async with self.lent(host, head + data, method) as (_, answer):
            yield await answer()

    @asynccontextmanager
    async def sending(
        self, host: Machine, method: str, path: str, headers: Mapping[str, str], pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[Answer]:
        """The same with a body that comes piece by piece."""
        head = request_head(method, path, {"Host": "qnet", **headers, "Transfer-Encoding": "chunked"}.items())
        async with self.lent(host, head, method) as (peer, answer):

            async def send() -> None:
                peer.sending = True
                async for data in pieces:
                    await peer.write(chunk(data))
                await peer.write(chunk(b""))
                peer.sending = False

            task = asyncio.create_task(send())
            try:
                yield await answer()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    @asynccontextmanager
    async def lent(
        self, host: Machine, first: bytes, method: str
    ) -> AsyncIterator[tuple[Peer, Callable[[], Coroutine[Any, Any, Answer]]]]:
        """A connection on which a request was begun, and what waits for its answer. It is kept for the next one if
        the answer was read to its end.

        Raises:
            Unavailable: the host does not answer, or broke off.
        """
        peer, found = await self._begun(host, first), list[Answer]()

        async def answer() -> Answer:
            found.append(await _answer(peer, method, host))
            return found[0]

        fine = False
        self._lent[host.url].add(peer)
        self._warm(host)
        try:
            yield peer, answer
            done = bool(found) and found[0].ended and found[0].keep_alive and found[0].status != SWITCHING
            fine = done and not peer.at_hand and not peer.sending
        except Broken as error:
            raise Broken(f"host {host.name} broke off: {error}") from error
        finally:
            self._lent[host.url].discard(peer)
            if isinstance(peer.stream, Tls) and peer.stream.tls.session:  # tickets come after the handshake
                self._sessions[host.url] = peer.stream.tls.session
            if fine and len(self._idle[host.url]) < KEPT:
                self._idle[host.url].append(peer)
            else:
                peer.close()

    def _warm(self, host: Machine) -> None:
        """Have a connection ready for the next call: a run needs three at once, and a handshake takes milliseconds."""
        if host.url not in self._warming and len(self._idle[host.url]) < WARM:
            task = self._warming[host.url] = asyncio.create_task(self._one_more(host))
            task.add_done_callback(lambda _: self._warming.pop(host.url, None))

    async def _one_more(self, host: Machine) -> None:
        with suppress(OSError, TimeoutError):
            self._idle[host.url].append(Peer(await self._stream(host), Broken))

    async def _stream(self, host: Machine) -> Stream:
        """A new connection: to the engine beside us by its socket, if we may, which saves TLS twice and its agent."""
        if host.name == self._own and os.access(self._engine, os.W_OK):
            return await connect_unix(self._engine)
        return await connect(parse_listen(host.url), self._context, self._sessions.get(host.url))

    async def _begun(self, host: Machine, first: bytes) -> Peer:
        """A connection on which this was sent. One that was kept may have ended meanwhile."""
        while self._idle[host.url]:
            peer = self._idle[host.url].pop()
            if peer.stream.quiet():
                with suppress(Broken):
                    await peer.write(first)
                    return peer
            peer.close()
        try:
            peer = Peer(await self._stream(host), Broken)
        except (OSError, TimeoutError) as error:
            raise Unavailable(f"host {host.name} does not answer at {host.url}: {error or 'no answer'}") from error
        try:
            await peer.write(first)
        except asyncio.CancelledError:
            peer.close()
            raise
        except Broken as error:
            peer.close()
            raise Broken(f"host {host.name} broke off: {error}") from error
        return peer

    def cut(self, host: Machine) -> None:
        """Break off all that is asked of a host: it is down."""
        for peer in list(self._lent[host.url]):
            peer.stream.cut()

    def close(self) -> None:
        """Close what is idle."""
        for peers in self._idle.values():
            for peer in peers:
                peer.close()
        self._idle.clear()


async def _answer(peer: Peer, method: str, host: Machine) -> Answer:
    while True:
        raw = await _head(peer)
        if not raw:
            raise Broken("it did not answer")
        answer = Answer(peer, raw, method)
        if answer.status >= 200 or answer.status == SWITCHING:
            return answer


async def _head(peer: Peer) -> bytes:
    """Without the deadline of clients: an engine answers when it has something to say."""
    data = await peer.read()
    peer.unread(data)
    return await peer.head() if data else b""


def message_of(content: bytes) -> str:
    """What an engine says with an error."""
    try:
        return str(msgspec.json.decode(content)["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return content.decode(errors="replace").strip()[:500]
