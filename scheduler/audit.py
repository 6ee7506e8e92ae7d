"""Who changed what, where, with which result: one JSON object a line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from logging.handlers import WatchedFileHandler

import msgspec

from qnet import log


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One change, or one that was refused."""

    at: str
    who: str
    did: str
    what: str
    tenant: str = ""
    where: str = ""
    result: str = "done"
    request: str = ""


class Audit:
    """Writes to a file, which may be moved away at any time, or to the log."""

    def __init__(self, file: str, now: Callable[[], str]) -> None:
        """Raises OSError: the file cannot be written."""
        self._now = now
        self._log = logging.getLogger("qnet.audit")
        self._log.setLevel(logging.INFO)
        self._log.propagate = not file
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            handler.close()
        if file:
            handler = WatchedFileHandler(file)
            handler.setFormatter(logging.Formatter("%(message)s"))
            self._log.addHandler(handler)

    def note(self, who: str, did: str, what: str, tenant: str = "", where: str = "", result: str = "done") -> None:
        """Write a line."""
        entry = Entry(self._now(), who, did, what, tenant, where, result, log.current())
        self._log.info("%s", msgspec.json.encode(entry).decode())
