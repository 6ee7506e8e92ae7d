"""The reference is what the code says; tables name every option; links in the documentation lead somewhere; the two
READMEs say the same."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
from prometheus_client.registry import Collector

from plugins.ipam import meter as pools
from plugins.ipam.service import POOL_OPTIONS
from plugins.network.model import OPTIONS as NETWORK_OPTIONS
from plugins.volume.model import OPTIONS as VOLUME_OPTIONS
from qnet.metrics import Gauges
from scheduler import meter as fleet
from scheduler.agent import meter as agent
from tests import reference

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPTION = re.compile(r"`(?:-o )?(\w+)(?:=[^`]*)?`")
BLOCK = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@pytest.mark.parametrize("page", reference.PAGES)
def test_the_reference_is_what_the_code_says(page: str) -> None:
    assert (reference.FOLDER / page).read_text() == reference.PAGES[page](), "make docs"


def test_every_collector_lists_its_metrics() -> None:
    listed = reference.metrics()
    ours = [
        kind for kind in Collector.__subclasses__() if kind.__module__.startswith(("qnet.", "plugins.", "scheduler."))
    ]
    ours.remove(Gauges)
    assert {"plugins.network.meter", "plugins.volume.meter"} <= {kind.__module__ for kind in ours}
    for module in [*(sys.modules[kind.__module__] for kind in ours), pools, fleet, agent]:
        families = module.families().values()
        assert {metric.name for metric in families} <= {name.removesuffix("_total") for name in listed}


def test_no_summary_of_a_command_is_cut_off() -> None:
    for context in reference.contexts():
        context.terminal_width = 80
        assert "..." not in context.get_help().partition("Commands:")[2], context.command_path


@pytest.mark.parametrize(
    ("page", "heading", "options"),
    [
        ("networks.md", "Options of the network", NETWORK_OPTIONS),
        ("networks.md", "Options of the pool", POOL_OPTIONS),
        ("volumes.md", "Options", VOLUME_OPTIONS),
    ],
)
def test_tables_name_every_option(page: str, heading: str, options: Collection[str]) -> None:
    section = re.search(rf"^## {heading}.*?(?=^## |\Z)", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)
    assert section
    first = [line.split("|")[1] for line in section[0].splitlines() if line.startswith("| `")]
    assert {name for cell in first for name in OPTION.findall(cell)} == set(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" not in target:
            file, _, anchor = target.partition("#")
            there = page.parent / file if file else page
            assert there.exists(), target
            assert not anchor or anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """What GitHub calls a page's headings."""
    headings = (re.sub(r"[^\w -]", "", text.lower()) for _, text in HEADING.findall(BLOCK.sub("", page.read_text())))
    return {text.replace(" ", "-") for text in headings}


def test_the_readme_in_chinese_says_what_the_english_one_does() -> None:
    """As far as a program can tell: the same commands, pictures, code and links, headings of the same levels."""
    english, chinese = (ROOT / "README.md").read_text(), (ROOT / "README.zh.md").read_text()
    assert chinese.splitlines()[0] == "[English](README.md)"
    assert english.splitlines()[0] == "[中文](README.zh.md)"
    assert BLOCK.findall(chinese) == BLOCK.findall(english)
    ours, theirs = BLOCK.sub("", english), BLOCK.sub("", chinese)
    assert LINK.findall(theirs)[1:] == [link for link in LINK.findall(ours) if link != "README.zh.md"]
    assert [level for level, _ in HEADING.findall(theirs)] == [level for level, _ in HEADING.findall(ours)]
    assert sorted(CODE.findall(theirs)) == sorted(CODE.findall(ours))
