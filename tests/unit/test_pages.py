"""No command of a page is forgotten: each is typed by a test, or stands in the table of those that are not, with where
else it is. What pages say of the command `qnet` names commands and options that there are."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests import guides, reference
from tests.e2e.placement import pages
from tests.lab.commands import run
from tests.lab.model import PROJECT

WRITTEN = sorted(path.name for path in (PROJECT / "docs").glob("*.md"))
COMMANDS = {step.command for page in ("README.md", *WRITTEN) for step in guides.steps(page)}
NO_COMMANDS = ("toml", "yaml", "text", "sh")
BEGINNING = re.compile(r"^(?:qnet|docker|gluster|etcdctl|curl|systemctl|journalctl) ", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")
QNET = re.compile(r"(?:^|[;|&(] *|host\d# |\$ )qnet ((?:(?! \| [a-z])[^;\n])+)", re.MULTILINE)
ONE_OF = re.compile(r"((?:[a-z-]+ )*)([a-z]+(?:\|[a-z]+)+)(.*)")
SUBCOMMAND, IMAGES = re.compile("[a-z][a-z-]*"), ("IMAGE", "alpine", "busybox")
WORD = re.compile(r"(?<![^\s\[(|])(--?[a-z][a-z0-9-]*|[^\s\[\]|`]+)")


@pytest.mark.parametrize("page", ["README.md", *WRITTEN])
def test_every_command_is_typed_somewhere(page: str) -> None:
    for step in guides.steps(page):
        by_hosts = page in pages.GUIDES and step.host
        assert page in pages.PAGES or by_hosts or step.command in pages.ELSEWHERE, step


@pytest.mark.parametrize("page", ["README.md", *WRITTEN])
def test_blocks_of_other_languages_have_no_commands(page: str) -> None:
    for language, text in guides.BLOCK.findall(guides.path(page).read_text()):
        assert not language or (language in NO_COMMANDS and not BEGINNING.search(text)), text


def test_what_is_not_typed_stands_on_a_page_and_is_elsewhere() -> None:
    assert pages.ELSEWHERE.keys() <= COMMANDS
    for reason in pages.ELSEWHERE.values():
        assert (PROJECT / reason.partition(": ")[2]).is_file(), reason


def test_the_labs_words_are_for_words_of_the_pages() -> None:
    typed = "\n".join(COMMANDS - pages.ELSEWHERE.keys())
    assert [words for words in (*pages.WORDS, *pages.ENDLESS) if words not in typed] == []
    for page, prepared in pages.BEFORE.items():
        here = [step.command for step in guides.steps(page)]
        assert [start for start in prepared if not any(one.startswith(start) for one in here)] == []


def test_make_knows_what_the_readme_has_it_make() -> None:
    for command, reason in pages.ELSEWHERE.items():
        if reason == pages.BUILD:
            run([*command.split(), "--dry-run", "-C", PROJECT])


@pytest.mark.parametrize("line", ["  b", "1.8e19", "a2:b3:4c:5d:6e:7f"])
def test_lines_of_another_shape_differ(line: str) -> None:
    assert pages.shape(f"host1 {line}") == pages.shape(f" host22   {line}")
    assert pages.shape(f"host1 {line}") != pages.shape(f"host1 {line} more")


def said_of_qnet(page: str) -> list[str]:
    """What follows the word `qnet` where a page has it typed."""
    text = guides.path(page).read_text().replace("\\|", "|")
    blocks = "\n".join(block for _, block in guides.BLOCK.findall(text))
    quoted = "\n".join(quote.replace("\n", " ") for quote in QUOTED.findall(guides.BLOCK.sub("", text)))
    said = [re.sub(r"\s+#.*", "", found) for found in QNET.findall(f"{blocks}\n{quoted}")]
    return [one for text in said for one in _each(text)]


def _each(said: str) -> list[str]:
    """`host ls|drain NAME` as two."""
    found = ONE_OF.fullmatch(said)
    return [f"{found[1]}{one}{found[3]}" for one in found[2].split("|")] if found else [said]


def wrong(said: str) -> str:
    """What there is not of a command in what a page says of it; nothing if it is right."""
    path, known = "qnet", options()
    allowed = {"-", *known[path]}
    for word in WORD.findall(said):
        if f"{path} {word}" in known:
            path = f"{path} {word}"
            allowed |= known[path]
        elif word in IMAGES:  # what follows is the container's
            break
        elif word.startswith("-"):
            if word not in allowed:
                return word
        elif SUBCOMMAND.fullmatch(word) and any(one.startswith(f"{path} ") for one in known):
            return word
    return ""


@cache
def options() -> dict[str, set[str]]:
    """Every command, with what it takes."""
    return {
        context.command_path: {name for one in context.command.get_params(context) for name in one.opts}
        for context in reference.contexts()
    }


@pytest.mark.parametrize("page", ["README.md", *WRITTEN])
def test_what_pages_say_of_qnet_is_there(page: str) -> None:
    assert {said: wrong(said) for said in said_of_qnet(page) if wrong(said)} == {}


def test_what_there_is_not_is_found() -> None:
    assert wrong("pool rename a") == "rename"
    assert wrong("pool ls --colour") == "--colour"
    assert wrong("run --explain --sudo IMAGE --verbose") == "--sudo"
