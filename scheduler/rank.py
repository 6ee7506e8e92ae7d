"""How well a host that can take a request would suit it."""

from __future__ import annotations

from scheduler.feasible import Case
from scheduler.model import Machine

FULL = 200  # containers at which a host counts as full, where nobody says what they take
FAILED = 5  # failed starts that count as much as any more


def tagged(image: str) -> str:
    """An image's name as engines list it."""
    return image if "@" in image or ":" in image.rpartition("/")[2] else f"{image}:latest"


def score(case: Case, machine: Machine) -> float:
    """The sum of all scores with their weights; more is better."""
    return sum([weight * value for _, weight, value in scores(case, machine)])


def scores(case: Case, machine: Machine) -> list[tuple[str, float, float]]:
    """Each score that applies: its name, weight, and a value from 0 to 1."""
    fleet, request, name = case.fleet, case.request, machine.name
    policy, load, vital = fleet.policy, fleet.load(name), fleet.vital(name)
    taken = max(
        (load.cpus + request.cpus) / (machine.cpus * policy.overcommit_cpus or 1),
        (load.memory + request.memory) / (machine.memory * policy.overcommit_memory or 1),
        (load.running + 1) / FULL,
    )
    found = [
        ("room", policy.room, 1 - taken if policy.strategy == "spread" else taken),
        ("usage", policy.now, 1 - vital.now),
        ("usage over hours", policy.hours, 1 - vital.hours),
        ("image", policy.image, 1.0 if tagged(request.image) in vital.images else 0.0),
        ("failures", policy.failures, 1 - min(vital.failures, FAILED) / FAILED),
    ]
    for constraint in case.soft:
        found.append((str(constraint), policy.wishes, float(constraint.holds(name, machine.labels))))
    for affinity, beside in case.beside:
        if not affinity.hard:
            found.append((str(affinity), policy.wishes, float((name in beside) is affinity.wanted)))
    for spread, counts in case.standing:
        there = counts.get(spread.value(name, machine.labels), 0)
        found.append((f"spread over {spread.label}", policy.apart, 1 / (1 + there)))
    return found
