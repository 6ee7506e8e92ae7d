"""What is missing or too much counts only when it is so for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Sightings:
    """What was seen, and since when without a break."""

    def __init__(self, grace: float, clock: Callable[[], float]) -> None:
        self._grace = grace
        self._clock = clock
        self._since: dict[str, float] = {}

    def overdue(self, seen: Iterable[str]) -> list[str]:
        """Those that are seen now and were `grace` seconds ago; never at the first sighting."""
        now, before = self._clock(), self._since
        self._since = {name: before.get(name, now) for name in seen}
        return [name for name in self._since if name in before and now - before[name] >= self._grace]
