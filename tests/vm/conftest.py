"""Two virtual machines for the whole run, and a check after each test that it left nothing on them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.commands import wait_for
from tests.vm import cluster
from tests.vm.cluster import Cluster
from tests.vm.host import READY_WITHIN, Host


@pytest.fixture(scope="session")
def machines() -> Iterator[Cluster]:
    """The machines. Where they cannot be had, the tests fail: nothing is skipped in silence."""
    if os.geteuid() != 0:
        pytest.fail("the tests in virtual machines need root: they make a network namespace and taps", pytrace=False)
    with cluster.up() as running:
        yield running
    assert cluster.leftovers() == []


@pytest.fixture
def vms(machines: Cluster) -> Iterator[Cluster]:
    """The machines; networks that a test makes are removed, and their sub-interfaces must go with them."""
    yield machines
    machines.on_all(Host.remove_all)

    def clean() -> bool:
        return not any(host.segments() for host in machines.hosts)

    try:
        wait_for("end of all sub-interfaces", clean, READY_WITHIN, 1)
    finally:
        for host in machines.hosts:
            host.delete_links(host.segments())
