"""Entry point of `qnet-scheduler`: the placement service. Any number of them run; none leads."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qnet.daemon import serve
from qnet.settings import Settings

if TYPE_CHECKING:
    from flask import Flask


def build(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """The application and what stops it; called in the worker."""
    from scheduler.compose import compose

    return compose(config)


def main() -> None:
    """Serve until SIGTERM."""
    serve("qnet-scheduler", "The placement service of qnet", build, "scheduler")
