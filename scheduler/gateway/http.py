"""HTTP/1.1 as the front needs it: heads are read, bodies pass by as they were sent. httptools (llhttp) parses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import httptools
import msgspec

from qnet.errors import InvalidRequest, QnetError, Unavailable
from scheduler.streams import Data, Stream

MAX_HEAD = 1 << 20  # bytes, as Go's servers take
MAX_BODY = 2 << 20  # of what is read whole
MAX_AHEAD = 64 << 10  # of what a client sends before it has its answer
HEAD_TIME = 30.0  # seconds that a head may take from its first byte on
BODY_TIME = 60.0  # and a body that is read whole
END = b"\r\n\r\n"
CONTINUE, SWITCHING, NO_CONTENT, NOT_MODIFIED = 100, 101, 204, 304
JSON = "application/json"


class Malformed(InvalidRequest):
    """What came is no HTTP; `status` is the answer, after which the connection is closed."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class Broken(Unavailable):
    """A host broke off in the middle."""


class ClientGone(Exception):
    """The client broke off: nobody is there to be told anything."""


class Peer:
    """One end of a connection: heads, and what follows them. For one task. Raises `lost` if it breaks off."""

    def __init__(self, stream: Stream, lost: type[Broken | ClientGone]) -> None:
        self.stream = stream
        self.lost = lost
        self.sending = False  # whether a body is on its way there
        self._left = b""
        self._ahead: asyncio.Task[bytes] | None = None

    async def read(self) -> bytes:
        """As `Stream.read`; what was read with a head comes first."""
        if self._left:
            left, self._left = self._left, b""
            return left
        try:
            if self._ahead is not None:
                found = await asyncio.shield(self._ahead)
                self._ahead = None
                return found
            return await self.stream.read()
        except OSError as error:
            raise self.lost(str(error)) from error

    async def write(self, data: Data) -> None:
        """As `Stream.write`."""
        try:
            await self.stream.write(data)
        except OSError as error:
            raise self.lost(str(error)) from error

    async def end(self) -> None:
        """As `Stream.end`."""
        await self.stream.end()

    @property
    def at_hand(self) -> bool:
        """Whether something was read that nobody has taken."""
        return bool(self._left)

    def unread(self, data: bytes) -> None:
        """Have it come first at the next read."""
        self._left = data + self._left

    async def gone(self) -> None:
        """Returns when the other end sends no more, or broke off, or sends too much; what comes meanwhile is kept."""
        while len(self._left) < MAX_AHEAD:
            # a task of its own, which nobody cancels: a read that is cancelled may lose what it has read
            self._ahead = self._ahead or asyncio.create_task(self.stream.read())
            try:
                found = await asyncio.shield(self._ahead)
            except OSError:
                return
            if not found:
                return  # the next read tells the same
            self._ahead = None
            self._left += found

    async def head(self) -> bytes:
        """The next head; nothing: the other end sends no more. Raises Malformed."""
        data = await self.read()
        if not data:
            return b""
        found = bytearray(data)
        async with _deadline("head", HEAD_TIME):
            start = 0
            while (place := found.find(END, start)) < 0:
                start = max(0, len(found) - len(END))
                if len(found) > MAX_HEAD:
                    raise Malformed(f"the head of the request has more than {MAX_HEAD >> 10} KiB", 431)
                data = await self.read()
                if not data:
                    raise self.lost("the connection ended within a head")
                found += data
        self.unread(bytes(found[place + len(END) :]))
        if place > MAX_HEAD:
            raise Malformed(f"the head of the request has more than {MAX_HEAD >> 10} KiB", 431)
        return bytes(found[: place + len(END)])

    def close(self) -> None:
        """Close it, whoever reads ahead."""
        if self._ahead is not None:
            self._ahead.cancel()
        self.stream.close()


