"""Man pages of `qnet`, its subcommands and the daemons: `python -m tests.man DIR`.

They have no date but that of SOURCE_DATE_EPOCH, so that a package with them can be built again the same.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from copy import copy
from importlib.metadata import version
from pathlib import Path

import click
from click_man.core import generate_man_page
from click_man.man import ManPage

from qnet.settings import DEFAULT_FILE
from tests.reference import DAEMONS, contexts, daemon_help

LONGEST = 1000  # of a summary: not cut off
FILES = f".SH FILES\n.TP\n\\fB{DEFAULT_FILE}\\fP\nThe settings of this host; see \\fBqnet\\-config\\fP(1).\n"


def pages() -> Mapping[str, str]:
    """Every page by the name of its file."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = time.strftime("%Y-%m-%d", time.gmtime(int(epoch))) if epoch else " "
    told = {}
    for context in contexts():
        context.command = command = _summed_up(context.command)
        command.help = (command.help or "").replace("\b\n", ".nf\n")
        if isinstance(command, click.Group):  # click-man asks for no command by its name
            children = {name: command.get_command(context, name) for name in command.list_commands(context)}
            command.commands = {name: _summed_up(child) for name, child in children.items() if child}
        path, name = context.command_path, context.command_path.replace(" ", "-")
        page = generate_man_page(context, version("qnet"), date)
        told[f"{name}.1"] = page.replace(f"See \\fB{path}-", f"See \\fB{name}-") + FILES  # its own has a space
    for name in DAEMONS:
        usage, description, options = daemon_help(name).split("\n\n", 2)
        made = ManPage(name)
        made.version, made.date, made.short_help = version("qnet"), date, description
        made.synopsis = usage.partition(name)[2].strip()
        made.options = [map(str.strip, line.strip().split("  ", 1)) for line in options.splitlines()[1:]]
        told[f"{name}.8"] = str(made).replace('" "1" "', '" "8" "', 1) + FILES
    return told


def _summed_up(command: click.Command) -> click.Command:
    """A copy with a summary, which click-man would cut off."""
    made = copy(command)
    made.short_help = command.get_short_help_str(LONGEST).rstrip(".")
    return made


def main(folder: Path) -> None:
    """Write every page into a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages().items():
        (folder / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
