"""The placement service, with something killed at one step of the first run that it makes.

QNET_LAB_STEP names the step, QNET_LAB_KILL the process to be killed (0: this one; below 0: a group of processes).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from scheduler.commit import Desk
from scheduler.engines import Engines
from scheduler.main import main

STEPS = {
    "placed": (Engines, "create", "before"),
    "made": (Engines, "create", "after"),
    "starting": (Engines, "start", "before"),
    "started": (Engines, "start", "after"),
    "confirmed": (Desk, "confirm", "after"),
}


def kill() -> None:
    """Once, and whoever is meant."""
    victim = int(os.environ.pop("QNET_LAB_KILL", "") or 1)
    if victim == 1:
        return
    if victim == 0:
        os.kill(os.getppid(), signal.SIGKILL)  # gunicorn's arbiter would start another worker
        os.kill(os.getpid(), signal.SIGKILL)
    os.kill(victim, signal.SIGKILL)


def faulty(kind: type, name: str, when: str) -> None:
    """Kill before or after a method has done its work."""
    work: Callable[..., Any] = getattr(kind, name)

    def instead(*args: Any, **kwargs: Any) -> Any:
        if when == "before":
            kill()
        done = work(*args, **kwargs)
        if when == "after":
            kill()
        return done

    setattr(kind, name, instead)


if __name__ == "__main__":
    faulty(*STEPS[os.environ["QNET_LAB_STEP"]])
    main()
