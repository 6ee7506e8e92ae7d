"""What the front finds by itself of what hosts that do not answer have."""

from __future__ import annotations

import pytest

from scheduler.gateway.containers import _named
from scheduler.model import Container
from scheduler.view import View
from tests.store.memory import MemoryStore


@pytest.mark.parametrize(
    ("pattern", "found"), [("(a+)+$", False), ("^/a+-$", True), ("a-", True), ("(", False), ("b", False)]
)
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
