"""Heads and bodies as the front reads them: every way that clients and engines send them, and those that nobody may."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qnet.errors import InvalidRequest
from scheduler.gateway.http import (
    Answer,
    Broken,
    ClientGone,
    Malformed,
    Peer,
    Request,
    answer_head,
    chunk,
    request_head,
)
from scheduler.streams import Plain

PIECES = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


def with_peer(sent: bytes, body: Callable[[Peer], Awaitable[None]], *, pieces: int = 0, end: bool = True) -> None:
    """Have somebody send these bytes, in pieces of that size."""

    async def run() -> None:
        one, other = socket.socketpair()
        peer = Peer(Plain(one), ClientGone)

        async def send() -> None:
            sender = Plain(other)
            step = pieces or len(sent) or 1
            for start in range(0, len(sent), step):
                await sender.write(sent[start : start + step])
                await asyncio.sleep(0)
            if end:
                await sender.end()

        sending = asyncio.create_task(send())
        try:
            await asyncio.wait_for(body(peer), 10)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            peer.close()
            other.close()

    asyncio.run(run())


async def first(peer: Peer) -> Request:
    return Request(peer, await peer.head())


@settings(max_examples=40, deadline=None)
@given(PIECES, st.integers(1, 50), st.booleans())
def test_requests_follow_each_other_on_a_connection(pieces: list[bytes], size: int, chunked: bool) -> None:
    data = b"".join(pieces)
    if chunked:
        head = request_head("POST", "/a?b=c", [("Transfer-Encoding", "chunked")])
        sent = head + b"".join(map(chunk, pieces)) + chunk(b"")
    else:
        sent = request_head("POST", "/a?b=c", [("Content-Length", str(len(data)))]) + data

    async def body(peer: Peer) -> None:
        request = await first(peer)
        assert (request.method, request.path, request.query) == ("POST", "/a", [("b", "c")])
        assert await request.content() == data
        assert request.ended
        again = await first(peer)
        assert again.method == "GET"
        assert again.ended
        assert await peer.head() == b""

    if chunked:  # whoever sends a chunked body waits for the answer before the next request
        with_peer(sent, _ends_there, pieces=size)
    else:
        with_peer(sent + request_head("GET", "/", []), body, pieces=size)


async def _ends_there(peer: Peer) -> None:
    request = await first(peer)
    await request.content()
    assert request.ended
    assert await peer.head() == b""


@settings(max_examples=30, deadline=None)
@given(PIECES, st.integers(1, 50))
def test_a_body_passes_by_as_it_was_sent(pieces: list[bytes], size: int) -> None:
    coded = b"".join(map(chunk, pieces)) + chunk(b"")
    sent = answer_head(200, {"Transfer-Encoding": "chunked"}) + coded

    async def body(peer: Peer) -> None:
        answer = Answer(peer, await peer.head(), "GET")
        assert b"".join([data async for data in answer.body()]) == coded
        assert answer.ended

    async def taken_out(peer: Peer) -> None:
        answer = Answer(peer, await peer.head(), "GET")
        assert b"".join([data async for data in answer.pieces()]) == b"".join(pieces)

    with_peer(sent, body, pieces=size)
    with_peer(sent, taken_out, pieces=size)


@pytest.mark.parametrize(
    ("method", "status", "headers", "length"),
    [
        ("HEAD", 200, {"Content-Length": "7"}, 0),
        ("GET", 204, {}, 0),
        ("GET", 304, {"Content-Length": "7"}, 0),
        ("GET", 200, {"Content-Length": "7"}, 7),
        ("GET", 200, {}, None),
    ],
)
def test_an_answer_knows_its_end(method: str, status: int, headers: dict[str, str], length: int | None) -> None:
    async def body(peer: Peer) -> None:
        answer = Answer(peer, await peer.head(), method)
        assert answer.status == status
        assert answer.length == length
        found = b"".join([data async for data in answer.body()])
        assert found == (b"content" if length != 0 else b"")
        assert answer.ended

    with_peer(answer_head(status, headers) + (b"content" if length != 0 else b""), body)


def test_an_answer_that_is_cut_off_is_told() -> None:
    async def body(peer: Peer) -> None:
        answer = Answer(peer, await peer.head(), "GET")
        with pytest.raises(ClientGone):
            await answer.content()

    with_peer(answer_head(200, {"Content-Length": "8"}) + b"content", body)
    with_peer(answer_head(200, {"Transfer-Encoding": "chunked"}) + b"8\r\ncontent", body)


def test_an_upgrade_keeps_what_comes_behind_it() -> None:
    head = request_head(
        "POST", "/exec/x/start", [("Connection", "Upgrade"), ("Upgrade", "tcp"), ("Content-Length", "2")]
    )

    async def body(peer: Peer) -> None:
        request = await first(peer)
        assert request.upgrade
        assert await request.content() == b"{}"
        assert await peer.read() == b"raw bytes"

    with_peer(head + b"{}raw bytes", body)


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(sent: bytes) -> None:
    async def body(peer: Peer) -> None:
        with pytest.raises(Malformed):
            await first(peer)

    with_peer(sent, body)


def test_chunks_that_lie_are_refused() -> None:
    async def body(peer: Peer) -> None:
        request = await first(peer)
        with pytest.raises(Malformed):
            await request.content()

    head = request_head("POST", "/", [("Transfer-Encoding", "chunked")])
    with_peer(head + b"zz\r\nabc\r\n0\r\n\r\n", body)
    with_peer(head + b"0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", body)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_without_end_is_refused(end: bytes) -> None:
    async def body(peer: Peer) -> None:
        with pytest.raises(Malformed) as refused:
            await first(peer)
        assert refused.value.status == 431

    with_peer(b"GET / HTTP/1.1\r\nA: " + b"a" * (1 << 20) + b"a" + end, body)


def test_a_body_that_is_read_whole_has_a_limit() -> None:
    async def body(peer: Peer) -> None:
        with pytest.raises(Malformed) as refused:
            await (await first(peer)).content(most=1000)
        assert refused.value.status == 413

    with_peer(request_head("POST", "/", [("Content-Length", "1001")]) + bytes(1001), body)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_read_whole_does_not_come_for_ever(monkeypatch: pytest.MonkeyPatch, chunked: bool) -> None:
    """Nobody holds what it has sent by a byte a minute. One that passes by may take its time."""
    monkeypatch.setattr("scheduler.gateway.http.BODY_TIME", 0.05)
    field = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")
    sent = request_head("POST", "/", [field]) + (chunk(b"{") if chunked else b"{")

    async def body(peer: Peer) -> None:
        with pytest.raises(Malformed, match=r"the body of the request did not come within 0\.05 s") as refused:
            await (await first(peer)).content()
        assert refused.value.status == 408

    async def passes_by(peer: Peer) -> None:
        request = await first(peer)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                [_ async for _ in request.body()]

    with_peer(sent, body, end=False)
    with_peer(sent, passes_by, end=False)


def test_an_answer_that_is_read_whole_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.gateway.http.BODY_TIME", 0.05)

    async def body(peer: Peer) -> None:
        answer = Answer(peer, await peer.head(), "GET")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await answer.content()

    with_peer(answer_head(200, {"Content-Length": "8"}) + b"c", body, end=False)


def test_headers_that_stand_there_twice_are_both_handed_on() -> None:
    async def body(peer: Peer) -> None:
        request = await first(peer)
        assert [value for name, value in request.fields if name == "x"] == ["1", "2"]
        assert request.headers["x"] == "1"

    with_peer(b"GET / HTTP/1.1\r\nX: 1\r\nX: 2\r\n\r\n", body)


def test_no_header_breaks_a_line() -> None:
    for value in ("a\r\nB: c", "a\nB: c"):
        with pytest.raises(InvalidRequest):
            request_head("GET", "/", [("A", value)])


def test_what_is_sent_while_one_watches_is_kept() -> None:
    async def body(peer: Peer) -> None:
        gone = asyncio.create_task(peer.gone())
        await asyncio.sleep(0.05)
        gone.cancel()
        assert (await first(peer)).path == "/next"

    with_peer(request_head("GET", "/next", []), body)


def test_one_who_leaves_is_noticed() -> None:
    async def body(peer: Peer) -> None:
        await asyncio.wait_for(peer.gone(), 2)

    with_peer(b"", body)


@pytest.mark.parametrize("kind", [Broken, ClientGone])
def test_whose_end_breaks_off_is_told_apart(kind: type[Broken | ClientGone]) -> None:
    async def run() -> None:
        one, other = socket.socketpair()
        peer = Peer(Plain(one), kind)
        other.close()
        with pytest.raises(kind):
            await peer.write(b"x")
        one.close()

    asyncio.run(run())
