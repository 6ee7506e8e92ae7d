"""A lab with placement and storage for all tests here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import kit
from tests.e2e.conftest import DIRECTORY, tag_default
from tests.e2e.placement import fleet as fleets
from tests.e2e.placement.fleet import Fleet
from tests.lab.cluster import Lab


@pytest.fixture(scope="package")
def placed(engine: str) -> Iterator[Lab]:
    """Three hosts with agents, replicas and storage."""
    with fleets.lab(engine, f"{DIRECTORY}-f", storage=True) as made:
        tag_default(made, kit.CREATE.mode)
        yield made


@pytest.fixture
def fleet(placed: Lab) -> Iterator[Fleet]:
    """The fleet, all up, with network `web`; whatever a test leaks fails it."""
    made = Fleet(placed)
    made.network()
    yield made
    made.sweep()
