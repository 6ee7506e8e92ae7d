"""Where a request goes. Of the hosts that suit it a few are drawn, and the best of them that can take it is chosen:
that balances as well as a look at all, costs the same for any number of hosts, and lets several deciders with views
that are a moment old seldom choose the same. Only where the draw finds nobody are all looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

import msgspec

from qnet.errors import Exhausted
from scheduler.feasible import Case, Miss, refusal
from scheduler.fleet import Fleet
from scheduler.model import Machine, Request
from scheduler.rank import ranker, scores

SAMPLE = 8  # hosts that can take it
DRAWS = 32  # tries to find them
MANY = 256  # values of a label that are not looked at one by one


class Verdict(msgspec.Struct, frozen=True):
    """What a dry run tells of a host: why it cannot take the request, or how it scores in what."""

    host: str
    misses: tuple[Miss, ...]
    score: float = 0.0
    scores: tuple[tuple[str, float, float], ...] = ()


class Busy(Exception):
    """Only hosts that were to be passed over can take it."""


def place(fleet: Fleet, request: Request, random: Random, avoid: Collection[str] = ()) -> str:
    """The host to take it, but none of `avoid`.

    Raises:
        Exhausted: there is none; every filter with how many hosts it drops.
        Busy: there are some in `avoid`.
    """
    case = Case(fleet, request)
    found = _drawn(case, random, avoid)
    if not found:
        all_ = [machine for machine in map(fleet.machines.__getitem__, case.hosts.names) if case.fits(machine)]
        if not all_:
            raise Exhausted(refusal(case))
        found = [machine for machine in all_ if machine.name not in avoid]
        if not found:
            raise Busy
    return max(found, key=ranker(case)).name


def explain(fleet: Fleet, request: Request) -> list[Verdict]:
    """Every host: those that can take it by score, the best first, then the others by name."""
    case, found = Case(fleet, request), []
    for machine in fleet.machines.values():
        misses = tuple(case.misses(machine))
        parts = () if misses else tuple(scores(case, machine))
        found.append(Verdict(machine.name, misses, sum(weight * value for _, weight, value in parts), parts))
    return sorted(found, key=lambda one: (bool(one.misses), -one.score, one.host))


def _drawn(case: Case, random: Random, avoid: Collection[str]) -> list[Machine]:
    """A few hosts that can take it."""
    machines, draw, fits = case.fleet.machines, _draw(case, random), case.fits
    found: dict[str, Machine] = {}
    for _ in range(DRAWS):
        name = draw()
        if name in found or name in avoid:
            continue
        machine = machines.get(name)
        if machine is not None and fits(machine):
            found[name] = machine
            if len(found) == SAMPLE:
                break
    return list(found.values())


def _draw(case: Case, random: Random) -> Callable[[], str]:
    """What draws a host: of those beside whom it must be; else at a value of the first label to spread over where the
    fewest of its group are; else of all that suit it. It may draw one that does not, or nobody: an empty name."""
    below = random.random

    def one_of(names: Sequence[str]) -> str:
        return names[int(below() * len(names))] if names else ""

    for affinity, found in case.beside:
        if affinity.hard and affinity.wanted:
            names = [name for name in sorted(found) if case.suits(name)]
            return lambda: one_of(names)
    for spread, counts in case.standing:
        values = case.hosts.by_value(spread, case.fleet.machines)
        least = 0 if len(counts) < len(values.hosts) else min(counts.values(), default=0)
        if len(values.hosts) > MANY:  # most of them have none, or all nearly the same
            return lambda: _reject(one_of(values.names), values.hosts, counts, least, one_of)
        few = [name for name in values.names if counts.get(name, 0) <= least]
        return lambda: one_of(values.hosts[one_of(few)]) if few else ""
    names = case.hosts.names
    return lambda: one_of(names)


def _reject(
    value: str,
    hosts: Mapping[str, Sequence[str]],
    counts: Mapping[str, int],
    least: int,
    one_of: Callable[[Sequence[str]], str],
) -> str:
    return one_of(hosts[value]) if value and counts.get(value, 0) <= least else ""
