"""One request that several hosts get at the same time, with what the client sends, as fast as the slowest takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from qnet.errors import QnetError
from scheduler.gateway.exchange import Exchange, outcome_of
from scheduler.gateway.http import ClientGone, dumps
from scheduler.gateway.upstream import BAD, MOST, Refused, Upstreams, message_of
from scheduler.model import Machine
from scheduler.streams import both

LINES, PIECES = 64, 2  # that wait for a client, or for a host

Heard = Callable[[dict[str, Any]], Awaitable[None]]


class Spreading:
    """See the module. `done` and `failed`: the hosts, once it is over."""

    def __init__(
        self,
        upstreams: Upstreams,
        hosts: Sequence[Machine],
        target: str,
        headers: Mapping[str, str],
        heard: Heard | None = None,
        *,
        lasting: bool = False,
    ) -> None:
        """`heard`: what is done with each line before the client has it. `lasting`: hosts that have all of the request
        are heard to the end though the client is gone, as they go on."""
        self._heard = heard
        self._lasting = lasting
        self._upstreams = upstreams
        self._hosts = hosts
        self._target = target
        self._headers = headers
        self._told: asyncio.Queue[bytes] = asyncio.Queue(LINES)
        self._feeds = {host.name: asyncio.Queue[bytes](PIECES) for host in hosts}
        self._begun = False
        self._details: dict[str, dict[str, Any]] = {}
        self.done: list[str] = []
        self.failed: dict[str, QnetError] = {}

    async def answer(self, x: Exchange, finish: Callable[[], Awaitable[None]] | None = None) -> None:
        """What the hosts tell, line by line, each with its host; then why some have failed.

        Args:
            finish: what is done before the end of the answer, if some host has done it.

        Raises:
            QnetError: all have failed at once.
        """
        await x.welcome()
        work = asyncio.create_task(self._work(x))
        try:
            line = await self._line(work)
            if not line and not self._begun:  # one that has begun tells what is wrong in the middle
                raise next(iter(self.failed.values()))
            async with x.stream() as send:
                while line:
                    await send(line)
                    line = await self._line(work)
                if finish and self.done:
                    await finish()
                for host, error in self.failed.items():
                    text = f"host {host}: {error}" if len(self._hosts) > 1 else str(error)
                    await send(dumps({"errorDetail": {**self._details.get(host, {}), "message": text}, "error": text}))
        except ClientGone:
            while self._lasting and not work.done() and await self._line(work):
                pass
            raise
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _line(self, work: asyncio.Task[None]) -> bytes:
        """The next line; nothing: all hosts have told all. Raises what `_work` does."""
        getting = asyncio.ensure_future(self._told.get())
        await asyncio.wait({getting, work}, return_when=asyncio.FIRST_COMPLETED)
        if not getting.done() and work.done() and not work.cancelled() and work.exception() is not None:
            getting.cancel()
            await work
        return await getting

    async def _work(self, x: Exchange) -> None:
        """Raises ClientGone, Malformed: what the client sends ends in the middle."""
        feeding = asyncio.create_task(self._feed(x))
        hosts = asyncio.create_task(both(*(self._one(host) for host in self._hosts)))
        try:
            await asyncio.wait([feeding, hosts], return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                await feeding
                if not self._lasting:  # until all is sent, reading tells whether the client is there
                    await x.watched(outcome_of(hosts))
            await hosts
        finally:
            for task in (feeding, hosts):
                task.cancel()
            await asyncio.gather(feeding, hosts, return_exceptions=True)
        await self._told.put(b"")

    async def _feed(self, x: Exchange) -> None:
        async for data in x.request.pieces():
            await self._give(data)
        await self._give(b"")

    async def _give(self, data: bytes) -> None:
        for name, queue in self._feeds.items():
            if name not in self.done and name not in self.failed:
                await queue.put(data)

    async def _one(self, host: Machine) -> None:
        feed = self._feeds[host.name]
        try:
            pieces = _pieces(feed)
            async with self._upstreams.sending(host, "POST", self._target, self._headers, pieces) as answer:
                if answer.status >= BAD:
                    raise Refused(answer.status, message_of(await answer.content(MOST)))
                self._begun = True
                async for line in answer.lines():
                    if told := await self._of(line, host.name):
                        await self._told.put(told)
            if host.name not in self.failed:
                self.done.append(host.name)
        except QnetError as error:
            self.failed[host.name] = error
        finally:
            while not feed.empty():  # whoever waits to put something there goes on
                feed.get_nowait()

    async def _of(self, line: bytes, host: str) -> bytes:
        """A line of progress, told apart from other hosts' lines about the same layer."""
        try:
            told = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            return line
        if not isinstance(told, dict):
            return line
        if told.get("error"):
            self.failed[host] = Refused(500, str(told["error"]))
            detail = told.get("errorDetail")
            self._details[host] = detail if isinstance(detail, dict) else {}
            return b""
        if self._heard:
            await self._heard(told)
        if len(self._hosts) > 1:
            told["id"] = f"{host}: {told['id']}" if told.get("id") else host
        return dumps(told)


async def _pieces(queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
    while data := await queue.get():
        yield data
