"""A lab with storage for the tests of each file here, in place of the one without."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import DIRECTORY, SETTINGS
from tests.e2e.volumes import shelves
from tests.lab.cluster import Lab
from tests.lab.host import Host


@pytest.fixture(scope="module")
def stored(engine: str) -> Iterator[Lab]:
    """A lab of its own with storage."""
    with shelves.lab(engine, DIRECTORY, SETTINGS) as lab:
        yield lab


@pytest.fixture
def hosts(stored: Lab) -> Iterator[list[Host]]:
    """The three hosts; whatever a test leaks fails it."""
    yield from shelves.swept(stored)
