"""Whose the name of an image is, just after it was brought or removed: before agents tell of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import kit
from tests.e2e.front import sides
from tests.e2e.front.sides import Side
from tests.e2e.placement.fleet import PLACEMENT, Fleet
from tests.lab import registry
from tests.lab.commands import wait_for
from tests.lab.registry import Registry

pytestmark = pytest.mark.slow

ROUNDS = 3  # an agent may tell in between, but not each time
USERS = {"": ""}  # whoever says nothing is let in


@pytest.fixture
def tenants(fleet: Fleet, config: Path, tmp_path: Path) -> Iterator[dict[str, Side]]:
    """Two tenants and an operator."""
    host, at = fleet.hosts[:2]
    found = {"ops": sides.front(host, config)}
    for number, name in enumerate(("shop", "evil")):
        fleet.qnet("tenant", "create", name, "--vni", "auto", "--supernet", f"10.20{number}.0.0/16", check=False)
        certificates = sides.certificates_for(fleet.lab, tmp_path / name, "tenant", name)
        found[name] = sides.remote(host, at, certificates, config)
    yield found
    for one in fleet.hosts:
        listed = one.docker("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        one.docker("rmi", "-f", *(name for name in listed if "just" in name), check=False)


@pytest.fixture
def images(fleet: Fleet) -> Iterator[Registry]:
    """A registry that all trust."""
    with registry.serving(fleet.hosts[-1], fleet.hosts, USERS) as found:
        yield found


def test_a_name_that_an_operator_has_just_made_is_no_tenants(tenants: dict[str, Side]) -> None:
    for number in range(ROUNDS):
        name = f"just/made:{number}"
        tenants["ops"].ok("tag", "busybox", name)
        assert tenants["evil"].docker("tag", "busybox", name).status == 1, number
        assert name in tenants["shop"].ok("images", "--format", "{{.Repository}}:{{.Tag}}"), number


def test_what_a_tenant_pulls_is_its_own_though_an_operator_has_just_had_the_name(
    fleet: Fleet, images: Registry, tenants: dict[str, Side]
) -> None:
    name = f"{images.name}/just/gone"
    for number in range(ROUNDS):
        one = f"{name}:{number}"
        tenants["ops"].ok("tag", "busybox", one)
        tenants["ops"].ok("push", one)
        wait_for("agents to tell", lambda name=one: told(fleet, name), 20)
        tenants["ops"].ok("rmi", one)
        tenants["shop"].ok("pull", one)
        assert tenants["evil"].docker("image", "inspect", one).status == 1, number
        tenants["shop"].ok("rmi", one)


def told(fleet: Fleet, image: str) -> bool:
    """Whether the store has heard of an image from all hosts."""
    found = kit.records(fleet.lab, PLACEMENT).values()
    return sum(image.encode() in one.value for one in found) >= len(fleet.hosts)
