"""libnftables in this process, in a network namespace that the test made."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.lab.commands import run

HOST = f"qnet-nft-{os.getpid()}"
TABLE = "add table inet try\nadd chain inet try one\nadd counter inet try two\n"


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    run(["ip", "netns", "add", HOST])
    yield
    run(["ip", "netns", "delete", HOST])


def said(code: str) -> str:
    """What a program says that has the module and a script."""
    words = "from plugins.network import filters\nfrom qnet import nft\n"
    words += f"from qnet.errors import QnetError\nTABLE = {TABLE!r}\n{code}"
    return run(["ip", "netns", "exec", HOST, sys.executable, "-c", words], timeout=60).stdout.strip()


def listed() -> str:
    return run(["ip", "netns", "exec", HOST, "nft", "list", "ruleset"]).stdout


def test_a_script_is_in_force_and_listed() -> None:
    said("nft.run(TABLE, 'try')")
    assert "chain one" in listed()
    found = said("print(nft.run('list chains', 'list', as_json=True))")
    assert '"name": "one"' in found


def test_a_script_with_a_fault_changes_nothing_and_says_where() -> None:
    text = said(
        "try: nft.run(TABLE + 'add rule inet try three drop', 'guard it')\nexcept QnetError as error: print(error)"
    )
    assert text.startswith("cannot guard it: nft: Error: No such file or directory")
    assert listed() == ""


def test_threads_do_not_disturb_each_other() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
def make(number):
    nft.run(f"add table inet t{number}\\nadd chain inet t{number} c", "try")
    return f"t{number}" in nft.run("list chains", "list", as_json=True)
with ThreadPoolExecutor(8) as pool:
    print(all(pool.map(make, range(100))))
"""
    assert said(code) == "True"
    assert listed().count("chain c") == 100
