"""Labs for the end-to-end tests: three hosts with real engines, and a check after each test that it left nothing.

The networks of the tests are made in the mode that `--mode` says, but for those that are about one mode: these have the
mark `mode(NAME)`, and run in that whatever `--mode` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.e2e import kit
from tests.lab.cluster import Lab
from tests.lab.engine import missing
from tests.lab.host import Host
from tests.lab.model import ENGINES

DIRECTORY = os.environ.get("QNET_LAB_DIR", "/run/qnet-e2e")
SETTINGS = """
[ipam]
grace = 2.0
rest = 2
repair_interval = 1.0
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--engine`: which Docker engine the lab's hosts run. `--mode`: which networks the tests make."""
    parser.addoption("--engine", choices=ENGINES, default="debian12", help="Docker engine of the lab's hosts")
    parser.addoption("--mode", choices=kit.MODES, default="macvlan", help="mode of the tests' networks")


def pytest_report_header(config: pytest.Config) -> str:
    """Which engine is tested, with which networks."""
    return f"engine: {_engine(config)}, mode of networks: {_mode(config)}"


def _engine(config: pytest.Config) -> str:
    return str(config.getoption("--engine", default="debian12"))


def _mode(config: pytest.Config) -> str:
    return str(config.getoption("--mode", default="macvlan"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The mode of the test, before any of its fixtures."""
    own = item.get_closest_marker("mode")
    kit.CREATE.mode = own.args[0] if own else _mode(item.config)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> str:
    """The engine's name. An engine that is not here fails the tests: nothing is skipped in silence."""
    name = _engine(request.config)
    reason = missing(name)
    if reason:
        pytest.fail(f"{reason} (packaging/bootstrap.sh engines)", pytrace=False)
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests need root: they make namespaces and links", pytrace=False)
    return name


@pytest.fixture(scope="session")
def lab(engine: str, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three hosts and one member of etcd. What is left over is released in seconds here, not in minutes."""
    with Lab.up(hosts=3, engine=engine, settings=SETTINGS, directory=DIRECTORY, replace=True) as lab:
        tag_default(lab, _mode(request.config))
        yield lab
    assert lab.leftovers() == []


@pytest.fixture
def hosts(lab: Lab) -> Iterator[list[Host]]:
    """The three hosts, all up; a record, link or file that a test leaks fails it."""
    yield lab.hosts
    restore_and_check(lab)


@pytest.fixture
def three_members(engine: str) -> Iterator[Lab]:
    """A lab of its own with three members of etcd."""
    with Lab.up(hosts=3, etcd=3, engine=engine, settings=SETTINGS, directory=f"{DIRECTORY}-3", replace=True) as lab:
        tag_default(lab, kit.CREATE.mode)
        yield lab
        restore_and_check(lab)
    assert lab.leftovers() == []


def tag_default(lab: Lab, mode: str) -> None:
    """Give tenant `default` what the tests' networks need."""
    if mode == "vxlan":
        kit.qnet(lab.hosts[0], "tenant", "set", "default", "--vni", "auto")


def restore_and_check(lab: Lab) -> None:
    """Bring everything up that a test has taken down, remove all its containers and networks, look for leaks."""

    def restore(host: Host) -> None:
        if not host.namespaces.holder:
            host.start()
        host.heal()
        if host.etcd and not host.etcd.process:
            host.etcd.start()
        if not host.plugin.process:
            host.start_plugin()
        if not host.engine.process:
            host.start_engine()
        kit.remove_all(host)

    kit.at_once(restore, lab.hosts)
    try:
        kit.no_leaks(lab)
    except AssertionError:
        wipe(lab)  # the next test is not to fail for this one
        raise


def wipe(lab: Lab) -> None:
    """Remove by force what was leaked; tenants stay, which nobody can leak."""
    for host in lab.hosts:
        host.plugin.kill()
    for key in kit.records(lab, "/qnet/v1/"):
        if not key.startswith(kit.TENANTS):
            lab.etcdctl("del", key)
    for host in lab.hosts:
        for path in kit.files(host):
            path.unlink()
        for name in kit.links(host).keys() - kit.LINKS:
            host.exec("ip", "link", "delete", name, check=False)
        for name in kit.namespaces(host):
            host.exec("ip", "netns", "delete", name, check=False)
        host.exec("nft", "flush", "ruleset")
        host.start_plugin()
