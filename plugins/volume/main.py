"""Entry point of `sharedfs`: Docker's volume plugin of qnet.

This process only watches over the worker that serves, so it imports no more than it needs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from qnet import log, settings
from qnet.daemon import Daemon
from qnet.errors import QnetError
from qnet.settings import Settings

if TYPE_CHECKING:
    from flask import Flask


def build(config: Settings) -> tuple[Flask, Callable[[], None]]:
    """The application and what stops it; called in the worker."""
    from plugins.volume.compose import compose

    return compose(config)


def main() -> None:
    """Serve until SIGTERM."""
    try:
        config = settings.from_command_line("sharedfs", "Docker's volume plugin of qnet")
    except QnetError as error:
        sys.exit(f"sharedfs: {error}")
    log.setup(config.log.level)
    Daemon(partial(build, config), Path(config.volume.socket), config.volume.threads).run()
