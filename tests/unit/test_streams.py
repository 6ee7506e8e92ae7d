"""Byte streams: plain sockets and TLS, with ends that come apart."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qnet.certificates import Peer, peer_of, server_context
from scheduler.streams import Plain, Stream, Tls, both, pump

Kind = Callable[[], Awaitable[tuple[Stream, Stream]]]
MANY = 3_000_000


def authority(folder: Path, subject: str) -> tuple[str, str]:
    """A certificate that signs itself, and its key."""
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    words = ("-subj", subject, "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    subprocess.run(["openssl", "req", "-x509", *curve, "-nodes", *words], check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's and a server's, which trust each other."""
    cert, key = authority(tmp_path_factory.mktemp("tls"), "/CN=x")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert, key)
    return ssl.create_default_context(cafile=cert), server


@pytest.fixture(scope="module")
def contexts_of_the_cluster(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate with a role, which is its own authority, and its key."""
    return authority(tmp_path_factory.mktemp("own"), "/OU=scheduler/CN=x")


@asynccontextmanager
async def joined(kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[tuple[Stream, Stream]]:
    """Two ends of a connection."""
    one, other = socket.socketpair()
    left, right = Plain(one), Plain(other)
    try:
        if kind == "plain":
            yield left, right
            return
        client, server = Tls(left, contexts[0], "127.0.0.1"), Tls(right, contexts[1])
        await both(client.handshake(), server.handshake())
        yield client, server
    finally:
        one.close()
        other.close()


async def read(stream: Stream, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        found += await stream.read()
    return bytes(found)


async def everything(stream: Stream) -> bytes:
    found = bytearray()
    while data := await stream.read():
        found += data
    return bytes(found)


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_bytes_arrive_both_ways_at_once(kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        async with joined(kind, contexts) as (one, other):

            async def send(stream: Stream, data: bytes) -> None:
                await stream.write(data)
                await stream.end()

            there, back = bytes(range(256)) * (MANY // 256), b"\0\xff" * (MANY // 2)
            found = await asyncio.gather(everything(other), everything(one), send(one, there), send(other, back))
            assert found[0] == there
            assert found[1] == back

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_what_comes_after_one_end_was_said_arrives(kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        async with joined(kind, contexts) as (one, other):
            await other.write(b"early")
            await asyncio.sleep(0.05)
            await one.write(b"x")
            await one.end()
            assert await everything(other) == b"x"

            async def answer() -> None:
                await other.write(b"late" * 100_000)
                await other.end()

            found, _ = await asyncio.gather(everything(one), answer())
            assert found == b"early" + b"late" * 100_000

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize("sent", [b"", b"last", b"records" * 10_000], ids=["nothing", "a record", "records"])
@pytest.mark.parametrize("noise", [b"", b"\x17\x03\x03\x00\x20" + bytes(32)], ids=["cut", "noise"])
def test_a_connection_that_is_cut_is_no_end(
    sent: bytes, noise: bytes, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def body() -> None:
        async with joined("tls", contexts) as (one, other):
            await other.write(sent)
            below = other._below  # type: ignore[attr-defined]
            await below.write(noise)
            below.close()
            assert await read(one, len(sent)) == sent
            with pytest.raises(ssl.SSLError, match=r"EOF|BAD_RECORD"):
                await one.read()

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_a_writer_waits_for_its_reader(kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        async with joined(kind, contexts) as (one, other):
            writing = asyncio.create_task(one.write(bytes(MANY)))
            await asyncio.sleep(0.2)
            assert not writing.done()
            await read(other, MANY)
            await writing

    asyncio.run(asyncio.wait_for(body(), 30))


@pytest.mark.parametrize("kind", ["plain", "tls"])
def test_an_idle_connection_is_quiet_until_something_comes(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def body() -> None:
        async with joined(kind, contexts) as (one, other):
            await other.write(b"hello")
            assert await one.read() == b"hello"
            assert one.quiet()
            await other.write(b"!")
            await asyncio.sleep(0.05)
            assert not one.quiet()
            assert await one.read() == b"!"
            await other.end()
            await asyncio.sleep(0.05)
            assert not one.quiet()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_pump_moves_until_both_have_ended(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        async with joined("tls", contexts) as (one, two), joined("plain", contexts) as (three, four):
            moving = asyncio.create_task(pump(two, three))
            await one.write(b"question")
            await one.end()
            assert await everything(four) == b"question"
            assert not moving.done()
            await four.write(b"answer")
            await four.end()
            assert await everything(one) == b"answer"
            await moving

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_stranger_is_not_let_in(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body() -> None:
        one, other = socket.socketpair()
        client = Tls(Plain(one), ssl.create_default_context(), "127.0.0.1")
        server = Tls(Plain(other), contexts[1])
        with pytest.raises(ssl.SSLError):
            await both(client.handshake(), server.handshake())
        one.close()
        other.close()

    asyncio.run(asyncio.wait_for(body(), 30))


def test_a_session_taken_up_again_still_tells_who_the_client_is(contexts_of_the_cluster: tuple[str, str]) -> None:
    ca, key = contexts_of_the_cluster
    server, client = server_context(ca, ca, key), ssl.create_default_context(cafile=ca)
    client.load_cert_chain(ca, key)

    async def meet(session: ssl.SSLSession | None) -> tuple[Peer | None, bool | None, ssl.SSLSession | None]:
        one, other = socket.socketpair()
        left, right = Tls(Plain(one), client, "127.0.0.1", session), Tls(Plain(other), server)
        try:
            await both(left.handshake(), right.handshake())
            await right.write(b"x")
            assert await left.read() == b"x"
            return peer_of(right.tls), right.tls.session_reused, left.tls.session
        finally:
            one.close()
            other.close()

    async def twice() -> None:
        first = await meet(None)
        assert first[:2] == (Peer("scheduler", "x"), False)
        assert (await meet(first[2]))[:2] == (Peer("scheduler", "x"), True)

    asyncio.run(twice())
