"""The commands of the guides: lines such as `host1# qnet doctor` in blocks of code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.lab.model import PROJECT

_LINE = re.compile(r"^(host\d)# (.+)$")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, the host that it is typed on, and the heading that it stands under."""

    heading: str
    host: str
    command: str


def steps(page: str) -> list[Step]:
    """The commands of a page below docs/, in order."""
    heading, found = "", []
    for line in Path(PROJECT / "docs" / page).read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif match := _LINE.match(line):
            found.append(Step(heading, match[1], match[2]))
    return found
