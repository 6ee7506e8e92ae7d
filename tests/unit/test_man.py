"""Man pages: one for each command and daemon, with its options, and the same whenever they are made."""

from __future__ import annotations

import re
import time

import pytest

from tests import man, reference

MACROS = {".TH", ".SH", ".TP", ".PP", ".B", ".nf"}


def test_every_command_and_daemon_has_a_page() -> None:
    paths = [context.command_path for context in reference.contexts()]
    assert {"qnet", "qnet run", "qnet volume pool add"} <= set(paths)
    named = {f"{path.replace(' ', '-')}.1" for path in paths} | {f"{name}.8" for name in reference.DAEMONS}
    pages = man.pages()
    assert pages.keys() == named
    for name, page in pages.items():
        assert re.match(rf'\.TH "[A-Z -]+" "{name[-1]}" ', page), name
        assert set(re.findall(r"^[.'].*?(?= |$)", page, re.MULTILINE)) <= MACROS, name
        assert "..." not in page.partition(".SH SYNOPSIS")[0] + page.partition(".SH COMMANDS")[2], name
        assert "\b" not in page, name


@pytest.mark.parametrize(
    ("page", "has"),
    [
        ("qnet-pool-create.1", ["qnet-pool-create - Make a pool that stays", "--gateway ADDRESS\nFor networks"]),
        ("qnet-pool.1", ["See qnet-pool-create(1) for full documentation"]),
        ("sharedfs.8", ["sharedfs - Docker's volume plugin", "--config FILE\nsettings file", "-h, --help\nshow this"]),
    ],
)
def test_pages_have_what_the_help_has(page: str, has: list[str]) -> None:
    text = re.sub(r"\\f[BP]", "", man.pages()[page]).replace("\\", "")
    for part in has:
        assert part in text


def test_pages_have_no_date_but_that_of_their_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert all(time.strftime("%Y-") not in page for page in man.pages().values())
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert all('"1970-01-02"' in page for page in man.pages().values())


def test_making_pages_changes_no_command() -> None:
    man.pages()
    assert reference.commands_page() == (reference.FOLDER / "commands.md").read_text()
