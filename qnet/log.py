"""Logging to standard error, with the id of the request in every line that belongs to one.

A request keeps its id on all its ways: the front, or the placement service, gives it one or takes its client's; it
stands in the records that are written for it; whoever acts on such a record on another host goes on under it.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

HEADER = "X-Request-Id"
NONE = "-"
ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PLAIN = re.compile(r"[^\s\"=]+")
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (0, 7))  # syslog(3)

P = ParamSpec("P")
T = TypeVar("T")

request_id: ContextVar[str] = ContextVar("request_id", default=NONE)


def new_request(asked: str = "") -> str:
    """Give the current context a request id: the one asked for, if it is one, or a fresh one."""
    chosen = asked if ID.fullmatch(asked) else secrets.token_hex(8)
    request_id.set(chosen)
    return chosen


def follow(request: str) -> None:
    """Go on under the id that stands in a record; an empty one changes nothing."""
    if request:
        new_request(request)


@contextmanager
def under(request: str) -> Iterator[None]:
    """Do something under that id, then go on under the one before."""
    before = request_id.set(request or NONE)
    try:
        yield
    finally:
        request_id.reset(before)


def current() -> str:
    """The id for a record of what is being done; empty: it belongs to no request."""
    found = request_id.get()
    return "" if found == NONE else found


def carried(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, to be called by another thread: it goes on under this one's request."""
    context = copy_context()

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.copy().run(function, *args, **kwargs)

    return call


def fields(**known: object) -> Mapping[str, Any]:
    """For `extra=` of a logger: what stands behind the message as name=value. Empty values are left out."""
    return {"fields": {name: value for name, value in known.items() if value not in ("", None)}}


class Lines(logging.Formatter):
    """`level request logger: message name=value …`; for the journal with the priority that `journalctl -p` knows."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(levelname)s %(request_id)s %(name)s: %(message)s")
        self._journal = journal

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, without a traceback."""
        record.request_id = request_id.get()
        known: Mapping[str, object] = getattr(record, "fields", {})
        line = super().formatMessage(record) + "".join(f" {name}={_value(value)}" for name, value in known.items())
        return line if line.isprintable() else "".join(map(_visible, line))

    def format(self, record: logging.LogRecord) -> str:
        """All that is written of a record: the journal takes each line by itself, and only the first looks like one."""
        priority = next(number for level, number in PRIORITIES if record.levelno >= level)
        first, *traceback = super().format(record).splitlines()
        start = f"<{priority}>" if self._journal else ""
        return "\n".join([start + first, *(f"{start}  {line}" for line in traceback)])


def setup(level: str) -> None:
    """Log from `level` on. journald adds the time, so there is none in the line."""
    handler = logging.StreamHandler()
    handler.setFormatter(Lines(journal=_to_journal(os.environ.get("JOURNAL_STREAM", ""))))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("docker").setLevel(logging.WARNING)


def _to_journal(stream: str) -> bool:
    """Whether standard error is the stream that systemd.exec(5) says is the journal's."""
    with suppress(OSError, ValueError):
        there = os.fstat(sys.stderr.fileno())
        return stream == f"{there.st_dev}:{there.st_ino}"
    return False


def _visible(letter: str) -> str:
    """One that would end a line or steer a terminal, as Python writes it: names that tenants send are in messages."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _value(value: object) -> str:
    text = str(value)
    return text if PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
