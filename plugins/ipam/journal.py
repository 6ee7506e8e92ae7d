"""Releases that the store could not take, kept on disk until it can."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from qnet.errors import Unavailable

logger = logging.getLogger(__name__)


class Entry(msgspec.Struct, frozen=True):
    """A release to be done: of this address, if it still has this claim."""

    tenant: str
    subnet: str
    address: str
    claim: str


class Journal:
    """One JSON line for each release; a line that was cut off by a crash is passed over."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._replaying = threading.Lock()
        self._waiting = file.exists()

    def add(self, entry: Entry) -> None:
        """Write an entry to disk before the engine gets its answer."""
        with self._lock:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as out:
                out.write(msgspec.json.encode(entry) + b"\n")
                out.flush()
                os.fsync(out.fileno())
            self._waiting = True

    def entries(self) -> tuple[Entry, ...]:
        """What is still to be done, oldest first."""
        with self._lock:
            return self._read()

    def __len__(self) -> int:
        return len(self.entries()) if self._waiting else 0

    def replay(self, do: Callable[[Entry], None]) -> int:
        """Do every entry, and forget those that were done. Returns how many; stops when the store is away again, and
        leaves it to another thread that is at it already."""
        if not self._waiting or not self._replaying.acquire(blocking=False):
            return 0
        try:
            return self._replay(do)
        finally:
            self._replaying.release()

    def _replay(self, do: Callable[[Entry], None]) -> int:
        done = 0
        for entry in self.entries():
            try:
                do(entry)
            except Unavailable as error:
                logger.info("journal: %d releases done, the rest later: %s", done, error)
                break
            done += 1
        with self._lock:
            left = self._read()[done:]
            self._write(left)
            self._waiting = bool(left)
        return done

    def _read(self) -> tuple[Entry, ...]:
        try:
            lines = self._file.read_bytes().splitlines()
        except FileNotFoundError:
            return ()
        found = []
        for line in lines:
            try:
                found.append(msgspec.json.decode(line, type=Entry))
            except msgspec.MsgspecError as error:
                logger.error("journal %s: a line is damaged and passed over: %s", self._file, error)
        return tuple(found)

    def _write(self, entries: tuple[Entry, ...]) -> None:
        if not entries:
            self._file.unlink(missing_ok=True)
            return
        fresh = self._file.with_suffix(".new")
        fresh.write_bytes(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        fresh.replace(self._file)
