"""Records of one kind that a host must not forget: in memory, and in one file each."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

logger = logging.getLogger(__name__)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A record; `id` names its file: letters, digits and what else file names may have."""

    id: str


RecordT = TypeVar("RecordT", bound=Kept)


class Folder(Generic[RecordT]):
    """Records in memory and in one file each, written before memory changes."""

    def __init__(self, folder: Path, kind: type[RecordT], durable: bool) -> None:
        self._folder = folder
        self._durable = durable
        self._kind: type[RecordT] = kind
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._records: dict[str, RecordT] = {}
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for unfinished in folder.glob("*.new"):
            unfinished.unlink()
        for file in sorted(folder.glob("*.json")):
            self._load(file)

    def get(self, record: str) -> RecordT | None:
        """The record with this id."""
        return self._records.get(record)

    def all(self) -> tuple[RecordT, ...]:
        """All records."""
        with self._lock:
            return tuple(self._records.values())

    def save(self, record: RecordT) -> None:
        """Write a record: all of it or nothing, whatever happens meanwhile."""
        with self._writing:
            self._write(record)

    def amend(self, record: str, **fields: Any) -> None:
        """Change fields of a record, unless it is gone meanwhile."""
        with self._writing:
            found = self._records.get(record)
            if found is not None:
                self._write(msgspec.structs.replace(found, **fields))

    def _write(self, record: RecordT) -> None:
        fresh = self._folder / f"{record.id}.new"
        with fresh.open("wb") as out:
            out.write(msgspec.json.encode(record))
            if self._durable:
                out.flush()
                os.fsync(out.fileno())
        fresh.replace(self._folder / f"{record.id}.json")
        if self._durable:
            self._sync_folder()
        with self._lock:
            self._records[record.id] = record

    def remove(self, record: str) -> None:
        """Forget a record; one that is gone is no error."""
        with self._writing:
            with self._lock:
                self._records.pop(record, None)
            (self._folder / f"{record}.json").unlink(missing_ok=True)

    def _load(self, file: Path) -> None:
        try:
            record = msgspec.json.decode(file.read_bytes(), type=self._kind)
        except msgspec.MsgspecError as error:
            logger.error("%s is damaged and passed over: %s", file, error)
            return
        self._records[record.id] = record

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
