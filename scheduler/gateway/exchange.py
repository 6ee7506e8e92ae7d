"""One request of a client, and the ways to answer it: by ourselves, or with what a host's engine answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from qnet import log, metrics
from qnet.errors import InvalidRequest
from scheduler.callers import Caller
from scheduler.gateway.http import (
    JSON,
    Answer,
    Broken,
    ClientGone,
    Peer,
    Request,
    answer_head,
    chunk,
    dumps,
    request_head,
)
from scheduler.gateway.upstream import BAD, MOST, Upstreams
from scheduler.model import Machine
from scheduler.streams import pump

T = TypeVar("T")

HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade", "expect", "host", "transfer-encoding"}
)
SENT, RECEIVED = metrics.STREAMED.labels("sent"), metrics.STREAMED.labels("received")  # as the client sees it
LAST_WORDS = 5.0  # seconds that an engine has for its answer after it took no more of the request


After: TypeAlias = Callable[[int], Coroutine[Any, Any, None]]


async def at_once(_: int) -> None:
    """Nothing is waited for."""


class Exchange:
    """See the module."""

    def __init__(
        self,
        request: Request,
        client: Peer,
        caller: Caller,
        upstreams: Upstreams,
        headers: Mapping[str, str],
    ) -> None:
        """`headers` are those that every engine sends with each answer."""
        self.request = request
        self.client = client
        self.caller = caller
        self.version = ""
        self.path = ""
        self.args: dict[str, str] = {}
        self.body: bytes | None = None
        self.begun = False
        self.lasts = True
        self.relayed = False  # whether the connection itself was handed over
        self._upstreams = upstreams
        self._headers = headers

    # -- what is asked ---------------------------------------------------------------------------------------

    async def json(self) -> dict[str, Any]:
        """The body, an object. Raises InvalidRequest."""
        await self.welcome()
        data = self.body = await self.request.content()
        try:
            found = msgspec.json.decode(data) if data.strip() else {}
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(f"the body is no JSON: {error or 'nested too deep'}") from error
        if not isinstance(found, dict):
            raise InvalidRequest("the body is no JSON object")
        return found

    async def welcome(self) -> None:
        """Tell a client that waits with its body to send it."""
        if "100-continue" in self.request.headers.get("expect", "").lower():
            self.request.headers.pop("expect")
            await self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def target(self, *parts: str, query: Mapping[str, str] | None = None) -> str:
        """What is asked of an engine: the client's version, a path of these parts, and the client's own query, with
        other values for some of its names; an empty one is left out."""
        path = f"{self.version}/{'/'.join(quote(part, '/:@') for part in parts)}"
        if query is None:
            text = self.request.query_text
        else:
            kept = [(name, value) for name, value in self.request.query if name not in query]
            text = urlencode(kept + [(name, value) for name, value in query.items() if value])
        return f"{path}?{text}" if text else path

    # -- our own answers -------------------------------------------------------------------------------------

    async def answer(self, status: int, value: object = None, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer: JSON, or nothing; bytes as they are."""
        data = b"" if value is None else value if isinstance(value, bytes) else dumps(value)
        kind = {"Content-Type": JSON} if value is not None else {}
        bare = status in (204, 304) or self.request.method == "HEAD"
        length = {} if status in (204, 304) else {"Content-Length": "0" if bare else str(len(data))}
        close = {} if self.lasts else {"Connection": "close"}
        self.begun = True
        head = answer_head(status, {**self._headers, **self._signature(), **kind, **(headers or {}), **length, **close})
        await self.client.write(head if bare else head + data)

    async def refuse(self, status: int, message: str) -> None:
        """An error, as engines tell it."""
        await self.answer(status, {"message": message})

    @contextlib.asynccontextmanager
    async def stream(self) -> AsyncIterator[Callable[[bytes], Coroutine[Any, Any, None]]]:
        """An answer in pieces, as they come; it ends whole only if nothing goes wrong."""
        self.begun = True
        headers = {**self._headers, **self._signature(), "Content-Type": JSON, "Transfer-Encoding": "chunked"}
        await self.client.write(answer_head(200, headers))

        async def send(data: bytes) -> None:
            if data:
                await self.client.write(chunk(data))

        yield send
        await self.client.write(chunk(b""))

    async def watched(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something for as long as the client is there. Raises ClientGone."""
        doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(self.client.gone())
        try:
            await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                return await doing
            raise ClientGone
        finally:
            for task in (doing, gone):
                task.cancel()
            await asyncio.gather(doing, gone, return_exceptions=True)

    # -- an engine's answers ---------------------------------------------------------------------------------

    async def relay(self, host: Machine, target: str, body: bytes | None = None, after: After = at_once) -> int:
        """Have an engine answer; its bytes are the answer. Returns the status.

        Args:
            body: instead of the client's own.
            after: what is waited for before the client gets the answer.

        Raises:
            Unavailable: the host does not answer, or broke off; ClientGone.
        """
        await self.welcome()
        request = self.request
        own = body is None and not request.ended and (request.chunked or bool(request.length))
        async with self._upstreams.lent(host, self._head(target, body) + (body or b""), request.method) as (peer, wait):
            if own:
                return await self._with_body(peer, wait, after)
            answer = await self.watched(wait())
            await after(answer.status)
            if answer.raw_stream:
                return await self._hand_over(answer, peer)
            await self.watched(self._pass_on(answer))
            return answer.status

    async def rewritten(
        self,
        host: Machine,
        target: str,
        change: Callable[[Any], Any],
        body: bytes | None = None,
        after: After = at_once,
    ) -> int:
        """The same with JSON values that are changed on their way; errors are not."""
        await self.welcome()
        body = await self.request.content() if body is None else body
        async with self._upstreams.lent(host, self._head(target, body) + (body or b""), self.request.method) as (
            _,
            wait,
        ):
            answer = await self.watched(wait())
            content = await self.watched(answer.content(MOST))
            value = msgspec.json.decode(content) if answer.status < BAD and content.strip() else None
            await after(answer.status)
            await self.hand(answer, content if value is None else dumps(change(value)))
            return answer.status

    async def hand(self, answer: Answer, content: bytes) -> None:
        """An engine's answer with another body."""
        self.begun = True
        kept = {name.title(): value for name, value in answer.headers.items() if name not in HOP} | self._signature()
        if answer.status not in (204, 304):
            kept["Content-Length"] = str(len(content))
        await self.client.write(answer_head(answer.status, kept) + content)

    def _head(self, target: str, body: bytes | None) -> bytes:
        request = self.request
        headers = [("Host", "qnet"), *(field for field in request.fields if field[0] not in (*HOP, "content-length"))]
        if body is not None:
            headers.append(("Content-Length", str(len(body))))
        elif request.chunked and not request.ended:
            headers.append(("Transfer-Encoding", "chunked"))
        elif "content-length" in request.headers:
            headers.append(("Content-Length", "0" if request.ended else request.headers["content-length"]))
        if request.upgrade:
            headers += [("Connection", "Upgrade"), ("Upgrade", request.headers["upgrade"])]
        return request_head(request.method, target, headers)

    async def _pass_on(self, answer: Answer) -> None:
        self.begun = True
        self.lasts = self.lasts and answer.framed
        head = self._signed(answer)
        if not answer.at_hand:
            await self.client.write(head)
            head = b""
        async for data in answer.body():
            await self.client.write(head + data if head else data)
            head = b""
        if head:
            await self.client.write(head)

    def _signature(self) -> dict[str, str]:
        """The header that says under which id a request stands in the logs, for who has sent one: to all others the
        front's answers are an engine's."""
        return {log.HEADER: log.current()} if log.HEADER.lower() in self.request.headers else {}

    def _signed(self, answer: Answer) -> bytes:
        """The head of an engine's answer with that header."""
        status, end, rest = answer.raw.partition(b"\r\n")
        return b"".join(
            (status, end, *(f"{name}: {text}\r\n".encode() for name, text in self._signature().items()), rest)
        )

    async def _hand_over(self, answer: Answer, peer: Peer) -> int:
        """From here on the connection belongs to the two ends."""
        self.begun, self.lasts, self.relayed = True, False, True
        await self.client.write(self._signed(answer))
        kind = self.path.rpartition("/")[2]  # of a call that an engine has agreed to: attach, start, session, grpc
        with metrics.STREAMS.labels(kind).track_inprogress(), self._upstreams.hangups.of(self.client.stream) as gone:
            moving = asyncio.ensure_future(pump(self.client, peer, SENT.inc, RECEIVED.inc))
            try:
                await asyncio.wait({moving, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not moving.done():
                    raise ClientGone
                await moving
            finally:
                moving.cancel()
                await asyncio.gather(moving, return_exceptions=True)
        return answer.status

    async def _with_body(self, peer: Peer, wait: Callable[[], Coroutine[Any, Any, Answer]], after: After) -> int:
        """The client's body goes up while the answer comes down: an engine may answer before it has all."""

        async def send() -> None:
            peer.sending = True
            async for data in self.request.body():
                await peer.write(data)
            peer.sending = False

        sending, waiting = asyncio.create_task(send()), asyncio.create_task(wait())
        try:
            await asyncio.wait({sending, waiting}, return_when=asyncio.FIRST_COMPLETED)
            answer = await (waiting if waiting.done() else self._after(sending, waiting))
            await after(answer.status)
            if answer.raw_stream:
                await sending
                return await self._hand_over(answer, peer)
            await self._beside(sending, self._pass_on(answer))
            self.lasts = self.lasts and self.request.ended
            return answer.status
        finally:
            for task in (sending, waiting):
                task.cancel()
            await asyncio.gather(sending, waiting, return_exceptions=True)

    async def _beside(self, sending: asyncio.Task[None], passing: Coroutine[Any, Any, None]) -> None:
        """Pass the answer on. Raises ClientGone though the client was still sending."""
        if not sending.done():
            doing = asyncio.ensure_future(passing)
            try:
                await asyncio.wait({sending, doing}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done() and isinstance(error := sending.exception(), ClientGone):
                    raise error
                passing = outcome_of(doing)
                await (self.watched(passing) if sending.done() else passing)
            finally:
                doing.cancel()
                await asyncio.gather(doing, return_exceptions=True)
        else:
            await self.watched(passing)

    async def _after(self, sending: asyncio.Task[None], waiting: asyncio.Task[Answer]) -> Answer:
        """The answer, when all is sent, or when the engine takes no more: it says why then."""

        error = sending.exception()
        if error is None:
            return await self.watched(outcome_of(waiting))
        if not isinstance(error, Broken):
            raise error
        try:
            async with asyncio.timeout(LAST_WORDS):
                return await waiting
        except TimeoutError:
            raise error from None


async def outcome_of(task: asyncio.Future[T]) -> T:
    """What becomes of a task, which goes on though nobody waits any more."""
    return await asyncio.shield(task)
