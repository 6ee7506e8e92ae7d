"""How every daemon begins, and takes up changed settings."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from qnet import log, settings
from qnet.errors import QnetError
from qnet.settings import Settings

logger = logging.getLogger(__name__)


def begin(name: str, description: str) -> tuple[Settings, Callable[[], None]]:
    """The settings of a daemon, and what to do on SIGHUP: it has those in force that may change, and logs of the
    others that they need a restart. Wrong settings end the process."""
    file = settings.parser(name, description).parse_args().config
    try:
        config = settings.load(file)
    except QnetError as error:
        refuse(name, error)
    log.setup(config.log.level)
    os.umask(0o022)  # modes of what is made, volumes too, do not depend on who starts this

    def reload() -> None:
        try:
            fresh = settings.load(file)
        except QnetError as error:
            logger.error("the settings stay as they are: %s", error)
            return
        log.setup(fresh.log.level)
        changes = settings.changes(config, fresh)
        waiting = [change.option for change in changes if change.restart]
        taken = [change.option for change in changes if not change.restart]
        logger.warning("settings read again; in force: %s", ", ".join(taken) or "nothing new")
        if waiting:
            logger.warning("settings that need a restart (systemctl restart %s): %s", name, ", ".join(waiting))

    return config, reload


def refuse(name: str, error: QnetError) -> NoReturn:
    """End: these settings make no sense, and starting again does not help."""
    print(f"{name}: {error}", file=sys.stderr)
    sys.exit(os.EX_CONFIG)
