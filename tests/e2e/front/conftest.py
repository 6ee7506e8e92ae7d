"""Labs with the front: one of three hosts with storage, and one of a single host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.e2e.conftest import DIRECTORY, tag_default
from tests.e2e.front import sides
from tests.e2e.placement import fleet as fleets
from tests.e2e.placement.fleet import Fleet
from tests.lab.cluster import Lab
from tests.lab.model import ENGINES

LISTEN = '\n[gateway]\nlisten = "0.0.0.0:2376"\n'


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The docker command's configuration."""
    return sides.configuration(tmp_path_factory.mktemp("docker"))


@pytest.fixture(scope="package")
def three_hosts(engine: str) -> Iterator[Lab]:
    """Three hosts with agents, replicas, fronts and storage."""
    with fleets.lab(engine, f"{DIRECTORY}-g", LISTEN, storage=True) as made:
        tag_default(made, kit.CREATE.mode)
        one_image(made)
        yield made


@pytest.fixture(scope="package")
def one_host(engine: str) -> Iterator[Lab]:
    """A fleet of one host."""
    with fleets.lab(engine, f"{DIRECTORY}-g1", LISTEN, hosts=1, storage=False) as made:
        tag_default(made, kit.CREATE.mode)
        yield made


@pytest.fixture(scope="package")
def fleet_of_engine(request: pytest.FixtureRequest, engine: str) -> Lab:
    """Three hosts with the oldest engine, one with the others."""
    lab: Lab = request.getfixturevalue("three_hosts" if engine == ENGINES[0] else "one_host")
    return lab


@pytest.fixture(scope="module")
def kept_fleet(fleet_of_engine: Lab) -> Iterator[Fleet]:
    """A fleet of one or of three, with network `web`, for all tests of a module."""
    made = Fleet(fleet_of_engine)
    made.network()
    yield made
    made.sweep()


def one_image(lab: Lab) -> None:
    """The same image on all hosts, as a registry would give it: an import makes another one each time."""
    first, *others = lab.hosts
    file = Path(lab.layout.data) / "busybox.tar"
    first.docker("save", "-o", str(file), "busybox")
    for host in others:
        host.docker("rmi", "-f", "busybox")
        host.docker("load", "-i", str(file))


@pytest.fixture
def fleet(three_hosts: Lab) -> Iterator[Fleet]:
    """The fleet of three, all up, with network `web`; whatever a test leaks fails it."""
    made = Fleet(three_hosts)
    made.network()
    yield made
    made.sweep()
