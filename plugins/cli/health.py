"""What a check of `qnet doctor` finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qnet.errors import QnetError

Level: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what is well or wrong, and what to do about it."""

    level: Level
    what: str
    todo: str = ""


Check: TypeAlias = Callable[[], Iterable[Finding]]


def found_by(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds; its own failure is a finding too."""
    try:
        yield from check()
    except PermissionError as error:
        yield Finding("fail", f"{name}: {error.filename}: {error.strerror}", "run qnet doctor as root")
    except (QnetError, OSError) as error:
        yield Finding("fail", f"{name}: {error}")
