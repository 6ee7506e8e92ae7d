"""What a benchmark promises and what it found."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from tests.lab.cluster import Lab

RATIO = "times"


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of the table and the value that it must reach."""

    figure: str
    unit: str
    relation: Literal["≤", "≥"]
    limit: float

    @property
    def must(self) -> str:
        return f"{self.relation} {self.limit:g}"

    def reached(self, value: float) -> bool:
        """Whether a value is good enough; nothing is rounded."""
        return value <= self.limit if self.relation == "≤" else value >= self.limit


@dataclass(frozen=True, slots=True)
class Measured:
    """The value of one figure. `detail` says what it was made of and how much it varied."""

    goal: Goal
    value: float
    detail: str


class Group(Protocol):
    """A module that measures some figures in a running lab; `tests.bench.registry` lists them. With STORAGE = True the
    lab has GlusterFS, too."""

    @property
    def GOALS(self) -> Sequence[Goal]:
        """The figures that it promises."""

    def measure(self, lab: Lab) -> Iterable[Measured]:
        """Yield one value for each goal; an exception loses those that have not been yielded."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Several observations of one number."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        """`1.42 (1.38 to 1.60, n=7)`: median, and the middle half of the values."""
        low, _, high = statistics.quantiles(self.values, n=4) if len(self.values) > 1 else self.values * 3
        return f"{_short(self.median)} ({_short(low)} to {_short(high)}, n={len(self.values)})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: Iterable[float]) -> Spread:
    """Observations, as far as they are numbers."""
    return Spread(tuple(value for value in values if math.isfinite(value)))


def interleaved(rounds: int, **measures: Callable[[], float]) -> dict[str, list[float]]:
    """Observe each measure once a round, every other round in the opposite order: what loads the machine
    meanwhile falls on all alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in _order(list(measures), number):
            found[name].append(measures[name]())
    return found


def _order(names: list[str], number: int) -> Iterator[str]:
    return iter(names if number % 2 == 0 else names[::-1])


def paired(found: dict[str, list[float]], over: str, under: str) -> Spread:
    """The ratio of two measures, round by round."""
    return spread(a / b for a, b in zip(found[over], found[under], strict=True))
