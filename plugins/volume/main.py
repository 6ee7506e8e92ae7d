"""Entry point of `sharedfs`: Docker's volume plugin of qnet.

This process only watches over the worker that serves, so it imports no more than it needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qnet.daemon import serve
from qnet.settings import Settings

if TYPE_CHECKING:
    from flask import Flask


def build(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """The application and what stops it; called in the worker."""
    from plugins.volume.compose import compose

    return compose(config)


def main() -> None:
    """Serve until SIGTERM."""
    serve("sharedfs", "Docker's volume plugin of qnet", build, "volume")