@contextlib.asynccontextmanager
async def _deadline(what: str, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise Malformed(f"the {what} of the request did not come within {seconds:g} s", 408) from error


class Message:
    """What requests and answers have in common: headers, and a body that is read once."""

    kind: Any
    wrong: type[QnetError]

    def __init__(self, peer: Peer, raw: bytes) -> None:
        self.raw = raw
        self.fields: list[tuple[str, str]] = []
        self.headers: dict[str, str] = {}
        self.url = b""
        self.ended = False
        self.taken = False  # whether anybody has begun to read the body
        self.keep_alive = False  # whether the other end would take another one on the same connection
        self._begun = 0
        self._peer = peer
        self._parser = self.kind(self)
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise self.wrong(f"no HTTP: {error}") from error
        self.chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        self.length = None if self.chunked or length is None else int(length)

    def on_message_begin(self) -> None:
        """Another message: what came behind a chunked body, which nobody who waits for answers sends."""
        self._begun += 1

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. Of those that stand there twice, the first counts, as for Go's servers; all are handed on."""
        field = (name.decode("latin-1").lower(), value.decode("latin-1"))
        self.fields.append(field)
        self.headers.setdefault(*field)

    def on_message_complete(self) -> None:
        """The body has ended."""
        self.ended = True

    def on_headers_complete(self) -> None:
        """The head is read: later on, the parser has forgotten this."""
        self.keep_alive = bool(self._parser.should_keep_alive())

    def _too_long(self, most: int) -> QnetError:
        return self.wrong(f"the body has more than {most >> 20} MiB")

    async def body(self) -> AsyncIterator[bytes]:
        """The body as it is sent, piece by piece. Raises Malformed."""
        self.taken = True
        if self.chunked:
            while not self.ended:
                data = await self._some()
                self._watch(data)
                yield data
            return
        left = self.length
        while left is None or left > 0:
            data = await self._peer.read() if left is None else await self._some()
            if left is None:
                if not data:
                    break  # it goes on until the connection ends
            elif len(data) > left:
                self._peer.unread(data[left:])
                data = data[:left]
            yield data
            left = None if left is None else left - len(data)
        self.ended = True

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body taken out of its chunks, as it comes. Raises Malformed."""
        collector = _Collector()
        parser = self.kind(collector)
        with contextlib.suppress(httptools.HttpParserUpgrade):
            parser.feed_data(self.raw)
        async for data in self.body():
            if self.chunked:
                parser.feed_data(data)
                data = collector.take()
            if data:  # what is nothing would end it for others
                yield data

    async def lines(self) -> AsyncIterator[bytes]:
        """The same line by line, but for those that are empty: an engine ends each of its objects with one."""
        left = b""
        async for piece in self.pieces():
            *whole, left = (left + piece).split(b"\n")
            for line in filter(bytes.strip, whole):
                yield line
        if left.strip():
            yield left

    async def content(self, most: int = MAX_BODY) -> bytes:
        """The whole body, taken out of its chunks. Raises Malformed: more than `most`."""
        found = bytearray()
        async for data in self.pieces():
            found += data
            if len(found) > most:
                raise self._too_long(most)
        return bytes(found)

    async def _some(self) -> bytes:
        data = await self._peer.read()
        if not data:
            raise self._peer.lost("the connection ended within a body")
        return data

    def _watch(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise self.wrong(f"a body that is not chunked as it says: {error}") from error
        if self._begun > 1:
            raise self.wrong("something behind a chunked body: wait for the answer")


class Request(Message):
    """A request whose head was read."""

    kind = httptools.HttpRequestParser
    wrong = Malformed

    def __init__(self, peer: Peer, raw: bytes) -> None:
        super().__init__(peer, raw)
        self.method = self._parser.get_method().decode()
        if not self.chunked and self.length is None:
            self.length = 0
        if self.chunked and self.upgrade:
            raise Malformed("a chunked body and an upgrade: one of them")
        self.ended = self.length == 0
        try:
            target = httptools.parse_url(self.url)
        except httptools.HttpParserInvalidURLError as error:
            raise Malformed("the request's target is no URL") from error
        self.path = (target.path or b"/").decode("latin-1")
        self.query_text = (target.query or b"").decode("latin-1")

    async def content(self, most: int = MAX_BODY) -> bytes:
        """As `Message.content`, and nobody sends it for ever."""
        async with _deadline("body", BODY_TIME):
            return await super().content(most)

    def _too_long(self, most: int) -> QnetError:
        return Malformed(f"the body has more than {most >> 20} MiB", 413)

    @property
    def query(self) -> list[tuple[str, str]]:
        """What stands behind the question mark, in order."""
        return parse_qsl(self.query_text, keep_blank_values=True)

    def parameter(self, name: str) -> str:
        """The first of that name; empty: there is none."""
        return next((value for key, value in self.query if key == name), "")

    @property
    def upgrade(self) -> bool:
        """Whether the client wants the connection itself."""
        return "upgrade" in self.headers.get("connection", "").lower() and "upgrade" in self.headers


class Answer(Message):
    """An answer whose head was read."""

    kind = httptools.HttpResponseParser
    wrong = Broken

    def __init__(self, peer: Peer, raw: bytes, method: str) -> None:
        super().__init__(peer, raw)
        self.peer = peer
        self.status: int = self._parser.get_status_code()
        bare = method == "HEAD" or self.status in (NO_CONTENT, NOT_MODIFIED) or self.status < 200
        if bare:
            self.chunked, self.length = False, 0
        self.ended = self.length == 0

    @property
    def raw_stream(self) -> bool:
        """Whether what follows is no body but the connection itself."""
        return self.status == SWITCHING or (
            self.headers.get("content-type", "").startswith("application/vnd.docker.") and not self.framed
        )

    @property
    def at_hand(self) -> bool:
        """Whether the beginning of the body has come with the head."""
        return self.peer.at_hand

    @property
    def framed(self) -> bool:
        """Whether the body says where it ends."""
        return self.chunked or self.length is not None


class _Collector:
    """What a parser finds in chunks."""

    def __init__(self) -> None:
        self._found = bytearray()

    def on_body(self, data: bytes) -> None:
        self._found += data

    def take(self) -> bytes:
        found, self._found = bytes(self._found), bytearray()
        return found


def request_head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """A request's head."""
    return _head(f"{method} {target} HTTP/1.1", headers)


def answer_head(status: int, headers: Mapping[str, str]) -> bytes:
    """An answer's head."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return _head(f"HTTP/1.1 {status} {phrase}", {**headers, "Date": formatdate(usegmt=True)}.items())


def _head(first: str, headers: Iterable[tuple[str, str]]) -> bytes:
    lines = [first, *(f"{name}: {value}" for name, value in headers)]
    text = "\r\n".join(lines)
    if text.count("\r\n") != len(lines) - 1 or text.count("\n") != len(lines) - 1:
        raise InvalidRequest("a header with a line break")
    return text.encode("latin-1", "replace") + END


def chunk(data: bytes) -> bytes:
    """A piece of a chunked body; nothing ends it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def dumps(value: object) -> bytes:
    """JSON as engines write it, with a line's end."""
    return msgspec.json.encode(value) + b"\n"
