"""The real plugin, killed at a chosen step: run in place of `qnet-network` by the tests of faults.

A step is a call over the boundary of the process: to the store, to the kernel if it changes something there, to a
command, to a file, or the answer itself. While /run/qnet-fault.json is there ({"kill_at": N, "in": WHERE}), steps are
counted and named in /run/qnet-fault.steps; before step N both processes of the plugin are killed. WHERE is "request"
for what is done for the engine, or the name of a thread.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plugins import main

ARMED = Path("/run/qnet-fault.json")
STEPS = Path("/run/qnet-fault.steps")

READS = ("dump", "get")  # netlink's

_lock = threading.Lock()


def _step(where: str, name: str) -> None:
    with _lock:
        try:
            armed = json.loads(ARMED.read_text())
        except FileNotFoundError:
            return
        if armed["in"] != where:
            return
        with STEPS.open("a+") as steps:
            steps.write(f"{name}\n")
            steps.seek(0)
            count = len(steps.readlines())
        if count == armed["kill_at"]:
            ARMED.unlink()
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, method: str) -> None:
    from flask import has_request_context, request
    from pyroute2.iproute.linux import AsyncIPRoute

    real: Callable[..., Any] = getattr(owner, method)
    label = f"{getattr(owner, '__name__', owner)}.{method}".removeprefix("qnet.wire._json")

    @functools.wraps(real)
    def counted(*args: Any, **options: Any) -> Any:
        command = args[1] if owner is AsyncIPRoute else ""
        if command not in READS:
            what = f"{label} {command}".strip()
            if has_request_context():
                _step("request", f"{request.path.removeprefix('/')} {what}")
            else:
                _step(threading.current_thread().name, what)
        return real(*args, **options)

    setattr(owner, method, counted)


def build(config: Any) -> Any:
    """The product with its boundaries wrapped."""
    from pyroute2.iproute.linux import AsyncIPRoute

    from plugins.compose import compose
    from plugins.ipam.journal import Journal
    from plugins.network import tunnels
    from qnet import nft, wire
    from qnet.folder import Folder
    from qnet.store.etcd import EtcdStore

    boundaries = (
        (EtcdStore, ("get", "put", "delete", "range", "txn", "grant")),
        (AsyncIPRoute, ("link", "addr", "route", "neigh", "tc")),
        (subprocess, ("run",)),
        (nft, ("run",)),
        (tunnels, ("_send",)),
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
