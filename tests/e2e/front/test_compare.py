"""What the docker command does against one engine, it does against the front: output, errors and exit codes."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.front import sides
from tests.e2e.placement.fleet import Fleet
from tests.lab.cluster import Lab
from tests.lab.model import ENGINES

pytestmark = [pytest.mark.slow, pytest.mark.engines]


def scripts() -> dict[str, str]:
    """The scripts of `compare.sh` by their names."""
    parts = (Path(__file__).parent / "compare.sh").read_text().split("\n## ")[1:]
    return {name: script.strip() for name, _, script in (part.partition("\n") for part in parts)}


SCRIPTS = scripts()
CLEAN = (
    "docker ps -aq --filter name=$P | xargs -r docker rm -fv >/dev/null; "
    "docker network ls -q --filter name=$P | xargs -r docker network rm >/dev/null; "
    "docker volume ls -q --filter name=$P | xargs -r docker volume rm >/dev/null"
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A fleet of three with the oldest engine, of one with the others."""
    if "fleet" in metafunc.fixturenames:
        oldest = metafunc.config.getoption("--engine") == ENGINES[0]
        metafunc.parametrize("fleet", ["three hosts" if oldest else "one host"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def fleet(request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """A fleet of one and of three, with network `web`."""
    lab: Lab = request.getfixturevalue("one_host" if request.param == "one host" else "three_hosts")
    made = Fleet(lab)
    made.network()
    yield made
    made.sweep()


@pytest.mark.parametrize("what", SCRIPTS)
def test_same_as_straight(fleet: Fleet, config: Path, what: str) -> None:
    """Each script writes the same, and ends the same, straight on an engine and through the front. The docker command
    is the first on PATH for one host, and Debian's for three."""
    number, found = list(SCRIPTS).index(what), sides.clients()
    cli = found[0 if len(fleet.hosts) == 1 else -1]
    host, told = fleet.hosts[0], []
    for side in (sides.straight(host, config, cli, f"s{number}"), sides.front(host, config, cli, f"f{number}")):
        said = side.sh(f"exec 2>&1; {SCRIPTS[what]}\necho status $?")
        assert side.sh(CLEAN).status == 0
        told.append(sides.same(said.out, side).splitlines())
    difference = "\n".join(difflib.unified_diff(*told, "straight", "through the front", lineterm=""))
    assert not difference, f"{what}, {cli}:\n{difference}"
    assert len(told[0]) > 1, "the script wrote nothing"
