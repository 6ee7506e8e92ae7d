"""How well a host that can take a request would suit it."""

from __future__ import annotations

from collections.abc import Callable
from operator import mul

from scheduler.feasible import Case
from scheduler.fleet import CALM, NOTHING
from scheduler.model import Machine

FULL = 200  # containers at which a host counts as full, where nobody says what they take
FAILED = 5  # failed starts that count as much as any more


def ranker(case: Case) -> Callable[[Machine], float]:
    """What tells the sum of all scores of a host with their weights; more is better."""
    weights = [weight for _, weight in _weights(case)]
    return lambda machine: sum(map(mul, weights, _values(case, machine)))


def scores(case: Case, machine: Machine) -> list[tuple[str, float, float]]:
    """Each score that applies: its name, weight, and a value from 0 to 1."""
    return [(*weight, value) for weight, value in zip(_weights(case), _values(case, machine), strict=True)]


def _weights(case: Case) -> list[tuple[str, float]]:
    """The scores that apply, in the order of `_values`: the same for all hosts."""
    policy = case.fleet.policy
    return [
        ("room", policy.room),
        ("usage", policy.now),
        ("usage over hours", policy.hours),
        ("image", policy.image),
        ("failures", policy.failures),
        *((str(constraint), policy.wishes) for constraint in case.soft),
        *((str(affinity), policy.wishes) for affinity, _ in case.beside if not affinity.hard),
        *((f"spread over {spread.label}", policy.apart) for spread, _ in case.standing),
    ]


def _values(case: Case, machine: Machine) -> list[float]:
    fleet, request, name = case.fleet, case.request, machine.name
    policy, load, vital = fleet.policy, fleet.loads.get(name, NOTHING), fleet.vitals.get(name, CALM)
    taken = max(
        (load.cpus + request.cpus) / (machine.cpus * policy.overcommit_cpus or 1),
        (load.memory + request.memory) / (machine.memory * policy.overcommit_memory or 1),
        (load.running + 1) / FULL,
    )
    found = [
        1 - taken if policy.strategy == "spread" else taken,
        1 - vital.now,
        1 - vital.hours,
        1.0 if case.image in vital.images else 0.0,
        1 - min(vital.failures, FAILED) / FAILED,
    ]
    if case.soft:
        found += [float(constraint.holds(name, machine.labels)) for constraint in case.soft]
    if case.beside:
        found += [float((name in beside) is rule.wanted) for rule, beside in case.beside if not rule.hard]
    for spread, counts in case.standing:
        found.append(1 / (1 + counts.get(spread.value(name, machine.labels), 0)))
    return found
