"""A fleet of two machines, made by typing what docs/install.md says, with the package of this clone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.model import Layout
from tests.package.machine import Machine
from tests.package.site import Site, booted, built

DIRECTORY = "/run/qnet-package"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What removes the package comes last."""
    items.sort(key=lambda item: "test_removal" in item.nodeid)


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package, built now. QNET_LAB_DEB names one that is there."""
    return Path(os.environ["QNET_LAB_DEB"]) if "QNET_LAB_DEB" in os.environ else built()


@pytest.fixture(scope="session")
def machines() -> Iterator[list[Machine]]:
    """Two machines without qnet. Where they cannot be had, the tests fail: nothing is skipped in silence."""
    if os.geteuid() != 0:
        pytest.fail("the tests of the package need root: they boot machines", pytrace=False)
    with booted(Layout.find(os.environ.get("QNET_LAB_DIR", DIRECTORY))) as made:
        yield made


@pytest.fixture(scope="session")
def site(machines: list[Machine], package: Path) -> Site:
    """The fleet, as the guide makes it."""
    return Site(machines, package)
