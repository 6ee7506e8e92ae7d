"""The sparse set behaves as a set does, and finds the next free number wherever it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from qnet.addresses.addrset import AddressSet

SIZES = st.sampled_from([1, 2, 255, 256, 257, 65_536, 70_000])


def reference(members: set[int], start: int, end: int, size: int) -> int | None:
    return next((number for number in range(start, min(end, size)) if number not in members), None)


class AgainstSet(RuleBasedStateMachine):
    """Operations on a small universe, compared with a built-in set."""

    SIZE = 600

    def __init__(self) -> None:
        super().__init__()
        self.tested = AddressSet(self.SIZE)
        self.model: set[int] = set()

    @rule(offset=st.integers(0, SIZE - 1))
    def add(self, offset: int) -> None:
        assert self.tested.add(offset) == (offset not in self.model)
        self.model.add(offset)

    @rule(first=st.integers(0, SIZE - 1), length=st.integers(1, 300))
    def add_run(self, first: int, length: int) -> None:
        for offset in range(first, min(first + length, self.SIZE)):
            self.add(offset)

    @rule(offset=st.integers(0, SIZE - 1))
    def discard(self, offset: int) -> None:
        assert self.tested.discard(offset) == (offset in self.model)
        self.model.discard(offset)

    @rule(start=st.integers(0, SIZE + 5), end=st.integers(0, SIZE + 5))
    def next_free(self, start: int, end: int) -> None:
        assert self.tested.next_free(start, end) == reference(self.model, start, end, self.SIZE)

    @invariant()
    def same_size(self) -> None:
        assert len(self.tested) == len(self.model)


TestAgainstSet = AgainstSet.TestCase


@given(size=SIZES, seed=st.integers(0, 2**32))
def test_one_free_among_many_is_found(size: int, seed: int) -> None:
    hole = random.Random(seed).randrange(size)
    tested = AddressSet(size)
    for offset in range(size):
        if offset != hole:
            tested.add(offset)
    assert tested.next_free(0, size) == hole
    assert tested.next_free(hole + 1, size) is None
    assert tested.next_free(0, hole) is None


@pytest.mark.parametrize("bits", [24, 64, 96])
def test_memory_is_by_use(bits: int) -> None:
    tested = AddressSet(1 << bits)
    for offset in range(0, 1 << bits, 1 << (bits - 4)):
        tested.add(offset)
    assert len(tested) == 16
    assert sum(len(level) for level in tested._levels) == 16
    assert tested.next_free((1 << bits) - 1, 1 << bits) == (1 << bits) - 1


def test_emptied_set_holds_nothing() -> None:
    tested = AddressSet(1 << 24)
    for offset in range(70_000):
        tested.add(offset)
    for offset in range(70_000):
        tested.discard(offset)
    assert [len(level) for level in tested._levels] == [0, 0, 0]
