"""A fleet of two machines, made by typing what docs/install.md says, with the package of this clone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.commands import run
from tests.lab.fabric import Fabric
from tests.lab.image import tarball
from tests.lab.model import BUILD, PROJECT, Layout
from tests.lab.namespaces import delete_netns
from tests.package import image
from tests.package.machine import Machine
from tests.package.site import Site

DIRECTORY = "/run/qnet-package"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What removes the package comes last."""
    items.sort(key=lambda item: "test_removal" in item.nodeid)


@pytest.fixture(scope="session")
def package() -> Path:
    """The Debian package, built now. QNET_LAB_DEB names one that is there."""
    if "QNET_LAB_DEB" in os.environ:
        return Path(os.environ["QNET_LAB_DEB"])
    run([PROJECT / "packaging/deb.sh"], timeout=900)
    (found,) = (BUILD / "dist").glob("*.deb")
    return found


@pytest.fixture(scope="session")
def machines() -> Iterator[list[Machine]]:
    """Two machines without qnet. Where they cannot be had, the tests fail: nothing is skipped in silence."""
    if os.geteuid() != 0:
        pytest.fail("the tests of the package need root: they boot machines", pytrace=False)
    root, layout = image.build(), Layout.find(os.environ.get("QNET_LAB_DIR", DIRECTORY))
    layout.dir.mkdir(parents=True, exist_ok=True)
    fabric, made = Fabric(layout), list[Machine]()
    delete_netns(fabric.netns)
    fabric.create()
    try:
        for number in (1, 2):
            node = layout.node(number)
            node.disk.mkdir(parents=True, exist_ok=True)
            fabric.attach(node)
            made.append(Machine(node, root))
            made[-1].boot()
            shutil.copy(tarball("busybox"), made[-1].files / "root/busybox.tar")
        yield made
    finally:
        for machine in made:
            machine.remove()
            fabric.detach(machine.node)
        delete_netns(fabric.netns)
        shutil.rmtree(layout.dir, ignore_errors=True)
        shutil.rmtree(layout.data, ignore_errors=True)


@pytest.fixture(scope="session")
def site(machines: list[Machine], package: Path) -> Site:
    """The fleet, as the guide makes it."""
    return Site(machines, package)
