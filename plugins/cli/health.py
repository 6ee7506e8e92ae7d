"""What a check of `qnet doctor` finds, and how checks are made: all at the same time, none for longer than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias, TypeVar

from qnet.errors import QnetError

T = TypeVar("T")
Level: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what is well or wrong, and what to do about it."""

    level: Level
    what: str
    todo: str = ""


Check: TypeAlias = Callable[[], Iterable[Finding]]


def at_once(checks: Sequence[tuple[str, Check]], deadline: float) -> Iterator[Finding]:
    """What named checks find, in their order. They are made at the same time; one that is not done at the deadline
    (of `time.monotonic`) is left behind, which is a finding too."""
    for name, found in [(name, begun(name, partial(_listed, name, check))) for name, check in checks]:
        try:
            yield from found.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            yield Finding("fail", f"{name}: not known in time", "see what the other findings say, then try again")


def found_by(name: str, check: Check) -> Iterator[Finding]:
    """What a check finds; its own failure is a finding too."""
    try:
        yield from check()
    except PermissionError as error:
        yield Finding("fail", f"{name}: {error.filename}: {error.strerror}", "run qnet doctor as root")
    except (QnetError, OSError) as error:
        yield Finding("fail", f"{name}: {error}")


def begun(name: str, work: Callable[[], T]) -> Future[T]:
    """Have a thread do something that may be left behind."""
    found: Future[T] = Future()

    def make() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
            found.set_exception(error)

    threading.Thread(target=make, name=name, daemon=True).start()
    return found


def _listed(name: str, check: Check) -> list[Finding]:
    return list(found_by(name, check))
