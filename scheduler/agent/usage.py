"""How busy this host is: now, over the last minutes, over the past hours."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

MINUTES, HOURS = 300.0, 3 * 3600.0  # after so many seconds a change counts for two thirds
RECENT = 300.0  # seconds for which a failure counts


class Usage:
    """Shares of the host's processors or memory that are taken, whichever is more."""

    def __init__(self, clock: Callable[[], float], proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = proc
        self._ticks: tuple[float, float] | None = None
        self._since: float | None = None
        self.now = self.minutes = self.hours = 0.0
        self._failures: deque[float] = deque()

    def look(self) -> None:
        """Look again."""
        busy, total = self._processors()
        before, self._ticks = self._ticks, (busy, total)
        moment, since = self._clock(), self._since
        self._since = moment
        if before is None or since is None or total <= before[1]:
            self.now = self.minutes = self.hours = self._memory()
            return
        self.now = max((busy - before[0]) / (total - before[1]), self._memory())
        self.minutes = _follow(self.minutes, self.now, moment - since, MINUTES)
        self.hours = _follow(self.hours, self.now, moment - since, HOURS)

    def failed(self) -> None:
        """A container has ended with an error."""
        self._failures.append(self._clock())

    @property
    def failures(self) -> int:
        """How many have of late."""
        while self._failures and self._clock() - self._failures[0] > RECENT:
            self._failures.popleft()
        return len(self._failures)

    def _processors(self) -> tuple[float, float]:
        """Ticks that all processors were busy, and all ticks (proc(5))."""
        fields = [float(field) for field in (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(fields) - fields[3] - fields[4], sum(fields)

    def _memory(self) -> float:
        lines = dict(line.split(":", 1) for line in (self._proc / "meminfo").read_text().splitlines())
        total, free = (float(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        return 1 - free / total


def free_bytes(folder: str) -> int:
    """What is left of the file system that a folder, or the nearest one above that exists, is on."""
    place = Path(folder)
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _follow(average: float, value: float, seconds: float, slowness: float) -> float:
    return average + (value - average) * (1 - math.exp(-seconds / slowness))
