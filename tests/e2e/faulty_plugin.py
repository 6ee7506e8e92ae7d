"""The real plugin, killed at a chosen step: run in place of `qnet-network` by the tests of faults.

A step is a call over the boundary of the process, made for the engine: to the store, to the kernel, to a file, or the
answer itself. While /run/qnet-fault.json is there ({"kill_at": N}), steps are counted and named in
/run/qnet-fault.steps; before step N both processes of the plugin are killed.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plugins import main

ARMED = Path("/run/qnet-fault.json")
STEPS = Path("/run/qnet-fault.steps")

_lock = threading.Lock()
_count = 0


def _step(name: str) -> None:
    global _count  # noqa: PLW0603
    with _lock:
        try:
            kill_at = json.loads(ARMED.read_text())["kill_at"]
        except FileNotFoundError:
            _count = 0
            return
        _count += 1
        with STEPS.open("a") as out:
            out.write(f"{name}\n")
        if _count == kill_at:
            ARMED.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, method: str) -> None:
    from flask import has_request_context, request

    real: Callable[..., Any] = getattr(owner, method)
    label = f"{getattr(owner, '__name__', owner)}.{method}".removeprefix("qnet.wire._json")

    @functools.wraps(real)
    def counted(*args: Any, **options: Any) -> Any:
        if has_request_context():
            _step(f"{request.path.removeprefix('/')} {label}")
        return real(*args, **options)

    setattr(owner, method, counted)


def build(config: Any) -> Any:
    """The product with its boundaries wrapped."""
    from plugins.compose import compose
    from plugins.ipam.journal import Journal
    from plugins.network.filters import Filters
    from plugins.network.links import Links
    from plugins.network.namespaces import Namespaces
    from plugins.network.repository import Folder
    from qnet import wire
    from qnet.store.etcd import EtcdStore

    boundaries = (
        (EtcdStore, ("get", "put", "delete", "range", "txn", "grant")),
        (Links, ("add", "delete", "sync", "attach")),
        (Namespaces, ("add", "delete", "configure")),
        (Filters, ("load",)),
        (Folder, ("save", "remove")),
        (Journal, ("add",)),
        (wire, ("_json",)),
    )
    for owner, methods in boundaries:
        for method in methods:
            _wrap(owner, method)
    return compose(config)


if __name__ == "__main__":
    main.build = build
    main.main()
