"""The commands of README.md and the pages below docs/, as a reader types them: behind `host1# ` or `$ ` in blocks of
code, where all other lines are what is answered; without either in a block that names no language, each line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.model import PROJECT

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_PROMPT = re.compile(r"^(?:(host\d)# |\$ )(.+)$")
_REMARK = re.compile(r"\s+# .*$")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, the host that it is typed on if the page says which, the heading that it stands under, and the lines
    that the page shows as its answer."""

    heading: str
    host: str
    command: str
    shown: tuple[str, ...] = ()


def path(page: str) -> Path:
    """README.md's, or that of a page below docs/."""
    return PROJECT / page if page.startswith("README") else PROJECT / "docs" / page


def steps(page: str) -> list[Step]:
    """The commands of a page, in order."""
    text = path(page).read_text()
    headings = [(match.start(), match[1]) for match in _HEADING.finditer(BLOCK.sub(_blank, text))]
    found = []
    for block in BLOCK.finditer(text):
        if not block[1]:
            heading = next((title for start, title in reversed(headings) if start < block.start()), "")
            found += list(_of_block(heading, block[2].replace("\\\n", "\\\0").splitlines()))
    return found


def _of_block(heading: str, lines: list[str]) -> Iterator[Step]:
    prompts = [number for number, line in enumerate(lines) if _PROMPT.match(line)]
    if not prompts:
        typed = (line for line in lines if line and not line.startswith("#"))
        yield from (Step(heading, "", _command(line)) for line in typed)
        return
    for number, after in zip(prompts, [*prompts[1:], len(lines)], strict=True):
        host, command = _PROMPT.findall(lines[number])[0]
        yield Step(heading, host, _command(command), tuple(filter(None, lines[number + 1 : after])))


def _command(line: str) -> str:
    return _REMARK.sub("", line).replace("\0", "\n")


def _blank(block: re.Match[str]) -> str:
    return "." * len(block[0])
