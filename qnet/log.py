"""Logging to standard error, with the id of the request in every line that belongs to one."""

from __future__ import annotations

import logging
import secrets
from contextvars import ContextVar

request_id: ContextVar[str] = ContextVar("request_id", default="-")


def new_request() -> str:
    """Give the current context a fresh request id."""
    fresh = secrets.token_hex(4)
    request_id.set(fresh)
    return fresh


def setup(level: str) -> None:
    """Log from `level` on. journald adds the time, so there is none in the line."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(request_id)s %(name)s: %(message)s"))
    handler.addFilter(_with_request_id)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    logging.getLogger("docker").setLevel(logging.WARNING)


def _with_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get()
    return True
