"""What the front finds and tells by itself, without an engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from scheduler.gateway.containers import _named
from scheduler.gateway.events import Topic
from scheduler.model import Container, Machine
from scheduler.view import View
from tests.store.memory import MemoryStore


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(a+)+$", False), ("^/a+-$", True), ("^a+-$", True), ("a-", True), ("/a", True), ("(", False), ("b", False),
        ("^/a-$", False), ("^a-$", False), ("/a-", False), ("a$", False),
    ],
)  # fmt: skip
def test_patterns_are_engines_and_cannot_stop_the_front(pattern: str, found: bool) -> None:
    one = Container(name="a" * 60 + "-", host="host1", tenant="shop", image="busybox")
    assert _named(one, "name", [pattern]) is found


@pytest.mark.parametrize(
    "image", ["shop/app@sha256:" + "1" * 64, "shop/app:1@sha256:" + "1" * 64, "sha256:" + "1" * 64]
)
def test_nobody_uses_an_image_by_its_digest_who_has_not_brought_it(image: str) -> None:
    store = MemoryStore()
    assert not View(store).sees("evil", image)
    assert View(store).sees("evil", "busybox")
    store.close()


def test_events_come_though_an_engine_tells_them_the_other_way_round() -> None:
    """Only what a stream that broke off has told already is left out of the next one."""

    async def told() -> list[int]:
        host, found = Machine(name="host1", cpus=1, memory=1), asyncio.Queue[Any]()
        topic = Topic(cast("Any", None), "/events", list, ends=False)
        topic.listeners.add(found)
        for when, border in ((5, 0), (3, 0), (7, 0), (7, 7), (8, 7)):
            event = {"Type": "container", "timeNano": when, "Actor": {"Attributes": {}}}
            topic._tell(json.dumps(event).encode(), host, border)
        topic.close()
        return [found.get_nowait()[0]["timeNano"] for _ in range(found.qsize())]

    assert asyncio.run(told()) == [5, 3, 7, 8]
