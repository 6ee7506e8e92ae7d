"""What a daemon tells systemd, see sd_notify(3) and sd_watchdog_enabled(3). Without systemd, nothing happens."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

# Taken away at once: gunicorn would say that it is ready before a worker is, and children have nothing to tell.
_NOTIFY = os.environ.pop("NOTIFY_SOCKET", "")
_WATCHDOG = int(os.environ.pop("WATCHDOG_USEC", "0") or 0) / 1_000_000
os.environ.pop("WATCHDOG_PID", None)  # of a service with workers, any of its processes may tell


def report(waiting_for: str = "") -> None:
    """The daemon serves, and has looked once at what it needs; what of that is away, `systemctl status` shows."""
    _tell(f"READY=1\nSTATUS={f'waiting: {waiting_for}' if waiting_for else 'serving'}")


def stopping() -> None:
    """The daemon ends."""
    _tell("STOPPING=1")


def watch(alive: Callable[[], bool]) -> None:
    """Tell as often as the unit's `WatchdogSec=` asks for that the daemon lives, as long as `alive` says so."""
    if _WATCHDOG:
        threading.Thread(target=_watch, args=(alive,), name="watchdog", daemon=True).start()


def _watch(alive: Callable[[], bool]) -> None:
    pause = threading.Event()
    while not pause.wait(_WATCHDOG / 4):
        if alive():
            _tell("WATCHDOG=1")
        else:
            logger.error("no sign of life: systemd will restart this")


def _tell(state: str) -> None:
    if not _NOTIFY:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        try:
            told.sendto(state.encode(), f"\0{_NOTIFY[1:]}" if _NOTIFY[0] == "@" else _NOTIFY)
        except OSError as error:
            logger.warning("systemd is not told %s: %s", state.partition("\n")[0], error.strerror)
